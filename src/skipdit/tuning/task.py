"""Name a budget, get the best sampler for one model, with proof on noise it never saw.

teacher     draw the calibration samples by every step                                  S calls
search      which steps to compute, by few true rollouts and a surrogate                6 n calls and own arithmetic
fit         their corrections on all calibration samples                                n calls
hold out    other noise and other subjects, against every control                       not part of the search
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from skipdit.tuning.fine import fine_solver, has_betas
from skipdit.tuning.fingerprint import fingerprint
from skipdit.tuning.fit import Rollout, Teacher, fitter_for, teacher_for
from skipdit.tuning.held_out import (
    Candidate,
    best_control,
    check_pictures,
    controls_for,
    psnr_of_samples,
    row,
    wins,
)
from skipdit.tuning.samples import Draw, Sample
from skipdit.tuning.scheduler import TunedScheduler, base_config
from skipdit.tuning.search import Computed, Search, filled

TUNED, REFERENCE = "tuned", "every step"
FEWEST_SAMPLES, FEWEST_HELD_OUT = 4, 16
SHARE = 2.0  # uncached runs of the samples that teacher and search may cost together, beside the fit
ROLLOUTS = 6  # of a search
BATCH = 8  # samples of the batch that costs are told in


@dataclass(frozen=True)
class Task:
    """What is tuned: a sampler of `steps` steps, how to draw by one, and the samples to fit and to hold out."""

    scheduler: SchedulerMixin
    steps: int
    draw: Draw
    calibration: Sequence[Sample]
    held_out: Sequence[Sample]
    model: Any = None
    guidance_scale: float | None = None
    reference: str = "own"

    def __post_init__(self) -> None:
        if len(self.calibration) < FEWEST_SAMPLES:
            raise ValueError(f"samples are {len(self.calibration)}: a fit needs at least {FEWEST_SAMPLES}")
        if len(self.held_out) < FEWEST_HELD_OUT:
            raise ValueError(f"held_out has {len(self.held_out)} samples: a proof needs at least {FEWEST_HELD_OUT}")
        if self.reference not in ("own", "fine"):
            raise ValueError(f"reference is {self.reference!r}: take own or fine")
        if set(self.calibration) & set(self.held_out):
            raise ValueError("a held-out sample is among those that are fitted: give it other noise")


@dataclass(frozen=True)
class Tuned:
    """What is worth using: a scheduler for `steps` steps, or a cache, with what was measured and drawn."""

    way: Candidate
    report: dict[str, Any]
    pictures: dict[str, Tensor] = field(repr=False)


@dataclass
class Calibrated:
    """The teacher's run over the calibration samples, and all that is found with it."""

    task: Task
    teacher: Teacher
    rollout: Rollout
    pixels: bool
    teacher_calls: int  # of the model, times samples
    teacher_seconds: float
    minutes: float | None = None
    on_best: Callable[[str], None] = lambda text: None
    stopped: bool = False
    searched: float = 0.0  # seconds

    def __post_init__(self) -> None:
        self.calls, self.began = self.teacher_calls, time.perf_counter() - self.teacher_seconds

    def is_over(self) -> bool:
        late = self.minutes is not None and time.perf_counter() - self.began > 60 * self.minutes
        return self.stopped or late

    def search(self, calls: int, warm: Sequence[Computed] = ()) -> tuple[Search, TunedScheduler]:
        """The best plan of so many calls, fitted on all samples. Ctrl-C ends the search with what it has."""
        number = searched_samples(len(self.task.calibration), self.task.steps, calls)
        teacher = first_samples(self.rollout, number)
        search = Search(
            fitter=fitter_for(self.teacher, [0], teacher.trajectory), teacher=teacher, begun=self.teacher.begun,
            roll=lambda computed: self.fit(computed, number)[0], pixels=self.pixels, is_over=self.is_over,
            on_score=lambda best: self.on_best(f"{calls} calls, best {best:.1f} dB"),
        )  # fmt: skip
        try:
            computed = search.run(calls, warm=warm)
        except KeyboardInterrupt:
            if not search.scores:
                raise
            self.stopped, computed = True, search.best(1)[0]
        plan = self.fit(computed, len(self.task.calibration))[1]
        self.searched = time.perf_counter() - self.began
        return search, plan

    @cached_property
    def references(self) -> tuple[Tensor, Tensor | None]:
        """The held-out samples by every step of the own sampler, and by an accurate solver where one is known."""
        own = Candidate(self.task.scheduler, self.task.steps, self.task.steps)
        return draw_candidate(self.task, own, "the reference", self), draw_exact(self)

    def fit(self, computed: Computed, number: int) -> tuple[Rollout, TunedScheduler]:
        """A true rollout of the first so many samples, corrections fitted along it."""
        fitter = fitter_for(self.teacher, computed, first_samples(self.rollout, number).trajectory)
        self.task.draw(fitter, self.task.steps, self.task.calibration[:number])
        self.calls += len(computed) * number
        return fitter.rollout, plan_of_fit(fitter, self.task)


