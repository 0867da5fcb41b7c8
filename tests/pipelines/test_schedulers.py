"""Schedulers by name: the published one is exact, and every name runs."""

import pytest
import torch

from skipdit.diffusion import respace
from skipdit.pipelines.schedulers import SCHEDULERS, make_scheduler
from tests.pipelines.tiny import latents_of, pipeline


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
