"""diffusers' schedulers by short names, set up for the noise that a model was trained with."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler, DDIMSchedulerOutput
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from skipdit.diffusion import FLOW, respace
from skipdit.diffusion.schedule import BETA_END, BETA_START, NUM_TRAIN_STEPS


class DDIM(DDIMScheduler):
    """Deterministic DDIM (arXiv 2010.02502, eq. 12 at eta 0) over the published timesteps, each step to the next one.

    diffusers' own step goes to t - 1000 // S, which is the next timestep only where S divides 1000.
    """

    def set_timesteps(self, num_inference_steps: int, device: torch.device | str | None = None) -> None:
        self.num_inference_steps, self.taken = num_inference_steps, 0
        listed = respace(self.config.num_train_timesteps, num_inference_steps)
        self.timesteps = torch.tensor(listed, device=device)
        levels = torch.cat([self.alphas_cumprod[listed], self.final_alpha_cumprod.reshape(1)])
        self.levels = levels.tolist()

    def step(
        self, model_output: Tensor, timestep: Tensor, sample: Tensor, return_dict: bool = True
    ) -> DDIMSchedulerOutput | tuple[Tensor, Tensor]:
        """One step from what the model predicts, all [B, C, ...]; steps are taken in the order of `timesteps`."""
        alpha_bar, alpha_bar_next = self.levels[self.taken : self.taken + 2]
        self.taken += 1
        x_0, eps = self.told(model_output, sample, alpha_bar**0.5, (1 - alpha_bar) ** 0.5)
        x_next = alpha_bar_next**0.5 * x_0 + (1 - alpha_bar_next) ** 0.5 * eps
        return DDIMSchedulerOutput(x_next, x_0) if return_dict else (x_next, x_0)

    def told(self, output: Tensor, x_t: Tensor, a: float, s: float) -> tuple[Tensor, Tensor]:
        """x_0 and eps of x_t = a x_0 + s eps, from a model output (skipdit.diffusion.prediction)."""
        match self.config.prediction_type:
            case "epsilon":
                return (x_t - s * output) / a, output
            case "sample":
                return output, (x_t - a * output) / s
            case "v_prediction":
                return a * x_t - s * output, s * x_t + a * output
        raise ValueError(f"prediction_type is {self.config.prediction_type!r}: take epsilon, sample or v_prediction")


Sampler = tuple[str, Mapping[str, Any]]  # a class of diffusers, or DDIM above, and its settings

SCHEDULERS: dict[str, Sampler] = {
    # The published sampler: 250 steps from 999 to 0, ancestral noise.
    "ddpm": ("DDPMScheduler", {"clip_sample": False, "timestep_spacing": "linspace"}),
    "ddim": ("DDIM", {"clip_sample": False}),
    # The published sampler of text-to-video: 50 steps from 980 to 0.
    "ddim-leading": ("DDIMScheduler", {"clip_sample": False, "timestep_spacing": "leading"}),
    "dpm++": ("DPMSolverMultistepScheduler", {"timestep_spacing": "trailing"}),
    "dpm++-sde": ("DPMSolverMultistepScheduler", {"timestep_spacing": "trailing", "algorithm_type": "sde-dpmsolver++"}),
    "unipc": ("UniPCMultistepScheduler", {"timestep_spacing": "trailing"}),
    "euler": ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
    "euler-a": ("EulerAncestralDiscreteScheduler", {"timestep_spacing": "trailing"}),
    "heun": ("HeunDiscreteScheduler", {"timestep_spacing": "trailing"}),
}
FLOW_SCHEDULERS: dict[str, Sampler] = {  # for models of a velocity
    "euler": ("FlowMatchEulerDiscreteScheduler", {}),
    "dpm++": ("DPMSolverMultistepScheduler", {"use_flow_sigmas": True, "prediction_type": FLOW}),
    "unipc": ("UniPCMultistepScheduler", {"use_flow_sigmas": True, "prediction_type": FLOW}),
}
ALIASES = {"dpmms": "dpm++"}  # as HunyuanDiT spells it


@dataclass(frozen=True)
class Noise:
    """The noise that a model was trained with, in diffusers' words; the defaults are those of DiT and Latte.

    Args:
        samplers: stand in for those of `SCHEDULERS`, where a model was published with timesteps of its own.

    Raises:
        ValueError: betas that do not rise inside (0, 1).
    """

    beta_schedule: str = "linear"
    beta_start: float = BETA_START
    beta_end: float = BETA_END
    num_train_timesteps: int = NUM_TRAIN_STEPS
    samplers: Mapping[str, Sampler] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.beta_start < self.beta_end < 1:
            start, end = self.beta_start, self.beta_end
            raise ValueError(f"betas go from {start} to {end}: beta_end must lie above beta_start, both inside 0 to 1")

    @property
    def betas(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in BETAS}

    def sampler(self, name: str) -> Sampler:
        """The row of a name; ValueError lists the names."""
        name = ALIASES.get(name, name)
        if name not in SCHEDULERS:
            raise ValueError(f"unknown scheduler {name!r}: take one of {', '.join(SCHEDULERS)}")
        return self.samplers.get(name, SCHEDULERS[name])


BETAS = ("num_train_timesteps", "beta_schedule", "beta_start", "beta_end")
LINEAR = Noise()

# HunyuanDiT: 100 steps from 991 to 1, ancestral noise of a fixed variance. The published commands default to a beta_end
# of 0.02, with which no published model was trained: version 1.2 was with 0.018, those before it with 0.03.
LEADING_TO_1 = {"clip_sample": False, "timestep_spacing": "leading", "steps_offset": 1}
HUNYUAN_V1_1 = Noise(
    beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.03,
    samplers={
        "ddpm": ("DDPMScheduler", LEADING_TO_1),
        "ddim": ("DDIMScheduler", LEADING_TO_1),
        "dpm++": ("DPMSolverMultistepScheduler", {"timestep_spacing": "linspace"}),
    },
)  # fmt: skip
HUNYUAN_V1_2 = replace(HUNYUAN_V1_1, beta_end=0.018)


def make_scheduler(
    name: str, *, learned_variance: bool = False, prediction_type: str = "epsilon", noise: Noise = LINEAR
) -> SchedulerMixin:
    """A scheduler by name, for a model trained with `noise` to predict `prediction_type`; ValueError lists the names.

    With `learned_variance`, ddpm uses the model's variance.
    """
    if prediction_type == FLOW:
        return make_flow_scheduler(name)
    class_name, settings = noise.sampler(name)
    variance = {"variance_type": "learned_range" if learned_variance else "fixed_small"} if name == "ddpm" else {}
    kind = DDIM if class_name == "DDIM" else getattr(diffusers, class_name)
    return kind(**noise.betas, **settings, **variance, prediction_type=prediction_type)


def make_flow_scheduler(name: str) -> SchedulerMixin:
    """A scheduler by name for a model that says a velocity; ValueError lists the names."""
    name = ALIASES.get(name, name)
    if name not in FLOW_SCHEDULERS:
        known = ", ".join(FLOW_SCHEDULERS)
        raise ValueError(f"scheduler is {name!r}, but the model was trained on a flow: take {known}")
    class_name, settings = FLOW_SCHEDULERS[name]
    return getattr(diffusers, class_name)(num_train_timesteps=NUM_TRAIN_STEPS, **settings)


def is_of_flows(scheduler: SchedulerMixin) -> bool:
    """Whether a scheduler is one of diffusers' for flows alone, which lack what the others have."""
    names = [kind.__name__ for kind in type(scheduler).__mro__]  # the class itself would import scipy
    return "FlowMatchEulerDiscreteScheduler" in names


