"""diffusers' schedulers by short names, set up for the noise that DiT was trained with."""

from itertools import pairwise
from typing import Any

import diffusers
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler, DDIMSchedulerOutput
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from skipdit.diffusion import respace
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


LINEAR_BETAS = {
    "num_train_timesteps": NUM_TRAIN_STEPS,
    "beta_schedule": "linear",
    "beta_start": BETA_START,
    "beta_end": BETA_END,
}
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
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


def make_scheduler(
    name: str, *, learned_variance: bool = False, prediction_type: str = "epsilon"
) -> SchedulerMixin:
    """A scheduler by name, for a model that predicts `prediction_type`; ValueError lists the names.

    With `learned_variance`, ddpm uses the model's variance.
    """
    if name not in SCHEDULERS:
        raise ValueError(f"unknown scheduler {name!r}: take one of {', '.join(SCHEDULERS)}")
    class_name, settings = SCHEDULERS[name]
    variance = {"variance_type": "learned_range" if learned_variance else "fixed_small"} if name == "ddpm" else {}
    kind = DDIM if class_name == "DDIM" else getattr(diffusers, class_name)
    return kind(**LINEAR_BETAS, **settings, **variance, prediction_type=prediction_type)


def set_timesteps(scheduler: SchedulerMixin, steps: int, *, device: torch.device | str = "cpu") -> list[float]:
    """Set the timesteps of a run and return them as numbers, one for each call of the model.

    Raises: ValueError where they leave the training chain or rise: diffusers' "trailing" spacing rounds some numbers of
    steps (61, 103, 121, ...) to a list that ends at -1.
    """
    scheduler.set_timesteps(steps, device=device)
    timesteps = scheduler.timesteps.tolist()
    if timesteps[-1] < 0 or any(later > earlier for earlier, later in pairwise(timesteps)):
        name = type(scheduler).__name__
        raise ValueError(f"{steps} steps of {name} end at timestep {timesteps[-1]}: take {steps - 1} or {steps + 1}")
    return timesteps
