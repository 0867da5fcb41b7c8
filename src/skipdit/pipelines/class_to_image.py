"""Class ids -> images, by any diffusers scheduler, in pixels or in the latents of a VAE.

    model(x_t for class | x_t for no class)  ->  guidance  ->  scheduler step          one batch, one call a step
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, ImagePipelineOutput
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from skipdit.diffusion import guided
from skipdit.models import DiT
from skipdit.pipelines.schedulers import set_timesteps

LEARNED_VARIANCES = ("learned", "learned_range")
OUTPUT_TYPES = ("pil", "np", "pt", "latent")


@dataclass
class StepState:
    """What a callback sees after each step: the step's number, its timestep and the new x [B, C, H, W]."""

    step: int
    timestep: float
    latents: Tensor


class ClassToImagePipeline(DiffusionPipeline):
    """Class-conditional sampling with a `DiT`.

    `vae` may be None: the model then works on pixels in [-1, 1]. The null class is the model's own. A scheduler with a
    learned variance is given the model's variance channels, any other only the noise prediction.
    """

    model_cpu_offload_seq = "transformer->vae"
    _optional_components = ["vae"]

    def __init__(self, transformer: DiT, scheduler: SchedulerMixin, vae: AutoencoderKL | None = None):
        super().__init__()
        self.register_modules(transformer=transformer, scheduler=scheduler, vae=vae)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Sequence[int] | int,
        *,
        guidance_scale: float = 4.0,
        guidance_channels: int | Literal["all"] = "all",
        num_inference_steps: int = 50,
        height: int | None = None,
        width: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: Literal["pil", "np", "pt", "latent"] = "pil",
        on_step: Callable[[StepState], None] | None = None,
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Draw one image for each class id.

        Args:
            class_labels: ids in 0 .. num_classes - 1; the null class, num_classes, draws without a class.
            guidance_scale: classifier-free guidance, off at 1.
            guidance_channels: "all", or how many noise channels are guided (3 in the published DiT).
            height, width: of the image in pixels; the model's `sample_size` where they are left out.
            generator: one, or one for each image, so that an image does not depend on its batch.
            latents: the starting noise [B, C, H, W] instead of a drawn one.
            output_type: "pil", "np" [B, H, W, C] or "pt" [B, C, H, W] in [0, 1], or "latent" (x_0 before the VAE).
            on_step: called after every step; an exception that it raises ends the run.

        Raises:
            ValueError: for ids, guidance, sizes or an output type out of their bounds.
        """
        labels = self.check_labels([class_labels] if isinstance(class_labels, int) else list(class_labels))
        guides = self.check_guidance(guidance_scale, guidance_channels)
        self.check_output(output_type)
        if isinstance(generator, list) and len(generator) != len(labels):
            raise ValueError(f"{len(generator)} generators for {len(labels)} labels: give one, or one for each label")
        if num_inference_steps < 1:
            raise ValueError(f"num_inference_steps is {num_inference_steps}: it must be at least 1")
        # As numbers once, so that no step waits for an accelerator to learn where it is.
        timesteps = set_timesteps(self.scheduler, num_inference_steps, device=self._execution_device)
        latents = self.prepare_latents(len(labels), self.latent_size(height, width), generator, latents)
        class_ids = torch.tensor(labels, device=latents.device)
        if guides:
            class_ids = torch.cat([class_ids, torch.full_like(class_ids, self.transformer.null_class)])
        draw = {"generator": generator} if "generator" in step_arguments(self.scheduler) else {}
        for step, t in enumerate(self.progress_bar(self.scheduler.timesteps)):
            model_input = torch.cat([latents] * 2) if guides else latents
            model_input = self.scheduler.scale_model_input(model_input, t).to(self.transformer.dtype)
            with self.transformer.cache_context(
                "default", step_index=step, num_inference_steps=len(timesteps), timestep=timesteps[step]
            ):
                output = self.transformer(model_input, t.expand(len(model_input)), class_ids, return_dict=False)[0]
            prediction = self.predict(output.float(), guidance_scale, guidance_channels, guides)
            latents = self.scheduler.step(prediction, t, latents, **draw).prev_sample
            if on_step is not None:
                on_step(StepState(step, timesteps[step], latents))
        images = self.decode(latents, output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def predict(self, output: Tensor, scale: float, channels: int | str, guides: bool) -> Tensor:
        """Model output [B or 2B, C or 2C, H, W] -> what the scheduler takes [B, C or 2C, H, W]."""
        noise_channels = self.transformer.config.in_channels
        if guides:
            conditional, unconditional = output.chunk(2)
            output = guided(
                conditional, unconditional, scale=scale, eps_channels=noise_channels,
                channels=None if channels == "all" else channels,
            )  # fmt: skip
        learned = getattr(self.scheduler.config, "variance_type", None) in LEARNED_VARIANCES
        return output if learned else output[:, :noise_channels]

    def prepare_latents(self, batch: int, size: tuple[int, int], generator: Any, latents: Tensor | None) -> Tensor:
        """Starting noise [B, C, H, W] in float32 at the scheduler's scale."""
        shape = (batch, self.transformer.config.in_channels, *size)
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=self._execution_device, dtype=torch.float32)
        if latents.shape != shape:
            raise ValueError(f"latents have shape {tuple(latents.shape)}: {batch} labels at this size take {shape}")
        return latents.to(self._execution_device, torch.float32) * self.scheduler.init_noise_sigma

    def latent_size(self, height: int | None, width: int | None) -> tuple[int, int]:
        patch = self.transformer.config.patch_size
        native = [side * patch for side in self.transformer.grid]
        scale = 1 if self.vae is None else 2 ** (len(self.vae.config.block_out_channels) - 1)
        for side in filter(None, (height, width)):
            if side % (scale * patch):
                raise ValueError(f"image side {side} is not a multiple of {scale * patch}: take one that is")
        return tuple(own if side is None else side // scale for own, side in zip(native, (height, width), strict=True))

    def check_labels(self, labels: list[int]) -> list[int]:
        null = self.transformer.null_class
        last = self.transformer.config.num_classes - 1 if null is None else null
        for label in labels:
            if not 0 <= label <= last:
                note = "" if null is None else f" ({null} is the null class)"
                raise ValueError(f"class id {label} is out of range: take 0 to {last}{note}")
        if not labels:
            raise ValueError("class_labels are empty: name at least one class id")
        return labels

    def check_guidance(self, scale: float, channels: int | str) -> bool:
        """Whether guidance is on."""
        most = self.transformer.config.in_channels
        if channels != "all" and not (isinstance(channels, int) and 1 <= channels <= most):
            raise ValueError(f"guidance_channels is {channels!r}: take 1 to {most}, or 'all'")
        if scale == 1 and channels != "all":
            raise ValueError(f"guidance_channels is {channels} at guidance_scale 1, which is none: leave one out")
        if scale != 1 and self.transformer.null_class is None:
            raise ValueError(f"guidance_scale is {scale}: this model has no null class, so take 1")
        return scale != 1

    def check_output(self, output_type: str) -> None:
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type is {output_type!r}: take one of {', '.join(OUTPUT_TYPES)}")
        channels = self.transformer.config.in_channels
        if output_type != "latent" and self.vae is None and channels not in (1, 3):
            raise ValueError(f"the model draws {channels} channels, which are no picture: give the vae of its latents")

    def decode(self, latents: Tensor, output_type: str) -> Any:
        if output_type == "latent":
            return latents
        if self.vae is not None:
            latents = self.vae.decode((latents / self.vae.config.scaling_factor).to(self.vae.dtype)).sample.float()
        images = (latents / 2 + 0.5).clamp(0, 1)
        if output_type == "pt":
            return images
        images = images.cpu().permute(0, 2, 3, 1).numpy()
        return self.numpy_to_pil(images) if output_type == "pil" else images.astype(np.float32)


def step_arguments(scheduler: SchedulerMixin) -> set[str]:
    """The names that a scheduler's `step` takes: only some draw noise."""
    return set(inspect.signature(scheduler.step).parameters)
