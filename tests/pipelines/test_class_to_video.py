"""Class ids, or none, -> videos: what a step is, what a video depends on, and what is refused."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from diffusers import LattePipeline
from PIL import Image

from skipdit import SkipCacheConfig
from skipdit.caching import plan
from skipdit.diffusion import NoiseSchedule, ddim, ddpm, respace
from skipdit.pipelines import ClassToVideoPipeline, PixelAutoencoder
from skipdit.pipelines.schedulers import SCHEDULERS
from tests.pipelines.tiny import (
    free_videos_of,
    seeds,
    tiny_latte,
    tiny_temporal_vae,
    tiny_vae,
    video_pipeline,
    videos_of,
)

each_scheduler = pytest.mark.parametrize("name", SCHEDULERS)
TIMESTEPS = [999, 666, 333, 0]


class Stopped(Exception):
    pass


@contextmanager
def recorded_inputs(model):
    """The positional inputs of every call of the model."""
    calls = []
    hook = model.register_forward_pre_hook(lambda module, inputs: calls.append(inputs))
    yield calls
    hook.remove()


@contextmanager
def recorded_chunks(vae):
    """How many frames every call of the decoder got."""
    sizes = []
    hook = vae.decoder.register_forward_pre_hook(
        lambda module, inputs, named: sizes.append(len(inputs[0])), with_kwargs=True
    )
    yield sizes
    hook.remove()


def guide(model, x_t, t, labels, *, scale: float, channels: int = 1):
    """Hand-written guidance in the layout of the schedulers: x_t [B, C, F, H, W] -> [B, 2C, F, H, W]."""
    frames, time, null = x_t.movedim(1, 2), torch.full((len(x_t),), t), torch.full_like(labels, model.null_class)
    conditional, unconditional = (model(frames, time, ids).sample for ids in (labels, null))
    output = conditional.clone()
    output[:, :, :channels] = (unconditional + scale * (conditional - unconditional))[:, :, :channels]
    return output.movedim(2, 1)


def with_vae(vae=tiny_vae, **settings) -> ClassToVideoPipeline:
    torch.manual_seed(0)
    return video_pipeline(tiny_latte(in_channels=4), vae=vae(), **settings)


# What a step is.


@pytest.mark.parametrize("channels", [1, 3, 4, "all"])
def test_a_guided_run_is_the_hand_written_one(channels):
    model, scale, labels, x_t = tiny_latte(in_channels=4), 2.5, (3, 7), torch.randn(2, 3, 4, 8, 8)
    guided = 4 if channels == "all" else channels
    *_, x_0 = ddim(
        lambda x_t, t: guide(model, x_t, t, torch.tensor(labels), scale=scale, channels=guided),
        x_t.movedim(2, 1), timesteps=TIMESTEPS, schedule=NoiseSchedule.linear(),
    )  # fmt: skip
    ours = videos_of(video_pipeline(model), labels, latents=x_t, guidance_scale=scale, guidance_channels=channels)
    torch.testing.assert_close(ours, x_0.movedim(1, 2), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("classes", [0, 10])
def test_without_guidance_a_run_is_the_conditional_alone(classes):
    model, x_t = tiny_latte(num_classes=classes), torch.randn(2, 3, 1, 8, 8)
    labels = torch.tensor([3, 7]) if classes else None
    *_, x_0 = ddim(
        lambda x_t, t: model(x_t.movedim(1, 2), torch.full((2,), t), labels).sample.movedim(2, 1),
        x_t.movedim(2, 1), timesteps=TIMESTEPS, schedule=NoiseSchedule.linear(),
    )  # fmt: skip
    pipe = video_pipeline(model)
    ours = videos_of(pipe, (3, 7), latents=x_t, guidance_scale=1) if classes else free_videos_of(pipe, latents=x_t)
    torch.testing.assert_close(ours, x_0.movedim(1, 2), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scale", [1, 2.5])
def test_ddpm_with_a_learned_variance_is_the_published_chain(scale):
    """Guided or not: the variance is that of the class."""
    model, steps, labels = tiny_latte(), 20, (3, 7)
    rng = torch.Generator().manual_seed(5)
    x_t = torch.randn(2, 3, 1, 8, 8, generator=rng).movedim(2, 1)
    *_, x_0 = ddpm(
        lambda x_t, t: guide(model, x_t, t, torch.tensor(labels), scale=scale),
        x_t, timesteps=respace(1000, steps), schedule=NoiseSchedule.linear(), generator=rng,
    )  # fmt: skip
    ours = videos_of(
        video_pipeline(model, scheduler="ddpm"), labels, steps=steps, guidance_scale=scale,
        generator=torch.Generator().manual_seed(5),
    )  # fmt: skip
    torch.testing.assert_close(ours, x_0.movedim(1, 2), rtol=1e-4, atol=1e-4)


@each_scheduler
def test_the_variance_channels_reach_ddpm_and_no_other_scheduler(name):
    model = tiny_latte()
    before = videos_of(video_pipeline(model, scheduler=name))
    with torch.no_grad():
        patches = model.final_layer.linear.bias.view(4, 2)  # (patch pixels, channels): noise, then variance
        patches[:, 1] += 0.5
    assert torch.equal(before, videos_of(video_pipeline(model, scheduler=name))) == (name != "ddpm")


def test_as_many_frames_as_channels_are_not_taken_for_them():
    """Two frames of one channel: on the wrong axis, noise and variance would be two frames of noise."""
    videos = videos_of(video_pipeline(scheduler="ddpm"), num_frames=2)
    assert videos.shape == (3, 2, 1, 8, 8)


def test_one_call_a_step_holds_the_classes_and_then_as_many_null_classes():
    model = tiny_latte(num_classes=7)
    with recorded_inputs(model) as calls:
        videos_of(video_pipeline(model), (3, 5))
    assert len(calls) == 4
    for x_t, timestep, class_ids in calls:
        assert class_ids.tolist() == [3, 5, 7, 7]
        assert len(set(timestep.tolist())) == 1
        assert torch.equal(x_t[:2], x_t[2:])


@pytest.mark.parametrize(
    ("settings", "batch"), [({}, 2), ({"num_classes": 0}, 1), ({"class_dropout_prob": 0}, 1)]
)  # fmt: skip
def test_guidance_that_is_left_out_is_the_published_one_or_none_where_there_can_be_none(settings, batch):
    model = tiny_latte(**settings)
    labels = {} if model.config.num_classes == 0 else {"class_labels": 3}
    run = {"num_inference_steps": 2, "output_type": "latent"}
    with recorded_inputs(model) as calls:
        left_out = video_pipeline(model)(**labels, **run, generator=seeds(0)).frames
    assert [len(x_t) for x_t, *_ in calls] == [batch] * 2
    named = video_pipeline(model)(**labels, **run, generator=seeds(0), guidance_scale=7 if batch == 2 else 1).frames
    assert torch.equal(left_out, named)


# What a video depends on.


@each_scheduler
@pytest.mark.parametrize("classes", [0, 10])
def test_a_video_with_its_own_generator_does_not_depend_on_its_batch(name, classes):
    # Not bit for bit: a matrix product of another batch size may sum in another order.
    pipe = video_pipeline(tiny_latte(num_classes=classes), scheduler=name)
    if classes:
        together = videos_of(pipe, (1, 2, 3), generator=seeds(11, 12, 13))
        alone = videos_of(pipe, (2,), generator=seeds(12))
    else:
        together = free_videos_of(pipe, 3, generator=seeds(11, 12, 13))
        alone = free_videos_of(pipe, 1, generator=seeds(12))
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-4)


@each_scheduler
def test_the_same_seed_draws_the_same_bits_and_another_seed_does_not(name):
    pipe = video_pipeline(scheduler=name)
    first, again, other = (videos_of(pipe, (4,), generator=seeds(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.isfinite().all()


def test_the_class_and_its_absence_change_the_video():
    pipe = video_pipeline()
    one, other, none = (videos_of(pipe, (label,), guidance_scale=1) for label in (1, 2, 10))
    assert not torch.equal(one, other)
    assert not torch.equal(one, none)


def test_given_noise_is_used_as_it_is():
    pipe, noise = video_pipeline(), torch.randn(2, 3, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    drawn = videos_of(pipe, (1, 2), generator=torch.Generator().manual_seed(3))
    assert torch.equal(drawn, videos_of(pipe, (1, 2), latents=noise))


def test_one_class_id_is_a_batch_of_one():
    pipe = video_pipeline()
    one, listed = (pipe(label, generator=seeds(0), num_inference_steps=3, output_type="pt") for label in (4, [4]))
    assert torch.equal(one.frames, listed.frames)


def test_an_unconditional_model_draws_one_video_unless_told_otherwise():
    pipe = video_pipeline(tiny_latte(num_classes=0))
    alone = pipe(num_inference_steps=4, generator=seeds(0), output_type="latent").frames
    assert torch.equal(alone, free_videos_of(pipe, 1))
    assert free_videos_of(pipe, 3).shape == (3, 3, 1, 8, 8)


@each_scheduler
@pytest.mark.parametrize("size", [{"num_frames": 1}, {"num_frames": 2, "height": 4, "width": 12}, {"width": 6}])
def test_frames_and_sizes_that_are_left_out_are_the_models_own(name, size):
    videos = videos_of(video_pipeline(scheduler=name), **size)
    assert videos.shape == (3, size.get("num_frames", 3), 1, size.get("height", 8), size.get("width", 8))
    assert videos.isfinite().all()


def test_a_rectangular_model_draws_rectangles():
    assert videos_of(video_pipeline(tiny_latte(sample_size=(8, 12)))).shape == (3, 3, 1, 8, 12)


# The cache.


@each_scheduler
@pytest.mark.parametrize("scale", [1, 1.5])
def test_refreshing_at_every_step_is_not_caching(name, scale):
    pipe = video_pipeline(scheduler=name)
    uncached = videos_of(pipe, guidance_scale=scale)
    pipe.transformer.enable_cache(SkipCacheConfig(interval=1))
    assert torch.equal(videos_of(pipe, guidance_scale=scale), uncached)


@each_scheduler
@pytest.mark.parametrize("window", [None, (300, 800)])
@pytest.mark.parametrize("classes", [0, 10])
def test_a_cached_run_follows_its_plan(name, window, classes):
    pipe, config = video_pipeline(tiny_latte(num_classes=classes), scheduler=name), SkipCacheConfig(3, window=window)
    draw = videos_of if classes else free_videos_of
    uncached = draw(pipe, steps=8)
    pipe.transformer.enable_cache(config)
    cached = draw(pipe, steps=8)
    stats = pipe.transformer.cache_stats()["default"]
    assert stats.plan == str(plan(config.schedule, pipe.scheduler.timesteps.tolist()))
    assert stats.cached > 0
    assert cached.isfinite().all()
    assert not torch.equal(cached, uncached)
    pipe.transformer.disable_cache()
    assert torch.equal(draw(pipe, steps=8), uncached)


def test_the_halves_of_guidance_are_cached_apart():
    """One memory of both halves is two models with a memory each."""
    config, labels, x_t = SkipCacheConfig(interval=2), (3, 7), torch.randn(2, 3, 1, 8, 8)
    conditional, unconditional = tiny_latte(), tiny_latte()
    for model in (conditional, unconditional):
        model.enable_cache(config)

    classes, nulls = torch.tensor(labels), torch.tensor([10] * 2)

    def denoise(x_t, t):
        frames, time = x_t.movedim(1, 2), torch.full((2,), t)
        eps, eps_null = conditional(frames, time, classes), unconditional(frames, time, nulls)
        return (eps_null.sample + 2.5 * (eps.sample - eps_null.sample)).movedim(2, 1)[:, :1]

    *_, x_0 = ddim(denoise, x_t.movedim(2, 1), timesteps=TIMESTEPS, schedule=NoiseSchedule.linear())
    pipe = video_pipeline()
    uncached = videos_of(pipe, labels, latents=x_t, guidance_scale=2.5)
    pipe.transformer.enable_cache(config)
    ours = videos_of(pipe, labels, latents=x_t, guidance_scale=2.5)
    assert conditional.cache_stats()["default"].plan == pipe.transformer.cache_stats()["default"].plan == "#.#."
    torch.testing.assert_close(ours, x_0.movedim(1, 2), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(ours, uncached, rtol=1e-2, atol=1e-2), "or this test would see no cache"


@pytest.mark.parametrize("cache", [None, SkipCacheConfig(interval=3), SkipCacheConfig(interval=2, forecast="taylor")])
@pytest.mark.parametrize("last", [0, 1, 4])
def test_a_run_after_one_that_was_stopped_is_as_fresh(cache, last):
    pipe = video_pipeline()
    if cache is not None:
        pipe.transformer.enable_cache(cache)
    fresh = videos_of(pipe, steps=6)

    def stop(state):
        if state.step == last:
            raise Stopped

    with pytest.raises(Stopped):
        videos_of(pipe, (7, 8, 9), steps=6, on_step=stop)
    assert torch.equal(videos_of(pipe, steps=6), fresh)


def test_the_callback_sees_every_step_in_the_layout_of_the_model_and_the_last_is_the_video():
    seen = []
    videos = videos_of(video_pipeline(), steps=5, on_step=seen.append)
    assert [state.step for state in seen] == [0, 1, 2, 3, 4]
    assert [state.timestep for state in seen] == [999, 749, 500, 250, 0]
    assert torch.equal(seen[-1].latents, videos)


# What comes out.


@pytest.mark.parametrize("channels", [1, 3])
def test_output_types_are_the_same_pixels(channels):
    pipe = video_pipeline(tiny_latte(in_channels=channels))
    latents, tensor, array, pil = (
        videos_of(pipe, (1, 2), output_type=kind) for kind in ("latent", "pt", "np", "pil")
    )  # fmt: skip
    assert torch.equal(tensor, (latents / 2 + 0.5).clamp(0, 1))
    assert array.dtype == np.float32
    assert np.array_equal(array, tensor.permute(0, 1, 3, 4, 2).numpy())
    assert [[frame.mode for frame in video] for video in pil] == [[{1: "L", 3: "RGB"}[channels]] * 3] * 2
    assert all(isinstance(frame, Image.Image) for video in pil for frame in video)
    frames = np.stack([[np.array(frame).reshape(8, 8, channels) for frame in video] for video in pil])
    assert np.array_equal(frames, (array * 255).round())


def test_a_tuple_comes_out_on_request():
    (videos,) = video_pipeline()([1], num_inference_steps=2, output_type="pt", return_dict=False)
    assert videos.shape == (1, 3, 1, 8, 8)


def test_gray_pixels_come_out_in_colour_through_the_pixel_autoencoder():
    gray = videos_of(video_pipeline(), output_type="pt")
    colour = videos_of(video_pipeline(vae=PixelAutoencoder(latent_channels=1)), output_type="pt")
    assert torch.equal(colour, gray.expand(-1, -1, 3, -1, -1))


@pytest.mark.parametrize("vae", [tiny_vae, tiny_temporal_vae])
def test_a_vae_decodes_the_scaled_latents_and_sizes_are_those_of_the_frames(vae):
    pipe = with_vae(vae)
    latents, videos = (videos_of(pipe, (1, 2), height=24, width=8, output_type=kind) for kind in ("latent", "pt"))
    how = {"num_frames": 3} if vae is tiny_temporal_vae else {}
    with torch.no_grad():
        decoded = torch.stack([pipe.vae.decode(video / 0.5, **how).sample for video in latents])
    assert latents.shape == (2, 3, 4, 12, 4)
    assert videos.shape == (2, 3, 3, 24, 8)
    assert torch.equal(videos, (decoded / 2 + 0.5).clamp(0, 1))


@pytest.mark.parametrize("chunk", [1, 2, 3, 14])
def test_decoding_in_chunks_is_decoding_at_once(chunk):
    # Up to rounding: a convolution of another batch size may sum in another order.
    pipe = with_vae()
    with recorded_chunks(pipe.vae) as sizes:
        chunked = videos_of(pipe, (1, 2), output_type="pt", decode_chunk_size=chunk)
    assert sizes == {1: [1] * 6, 2: [2, 1] * 2, 3: [3, 3], 14: [3, 3]}[chunk]
    torch.testing.assert_close(chunked, videos_of(pipe, (1, 2), output_type="pt"), rtol=0, atol=1e-6)


@pytest.mark.parametrize("chunk", [1, 2, 14])
@pytest.mark.parametrize("vae", [tiny_vae, tiny_temporal_vae])
def test_one_video_is_decoded_as_by_diffusers(vae, chunk):
    pipe = with_vae(vae)
    theirs = LattePipeline(None, None, pipe.vae, pipe.transformer, pipe.scheduler)
    latents, videos = (videos_of(pipe, (1,), output_type=kind, decode_chunk_size=chunk) for kind in ("latent", "pt"))
    with torch.no_grad():
        decoded = theirs.decode_latents(latents.movedim(2, 1), 3, decode_chunk_size=chunk).movedim(1, 2)
    torch.testing.assert_close(videos, (decoded / 2 + 0.5).clamp(0, 1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("vae", [tiny_vae, tiny_temporal_vae])
def test_a_decoded_video_does_not_depend_on_its_batch(vae):
    """diffusers' chunks run on into the next video, whose frames a temporal decoder then mixes in."""
    pipe = with_vae(vae)
    together = videos_of(pipe, (1, 2), generator=seeds(1, 2), output_type="pt", decode_chunk_size=2)
    alone = videos_of(pipe, (2,), generator=seeds(2), output_type="pt", decode_chunk_size=2)
    torch.testing.assert_close(together[1:], alone, rtol=1e-4, atol=1e-4)