def read_by(scheduler: SchedulerMixin) -> str:
    """What a scheduler takes a model to predict."""
    return FLOW if is_of_flows(scheduler) else scheduler.config.get("prediction_type", "epsilon")


def model_input(scheduler: SchedulerMixin, x_t: Tensor, t: Tensor) -> Tensor:
    """x_t as the model of a scheduler takes it."""
    return x_t if is_of_flows(scheduler) else scheduler.scale_model_input(x_t, t)


def starting_scale(scheduler: SchedulerMixin) -> float | Tensor:
    """What the noise that sampling begins with is multiplied by."""
    return 1.0 if is_of_flows(scheduler) else scheduler.init_noise_sigma


def set_timesteps(scheduler: SchedulerMixin, steps: int, *, device: torch.device | str = "cpu") -> list[float]:
    """Set the timesteps of a run and return them as numbers, one for each call of the model.

    Raises: ValueError where they leave the training chain or rise by more than rounding: diffusers' "trailing" spacing
    rounds some numbers of steps (61, 103, 121, ...) to a list that ends at -1.
    """
    if is_of_flows(scheduler):  # at times 1, 1 - 1 / S, ..., 1 / S, as the pipelines of SD3 and FLUX take them
        scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps), device=device)
    else:
        scheduler.set_timesteps(steps, device=device)
    timesteps = scheduler.timesteps.tolist()
    if timesteps[-1] < 0 or any(later >= earlier + 1 for earlier, later in pairwise(timesteps)):
        name = type(scheduler).__name__
        raise ValueError(f"{steps} steps of {name} end at timestep {timesteps[-1]}: take {steps - 1} or {steps + 1}")
    return timesteps
