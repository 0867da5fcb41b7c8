"""Corrections in closed form, fitted along the rollout that they correct.

    w_i = argmin sum_b |T_{i+1} - x^+ - R w|_b^2 / |T_{i+1} - x^+|_b^2 + ridge |D w|^2
    R   = [a_1, a_1 - a_2, a_2 - a_3, x_i],    D = diag(column norms)

T is the teacher's trajectory, b a sample of the batch. Each sample counts by its share of error that is left, since
what is measured is the mean of decibels: one sample at a fork would rule the fit otherwise. Step i is fitted where the
corrected steps before it have led, so that each fit sees the drift. The normal equations are solved in float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from skipdit.tuning.scheduler import TunedScheduler, base_config

RIDGE = 1e-5
SMALLEST_ERROR = 1e-12  # mean square, below which float32 knows nothing


@dataclass(frozen=True)
class Rollout:
    """What a run met at its computed steps: x_i [B, ...] and the model's outputs there, and where it ended."""

    computed: tuple[int, ...]
    states: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    end: Tensor

    @property
    def trajectory(self) -> list[Tensor]:
        """x_0 .. x_S of a run that computed every step."""
        return [*self.states, self.end]


class Recorder(TunedScheduler):
    """A scheduler that keeps what passes through `step`, and how its run was begun."""

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: torch.device | str | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
    ) -> None:
        """Pipelines look at the names of these arguments."""
        super().set_timesteps(num_inference_steps, device, sigmas, mu)
        self.begun = (num_inference_steps, device, sigmas, mu)
        self.states, self.model_outputs, self.end = [], [], None

    def step(self, model_output: Tensor, timestep: Tensor | float, sample: Tensor, return_dict: bool = True) -> Any:
        check_finite(model_output, timestep)
        self.states.append(sample)
        self.model_outputs.append(model_output)
        result = super().step(model_output, timestep, sample, return_dict)
        self.end = result.prev_sample if return_dict else result[0]
        return result

    @property
    def rollout(self) -> Rollout:
        """What the last run met. Raises: ValueError where it did not end."""
        taken = len(getattr(self, "states", ()))
        if taken != len(self.computed):
            raise ValueError(
                f"{taken} of {len(self.computed)} steps were taken: draw all samples in one batch, to the end"
            )
        return Rollout(tuple(self.computed), tuple(self.states), tuple(self.model_outputs), self.end)


class Teacher(Recorder):
    """The base sampler, every step of it, on whatever grid a pipeline sets."""

    def _check_grid(self, timesteps: Sequence[float]) -> None:
        self.grid = list(timesteps)


class Fitter(Recorder):
    """A scheduler that fits the correction of each step to a teacher's trajectory, x_0 .. x_S, and applies it."""

    trajectory: Sequence[Tensor]

    def correct(self, i: int, x_plus: Tensor, x: Tensor) -> Tensor:
        a_1, a_2, a_3 = self.outputs
        target = self.trajectory[i + 1].float() - x_plus.float()
        share = per_sample_scale(target)
        columns = [share * column for column in (a_1, a_1 - a_2, a_2 - a_3, x.float())]
        self.weights[i] = solve_ridge(columns, share * target)
        return super().correct(i, x_plus, x)

    def _corrects(self, i: int) -> bool:
        return True


def teacher_for(scheduler: SchedulerMixin, steps: int) -> Teacher:
    """Records `steps` steps of a sampler. Raises: ValueError for one that cannot be tuned."""
    return Teacher(base_config(scheduler), [0.0] * steps, list(range(steps)))


def fitter_for(teacher: TunedScheduler, computed: Sequence[int], trajectory: Sequence[Tensor]) -> Fitter:
    """Fits a plan of some computed steps on the grid of a teacher that has run."""
    fitter = Fitter(base_config(teacher.base), teacher.grid, list(computed))
    fitter.trajectory = trajectory
    return fitter


def solve_ridge(columns: list[Tensor], target: Tensor, *, ridge: float = RIDGE) -> list[float]:
    """The coefficients of columns, each [B, ...] as the target, in the ridge regression on columns of norm 1.

    A column of zeros gets 0.
    """
    matrix = torch.stack([column.double().flatten() for column in columns])  # [K, N]
    norms = matrix.norm(dim=1)
    norms = torch.where(norms > 0, norms, 1.0)
    matrix = matrix / norms[:, None]
    gram = matrix @ matrix.T + ridge * torch.eye(len(columns), dtype=torch.float64, device=matrix.device)
    return (torch.linalg.solve(gram, matrix @ target.double().flatten()) / norms).tolist()


def per_sample_scale(error: Tensor) -> Tensor:
    """1 / |error| of each sample, [B, 1, ...], in units of their mean."""
    size = error.flatten(1).pow(2).mean(1).clamp_min(SMALLEST_ERROR).sqrt()
    return (1 / size / (1 / size).mean()).reshape(-1, *[1] * (error.ndim - 1))


def check_finite(output: Tensor, timestep: Tensor | float) -> None:
    if not output.isfinite().all():
        raise ValueError(f"the model's output at timestep {float(timestep):g} has NaN or infinity: draw in float32")
