"""Class ids -> x_0, by any diffusers scheduler: what class-to-image and class-to-video share.

    model(x_t for class | x_t for no class)  ->  guidance  ->  scheduler step          one batch, one call a step

Guidance and schedulers see the channels on axis 1, where diffusers splits noise from variance; the model, the caller
and `on_step` see them on the model's own `channel_dim`.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from numbers import Real
from typing import Any, Literal

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_ddpm_parallel import DDPMParallelScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from skipdit.diffusion import guided
from skipdit.models.adaln import AdaLNTransformer
from skipdit.models.base import PublishedWithCard
from skipdit.models.checks import check_at_least_one, read_whole, show_short
from skipdit.pipelines.class_names import ids_by_name, name_some, read_names
from skipdit.pipelines.schedulers import is_of_flows, model_input, read_by, set_timesteps, starting_scale
from skipdit.spelling import did_you_mean

LEARNED_VARIANCES = ("learned", "learned_range")
NOT_FROM_NOISE = (
    "CogVideoXDPMScheduler", "DDIMInverseScheduler", "DPMSolverMultistepInverseScheduler", "RePaintScheduler",
)  # fmt: skip
OUTPUT_TYPES = ("pil", "np", "pt", "latent")

Channels = int | Literal["all"]
Labels = Sequence[int | str] | np.ndarray | Tensor | int | str
Generators = torch.Generator | list[torch.Generator] | None


@dataclass
class StepState:
    """What a callback sees after each step: the step's number, its timestep and the new x, [B, (F,) C, H, W]."""

    step: int
    timestep: float
    latents: Tensor


