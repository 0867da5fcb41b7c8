"""Skip-Cache: when the trunk is computed, what stands in for it otherwise, and where both meet a model."""

from skipdit.caching.attachment import attach, detach
from skipdit.caching.config import PRESETS, SkipCacheConfig
from skipdit.caching.forecast import Computed, Forecaster
from skipdit.caching.memory import CacheStats
from skipdit.caching.schedule import ExplicitSteps, Guarded, Interval, Now, Plan, RelativeChange, Schedule, plan

__all__ = [
    "PRESETS",
    "CacheStats",
    "Computed",
    "ExplicitSteps",
    "Forecaster",
    "Guarded",
    "Interval",
    "Now",
    "Plan",
    "RelativeChange",
    "Schedule",
    "SkipCacheConfig",
    "attach",
    "detach",
    "plan",
]
