"""Skip-Cache: when the trunk is computed, what stands in for it otherwise, and where both meet a model."""

from skipdit.caching.config import PRESETS, SkipCacheConfig
from skipdit.caching.forecast import Computed, Forecaster
from skipdit.caching.schedule import ExplicitSteps, Interval, Plan, Schedule, plan

__all__ = [
    "PRESETS",
    "Computed",
    "ExplicitSteps",
    "Forecaster",
    "Interval",
    "Plan",
    "Schedule",
    "SkipCacheConfig",
    "plan",
]
