"""A plan as a folder: what to draw with, and what it was found by.

plan.json               steps to ask the pipeline for, calls, cache, model, guidance
scheduler_config.json   the scheduler, as `TunedScheduler.from_pretrained(folder)` reads it
report.json, report.png what was measured
"""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffusers
from diffusers import DiffusionPipeline, DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from skipdit.caching import SkipCacheConfig
from skipdit.files import read_object, write_text
from skipdit.pipelines.schedulers import DDIM
from skipdit.tuning.fine import has_betas, noise_of
from skipdit.tuning.fingerprint import fingerprint
from skipdit.tuning.scheduler import TunedScheduler

if TYPE_CHECKING:
    from skipdit.tuning.held_out import Candidate

PLAN, SCHEDULER, REPORT = "plan.json", "scheduler_config.json", "report.json"
OURS = {"TunedScheduler": TunedScheduler, "DDIM": DDIM}
QUALITIES = {"high": 25, "balanced": 16, "fast": 12}  # calls, where no plan was tuned: those of 2x, 3x and 4x of 50
REMEDY = "name a folder that `skipdit tune` wrote"


@dataclass(frozen=True)
class SavedPlan:
    """A scheduler for `steps` steps, of which `calls` call the model, and a cache or none.

    Without a scheduler it is what needs no tuning: DPM-Solver++ 2M even in log-SNR, for the noise of a pipeline.
    """

    scheduler: SchedulerMixin | None
    steps: int
    calls: int
    cache: SkipCacheConfig | None = None
    guidance_scale: float | None = None
    model: dict[str, Any] | None = None
    name: str = "plan"

    def use(self, pipeline: DiffusionPipeline) -> None:
        """Give a pipeline the scheduler, and its model the cache. Raises: ValueError for another prediction type."""
        self.step_by(pipeline)
        if self.cache is not None:
            pipeline.transformer.enable_cache(self.cache)

    def step_by(self, pipeline: DiffusionPipeline) -> None:
        """Give a pipeline the scheduler alone."""
        scheduler = untuned(pipeline.scheduler) if self.scheduler is None else self.scheduler
        check_prediction(self.name, scheduler, pipeline)
        pipeline.scheduler = scheduler

    def warn_of_another(self, pipeline: DiffusionPipeline, *, guidance_scale: float | None = None) -> None:
        """Warn where the model, or the guidance, is not the one that the plan was tuned for."""
        if self.model is not None and self.model != fingerprint(pipeline.transformer):
            warnings.warn(f"{self.name} was tuned for another model: `skipdit tune` yours for its own", stacklevel=2)
        if None not in (guidance_scale, self.guidance_scale) and guidance_scale != self.guidance_scale:
            warnings.warn(
                f"{self.name} was tuned at guidance {self.guidance_scale:g}, this is {guidance_scale:g}: tune at it",
                stacklevel=2,
            )


def untuned(scheduler: SchedulerMixin) -> DPMSolverMultistepScheduler:
    """The solver that comes nearest to the exact solution in few calls; ValueError for noise without betas."""
    if not has_betas(scheduler):
        raise ValueError(f"scheduler is a {type(scheduler).__name__}, which has no betas: tune a plan for this model")
    return DPMSolverMultistepScheduler(**noise_of(scheduler), use_lu_lambdas=True)


def check_prediction(name: str, scheduler: SchedulerMixin, pipeline: DiffusionPipeline) -> None:
    said = pipeline.transformer.config.get("prediction_type")
    read = scheduler.config.get("prediction_type", "flow_prediction")
    if said is not None and said != read:
        raise ValueError(f"{name} is for a model that predicts {read!r}, this one predicts {said!r}: tune your own")


def write_plan(folder: Path, way: "Candidate", report: dict[str, Any]) -> None:
    """Write a plan and its report into a folder, which is made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    way.scheduler.save_pretrained(folder)
    about = {name: report[name] for name in ("guidance_scale", "model", "chosen", "reference")}
    cache = None if way.cache is None else way.cache.to_dict()
    write_json(folder / PLAN, {"steps": way.steps, "calls": way.calls, "cache": cache} | about)
    write_json(folder / REPORT, report)


def write_json(path: Path, value: dict[str, Any]) -> None:
    write_text(path, json.dumps(value, indent=1, default=str) + "\n")


def read_plan(folder: Path | str) -> SavedPlan:
    """Raises: ValueError for a folder that holds no plan, or a damaged one."""
    folder = Path(folder)
    said, config = (read_object(folder / name, remedy=REMEDY) for name in (PLAN, SCHEDULER))
    try:
        kind = OURS.get(config["_class_name"]) or getattr(diffusers, config["_class_name"])
        return SavedPlan(
            scheduler=kind.from_config({key: value for key, value in config.items() if key[0] != "_"}),
            steps=said["steps"], calls=said["calls"], guidance_scale=said["guidance_scale"], model=said["model"],
            cache=None if said["cache"] is None else SkipCacheConfig(**said["cache"]), name=str(folder),
        )  # fmt: skip
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} holds no plan ({error}): {REMEDY}") from None
