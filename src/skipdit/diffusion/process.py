"""What a model is trained on, as one object: when (t), what it sees (x_t), what it is told (timestep), its loss.

    Denoising      x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps     t in 0..999, uniform
    FlowMatching   x_t = (1 - t) x_0 + t eps,   v = eps - x_0                  t in [0, 1], uniform or logit-normal

A model that was trained on a process is sampled by it too: `walk` goes from noise to data without guidance. The
timestep that a model is told of a flow is 1000 t, as diffusers' FlowMatchEulerDiscreteScheduler tells it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from einops import reduce
from torch import Tensor

from skipdit.diffusion.loss import Losses, learned_range_loss, mse_loss
from skipdit.diffusion.prediction import Prediction
from skipdit.diffusion.sample import Denoise, ddim
from skipdit.diffusion.schedule import NUM_TRAIN_STEPS, NoiseSchedule, respace

FLOW = "flow_prediction"  # diffusers' name for v = eps - x_0
TimeOf = Literal["uniform", "logit-normal"]


class Process(Protocol):
    """Noising and its undoing; t [B] is the process's own time."""

    def draw_t(self, count: int, generator: torch.Generator) -> Tensor:
        """Times [B] of a batch."""
        ...

    def timestep(self, t: Tensor) -> Tensor:
        """What the model is told, [B]."""
        ...

    def noisier(self, t: Tensor, thousandths: int) -> Tensor:
        """Times [B] later on the way to noise, by thousandths of it."""
        ...

    def add_noise(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t, shaped as x_0 [B, ...]."""
        ...

    def loss(self, output: Tensor, *, x_0: Tensor, noise: Tensor, x_t: Tensor, t: Tensor) -> Losses:
        """What training minimises, each term [B]; output [B, C or 2C, ...], the others [B, C, ...]."""
        ...

    def walk(self, denoise: Denoise, noise: Tensor, *, num_steps: int) -> Iterator[Tensor]:
        """From noise [B, C, ...] to data in `num_steps` steps; the last tensor is the sample."""
        ...


@dataclass(frozen=True)
class Denoising:
    """The published process: DDPM's chain, and a model that says eps, x_0 or v, with or without its variance.

    Args:
        v_weight_cap, min_snr: weights of the loss, as `mse_loss` has them.
    """

    prediction: Prediction = "epsilon"
    schedule: NoiseSchedule = field(default_factory=NoiseSchedule.linear)
    v_weight_cap: float | None = None
    min_snr: float | None = None

    def draw_t(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.randint(len(self.schedule), (count,), generator=generator)

    def timestep(self, t: Tensor) -> Tensor:
        return t

    def noisier(self, t: Tensor, thousandths: int) -> Tensor:
        last = len(self.schedule) - 1
        return (t + round(thousandths * len(self.schedule) / 1000)).clamp(max=last)

    def add_noise(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return self.schedule.add_noise(x_0, noise, t)

    def loss(self, output: Tensor, *, x_0: Tensor, noise: Tensor, x_t: Tensor, t: Tensor) -> Losses:
        kind = learned_range_loss if output.shape[1] > x_0.shape[1] else mse_loss
        return kind(
            output, x_0=x_0, noise=noise, x_t=x_t, t=t, schedule=self.schedule, prediction=self.prediction,
            v_weight_cap=self.v_weight_cap, min_snr=self.min_snr,
        )  # fmt: skip

    def walk(self, denoise: Denoise, noise: Tensor, *, num_steps: int) -> Iterator[Tensor]:
        timesteps = respace(len(self.schedule), num_steps)
        return ddim(denoise, noise, timesteps=timesteps, schedule=self.schedule, prediction=self.prediction)


@dataclass(frozen=True)
class FlowMatching:
    """A straight line from data to noise, and a model that says its velocity.

    Source: SiT (arXiv 2401.08740), the linear path; logit-normal times: SD3 (arXiv 2403.03206), section 3.1, with
    location 0 and scale 1.
    """

    time: TimeOf = "uniform"

    def draw_t(self, count: int, generator: torch.Generator) -> Tensor:
        if self.time == "uniform":
            return torch.rand(count, generator=generator)
        return torch.randn(count, generator=generator).sigmoid()

    def timestep(self, t: Tensor) -> Tensor:
        return NUM_TRAIN_STEPS * t

    def noisier(self, t: Tensor, thousandths: int) -> Tensor:
        return (t + thousandths / 1000).clamp(max=1)

    def add_noise(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        share = t.reshape(-1, *[1] * (x_0.ndim - 1))
        return (1 - share) * x_0 + share * noise

    def loss(self, output: Tensor, *, x_0: Tensor, noise: Tensor, x_t: Tensor, t: Tensor) -> Losses:
        if output.shape != x_0.shape:
            channels = output.shape[1], x_0.shape[1]
            raise ValueError(f"the model has {channels[0]} channels for {channels[1]}: a flow has no variance to learn")
        mse = reduce((output.float() - (noise - x_0)).square(), "b ... -> b", "mean")
        return Losses(mse, mse, torch.zeros_like(mse))

    def walk(self, denoise: Denoise, noise: Tensor, *, num_steps: int) -> Iterator[Tensor]:
        """Euler's steps from t = 1 to 0."""
        x_t, step = noise, 1 / num_steps
        for left in range(num_steps, 0, -1):
            with torch.no_grad():
                x_t = x_t - step * denoise(x_t, NUM_TRAIN_STEPS * left / num_steps)
            yield x_t


def process_of(
    prediction: str, *, time: TimeOf = "uniform", v_weight_cap: float | None = None, min_snr: float | None = None
) -> Process:
    """The process of a model that says `prediction`, over the published chain where it is none of a flow.

    Raises: ValueError for a setting that cannot take effect.
    """
    if prediction == FLOW:
        if v_weight_cap is not None or min_snr is not None:
            raise ValueError(f"v_weight_cap is {v_weight_cap}, min_snr {min_snr}: a flow takes neither, leave them out")
        return FlowMatching(time)
    if time != "uniform":
        raise ValueError(f"time is {time}, but the model says {prediction}: take {FLOW}, or uniform times")
    return Denoising(prediction, v_weight_cap=v_weight_cap, min_snr=min_snr)
