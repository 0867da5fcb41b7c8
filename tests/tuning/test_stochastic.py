"""For samplers that draw noise at each step: caches that the budget allows, tried on one noise, held out on another."""

import pytest

from skipdit.caching import Plan, SkipCacheConfig
from skipdit.evaluation.price import price
from skipdit.pipelines.draw import Settings
from skipdit.tuning import Task, pipeline_draw, samples_of
from skipdit.tuning.stochastic import affordable, candidates, tune_cache
from tests.pipelines.tiny import pipeline, tiny

STEPS = 8


def task_of(model=None) -> Task:
    pipe = pipeline(tiny(num_classes=4) if model is None else model, scheduler="ddpm")
    return Task(
        pipe.scheduler, STEPS, pipeline_draw(pipe, Settings(STEPS, 1.5)), samples_of([0, 2], 4, seed=1),
        samples_of([1, 3], 16, seed=0), pipe.transformer, 1.5,
    )  # fmt: skip


def speedup(task: Task, cache: SkipCacheConfig, computed: int) -> float:
    return price(task.model, cache).speedup(Plan(i < computed for i in range(STEPS)))


@pytest.mark.parametrize("branch", [0, 1])
@pytest.mark.parametrize("budget", [1.2, 1.5])
def test_a_cache_computes_as_often_as_its_budget_allows(branch, budget):
    task = task_of()
    cache = affordable(task, budget, branch, "hold")
    assert speedup(task, cache, len(cache.steps)) >= budget > speedup(task, cache, len(cache.steps) + 1)


def test_what_no_branch_allows_is_left_out_or_said():
    task = task_of()
    assert {cache.branch for cache in candidates(task, 1.3)} == {0, 1}
    with pytest.raises(ValueError, match="budget is 8x: no branch of this model is so cheap, ask for less"):
        list(candidates(task, 8.0))


@pytest.mark.parametrize("budget", [1.0, 9.0])
def test_a_budget_out_of_bounds_is_said(budget):
    with pytest.raises(ValueError, match="a cache of 8 steps takes more than 1x, to 8x"):
        tune_cache(task_of(), budget=budget)


def test_every_candidate_is_within_the_budget_and_the_model_is_left_uncached():
    task = task_of()
    tuned = tune_cache(task, budget=1.3)
    for each in tuned.report["searched"]:
        cache = SkipCacheConfig(**each["cache"])
        assert speedup(task, cache, len(cache.steps)) >= 1.3
    assert not task.model.is_cache_enabled
    assert tuned.way.cache.steps[0] == 0
    assert tuned.report["plan"].count("#") == len(tuned.report["computed"])
    chosen, best = tuned.report["chosen"], tuned.report["held_out"][tuned.report["best_control"]]
    assert (chosen == "tuned") == (best["gain"] > 2 * best["gain_error"])
