"""Head, trunk and tail compile apart: three graphs, made once, whatever the plan."""

import copy

import torch
from torch._dynamo.testing import CompileCounterWithBackend

from skipdit import SkipCacheConfig
from tests.models.subject import Subject, assert_equal, randomised, sample

CONFIG = SkipCacheConfig(interval=3, window=(250, 900))
STEPS = range(950, 150, -40)  # 20 of them


class Compiled(Subject):
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