def test_slices_are_the_same_frames():
    pipe = with_vae()
    whole = videos_of(pipe, (1, 2), output_type="pt")
    pipe.vae.enable_slicing()
    with recorded_chunks(pipe.vae) as sizes:
        sliced = videos_of(pipe, (1, 2), output_type="pt")
    assert sizes == [1] * 6
    torch.testing.assert_close(sliced, whole, rtol=0, atol=1e-6)


def test_tiles_make_the_frames_of_the_same_size_as_the_vae_makes_them():
    pipe = with_vae()
    whole, latents = (videos_of(pipe, (1, 2), output_type=kind) for kind in ("pt", "latent"))
    pipe.vae.enable_tiling()
    pipe.vae.tile_latent_min_size, pipe.vae.tile_sample_min_size = 4, 8
    tiled = videos_of(pipe, (1, 2), output_type="pt")
    with torch.no_grad():
        decoded = torch.stack([pipe.vae.tiled_decode(video / 0.5).sample for video in latents])
    assert torch.equal(tiled, (decoded / 2 + 0.5).clamp(0, 1))
    # Norms see a tile instead of a frame; still nearer to it than to the frames of another video.
    assert 0 < (tiled - whole).abs().mean() < 0.5 * (tiled - whole.flip(0)).abs().mean()


