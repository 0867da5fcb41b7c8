"""Pipelines that somebody else wrote, as `skipdit bench module:function` takes them."""

from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel, FluxPipeline

from tests.caching.attached.test_pipelines import CASES


def autoencoder() -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4, layers_per_block=1).eval()


def make_dit() -> DiTPipeline:
    sizes = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 6, "sample_size": 8, "out_channels": 8}
    model = DiTTransformer2DModel(**sizes, num_embeds_ada_norm=1000).eval()
    return DiTPipeline(transformer=model, vae=autoencoder(), scheduler=DDIMScheduler())


def make_pixart() -> tuple[Any, dict[str, Any]]:
    """With the arguments of its call."""
    build, arguments, _ = CASES["PixArt"]
    torch.manual_seed(0)
    pipe = build()
    pipe.register_modules(vae=autoencoder())
    return pipe, arguments()


def make_nothing() -> None:
    return None


def make_headless() -> FluxPipeline:
    pipe = CASES["Flux"][0]()
    pipe.register_modules(transformer=None)
    return pipe
