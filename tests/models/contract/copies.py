"""A copy of a cached model carries the setting and shares no memory; a saved one carries weights alone."""

import copy
import pickle

import pytest

from skipdit import SkipCacheConfig
from tests.models.subject import TIMESTEPS, Subject, assert_equal, randomised, sample, tensors_remembered

COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda model: pickle.loads(pickle.dumps(model))}


class Copies(Subject):
    @pytest.mark.parametrize("how", COPIES)
    def test_a_copy_and_its_original_share_no_memory(self, how):
        config = SkipCacheConfig(interval=2)
        original = self.cached(config)
        first = self.run(original, (950,))
        twin = COPIES[how](original)
        assert twin._cache_config == config
        assert not tensors_remembered(twin)
        ours, theirs = [], []
        for timestep in TIMESTEPS:
            ours.append(sample(original, self.inputs(timestep)))
            theirs.append(sample(twin, self.inputs(timestep, seed=1)))
        assert_equal(first + ours, self.run(self.cached(config), (950, *TIMESTEPS)))
        assert_equal(theirs, self.run(self.cached(config), seed=1))

    @pytest.mark.parametrize("how", COPIES)
    def test_turning_off_a_copy_leaves_the_original_on(self, how):
        original = self.cached(SkipCacheConfig(interval=2))
        twin = COPIES[how](original)
        twin.disable_cache()
        assert_equal(self.run(twin), self.run(self.build()))
        assert_equal(self.run(original), self.run(self.cached(SkipCacheConfig(interval=2))))

    @pytest.mark.parametrize("how", COPIES)
    def test_a_copy_made_after_the_cache_was_turned_off_runs_on_its_own_weights(self, how):
        original = self.cached(SkipCacheConfig(interval=2))
        original.disable_cache()
        twin = randomised(COPIES[how](original), seed=1)
        assert_equal(self.run(twin), self.run(randomised(self.build(), seed=1)))
        assert_equal(self.run(original), self.run(self.build()))

    def test_saving_with_the_cache_on_saves_the_model_alone(self, tmp_path):
        model = self.cached(SkipCacheConfig(interval=2))
        self.run(model, (900, 800, 700))
        model.save_pretrained(tmp_path)
        loaded = type(model).from_pretrained(tmp_path)
        assert not loaded.is_cache_enabled
        assert not loaded.training
        assert (loaded.depth, loaded.num_skips) == (model.depth, model.num_skips)
        assert_equal(self.run(loaded), self.run(self.build()))
        assert model.is_cache_enabled
