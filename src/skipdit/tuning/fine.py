"""An accurate solution of a model's ODE that passes through a coarser grid, so that it can be a teacher or a judge.

DPM-Solver++ 2M over whole timesteps: those of the grid, and FINER S more at sigma evenly spread in sigma^(1/7) (Karras
et al. 2022, eq. 5). Timesteps are whole, so that the model is asked at the very level where x is.
"""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from skipdit.tuning.fit import Rollout, check_finite

FINER, RHO = 2, 7.0
NOISE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type")


class FineSolver(DPMSolverMultistepScheduler):
    """Takes its own timesteps, whatever number of steps it is asked for; records where it passes a grid."""

    grid: list[int]

    def set_timesteps(self, num_inference_steps: int | None = None, device: Any = None) -> None:
        super().set_timesteps(timesteps=fine_timesteps(self, self.grid), device=device)
        self.states_met, self.outputs_met, self.end = [], [], None

    def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor, return_dict: bool = True) -> Any:
        check_finite(model_output, timestep)
        if int(timestep) in self.grid:
            self.states_met.append(sample)
            self.outputs_met.append(model_output)
        result = super().step(model_output, timestep, sample, return_dict=return_dict)
        self.end = result.prev_sample if return_dict else result[0]
        return result

    @property
    def rollout(self) -> Rollout:
        return Rollout(tuple(range(len(self.grid))), tuple(self.states_met), tuple(self.outputs_met), self.end)


def has_betas(base: SchedulerMixin) -> bool:
    """Whether its noise is that of a chain of betas, for which an accurate solver is known here."""
    return "beta_start" in base.config and not base.config.get("rescale_betas_zero_snr")


def fine_solver(base: SchedulerMixin, grid: Sequence[float]) -> FineSolver:
    """Raises: ValueError for noise without betas."""
    if not has_betas(base):
        raise ValueError(f"reference is 'fine' for a {type(base).__name__}, which has no betas: take 'own'")
    solver = FineSolver(**noise_of(base))
    solver.grid = [int(t) for t in grid]
    return solver


def noise_of(base: SchedulerMixin) -> dict[str, Any]:
    """What another solver needs to know of the noise and of what the model predicts."""
    return {name: base.config[name] for name in NOISE if name in base.config}


def fine_timesteps(solver: SchedulerMixin, grid: Sequence[int]) -> list[int]:
    """Descending whole timesteps from the grid's first to its last."""
    sigmas = ((1 - solver.alphas_cumprod) / solver.alphas_cumprod).sqrt().double()  # ascending with t
    last, first = sigmas[grid[-1]] ** (1 / RHO), sigmas[grid[0]] ** (1 / RHO)
    wanted = torch.linspace(first, last, FINER * len(grid), dtype=torch.float64) ** RHO
    nearest = torch.searchsorted(sigmas, wanted).clamp(grid[-1], grid[0]).tolist()
    return sorted({*nearest, *grid}, reverse=True)
