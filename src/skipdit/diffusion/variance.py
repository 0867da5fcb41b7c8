"""One step back: the true posterior q and the model's p, both Gaussian.

    q(x_{t-1} | x_t, x_0):   mean = sqrt(alpha_bar_{t-1}) beta_t / (1 - alpha_bar_t) x_0
                                  + sqrt(alpha_t) (1 - alpha_bar_{t-1}) / (1 - alpha_bar_t) x_t
                             beta_tilde_t = (1 - alpha_bar_{t-1}) / (1 - alpha_bar_t) beta_t
    p(x_{t-1} | x_t):        the same mean, with the model's x_0 in place of x_0, and a variance that is either
        fixed_small          beta_tilde_t
        learned_range        exp(f log beta_t + (1 - f) log beta_tilde_t), f = (v + 1) / 2, v from the model

beta_tilde_0 is 0 and has no logarithm, so beta_tilde_1 stands in for it. A respaced schedule needs nothing of its own:
its betas are already the ratios of the alpha_bar that are left.
"""

from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from skipdit.diffusion.prediction import Prediction, to_x_0
from skipdit.diffusion.schedule import NoiseSchedule, gather

SCHEDULES = 8  # whose coefficients are kept: training asks for the same ones at every step
Variance = Literal["learned_range", "fixed_small"]


class Gaussian(NamedTuple):
    """A diagonal Gaussian: mean [B, ...] and log_variance, which broadcasts over it."""

    mean: Tensor
    log_variance: Tensor


def posterior(x_0: Tensor, x_t: Tensor, t: Tensor, *, schedule: NoiseSchedule) -> Gaussian:
    """q(x_{t-1} | x_t, x_0): where a sample came from, if its clean version is known.

    Shapes: x_0 and x_t [B, ...], t [B] integers; mean like x_t, log_variance [B, 1, ...].
    Source: DDPM (arXiv 2006.11239), eq. 6 and 7.
    """
    of_x_0, of_x_t = _mean_coefficients(schedule)
    mean = gather(of_x_0, t, like=x_t) * x_0 + gather(of_x_t, t, like=x_t) * x_t
    return Gaussian(mean, gather(log_beta_tilde(schedule), t, like=x_t))


def reverse(
    output: Tensor,
    x_t: Tensor,
    t: Tensor,
    *,
    schedule: NoiseSchedule,
    variance: Variance = "learned_range",
    prediction: Prediction = "epsilon",
) -> Gaussian:
    """p(x_{t-1} | x_t): the posterior with the model's guess of x_0 and, if it was learned, the model's variance.

    Shapes: x_t [B, C, ...], t [B] integers, output [B, 2C, ...]; "fixed_small" takes [B, C, ...] as well, and has no
    use for the second half of a longer output.
    Raises: ValueError for other shapes or for an unknown `variance` or `prediction`.
    Source: improved DDPM (arXiv 2102.09672), section 3.1.
    """
    said, v = split_output(output, x_t)
    fixed = posterior(to_x_0(said, x_t, t, schedule=schedule, prediction=prediction), x_t, t, schedule=schedule)
    match variance:
        case "fixed_small":
            return fixed
        case "learned_range":
            return Gaussian(fixed.mean, learned_log_variance(_required(v, x_t), t, schedule=schedule))
    raise ValueError(f"variance is {variance!r}; it must be 'learned_range' or 'fixed_small'.")


def learned_log_variance(v: Tensor, t: Tensor, *, schedule: NoiseSchedule) -> Tensor:
    """The model's log-variance: v = -1 says beta_tilde_t, v = 1 says beta_t, between them the logarithm is linear.

    Shapes: v [B, ...], t [B] integers; the result is like v.
    Source: improved DDPM (arXiv 2102.09672), eq. 15, which writes f = (v + 1) / 2 as v.
    """
    f = (v + 1) / 2
    upper, lower = gather(schedule.betas.log(), t, like=v), gather(log_beta_tilde(schedule), t, like=v)
    return f * upper + (1 - f) * lower


@lru_cache(maxsize=SCHEDULES)
def beta_tilde(schedule: NoiseSchedule) -> Tensor:
    """The variance of the posterior, [T]: 0 at t = 0, where x_0 leaves nothing open."""
    return (1 - schedule.alpha_bar_prev) / (1 - schedule.alpha_bar) * schedule.betas


@lru_cache(maxsize=SCHEDULES)
def log_beta_tilde(schedule: NoiseSchedule) -> Tensor:
    """log beta_tilde_t, [T], with log beta_tilde_1 at t = 0 (log beta_0 if the chain has one step only)."""
    later = beta_tilde(schedule)[1:]
    first = later[:1] if len(schedule) > 1 else schedule.betas
    return torch.cat([first, later]).log()


def split_output(output: Tensor, x_t: Tensor) -> tuple[Tensor, Tensor | None]:
    """A model output as (prediction, v), where v is None if the model has no variance channels.

    Shapes: x_t [B, C, ...], output [B, C, ...] or [B, 2C, ...].
    Raises: ValueError for another shape.
    """
    channels = x_t.shape[1]
    if output.shape[1] not in (channels, 2 * channels) or output[:, :channels].shape != x_t.shape:
        raise ValueError(
            f"the model output has shape {tuple(output.shape)} for x_t {tuple(x_t.shape)}; it must have the same shape,"
            f" or {2 * channels} channels if it learned its variance."
        )
    return output[:, :channels], output[:, channels:] if output.shape[1] > channels else None


@lru_cache(maxsize=SCHEDULES)
def _mean_coefficients(schedule: NoiseSchedule) -> tuple[Tensor, Tensor]:
    alpha_bar, alpha_bar_prev, betas = schedule.alpha_bar, schedule.alpha_bar_prev, schedule.betas
    of_x_0 = alpha_bar_prev.sqrt() * betas / (1 - alpha_bar)
    of_x_t = (1 - betas).sqrt() * (1 - alpha_bar_prev) / (1 - alpha_bar)
    return of_x_0, of_x_t


def _required(v: Tensor | None, x_t: Tensor) -> Tensor:
    if v is None:
        raise ValueError(
            f"the model output has {x_t.shape[1]} channels, but 'learned_range' needs {2 * x_t.shape[1]}; use"
            " 'fixed_small' (or `mse_loss`) for a model that did not learn its variance."
        )
    return v
