"""Class ids -> images, by any diffusers scheduler, in pixels or in the latents of a VAE."""

from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, ImagePipelineOutput
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from skipdit.models import DiT
from skipdit.pipelines.class_conditional import (
    Channels,
    ClassConditionalPipeline,
    Generators,
    Labels,
    OnStep,
    StepState,
    step_arguments,
)
from skipdit.pipelines.pixels import PixelAutoencoder

__all__ = ["ClassToImagePipeline", "StepState", "step_arguments"]


class ClassToImagePipeline(ClassConditionalPipeline):
    """Class-conditional sampling with a `DiT`.

    `vae` may be None: the model then works on pixels in [-1, 1]. The null class is the model's own. A scheduler with a
    learned variance is given the model's variance channels, any other only the noise prediction.
    """

    def __init__(
        self, transformer: DiT, scheduler: SchedulerMixin, vae: AutoencoderKL | PixelAutoencoder | None = None,
        id2label: dict[int, str] | dict[str, str] | None = None,
    ):  # fmt: skip
        super().__init__(transformer, scheduler, vae, id2label)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Labels,
        *,
        guidance_scale: float = 4.0,
        guidance_channels: Channels = "all",
        num_inference_steps: int = 50,
        height: int | None = None,
        width: int | None = None,
        generator: Generators = None,
        latents: Tensor | None = None,
        output_type: Literal["pil", "np", "pt", "latent"] = "pil",
        on_step: OnStep | None = None,
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Draw one image for each class id.

        Args:
            class_labels: ids in 0 .. num_classes - 1, or names of `labels`; the null class, num_classes, draws without
                a class.
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
        labels = self.check_labels(class_labels)
        guidance = self.check_guidance(guidance_scale, guidance_channels)
        self.check_output(output_type)
        self.check_run(len(labels), generator=generator, num_inference_steps=num_inference_steps)
        shape = (len(labels), self.transformer.config.in_channels, *self.latent_size(height, width))
        latents = self.sample(
            shape, labels, guidance=guidance, num_inference_steps=num_inference_steps, generator=generator,
            latents=latents, on_step=on_step,
        )  # fmt: skip
        images = latents if output_type == "latent" else self.present(self.decode(latents), output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)
