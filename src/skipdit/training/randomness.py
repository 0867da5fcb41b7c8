"""Every random number of a run is a function of (seed, step, rank), so that resuming changes nothing."""

import numpy as np
import torch
from torch import Tensor


def generator(*key: int) -> torch.Generator:
    """A CPU generator seeded by a tuple of non-negative integers; distinct tuples give independent streams."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))


def batch_indices(step: int, *, dataset_size: int, batch_size: int, seed: int) -> Tensor:
    """The sample indices [B] of one step: each epoch is a fresh permutation, read on across its border."""
    first = step * batch_size
    positions = range(first, first + batch_size)
    epochs = {position // dataset_size for position in positions}
    order = {epoch: torch.randperm(dataset_size, generator=generator(seed, 0, epoch)) for epoch in sorted(epochs)}
    return torch.stack([order[position // dataset_size][position % dataset_size] for position in positions])
