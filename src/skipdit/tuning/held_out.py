"""The proof: on noise and subjects that nothing was fitted to, against everything that costs as much.

    d_b  = PSNR_b(tuned) - PSNR_b(control)                      the same noise, sample by sample
    gain = mean d,   error = std d / sqrt(B)

A plan is worth its name where the gain over the best control is more than two errors. Every control makes at least as
many calls as the plan:

    fewer steps of the same sampler; DPM-Solver++ 2M in three spacings (trailing, Karras, even in log-SNR); UniPC; the
    noise forecast without corrections, at even steps and with the last three computed; Skip-Cache at even steps (branch
    0 with Taylor, branch 1 with hold and Taylor)
"""

import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from skipdit.caching import SkipCacheConfig
from skipdit.evaluation.compare import caching
from skipdit.evaluation.fidelity import psnr
from skipdit.models.base import LongSkipModel
from skipdit.tuning.fine import has_betas, noise_of
from skipdit.tuning.scheduler import TunedScheduler, base_config, base_from, even_steps, late_steps

CEILING = 150.0  # dB; what equal pictures count as
ERRORS = 2.0  # standard errors by which a plan must win
SPACINGS = {
    "DPM++ trailing": {"timestep_spacing": "trailing"},
    "DPM++ Karras": {"use_karras_sigmas": True},
    "DPM++ even in log-SNR": {"use_lu_lambdas": True},
}


@dataclass(frozen=True)
class Candidate:
    """One way to draw: a scheduler, the steps that the pipeline is asked for, the calls it makes, and a cache."""

    scheduler: SchedulerMixin
    steps: int
    calls: int
    cache: SkipCacheConfig | None = None

    def switched_on(self, model: LongSkipModel | None) -> Any:
        """A context in which the model caches as this way says."""
        return nullcontext() if self.cache is None else caching(model, self.cache)


def controls_for(base: SchedulerMixin, grid: list[float], calls: int, model: Any) -> dict[str, Candidate]:
    """Everything that a plan of so many calls on a grid is held against."""
    steps, config = len(grid), base_config(base)
    even = even_steps(calls, steps)
    ways = {f"{calls} steps": Candidate(base_from(config), calls, calls)}
    ways |= other_solvers(base, calls) if has_betas(base) else {}
    ways["even, noise forecast"] = Candidate(TunedScheduler(config, grid, even), steps, calls)
    ways["last steps, noise forecast"] = Candidate(TunedScheduler(config, grid, late_steps(calls, steps)), steps, calls)
    if isinstance(model, LongSkipModel) and calls < steps:
        for branch, forecast in ((0, "taylor"), (1, "hold"), (1, "taylor")):
            cache = SkipCacheConfig(steps=tuple(even), branch=branch, forecast=forecast)
            ways[f"branch {branch}, {forecast}"] = Candidate(base_from(config), steps, calls, cache)
    return ways


def other_solvers(base: SchedulerMixin, calls: int) -> dict[str, Candidate]:
    noise = noise_of(base)
    made = {name: DPMSolverMultistepScheduler(**noise, **spacing) for name, spacing in SPACINGS.items()}
    made["UniPC"] = UniPCMultistepScheduler(**noise, timestep_spacing="trailing")
    ways = {}
    for name, scheduler in made.items():
        asked = calls + ends_outside(scheduler, calls)
        ways[name] = Candidate(scheduler, asked, asked)
    return ways


def ends_outside(scheduler: SchedulerMixin, steps: int) -> bool:
    """diffusers' trailing spacing rounds some numbers of steps to a list that ends at -1."""
    scheduler.set_timesteps(steps)
    return bool(scheduler.timesteps[-1] < 0)


def psnr_of_samples(pictures: Tensor, reference: Tensor) -> Tensor:
    """Decibels of each sample [B], of clips the mean over frames; equal ones count as 150."""
    values = psnr(pictures.flatten(0, -4), reference.flatten(0, -4)).clamp_max(CEILING)
    return values.reshape(len(pictures), -1).mean(1)


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """The mean and its standard error; infinite for one value."""
    error = (values.std() / math.sqrt(len(values))).item() if len(values) > 1 else math.inf
    return values.mean().item(), error


def row(way: Candidate, values: Tensor, tuned: Tensor) -> dict[str, Any]:
    """What the table says of a way, in decibels, and by how much the plan is better, sample by sample."""
    (mean, error), (gain, gain_error) = mean_and_error(values), mean_and_error(tuned - values)
    return {
        "calls": way.calls, "cached": 0 if way.cache is None else way.steps - way.calls,
        "psnr": mean, "error": error, "worst": values.min().item(), "gain": gain, "gain_error": gain_error,
    }  # fmt: skip


def best_control(rows: Mapping[str, Mapping[str, Any]]) -> str:
    return max(rows, key=lambda name: rows[name]["psnr"])


def wins(against: Mapping[str, Any]) -> bool:
    return against["gain"] > ERRORS * against["gain_error"]


def check_pictures(pictures: Tensor, *, name: str) -> Tensor:
    if not torch.isfinite(pictures).all():
        raise ValueError(f"{name} drew NaN or infinity: draw in float32, or mend the model")
    return pictures
