"""What a model says about x_t = a x_0 + s eps, where a = sqrt(alpha_bar_t) and s = sqrt(1 - alpha_bar_t).

    epsilon        eps                        x_0 = (x_t - s eps) / a
    sample         x_0                        eps = (x_t - a x_0) / s
    v_prediction   v = a eps - s x_0          x_0 = a x_t - s v,    eps = s x_t + a v

The three names are those of diffusers' scheduler configs.
"""

from typing import Literal

from torch import Tensor

from skipdit.diffusion.schedule import NoiseSchedule

Prediction = Literal["epsilon", "sample", "v_prediction"]


def to_x_0(output: Tensor, x_t: Tensor, t: Tensor, *, schedule: NoiseSchedule, prediction: Prediction) -> Tensor:
    """The clean sample that a model output stands for.

    Shapes: output and x_t [B, ...], t [B] integers; the result is like x_t.
    Raises: ValueError for an unknown `prediction`.
    Source: DDPM (arXiv 2006.11239), eq. 15; v: progressive distillation (arXiv 2202.00512), appendix D.
    """
    a, s = schedule.levels(t, like=x_t)
    match prediction:
        case "epsilon":
            return (x_t - s * output) / a
        case "sample":
            return output
        case "v_prediction":
            return a * x_t - s * output
    raise _unknown(prediction)


def to_eps(output: Tensor, x_t: Tensor, t: Tensor, *, schedule: NoiseSchedule, prediction: Prediction) -> Tensor:
    """The noise that a model output stands for; shapes, errors and source as in `to_x_0`."""
    a, s = schedule.levels(t, like=x_t)
    match prediction:
        case "epsilon":
            return output
        case "sample":
            return (x_t - a * output) / s
        case "v_prediction":
            return s * x_t + a * output
    raise _unknown(prediction)


def to_v(output: Tensor, x_t: Tensor, t: Tensor, *, schedule: NoiseSchedule, prediction: Prediction) -> Tensor:
    """The velocity v = a eps - s x_0 that a model output stands for; shapes, errors and source as in `to_x_0`."""
    a, s = schedule.levels(t, like=x_t)
    match prediction:
        case "epsilon":
            return (output - s * x_t) / a
        case "sample":
            return (a * x_t - output) / s
        case "v_prediction":
            return output
    raise _unknown(prediction)


def training_target(
    x_0: Tensor, noise: Tensor, t: Tensor, *, schedule: NoiseSchedule, prediction: Prediction
) -> Tensor:
    """What a model of this kind should say when x_t was made of x_0 and `noise`.

    Shapes: x_0 and noise [B, ...], t [B] integers; the result is like x_0.
    Raises: ValueError for an unknown `prediction`.
    """
    match prediction:
        case "epsilon":
            return noise
        case "sample":
            return x_0
        case "v_prediction":
            a, s = schedule.levels(t, like=x_0)
            return a * noise - s * x_0
    raise _unknown(prediction)


def _unknown(prediction: str) -> ValueError:
    return ValueError(f"prediction is {prediction!r}; it must be 'epsilon', 'sample' or 'v_prediction'.")
