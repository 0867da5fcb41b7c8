"""The settings of Skip-Cache, as one frozen value that goes through JSON and back."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

from skipdit.attributes import load_function, path_of
from skipdit.caching.forecast import Forecaster, find_forecaster
from skipdit.caching.schedule import ExplicitSteps, Guarded, Interval, RelativeChange, Schedule, is_number

DEFAULT_INTERVAL = 2
PUBLISHED_DEPTH = 28  # layers of the models that the presets were published for
LEADERS: dict[str, Callable] = {"interval": Interval, "steps": ExplicitSteps, "threshold": RelativeChange}
OURS = tuple(LEADERS.values())
LEFT_OUT = ("retention", "max_cached", "threshold", "schedule")  # of JSON, where they are None


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
        own = self._take_schedule()
        own = None if own is None else load_function("schedule", own, Schedule)
        self._fill(window=as_tuple(self.window), steps=as_tuple(self.steps))
        if own is None and all(getattr(self, name) is None for name in LEADERS):
            self._fill(interval=DEFAULT_INTERVAL)
        if self.order is None and self.forecast == "taylor":
            self._fill(order=1)
        self._check(own)
        ours = (make(getattr(self, name)) for name, make in LEADERS.items() if getattr(self, name) is not None)
        base = next(ours) if own is None else own
        self._fill(schedule=Guarded(base, self.window, self.retention, self.max_cached, of_settings=True))

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
        if any(leader in changes for leader in LEADERS):  # another one takes the place of the preset's
            changes = dict.fromkeys(LEADERS) | changes
        if changes.get("forecast", "taylor") != "taylor":
            changes = {"order": None} | changes
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
        values["schedule"] = own_schedule(self.schedule)
        for name in ("forecast", "schedule"):
            if values[name] is not None and not isinstance(values[name], str):
                values[name] = path_of(name, values[name])
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        return {name: value for name, value in values.items() if value is not None or name not in LEFT_OUT}

    @property
    def forecaster(self) -> Forecaster:
        """What `forecast` and `order` name."""
        return find_forecaster(self.forecast, order=self.order or 1)

    @property
    def reads_shallow(self) -> bool:
        """Whether a cached step runs all layers before the trunk, since schedule or forecast reads their output."""
        return self.schedule.reads_shallow or self.forecaster.reads_shallow

    def check_depth(self, depth: int) -> None:
        """Raise ValueError where `branch` leaves no trunk in a model of `depth` layers."""
        if self.branch > (most := largest_branch(depth)):
            raise ValueError(f"branch is {self.branch}: a model of {depth} layers takes 0 to {most}")

    def _take_schedule(self) -> Any:
        """The caller's own schedule; `dataclasses.replace` hands back the one that was made of the old settings."""
        given, has_settings = self.schedule, any(getattr(self, name) is not None for name in LEADERS)
        is_handed_back = isinstance(given, Guarded) and given.of_settings and (has_settings or own_schedule(given))
        if isinstance(given, (Guarded, *OURS)) and not is_handed_back:
            raise ValueError(f"schedule is {given}: give what it is made of as settings, as interval=2")
        return own_schedule(given) if is_handed_back else given

    def _fill(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)  # the one way to complete a frozen dataclass

    def _check(self, own: Schedule | Callable | None) -> None:
        """Check what schedule and forecaster do not check themselves."""
        values = {"schedule": own} | {name: getattr(self, name) for name in ("steps", "threshold", "interval")}
        values |= {"window": self.window} if self.steps is not None else {}
        given = [f"{name} is {value}" for name, value in values.items() if value is not None]
        if len(given) > 1:
            raise ValueError(f"{given[1]} beside {given[0]}: give one of them")
        if not is_number(self.branch, int) or self.branch < 0:
            raise ValueError(f"branch is {self.branch!r}: it must be an integer of at least 0")
        takes_order = self.forecast == "taylor" and is_number(self.order, int) and self.order in (1, 2)
        if self.order is not None and not takes_order:
            raise ValueError(f"order is {self.order!r} with forecast {self.forecast!r}: taylor takes 1 or 2")
        if is_number(self.max_cached, int) and is_number(self.interval, int) and self.max_cached >= self.interval - 1:
            raise ValueError(f"max_cached is {self.max_cached} with interval {self.interval}: give less, or none")
        _ = self.forecaster  # raises for what it cannot be made of


def own_schedule(made: Guarded) -> Schedule | Callable | None:
    """The caller's own schedule in the one that a config has made; None where settings gave it."""
    return None if isinstance(made.base, OURS) else made.base


def as_tuple(value: Any) -> Any:
    """What can be listed as a tuple, so that the config has a hash; anything else stays, to be refused."""
    return tuple(value) if isinstance(value, Iterable) else value


def largest_branch(depth: int) -> int:
    """The largest branch that leaves a trunk."""
    return (depth - 1) // 2


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
