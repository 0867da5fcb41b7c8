"""Which samples a step sees: a function of (seed, step)."""

import torch
from torch import Tensor

from skipdit.randomness import generator


def batch_indices(step: int, *, dataset_size: int, batch_size: int, seed: int) -> Tensor:
    """The sample indices [B] of one step: each epoch is a fresh permutation, read on across its border."""
    first = step * batch_size
    positions = range(first, first + batch_size)
    epochs = {position // dataset_size for position in positions}
    order = {epoch: torch.randperm(dataset_size, generator=generator(seed, 0, epoch)) for epoch in sorted(epochs)}
    return torch.stack([order[position // dataset_size][position % dataset_size] for position in positions])
