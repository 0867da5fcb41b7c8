"""Schedulers by name: the published one is exact, and every name runs."""

import diffusers
import pytest
import torch

from skipdit import SkipCacheConfig
from skipdit.caching import plan
from skipdit.diffusion import NoiseSchedule, respace
from skipdit.pipelines.schedulers import HUNYUAN_V1_1, HUNYUAN_V1_2, SCHEDULERS, Noise, make_scheduler, set_timesteps
from tests.pipelines.tiny import latents_of, pipeline, tiny


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_every_scheduler_draws_finite_images(name, steps):
    assert latents_of(pipeline(scheduler=name), steps=steps).isfinite().all()


@pytest.mark.parametrize("name", [name for name in SCHEDULERS if name not in ("ddpm", "ddim-leading")])
def test_every_other_scheduler_starts_where_the_noise_is(name):
    scheduler = make_scheduler(name)
    scheduler.set_timesteps(10)
    assert scheduler.timesteps[0] == 999


@pytest.mark.parametrize("steps", [50, 100])
def test_ddim_leading_visits_the_timesteps_published_for_text_to_video(steps):
    scheduler = make_scheduler("ddim-leading")
    scheduler.set_timesteps(steps)
    assert scheduler.timesteps.tolist() == [*range(1000 - 1000 // steps, -1, -1000 // steps)]


@pytest.mark.parametrize("steps", [20, 50, 100, 250])
def test_ddpm_visits_the_published_timesteps(steps):
    scheduler = make_scheduler("ddpm")
    scheduler.set_timesteps(steps)
    assert scheduler.timesteps.tolist() == respace(1000, steps)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_walks_down_the_betas_of_dit(name):
    scheduler = make_scheduler(name)
    assert torch.equal(scheduler.betas, torch.linspace(1e-4, 0.02, 1000))
    scheduler.set_timesteps(10)
    assert (scheduler.timesteps.float().diff() <= 0).all()


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("learned", [False, True])
def test_only_ddpm_takes_a_learned_variance(name, learned):
    variance = make_scheduler(name, learned_variance=learned).config.get("variance_type")
    assert (variance == "learned_range") == (name == "ddpm" and learned)


def test_an_unknown_name_is_answered_with_the_names():
    with pytest.raises(ValueError, match=r"unknown scheduler 'pndm': take one of ddpm, ddim, ddim-leading, dpm\+\+"):
        make_scheduler("pndm")


# HunyuanDiT's.

HUNYUANS = pytest.mark.parametrize(("noise", "beta_end"), [(HUNYUAN_V1_1, 0.03), (HUNYUAN_V1_2, 0.018)])


@HUNYUANS
@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_walks_down_the_betas_of_hunyuan(name, noise, beta_end):
    scheduler = make_scheduler(name, noise=noise, prediction_type="v_prediction")
    published = NoiseSchedule.scaled_linear(beta_start=0.00085, beta_end=beta_end)
    torch.testing.assert_close(scheduler.betas, published.betas.float())
    assert scheduler.config.prediction_type == "v_prediction"
    assert name != "ddpm" or scheduler.config.variance_type == "fixed_small"
    assert not scheduler.config.get("clip_sample", False)


@pytest.mark.parametrize("name", ["ddpm", "ddim"])
@pytest.mark.parametrize(
    ("steps", "counts"),
    [
        (100, ["67/33", "56/44", "50/50", "48/52", "45/55"]),
        (50, ["33/17", "28/22", "25/25", "24/26", "22/28"]),
    ],
)
def test_the_published_cache_of_text_to_image_computes_the_published_steps(name, steps, counts):
    timesteps = set_timesteps(make_scheduler(name, noise=HUNYUAN_V1_2), steps)
    assert timesteps == [*range(1001 - 1000 // steps, 0, -1000 // steps)]
    caches = [SkipCacheConfig(interval=interval, window=(50, 700)) for interval in range(2, 7)]
    plans = [plan(cache.schedule, timesteps) for cache in caches]
    assert [f"{each.full}/{each.cached}" for each in plans] == counts


@pytest.mark.parametrize("steps", [10, 25, 50])
def test_dpmms_is_dpm_in_the_published_spelling_and_timesteps(steps):
    """From 999 in steps of 999 / S, which ends at 999 / S."""
    scheduler = make_scheduler("dpmms", noise=HUNYUAN_V1_2)
    assert set_timesteps(scheduler, steps) == [round(999 * left / steps) for left in range(steps, 0, -1)]
    found = scheduler.config
    assert (type(scheduler).__name__, found.solver_order, found.algorithm_type) == (
        "DPMSolverMultistepScheduler", 2, "dpmsolver++",
    )  # fmt: skip
    assert make_scheduler("dpmms").config == make_scheduler("dpm++").config


@pytest.mark.parametrize(("start", "end"), [(1e-4, 1.0), (0.0, 0.02), (0.02, 1e-4), (1e-4, float("nan"))])
def test_betas_rise_inside_0_to_1(start, end):
    with pytest.raises(ValueError, match=rf"betas go from {start} to {end}: beta_end must lie above beta_start"):
        Noise(beta_start=start, beta_end=end)


@pytest.mark.parametrize(
    "kind",
    [
        "DDIMScheduler", "DDPMScheduler", "DEISMultistepScheduler", "DPMSolverMultistepScheduler",
        "DPMSolverSinglestepScheduler", "EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler",
        "HeunDiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler", "LCMScheduler",
        "PNDMScheduler", "SASolverScheduler", "UniPCMultistepScheduler",
    ],
)  # fmt: skip
def test_a_scheduler_made_from_the_config_of_another_draws(kind):
    pipe = pipeline(tiny(in_channels=4), vae=None, scheduler="ddpm")
    assert pipe.scheduler.config.variance_type == "learned_range"
    pipe.scheduler = getattr(diffusers, kind).from_config(pipe.scheduler.config)
    drawn = pipe([1], num_inference_steps=4, output_type="latent", generator=torch.Generator().manual_seed(0)).images
    assert drawn.shape[1] == 4
    assert drawn.isfinite().all()


def test_a_scheduler_of_other_noise_is_refused():
    pipe = pipeline(tiny(in_channels=4), vae=None, scheduler="ddpm")
    pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    with pytest.raises(ValueError, match="'epsilon' in the model and 'flow_prediction' in the scheduler"):
        pipe([1], num_inference_steps=2, output_type="latent")


def test_ddpm_and_its_parallel_twin_draw_the_same():
    """Both take the variance that the model learned."""
    pipe, drawn = pipeline(scheduler="ddpm"), []
    for kind in ("DDPMScheduler", "DDPMParallelScheduler"):
        pipe.scheduler = getattr(diffusers, kind).from_config(pipe.scheduler.config)
        torch.manual_seed(0)
        drawn.append(latents_of(pipe, steps=5))
    torch.testing.assert_close(*drawn)


@pytest.mark.parametrize("kind", ["RePaintScheduler", "DPMSolverMultistepInverseScheduler", "CogVideoXDPMScheduler"])
def test_a_scheduler_that_does_not_draw_from_noise_is_refused_by_name(kind):
    pipe = pipeline(scheduler="ddim")
    pipe.scheduler = getattr(diffusers, kind).from_config(pipe.scheduler.config)
    with pytest.raises(ValueError, match=f"scheduler is a {kind}, which does not draw from noise"):
        latents_of(pipe, steps=5)
