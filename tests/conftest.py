"""No network, one thread (tensors are tiny; threads would wait for each other), fixed random numbers."""

import os
import signal

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start too: the same sums to the last bit

import pytest
import torch
from hypothesis import settings

# A suite that runs in the background inherits a Ctrl-C that is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)

pytest.register_assert_rewrite("tests.models.contract", "tests.models.subject")

settings.register_profile("laws", deadline=None, derandomize=True, database=None, max_examples=40)
settings.load_profile("laws")


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