OnStep = Callable[[StepState], None]


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance by `scale`, off at 1, of all noise channels or of the first so many."""

    scale: float
    channels: Channels

    @property
    def is_on(self) -> bool:
        return self.scale != 1


class ClassConditionalPipeline(PublishedWithCard, DiffusionPipeline):
    """Sampling with a model of classes; its heirs say what they draw, which `unit` names in errors."""

    model_cpu_offload_seq = "transformer->vae"
    _optional_components = ["vae"]
    unit = "label"

    def __init__(
        self,
        transformer: AdaLNTransformer,
        scheduler: SchedulerMixin,
        vae: nn.Module | None = None,
        id2label: dict[int, str] | dict[str, str] | None = None,
    ):
        super().__init__()
        self.register_modules(transformer=transformer, scheduler=scheduler, vae=vae)
        self.register_to_config(id2label=read_names(id2label))

    @property
    def labels(self) -> dict[str, int]:
        """Class ids by name, as in diffusers' DiTPipeline, but for names of several classes; empty without names."""
        return {name: ids[0] for name, ids in ids_by_name(self.config.id2label or {}).items() if len(ids) == 1}

    def sample(
        self, shape: tuple[int, ...], labels: list[int] | None, *, guidance: Guidance, num_inference_steps: int,
        generator: Generators, latents: Tensor | None, on_step: OnStep | None,
    ) -> Tensor:  # fmt: skip
        """x_0 of a shape, which is [B, C, H, W] or [B, F, C, H, W] as the model has it; labels None for no classes."""
        # As numbers once, so that no step waits for an accelerator to learn where it is.
        timesteps = set_timesteps(self.scheduler, num_inference_steps, device=self._execution_device)
        axis = self.transformer.channel_dim
        latents = self.prepare_latents(shape, generator, latents).movedim(axis, 1)
        class_ids = None if labels is None else self.class_ids(labels, guidance)
        draw = {"generator": generator} if "generator" in step_arguments(self.scheduler) else {}
        for step, t in enumerate(self.progress_bar(self.scheduler.timesteps)):
            inputs = torch.cat([latents] * 2) if guidance.is_on else latents
            inputs = model_input(self.scheduler, inputs, t).movedim(1, axis)
            with self.transformer.cache_context(
                "default", step_index=step, num_inference_steps=len(timesteps), timestep=timesteps[step]
            ):
                output = self.transformer(inputs, t.expand(len(inputs)), class_ids, return_dict=False)[0]
            prediction = self.predict(output.movedim(axis, 1), guidance)
            latents = self.scheduler.step(prediction, t, latents, **draw).prev_sample
            if on_step is not None:
                on_step(StepState(step, timesteps[step], latents.movedim(1, axis)))
        return latents.movedim(1, axis)

    def class_ids(self, labels: list[int], guidance: Guidance) -> Tensor:
        """The ids of one call [B], or with guidance [2B]: the classes, then as many null classes."""
        nulls = [self.transformer.null_class] * len(labels) if guidance.is_on else []
        return torch.tensor([*labels, *nulls], device=self._execution_device)

    def predict(self, output: Tensor, guidance: Guidance) -> Tensor:
        """Model output [B or 2B, C or 2C, ...] -> what the scheduler takes [B, C or 2C, ...]."""
        noise_channels = self.transformer.config.in_channels
        if guidance.is_on:
            conditional, unconditional = output.chunk(2)
            output = guided(
                conditional, unconditional, scale=guidance.scale, eps_channels=noise_channels,
                channels=None if guidance.channels == "all" else guidance.channels,
            )  # fmt: skip
        return output if learns_variance(self.scheduler) else output[:, :noise_channels]

    def prepare_latents(self, shape: tuple[int, ...], generator: Generators, latents: Tensor | None) -> Tensor:
        """Starting noise in float32 at the scheduler's scale."""
        if latents is not None and not isinstance(latents, Tensor):
            raise ValueError(f"latents are a {type(latents).__name__}: give a tensor {shape}")
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=self._execution_device, dtype=torch.float32)
        if latents.shape != shape:
            given = tuple(latents.shape)
            raise ValueError(f"latents have shape {given}: {shape[0]} {self.unit}s at this size take {shape}")
        return latents.to(self._execution_device, torch.float32) * starting_scale(self.scheduler)

    def latent_size(self, height: int | None, width: int | None) -> tuple[int, int]:
        """Height and width of x_0 for those of an image in pixels; the model's own where they are left out."""
        patch = self.transformer.config.patch_size
        native = [side * patch for side in self.transformer.grid]
        scale = 1 if self.vae is None else 2 ** (len(self.vae.config.block_out_channels) - 1)
        for side in (height, width):
            if side is not None and ((side := read_whole("image side", side)) < 1 or side % (scale * patch)):
                raise ValueError(f"image side {side} is not a multiple of {scale * patch} above 0: take one that is")
        return tuple(own if side is None else side // scale for own, side in zip(native, (height, width), strict=True))

    def decode(self, latents: Tensor, **how: int) -> Tensor:
        """Latents [N, C, H, W] -> pictures [N, 3, H, W] by the VAE; pixels stay as they are."""
        if self.vae is None:
            return latents
        latents = latents / self.vae.config.scaling_factor
        return self.vae.decode(latents.to(self.vae.dtype), **how).sample.float()

    def present(self, pictures: Tensor, output_type: str) -> Any:
        """Pictures [..., C, H, W] in [-1, 1] as the output type has them, in [0, 1]."""
        pictures = (pictures / 2 + 0.5).clamp(0, 1)
        if output_type == "pt":
            return pictures
        array = pictures.cpu().movedim(-3, -1).numpy().astype(np.float32)
        if output_type == "np":
            return array
        return self.numpy_to_pil(array) if array.ndim == 4 else [self.numpy_to_pil(video) for video in array]

    def check_labels(self, class_labels: Labels) -> list[int]:
        """Class ids of ids and names; ValueError for one that this model does not have."""
        labels = [self.class_id(label) for label in list_labels(class_labels)]
        null = self.transformer.null_class
        last = self.transformer.config.num_classes - 1 if null is None else null
        for label in labels:
            if not 0 <= label <= last:
                note = "" if null is None else f" ({null} is the null class)"
                raise ValueError(f"class id {label} is out of range: take 0 to {last}{note}")
        if not labels:
            raise ValueError("class_labels are empty: name at least one class id")
        return labels

    def class_id(self, label: int | str) -> int:
        if not isinstance(label, str):
            return read_whole("class id", label)
        known = ids_by_name(self.config.id2label or {})
        ids = sorted({number for name in known if name.casefold() == label.casefold() for number in known[name]})
        if not ids:
            near, last = did_you_mean(label, known), self.transformer.config.num_classes - 1
            named = f", or one of {name_some(known)}" if known else ", for this model's classes have no names"
            raise ValueError(f"class {label!r} is unknown: {near}take an id, 0 to {last}{named}")
        if len(ids) > 1:
            raise ValueError(f"class {label!r} is the name of {' and '.join(map(str, ids))}: give an id")
        return ids[0]

    def check_guidance(self, scale: float, channels: Channels) -> Guidance:
        most = self.transformer.config.in_channels
        check_scale(scale)
        if channels != "all" and not (isinstance(channels, int) and 1 <= channels <= most):
            raise ValueError(f"guidance_channels is {channels!r}: take 1 to {most}, or 'all'")
        if scale == 1 and channels != "all":
            raise ValueError(f"guidance_channels is {channels} at guidance_scale 1, which is none: leave one out")
        if scale != 1 and self.transformer.null_class is None:
            lacked = "null class" if self.transformer.config.num_classes else "classes"
            raise ValueError(f"guidance_scale is {scale}: this model has no {lacked}, so take 1")
        return Guidance(float(scale), channels)

    def check_run(self, count: int, *, generator: Generators, num_inference_steps: int) -> None:
        check_generators(generator)
        if isinstance(generator, list) and len(generator) != count:
            given = f"{len(generator)} generators for {count} {self.unit}s"
            raise ValueError(f"{given}: give one, or one for each {self.unit}")
        sampler = getattr(self.scheduler, "base", self.scheduler)  # a tuned plan takes the steps of its base
        has_betas = "beta_start" in inspect.signature(type(sampler).__init__).parameters
        if not has_betas and not is_of_flows(sampler):
            kind = type(self.scheduler).__name__
            raise ValueError(f"scheduler is a {kind}, whose noise has no betas as this model's: take another")
        if (kind := type(self.scheduler).__name__) in NOT_FROM_NOISE:
            raise ValueError(f"scheduler is a {kind}, which does not draw from noise alone: take another")
        said, read = self.transformer.config.prediction_type, read_by(self.scheduler)
        if said != read:
            raise ValueError(f"prediction_type is {said!r} in the model and {read!r} in the scheduler: make them agree")
        check_at_least_one(num_inference_steps=num_inference_steps)

    def check_output(self, output_type: str) -> None:
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type is {output_type!r}: take one of {', '.join(OUTPUT_TYPES)}")
        channels = self.transformer.config.in_channels
        if output_type == "latent":
            return
        if self.vae is None and channels not in (1, 3):
            raise ValueError(f"the model draws {channels} channels, which are no picture: give the vae of its latents")
        if self.vae is not None and self.vae.config.latent_channels != channels:
            taken = self.vae.config.latent_channels
            raise ValueError(f"the model draws {channels} channels, its vae takes {taken}: give the vae of its latents")


def list_labels(class_labels: Labels) -> list[Any]:
    """Ids and names one after another; ValueError for what has no order, or none yet."""
    held = class_labels.tolist() if isinstance(class_labels, Tensor | np.ndarray | np.generic) else class_labels
    if isinstance(held, list | tuple | range):
        return list(held)
    if isinstance(held, Real | str):
        return [held]
    raise ValueError(f"class_labels is {show_short(class_labels)}: give an id or a name, or a list of them")


def check_scale(guidance_scale: float) -> None:
    is_number = isinstance(guidance_scale, Real | Tensor) and not isinstance(guidance_scale, bool)
    if not is_number or not isfinite(guidance_scale):
        raise ValueError(f"guidance_scale is {show_short(guidance_scale)}: give a number, 1 for no guidance")


def check_generators(generator: Generators) -> None:
    """ValueError for what is neither a generator nor a list of them."""
    given = generator if isinstance(generator, list) else [] if generator is None else [generator]
    if not all(isinstance(one, torch.Generator) for one in given):
        raise ValueError(f"generator is {show_short(generator)}: give a torch.Generator, or a list of them")


def learns_variance(scheduler: SchedulerMixin) -> bool:
    """Whether a scheduler takes a model's variance; one that does not is told so, whatever config it was made from.

    Of diffusers' schedulers DDPM alone does: others would take three channels of latents for it, or raise.
    """
    told = scheduler.config.get("variance_type") in LEARNED_VARIANCES
    takes = isinstance(scheduler, DDPMScheduler | DDPMParallelScheduler)
    if told and not takes:
        scheduler.register_to_config(variance_type=None)
    return told and takes


def step_arguments(scheduler: SchedulerMixin) -> set[str]:
    """The names that a scheduler's `step` takes: only some draw noise."""
    return set(inspect.signature(scheduler.step).parameters)
