"""Class ids -> images: what a step is, what an image depends on, and what is refused."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image

from skipdit import SkipCacheConfig
from skipdit.caching import plan
from skipdit.diffusion import NoiseSchedule, ddim, ddpm, respace
from skipdit.pipelines import ClassToImagePipeline
from skipdit.pipelines.schedulers import SCHEDULERS, make_scheduler
from tests.pipelines.tiny import latents_of, pipeline, seeds, tiny, tiny_vae

each_scheduler = pytest.mark.parametrize("name", SCHEDULERS)


class Stopped(Exception):
    pass


@contextmanager
def recorded_inputs(model):
    """The keyword and positional inputs of every call of the model."""
    calls = []
    hook = model.register_forward_pre_hook(lambda module, inputs: calls.append(inputs))
    yield calls
    hook.remove()


# What a step is.


@pytest.mark.parametrize("channels", [1, 3, 4, "all"])
def test_a_guided_run_is_the_hand_written_one(channels):
    model, scale = tiny(in_channels=4), 2.5
    guided = 4 if channels == "all" else channels

    def denoise(x_t, t):
        time = torch.full((2,), t)
        conditional = model(x_t, time, torch.tensor([3, 7])).sample
        unconditional = model(x_t, time, torch.tensor([10, 10])).sample
        eps = conditional[:, :4].clone()
        eps[:, :guided] = unconditional[:, :guided] + scale * (conditional - unconditional)[:, :guided]
        return eps

    x_t = torch.randn(2, 4, 8, 8)
    timesteps = [999, 666, 333, 0]
    *_, x_0 = ddim(denoise, x_t, timesteps=timesteps, schedule=NoiseSchedule.linear())
    ours = latents_of(
        pipeline(model), (3, 7), steps=4, latents=x_t, guidance_scale=scale, guidance_channels=channels
    )
    torch.testing.assert_close(ours, x_0, rtol=1e-4, atol=1e-4)


def test_three_guided_channels_differ_from_all():
    pipe = pipeline(tiny(in_channels=4))
    assert not torch.equal(latents_of(pipe, guidance_channels=3), latents_of(pipe, guidance_channels="all"))


def test_one_call_a_step_holds_the_classes_and_then_as_many_null_classes():
    model = tiny(num_classes=7)
    with recorded_inputs(model) as calls:
        latents_of(pipeline(model), (3, 5), steps=4)
    assert len(calls) == 4
    for x_t, timestep, class_ids in calls:
        assert class_ids.tolist() == [3, 5, 7, 7]
        assert len(set(timestep.tolist())) == 1
        assert torch.equal(x_t[:2], x_t[2:])


def test_without_guidance_the_null_half_is_not_run():
    model = tiny()
    with recorded_inputs(model) as calls:
        latents_of(pipeline(model), (3, 5), steps=4, guidance_scale=1)
    assert [class_ids.tolist() for _, _, class_ids in calls] == [[3, 5]] * 4


def test_guided_channels_without_guidance_are_refused():
    with pytest.raises(ValueError, match="guidance_channels is 1 at guidance_scale 1, which is none"):
        latents_of(pipeline(tiny(in_channels=4)), guidance_scale=1, guidance_channels=1)


def test_ddpm_with_a_learned_variance_is_the_published_chain():
    model, steps, labels = tiny(), 20, torch.tensor([3, 7])
    rng = torch.Generator().manual_seed(5)
    x_t = torch.randn(2, 1, 8, 8, generator=rng)
    *_, x_0 = ddpm(
        lambda x_t, t: model(x_t, torch.full((2,), t), labels).sample,
        x_t, timesteps=respace(1000, steps), schedule=NoiseSchedule.linear(), generator=rng,
    )  # fmt: skip
    ours = latents_of(
        pipeline(model, scheduler="ddpm"), labels.tolist(), steps=steps, guidance_scale=1,
        generator=torch.Generator().manual_seed(5),
    )  # fmt: skip
    torch.testing.assert_close(ours, x_0, rtol=1e-4, atol=1e-4)


@each_scheduler
def test_the_variance_channels_reach_ddpm_and_no_other_scheduler(name):
    model = tiny()
    before = latents_of(pipeline(model, scheduler=name))
    with torch.no_grad():
        patches = model.final_layer.linear.bias.view(4, 2)  # (patch pixels, channels): noise, then variance
        patches[:, 1] += 0.5
    assert torch.equal(before, latents_of(pipeline(model, scheduler=name))) == (name != "ddpm")


def test_a_model_without_variance_channels_draws_with_ddpm():
    images = latents_of(pipeline(tiny(out_channels=1), scheduler="ddpm"))
    assert images.shape == (3, 1, 8, 8)
    assert images.isfinite().all()


# What an image depends on.


@each_scheduler
def test_an_image_with_its_own_generator_does_not_depend_on_its_batch(name):
    # Not bit for bit: a matrix product of another batch size may sum in another order.
    pipe = pipeline(scheduler=name)
    together = latents_of(pipe, (1, 2, 3), generator=seeds(11, 12, 13))
    alone = latents_of(pipe, (2,), generator=seeds(12))
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-4)


@each_scheduler
def test_the_same_seed_draws_the_same_bits_and_another_seed_does_not(name):
    pipe = pipeline(scheduler=name)
    first, again, other = (latents_of(pipe, (4,), generator=seeds(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_class_and_its_absence_change_the_image():
    pipe = pipeline()
    one, other, none = (latents_of(pipe, (label,), generator=seeds(0), guidance_scale=1) for label in (1, 2, 10))
    assert not torch.equal(one, other)
    assert not torch.equal(one, none)


def test_guiding_the_null_class_is_drawing_without_a_class():
    # Both halves are the same, so the push is zero up to rounding.
    pipe = pipeline()
    guided, free = (latents_of(pipe, (10,), guidance_scale=scale) for scale in (3.0, 1))
    torch.testing.assert_close(guided, free, rtol=1e-4, atol=1e-4)


def test_given_noise_is_used_as_it_is():
    pipe, noise = pipeline(), torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    drawn = latents_of(pipe, (1, 2), generator=torch.Generator().manual_seed(3))
    assert torch.equal(drawn, latents_of(pipe, (1, 2), latents=noise))


def test_one_class_id_is_a_batch_of_one():
    pipe = pipeline()
    one, listed = (pipe(label, generator=seeds(0), num_inference_steps=3, output_type="pt") for label in (4, [4]))
    assert torch.equal(one.images, listed.images)


# The cache.


@each_scheduler
@pytest.mark.parametrize("scale", [1, 1.5])
def test_refreshing_at_every_step_is_not_caching(name, scale):
    pipe = pipeline(scheduler=name)
    uncached = latents_of(pipe, guidance_scale=scale)
    pipe.transformer.enable_cache(SkipCacheConfig(interval=1))
    assert torch.equal(latents_of(pipe, guidance_scale=scale), uncached)


@each_scheduler
@pytest.mark.parametrize("window", [None, (300, 800)])
def test_a_cached_run_follows_its_plan(name, window):
    pipe, config = pipeline(scheduler=name), SkipCacheConfig(interval=3, window=window)
    uncached = latents_of(pipe, steps=8)
    pipe.transformer.enable_cache(config)
    cached = latents_of(pipe, steps=8)
    stats = pipe.transformer.cache_stats()["default"]
    assert stats.plan == str(plan(config.schedule, pipe.scheduler.timesteps.tolist()))
    assert cached.isfinite().all()
    assert not torch.equal(cached, uncached)
    pipe.transformer.disable_cache()
    assert torch.equal(latents_of(pipe, steps=8), uncached)


def test_a_second_cached_run_starts_clean():
    pipe = pipeline()
    pipe.transformer.enable_cache(SkipCacheConfig(interval=4))
    first = latents_of(pipe)
    latents_of(pipe, (5,), generator=seeds(9))
    assert torch.equal(latents_of(pipe), first)


@pytest.mark.parametrize("cache", [None, SkipCacheConfig(interval=3), SkipCacheConfig(interval=2, forecast="taylor")])
@pytest.mark.parametrize("last", [0, 1, 4])
def test_a_run_after_one_that_was_stopped_is_as_fresh(cache, last):
    pipe = pipeline()
    if cache is not None:
        pipe.transformer.enable_cache(cache)
    fresh = latents_of(pipe)

    def stop(state):
        if state.step == last:
            raise Stopped

    with pytest.raises(Stopped):
        latents_of(pipe, (7, 8, 9), on_step=stop)
    assert torch.equal(latents_of(pipe), fresh)


def test_steps_that_compute_but_lie_outside_the_run_are_refused():
    pipe = pipeline()
    pipe.transformer.enable_cache(SkipCacheConfig(steps=(0, 6)))
    with pytest.raises(ValueError, match="step 6: a run of 6 has steps 0 to 5"):
        latents_of(pipe, steps=6)
    assert latents_of(pipe, steps=7).isfinite().all()


def test_the_callback_sees_every_step_and_the_last_is_the_image():
    seen = []
    images = latents_of(pipeline(), steps=5, on_step=seen.append)
    assert [state.step for state in seen] == [0, 1, 2, 3, 4]
    assert [state.timestep for state in seen] == [999, 749, 500, 250, 0]
    assert torch.equal(seen[-1].latents, images)


# What comes out.


@pytest.mark.parametrize("channels", [1, 3])
def test_output_types_are_the_same_pixels(channels):
    pipe = pipeline(tiny(in_channels=channels))
    latents = latents_of(pipe, (1, 2))
    pil, array, tensor = (
        pipe([1, 2], generator=seeds(0, 1), guidance_scale=1.5, num_inference_steps=6, output_type=kind).images
        for kind in ("pil", "np", "pt")
    )
    assert torch.equal(tensor, (latents / 2 + 0.5).clamp(0, 1))
    assert array.dtype == np.float32
    assert np.array_equal(array, tensor.permute(0, 2, 3, 1).numpy())
    assert [image.mode for image in pil] == [{1: "L", 3: "RGB"}[channels]] * 2
    assert all(isinstance(image, Image.Image) for image in pil)
    assert np.array_equal(np.stack([np.array(image).reshape(8, 8, channels) for image in pil]), (array * 255).round())


def test_a_tuple_comes_out_on_request():
    pipe = pipeline()
    (images,) = pipe([1], num_inference_steps=2, output_type="pt", return_dict=False)
    assert images.shape == (1, 1, 8, 8)


def test_a_rectangular_model_draws_rectangles():
    assert latents_of(pipeline(tiny(sample_size=(8, 12)))).shape == (3, 1, 8, 12)


@pytest.mark.parametrize("size", [{}, {"height": 12}, {"width": 4}, {"height": 4, "width": 10}])
def test_a_size_that_is_left_out_is_the_models_own(size):
    shape = latents_of(pipeline(), **size).shape
    assert shape == (3, 1, size.get("height", 8), size.get("width", 8))


def test_a_vae_decodes_the_scaled_latents():
    torch.manual_seed(0)
    pipe = pipeline(tiny(in_channels=4), vae=tiny_vae())
    latents = latents_of(pipe, (1, 2))
    images = pipe([1, 2], generator=seeds(0, 1), guidance_scale=1.5, num_inference_steps=6, output_type="pt").images
    with torch.no_grad():
        decoded = pipe.vae.decode(latents / 0.5).sample
    assert images.shape == (2, 3, 16, 16)
    assert torch.equal(images, (decoded / 2 + 0.5).clamp(0, 1))


def test_with_a_vae_sizes_are_those_of_the_image():
    torch.manual_seed(0)
    pipe = pipeline(tiny(in_channels=4), vae=tiny_vae())
    assert latents_of(pipe, height=24, width=8).shape == (3, 4, 12, 4)
    assert pipe([1], num_inference_steps=2, height=24, width=8).images[0].size == (8, 24)


def test_half_precision_weights_keep_the_chain_in_float32():
    model, seen = tiny().bfloat16(), []
    images = latents_of(pipeline(model), on_step=lambda state: seen.append(state.latents))
    assert {x_t.dtype for x_t in seen} == {torch.float32}
    assert images.isfinite().all()


@each_scheduler
@pytest.mark.parametrize("with_vae", [False, True])
def test_a_saved_pipeline_draws_the_same_bits(tmp_path, with_vae, name):
    torch.manual_seed(0)
    pipe = pipeline(tiny(in_channels=4), vae=tiny_vae() if with_vae else None, scheduler=name)
    pipe.transformer.enable_cache(SkipCacheConfig(interval=2))
    pipe.transformer.disable_cache()
    pipe.save_pretrained(tmp_path)
    again = ClassToImagePipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert (again.vae is not None) == with_vae
    run = {"num_inference_steps": 4, "output_type": "latent"}
    draws = [p([1, 2], generator=seeds(0, 1), **run).images for p in (pipe, again)]
    assert torch.equal(*draws)


# What is refused.


@pytest.mark.parametrize("label", [-1, 11, 1000])
def test_class_ids_out_of_range_are_refused_with_the_range(label):
    with pytest.raises(ValueError, match=rf"class id {label} is out of range: take 0 to 10 \(10 is the null class\)"):
        pipeline()([3, label])


def test_without_a_null_class_there_is_no_guidance_and_no_null_id():
    pipe = pipeline(tiny(class_dropout_prob=0))
    with pytest.raises(ValueError, match=r"guidance_scale is 1\.5: this model has no null class, so take 1"):
        latents_of(pipe)
    with pytest.raises(ValueError, match="class id 10 is out of range: take 0 to 9"):
        latents_of(pipe, (10,), guidance_scale=1)
    assert latents_of(pipe, guidance_scale=1).isfinite().all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"class_labels": []}, "class_labels are empty"),
        ({"guidance_channels": 0}, "guidance_channels is 0: take 1 to 1, or 'all'"),
        ({"guidance_channels": 2}, "guidance_channels is 2"),
        ({"guidance_channels": "some"}, "guidance_channels is 'some'"),
        ({"output_type": "jpeg"}, "output_type is 'jpeg': take one of pil, np, pt, latent"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0"),
        ({"height": 7}, "image side 7 is not a multiple of 2"),
        ({"latents": torch.zeros(2, 1, 8, 8)}, "latents have shape"),
        ({"generator": seeds(1, 2)}, "2 generators for 1 labels"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        pipeline()(**{"class_labels": [1]} | settings)


def test_latents_are_no_picture_without_their_vae():
    pipe = pipeline(tiny(in_channels=4))
    with pytest.raises(ValueError, match="draws 4 channels, which are no picture: give the vae"):
        pipe([1], num_inference_steps=2, output_type="pt")
    assert pipe([1], num_inference_steps=2, output_type="latent").images.shape == (1, 4, 8, 8)


@pytest.mark.parametrize(("model", "scheduler"), [("epsilon", "v_prediction"), ("sample", "epsilon")])
def test_a_scheduler_that_reads_another_prediction_is_refused(model, scheduler):
    pipe = ClassToImagePipeline(tiny(prediction_type=model), make_scheduler("ddim", prediction_type=scheduler))
    with pytest.raises(ValueError, match=f"prediction_type is '{model}' in the model and '{scheduler}' in the sched"):
        pipe([1], guidance_scale=1.0, num_inference_steps=2)
