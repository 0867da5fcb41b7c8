"""Head, trunk and tail compile apart: three graphs, made once, whatever the plan. So does the model as a whole."""

import copy

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from skipdit import SkipCacheConfig
from skipdit.models.base import LongSkipModel
from tests.models.subject import Subject, assert_equal, randomised, sample

CONFIG = SkipCacheConfig(interval=3, window=(250, 900))
STEPS = range(950, 150, -40)  # 20 of them


class Compiled(Subject):
    def test_the_whole_model_compiles_into_two_graphs_with_the_cache_on(self, model):
        model.enable_cache(CONFIG)
        outputs, graphs = run_compiled(self, model, fullgraph=True)
        assert graphs[0] == 1
        assert graphs[2:] == [2] * 18, "one for full steps and one for cached ones, which begin with the third"
        assert_equal(outputs, self.run(self.cached(CONFIG), STEPS))

    @pytest.mark.slow
    def test_no_graph_breaks_and_none_is_made_after_the_first_full_and_cached_step(self, model):
        torch._dynamo.reset()
        backend = CompileCounterWithBackend("eager")
        model.compile(backend=backend, fullgraph=True)
        model.enable_cache(CONFIG)
        outputs, graphs = [], []
        for timestep in STEPS:
            outputs.append(sample(model, self.inputs(timestep)))
            graphs.append(backend.frame_count)
        plan = model.cache_stats()["default"].plan
        assert plan.startswith("##.")
        assert "." in plan[3:]
        assert graphs[0] == 3
        assert graphs[2:] == [graphs[2]] * 18
        assert_equal(outputs, self.run(self.cached(CONFIG), STEPS))
        twin = randomised(copy.deepcopy(model), seed=1)  # compiled rooms belong to one model
        assert_equal(self.run(twin, STEPS), self.run(randomised(self.cached(CONFIG), seed=1), STEPS))


def run_compiled(subject: Subject, model: LongSkipModel, *, fullgraph: bool) -> tuple[list[Tensor], list[int]]:
    """The outputs of `torch.compile(model)`, and how many graphs there are after each step."""
    torch._dynamo.reset()
    backend = CompileCounterWithBackend("eager")
    compiled = torch.compile(model, backend=backend, fullgraph=fullgraph)
    outputs, graphs = [], []
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        for timestep in STEPS:
            outputs.append(sample(compiled, subject.inputs(timestep)))
            graphs.append(backend.frame_count)
    return outputs, graphs


class CompiledWhereSomebodyLooks(Subject):
    """A schedule or forecast that reads the shallow feature ends the graph at the seam; for one architecture."""

    @pytest.mark.parametrize("settings", [{"interval": 3, "forecast": "residual"}, {"threshold": 1e9, "max_cached": 2}])
    def test_no_graph_is_made_after_the_first_full_and_cached_step(self, model, settings):
        model.enable_cache(SkipCacheConfig(**settings))
        outputs, graphs = run_compiled(self, model, fullgraph=False)
        assert model.cache_stats()["default"].plan.startswith("#..#..")
        assert graphs[1:] == [graphs[1]] * 19
        assert_equal(outputs, self.run(self.cached(SkipCacheConfig(**settings)), STEPS))
