"""The noise schedule: alpha_bar is the value, a shorter chain is a shorter alpha_bar."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from skipdit.diffusion import NoiseSchedule, respace

LINEAR = NoiseSchedule.linear()


@pytest.mark.parametrize(
    ("schedule", "config"),
    [
        (LINEAR, {"beta_schedule": "linear"}),
        (
            NoiseSchedule.scaled_linear(beta_start=0.00085, beta_end=0.018),
            {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.018},
        ),
    ],
)
def test_alpha_bar_equals_diffusers(schedule, config):
    theirs = DDPMScheduler(**config).alphas_cumprod.double()
    # They multiply up to 1000 factors in float32: relative error <= 1000 * 6e-8.
    torch.testing.assert_close(schedule.alpha_bar, theirs, rtol=6e-5, atol=0)


def test_betas_are_recovered_from_alpha_bar():
    # 1 - ratio loses four digits of sixteen where beta is 1e-4.
    torch.testing.assert_close(LINEAR.betas, torch.linspace(1e-4, 0.02, 1000).double(), rtol=1e-6, atol=0)
    assert LINEAR.alpha_bar.dtype == torch.float64


@pytest.mark.parametrize("num_steps", [20, 50, 100, 250])
@pytest.mark.parametrize("scheduler", [DDPMScheduler, DDIMScheduler])
def test_timesteps_equal_diffusers_linspace(scheduler, num_steps):
    theirs = scheduler(timestep_spacing="linspace")
    theirs.set_timesteps(num_steps)
    assert respace(1000, num_steps) == theirs.timesteps.tolist()


@pytest.mark.parametrize("num_steps", [*range(2, 60), 250, 999, 1000])
def test_respaced_timesteps_descend_strictly_from_the_last_to_the_first(num_steps):
    timesteps = respace(1000, num_steps)
    assert (len(timesteps), timesteps[0], timesteps[-1]) == (num_steps, 999, 0)
    assert timesteps == sorted(set(timesteps), reverse=True)


def test_one_step_starts_where_the_noise_is():
    assert respace(1000, 1) == [999]
    assert respace(1, 1) == [0]


@pytest.mark.parametrize("num_steps", [-1, 0, 1001])
def test_respace_refuses_impossible_lengths(num_steps):
    with pytest.raises(ValueError, match=f"num_steps is {num_steps}.*1 to 1000"):
        respace(1000, num_steps)


def test_respacing_to_every_timestep_changes_nothing():
    assert torch.equal(LINEAR.respaced(respace(1000, 1000)).alpha_bar, LINEAR.alpha_bar)


def test_respacing_keeps_alpha_bar_and_rebuilds_betas():
    timesteps = respace(1000, 250)
    spaced = LINEAR.respaced(timesteps)
    assert torch.equal(spaced.alpha_bar, LINEAR.alpha_bar[timesteps[::-1]])
    torch.testing.assert_close((1 - spaced.betas).cumprod(0), spaced.alpha_bar, rtol=1e-12, atol=0)


@pytest.mark.parametrize("timesteps", [[], [0, 1], [5, 5], [1000, 0], [3, -1]])
def test_respaced_refuses_lists_that_do_not_descend_inside_the_schedule(timesteps):
    with pytest.raises(ValueError, match="descend strictly"):
        LINEAR.respaced(timesteps)


@pytest.mark.parametrize("alpha_bar", [[], [[0.5]], [0.5, 0.5], [0.4, 0.5], [1.0, 0.5], [0.5, 0.0], [float("nan")]])
def test_schedule_refuses_what_is_not_a_decreasing_share(alpha_bar):
    with pytest.raises(ValueError, match="alpha_bar"):
        NoiseSchedule(torch.tensor(alpha_bar))


def test_add_noise_equals_diffusers():
    x_0, noise = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0, 1, 500, 999])
    theirs = DDPMScheduler().add_noise(x_0, noise, t)
    # Their 1 - alpha_bar_0 is 1e-4 with a float32 rounding of 6e-8: its root, 0.01, is off by 3e-6.
    torch.testing.assert_close(LINEAR.add_noise(x_0, noise, t), theirs, rtol=0, atol=1e-5)


def test_noising_preserves_unit_variance():
    signal, sigma = LINEAR.levels(torch.arange(1000), like=torch.zeros(1000, 1, dtype=torch.float64))
    torch.testing.assert_close(signal**2 + sigma**2, torch.ones_like(signal), rtol=0, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_coefficients_take_the_dtype_and_rank_of_the_sample(dtype):
    signal, _ = LINEAR.levels(torch.tensor([3, 700]), like=torch.zeros(2, 4, 8, 8, dtype=dtype))
    assert (signal.dtype, signal.shape) == (dtype, (2, 1, 1, 1))
    assert torch.equal(signal.flatten(), LINEAR.alpha_bar[[3, 700]].sqrt().to(dtype))
