"""Three ways to say the same thing about x_t."""

from itertools import product
from typing import get_args

import pytest
import torch
from diffusers import DDPMScheduler

from skipdit.diffusion import NoiseSchedule, Prediction, to_eps, to_v, to_x_0, training_target

SCHEDULE = NoiseSchedule.linear()
TO = {"epsilon": to_eps, "sample": to_x_0, "v_prediction": to_v}
T = torch.tensor([0, 10, 500, 999])


def a_noised_sample():
    generator = torch.Generator().manual_seed(0)
    x_0, noise = torch.randn(2, 4, 3, 2, generator=generator, dtype=torch.float64)
    return x_0, noise, SCHEDULE.add_noise(x_0, noise, T)


@pytest.mark.parametrize(("source", "target"), [*product(get_args(Prediction), repeat=2)])
def test_every_prediction_converts_to_every_other(source, target):
    x_0, noise, x_t = a_noised_sample()
    said, meant = (training_target(x_0, noise, T, schedule=SCHEDULE, prediction=kind) for kind in (source, target))
    converted = TO[target](said, x_t, T, schedule=SCHEDULE, prediction=source)
    torch.testing.assert_close(converted, meant, rtol=0, atol=1e-12)  # 1e-16, divided by a or s >= 6e-3


@pytest.mark.parametrize("kind", get_args(Prediction))
def test_converting_there_and_back_changes_nothing(kind):
    _, output, x_t = a_noised_sample()
    for other in get_args(Prediction):
        there = TO[other](output, x_t, T, schedule=SCHEDULE, prediction=kind)
        back = TO[kind](there, x_t, T, schedule=SCHEDULE, prediction=other)
        torch.testing.assert_close(back, output, rtol=0, atol=1e-10)  # x_0 <-> eps divides by a or s, down to 6e-3


def test_velocity_equals_diffusers():
    x_0, noise, _ = (x.float() for x in a_noised_sample())
    ours = training_target(x_0, noise, T, schedule=SCHEDULE, prediction="v_prediction")
    # Their 1 - alpha_bar_0 is 1e-4 with a float32 rounding of 6e-8: its root, 0.01, is off by 3e-6.
    torch.testing.assert_close(ours, DDPMScheduler().get_velocity(x_0, noise, T), rtol=0, atol=1e-5)


@pytest.mark.parametrize("convert", TO.values())
def test_unknown_predictions_are_refused(convert):
    _, noise, x_t = a_noised_sample()
    with pytest.raises(ValueError, match="'flow'"):
        convert(noise, x_t, T, schedule=SCHEDULE, prediction="flow")
    with pytest.raises(ValueError, match="'flow'"):
        training_target(x_t, noise, T, schedule=SCHEDULE, prediction="flow")
