"""The settings of Skip-Cache, as one frozen value that goes through JSON and back."""

import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields, replace
from inspect import signature
from typing import Any

from skipdit.attributes import load_attribute, path_of
from skipdit.caching.forecast import Forecaster, as_forecaster, named_forecaster
from skipdit.caching.schedule import (
    Custom,
    ExplicitSteps,
    Guarded,
    Interval,
    RelativeChange,
    Schedule,
    is_number,
)

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
        self._fill(schedule=self._merge_schedule())
        self._fill(window=as_tuple(self.window), steps=as_tuple(self.steps))
        if all(getattr(self, name) is None for name in LEADERS):
            self._fill(interval=DEFAULT_INTERVAL)
        if self.order is None and self.forecast == "taylor":
            self._fill(order=1)
        self._check()
        self._fill(schedule=self._complete_schedule())

    @classmethod
    def preset(cls, name: str, *, depth: int | None = None, **changes: Any) -> "SkipCacheConfig":
        """A setting by the task that it was published for, or by quality ("high", "balanced", "fast"), with changes.

        Those by quality are for deterministic samplers.
        In a model of fewer layers than the published ones, `depth`, the branch is the same share of them.
        Raises: ValueError for another name, which lists the names.
        """
        if name not in PRESETS:
            raise ValueError(f"unknown preset {name!r}: take one of {', '.join(PRESETS)}")
        if depth is not None and depth < PUBLISHED_DEPTH and PRESETS[name].branch:
            share = max(1, PRESETS[name].branch * depth // PUBLISHED_DEPTH)
            changes = {"branch": min(share, largest_branch(depth))} | changes
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
        values["schedule"] = settings_of(self.schedule).get("schedule")
        for name in ("forecast", "schedule"):
            value = values[name].function if isinstance(values[name], Custom) else values[name]
            values[name] = value if value is None or isinstance(value, str) else path_of(name, value)
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        return {name: value for name, value in values.items() if value is not None or name not in LEFT_OUT}

    @property
    def forecaster(self) -> Forecaster:
        """What `forecast` and `order` name."""
        if isinstance(self.forecast, str) and ":" not in self.forecast:
            return named_forecaster(self.forecast, order=self.order or 1)
        found = find("forecast", self.forecast, Forecaster)
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

    def _merge_schedule(self) -> Schedule | None:
        """Take a schedule of the package as its settings; returns what no settings give.

        `dataclasses.replace` hands back the schedule that was made of the old settings: then the settings count.
        """
        if self.schedule is None:
            return None
        found = find("schedule", self.schedule, Schedule)
        found = found if isinstance(found, Schedule) else Custom(found)
        settings = settings_of(found)
        given = [name for name in SETTINGS if name in settings and getattr(self, name) is not None]
        if found.derived and any(getattr(self, name) is not None for name in SETTINGS):
            return settings.get("schedule")
        if given:
            raise ValueError(f"{given[0]} is {getattr(self, given[0])} beside schedule {found}: give one of them")
        self._fill(**{name: value for name, value in settings.items() if name != "schedule"})
        return settings.get("schedule")

    def _complete_schedule(self) -> Schedule:
        if self.schedule is not None:
            made = self.schedule
        elif self.steps is not None:
            made = mark_derived(ExplicitSteps(self.steps))
        else:
            made = mark_derived(Interval(self.interval) if self.threshold is None else RelativeChange(self.threshold))
        guards = (self.window, self.retention, self.max_cached)
        return made if guards == (None, None, None) else mark_derived(Guarded(made, *guards))

    def _check(self) -> None:
        """Check what the schedule does not check itself."""
        given = [name for name in LEADERS if getattr(self, name) is not None]
        given += ["window"] if self.steps is not None and self.window is not None else []
        if len(given) > 1:
            first, other = (f"{name} is {getattr(self, name)}" for name in given[:2])
            raise ValueError(f"{other} beside {first}: give one of them")
        if not is_number(self.branch, int) or self.branch < 0:
            raise ValueError(f"branch is {self.branch!r}: it must be an integer of at least 0")
        takes_order = self.forecast == "taylor" and is_number(self.order, int) and self.order in (1, 2)
        if self.order is not None and not takes_order:
            raise ValueError(f"order is {self.order!r} with forecast {self.forecast!r}: taylor takes 1 or 2")
        if is_number(self.max_cached, int) and is_number(self.interval, int) and self.max_cached >= self.interval - 1:
            raise ValueError(f"max_cached is {self.max_cached} with interval {self.interval}: give less, or none")
        _ = self.forecaster  # raises for what it cannot be made of


def as_tuple(value: Any) -> Any:
    """What can be listed as a tuple, so that the config has a hash; anything else stays, to be refused."""
    return tuple(value) if isinstance(value, Iterable) else value


def largest_branch(depth: int) -> int:
    """The largest branch that leaves a trunk."""
    return (depth - 1) // 2


def mark_derived(schedule: Schedule) -> Schedule:
    object.__setattr__(schedule, "derived", True)
    return schedule


def settings_of(schedule: Schedule) -> dict[str, Any]:
    """The settings that give a schedule; what is not of the package stays under "schedule"."""
    if isinstance(schedule, Guarded):
        guards = {name: getattr(schedule, name) for name in ("window", "retention", "max_cached")}
        return settings_of(schedule.schedule) | {name: value for name, value in guards.items() if value is not None}
    is_ours = isinstance(schedule, Interval | ExplicitSteps | RelativeChange)
    return asdict(schedule) if is_ours else {"schedule": schedule}


def find(setting: str, given: Any, kind: type) -> Any:
    """What a setting gives, itself or by its import path: of a kind, or a function of three arguments."""
    found = load_attribute(setting, given) if isinstance(given, str) else given
    if isinstance(found, kind) or takes_three_arguments(found):
        return found
    raise ValueError(f"{setting} is {given!r}: give a function of three arguments, a {kind.__name__}, or its path")


def takes_three_arguments(value: Any) -> bool:
    """Whether it is a function that can be called so; classes, forecasters and schedules are none."""
    if isinstance(value, type | Forecaster | Schedule):
        return False
    try:
        signature(value).bind(0, 0, 0)
    except (TypeError, ValueError):  # builtins may have no signature
        return False
    return True


LEADERS = ("schedule", "steps", "threshold", "interval")
SETTINGS = ("interval", "steps", "threshold", "window", "retention", "max_cached")
LEFT_OUT = ("retention", "max_cached", "threshold", "schedule")  # of JSON, where they are None
PRESETS = {
    "class-to-image": SkipCacheConfig(interval=2, branch=4, window=(20, 1000)),
    "class-to-video": SkipCacheConfig(interval=2, branch=1, window=(49, 900)),  # published: until t < 50
    "text-to-video": SkipCacheConfig(interval=2, branch=1, window=(50, 700)),  # published: until t <= 50
    "text-to-image": SkipCacheConfig(interval=2, branch=1, window=(50, 700)),
    # By quality, for deterministic samplers; measured on the embedded models (weights/README.md).
    "high": SkipCacheConfig(interval=2, branch=0, window=(60, 1000), forecast="taylor"),
    "balanced": SkipCacheConfig(interval=3, branch=0, window=(60, 1000), forecast="taylor"),
    "fast": SkipCacheConfig(interval=4, branch=0, window=(60, 1000), forecast="taylor"),
}
