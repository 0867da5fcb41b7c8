"""Random numbers as functions of a key, so that batches, resuming and the order of work change nothing."""

import numpy as np
import torch


def generator(*key: int) -> torch.Generator:
    """A CPU generator seeded by a tuple of non-negative integers; distinct tuples give independent streams."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))
