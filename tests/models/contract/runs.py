"""Whatever came before it, a run gives what it gives on a model that has seen nothing."""

import pytest
import torch

from skipdit import SkipCacheConfig
from tests.models.subject import Subject, assert_equal, in_dtype, memories, raising, sample, tensors_remembered

CONFIG = SkipCacheConfig(interval=3)
LATER = (650, 550, 450, 350)  # below whatever was left behind, so that no timestep rises


class CleanStarts(Subject):
    def assert_starts_clean(self, model, timesteps=(900, 800, 700, 600), *, dtype=torch.float32, **like) -> None:
        fresh = self.cached(CONFIG).to(dtype)
        for timestep in timesteps:
            inputs = in_dtype(self.inputs(timestep, **like), dtype)
            assert_equal([sample(model, inputs)], [sample(fresh, inputs)])
        assert model.cache_stats() == fresh.cache_stats()

    def test_a_second_run(self):
        model = self.cached(CONFIG)
        self.run(model)
        self.assert_starts_clean(model, seed=1)

    @pytest.mark.parametrize("steps", [1, 2, 3, 4])
    def test_after_a_run_that_was_broken_off_between_steps(self, steps):
        model = self.cached(CONFIG)
        self.run(model, (900, 800, 700, 600)[:steps], seed=1)
        self.assert_starts_clean(model)

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
