"""How much noise at which timestep.

    beta_t      = 1 - alpha_t                      the variance added by step t
    alpha_bar_t = alpha_0 * ... * alpha_t          the variance of the signal that is left after step t
    x_t         = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) noise

`alpha_bar` alone is the schedule; everything else follows from it. So a chain with fewer steps is the same object
with fewer entries: keep some `alpha_bar`, and their ratios are the new `alpha`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

NUM_TRAIN_STEPS = 1000  # these three: DDPM, section 4
BETA_START = 1e-4
BETA_END = 0.02


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """The share of signal, `alpha_bar`, that is left after each step of a noising chain.

    Shapes: alpha_bar [T], strictly decreasing inside (0, 1), float64 when built by `linear` or `scaled_linear`.
    Raises: ValueError if `alpha_bar` is not such a sequence.
    Source: DDPM (arXiv 2006.11239), section 2.
    """

    alpha_bar: Tensor

    def __post_init__(self) -> None:
        _check_alpha_bar(self.alpha_bar)

    @classmethod
    def linear(
        cls, *, num_train_steps: int = NUM_TRAIN_STEPS, beta_start: float = BETA_START, beta_end: float = BETA_END
    ) -> NoiseSchedule:
        """Betas on a straight line, as in DDPM and DiT."""
        return cls.from_betas(_line(beta_start, beta_end, num_train_steps))

    @classmethod
    def scaled_linear(
        cls, *, beta_start: float, beta_end: float, num_train_steps: int = NUM_TRAIN_STEPS
    ) -> NoiseSchedule:
        """Square roots of the betas on a straight line, as in latent diffusion and HunyuanDiT."""
        return cls.from_betas(_line(beta_start**0.5, beta_end**0.5, num_train_steps) ** 2)

    @classmethod
    def from_betas(cls, betas: Tensor) -> NoiseSchedule:
        """alpha_bar_t = prod_{s <= t} (1 - beta_s), for betas [T]."""
        return cls((1 - betas).cumprod(0))

    def __len__(self) -> int:
        return len(self.alpha_bar)

    @cached_property
    def alpha_bar_prev(self) -> Tensor:
        """alpha_bar_{t-1}, [T]; 1 before the first step."""
        return torch.cat([self.alpha_bar.new_ones(1), self.alpha_bar[:-1]])

    @cached_property
    def betas(self) -> Tensor:
        """beta_t = 1 - alpha_bar_t / alpha_bar_{t-1}, [T]."""
        return 1 - self.alpha_bar / self.alpha_bar_prev

    def respaced(self, timesteps: Sequence[int]) -> NoiseSchedule:
        """The shorter chain that visits only `timesteps`; its step i is timestep `timesteps[-1 - i]` of this one.

        Shapes: timesteps, strictly descending inside [0, T); the result has one entry for each.
        Raises: ValueError if `timesteps` is empty, not strictly descending, or leaves [0, T).
        Source: improved DDPM (arXiv 2102.09672), section 4.
        """
        _check_timesteps(timesteps, bound=len(self))
        return NoiseSchedule(self.alpha_bar[list(reversed(timesteps))])

    @cached_property
    def signal_and_noise(self) -> tuple[Tensor, Tensor]:
        """sqrt(alpha_bar_t) and sqrt(1 - alpha_bar_t), each [T]."""
        return self.alpha_bar.sqrt(), (1 - self.alpha_bar).sqrt()

    def levels(self, t: Tensor, *, like: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(alpha_bar_t) and sqrt(1 - alpha_bar_t), each [B, 1, ...] for t [B] and like [B, ...]."""
        signal, noise = self.signal_and_noise
        return gather(signal, t, like=like), gather(noise, t, like=like)

    def add_noise(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Draw x_t from q(x_t | x_0), with the draw given as `noise`.

        Shapes: x_0 and noise [B, ...], t [B] integers in [0, T); the result is like x_0.
        Source: DDPM (arXiv 2006.11239), eq. 4.
        """
        signal, sigma = self.levels(t, like=x_0)
        return signal * x_0 + sigma * noise


def respace(num_train_steps: int, num_steps: int) -> list[int]:
    """`num_steps` timesteps, descending, evenly spread from num_train_steps - 1 to 0.

    Timestep i of the ascending list is round(i (T - 1) / (S - 1)), ties to even. One step starts where the noise is:
    `respace(1000, 1) == [999]`, where diffusers and DiT give [0].
    Raises: ValueError unless 1 <= num_steps <= num_train_steps.
    Source: improved DDPM (arXiv 2102.09672), section 4; "linspace" spacing in diffusers.
    """
    if not 1 <= num_steps <= num_train_steps:
        raise ValueError(
            f"num_steps is {num_steps}, but a chain of {num_train_steps} training steps can be walked in"
            f" 1 to {num_train_steps}; choose num_steps in that range."
        )
    last, intervals = num_train_steps - 1, max(num_steps - 1, 1)
    return [round(last * i / intervals) for i in range(intervals, intervals - num_steps, -1)]


def gather(values: Tensor, t: Tensor, *, like: Tensor) -> Tensor:
    """values[t], one coefficient per sample, in the dtype and on the device of `like` and shaped to broadcast over it.

    Shapes: values [T], t [B] integers, like [B, ...]; the result is [B, 1, ...].
    """
    # Dtype before device: some devices have no float64.
    picked = values.to(like.dtype).to(like.device)[t.to(like.device)]
    return picked.reshape(-1, *[1] * (like.ndim - 1))


def _line(start: float, end: float, steps: int) -> Tensor:
    return torch.linspace(start, end, steps, dtype=torch.float64)


def _check_alpha_bar(alpha_bar: Tensor) -> None:
    if alpha_bar.ndim != 1 or len(alpha_bar) == 0:
        raise ValueError(f"alpha_bar has shape {tuple(alpha_bar.shape)}; it must be [T] with T >= 1.")
    if not ((alpha_bar > 0) & (alpha_bar < 1)).all() or not (alpha_bar.diff() < 0).all():
        raise ValueError(
            f"alpha_bar runs from {alpha_bar[0].item()} to {alpha_bar[-1].item()}; it must decrease strictly inside"
            " (0, 1). Choose every beta in (0, 1)."
        )


def _check_timesteps(timesteps: Sequence[int], *, bound: int) -> None:
    descends = all(later < earlier for earlier, later in pairwise(timesteps))
    if not timesteps or not descends or timesteps[0] >= bound or timesteps[-1] < 0:
        raise ValueError(
            f"timesteps are {list(timesteps)}; they must descend strictly inside [0, {bound}), as `respace` gives them."
        )
