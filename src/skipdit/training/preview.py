"""What the model draws so far: one image per class and seed, without guidance's help or a scheduler's choice."""

import torch
from torch import Tensor

from skipdit.diffusion import NoiseSchedule, ddim, respace
from skipdit.models import DiT
from skipdit.randomness import generator


def preview(model: DiT, *, num_steps: int, rows: int = 4, seed: int = 0) -> Tensor:
    """Images [rows * classes, C, H, W] in [0, 1], one column a class, by DDIM without guidance."""
    config, device = model.config, model.device
    labels = torch.arange(config.num_classes).repeat(rows).to(device)
    height, width = (side * config.patch_size for side in model.grid)
    noise = torch.randn(len(labels), config.in_channels, height, width, generator=generator(seed, 2)).to(device)

    def denoise(x_t: Tensor, t: int) -> Tensor:
        return model(x_t, torch.full((len(x_t),), t, device=device), labels).sample

    schedule = NoiseSchedule.linear()
    *_, x_0 = ddim(denoise, noise, timesteps=respace(len(schedule), num_steps), schedule=schedule)
    return (x_0 / 2 + 0.5).clamp(0, 1)
