"""From noise to data, one step at a time.

    ddpm   x_prev = mean of p(x_prev | x_t) + its standard deviation * noise
    ddim   x_prev = sqrt(alpha_bar_prev) x_0 + sqrt(1 - alpha_bar_prev - sigma^2) eps + sigma * noise
           sigma  = eta sqrt(beta_tilde_t)

Both walk down a list of timesteps, ask `denoise` once at each, and yield every x that they reach; the last one is the
sample. No noise is added on the last step. Take the result with `*_, x_0 = ddpm(...)`, or look at each x on the way.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from skipdit.diffusion.prediction import Prediction, to_eps, to_x_0
from skipdit.diffusion.schedule import NoiseSchedule, gather
from skipdit.diffusion.variance import Variance, beta_tilde, reverse, split_output

Denoise = Callable[[Tensor, int], Tensor]  # (x_t, t) -> model output; t is a timestep of the training chain


@torch.no_grad()
def ddpm(
    denoise: Denoise,
    x_t: Tensor,
    *,
    timesteps: Sequence[int],
    schedule: NoiseSchedule,
    generator: torch.Generator,
    variance: Variance = "learned_range",
    prediction: Prediction = "epsilon",
) -> Iterator[Tensor]:
    """Ancestral sampling: draw each x from the model's Gaussian around the one before.

    Shapes: x_t [B, C, ...] is noise; `denoise` gives [B, 2C, ...], or [B, C, ...] with "fixed_small"; yields
    len(timesteps) tensors like x_t. Noise is drawn on the generator's device, so that a CPU seed holds everywhere.
    Raises: ValueError, at the first step, for timesteps that do not descend inside the schedule or for other shapes.
    Source: DDPM (arXiv 2006.11239), algorithm 2, without clipping; respacing: arXiv 2102.09672, section 4.
    """
    spaced = schedule.respaced(timesteps)
    for i, t in _positions(timesteps):
        step = _batch_of(i, x_t)
        p = reverse(denoise(x_t, t), x_t, step, schedule=spaced, variance=variance, prediction=prediction)
        x_t = p.mean if i == 0 else p.mean + (0.5 * p.log_variance).exp() * _noise(x_t, generator)
        yield x_t


@torch.no_grad()
def ddim(
    denoise: Denoise,
    x_t: Tensor,
    *,
    timesteps: Sequence[int],
    schedule: NoiseSchedule,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
    prediction: Prediction = "epsilon",
) -> Iterator[Tensor]:
    """Implicit sampling: follow the predicted noise down; eta 0 is deterministic, eta 1 as noisy as `ddpm`.

    Each step goes to the next timestep of the list. (diffusers' DDIMScheduler goes to t - T // S instead, which is the
    same for "leading" spacing, and for "trailing" where S divides T, but not for "linspace".)
    Shapes: x_t [B, C, ...]; `denoise` gives [B, C, ...], or [B, 2C, ...] whose variance channels are not used; yields
    len(timesteps) tensors like x_t.
    Raises: ValueError, at the first step, as `ddpm`, for eta outside [0, 1], or for eta > 0 without a generator (eta 0
    draws nothing).
    Source: DDIM (arXiv 2010.02502), eq. 12 and 16.
    """
    _check_eta(eta, generator)
    spaced = schedule.respaced(timesteps)
    for i, t in _positions(timesteps):
        output, _ = split_output(denoise(x_t, t), x_t)
        x_t = _ddim_mean(output, x_t, _batch_of(i, x_t), schedule=spaced, eta=eta, prediction=prediction)
        if eta > 0 and i > 0:
            x_t = x_t + gather(_sigma(spaced, eta), _batch_of(i, x_t), like=x_t) * _noise(x_t, generator)
        yield x_t


def _ddim_mean(
    output: Tensor, x_t: Tensor, step: Tensor, *, schedule: NoiseSchedule, eta: float, prediction: Prediction
) -> Tensor:
    x_0 = to_x_0(output, x_t, step, schedule=schedule, prediction=prediction)
    eps = to_eps(output, x_t, step, schedule=schedule, prediction=prediction)
    along_x_0 = schedule.alpha_bar_prev.sqrt()
    # Never negative, but a float32 alpha_bar may round it there.
    along_eps = (1 - schedule.alpha_bar_prev - _sigma(schedule, eta) ** 2).clamp(min=0).sqrt()
    return gather(along_x_0, step, like=x_t) * x_0 + gather(along_eps, step, like=x_t) * eps


def _sigma(schedule: NoiseSchedule, eta: float) -> Tensor:
    return eta * beta_tilde(schedule).sqrt()


def _positions(timesteps: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(i, t): timestep t of the training chain is step i of the respaced one."""
    return zip(range(len(timesteps) - 1, -1, -1), timesteps, strict=True)


def _batch_of(step: int, x_t: Tensor) -> Tensor:
    return torch.full((len(x_t),), step, device=x_t.device)


def _noise(x_t: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(x_t.shape, generator=generator, device=generator.device, dtype=x_t.dtype)
    return noise.to(x_t.device)


def _check_eta(eta: float, generator: torch.Generator | None) -> None:
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta}; it must be in [0, 1].")
    if eta > 0 and generator is None:
        raise ValueError(f"eta is {eta}, so noise is drawn, but no generator was given; pass one, or set eta to 0.")
