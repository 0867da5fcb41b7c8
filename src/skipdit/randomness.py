"""Random numbers as functions of a key, so that batches, resuming and the order of work change nothing."""

import numpy as np
import torch


def generator(*key: int) -> torch.Generator:
    """A CPU generator seeded by a tuple of integers in [0, 2**32).

    Tuples of one length give independent streams; NumPy's SeedSequence pads a shorter one with zeros.
    """
    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))
