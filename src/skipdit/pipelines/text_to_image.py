"""How `draw` asks diffusers' HunyuanDiTPipeline; to import this teaches it, as `load_pipeline` does for a HunyuanDiT.

The pipeline brings CLIP's image processor along, which takes time and says so where torchvision is missing.
"""

from collections.abc import Sequence
from functools import wraps
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from skipdit.data.text import quiet_transformers
from skipdit.pipelines.calls import read_call
from skipdit.pipelines.draw import (
    Settings,
    check,
    check_lengths,
    check_text_guidance,
    check_text_latents,
    check_text_size,
    draw,
    draw_text,
    draw_texts,
    told,
    told_of_steps,
)

with quiet_transformers():
    from diffusers import HunyuanDiTPipeline as Published
    from diffusers.pipelines.hunyuandit.pipeline_hunyuandit import SUPPORTED_SHAPE

ORIGINAL_SIZE = (1024, 1024)  # diffusers' own


class HunyuanDiTPipeline(Published):
    """diffusers' own, by its name, but sizes that are left out are the model's, whatever that is."""

    @wraps(Published.__call__)
    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        side = self.default_sample_size * self.vae_scale_factor
        bins = (side, side) in SUPPORTED_SHAPE  # to one of which every size is taken
        own = {"height": side, "width": side, "use_resolution_binning": bins}
        given = read_call(super().__call__, arguments, settings, own=own)
        if not given["use_resolution_binning"]:
            check_image_size(self, Settings(height=given["height"], width=given["width"]))
        return super().__call__(**given)


draw.register(Published, draw_texts)


@draw_text.register
@torch.no_grad()
def draw_images_of_text(pipeline: Published, prompt, noise, settings, on_step) -> Tensor:
    """Latents, and so the timesteps that the pipeline casts to their type, are float32 whatever the model is."""
    config, scale = pipeline.transformer.config, pipeline.vae_scale_factor
    height, width = (side or config.sample_size * scale for side in (settings.height, settings.width))
    shape = (len(noise), config.in_channels, height // scale, width // scale)
    latents = pipeline(
        latents=randn_tensor(shape, generator=noise, device=pipeline._execution_device, dtype=torch.float32),
        **encoded(pipeline, prompt, settings, copies=len(noise)),
        guidance_scale=settings.guidance_scale,
        num_inference_steps=settings.steps,
        height=height,
        width=width,
        original_size=settings.original_size or ORIGINAL_SIZE,
        use_resolution_binning=False,
        generator=noise,
        output_type="latent",
        callback_on_step_end=on_step and told_of_steps(on_step),
    ).images
    # Not the pipeline's own decoding, which expects latents of the autoencoder's type.
    latents = latents.to(pipeline.vae.dtype) / pipeline.vae.config.scaling_factor
    pictures = pipeline.vae.decode(latents, return_dict=False)[0].float()
    pictures, unsafe = pipeline.run_safety_checker(pictures, pictures.device, pipeline.vae.dtype)
    pipeline.maybe_free_model_hooks()
    spread = [not flagged for flagged in unsafe or [False] * len(noise)]  # the checker blackens what it flags
    return pipeline.image_processor.postprocess(pictures, output_type="pt", do_denormalize=spread).cpu()


def encoded(
    pipeline: Published, prompt: str | Sequence[str], settings: Settings, *, copies: int
) -> dict[str, Tensor | None]:
    """The text of both encoders as the pipeline takes it, of one prompt for all copies or of one each.

    There is none to keep away from unguided.
    """
    prompts = [prompt] * copies if isinstance(prompt, str) else list(prompt)
    alone = {each: encoded_once(pipeline, each, settings) for each in dict.fromkeys(prompts)}
    return {
        name: tensor if tensor is None else torch.cat([alone[each][name] for each in prompts])
        for name, tensor in alone[prompts[0]].items()
    }


def encoded_once(pipeline: Published, prompt: str, settings: Settings) -> dict[str, Tensor | None]:
    guides, texts = settings.guidance_scale > 1, {}
    for index, suffix in enumerate(("", "_2")):
        text, negative, mask, negative_mask = pipeline.encode_prompt(
            prompt, do_classifier_free_guidance=guides, negative_prompt=settings.negative_prompt,
            text_encoder_index=index,
        )  # fmt: skip
        texts |= {f"prompt_embeds{suffix}": text, f"prompt_attention_mask{suffix}": mask}
        texts |= {f"negative_prompt_embeds{suffix}": negative, f"negative_prompt_attention_mask{suffix}": negative_mask}
    return texts


@check.register
def check_texts_of_images(pipeline: Published, subjects, settings) -> None:
    """The BERT reads the first 77 tokens alone, as published; the T5 must read them all."""
    check_text_guidance(settings)
    check_image_size(pipeline, settings)
    check_text_latents(pipeline)
    check_original_size(pipeline, settings.original_size)
    longest_text = pipeline.transformer.config.text_len_t5
    texts = told(subjects, settings)
    check_lengths(lambda prompt: len(pipeline.tokenizer_2(prompt).input_ids), texts, at_most=longest_text)


def check_image_size(pipeline: Published, settings: Settings) -> None:
    """diffusers' pipeline lays positions by an eighth of the picture, whatever the autoencoder's factor is."""
    check_text_size(pipeline, settings, multiple_of=16)
    least = 8 * pipeline.transformer.config.patch_size
    for side in filter(None, (settings.height, settings.width)):
        if side < least:
            raise ValueError(f"side {side} is too small for this pipeline: take at least {least}")


def check_original_size(pipeline: Published, size: tuple[int, int] | None) -> None:
    """Models up to version 1.1 are told of which size a picture was before it was scaled."""
    if size is None:
        return
    if not pipeline.transformer.config.use_style_cond_and_image_meta_size:
        raise ValueError(f"original_size is {size}, of which a model of version 1.2 is not told: leave it out")
    if min(size) < 1:
        raise ValueError(f"original_size is {size}: both sides must be at least 1")
