"""Processes: what is drawn, seen, told and asked, and that walking back along them finds the data."""

from dataclasses import replace

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from skipdit.diffusion import Denoising, FlowMatching, NoiseSchedule, learned_range_loss, mse_loss, process_of, to_x_0
from skipdit.randomness import generator

PREDICTIONS = ["epsilon", "sample", "v_prediction"]
SCHEDULE = NoiseSchedule.linear()


def samples(batch=6, channels=2):
    draw = generator(0)
    x_0, noise, output = (torch.randn(batch, channels, 4, 4, generator=draw) for _ in range(3))
    return x_0, noise, output


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("variance", [False, True])
def test_denoising_is_the_published_loss_on_its_own_x_t(prediction, variance):
    x_0, noise, output = samples()
    output = torch.cat([output, output], 1) if variance else output
    process = Denoising(prediction)
    t = process.draw_t(6, generator(1))
    x_t = process.add_noise(x_0, noise, t)
    ours = process.loss(output, x_0=x_0, noise=noise, x_t=x_t, t=t)
    loss = learned_range_loss if variance else mse_loss
    by_hand = loss(output, x_0=x_0, noise=noise, t=t, schedule=SCHEDULE, prediction=prediction)
    assert torch.equal(ours.total, by_hand.total)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("cap", [0.5, 5.0])
def test_min_snr_weighs_the_clean_samples_error_whatever_is_predicted(prediction, cap):
    """For x_0 and epsilon min(SNR, cap) times the error of x_0; for v, as the paper has it, over SNR / (SNR + 1)."""
    x_0, noise, output = (x.double() for x in samples())
    t = torch.tensor([0, 10, 200, 500, 800, 999])
    x_t = SCHEDULE.add_noise(x_0, noise, t)
    loss = Denoising(prediction, min_snr=cap).loss(output, x_0=x_0, noise=noise, x_t=x_t, t=t).mse
    error = (x_0 - to_x_0(output, x_t, t, schedule=SCHEDULE, prediction=prediction)).square().mean((1, 2, 3))
    snr = SCHEDULE.alpha_bar[t] / (1 - SCHEDULE.alpha_bar[t])
    torch.testing.assert_close(loss, error * snr.clamp(max=cap), rtol=1e-5, atol=0)


def test_a_flow_is_a_straight_line_told_in_thousandths():
    x_0, noise, _ = samples(batch=3)
    process, t = FlowMatching(), torch.tensor([0.0, 0.25, 1.0])
    x_t = process.add_noise(x_0, noise, t)
    assert torch.equal(x_t[0], x_0[0])
    torch.testing.assert_close(x_t[1], 0.75 * x_0[1] + 0.25 * noise[1])
    assert torch.equal(x_t[2], noise[2])
    assert process.timestep(t).tolist() == [0, 250, 1000]


def test_a_flow_has_the_noise_of_diffusers_at_the_times_of_diffusers():
    x_0, noise, _ = samples(batch=4)
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(4)
    process, t = FlowMatching(), scheduler.sigmas[:4]
    torch.testing.assert_close(process.timestep(t), scheduler.timesteps)
    theirs = scheduler.scale_noise(x_0, scheduler.timesteps, noise)
    torch.testing.assert_close(process.add_noise(x_0, noise, t), theirs)


def test_the_loss_of_a_flow_is_the_error_of_its_velocity():
    x_0, noise, output = samples()
    process, t = FlowMatching(), torch.rand(6)
    x_t = process.add_noise(x_0, noise, t)
    said = {"x_0": x_0, "noise": noise, "x_t": x_t, "t": t}
    assert torch.equal(process.loss(noise - x_0, **said).total, torch.zeros(6))
    torch.testing.assert_close(process.loss(output, **said).mse, (output - noise + x_0).square().mean((1, 2, 3)))
    with pytest.raises(ValueError, match="4 channels for 2: a flow has no variance"):
        process.loss(torch.cat([output, output], 1), **said)


@pytest.mark.parametrize("time", ["uniform", "logit-normal"])
def test_times_of_a_flow_are_drawn_as_named(time):
    t = FlowMatching(time).draw_t(20_000, generator(2))
    quarters = torch.quantile(t, torch.tensor([0.25, 0.5, 0.75])).tolist()
    normal = torch.special.ndtri(torch.tensor([0.25, 0.5, 0.75])).sigmoid().tolist()
    assert quarters == pytest.approx([0.25, 0.5, 0.75] if time == "uniform" else normal, abs=0.015)
    assert (t > 0).all()
    assert (t < 1).all()


@pytest.mark.parametrize("steps", [1, 3, 10])
@pytest.mark.parametrize("prediction", [*PREDICTIONS, "flow_prediction"])
def test_walking_with_one_true_answer_ends_at_the_data(prediction, steps):
    """With a data set of one sample, what a perfect model says is known for every x_t."""
    x_0, noise, _ = samples(batch=1)
    process = process_of(prediction)

    def perfect(x_t, t):
        if prediction == "flow_prediction":
            return (x_t - x_0) / (t / 1000)
        a, s = SCHEDULE.levels(torch.tensor([t]), like=x_t)
        eps = (x_t - a * x_0) / s
        return {"epsilon": eps, "sample": x_0, "v_prediction": a * eps - s * x_0}[prediction]

    *_, found = process.walk(perfect, noise, num_steps=steps)
    torch.testing.assert_close(found, x_0, rtol=0, atol=2e-4 if steps > 1 else 2e-2)


@pytest.mark.parametrize(
    ("prediction", "settings", "said"),
    [
        ("flow_prediction", {"min_snr": 5.0}, "a flow takes neither"),
        ("flow_prediction", {"v_weight_cap": 5.0}, "a flow takes neither"),
        ("epsilon", {"time": "logit-normal"}, "time is logit-normal, but the model says epsilon"),
    ],
)
def test_a_setting_that_cannot_take_effect_is_refused(prediction, settings, said):
    with pytest.raises(ValueError, match=said):
        process_of(prediction, **settings)


def test_two_weights_at_once_are_refused():
    x_0, noise, output = samples()
    process = replace(Denoising(), v_weight_cap=5.0, min_snr=5.0)
    with pytest.raises(ValueError, match="take one of them"):
        process.loss(output, x_0=x_0, noise=noise, x_t=x_0, t=torch.zeros(6, dtype=torch.long))