OFFLOADS = {
    "a model at a time": lambda pipe: pipe.enable_model_cpu_offload(device="cpu"),
    "groups of blocks": lambda pipe: pipe.enable_group_offload("cpu", num_blocks_per_group=1),
    "groups of leaves": lambda pipe: pipe.enable_group_offload("cpu", offload_type="leaf_level"),
}


@pytest.mark.parametrize("offload", OFFLOADS.values(), ids=OFFLOADS.keys())
@pytest.mark.parametrize("vae", [tiny_vae, tiny_temporal_vae])
def test_offloading_changes_no_bit_cached_or_not(offload, vae):
    pipe = with_vae(vae)
    pipe.transformer.enable_cache(SkipCacheConfig(interval=2))
    before = videos_of(pipe, output_type="pt")
    offload(pipe)
    for _ in range(2):
        assert torch.equal(videos_of(pipe, output_type="pt"), before)
        assert pipe.transformer.cache_stats()["default"].plan == "#.#."
    uncached = with_vae(vae)
    before = videos_of(uncached, output_type="pt")
    offload(uncached)
    assert torch.equal(videos_of(uncached, output_type="pt"), before)


def test_half_precision_weights_keep_the_chain_in_float32():
    model, seen = tiny_latte().bfloat16(), []
    videos = videos_of(video_pipeline(model), on_step=lambda state: seen.append(state.latents))
    assert {x_t.dtype for x_t in seen} == {torch.float32}
    assert videos.isfinite().all()


