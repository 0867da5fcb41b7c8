"""The settings of Skip-Cache, as one frozen value that goes through JSON and back."""

import re
from dataclasses import asdict, dataclass, replace
from typing import Any

from skipdit.caching.forecast import Forecaster, forecaster
from skipdit.caching.schedule import ExplicitSteps, Interval, Schedule

DEFAULT_INTERVAL = 2


@dataclass(frozen=True)
class SkipCacheConfig:
    """Skip-Cache (arXiv 2411.17616, section 3.3) for `model.enable_cache`.

    Args:
        interval: N >= 1; the trunk is computed every N-th step (2 where `steps` is not given).
        branch: fresh layers on each side, 0 to depth // 2; at 0 only the output head is fresh.
        window: (stop, start) in timesteps: steps with t >= start compute, as do those after the first t <= stop.
        steps: the steps that compute, beginning with 0; excludes `interval` and `window`.
        forecast: what stands in for the trunk's output: "hold" (published), "residual", "taylor", or the
            "module:attribute" of a `skipdit.caching.Forecaster`.
        order: of the Taylor forecast, 1 (default) or 2.

    Raises:
        ValueError: when a setting is out of its bounds or cannot take effect beside another.
    """

    interval: int | None = None
    branch: int = 1
    window: tuple[float, float] | None = None
    steps: tuple[int, ...] | None = None
    forecast: str = "hold"
    order: int | None = None

    def __post_init__(self) -> None:
        fill = object.__setattr__  # the one way to complete a frozen dataclass
        if self.steps is not None:
            self._check_alone("interval", "window")
            fill(self, "steps", as_tuple(self.steps, "steps are {}: give integers, beginning with 0"))
        elif self.interval is None:
            fill(self, "interval", DEFAULT_INTERVAL)
        if self.window is not None:
            fill(self, "window", as_tuple(self.window, "window is {}: give (stop, start) in timesteps, as (20, 1000)"))
        if self.forecast == "taylor" and self.order is None:
            fill(self, "order", 1)
        self._check()

    @classmethod
    def preset(cls, name: str, **changes: Any) -> "SkipCacheConfig":
        """A published setting by the task it was published for, with changes; ValueError lists the names."""
        if name not in PRESETS:
            raise ValueError(f"unknown preset {name!r}: take one of {', '.join(PRESETS)}")
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
        """The settings as JSON values; `SkipCacheConfig(**that)` is the same config again."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @property
    def schedule(self) -> Schedule:
        return ExplicitSteps(self.steps) if self.steps is not None else Interval(self.interval, self.window)

    @property
    def forecaster(self) -> Forecaster:
        return forecaster(self.forecast, order=self.order or 1)

    def check_depth(self, depth: int) -> None:
        """Raise ValueError where the model has too few layers for `branch`."""
        if self.branch > depth // 2:
            raise ValueError(f"branch is {self.branch}: a model of {depth} layers takes 0 to {depth // 2}")

    def _check(self) -> None:
        if self.interval is not None and (not _is_int(self.interval) or self.interval < 1):
            raise ValueError(f"interval is {self.interval!r}: it must be an integer >= 1 (1 computes every step)")
        if not _is_int(self.branch) or self.branch < 0:
            raise ValueError(f"branch is {self.branch!r}: it must be an integer from 0 to half the model's depth")
        if self.window is not None and (len(self.window) != 2 or not self.window[0] <= self.window[1]):
            raise ValueError(f"window is {self.window}: give (stop, start) in timesteps, stop <= start, as (20, 1000)")
        if self.order is not None and (self.forecast != "taylor" or self.order not in (1, 2)):
            raise ValueError(f"order is {self.order!r} with forecast {self.forecast!r}: taylor takes 1 or 2")
        if not isinstance(self.forecast, str):
            raise ValueError(f"forecast is {self.forecast!r}: give a name, or module:attribute")
        _ = self.schedule, self.forecaster  # each raises for what it cannot be made of

    def _check_alone(self, *names: str) -> None:
        for name in names:
            if (value := getattr(self, name)) is not None:
                raise ValueError(f"{name} is {value} beside steps {list(self.steps)}: give steps alone, or not at all")


def as_tuple(value: Any, message: str) -> tuple:
    try:
        return tuple(value)
    except TypeError:
        raise ValueError(message.format(value)) from None


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


PRESETS = {
    "class-to-image": SkipCacheConfig(interval=2, branch=4, window=(20, 1000)),
    "class-to-video": SkipCacheConfig(interval=2, branch=1, window=(49, 900)),  # published: until t < 50
    "text-to-video": SkipCacheConfig(interval=2, branch=1, window=(50, 700)),  # published: until t <= 50
    "text-to-image": SkipCacheConfig(interval=2, branch=1, window=(50, 700)),
}
