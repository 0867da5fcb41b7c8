"""Plans for samplers that draw noise at each step: `#` computed, `.` cached at a branch; no step is free.

    (n F + (S - n) f_branch) / (S F) <= 1 / budget                      F, f: FLOPs of a full and a cached step

    for every branch and forecast: n as large as the budget allows, evenly spread; true runs, the same noise for all
    the best of them: up to MOVES true runs with one step moved, each kept where it is better
    hold out: other noise and subjects, paired, against the same FLOPs spent as published and at branch 0

Fresh noise cannot be forecast, so that a model of the model is of no use here: every candidate is a true run.
"""

import time
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from torch import Tensor

from skipdit.caching import Plan, SkipCacheConfig
from skipdit.caching.config import largest_branch
from skipdit.evaluation.compare import caching
from skipdit.evaluation.price import price
from skipdit.tuning.fingerprint import fingerprint
from skipdit.tuning.held_out import (
    Candidate,
    best_control,
    check_pictures,
    mean_and_error,
    psnr_of_samples,
    row,
    wins,
)
from skipdit.tuning.scheduler import even_steps
from skipdit.tuning.search import neighbour
from skipdit.tuning.task import BATCH, REFERENCE, TUNED, Task, Tuned

FORECASTS = ("hold", "taylor", "residual")
MOVES = 8
CONTROLS = ((0, "hold"), (0, "taylor"), (1, "hold"))


def tune_cache(
    task: Task, *, budget: float, on_best: Callable[[str], None] = lambda text: None, seed: int = 0
) -> Tuned:
    """The best cache plan that costs at most 1 / budget of an uncached run's FLOPs.

    Raises: ValueError for a budget that no branch allows.
    """
    if not 1 < budget <= task.steps:
        raise ValueError(f"budget is {budget:g}x: a cache of {task.steps} steps takes more than 1x, to {task.steps}x")
    began, spent = time.perf_counter(), [float(task.steps)]
    reference = draw_cached(task, None, task.calibration)
    scores: dict[SkipCacheConfig, float] = {}

    def score(cache: SkipCacheConfig) -> float:
        pictures = draw_cached(task, cache, task.calibration)
        scores[cache] = mean_and_error(psnr_of_samples(pictures, reference))[0]
        spent.append(task.steps / budget)
        on_best(f"best {max(scores.values()):.1f} dB")
        return scores[cache]

    try:
        climb_truly(task, score, candidates(task, budget), scores, Random(seed))
    except KeyboardInterrupt:
        if not scores:
            raise
    best = max(scores, key=scores.__getitem__)
    batches = sum(spent) * len(task.calibration) / (task.steps * BATCH)
    cost = {"uncached_batches_of_8": round(batches, 2), "seconds": round(time.perf_counter() - began, 1)}
    return hold_out_cache(task, budget, best, scores, cost, on_best)


def climb_truly(task: Task, score, starts: Iterator[SkipCacheConfig], scores, random: Random) -> None:
    """Score every start, then move single steps of the best."""
    for cache in starts:
        score(cache)
    for _ in range(MOVES):
        best = max(scores, key=scores.__getitem__)
        moved = with_steps(best, neighbour(best.steps, task.steps, random))
        if moved not in scores:
            score(moved)


def candidates(task: Task, budget: float) -> Iterator[SkipCacheConfig]:
    """Every branch that is a power of two, and every forecast, at evenly spread steps."""
    branches = [0, *(2**i for i in range(8) if 2**i <= largest_branch(task.model.depth))]
    found = [cache for branch in branches for name in FORECASTS if (cache := affordable(task, budget, branch, name))]
    if not found:
        raise ValueError(f"budget is {budget:g}x: no branch of this model is so cheap, ask for less")
    yield from found


def affordable(task: Task, budget: float, branch: int, forecast: str) -> SkipCacheConfig | None:
    """With as many computed steps as the budget allows; None where it allows none."""
    cost = price(task.model, SkipCacheConfig(interval=1, branch=branch, forecast=forecast))
    fits = [n for n in range(1, task.steps) if cost.speedup(Plan(i < n for i in range(task.steps))) >= budget]
    return SkipCacheConfig(steps=even_steps(max(fits), task.steps), branch=branch, forecast=forecast) if fits else None


def with_steps(cache: SkipCacheConfig, steps: tuple[int, ...]) -> SkipCacheConfig:
    return SkipCacheConfig(steps=steps, branch=cache.branch, forecast=cache.forecast)


def draw_cached(task: Task, cache: SkipCacheConfig | None, samples) -> Tensor:
    with caching(task.model, cache):
        return check_pictures(task.draw(task.scheduler, task.steps, samples), name="the model")


def hold_out_cache(task: Task, budget: float, best: SkipCacheConfig, scores, cost, on_best) -> Tuned:
    """Draw the held-out samples in every way, and choose."""
    caches = {TUNED: best}
    caches |= {f"branch {branch}, {name}": affordable(task, budget, branch, name) for branch, name in CONTROLS}
    ways = {
        name: Candidate(task.scheduler, task.steps, len(cache.steps), cache) for name, cache in caches.items() if cache
    }
    own, drawn = draw_cached(task, None, task.held_out), {}
    for name, way in ways.items():
        on_best(f"held out: {name}")
        drawn[name] = draw_cached(task, way.cache, task.held_out)
    values = {name: psnr_of_samples(pictures, own) for name, pictures in drawn.items()}
    rows = {name: row(way, values[name], values[TUNED]) | {"to_exact": None} for name, way in ways.items()}
    control = best_control({name: each for name, each in rows.items() if name != TUNED})
    chosen = TUNED if wins(rows[control]) else control
    return Tuned(
        ways[chosen], report_of(task, budget, best, rows, control, chosen, scores, cost), {REFERENCE: own} | drawn
    )


def report_of(task: Task, budget: float, best: SkipCacheConfig, rows, control: str, chosen: str, scores, cost) -> Any:
    said = rows[control]
    gain = f"{said['gain']:+.1f} +- {said['gain_error']:.1f} dB"
    words = [
        f"{budget:g}x by FLOPs, branch {best.branch}, {best.forecast}: {rows[TUNED]['psnr']:.1f} dB held out,"
        f" {gain} over the best control, {control} ({said['psnr']:.1f} dB).",
        "Fewer steps of this sampler draw other noise, so that decibels do not compare them.",
    ]
    if chosen != TUNED:
        words.append(f"The tuned plan does not win by two standard errors, so the plan is the control: {control}.")
    return {
        "plan": "".join("#" if i in best.steps else "." for i in range(task.steps)), "calls": len(best.steps),
        "steps": task.steps, "computed": list(best.steps), "chosen": chosen, "best_control": control,
        "reference": "own", "guidance_scale": task.guidance_scale, "reference_to_exact": None, "held_out": rows,
        "held_out_samples": len(task.held_out), "words": words, "cost": cost, "stopped": False,
        "other_subjects": not {s.subject for s in task.held_out} & {s.subject for s in task.calibration},
        "searched": [{"cache": cache.to_dict(), "decibels": score} for cache, score in scores.items()],
        "model": fingerprint(task.model),
    }  # fmt: skip