def tune(
    task: Task,
    *,
    calls: int | None = None,
    budget: float | None = None,
    quality: float | None = None,
    minutes: float | None = None,
    warm: Sequence[Computed] = (),
    on_best: Callable[[str], None] = lambda text: None,
) -> Tuned:
    """The best plan of a number of calls, of S / budget calls, or of the fewest calls that reach a quality in dB.

    Args:
        minutes: the search begins no true rollout after so many.
        warm: computed steps to begin with, as an earlier search found them.
        on_best: told in words what the search has so far.

    Raises:
        ValueError: for a budget out of bounds, a quality that no number of calls reaches, or NaN.
    """
    calls = calls_asked(task.steps, calls=calls, budget=budget, quality=quality)
    calibrated = calibrate(task, minutes=minutes, on_best=on_best)
    if quality is None:
        return tune_calls(calibrated, calls, warm=[computed for computed in warm if len(computed) == calls])
    return hold_out(calibrated, *bisect_quality(calibrated, quality))


def tune_calls(calibrated: "Calibrated", calls: int, *, warm: Sequence[Computed] = ()) -> Tuned:
    """The best plan of so many calls; one calibration serves several numbers, and counts in the cost of each."""
    calibrated.calls, calibrated.began = calibrated.teacher_calls, time.perf_counter() - calibrated.teacher_seconds
    return hold_out(calibrated, *calibrated.search(calls, warm))


def calls_asked(steps: int, *, calls: int | None, budget: float | None, quality: float | None) -> int | None:
    """None where a quality is asked for."""
    given = {"calls": calls, "budget": budget, "quality": quality}
    named = [name for name, value in given.items() if value is not None]
    if len(named) != 1:
        raise ValueError(f"{' and '.join(named) or 'nothing'} given: give one of calls, budget and quality")
    if budget is not None:
        if not 1 <= budget <= steps:
            raise ValueError(f"budget is {budget:g}x: {steps} steps take 1x to {steps}x")
        return int(steps / budget)
    if calls is not None and not 1 <= calls <= steps:
        raise ValueError(f"calls are {calls}: {steps} steps take 1 to {steps}")
    return calls


def calibrate(task: Task, *, minutes: float | None, on_best: Callable[[str], None]) -> Calibrated:
    """Draw the calibration samples by the teacher. The base sampler's own run tells the grid, for either teacher."""
    began, teacher = time.perf_counter(), teacher_for(task.scheduler, task.steps)
    pictures = task.draw(teacher, task.steps, task.calibration)
    spent, rollout = task.steps * len(task.calibration), teacher.rollout
    if task.reference == "fine":
        solver = fine_solver(teacher.base, teacher.grid)
        pictures = task.draw(solver, task.steps, task.calibration)
        spent, rollout = spent + len(solver.timesteps) * len(task.calibration), solver.rollout
    seconds = time.perf_counter() - began
    return Calibrated(task, teacher, rollout, are_pixels(rollout.end, pictures), spent, seconds, minutes, on_best)


def are_pixels(end: Tensor, pictures: Tensor) -> bool:
    """Whether pictures in [0, 1] are x_S / 2 + 1/2, so that what leaves [-1, 1] is not seen."""
    shown = (end.float() / 2 + 0.5).clamp(0, 1).flatten(1).mean(1).cpu()
    return end.numel() == pictures.numel() and torch.allclose(shown, pictures.flatten(1).mean(1).float(), atol=1e-3)


def searched_samples(samples: int, steps: int, calls: int) -> int:
    """So many that teacher, search and fit cost three uncached runs of all samples at most."""
    affordable = (SHARE * steps - calls) * samples / (ROLLOUTS * calls)
    return max(min(samples, FEWEST_SAMPLES), min(samples, int(affordable)))


def first_samples(rollout: Rollout, number: int) -> Rollout:
    states, outputs = (tuple(each[:number] for each in part) for part in (rollout.states, rollout.outputs))
    return Rollout(rollout.computed, states, outputs, rollout.end[:number])


def plan_of_fit(fitter: TunedScheduler, task: Task) -> TunedScheduler:
    return TunedScheduler(
        base_config(fitter.base), fitter.grid, list(fitter.computed), [list(weights) for weights in fitter.weights],
        guidance_scale=task.guidance_scale, model=fingerprint(task.model), reference=task.reference,
    )  # fmt: skip


def bisect_quality(calibrated: Calibrated, quality: float) -> tuple[Search, TunedScheduler]:
    """The fewest calls whose plan reaches a quality on the calibration samples, each search warmed by the last."""
    low, high, found, last, reached = 0, calibrated.task.steps, None, (), []
    while high - low > 1 and not (calibrated.is_over() and found):
        calls = (low + high) // 2
        search, plan = calibrated.search(calls, warm=[resized(last, calls, calibrated.task.steps)] if last else [])
        last = tuple(plan.computed)
        reached.append(max(search.scores.values()))
        low, high, found = (low, calls, (search, plan)) if reached[-1] >= quality else (calls, high, found)
    if found is None:
        raise ValueError(
            f"quality is {quality:g} dB: {low} of {calibrated.task.steps} calls reach {reached[-1]:.1f}, ask less"
        )
    return found


