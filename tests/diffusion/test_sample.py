"""Samplers: step by step equal to diffusers, and exact where the algebra is."""

import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from skipdit.diffusion import NoiseSchedule, ddim, ddpm, respace

SCHEDULE = NoiseSchedule.linear()
SHAPE = (2, 4, 8, 8)

# They keep alpha_bar and beta in float32, where beta = 1 - alpha_bar_t / alpha_bar_{t-1} has a relative error up to
# 6e-8 / 1e-4, and divide by sqrt(alpha_bar) >= 6e-3. Measured: at most 2.5e-5 (|x| up to 7), for one step or 250.
CLOSE = {"rtol": 0, "atol": 5e-5}


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


MIX = normal(8, 4, seed=7) / 4


def learned(x_t, t):
    """A smooth stand-in for a network with learned variance: [B, 4, H, W] -> [B, 8, H, W]."""
    mixed = torch.einsum("oc, bchw -> bohw", MIX.to(x_t), x_t).tanh()
    return torch.cat([0.9 * x_t + 0.1 * mixed[:, :4], mixed[:, 4:] * math.cos(t)], dim=1)


def plain(x_t, t):
    return learned(x_t, t)[:, :4]


def walk(scheduler, denoise, x_t, **step):
    for t in scheduler.timesteps:
        x_t = scheduler.step(denoise(x_t, t.item()), t, x_t, **step).prev_sample
        yield x_t


def assert_same_walk(ours, theirs):
    ours, theirs = list(ours), list(theirs)
    assert len(ours) == len(theirs)
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x, y, **CLOSE)


def their_ddpm(num_steps, variance, spacing="linspace", **config):
    scheduler = DDPMScheduler(variance_type=variance, clip_sample=False, timestep_spacing=spacing, **config)
    scheduler.set_timesteps(num_steps)
    return scheduler


def their_ddim(num_steps, spacing, **config):
    scheduler = DDIMScheduler(clip_sample=False, timestep_spacing=spacing, **config)
    scheduler.set_timesteps(num_steps)
    return scheduler


