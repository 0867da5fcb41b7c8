"""Our text-to-video transformer of pixels inside diffusers' unmodified LattePipeline, which knows nothing of either."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, HeunDiscreteScheduler, LattePipeline, LatteTransformer3DModel
from PIL import Image

from skipdit import LatteT2V, SkipCacheConfig
from skipdit.pipelines import PixelAutoencoder
from tests.models.subject import memories, raising, tensors_remembered
from tests.pipelines.tiny import tiny_latte_t2v

STEPS, FRAMES = 6, 3


def pipeline(scheduler=None, *, cache: SkipCacheConfig | None = None, channels: int = 1) -> LattePipeline:
    transformer = tiny_latte_t2v(in_channels=channels, out_channels=2 * channels)
    if cache is not None:
        transformer.enable_cache(cache)
    made = LattePipeline(
        tokenizer=None, text_encoder=None, vae=PixelAutoencoder(latent_channels=channels), transformer=transformer,
        scheduler=DDIMScheduler() if scheduler is None else scheduler,
    )  # fmt: skip
    made.set_progress_bar_config(disable=True)
    return made


def videos(pipe: LattePipeline, *, count: int = 1, guidance_scale: float = 4.0, seed: int = 0, **settings):
    rng = torch.Generator().manual_seed(seed)
    text, no_text = torch.randn(2, count, 5, 12, generator=rng)
    settings = {"video_length": FRAMES, "height": 8, "width": 8, "output_type": "np"} | settings
    return pipe(
        prompt=None, negative_prompt=None, prompt_embeds=text, negative_prompt_embeds=no_text, generator=rng,
        guidance_scale=guidance_scale, num_inference_steps=STEPS, **settings,
    ).frames  # fmt: skip


@pytest.mark.parametrize("channels", [1, 3])
def test_frames_come_out_in_colour(channels):
    pipe = pipeline(channels=channels)
    array, pil = (videos(pipe, count=2, output_type=kind) for kind in ("np", "pil"))
    assert array.shape == (2, FRAMES, 8, 8, 3)
    assert (array.std(axis=(0, 1, 2, 3)) > 0.01).all()
    assert (channels == 1) == bool(np.ptp(array, axis=-1).max() == 0)
    assert all(isinstance(frame, Image.Image) and frame.mode == "RGB" for video in pil for frame in video)
    assert np.array_equal([[np.array(frame) for frame in video] for video in pil], (array * 255).round())


@pytest.mark.parametrize("size", [{"height": 16}, {"width": 16}, {"video_length": 1}, {"decode_chunk_size": 1}])
def test_sizes_are_those_of_the_pixels(size):
    shape = videos(pipeline(), **size).shape
    assert shape == (1, size.get("video_length", FRAMES), size.get("height", 8), size.get("width", 8), 3)


def test_decoding_is_nothing_but_a_change_of_range():
    pipe = pipeline(channels=3)
    latents, decoded = (videos(pipe, output_type=kind) for kind in ("latent", "pt"))
    assert torch.equal(decoded, (latents / 2 + 0.5).clamp(0, 1).movedim(1, 2))


def test_our_transformer_draws_what_that_of_diffusers_draws():
    ours = pipeline()
    ours.transformer = tiny_latte_t2v(num_skips=0)
    theirs = pipeline()
    ours_alone = ("num_skips", "fuse", "prediction_type", "_use_default_values")
    settings = {name: value for name, value in ours.transformer.config.items() if name not in ours_alone}
    theirs.transformer = LatteTransformer3DModel(**settings).eval()
    theirs.transformer.load_state_dict(ours.transformer.state_dict(), strict=True)
    assert np.array_equal(videos(ours), videos(theirs))


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
class TestEveryCall:
    def test_computing_every_step_equals_no_cache(self, guidance_scale):
        cached = pipeline(cache=SkipCacheConfig(interval=1))
        assert np.array_equal(*(videos(p, guidance_scale=guidance_scale) for p in (cached, pipeline())))

    def test_a_second_call_is_the_same_and_a_cached_one_is_not_the_uncached(self, guidance_scale):
        pipe = pipeline(cache=SkipCacheConfig(interval=2))
        first, second = (videos(pipe, guidance_scale=guidance_scale) for _ in range(2))
        assert np.array_equal(first, second)
        assert pipe.transformer.cache_stats()["default"].plan == "#.#.#."
        assert not np.array_equal(first, videos(pipeline(), guidance_scale=guidance_scale))

    @pytest.mark.parametrize("layer", [0, 3])
    def test_a_call_after_one_that_failed_inside_the_model_is_as_fresh(self, layer, guidance_scale):
        pipe = pipeline(cache=SkipCacheConfig(interval=2))
        failing = pipe.transformer.temporal_transformer_blocks[layer]
        with raising(failing, RuntimeError("out of memory")), pytest.raises(RuntimeError, match="out of memory"):
            videos(pipe, guidance_scale=guidance_scale, seed=1)
        assert not tensors_remembered(pipe.transformer)
        fresh = pipeline(cache=SkipCacheConfig(interval=2))
        assert np.array_equal(*(videos(p, guidance_scale=guidance_scale) for p in (pipe, fresh)))


def test_at_the_end_of_a_call_memory_is_free_and_its_numbers_stay():
    pipe = pipeline(cache=SkipCacheConfig(interval=2))
    videos(pipe)
    stats = pipe.transformer.cache_stats()["default"]
    assert (stats.plan, stats.full, stats.cached) == ("#.#.#.", 3, 3)
    tokens = 2 * FRAMES * (16 + 5)  # of a video and its null half: 16 a frame, and as often 5 of text
    assert stats.bytes_remembered == tokens * 16 * 4
    assert not memories(pipe.transformer)


def test_a_window_counts_in_timesteps():
    pipe = pipeline(cache=SkipCacheConfig(interval=2, window=(200, 600)))
    videos(pipe)
    assert pipe.scheduler.timesteps.tolist() == [830, 664, 498, 332, 166, 0]
    assert pipe.transformer.cache_stats()["default"].plan == "###.##"


@pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")
@pytest.mark.parametrize("forecast", ["hold", "residual", "taylor"])
def test_a_second_order_sampler_runs_under_every_forecast(forecast):
    pipe = pipeline(HeunDiscreteScheduler(), cache=SkipCacheConfig(interval=2, forecast=forecast))
    assert np.isfinite(videos(pipe)).all()
    assert len(pipe.transformer.cache_stats()["default"].plan) == 2 * STEPS - 1


def test_ddpm_with_a_learned_variance_runs():
    """The reference drops the variance channels before the scheduler asks for them."""
    pipe = pipeline(DDPMScheduler(variance_type="learned_range"), cache=SkipCacheConfig(interval=2))
    assert np.isfinite(videos(pipe)).all()


def test_a_pipeline_is_saved_and_loaded_with_our_transformer_and_autoencoder(tmp_path):
    pipe = pipeline(cache=SkipCacheConfig(interval=2))
    pipe.save_pretrained(tmp_path)
    loaded = LattePipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert isinstance(loaded.transformer, LatteT2V)
    assert isinstance(loaded.vae, PixelAutoencoder)
    assert np.array_equal(videos(loaded), videos(pipeline()))
