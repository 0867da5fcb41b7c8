"""Named calls of one run (cond, uncond) remember apart, and what a context says of the step is believed."""

import pytest
import torch

from skipdit import SkipCacheConfig
from tests.models.subject import TIMESTEPS, Subject, assert_equal, in_context, joined, sample

SEEDS = {"cond": 1, "uncond": 2}


class Contexts(Subject):
    @pytest.mark.parametrize("order", [("cond", "uncond"), ("uncond", "cond")])
    def test_named_contexts_stay_apart(self, order):
        model = self.cached(SkipCacheConfig(interval=2))
        together = {name: [] for name in order}
        for timestep in TIMESTEPS:
            for name in order:
                inputs = self.inputs(timestep, seed=SEEDS[name])
                together[name].append(in_context(model, name, inputs))
        for name in order:
            assert_equal(together[name], self.run(self.cached(SkipCacheConfig(interval=2)), seed=SEEDS[name]))
        assert model.cache_stats().keys() == set(order)
        assert {stats.plan for stats in model.cache_stats().values()} == {"#.#.#"}

    def test_the_order_within_a_batch_does_not_matter(self):
        """DiTPipeline feeds [cond, uncond], LattePipeline and HunyuanDiTPipeline [uncond, cond]."""
        outputs = []
        for order in (("cond", "uncond"), ("uncond", "cond")):
            model = self.cached(SkipCacheConfig(interval=2))
            calls = [joined(*(self.inputs(t, seed=SEEDS[name]) for name in order)) for t in TIMESTEPS]
            constant = {name: value for name, value in calls[0].items() if name in model.constant_inputs}
            rows = [sample(model, call | constant).chunk(2) for call in calls]
            outputs.append([dict(zip(order, halves, strict=True)) for halves in rows])
        for name in SEEDS:
            assert_equal(*([step[name] for step in run] for run in outputs))

    def test_a_step_index_is_the_step_of_the_schedule(self):
        model = self.cached(SkipCacheConfig(interval=3))
        for step, timestep in enumerate(TIMESTEPS, start=1):
            in_context(model, "cond", self.inputs(timestep), step_index=step)
        assert model.cache_stats()["cond"].plan == "#.#.."  # 1 has nothing to reuse, 3 is a multiple

    @pytest.mark.parametrize("step", [0, 1, 3])
    def test_a_step_index_that_does_not_follow_starts_a_run(self, step):
        model = self.cached(SkipCacheConfig(interval=5))
        in_context(model, "cond", self.inputs(900, seed=1), step_index=0)
        in_context(model, "cond", self.inputs(800, seed=1), step_index=1)
        output = in_context(model, "cond", self.inputs(700), step_index=step)
        assert torch.equal(output, sample(self.build(), self.inputs(700)))
        assert model.cache_stats()["cond"].plan == "#"

    @pytest.mark.parametrize("number", [float, torch.tensor])
    def test_the_timestep_of_a_context_goes_before_the_one_of_the_model(self, number):
        """Flow models are given sigmas or scaled timesteps; the window is in the units of the context."""
        model = self.cached(SkipCacheConfig(interval=2, window=(0, 700)))
        for timestep in TIMESTEPS:
            in_context(model, "cond", self.inputs(timestep), timestep=number(timestep - 300))
        assert model.cache_stats()["cond"].plan == "#.#.#"  # by the timesteps of the model: ###.#

    def test_named_steps_outside_the_run_raise(self):
        model = self.cached(SkipCacheConfig(steps=(0, 3)))
        with pytest.raises(ValueError, match="step 3: a run of 3 has steps 0 to 2"):
            in_context(model, "cond", self.inputs(900), step_index=0, num_inference_steps=3)
        in_context(model, "cond", self.inputs(900), step_index=0, num_inference_steps=4)
