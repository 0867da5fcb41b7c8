"""The best sampler for one model and one budget: found on some noise, held out on other."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from skipdit.tuning.scheduler import TunedScheduler

if TYPE_CHECKING:
    from skipdit.tuning.plans import SavedPlan, read_plan, write_plan
    from skipdit.tuning.samples import Sample, pipeline_draw, samples_of, split_subjects
    from skipdit.tuning.task import Task, Tuned, tune

PLACES = {  # imported when first asked for, since they bring pipelines and metrics along
    **dict.fromkeys(("SavedPlan", "read_plan", "write_plan"), "skipdit.tuning.plans"),
    **dict.fromkeys(("Sample", "pipeline_draw", "samples_of", "split_subjects"), "skipdit.tuning.samples"),
    **dict.fromkeys(("Task", "Tuned", "tune"), "skipdit.tuning.task"),
}
__all__ = [
    "Sample", "SavedPlan", "Task", "Tuned", "TunedScheduler", "pipeline_draw", "read_plan", "samples_of",
    "split_subjects", "tune", "write_plan",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(PLACES[name]), name)
