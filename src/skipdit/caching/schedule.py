"""When the trunk is computed: a pure function of (step, timestep, previous timestep).

The published rule, over steps i with descending timesteps t_i, interval N and window (stop, start):

    compute iff  i % N == 0  or  t_i >= start  or  t_{i-1} <= stop                  (arXiv 2411.17616, section 3.3)

A schedule is data: it can be written down ("#.#.##"), priced before a run and stored beside the images it made.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol


class Schedule(Protocol):
    """Whether a step computes the trunk.

    `reads_timestep` says whether the decision depends on timesteps. Where it does not, both are given as None, so that
    nobody waits for an accelerator to learn them.
    """

    reads_timestep: bool

    def __call__(self, step: int, timestep: float | None, previous: float | None) -> bool: ...

    def ends_reuse(self, timestep: float | None) -> bool:
        """Whether every step after this one computes, so that what is remembered can be dropped."""
        ...


@dataclass(frozen=True)
class Interval:
    """Every `interval`-th step computes; so does every one outside the window (stop, start) of timesteps."""

    interval: int
    window: tuple[float, float] | None = None

    @property
    def reads_timestep(self) -> bool:
        return self.window is not None

    def __call__(self, step: int, timestep: float | None, previous: float | None) -> bool:
        if self.window is None or step % self.interval == 0:
            return step % self.interval == 0
        stop, start = self.window
        return timestep >= start or (previous is not None and previous <= stop)

    def ends_reuse(self, timestep: float | None) -> bool:
        return self.window is not None and timestep <= self.window[0]


@dataclass(frozen=True)
class ExplicitSteps:
    """Just the steps named here compute; they begin with 0 and rise."""

    steps: tuple[int, ...]
    reads_timestep = False

    def __post_init__(self) -> None:
        if not self.steps or self.steps[0] != 0:
            raise ValueError(f"steps are {list(self.steps)}: the first must be 0, before which nothing is remembered")
        if any(not isinstance(step, int) for step in self.steps):
            raise ValueError(f"steps are {list(self.steps)}: each must be an integer")
        if any(later <= earlier for earlier, later in pairwise(self.steps)):
            raise ValueError(f"steps are {list(self.steps)}: each must be larger than the one before")

    def __call__(self, step: int, timestep: float | None, previous: float | None) -> bool:
        return step in self.steps

    def ends_reuse(self, timestep: float | None) -> bool:
        return False

    def check_run(self, num_steps: int) -> None:
        """Raise ValueError where a named step lies outside a run of `num_steps`."""
        if self.steps[-1] >= num_steps:
            raise ValueError(f"steps name step {self.steps[-1]}: a run of {num_steps} has steps 0 to {num_steps - 1}")


class Plan(tuple[bool, ...]):
    """What a schedule does over a whole run: True where the trunk is computed."""

    def __str__(self) -> str:
        return "".join("#" if computes else "." for computes in self)

    @property
    def full(self) -> int:
        return sum(self)

    @property
    def cached(self) -> int:
        return len(self) - self.full

    def cost(self, cached_step: float) -> float:
        """The run's cost against an uncached one, where a cached step costs `cached_step` of a full one."""
        return (self.full + self.cached * cached_step) / len(self)


def plan(schedule: Schedule, timesteps: Sequence[float]) -> Plan:
    """The decisions of a schedule over the descending timesteps of a run; ValueError where there is no step."""
    if not timesteps:
        raise ValueError("timesteps are empty: a run has at least one step")
    if isinstance(schedule, ExplicitSteps):
        schedule.check_run(len(timesteps))
    return Plan(map(schedule, range(len(timesteps)), timesteps, [None, *timesteps[:-1]]))
