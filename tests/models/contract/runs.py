"""Whatever came before it, a run gives what it gives on a model that has seen nothing."""

import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from skipdit import SkipCacheConfig
from tests.models.subject import (
    TIMESTEPS,
    Subject,
    assert_equal,
    in_dtype,
    memories,
    raising,
    sample,
    tensors_remembered,
)

CONFIG = SkipCacheConfig(interval=3)
LATER = (650, 550, 450, 350)  # below whatever was left behind, so that no timestep rises
TOGETHER = {  # runs whose calls come in turns, by the seeds of their conditions
    "guidance in two calls": (1, 2),
    "three requests": (3, 4, 5),
}


class CleanStarts(Subject):
    def assert_starts_clean(self, model, timesteps=(900, 800, 700, 600), *, dtype=torch.float32, **like) -> None:
        fresh = self.cached(CONFIG).to(dtype)
        for timestep in timesteps:
            inputs = in_dtype(self.inputs(timestep, **like), dtype)
            assert_equal([sample(model, inputs)], [sample(fresh, inputs)])
        assert model.cache_stats()["default"] == fresh.cache_stats()["default"]

    def test_a_second_run(self):
        model = self.cached(CONFIG)
        self.run(model)
        self.assert_starts_clean(model, seed=1)

    @pytest.mark.parametrize("steps", [1, 2, 3, 4])
    def test_after_a_run_that_was_broken_off_between_steps(self, steps):
        model = self.cached(CONFIG)
        self.run(model, (900, 800, 700, 600)[:steps], seed=1)
        self.assert_starts_clean(model)

    def test_below_a_run_that_was_broken_off(self):
        """Image to image begins with a lower timestep; only its conditioning tells it from the run before."""
        model = self.cached(CONFIG)
        self.run(model, (900, 800), seed=1)
        self.assert_starts_clean(model, LATER)

    @pytest.mark.parametrize("seeds", TOGETHER.values(), ids=TOGETHER)
    def test_runs_in_turns_are_what_each_is_alone(self, seeds):
        model, together = self.cached(CONFIG), {seed: [] for seed in seeds}
        for timestep in TIMESTEPS:
            for seed in seeds:
                together[seed].append(sample(model, self.inputs(timestep, seed=seed)))
        for seed in seeds:
            assert_equal(together[seed], self.run(self.cached(CONFIG), seed=seed))
        assert [stats.plan for stats in model.cache_stats().values()] == ["#..#."] * len(seeds)

    @pytest.mark.filterwarnings("ignore:.*this run has no conditioning")
    def test_runs_in_turns_are_told_apart_by_lists_too(self):
        """Where classes come as a list, a run is known by their values."""
        model, together = self.cached(CONFIG), {1: [], 2: []}

        def call(model, timestep, seed):
            inputs = self.inputs(timestep, seed=seed)
            labels = {name: value.tolist() for name, value in inputs.items() if name == "class_labels"}
            return sample(model, inputs | labels | {"timestep": [timestep, timestep]})

        for timestep in TIMESTEPS:
            for seed in together:
                together[seed].append(call(model, timestep, seed))
        for seed in together:
            alone = self.cached(CONFIG)
            assert_equal(together[seed], [call(alone, timestep, seed) for timestep in TIMESTEPS])

    def test_a_batch_in_halves_is_what_it_is_as_a_whole(self):
        """Two halves at one timestep, each with conditions of its own that last."""
        model, whole = self.cached(CONFIG).double(), self.cached(CONFIG).double()
        inputs = [in_dtype(self.inputs(timestep, batch=4), torch.float64) for timestep in TIMESTEPS]
        conditions = {name: value for name, value in inputs[0].items() if name in model.constant_inputs}
        halves = [{name: value[half] for name, value in conditions.items()} for half in (slice(2), slice(2, 4))]
        for step in inputs:
            parts = [
                sample(model, {name: value[half] for name, value in step.items()} | condition)
                for half, condition in zip((slice(2), slice(2, 4)), halves)
            ]
            expected = sample(whole, step | conditions)
            torch.testing.assert_close(torch.cat(parts), expected, rtol=self.rounding, atol=self.rounding)

    def test_rising_timesteps_are_a_run_too(self):
        """Inversion, and flow matching from 0 to 1."""
        model, uncached = self.cached(CONFIG), self.run(self.build(), TIMESTEPS[::-1])
        outputs = self.run(model, TIMESTEPS[::-1])
        assert model.cache_stats()["default"].plan == "#..#."
        assert [torch.equal(a, b) for a, b in zip(outputs, uncached)] == [True, False, False, True, False]

    def test_runs_in_two_threads_are_what_each_is_alone(self):
        """Calls cross: each thread waits behind its first layer until the other is there too."""
        model, barrier = self.cached(CONFIG), threading.Barrier(2, timeout=60)

        def meet(*_) -> None:
            barrier.wait()

        self.layers(model)[0].register_forward_hook(meet)
        with ThreadPoolExecutor(2) as pool:
            runs = [pool.submit(self.run, model, seed=seed) for seed in (1, 2)]
            outputs = [run.result() for run in runs]
        for seed, together in zip((1, 2), outputs):
            assert_equal(together, self.run(self.cached(CONFIG), seed=seed))

    @pytest.mark.parametrize("change", [{"batch": 3}, {"batch": 4}, {"tall": True}])
    def test_after_a_change_of_batch_guidance_or_size(self, change):
        """Guidance doubles the batch: 4 rows where there were 2."""
        model = self.cached(CONFIG)
        self.run(model, (900, 800))
        self.assert_starts_clean(model, LATER, **change)

    def test_after_a_change_of_dtype(self):
        model = self.cached(CONFIG)
        self.run(model, (900, 800))
        self.assert_starts_clean(model.to(torch.bfloat16), LATER, dtype=torch.bfloat16)

    @pytest.mark.parametrize("layer", [0, 3, 5])
    @pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()])
    def test_after_an_error_inside_a_layer(self, layer, error):
        model = self.cached(CONFIG)
        self.run(model, (900,))
        with raising(self.layers(model)[layer], error), pytest.raises(type(error)):
            self.run(model, (850, 800, 750))
        assert not tensors_remembered(model)
        self.assert_starts_clean(model, LATER)

    def test_after_the_conditioning_is_gone_nothing_is_kept(self):
        model = self.cached(CONFIG)
        inputs = {name: value.clone() for name, value in self.inputs(900).items()}
        sample(model, inputs)
        assert tensors_remembered(model)
        del inputs
        gc.collect()
        assert not tensors_remembered(model)

    def test_after_the_end_of_a_pipeline(self):
        model = self.cached(CONFIG)
        self.run(model, (900, 800))
        model._reset_stateful_cache()  # what every pipeline of diffusers calls when it ends
        assert not memories(model)
        self.assert_starts_clean(model, LATER)

    def test_the_error_of_one_context_leaves_the_other_alone(self):
        model, alone = self.cached(CONFIG), self.cached(CONFIG)
        for timestep in (900, 800, 700):
            with torch.no_grad(), model.cache_context("cond"):
                kept = model(**self.inputs(timestep)).sample
            with torch.no_grad(), model.cache_context("uncond"), pytest.raises(ValueError, match="differ"):
                model(**self.inputs(timestep) | {"timestep": torch.tensor([timestep, 0])})
            assert torch.equal(kept, sample(alone, self.inputs(timestep)))
