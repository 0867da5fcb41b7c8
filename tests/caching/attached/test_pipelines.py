"""Stock pipelines of diffusers, unmodified, around attached transformers: every step finds its run."""

from collections.abc import Callable
from inspect import signature
from typing import Any

import diffusers
import pytest
import torch
from diffusers import (
    AutoencoderKLWan,
    CogVideoXDDIMScheduler,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

from skipdit import SkipCacheConfig
from skipdit.caching import attach
from tests.caching.attached.stock import STOCK

EULER = FlowMatchEulerDiscreteScheduler
CONFIG = SkipCacheConfig(interval=3)


def made(kind: str, transformer: str, scheduler: Any = None, **parts: Any) -> diffusers.DiffusionPipeline:
    """A pipeline without text encoders: prompts come as embeddings, and latents are what it returns."""
    build = next(stock.build for stock in STOCK if stock.name == transformer)
    names = signature(getattr(diffusers, kind)).parameters
    missing = dict.fromkeys(name for name in names if name.startswith(("vae", "tokenizer", "text_encoder")))
    pipe = getattr(diffusers, kind)(**missing | {"transformer": build(), "scheduler": scheduler or EULER()} | parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def wan() -> diffusers.WanPipeline:
    vae = AutoencoderKLWan(
        base_dim=8, z_dim=4, dim_mult=[1] * 4, num_res_blocks=1, latents_mean=[0.0] * 4, latents_std=[1.0] * 4
    )
    unipc = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    return made("WanPipeline", "WanTransformer3DModel", unipc, vae=vae)


def sana() -> diffusers.SanaPipeline:
    dpm = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)
    return made("SanaPipeline", "SanaTransformer2DModel", dpm)


def embedded(channels: int = 12, **more: Any) -> dict[str, Any]:
    return {"prompt_embeds": torch.randn(1, 5, channels), "negative_prompt_embeds": torch.zeros(1, 5, channels)} | more


def masked(kind: torch.dtype = torch.float32, channels: int = 12, **more: Any) -> dict[str, Any]:
    mask = torch.ones(1, 5, dtype=kind)
    masks = {"prompt_attention_mask": mask, "negative_prompt_attention_mask": mask}
    return {"prompt": None} | embedded(channels) | masks | more


POOLED = ("pooled_prompt_embeds", "negative_pooled_prompt_embeds")
SQUARE = {"height": 64, "width": 64}
UNBINNED = {"negative_prompt": None, "use_resolution_binning": False}
Case = tuple[Callable[[], diffusers.DiffusionPipeline], Callable[[], dict[str, Any]], set[str]]
CASES: dict[str, Case] = {  # the pipeline, its arguments, and the contexts that it opens
    "PixArt": (
        lambda: made("PixArtAlphaPipeline", "PixArtTransformer2DModel", DDIMScheduler()),
        lambda: masked(**SQUARE, **UNBINNED), {"default"},
    ),
    "SD3": (
        lambda: made("StableDiffusion3Pipeline", "SD3Transformer2DModel"),
        lambda: embedded(**SQUARE, **{name: torch.randn(1, 6) for name in POOLED}), {"default"},
    ),
    "Flux": (
        lambda: made("FluxPipeline", "FluxTransformer2DModel"),
        lambda: embedded(**SQUARE, **{name: torch.randn(1, 6) for name in POOLED}, true_cfg_scale=3.0),
        {"cond", "uncond"},
    ),
    "Flux2": (
        lambda: made("Flux2Pipeline", "Flux2Transformer2DModel"),
        lambda: {"prompt_embeds": torch.randn(1, 5, 12)} | SQUARE, {"default"},
    ),
    "Chroma": (
        lambda: made("ChromaPipeline", "ChromaTransformer2DModel"), lambda: masked(**SQUARE), {"default", "default 2"},
    ),
    "AuraFlow": (
        lambda: made("AuraFlowPipeline", "AuraFlowTransformer2DModel"), lambda: masked(**SQUARE), {"default"},
    ),
    "Wan": (wan, lambda: {"prompt": None} | embedded(**SQUARE, num_frames=5), {"cond", "uncond"}),
    "Sana": (sana, lambda: masked(**SQUARE, **UNBINNED), {"default"}),
    "LTX": (
        lambda: made("LTXPipeline", "LTXVideoTransformer3DModel"),
        lambda: masked(**SQUARE, num_frames=9), {"cond_uncond"},
    ),
    "CogVideoX": (
        lambda: made("CogVideoXPipeline", "CogVideoXTransformer3DModel", CogVideoXDDIMScheduler()),
        lambda: {"prompt": None} | embedded(**SQUARE, num_frames=9), {"cond_uncond"},
    ),
    "HunyuanVideo": (
        lambda: made("HunyuanVideoPipeline", "HunyuanVideoTransformer3DModel"),
        lambda: {
            "prompt": None, "prompt_embeds": torch.randn(1, 5, 12), "pooled_prompt_embeds": torch.randn(1, 6),
            "prompt_attention_mask": torch.ones(1, 5), "height": 32, "width": 32, "num_frames": 5,
        },
        {"cond"},
    ),
    "QwenImage": (
        lambda: made("QwenImagePipeline", "QwenImageTransformer2DModel"),
        lambda: embedded(**SQUARE, **dict.fromkeys(
            ("prompt_embeds_mask", "negative_prompt_embeds_mask"), torch.ones(1, 5).long()
        ), true_cfg_scale=3.0),
        {"cond", "uncond"},
    ),
    "Mochi": (
        lambda: made("MochiPipeline", "MochiTransformer3DModel", EULER(invert_sigmas=True)),
        lambda: masked(torch.bool, 16, **SQUARE, num_frames=7), {"cond_uncond"},
    ),
    "Lumina2": (
        lambda: made("Lumina2Pipeline", "Lumina2Transformer2DModel"),
        lambda: masked(torch.bool, **SQUARE, negative_prompt=None), {"default", "default 2"},
    ),
    "ZImage": (
        lambda: made("ZImagePipeline", "ZImageTransformer2DModel"),
        lambda: {
            "prompt": None, "prompt_embeds": [torch.randn(5, 12)], "negative_prompt_embeds": [torch.zeros(5, 12)],
            "guidance_scale": 3.0, **SQUARE,
        },
        {"default"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_stock_pipeline_draws_with_an_attached_model(name):
    """With interval 1 the same bits as without; with 3 its plan, and the same again after a call that was cancelled."""
    build, arguments, contexts = CASES[name]
    torch.manual_seed(0)
    pipe, given = build(), arguments()
    attachment = attach(pipe.transformer)

    def draw(steps: int = 6, **more: Any) -> torch.Tensor:
        rng = torch.Generator().manual_seed(0)
        return pipe(**given, **more, generator=rng, num_inference_steps=steps, output_type="latent")[0]

    uncached = draw()
    attachment.enable_cache(SkipCacheConfig(interval=1))
    assert torch.equal(draw(), uncached)
    attachment.disable_cache()
    attachment.enable_cache(CONFIG)
    cached = draw()
    assert {context: stats.plan for context, stats in attachment.cache_stats().items()} == dict.fromkeys(
        contexts, "#..#.."
    )
    assert not torch.equal(cached, uncached)
    cancel_in_the_second_step(pipe, draw)
    assert torch.equal(draw(), cached)


def cancel_in_the_second_step(pipe: diffusers.DiffusionPipeline, draw: Callable) -> None:
    """In the first it would be taken for two runs in turns where prompts are the caller's tensors (Z-Image)."""
    plain, steps = pipe.scheduler.step, iter(range(9))

    def stop(*args: Any, **kwargs: Any) -> Any:
        if next(steps) == 1:
            raise KeyboardInterrupt
        return plain(*args, **kwargs)

    pipe.scheduler.step = stop
    with pytest.raises(KeyboardInterrupt):
        draw(9)
    pipe.scheduler.step = plain
