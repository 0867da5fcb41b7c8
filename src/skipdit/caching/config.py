"""The settings of Skip-Cache, as one frozen value that goes through JSON and back."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from inspect import signature
from numbers import Real
from typing import Any

from skipdit.attributes import load_attribute, path_of
from skipdit.caching.forecast import Forecaster, as_forecaster, named_forecaster
from skipdit.caching.schedule import Custom, ExplicitSteps, Guarded, Interval, RelativeChange, Schedule

DEFAULT_INTERVAL = 2
PUBLISHED_DEPTH = 28  # layers of the models that the presets were published for


@dataclass(frozen=True)
class SkipCacheConfig:
    """Skip-Cache (arXiv 2411.17616, section 3.3) for `model.enable_cache`.

    Args:
        interval: N >= 1; the trunk is computed every N-th step (2 where nothing else says when).
        branch: fresh layers on each side, as long as a trunk is left; at 0 only the output head is fresh.
        window: (stop, start) in timesteps: steps with t >= start compute, as do those after the first t <= stop.
        steps: the steps that compute, beginning with 0.
        forecast: what stands in for the trunk's output: "hold" (published), "residual", "taylor"; a
            `skipdit.caching.Forecaster`, a function of the same arguments, or the "module:attribute" of either.
        order: of the Taylor forecast, 1 (default) or 2.
        retention: the first so many steps compute.
        max_cached: at most so many steps in a row are cached.
        threshold: compute once the shallow feature has changed by so much since the last computed step, as 0.1.
        schedule: a `skipdit.caching.Schedule`, a function of the same arguments, or the "module:attribute" of either.
            Read back, it is the schedule that all settings give together.

    One of interval, steps, threshold and schedule says when.

    Raises:
        ValueError: when a setting is out of its bounds or cannot take effect beside another.
    """

    interval: int | None = None
    branch: int = 1
    window: tuple[float, float] | None = None
    steps: tuple[int, ...] | None = None
    forecast: str | Forecaster | Callable = "hold"
    order: int | None = None
    retention: int | None = None
    max_cached: int | None = None
    threshold: float | None = None
    schedule: str | Schedule | Callable | None = None

    def __post_init__(self) -> None:
        self._fill(schedule=given_schedule(self.schedule), window=as_tuple(self.window), steps=as_tuple(self.steps))
        if all(getattr(self, name) is None for name in SAY_WHEN):
            self._fill(interval=DEFAULT_INTERVAL)
        if self.order is None and self.forecast == "taylor":
            self._fill(order=1)
        self._check()
        self._fill(schedule=self._complete_schedule())

    @classmethod
    def preset(cls, name: str, *, depth: int | None = None, **changes: Any) -> "SkipCacheConfig":
        """A published setting by the task it was published for, with changes.

        In a model whose `depth` has no room for the published branch, the branch is the same share of the layers.
        Raises: ValueError for another name, which lists the names.
        """
        if name not in PRESETS:
            raise ValueError(f"unknown preset {name!r}: take one of {', '.join(PRESETS)}")
        if depth is not None and (branch := PRESETS[name].branch) > largest_branch(depth):
            changes = {"branch": min(largest_branch(depth), max(1, branch * depth // PUBLISHED_DEPTH))} | changes
        return replace(PRESETS[name], **changes)

    @classmethod
    def published(cls, text: str, **changes: Any) -> "SkipCacheConfig":
        """The published spelling of a text-to-video setting, "N2-700-50": interval, start and stop of the window.

        Raises: ValueError for another text, or numbers out of their bounds.
        """
        found = re.fullmatch(r"N(\d+)-(\d+)-(\d+)", text)
        if found is None:
            raise ValueError(f"cache is {text!r}: give N<interval>-<start>-<stop> in timesteps, as N2-700-50")
        interval, start, stop = map(int, found.groups())
        return cls(**{"interval": interval, "window": (stop, start)} | changes)

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON values; `SkipCacheConfig(**that)` is the same config again.

        Raises: ValueError for a forecast or schedule that no import path leads to, as a lambda.
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        given = given_schedule(self.schedule)
        given = given.function if isinstance(given, Custom) else given
        for name, value in (("forecast", self.forecast), ("schedule", given)):
            values[name] = value if value is None or isinstance(value, str) else path_of(value)
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        return {name: value for name, value in values.items() if value is not None or name not in LEFT_OUT}

    @property
    def forecaster(self) -> Forecaster:
        """What `forecast` and `order` name."""
        if isinstance(self.forecast, str) and ":" not in self.forecast:
            return named_forecaster(self.forecast, order=self.order or 1)
        found = find("forecast", self.forecast)
        return found if isinstance(found, Forecaster) else as_forecaster(found)

    @property
    def reads_shallow(self) -> bool:
        """Whether a cached step runs all layers before the trunk, since schedule or forecast reads their output."""
        return self.schedule.reads_shallow or self.forecaster.reads_shallow

    def check_depth(self, depth: int) -> None:
        """Raise ValueError where `branch` leaves no trunk in a model of `depth` layers."""
        if self.branch > (most := largest_branch(depth)):
            raise ValueError(f"branch is {self.branch}: a model of {depth} layers takes 0 to {most}")

    def _fill(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)  # the one way to complete a frozen dataclass

    def _complete_schedule(self) -> Schedule:
        if self.schedule is not None:
            found = find("schedule", self.schedule)
            made = found if isinstance(found, Schedule) else Custom(found)
        elif self.steps is not None:
            made = mark_derived(ExplicitSteps(self.steps))
        else:
            made = mark_derived(Interval(self.interval) if self.threshold is None else RelativeChange(self.threshold))
        guards = (self.window, self.retention, self.max_cached)
        return made if guards == (None, None, None) else mark_derived(Guarded(made, *guards))

    def _check(self) -> None:
        leaders = [name for name in SAY_WHEN if getattr(self, name) is not None]
        if self.steps is not None and self.window is not None:
            leaders.append("window")
        if len(leaders) > 1:
            first, other = (f"{name} is {getattr(self, name)}" for name in leaders[:2])
            raise ValueError(f"{other} beside {first}: give one of them")
        for name, least in (("interval", 1), ("branch", 0), ("retention", 1), ("max_cached", 1)):
            value = getattr(self, name)
            if (value is not None or name == "branch") and not (is_int(value) and value >= least):
                raise ValueError(f"{name} is {value!r}: it must be an integer of at least {least}")
        if self.steps is not None and not isinstance(self.steps, tuple):
            raise ValueError(f"steps are {self.steps!r}: give integers, beginning with 0")
        window = self.window if isinstance(self.window, tuple) else (self.window,)
        numbers = len(window) == 2 and all(map(is_number, window))
        if self.window is not None and not (numbers and window[0] <= window[1]):
            raise ValueError(f"window is {self.window!r}: give (stop, start) in timesteps, stop <= start, as (20, 999)")
        if self.threshold is not None and not (is_number(self.threshold) and 0 < self.threshold < float("inf")):
            raise ValueError(f"threshold is {self.threshold!r}: it must be a number above 0, as 0.1")
        if self.order is not None and (self.forecast != "taylor" or not is_int(self.order) or self.order not in (1, 2)):
            raise ValueError(f"order is {self.order!r} with forecast {self.forecast!r}: taylor takes 1 or 2")
        if None not in (self.max_cached, self.interval) and self.max_cached >= self.interval - 1:
            raise ValueError(f"max_cached is {self.max_cached} with interval {self.interval}: give less, or none")
        _ = self.forecaster  # raises for what it cannot be made of


def as_tuple(value: Any) -> Any:
    """What can be listed as a tuple, so that the config has a hash; anything else stays, to be refused."""
    return tuple(value) if isinstance(value, Iterable) else value


def is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and value == value


def largest_branch(depth: int) -> int:
    """The largest branch that leaves a trunk."""
    return (depth - 1) // 2


def mark_derived(schedule: Schedule) -> Schedule:
    object.__setattr__(schedule, "derived", True)
    return schedule


def given_schedule(schedule: Any) -> Any:
    """What the user gave as schedule; None where a config derived it from other settings."""
    if isinstance(schedule, Schedule) and schedule.derived:
        return given_schedule(schedule.schedule) if isinstance(schedule, Guarded) else None
    return schedule


def find(setting: str, given: Any) -> Callable | Forecaster:
    """What a setting gives, itself or by its import path; ValueError for what takes no three arguments."""
    found = load_attribute(setting, given) if isinstance(given, str) else given
    try:
        if isinstance(found, type) or not (isinstance(found, Forecaster) or signature(found).bind(0, 0, 0)):
            raise TypeError("it is a class: give an object")
    except TypeError as error:
        raise ValueError(f"{setting} {given!r} is no function of three arguments ({error})") from None
    return found


SAY_WHEN = ("schedule", "steps", "threshold", "interval")
LEFT_OUT = ("retention", "max_cached", "threshold", "schedule")  # of JSON, where they are None
PRESETS = {
    "class-to-image": SkipCacheConfig(interval=2, branch=4, window=(20, 1000)),
    "class-to-video": SkipCacheConfig(interval=2, branch=1, window=(49, 900)),  # published: until t < 50
    "text-to-video": SkipCacheConfig(interval=2, branch=1, window=(50, 700)),  # published: until t <= 50
    "text-to-image": SkipCacheConfig(interval=2, branch=1, window=(50, 700)),
}
