"""The best sampler for one model and one budget: found on some noise, held out on other."""

from skipdit.tuning.scheduler import TunedScheduler

__all__ = ["TunedScheduler"]
