"""What stands in for `deep` on a step that does not compute it: a pure function of what is remembered.

    hold       deep_1                                                                (Skip-Cache, arXiv 2411.17616)
    residual   shallow + (deep_1 - shallow_1)                                        (what vanilla DiT caches reuse)
    taylor     sum_j deep_j prod_{l != j} (t - t_l) / (t_j - t_l),  order + 1 terms  (cf. TaylorSeer, arXiv 2503.06923)

Index 1 is the newest. The last is the polynomial through the remembered points, in Lagrange's form: the Taylor
expansion whose derivatives are finite differences, at timesteps that need not be evenly spaced.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from torch import Tensor

from skipdit.attributes import load_function
from skipdit.caching.schedule import Schedule, check_count

FUNCTION_MEMORY = 3  # computed steps that a plain function is given


class Computed(NamedTuple):
    """What is remembered of one step that computed the trunk; fields that the forecaster has no use for are None."""

    timestep: float | None
    shallow: Tensor | None
    deep: Tensor
    writes: tuple[int | None, ...] = ()  # how often somebody had written into it when it was remembered


@dataclass(frozen=True)
class Forecaster:
    """A function of (remembered steps, oldest first; present timestep; present shallow stream) -> deep, and its needs.

    `memory` is how many computed steps are remembered. `reads_shallow` and `reads_timestep` say whether the function
    reads the shallow stream and the timestep, of the remembered steps and of the present one; what it does not read is
    None in the call. Where nobody reads the shallow stream, the layers that only make it are not run.
    """

    predict: Callable[[Sequence[Computed], float | None, Tensor | None], Tensor]
    memory: int = 1
    reads_shallow: bool = False
    reads_timestep: bool = False

    def __post_init__(self) -> None:
        if not callable(self.predict):
            raise ValueError(f"predict is {self.predict!r}: give a function of (past, timestep, shallow)")
        check_count(memory=self.memory)


def hold(past: Sequence[Computed], timestep: float | None, shallow: Tensor | None) -> Tensor:
    return past[-1].deep


def residual(past: Sequence[Computed], timestep: float | None, shallow: Tensor) -> Tensor:
    return shallow + (past[-1].deep - past[-1].shallow)


def taylor(past: Sequence[Computed], timestep: float, shallow: Tensor | None) -> Tensor:
    """The polynomial of degree len(past) - 1 through the remembered points, summed in float32 (float64 stays)."""
    weights = lagrange_weights([step.timestep for step in past], timestep)
    wide = past[-1].deep.float if past[-1].deep.itemsize < 4 else past[-1].deep.clone
    deep = wide() * weights[-1]
    for weight, step in zip(weights[:-1], past[:-1], strict=True):
        deep = deep.add(step.deep, alpha=weight)
    return deep.to(past[-1].deep.dtype)


def lagrange_weights(points: Sequence[float], at: float) -> list[float]:
    """The weight of each point's value in the polynomial through all of them, at `at`; the weights sum to 1."""
    return [prod((at - q) / (p - q) for k, q in enumerate(points) if k != j) for j, p in enumerate(points)]


def find_forecaster(given: str | Forecaster | Callable, *, order: int) -> Forecaster:
    """A forecaster by its name or "module:attribute", itself, or made of a function, which then reads everything."""
    named = {
        "hold": Forecaster(hold),
        "residual": Forecaster(residual, reads_shallow=True),
        "taylor": Forecaster(taylor, memory=order + 1, reads_timestep=True),
    }
    if isinstance(given, str) and ":" not in given:
        if given not in named:
            raise ValueError(f"unknown forecast {given!r}: take one of {', '.join(named)}, or module:attribute")
        return named[given]
    found = load_function("forecast", given, Forecaster, unlike=(Schedule,))
    is_whole = isinstance(found, Forecaster)
    return found if is_whole else Forecaster(found, FUNCTION_MEMORY, reads_shallow=True, reads_timestep=True)
