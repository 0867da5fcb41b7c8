"""Class ids -> videos, or videos of no class, by any diffusers scheduler, in pixels or in the latents of a VAE."""

import inspect
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, AutoencoderKLTemporalDecoder
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import is_compiled_module
from einops import rearrange
from torch import Tensor, nn

from skipdit.models import Latte
from skipdit.models.checks import check_at_least_one, check_frames
from skipdit.pipelines.class_conditional import Channels, ClassConditionalPipeline, Generators, Labels, OnStep
from skipdit.pipelines.pixels import PixelAutoencoder

GUIDANCE_SCALE = 7.0  # of the published class-to-video model of UCF101; its unconditional ones have none


@dataclass
class ClassToVideoOutput(BaseOutput):
    """Videos: lists of PIL images, an array [B, F, H, W, C], or a tensor [B, F, C, H, W]."""

    frames: Any


class ClassToVideoPipeline(ClassConditionalPipeline):
    """Class-conditional and unconditional sampling with a `Latte`.

    `vae` may be None: the model then works on pixels in [-1, 1]. The null class is the model's own. A scheduler with a
    learned variance is given the model's variance channels, any other only the noise prediction.
    """

    unit = "video"

    def __init__(
        self, transformer: Latte, scheduler: SchedulerMixin,
        vae: AutoencoderKL | AutoencoderKLTemporalDecoder | PixelAutoencoder | None = None,
        id2label: dict[int, str] | dict[str, str] | None = None,
    ):  # fmt: skip
        super().__init__(transformer, scheduler, vae, id2label)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Labels | None = None,
        *,
        num_videos: int | None = None,
        guidance_scale: float | None = None,
        guidance_channels: Channels = "all",
        num_inference_steps: int = 50,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        generator: Generators = None,
        latents: Tensor | None = None,
        output_type: Literal["pil", "np", "pt", "latent"] = "pil",
        decode_chunk_size: int = 14,
        on_step: OnStep | None = None,
        return_dict: bool = True,
    ) -> ClassToVideoOutput | tuple[Any]:
        """Draw one video for each class id, or `num_videos` with an unconditional model.

        Args:
            class_labels: ids in 0 .. num_classes - 1, or names of `labels`; the null class, num_classes, draws without
                a class. An unconditional model takes none.
            num_videos: of an unconditional model, 1 where it is left out; otherwise there is one for each id.
            guidance_scale: classifier-free guidance, off at 1. Left out, it is the published 7 for a model with a null
                class, and 1 for one without, which cannot be guided.
            guidance_channels: "all", or how many noise channels are guided; variance channels never are.
            num_frames: of each video; at most the model's own, which it is where it is left out.
            height, width: of the frames in pixels; the model's `sample_size` where they are left out.
            generator: one, or one for each video, so that a video does not depend on its batch.
            latents: the starting noise [B, F, C, H, W] instead of a drawn one.
            output_type: "pil" (a list of frames for each video), "np" [B, F, H, W, C] or "pt" [B, F, C, H, W] in
                [0, 1], or "latent" (x_0 before the VAE, [B, F, C, H, W]).
            decode_chunk_size: frames that the VAE decodes at once, all of one video.
            on_step: called after every step; an exception that it raises ends the run.

        Raises:
            ValueError: for ids, guidance, frames, sizes or an output type out of their bounds.
        """
        labels = self.labels_of(class_labels, num_videos)
        count = (1 if num_videos is None else num_videos) if labels is None else len(labels)
        guidance = self.check_guidance(self.own_scale if guidance_scale is None else guidance_scale, guidance_channels)
        check_at_least_one(decode_chunk_size=decode_chunk_size)
        self.check_output(output_type)
        self.check_run(count, generator=generator, num_inference_steps=num_inference_steps)
        config = self.transformer.config
        frames = config.num_frames if num_frames is None else num_frames
        check_frames(frames, at_most=config.num_frames, num_images=0)
        latents = self.sample(
            (count, frames, config.in_channels, *self.latent_size(height, width)), labels, guidance=guidance,
            num_inference_steps=num_inference_steps, generator=generator, latents=latents, on_step=on_step,
        )  # fmt: skip
        videos = latents
        if output_type != "latent":
            videos = self.present(self.decode_videos(latents, decode_chunk_size), output_type)
        self.maybe_free_model_hooks()
        return ClassToVideoOutput(frames=videos) if return_dict else (videos,)

    @property
    def own_scale(self) -> float:
        """The guidance scale of a run that names none."""
        return 1.0 if self.transformer.null_class is None else GUIDANCE_SCALE

    def labels_of(self, class_labels: Labels | None, num_videos: int | None) -> list[int] | None:
        """The class ids as a list, None for an unconditional model; ValueError where the model and they disagree."""
        classes = self.transformer.config.num_classes
        if not classes:
            if class_labels is not None:
                raise ValueError(f"class_labels are {class_labels}, but this model has no classes: give num_videos")
            check_at_least_one(num_videos=1 if num_videos is None else num_videos)
            return None
        if class_labels is None:
            raise ValueError(f"class_labels are missing for a model of {classes} classes: give one id for each video")
        if num_videos is not None:
            raise ValueError(f"num_videos is {num_videos}, but each class id draws one video: leave it out")
        return self.check_labels(class_labels)

    def decode_videos(self, latents: Tensor, chunk_size: int) -> Tensor:
        """Latents [B, F, C, H, W] -> videos [B, F, 3, H, W]; no chunk holds frames of two videos."""
        if self.vae is None:
            return latents
        chunks = [chunk for video in latents for chunk in video.split(chunk_size)]
        sees_time = sees_several_frames(self.vae)
        decoded = [self.decode(chunk, **({"num_frames": len(chunk)} if sees_time else {})) for chunk in chunks]
        return rearrange(torch.cat(decoded), "(b f) c h w -> b f c h w", b=len(latents))


def sees_several_frames(vae: nn.Module) -> bool:
    """Whether a VAE wants to know how many frames it decodes, as AutoencoderKLTemporalDecoder does."""
    module = vae._orig_mod if is_compiled_module(vae) else vae
    return "num_frames" in inspect.signature(module.forward).parameters  # `decode` is wrapped, and so hides its own
