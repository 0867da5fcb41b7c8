"""The constraint that the paper's title names, as one that training keeps: neither input of a fuse is amplified.

    fused = W_x norm(stream) + W_s norm(skip) + b        W = [W_x | W_s], [D, 2D]
    after each step of the optimizer:  ||W_x||_2 <= 1 - a,  ||W_s||_2 <= a

The norms are found by power iteration of a few vectors at once, which are kept from step to step in the optimizer's
state, and so in checkpoints: a few iterations follow the weights, and a resumed run goes on exactly. No forward pass
does any work.
"""

import re

import torch
from torch import Tensor, nn

from skipdit.randomness import generator
from skipdit.training.optimizer import MuonAndAdamW, Optimizer

FUSE = re.compile(r"(^|\.)skip_linear(s\.\d+\.linear)?\.weight$")
VECTORS = "spectral_vectors"
BLOCK = 4  # vectors: several large singular values may lie close
FIRST, FOLLOWING = 100, 4  # iterations from random vectors, and from those of the step before
STREAM = 6  # of random numbers


def fuse_weights(model: nn.Module) -> list[nn.Parameter]:
    """The weights [D, 2D] that merge skips into the stream."""
    return [parameter for name, parameter in model.named_parameters() if FUSE.search(name)]


def begin_capped(model: nn.Module, share: float, *, anew: bool) -> None:
    """Have the fuses keep their caps from the start; those that are `anew` in a pretrained model are means."""
    if anew:
        begin_convex(model, share)
    cap_norms(model, None, share=share)


@torch.no_grad()
def begin_convex(model: nn.Module, share: float) -> None:
    """Make every fuse a mean of its inputs: W_x = (1 - share) I, W_s = share I, b = 0."""
    for name, parameter in model.named_parameters():
        if FUSE.search(name):
            identity = torch.eye(len(parameter), dtype=parameter.dtype, device=parameter.device)
            parameter.copy_(torch.cat([(1 - share) * identity, share * identity], dim=1))
        elif FUSE.search(name.removesuffix("bias") + "weight"):
            parameter.zero_()


@torch.no_grad()
def cap_norms(model: nn.Module, optimizer: Optimizer | None, *, share: float) -> None:
    """Shrink W_x to the norm 1 - share and W_s to the norm share, each where it is larger.

    Without an optimizer the vectors begin anew and are not kept.
    """
    for number, weight in enumerate(fuse_weights(model)):
        state = {} if optimizer is None else state_of(optimizer, weight)
        vectors, iterations = state.get(VECTORS), FOLLOWING
        if vectors is None:
            vectors, iterations = torch.randn(2, len(weight), BLOCK, generator=generator(STREAM, number)), FIRST
        halves, caps = weight.unflatten(1, (2, -1)).unbind(1), (1 - share, share)
        followed = [follow(half, vector.to(half), iterations) for half, vector in zip(halves, vectors)]
        for half, (_, norm), cap in zip(halves, followed, caps):
            half.mul_((cap / norm).clamp(max=1))
        state[VECTORS] = torch.stack([vector for vector, _ in followed])


def follow(matrix: Tensor, vectors: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """An orthonormal basis [D, k] of the largest singular vectors near `vectors`, and the largest singular value."""
    for _ in range(iterations):
        vectors = torch.linalg.qr(matrix @ (matrix.T @ vectors)).Q
    norm = torch.linalg.matrix_norm(matrix.T @ vectors, 2)
    return vectors, norm.clamp(min=torch.finfo(matrix.dtype).tiny)


def state_of(optimizer: Optimizer, parameter: nn.Parameter) -> dict[str, Tensor]:
    """What an optimizer keeps for a parameter, from the first step on in which that learnt."""
    parts = optimizer.parts.values() if isinstance(optimizer, MuonAndAdamW) else [optimizer]
    return next((part.state[parameter] for part in parts if parameter in part.state), {})
