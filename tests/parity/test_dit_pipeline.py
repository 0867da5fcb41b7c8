"""Our transformer inside diffusers' unmodified DiTPipeline, which knows nothing of this package."""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, DiTPipeline, HeunDiscreteScheduler

from skipdit import DiT, SkipCacheConfig
from tests.models.subject import memories, raising, randomised, tensors_remembered

STEPS = 6
SCHEDULERS = [DDIMScheduler, DDPMScheduler]


def pipeline(scheduler=DDIMScheduler, cache: SkipCacheConfig | None = None) -> DiTPipeline:
    transformer = randomised(DiT(sample_size=4, hidden_size=16, depth=6, num_heads=2, num_skips=3))
    if cache is not None:
        transformer.enable_cache(cache)
    torch.manual_seed(0)
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4, layers_per_block=1)
    made = DiTPipeline(transformer=transformer, vae=vae.eval(), scheduler=scheduler())
    made.set_progress_bar_config(disable=True)
    return made


def images(pipe: DiTPipeline, *, guidance_scale: float = 4.0, labels=(3, 7), seed: int = 0) -> np.ndarray:
    rng = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)  # DiTPipeline hands its generator to no scheduler
    settings = {"guidance_scale": guidance_scale, "num_inference_steps": STEPS, "output_type": "np"}
    return pipe(class_labels=list(labels), generator=rng, **settings).images


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
class TestEveryCall:
    def test_computing_every_step_equals_no_cache(self, scheduler, guidance_scale):
        ours = images(pipeline(scheduler, SkipCacheConfig(interval=1)), guidance_scale=guidance_scale)
        assert np.array_equal(ours, images(pipeline(scheduler), guidance_scale=guidance_scale))

    def test_a_second_call_is_the_same_and_a_cached_one_is_not_the_uncached(self, scheduler, guidance_scale):
        pipe = pipeline(scheduler, SkipCacheConfig(interval=2))
        first, second = (images(pipe, guidance_scale=guidance_scale) for _ in range(2))
        assert np.array_equal(first, second)
        assert pipe.transformer.cache_stats()["default"].plan == "#.#.#."
        assert not np.array_equal(first, images(pipeline(scheduler), guidance_scale=guidance_scale))


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
@pytest.mark.parametrize("step", [0, 1, 3])
def test_a_call_after_one_that_failed_between_steps_is_as_fresh(step, guidance_scale):
    pipe = pipeline(Failing, SkipCacheConfig(interval=3))
    pipe.scheduler.fails_at = step
    with pytest.raises(KeyboardInterrupt):
        images(pipe, guidance_scale=guidance_scale, seed=1)
    pipe.scheduler.fails_at = None
    fresh = pipeline(cache=SkipCacheConfig(interval=3))
    assert np.array_equal(images(pipe, guidance_scale=guidance_scale), images(fresh, guidance_scale=guidance_scale))


@pytest.mark.parametrize("layer", [0, 3, 5])
def test_a_call_after_one_that_failed_inside_the_model_is_as_fresh(layer):
    pipe = pipeline(cache=SkipCacheConfig(interval=2))
    failing = pipe.transformer.blocks[layer]
    with raising(failing, RuntimeError("out of memory")), pytest.raises(RuntimeError, match="out of memory"):
        images(pipe, seed=1)
    assert not tensors_remembered(pipe.transformer)
    assert np.array_equal(images(pipe), images(pipeline(cache=SkipCacheConfig(interval=2))))


def test_guidance_may_change_between_calls():
    """One guided image and two unguided ones are batches of the same shape."""
    pipe, fresh = (pipeline(cache=SkipCacheConfig(interval=2)) for _ in range(2))
    images(pipe, labels=(3,))
    assert np.array_equal(images(pipe, guidance_scale=1.0), images(fresh, guidance_scale=1.0))


def test_at_the_end_of_a_call_memory_is_free_and_its_numbers_stay():
    pipe = pipeline(cache=SkipCacheConfig(interval=2, branch=2))
    images(pipe)
    stats = pipe.transformer.cache_stats()["default"]
    assert (stats.plan, stats.full, stats.cached) == ("#.#.#.", 3, 3)
    assert stats.bytes_remembered == 4 * 4 * 16 * 4, "one tensor: two images and their null halves, 4 tokens, 16 wide"
    assert not memories(pipe.transformer)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")
def test_a_second_order_sampler_runs_under_every_forecast():
    for forecast in ("hold", "residual", "taylor"):
        pipe = pipeline(HeunDiscreteScheduler, SkipCacheConfig(interval=2, forecast=forecast))
        assert np.isfinite(images(pipe)).all()
        assert len(pipe.transformer.cache_stats()["default"].plan) == 2 * STEPS - 1


def test_a_pipeline_is_saved_and_loaded_with_our_transformer(tmp_path):
    pipe = pipeline(cache=SkipCacheConfig(interval=2))
    pipe.save_pretrained(tmp_path)
    loaded = DiTPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert isinstance(loaded.transformer, DiT)
    assert np.array_equal(images(loaded), images(pipeline()))


class Failing(DDIMScheduler):
    """Ctrl-C while the sampler is at work."""

    fails_at: int | None = None
    calls = 0

    def step(self, *args, **kwargs):
        self.calls += 1
        if self.fails_at == self.calls - 1:
            raise KeyboardInterrupt
        return super().step(*args, **kwargs)
