"""How far apart two sets of images lie, by the features of each image.

    FD     |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))                        Frechet distance (arXiv 1706.08500)
    KID    mean k(a, a') + mean k(b, b') - 2 mean k(a, b),  k = (a.b / D + 1)^3     unbiased (arXiv 1801.01401)
    precision, recall   share of b in the neighbourhoods of a, and of a in those of b          (arXiv 1904.06991)

m and C are mean and covariance of the features. FD is biased: two samples of one distribution have a distance above 0,
the floor, which falls with N. KID is not, so that it is the one to read below a few thousand images. None of them is
called FID, which is FD in the features of one Inception network.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Metric = Callable[[Tensor, Tensor], float]
FEWEST = 16  # images of a set, of which parts of half the size are drawn
NEIGHBOUR = 3  # the k-th nearest gives a neighbourhood's radius


@dataclass(frozen=True)
class Estimate:
    """A distance and its standard error, from disjoint or resampled parts of both sets."""

    value: float
    error: float


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """FD of features [N, D] and [M, D], in float64.

    tr (C_a C_b)^(1/2) is the sum of the singular values of A B^T / sqrt((N - 1)(M - 1)), A and B the centred features,
    which needs no root of a matrix; where there are more images than features, of A and B's triangular factors.
    Raises: ValueError for fewer than 8 images a set, features of other widths, or values that are not finite.
    """
    check_sets(a, b)
    a, b = a.double(), b.double()
    means = (a.mean(0) - b.mean(0)).square().sum()
    a, b = ((each - each.mean(0)) / (len(each) - 1) ** 0.5 for each in (a, b))
    traces = a.square().sum() + b.square().sum()
    factors = [torch.linalg.qr(each, mode="r").R if len(each) > each.shape[1] else each for each in (a, b)]
    root = torch.linalg.svdvals(factors[0] @ factors[1].T).sum()
    return max(0.0, (means + traces - 2 * root).item())


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """KID of features [N, D] and [M, D], over all pairs, in float64; it may be below 0. Raises: as FD."""
    check_sets(a, b)
    a, b = a.double(), b.double()
    within = sum((kernel(x, x).sum() - kernel_of_itself(x).sum()) / (len(x) * (len(x) - 1)) for x in (a, b))
    return (within - 2 * kernel(a, b).mean()).item()


def kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1) ** 3


def kernel_of_itself(a: Tensor) -> Tensor:
    return (a.square().sum(1) / a.shape[1] + 1) ** 3


def precision_recall(real: Tensor, drawn: Tensor) -> tuple[float, float]:
    """The share of drawn images near a real one, and of real ones near a drawn one: within its third neighbour."""
    check_sets(real, drawn)
    apart = torch.cdist(real, drawn)
    near_real = (apart <= radii(real)[:, None]).any(0).float().mean().item()
    near_drawn = (apart <= radii(drawn)[None, :]).any(1).float().mean().item()
    return near_real, near_drawn


def radii(features: Tensor) -> Tensor:
    """The distance of each image from its third nearest in the same set."""
    return torch.cdist(features, features).kthvalue(NEIGHBOUR + 1, dim=1).values


def resample(metric: Metric, a: Tensor, b: Tensor, *, times: int = 20, seed: int = 0) -> Estimate:
    """A metric of two sets, and its error over resampled sets: the spread of `times` draws of half of each set.

    Half-samples without replacement have about the variance of the whole (jackknife by halves): duplicates, which a
    bootstrap brings, would lower FD and KID.
    """
    draw = torch.Generator().manual_seed(seed)
    halves = [
        metric(*(each[torch.randperm(len(each), generator=draw)[: len(each) // 2]] for each in (a, b)))
        for _ in range(times)
    ]
    spread = torch.tensor(halves, dtype=torch.float64).std().item()
    return Estimate(metric(a, b), spread)


def estimate_floor(metric: Metric, real: Tensor, *, seed: int = 0) -> float:
    """The distance of two halves of one set: at half of its size, less than this is no difference."""
    order = torch.randperm(len(real), generator=torch.Generator().manual_seed(seed))
    return metric(real[order[: len(real) // 2]], real[order[len(real) // 2 :]])


def check_sets(a: Tensor, b: Tensor) -> None:
    for each in (a, b):
        check_enough(len(each), "a set", fewest=FEWEST // 2)
        if not each.isfinite().all():
            raise ValueError("features are not finite: a network of other weights, or images out of [0, 1]")
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"features have {a.shape[1]} and {b.shape[1]} channels: take one network for both sets")


def check_enough(count: int, name: str, *, fewest: int = FEWEST) -> None:
    if count < fewest:
        raise ValueError(f"{name} has {count} images: a distance of sets needs at least {fewest}")
