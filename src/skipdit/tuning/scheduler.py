"""A sampler that calls the model on some steps of a grid and forecasts the others.

Grid i = 0 .. S - 1, x_i = alpha_i x_0 + sigma_i eps, lambda_i = log(alpha_i / sigma_i); x_S is clean. C: the computed.

    i in C       (a, eps) = x_0 and noise of the model's output at (x_i, t_i)
    i not in C   eps = eps_1 + (lambda_i - lambda_1) / (lambda_1 - lambda_2) (eps_1 - eps_2)
    x^+        = the step of the base sampler from x_i with that output
    x_{i+1}    = x^+ + w_1 a_1 + w_2 (a_1 - a_2) + w_3 (a_2 - a_3) + w_4 x_i

Index 1 is the newest computed step, this one included. Before the second computed step eps is held. With all steps in C
and w = 0 this is the base sampler, bit for bit.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import diffusers
import torch
from diffusers.configuration_utils import ConfigMixin, FrozenDict, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin, SchedulerOutput
from torch import Tensor

from skipdit.pipelines.schedulers import DDIM
from skipdit.tuning.levels import Level, levels_of, to_output, to_x_0_and_eps

BASES = ("DDIM", "DDIMScheduler", "DPMSolverMultistepScheduler", "FlowMatchEulerDiscreteScheduler")
MEMORY = 3  # computed steps whose x_0 the correction reads
TERMS = MEMORY + 1  # coefficients of a step
SAME_TIMESTEP = 0.01


class Output(NamedTuple):
    """What a computed step is remembered by: its log-SNR, its x_0 and its noise."""

    log_snr: float
    x_0: Tensor
    eps: Tensor


class TunedScheduler(SchedulerMixin, ConfigMixin):
    """A plan for one model as a diffusers scheduler: `pipe.scheduler = TunedScheduler.from_pretrained("plan")`.

    `num_inference_steps` stays S, the number of steps of the grid; `timesteps` are those of the computed steps alone.
    Guidance is inside the output that `step` is given, and need not be known.

    Args:
        base: the config of the sampler, with its `_class_name`: deterministic DDIM, DPM-Solver++ or Euler on a flow.
        timesteps: the grid, S timesteps.
        computed: the steps that call the model, ascending from 0.
        coefficients: w_1 .. w_4 of every step, S rows; none corrects nothing.
        guidance_scale, model, reference, held_out: what the plan was made with and how it did; nothing here reads them.

    Raises:
        ValueError: for a stochastic or unknown base, or steps that are not on the grid.
    """

    order = 1
    init_noise_sigma = 1.0  # of every base

    @register_to_config
    def __init__(
        self,
        base: dict[str, Any],
        timesteps: list[float],
        computed: list[int],
        coefficients: list[list[float]] | None = None,
        guidance_scale: float | None = None,
        model: dict[str, Any] | None = None,
        reference: str = "own",
        held_out: dict[str, Any] | None = None,
    ):
        self.base = base_from(base)
        self.grid, self.computed = list(timesteps), list(computed)
        self.weights = [[0.0] * TERMS] * len(self.grid) if coefficients is None else [list(row) for row in coefficients]
        check_computed(self.computed, len(self.grid))
        if [len(row) for row in self.weights] != [TERMS] * len(self.grid):
            raise ValueError(f"coefficients have {len(self.weights)} rows: give {len(self.grid)}, of {TERMS} each")
        self.prediction_type = prediction_of(self.base)
        self.timesteps = torch.tensor([self.grid[i] for i in self.computed])
        self.num_inference_steps = None

    @property
    def config(self) -> FrozenDict:
        """The settings, and those of the base sampler, which pipelines ask for."""
        return FrozenDict({**self.base.config, **super().config})

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: torch.device | str | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
    ) -> None:
        """Begin a run. Raises: ValueError where its grid is not the one that the plan was made for."""
        steps = len(sigmas) if num_inference_steps is None and sigmas is not None else num_inference_steps
        self._check_steps(steps)
        set_grid(self.base, steps, device=device, sigmas=sigmas, mu=mu)
        self._check_grid(self.base.timesteps.tolist())
        self.num_inference_steps = steps
        self.levels = levels_of(self.base)
        self.timesteps = self.base.timesteps[self.computed]
        self.taken, self.past = 0, deque(maxlen=MEMORY)

    @property
    def sigmas(self) -> Tensor:
        """Those of the computed steps and of the end, for pipelines that show them."""
        return self.base.sigmas[[*self.computed, len(self.grid)]]

    def set_begin_index(self, begin_index: int = 0) -> None:
        if begin_index:
            raise ValueError(f"begin_index is {begin_index}: a tuned plan starts from noise, so leave it at 0")

    def scale_model_input(self, sample: Tensor, timestep: Tensor | None = None) -> Tensor:
        return sample

    def step(
        self, model_output: Tensor, timestep: Tensor | float, sample: Tensor, return_dict: bool = True
    ) -> SchedulerOutput | tuple[Tensor]:
        """x at the next computed timestep: this step, and the free steps behind it. All [B, ...]."""
        i = self._check_turn(timestep)
        end = [*self.computed, len(self.grid)][self.taken + 1]
        self.past.append(Output(self.levels[i].log_snr, *self._read(model_output, sample, self.levels[i])))
        x = self._advance(i, model_output, sample)
        for free in range(i + 1, end):
            x = self._advance(free, self._forecast(x.float(), self.levels[free]), x.float())
        self.taken += 1
        x = x.to(sample.dtype)
        return SchedulerOutput(prev_sample=x) if return_dict else (x,)

    def correct(self, i: int, x_plus: Tensor, x: Tensor) -> Tensor:
        """x_{i+1} of x^+ and x_i."""
        w_1, w_2, w_3, w_4 = self.weights[i]
        newest, middle, oldest = self.outputs
        x_plus = x_plus.float()
        for weight, tensor in ((w_1 + w_2, newest), (w_3 - w_2, middle), (-w_3, oldest), (w_4, x)):
            x_plus = x_plus.add(tensor, alpha=weight)
        return x_plus

    @property
    def outputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """a_1, a_2, a_3; where fewer are known, the oldest of them stands for the others."""
        newest_first = [each.x_0 for each in reversed(self.past)]
        return tuple(newest_first + [newest_first[-1]] * (MEMORY - len(newest_first)))

    def _advance(self, i: int, output: Tensor, x: Tensor) -> Tensor:
        x_plus = self.base.step(output, self.base.timesteps[i], x, return_dict=False)[0]
        return self.correct(i, x_plus, x) if self._corrects(i) else x_plus

    def _corrects(self, i: int) -> bool:
        return any(self.weights[i])

    def _read(self, output: Tensor, x: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        return to_x_0_and_eps(output.float(), x.float(), level, prediction=self.prediction_type)

    def _forecast(self, x: Tensor, level: Level) -> Tensor:
        """The model output of a free step."""
        eps = self.past[-1].eps
        if len(self.past) > 1:
            last, before = self.past[-1], self.past[-2]
            reach = (level.log_snr - last.log_snr) / (last.log_snr - before.log_snr)
            eps = eps.add(last.eps - before.eps, alpha=reach)
        return to_output(eps, x, level, prediction=self.prediction_type)

    def _check_steps(self, steps: int | None) -> None:
        if steps != len(self.grid):
            raise ValueError(
                f"num_inference_steps is {steps}: this plan calls the model on {len(self.computed)} of {len(self.grid)}"
                f" steps, so take {len(self.grid)}, or tune a plan for {steps}"
            )

    def _check_grid(self, timesteps: Sequence[float]) -> None:
        off = [i for i, (a, b) in enumerate(zip(self.grid, timesteps)) if abs(a - b) > SAME_TIMESTEP]
        if off:
            raise ValueError(
                f"step {off[0]} of this run is at timestep {timesteps[off[0]]:g}, in the plan at {self.grid[off[0]]:g}:"
                " tune a plan at this size and for this sampler"
            )

    def _check_turn(self, timestep: Tensor | float) -> int:
        """The step whose turn it is; ValueError for another timestep, as where a run starts in the middle."""
        if self.num_inference_steps is None:
            raise ValueError("no timesteps are set: call set_timesteps before step")
        if self.taken == len(self.computed):
            raise ValueError(f"all {self.taken} steps are taken: call set_timesteps before another run")
        i = self.computed[self.taken]
        if abs(float(timestep) - self.grid[i]) > SAME_TIMESTEP:
            raise ValueError(
                f"timestep {float(timestep):g} comes where the plan has {self.grid[i]:g}: it must start from noise"
            )
        return i


def base_from(config: Mapping[str, Any]) -> SchedulerMixin:
    """The base sampler of its config. Raises: ValueError for one that cannot be tuned, with the reason."""
    name = config.get("_class_name")
    if name not in BASES:
        raise ValueError(f"{name} cannot be tuned: {reason_against(str(name))}; take one of {', '.join(BASES)}")
    kind = DDIM if name == "DDIM" else getattr(diffusers, name)
    base = kind.from_config({key: value for key, value in config.items() if key[0] != "_"})
    if "sde" in str(base.config.get("algorithm_type")) or base.config.get("stochastic_sampling"):
        raise ValueError(f"{name} is set to draw noise at each step: {reason_against('SDE')}")
    return base


def reason_against(name: str) -> str:
    if any(word in name for word in ("DDPM", "Ancestral", "SDE", "LCM", "TCD")):
        return "it draws noise at each step, which nothing remembered can know, so cache a branch instead"
    return "its step is not one that free steps are known for"


def base_config(scheduler: SchedulerMixin) -> dict[str, Any]:
    """What `TunedScheduler` takes for `base`: the config of a scheduler that a pipeline has."""
    own = {name: value for name, value in scheduler.config.items() if name[0] != "_"}
    return {"_class_name": type(scheduler).__name__, **own}


def prediction_of(base: SchedulerMixin) -> str:
    return base.config.get("prediction_type", "flow_prediction")


def set_grid(base: SchedulerMixin, steps: int, *, device=None, sigmas=None, mu=None) -> None:
    """Set the whole grid; ValueError where the base takes no sigmas."""
    if sigmas is None:
        base.set_timesteps(steps, device=device, **({} if mu is None else {"mu": mu}))
    elif "FlowMatch" in type(base).__name__:
        base.set_timesteps(sigmas=sigmas, device=device, mu=mu)
    else:
        raise ValueError(f"sigmas are given to a {type(base).__name__}, which has none: leave them out")


def check_computed(computed: Sequence[int], steps: int) -> None:
    rises = all(earlier < later for earlier, later in zip(computed, computed[1:]))
    if not computed or computed[0] != 0 or not rises or computed[-1] >= steps:
        raise ValueError(f"computed steps are {list(computed)}: they must rise from 0 and stay below {steps}")


def even_steps(calls: int, steps: int) -> list[int]:
    """`calls` steps of a grid, evenly spread from 0."""
    return sorted({math.floor(steps * j / calls + 0.5) for j in range(calls)})


def late_steps(calls: int, steps: int, *, last: int = 3) -> list[int]:
    """`calls` steps: the last few of the grid, at most half of the calls, and the others evenly before them."""
    last = min(last, calls // 2)
    return [*even_steps(calls - last, steps - last), *range(steps - last, steps)]
