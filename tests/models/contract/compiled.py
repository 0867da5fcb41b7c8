"""Head, trunk and tail compile apart: three graphs, made once, whatever the plan. So does the model as a whole."""

import copy

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from skipdit import SkipCacheConfig
from tests.models.subject import Subject, assert_equal, randomised, sample

CONFIG = SkipCacheConfig(interval=3, window=(250, 900))
STEPS = range(950, 150, -40)  # 20 of them


WHOLE = {  # graphs after the first and after the second step, computed and cached
    "static": (CONFIG, [1, 2]),
    "residual": (SkipCacheConfig(interval=3, forecast="residual"), None),
    "adaptive": (SkipCacheConfig(threshold=1e9, max_cached=2), None),
}


class Compiled(Subject):
    @pytest.mark.parametrize("name", WHOLE)
    def test_the_whole_model_compiles_with_the_cache_on_and_none_is_made_after_the_first_steps(self, model, name):
        """In one graph where nobody looks at the shallow feature; else it ends at the seam and goes on behind."""
        torch._dynamo.reset()
        config, expected = WHOLE[name]
        backend = CompileCounterWithBackend("eager")
        model.enable_cache(config)
        compiled = torch.compile(model, backend=backend, fullgraph=expected is not None)
        outputs, graphs = [], []
        with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
            for timestep in STEPS:
                outputs.append(sample(compiled, self.inputs(timestep)))
                graphs.append(backend.frame_count)
        first_cached = model.cache_stats()["default"].plan.find(".")
        settled = max(first_cached, 0)
        assert graphs[settled:] == [graphs[settled]] * (len(graphs) - settled)
        assert expected is None or [graphs[0], graphs[-1]] == expected
        assert_equal(outputs, self.run(self.cached(config), STEPS))

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
