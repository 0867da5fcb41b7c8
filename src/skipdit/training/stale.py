"""Steps in which the model learns to live with its cache: head and tail see the deep feature of an earlier step.

    t' = t + age * stride,  x_t' of the same x_0 and noise,  deep' = trunk(head(x_t'))        no gradient
    loss(tail(deep', head(x_t)))                                                             as Skip-Cache's `hold`

An age is drawn for the whole batch, so that a step is fresh or stale as a whole; the trunk learns in fresh ones alone.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from skipdit.diffusion import Process
from skipdit.models.base import LongSkipModel
from skipdit.randomness import generator

STREAM = 7  # of random numbers


@dataclass
class Held:
    """A seam that computes the deep feature at its first call and returns it at every later one."""

    cut: int
    deep: Tensor | None = None  # of the seam's protocol: not known before the head has run
    constants: Any = None
    kept: Tensor | None = None

    def __call__(self, shallow: Tensor, compute: Callable[[], Tensor]) -> Tensor:
        self.kept = compute() if self.kept is None else self.kept
        return self.kept


def drawn_age(*, seed: int, step: int, probability: float, most: int) -> int:
    """How many steps old the deep feature of a training step is: 1 to `most` with a probability, else 0."""
    draw = generator(seed, STREAM, step)
    is_stale = torch.rand((), generator=draw).item() < probability
    return int(torch.randint(1, most + 1, (), generator=draw)) if is_stale else 0


@torch.no_grad()
def stale_seam(
    model: LongSkipModel, process: Process, inputs: dict[str, Tensor], targets: dict[str, Tensor], *, cut: int, by: int
) -> Held:
    """A seam that holds what the trunk says of the same samples `by` thousandths of the chain noisier.

    Shapes: inputs and targets as the loop has them, x_0, noise and t in `targets`.
    """
    t = process.noisier(targets["t"], by)
    x_t = process.add_noise(targets["x_0"], targets["noise"], t)
    seam = Held(cut)
    model(**inputs | {"hidden_states": x_t, "timestep": process.timestep(t)}, return_dict=False, seam=seam)
    return replace(seam, constants=None)  # they were made without gradients