def resized(computed: Computed, calls: int, steps: int) -> Computed:
    """A plan of another number of calls, as dense as this one everywhere."""
    positions = np.interp(np.arange(calls) / calls, np.arange(len(computed) + 1) / len(computed), [*computed, steps])
    return filled({round(position) for position in positions}, calls, steps)


def hold_out(calibrated: Calibrated, search: Search, plan: TunedScheduler) -> Tuned:
    """Draw the held-out samples in every way, and choose."""
    task, calls = calibrated.task, len(plan.computed)
    ways = {TUNED: Candidate(plan, task.steps, calls)}
    ways |= controls_for(calibrated.teacher.base, calibrated.teacher.grid, calls, task.model)
    own, exact = calibrated.references
    reference = exact if task.reference == "fine" else own
    drawn = {name: draw_candidate(task, way, name, calibrated) for name, way in ways.items()}
    values = {name: psnr_of_samples(pictures, reference) for name, pictures in drawn.items()}
    rows = {name: row(way, values[name], values[TUNED]) for name, way in ways.items()}
    exactly = {} if exact is None else distances(drawn | {REFERENCE: own}, exact)
    controls = {name: each for name, each in rows.items() if name != TUNED}
    best = best_control(controls)
    chosen = TUNED if wins(controls[best]) else best
    for name in rows:
        rows[name]["to_exact"] = exactly.get(name)
    report = {
        "plan": strip(plan), "calls": calls, "steps": task.steps, "computed": list(plan.computed), "chosen": chosen,
        "best_control": best, "reference": task.reference, "guidance_scale": task.guidance_scale,
        "reference_to_exact": exactly.get(REFERENCE), "held_out": rows, "held_out_samples": len(task.held_out),
        "other_subjects": not {s.subject for s in task.held_out} & {s.subject for s in task.calibration},
        "words": words(rows, best, chosen, exactly, task), "cost": cost(calibrated), "stopped": calibrated.stopped,
        "searched": [
            {"computed": list(computed), "decibels": score} for computed, score in search.scores.items()
        ],
        "model": fingerprint(task.model),
    }  # fmt: skip
    way = ways[chosen]
    if chosen == TUNED:
        plan.register_to_config(held_out={name: each for name, each in rows.items() if name in (TUNED, best)})
    return Tuned(way, report, {REFERENCE: reference} | drawn)


def distances(drawn: Mapping[str, Tensor], exact: Tensor) -> dict[str, float]:
    """Mean decibels of every way to one set of pictures."""
    return {name: psnr_of_samples(pictures, exact).mean().item() for name, pictures in drawn.items()}


def draw_candidate(task: Task, way: Candidate, name: str, calibrated: Calibrated) -> Tensor:
    calibrated.on_best(f"held out: {name}")
    with way.switched_on(task.model):
        return check_pictures(task.draw(way.scheduler, way.steps, task.held_out), name=name)


def draw_exact(calibrated: Calibrated) -> Tensor | None:
    """The held-out samples by an accurate solver; None for noise that none is known for."""
    task, base = calibrated.task, calibrated.teacher.base
    if not has_betas(base):
        return None
    solver = fine_solver(base, calibrated.teacher.grid)
    return draw_candidate(task, Candidate(solver, task.steps, task.steps), "an accurate solution", calibrated)


def cost(calibrated: Calibrated) -> dict[str, float]:
    """What teacher, search and fit took: in uncached batches of 8 samples, and in seconds."""
    batches = calibrated.calls / (calibrated.task.steps * BATCH)
    return {"uncached_batches_of_8": round(batches, 2), "seconds": round(calibrated.searched, 1)}


def words(rows, best: str, chosen: str, exactly: dict[str, float], task: Task) -> list[str]:
    """What the numbers mean, in sentences."""
    tuned, control = rows[TUNED], rows[best]
    gain = f"{control['gain']:+.1f} +- {control['gain_error']:.1f} dB"
    said = [
        f"{tuned['calls']} calls of {task.steps}: {tuned['psnr']:.1f} dB held out, {gain} over the best control, {best}"
        f" ({control['psnr']:.1f} dB)."
    ]
    if chosen != TUNED:
        said.append(f"The tuned plan does not win by two standard errors, so the plan is the control: {best}.")
    if exactly:
        own = exactly[REFERENCE]
        said.append(f"The reference, every step of the own sampler, lies {own:.1f} dB from an accurate solution.")
        nearer = {name: value for name, value in exactly.items() if value > own and name not in (TUNED, REFERENCE)}
        if nearer:
            name = max(nearer, key=nearer.__getitem__)
            said.append(
                f"{rows[name]['calls']} calls of {name} are nearer to it ({nearer[name]:.1f} dB) than your"
                f" {task.steps} steps: if that is what you want, take that solver and no plan."
            )
    return said


def strip(plan: TunedScheduler) -> str:
    """`#` a step with a call, `-` a free one."""
    return "".join("#" if i in set(plan.computed) else "-" for i in range(len(plan.grid)))
