"""The cache beside what else diffusers and accelerate hang on a model: casting, offloading, hooks."""

import accelerate.hooks
import diffusers.hooks
import pytest
import torch

from skipdit import SkipCacheConfig
from tests.models.subject import TIMESTEPS, Subject, assert_equal, sample


class Counting(diffusers.hooks.ModelHook):
    """As group offloading does: something to be done before each forward pass of the model."""

    calls = 0

    def pre_forward(self, module, *args, **kwargs):
        self.calls += 1
        return args, kwargs

    def hang_on(self, model) -> None:
        diffusers.hooks.HookRegistry.check_if_exists_or_initialize(model).register_hook(self, "counting")

    def take_from(self, model) -> None:
        model._diffusers_hook.remove_hook("counting")


class AccelerateCounting(accelerate.hooks.ModelHook):
    """As `pipe.enable_model_cpu_offload()` does: moves the model to its device before each forward pass."""

    calls = 0

    def pre_forward(self, module, *args, **kwargs):
        self.calls += 1
        return args, kwargs

    def hang_on(self, model) -> None:
        accelerate.hooks.add_hook_to_module(model, self)

    def take_from(self, model) -> None:
        accelerate.hooks.remove_hook_from_module(model)


OFFLOADS = [{"offload_type": "leaf_level"}, {"offload_type": "block_level", "num_blocks_per_group": 1}]


class Beside(Subject):
    @pytest.mark.parametrize("hook", [Counting, AccelerateCounting])
    @pytest.mark.parametrize("cache_first", [True, False], ids=["cache first", "hook first"])
    def test_other_hooks_of_the_model_still_run(self, model, hook, cache_first):
        counting = hook()
        if cache_first:
            model.enable_cache(SkipCacheConfig())
        counting.hang_on(model)
        if not cache_first:
            model.enable_cache(SkipCacheConfig())
        outputs = self.run(model)
        assert counting.calls == len(outputs), "a model that is not moved to its device cannot run there"
        assert_equal(outputs, self.run(self.cached(SkipCacheConfig())))

    @pytest.mark.parametrize("hook", [Counting, AccelerateCounting])
    @pytest.mark.parametrize("cache_first", [True, False], ids=["cache first", "hook first"])
    def test_they_are_there_when_the_cache_is_off_again_and_it_when_they_are(self, model, hook, cache_first):
        """The cache wraps no forward, so that nothing is torn off with it."""
        counting, expected = hook(), self.run(model)
        if cache_first:
            model.enable_cache(SkipCacheConfig())
        counting.hang_on(model)
        if not cache_first:
            model.enable_cache(SkipCacheConfig())
        model.disable_cache()
        assert_equal(self.run(model), expected)
        assert counting.calls == len(expected)
        model.enable_cache(SkipCacheConfig())
        counting.take_from(model)
        assert_equal(self.run(model), self.run(self.cached(SkipCacheConfig())))
        assert counting.calls == len(expected)

    @pytest.mark.parametrize("offload", OFFLOADS)
    @pytest.mark.parametrize("cache_first", [True, False], ids=["cache first", "offload first"])
    def test_group_offloading_brings_every_weight_back_and_changes_no_value(
        self, model, offload, cache_first, tmp_path
    ):
        """What is in memory between the calls is spoiled: only what is read back from the disk can be right."""
        if cache_first:
            model.enable_cache(SkipCacheConfig())
        model.enable_group_offload(onload_device=torch.device("cpu"), offload_to_disk_path=str(tmp_path), **offload)
        if not cache_first:
            model.enable_cache(SkipCacheConfig())
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data.fill_(torch.nan)
        steps = TIMESTEPS[:3]  # full, cached, full
        assert_equal(self.run(model, steps), self.run(self.cached(SkipCacheConfig()), steps))

    def test_offloading_in_groups_of_layers_is_refused(self, model):
        """The first layer of a group brings the weights of all, and a cached step may not run it."""
        model.enable_group_offload(torch.device("cpu"), offload_type="block_level", num_blocks_per_group=2)
        expected = self.run(model)
        model.enable_cache(SkipCacheConfig())
        with pytest.raises(RuntimeError, match="in groups of 2, .* use num_blocks_per_group=1 or"):
            self.run(model)
        model.disable_cache()
        assert_equal(self.run(model), expected)

    def test_layerwise_casting_keeps_norms_and_positions_wide_and_is_exact_under_the_cache(self, model):
        exact = sample(model, self.inputs(900))
        model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
        narrow = {name for name, parameter in model.named_parameters() if parameter.dtype == torch.float8_e4m3fn}
        assert narrow
        assert not [name for name in narrow if "norm" in name or "pos_embed" in name]
        cast = self.run(model)
        assert not torch.equal(cast[0], exact)
        torch.testing.assert_close(cast[0], exact, rtol=0.5, atol=exact.std().item())
        model.enable_cache(SkipCacheConfig(interval=1))
        assert_equal(self.run(model), cast)