VAES = {
    "none": lambda: None,
    "AutoencoderKL": tiny_vae,
    "AutoencoderKLTemporalDecoder": tiny_temporal_vae,
}


@pytest.mark.parametrize("vae", VAES.values(), ids=VAES.keys())
@pytest.mark.parametrize("name", ["ddim", "ddpm", "dpm++"])
def test_a_saved_pipeline_draws_the_same_bits(tmp_path, vae, name):
    pipe = with_vae(vae, scheduler=name)
    pipe.save_pretrained(tmp_path)
    again = ClassToVideoPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert type(again.vae) is type(pipe.vae)
    kind = "latent" if pipe.vae is None else "pt"
    assert torch.equal(*(videos_of(p, output_type=kind) for p in (pipe, again)))


def test_a_saved_pipeline_of_pixels_draws_the_same_bits(tmp_path):
    pipe = video_pipeline(vae=PixelAutoencoder(latent_channels=1))
    pipe.save_pretrained(tmp_path)
    again = ClassToVideoPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert isinstance(again.vae, PixelAutoencoder)
    assert torch.equal(*(videos_of(p, output_type="pt") for p in (pipe, again)))


# What is refused.


@pytest.mark.parametrize("label", [-1, 11, 1000])
def test_class_ids_out_of_range_are_refused_with_the_range(label):
    with pytest.raises(ValueError, match=rf"class id {label} is out of range: take 0 to 10 \(10 is the null class\)"):
        video_pipeline()([3, label])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"class_labels": None}, "class_labels are missing for a model of 10 classes: give one id for each video"),
        ({"class_labels": []}, "class_labels are empty"),
        ({"num_videos": 2}, "num_videos is 2, but each class id draws one video: leave it out"),
        ({"guidance_channels": 0}, "guidance_channels is 0: take 1 to 1, or 'all'"),
        ({"guidance_channels": 2}, "guidance_channels is 2"),
        ({"guidance_scale": 1, "guidance_channels": 1}, "guidance_channels is 1 at guidance_scale 1, which is none"),
        ({"output_type": "gif"}, "output_type is 'gif': take one of pil, np, pt, latent"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0: it must be at least 1"),
        ({"num_frames": 4}, "video has 4 frames: this model has temporal positions for 1 to 3"),
        ({"num_frames": 0}, "video has 0 frames"),
        ({"height": 7}, "image side 7 is not a multiple of 2 above 0: take one that is"),
        ({"height": 0}, "image side 0 is not a multiple of 2 above 0"),
        ({"width": -2}, "image side -2 is not a multiple of 2 above 0"),
        ({"decode_chunk_size": 0}, "decode_chunk_size is 0: it must be at least 1"),
        (
            {"latents": torch.zeros(1, 1, 3, 8, 8)},
            r"latents have shape \(1, 1, 3, 8, 8\): 1 videos .* \(1, 3, 1, 8, 8\)",
        ),
        ({"generator": seeds(1, 2)}, "2 generators for 1 videos: give one, or one for each video"),
        ({"generator": []}, "0 generators for 1 videos"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        video_pipeline()(**{"class_labels": [1]} | settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"class_labels": [1]}, r"class_labels are \[1\], but this model has no classes: give num_videos"),
        ({"guidance_scale": 7.0}, r"guidance_scale is 7\.0: this model has no classes, so take 1"),
        ({"guidance_channels": 1}, "guidance_channels is 1 at guidance_scale"),
        ({"num_videos": 0}, "num_videos is 0: it must be at least 1"),
        ({"num_videos": 2, "generator": seeds(1)}, "1 generators for 2 videos"),
    ],
)
def test_an_unconditional_model_refuses_what_has_to_do_with_classes(settings, message):
    with pytest.raises(ValueError, match=message):
        video_pipeline(tiny_latte(num_classes=0))(**settings)


def test_without_a_null_class_there_is_no_guidance_and_no_null_id():
    pipe = video_pipeline(tiny_latte(class_dropout_prob=0))
    with pytest.raises(ValueError, match=r"guidance_scale is 1\.5: this model has no null class, so take 1"):
        videos_of(pipe)
    with pytest.raises(ValueError, match="class id 10 is out of range: take 0 to 9"):
        videos_of(pipe, (10,), guidance_scale=1)


def test_latents_are_no_picture_without_their_vae():
    pipe, run = video_pipeline(tiny_latte(in_channels=4)), {"num_inference_steps": 2}
    with pytest.raises(ValueError, match="draws 4 channels, which are no picture: give the vae"):
        pipe([1], output_type="pt", **run)
    assert pipe([1], output_type="latent", **run).frames.shape == (1, 3, 4, 8, 8)


def test_a_vae_of_other_latents_is_refused_before_the_drawing():
    with pytest.raises(ValueError, match="the model draws 1 channels, its vae takes 4: give the vae of its latents"):
        video_pipeline(vae=tiny_vae())([1])
