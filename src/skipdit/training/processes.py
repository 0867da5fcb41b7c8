"""The processes of one run: `torchrun -m skipdit train ...`, or `accelerate launch`, starts them.

    batch of B samples -> process r of n computes the gradient of rows r B/n to (r+1) B/n -> the mean of all (DDP)

Each process draws the noise of the whole batch and keeps its rows, so that n processes take the steps of one, up to
rounding, and a run may be resumed on another number of them. The first one alone writes.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Processes:
    """This process's number among those of a run, and how many there are."""

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def rows(self, batch_size: int, *, part: int, parts: int) -> slice:
        """The rows of a batch that are this process's in one of its `parts`."""
        size = batch_size // (self.count * parts)
        first = (self.rank * parts + part) * size
        return slice(first, first + size)

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model, whose gradients are the means of all processes."""
        return model if self.count == 1 else DistributedDataParallel(model)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all processes."""
        if self.count == 1:
            return values
        values = values / self.count
        dist.all_reduce(values)
        return values

    def any(self, here: bool, *, device: str) -> bool:
        """Whether it is so in any process."""
        return bool(here) if self.count == 1 else bool(self.mean(torch.tensor(float(here), device=device)))


def started_rank() -> int:
    """This process's number, before it has joined the others."""
    return int(os.environ.get("RANK", "0"))


@contextmanager
def joined(*, device: str, batch_size: int, parts: int) -> Iterator[Processes]:
    """All processes of the run, met: by gloo on CPUs, by NCCL on GPUs, of which each takes one of its machine.

    Raises: ValueError where a batch cannot be shared out evenly.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if batch_size % (count * parts):
        shares = f"{count} processes of {parts} parts (accumulate)"
        raise ValueError(f"batch_size is {batch_size}: it must be a multiple of {count * parts}, for {shares}")
    if count == 1:
        yield Processes()
        return
    on_gpus = device.startswith("cuda")
    if on_gpus:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if on_gpus else "gloo")
    try:
        yield Processes(dist.get_rank(), count)
    finally:
        dist.destroy_process_group()