@pytest.mark.parametrize("num_steps", [20, 50, 250])
@pytest.mark.parametrize(("variance", "denoise"), [("learned_range", learned), ("fixed_small", plain)])
def test_ddpm_walks_as_diffusers(num_steps, variance, denoise):
    ours = ddpm(
        denoise,
        normal(*SHAPE),
        timesteps=respace(1000, num_steps),
        schedule=SCHEDULE,
        generator=torch.Generator().manual_seed(1),
        variance=variance,
    )
    theirs = their_ddpm(num_steps, variance)
    assert_same_walk(ours, walk(theirs, denoise, normal(*SHAPE), generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize(("variance", "denoise"), [("learned_range", learned), ("fixed_small", plain)])
def test_ddpm_is_that_of_diffusers_to_float64_when_the_tables_are_ours(variance, denoise):
    theirs = their_ddpm(50, variance)
    theirs.alphas_cumprod = SCHEDULE.alpha_bar
    x_t = normal(*SHAPE, dtype=torch.float64)
    common = {"timesteps": respace(1000, 50), "schedule": SCHEDULE, "variance": variance}
    ours = ddpm(denoise, x_t, **common, generator=torch.Generator().manual_seed(1))
    expected = walk(theirs, denoise, x_t, generator=torch.Generator().manual_seed(1))
    for x, y in zip(ours, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-10)


@pytest.mark.parametrize("num_steps", [20, 100, 250])
def test_each_ddpm_step_equals_diffusers(num_steps):
    timesteps, scheduler = respace(1000, num_steps), their_ddpm(num_steps, "learned_range")
    x_t = normal(*SHAPE)
    ours = ddpm(learned, x_t, timesteps=timesteps, schedule=SCHEDULE, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(1)
    for t, x_prev in zip(timesteps, ours, strict=True):
        theirs = scheduler.step(learned(x_t, t), t, x_t, generator=generator).prev_sample
        torch.testing.assert_close(x_prev, theirs, **CLOSE)
        x_t = x_prev


def test_ddpm_walks_hunyuan_noise_as_diffusers():
    config = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.018, "steps_offset": 1}
    theirs = their_ddpm(50, "fixed_small", spacing="leading", prediction_type="v_prediction", **config)
    ours = ddpm(
        plain,
        normal(*SHAPE),
        timesteps=theirs.timesteps.tolist(),
        schedule=NoiseSchedule.scaled_linear(beta_start=0.00085, beta_end=0.018),
        generator=torch.Generator().manual_seed(1),
        variance="fixed_small",
        prediction="v_prediction",
    )
    assert_same_walk(ours, walk(theirs, plain, normal(*SHAPE), generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("num_steps", [20, 50, 250])
@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_ddim_walks_as_diffusers(num_steps, spacing, prediction):
    theirs = their_ddim(num_steps, spacing, prediction_type=prediction)
    timesteps = theirs.timesteps.tolist()
    ours = ddim(plain, normal(*SHAPE), timesteps=timesteps, schedule=SCHEDULE, prediction=prediction)
    assert_same_walk(ours, walk(theirs, plain, normal(*SHAPE)))


def test_ddim_of_diffusers_misses_the_next_timestep_of_a_linspace():
    """The documented difference: from 999 they go to 999 - 1000 // 20, but the next timestep they visit is 946."""
    theirs = their_ddim(20, "linspace")
    x_t = normal(*SHAPE)
    x_prev = theirs.step(plain(x_t, 999), 999, x_t).prev_sample
    to_949, to_946 = (next(ddim(plain, x_t, timesteps=[999, t], schedule=SCHEDULE)) for t in (949, 946))
    assert theirs.timesteps[1] == 946
    torch.testing.assert_close(to_949, x_prev, **CLOSE)
    assert (to_946 - x_prev).abs().max() > 0.01


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_noisy_ddim_walks_as_diffusers(eta):
    theirs = their_ddim(50, "leading")
    ours = ddim(
        plain,
        normal(*SHAPE),
        timesteps=theirs.timesteps.tolist(),
        schedule=SCHEDULE,
        eta=eta,
        generator=torch.Generator().manual_seed(1),
    )
    assert_same_walk(ours, walk(theirs, plain, normal(*SHAPE), eta=eta, generator=torch.Generator().manual_seed(1)))


def test_ddim_with_all_its_noise_is_ddpm():
    common = {"timesteps": respace(1000, 20), "schedule": SCHEDULE}
    x_t = normal(*SHAPE, dtype=torch.float64)
    implicit = ddim(plain, x_t, **common, eta=1.0, generator=torch.Generator().manual_seed(1))
    ancestral = ddpm(plain, x_t, **common, variance="fixed_small", generator=torch.Generator().manual_seed(1))
    for x, y in zip(implicit, ancestral, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("num_steps", [1, 2, 20])
@pytest.mark.parametrize("sampler", [ddim, ddpm])
def test_an_oracle_is_followed_back_to_the_data(sampler, num_steps):
    x_0, x_t = normal(*SHAPE, dtype=torch.float64), normal(*SHAPE, seed=1, dtype=torch.float64)
    kind = {"variance": "fixed_small"} if sampler is ddpm else {}
    walked = sampler(
        lambda x_t, t: x_0,
        x_t,
        timesteps=respace(1000, num_steps),
        schedule=SCHEDULE,
        generator=torch.Generator().manual_seed(1),
        prediction="sample",
        **kind,
    )
    torch.testing.assert_close([*walked][-1], x_0, rtol=0, atol=1e-12)


def test_deterministic_ddim_keeps_the_noise_it_started_with():
    x_0, noise = normal(2, *SHAPE, dtype=torch.float64)
    timesteps = respace(1000, 20)
    x_t = SCHEDULE.add_noise(x_0, noise, torch.tensor([999, 999]))
    for t, x in zip(
        timesteps[1:], ddim(lambda x_t, t: noise, x_t, timesteps=timesteps, schedule=SCHEDULE), strict=False
    ):
        torch.testing.assert_close(x, SCHEDULE.add_noise(x_0, noise, torch.tensor([t, t])), rtol=0, atol=1e-10)


@pytest.mark.parametrize("sampler", [ddim, ddpm])
def test_denoise_is_asked_once_at_each_timestep_of_the_training_chain(sampler):
    asked = []

    def denoise(x_t, t):
        asked.append(t)
        return learned(x_t, t)

    timesteps = respace(1000, 7)
    list(sampler(denoise, normal(*SHAPE), timesteps=timesteps, schedule=SCHEDULE, generator=torch.Generator()))
    assert asked == timesteps


def test_ddim_has_no_use_for_the_variance_channels():
    common = {"timesteps": respace(1000, 5), "schedule": SCHEDULE}
    for x, y in zip(ddim(learned, normal(*SHAPE), **common), ddim(plain, normal(*SHAPE), **common), strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize("sampler", [ddim, ddpm])
def test_samplers_record_no_gradient_and_leave_their_input(sampler):
    x_t = normal(*SHAPE).requires_grad_()
    before = x_t.detach().clone()
    walked = sampler(learned, x_t, timesteps=[999, 0], schedule=SCHEDULE, generator=torch.Generator())
    assert not any(x.requires_grad for x in walked)
    assert torch.equal(x_t, before)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("eta", [-0.1, 1.1, float("nan")])
def test_eta_outside_its_range_is_refused(eta):
    with pytest.raises(ValueError, match="eta is"):
        next(ddim(plain, normal(*SHAPE), timesteps=[1, 0], schedule=SCHEDULE, eta=eta, generator=torch.Generator()))


def test_noise_without_a_generator_is_refused():
    with pytest.raises(ValueError, match="no generator"):
        next(ddim(plain, normal(*SHAPE), timesteps=[1, 0], schedule=SCHEDULE, eta=0.5))


@pytest.mark.parametrize("sampler", [ddim, ddpm])
def test_ascending_timesteps_are_refused(sampler):
    with pytest.raises(ValueError, match="descend strictly"):
        next(sampler(learned, normal(*SHAPE), timesteps=[0, 999], schedule=SCHEDULE, generator=torch.Generator()))
