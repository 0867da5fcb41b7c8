"""What the model draws so far: the data's examples, without guidance's help or a scheduler's choice."""

from collections.abc import Callable

import torch
from torch import Tensor

from skipdit.data import Dataset
from skipdit.diffusion import process_of
from skipdit.models.base import LongSkipModel
from skipdit.randomness import generator

UNCONDITIONAL = 4  # samples of a model without conditions


def preview(
    model: LongSkipModel,
    dataset: Dataset,
    *,
    num_steps: int,
    seed: int = 0,
    decode: Callable[[Tensor], Tensor] = lambda x_0: x_0,
) -> Tensor:
    """Samples of `dataset.examples` in [0, 1], shaped as the dataset's, [B, C, H, W] or clips; without guidance.

    `decode` makes pictures in [-1, 1] of what the model draws, where that is latents.
    """
    device, channels = model.device, model.channel_dim
    conditions = {name: value.to(device) for name, value in dataset.examples().items()}
    batch = len(next(iter(conditions.values()), range(UNCONDITIONAL)))
    shape = dataset.x_0(torch.tensor([0])).shape[1:]
    noise = torch.randn(batch, *shape, generator=generator(seed, 2)).to(device)

    def denoise(x_t: Tensor, t: float) -> Tensor:
        timestep = torch.full((batch,), t, device=device)
        return model(x_t.movedim(1, channels), timestep, **conditions).sample.movedim(channels, 1)

    process = process_of(model.config.prediction_type)
    *_, x_0 = process.walk(denoise, noise.movedim(channels, 1), num_steps=num_steps)
    return (decode(x_0.movedim(1, channels)) / 2 + 0.5).clamp(0, 1)
