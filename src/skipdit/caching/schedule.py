"""When the trunk is computed: a function of (where the run stands, shallow feature, its own state) -> bool.

The published rule, over steps i at timesteps t_i, with interval N and window (stop, start):

    compute iff  i % N == 0  or  t_i >= start  or  t_{i-1} <= stop                  (arXiv 2411.17616, section 3.3)

and one that looks at the shallow feature s, summed over the steps j since the last computed one:

    compute iff  sum_j |s_j - s_{j-1}|_1 / |s_{j-1}|_1 >= threshold                 (cf. TeaCache, arXiv 2411.19108)

A schedule that reads no feature is data: it can be written down ("#.#.##") and priced before a run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor


class Now(NamedTuple):
    """Where a run stands at a step; None is unknown.

    `previous` is the timestep of the step before; `since` is how many steps ago the last computed one was; `place` is
    where the timestep stands in the scheduler's table.
    """

    step: int | None = None
    timestep: float | None = None
    previous: float | None = None
    since: int | None = None
    place: int | None = None


class Schedule:
    """Whether a step computes the trunk. Subclass it, or give `SkipCacheConfig` a function of the same arguments.

    `reads_timestep` and `reads_shallow` say what the decision needs; what it does not need may be None in the call.
    `state` is a dict of the run, empty at its beginning. The first step of a run computes whatever the schedule says.
    """

    reads_timestep: bool = True
    reads_shallow: bool = False

    def __call__(self, now: Now, shallow: Tensor | None, state: dict[str, Any]) -> bool:
        raise NotImplementedError

    def check_run(self, num_steps: int) -> None:
        """Raise ValueError where the schedule does not fit a run of `num_steps`."""


@dataclass(frozen=True)
class Interval(Schedule):
    """Every `interval`-th step computes."""

    interval: int
    reads_timestep = False

    def __post_init__(self) -> None:
        check_count(interval=self.interval)

    def __call__(self, now: Now, shallow: Tensor | None, state: dict[str, Any]) -> bool:
        return now.step % self.interval == 0


@dataclass(frozen=True)
class ExplicitSteps(Schedule):
    """The steps named here compute, and no other; they begin with 0 and rise."""

    steps: tuple[int, ...]
    reads_timestep = False

    def __post_init__(self) -> None:
        if not isinstance(self.steps, tuple) or not all(is_number(step, int) for step in self.steps):
            raise ValueError(f"steps are {self.steps!r}: give integers, beginning with 0")
        if self.steps[:1] != (0,) or any(later <= earlier for earlier, later in pairwise(self.steps)):
            raise ValueError(f"steps are {list(self.steps)}: they must begin with 0, the first step, and rise")

    def __call__(self, now: Now, shallow: Tensor | None, state: dict[str, Any]) -> bool:
        return now.step in self.steps

    def check_run(self, num_steps: int) -> None:
        if self.steps[-1] >= num_steps:
            raise ValueError(f"steps name step {self.steps[-1]}: a run of {num_steps} has steps 0 to {num_steps - 1}")


@dataclass(frozen=True)
class RelativeChange(Schedule):
    """A step computes once the shallow feature has changed by `threshold`, added up since the last computed step.

    The change from step to step is relative, in L1, over the whole batch.
    """

    threshold: float
    reads_timestep, reads_shallow = False, True

    def __post_init__(self) -> None:
        if not is_number(self.threshold) or not 0 < self.threshold < float("inf"):
            raise ValueError(f"threshold is {self.threshold!r}: it must be a number above 0, as 0.1")

    def __call__(self, now: Now, shallow: Tensor, state: dict[str, Any]) -> bool:
        before, state["shallow"] = state.get("shallow", shallow), shallow
        change = ((shallow - before).abs().mean() / before.abs().mean()).item()
        state["change"] = change + (0.0 if now.since == 1 else state.get("change", 0.0))
        return not state["change"] < self.threshold  # a feature of zeros changes by NaN: compute


@dataclass(frozen=True)
class Guarded(Schedule):
    """Another schedule, or a function; but steps outside the window (stop, start) of timesteps compute, the first
    `retention` steps, and each that would be cached after `max_cached` cached ones in a row."""

    base: Schedule | Callable[[Now, Tensor, dict[str, Any]], bool]
    window: tuple[float, float] | None = None
    retention: int | None = None
    max_cached: int | None = None
    of_settings: bool = field(default=False, compare=False, repr=False)  # made by a `SkipCacheConfig`

    def __post_init__(self) -> None:
        window = self.window if isinstance(self.window, tuple) else (self.window,)
        is_pair = len(window) == 2 and all(map(is_number, window))
        if self.window is not None and not (is_pair and window[0] <= window[1]):
            raise ValueError(f"window is {self.window!r}: give (stop, start) in timesteps, stop <= start, as (20, 999)")
        counts = {"retention": self.retention, "max_cached": self.max_cached}
        check_count(**{name: count for name, count in counts.items() if count is not None})

    @property
    def reads_timestep(self) -> bool:
        return self.window is not None or not isinstance(self.base, Schedule) or self.base.reads_timestep

    @property
    def reads_shallow(self) -> bool:
        return not isinstance(self.base, Schedule) or self.base.reads_shallow

    def __call__(self, now: Now, shallow: Tensor | None, state: dict[str, Any]) -> bool:
        computes = self.base(now, shallow, state)
        if not isinstance(computes, bool | Tensor | np.bool_):
            raise ValueError(f"schedule returned {computes!r} at step {now.step}: it must return True or False")
        if self.window is not None:
            stop, start = self.window
            computes = computes or now.timestep >= start or (now.previous is not None and now.previous <= stop)
        too_many = None not in (self.max_cached, now.since) and now.since > self.max_cached
        return bool(computes) or too_many or now.step < (self.retention or 0)

    def ends_reuse(self, timestep: float | None) -> bool:
        """Whether every step after this one computes, so that what is remembered can be dropped."""
        return self.window is not None and timestep <= self.window[0]

    def check_run(self, num_steps: int) -> None:
        if isinstance(self.base, Schedule):
            self.base.check_run(num_steps)


def is_number(value: Any, kind: type | tuple = (int, float)) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool) and value == value


def check_count(**counts: int) -> None:
    for name, count in counts.items():
        if not is_number(count, int) or count < 1:
            raise ValueError(f"{name} is {count!r}: it must be an integer of at least 1")


class Plan(tuple[bool | None, ...]):
    """What a schedule does over a whole run: True where the trunk is computed, None where only the run can tell."""

    def __str__(self) -> str:
        return "".join({True: "#", False: ".", None: "?"}[computes] for computes in self)

    @property
    def is_known(self) -> bool:
        return None not in self

    @property
    def full(self) -> int:
        return self.count(True)

    @property
    def cached(self) -> int:
        return self.count(False)

    @property
    def since(self) -> int | None:
        """How many steps before the next one the last computed step lies."""
        return self[::-1].index(True) + 1 if self.full else None

    def cost(self, cached_step: float) -> float:
        """The run's cost against an uncached one, where a cached step costs `cached_step` of a full one.

        Raises: ValueError where only the run knows the plan.
        """
        if not self.is_known:
            raise ValueError(f"plan is {self}: only a run can tell what it costs, see cache_stats")
        return (self.full + self.cached * cached_step) / len(self)


def plan(schedule: Schedule, timesteps: Sequence[float]) -> Plan:
    """The decisions of a schedule over the timesteps of a run, which fall or rise.

    Of a schedule that reads features only the first step is known; `cache_stats` has the plan after a run.
    Raises: ValueError where there is no step, or where the schedule does not fit the number of steps.
    """
    if not timesteps:
        raise ValueError("timesteps are empty: a run has at least one step")
    schedule.check_run(len(timesteps))
    if schedule.reads_shallow:
        return Plan([True, *[None] * (len(timesteps) - 1)])
    made, state = Plan(), {}
    for step, (timestep, previous) in enumerate(zip(timesteps, [None, *timesteps[:-1]])):
        computes = bool(schedule(Now(step, timestep, previous, made.since), None, state))
        made = Plan((*made, computes or not made))
    return made
