"""What cannot take effect is said, and what is turned off leaves no trace."""

import warnings

import pytest
import torch
from diffusers.hooks import FasterCacheConfig, PyramidAttentionBroadcastConfig, TextKVCacheConfig

from skipdit import SkipCacheConfig
from tests.models.subject import TIMESTEPS, Subject, assert_equal, sample


class Guards(Subject):
    @pytest.mark.parametrize("train", [True, False])
    def test_training_and_gradients_are_refused(self, model, train):
        model.enable_cache(SkipCacheConfig())
        model.train(train)
        with torch.set_grad_enabled(not train), pytest.raises(RuntimeError, match=r"eval\(\).*no_grad.*disable_cache"):
            model(**self.inputs(900))

    def test_a_second_cache_is_refused(self, model):
        model.enable_cache(SkipCacheConfig(interval=2))
        for other in (SkipCacheConfig(interval=3), broadcast()):
            with pytest.raises(ValueError, match="disable"):
                model.enable_cache(other)
        assert model.is_cache_enabled

    def test_disabling_restores_the_model(self, model):
        expected = self.run(model)
        model.enable_cache(SkipCacheConfig(interval=2))
        self.run(model)
        model.disable_cache()
        assert not model.is_cache_enabled
        assert (model.forward.__func__, model.compose.__func__) == (type(model).forward, type(model).compose)
        assert_equal(self.run(model), expected)
        assert model.train()(**self.inputs(900)).sample.requires_grad

    def test_a_branch_that_leaves_no_trunk_is_refused(self, model):
        with pytest.raises(ValueError, match="branch is 3: a model of 6 layers takes 0 to 2"):
            model.enable_cache(SkipCacheConfig(branch=3))
        assert not model.is_cache_enabled
        model.enable_cache(SkipCacheConfig(branch=2))
        self.build(depth=7).enable_cache(SkipCacheConfig(branch=3))

    def test_a_cache_that_never_fires_is_warned_of_when_the_run_ends(self, model):
        model.enable_cache(SkipCacheConfig(interval=2, window=(950, 1000)))
        self.run(model)
        with pytest.warns(UserWarning, match="never fired: all 5 steps"):
            model._reset_stateful_cache()

    def test_named_steps_that_the_run_did_not_reach_are_warned_of_when_it_ends(self, model):
        """Pipelines that open no context do not say how long a run is."""
        model.enable_cache(SkipCacheConfig(steps=(0, 2, 5)))
        self.run(model)
        with pytest.warns(UserWarning, match="steps name step 5, but the run ended at step 4"):
            model._reset_stateful_cache()

    @pytest.mark.parametrize("settings", [{"interval": 1}, {"interval": 2}, {"steps": (0, 2, 4)}])
    def test_a_cache_that_does_what_was_asked_is_silent(self, model, settings):
        model.enable_cache(SkipCacheConfig(**settings))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            self.run(model)
            model._reset_stateful_cache()

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"forecast": lambda past, timestep, shallow: None}, "forecast returned .*NoneType.*must be a tensor like"),
            ({"forecast": lambda past, timestep, shallow: past[-1].deep[:1]}, "forecast returned"),
            ({"forecast": lambda past, timestep, shallow: past[-1].deep.double()}, "forecast returned"),
            ({"schedule": lambda now, shallow, state: None}, "schedule returned None at step 0: .* True or False"),
            ({"schedule": lambda now, shallow, state: "no"}, "schedule returned 'no'"),
        ],
    )
    def test_what_a_function_must_not_return_is_refused(self, model, settings, message):
        model.enable_cache(SkipCacheConfig(**settings))
        with pytest.raises(ValueError, match=message):
            self.run(model)

    def test_a_forecast_that_writes_into_what_is_remembered_is_refused(self, model):
        model.enable_cache(SkipCacheConfig(interval=9, forecast=lambda past, *_: past[-1].deep.mul_(0.5)))
        with pytest.raises(ValueError, match="remembers was written into: clone"):
            self.run(model)

    def test_timesteps_that_differ_within_a_batch_are_refused(self):
        model = self.cached(SkipCacheConfig())
        with pytest.raises(ValueError, match=r"differ.*\[700, 900\].*one timestep a call"):
            sample(model, self.inputs(900) | {"timestep": torch.tensor([900, 700])})

    @pytest.mark.parametrize("calls", [1, 2])
    def test_conditioning_that_is_new_at_each_call_is_told_of_once(self, model, calls):
        """Nothing identifies such a run, so that nothing is reused; in several calls a step neither, as halves."""
        model.enable_cache(SkipCacheConfig())
        timesteps = [timestep for timestep in TIMESTEPS for _ in range(calls)]
        fresh = [{name: value.clone() for name, value in self.inputs(timestep).items()} for timestep in timesteps]
        with pytest.warns(UserWarning, match="each call brings other conditioning tensors.*step_index") as told:
            outputs = [sample(model, inputs) for inputs in fresh]
        assert len(told) == 1
        assert_equal(outputs, self.run(self.build(), timesteps))

    def test_stats_say_what_was_done(self, model):
        with pytest.raises(ValueError, match="enable_cache"):
            model.cache_stats()
        model.enable_cache(SkipCacheConfig(interval=2))
        assert model.cache_stats() == {}
        self.run(model, (900, 800, 700))
        present = model.cache_stats()["default"]
        assert (present.plan, present.full, present.cached) == ("#.#", 2, 1)
        model._reset_stateful_cache()
        assert model.cache_stats() == {"default": present}, "the last run's numbers stay until the next run begins"
        self.run(model, (900,))
        assert model.cache_stats()["default"].plan == "#"

    def test_a_tuple_is_returned_where_it_is_asked_for(self, model):
        expected = sample(model, self.inputs(900))
        for _ in range(2):
            with torch.no_grad():
                (output,) = model(*self.inputs(900).values(), return_dict=False)
            assert torch.equal(output, expected)
            if not model.is_cache_enabled:
                model.enable_cache(SkipCacheConfig())


class UnknownToDiffusers(Subject):
    """For models whose blocks are our own: diffusers' caches look for layers by class and find none."""

    @pytest.mark.parametrize("other", ["broadcast", "faster", "text_kv"])
    def test_a_cache_of_diffusers_that_finds_no_layer_raises(self, model, other):
        with pytest.raises(ValueError, match="SkipCacheConfig"):
            model.enable_cache(OTHERS[other]())
        assert not model.is_cache_enabled
        expected = self.run(self.cached(SkipCacheConfig()))
        model.enable_cache(SkipCacheConfig())
        assert_equal(self.run(model), expected)

    def test_hooks_that_are_no_cache_do_not_pass_for_one(self, model):
        model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
        with pytest.raises(ValueError, match="found no layer"):
            model.enable_cache(broadcast())
        assert not model.is_cache_enabled


def broadcast() -> PyramidAttentionBroadcastConfig:
    """Looks for diffusers' own attention classes."""
    return PyramidAttentionBroadcastConfig(spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 500)


OTHERS = {
    "broadcast": broadcast,
    "faster": lambda: FasterCacheConfig(current_timestep_callback=lambda: 500),
    "text_kv": TextKVCacheConfig,
}
