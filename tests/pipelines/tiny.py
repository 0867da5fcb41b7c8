"""A tiny real model whose samples stay in bounds, and pipelines around it."""

import torch
from diffusers import AutoencoderKL

from skipdit import DiT
from skipdit.pipelines import ClassToImagePipeline
from skipdit.pipelines.schedulers import make_scheduler
from skipdit.randomness import generator

SETTINGS = {
    "sample_size": 8, "patch_size": 2, "in_channels": 1, "hidden_size": 16, "depth": 4, "num_heads": 2,
    "num_classes": 10, "num_skips": 2,
}  # fmt: skip


def tiny(*, seed: int = 0, **settings) -> DiT:
    """A `DiT` with every weight drawn, so that no gate is shut and no class without effect; in eval mode."""
    model, rng = DiT(**SETTINGS | settings), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.15, generator=rng)
    return model.eval()


def tiny_vae(*, latent_channels: int = 4) -> AutoencoderKL:
    """An autoencoder that halves each side."""
    return AutoencoderKL(
        block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2, layers_per_block=1,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, latent_channels=latent_channels,
        scaling_factor=0.5,
    ).eval()  # fmt: skip


def pipeline(model: DiT | None = None, *, scheduler: str = "ddim", vae: AutoencoderKL | None = None):
    model = tiny() if model is None else model
    learned = model.config.out_channels == 2 * model.config.in_channels
    pipe = ClassToImagePipeline(model, make_scheduler(scheduler, learned_variance=learned), vae)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeds(*numbers: int) -> list[torch.Generator]:
    """A generator for each image."""
    return [generator(number) for number in numbers]


def latents_of(pipe: ClassToImagePipeline, labels=(1, 2, 3), *, steps: int = 6, **settings) -> torch.Tensor:
    """x_0 [B, C, H, W] of a short run with a generator for each image."""
    settings = {"generator": seeds(*range(len(labels))), "guidance_scale": 1.5} | settings
    return pipe(list(labels), num_inference_steps=steps, output_type="latent", **settings).images
