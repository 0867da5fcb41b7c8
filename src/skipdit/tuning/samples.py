"""What is drawn while tuning: each sample by its subject and its noise, all of a list in one batch.

    draw(scheduler, steps, samples)  ->  pictures [B, C, H, W] or clips [B, F, C, H, W] in [0, 1]

That callable is all that tuning needs of a pipeline: it draws by the scheduler that it is given, in one call.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from diffusers import DiffusionPipeline
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from skipdit.pipelines.draw import Settings, draw, draw_text
from skipdit.randomness import generator


class Sample(NamedTuple):
    """A class id or prompt, or None, and the key of the noise."""

    subject: int | str | None
    key: tuple[int, ...]

    @property
    def generator(self) -> torch.Generator:
        return generator(*self.key)


Draw = Callable[[SchedulerMixin, int, Sequence[Sample]], Tensor]
CALIBRATION, HELD_OUT = 1, 0  # first part of the key: noise of two seeds


def split_subjects(subjects: Sequence) -> tuple[list, list]:
    """Every other subject is held out, where there are enough of them to leave some for both."""
    subjects = list(dict.fromkeys(subjects))
    return (subjects[::2], subjects[1::2]) if len(subjects) >= 4 else (subjects, subjects)


def samples_of(subjects: Sequence, number: int, *, seed: int) -> list[Sample]:
    """`number` samples that show the subjects in turn, from noise of (seed, i)."""
    return [Sample(subjects[i % len(subjects)], (seed, i)) for i in range(number)]


def pipeline_draw(
    pipeline: DiffusionPipeline, settings: Settings, *, on_call: Callable[[], None] | None = None
) -> Draw:
    """How a pipeline of this package draws; prompts share one batch. The pipeline gets its scheduler back."""

    def draw_samples(scheduler: SchedulerMixin, steps: int, samples: Sequence[Sample]) -> Tensor:
        before, pipeline.scheduler = pipeline.scheduler, scheduler
        try:
            return draw_together(pipeline, samples, replace(settings, steps=steps), on_call)
        finally:
            pipeline.scheduler = before

    return draw_samples


def draw_together(pipeline: DiffusionPipeline, samples: Sequence[Sample], settings: Settings, on_call) -> Tensor:
    subjects, noise = [sample.subject for sample in samples], [sample.generator for sample in samples]
    if isinstance(subjects[0], str):
        return draw_text(pipeline, subjects, noise, settings, on_call)
    return draw(pipeline, subjects, noise, settings, on_call)
