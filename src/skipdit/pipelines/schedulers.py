"""diffusers' schedulers by short names, set up for the noise that DiT was trained with."""

from typing import Any

import diffusers
from diffusers.schedulers.scheduling_utils import SchedulerMixin

LINEAR_BETAS = {"num_train_timesteps": 1000, "beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    # The published sampler: 250 steps from 999 to 0, ancestral noise.
    "ddpm": ("DDPMScheduler", {"clip_sample": False, "timestep_spacing": "linspace"}),
    # "trailing" starts at t = 999 and steps to the next timestep of the list; "linspace" misses it.
    "ddim": ("DDIMScheduler", {"clip_sample": False, "timestep_spacing": "trailing"}),
    "dpm++": ("DPMSolverMultistepScheduler", {"timestep_spacing": "trailing"}),
    "dpm++-sde": ("DPMSolverMultistepScheduler", {"timestep_spacing": "trailing", "algorithm_type": "sde-dpmsolver++"}),
    "unipc": ("UniPCMultistepScheduler", {"timestep_spacing": "trailing"}),
    "euler": ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
    "euler-a": ("EulerAncestralDiscreteScheduler", {"timestep_spacing": "trailing"}),
    "heun": ("HeunDiscreteScheduler", {"timestep_spacing": "trailing"}),
}


def make_scheduler(name: str, *, learned_variance: bool = False) -> SchedulerMixin:
    """A scheduler by name; with `learned_variance`, ddpm uses the model's variance. ValueError lists the names."""
    if name not in SCHEDULERS:
        raise ValueError(f"unknown scheduler {name!r}: take one of {', '.join(SCHEDULERS)}")
    class_name, settings = SCHEDULERS[name]
    variance = {"variance_type": "learned_range" if learned_variance else "fixed_small"} if name == "ddpm" else {}
    return getattr(diffusers, class_name)(**LINEAR_BETAS, **settings, **variance)
