"""The surrogate knows a linear model exactly, and the search keeps what it promises."""

from random import Random

import pytest
import torch

from skipdit.pipelines.schedulers import DDIM
from skipdit.tuning.fit import fitter_for, teacher_for
from skipdit.tuning.search import Search, climb, decibels, learn_slopes, neighbour, play, starts
from tests.tuning.toy import STEPS, toy_draw, toy_task


def search_of(task, *, seed: int = 0) -> Search:
    teacher = teacher_for(task.scheduler, task.steps)
    task.draw(teacher, task.steps, task.calibration)
    trajectory = teacher.rollout.trajectory

    def roll(computed):
        fitter = fitter_for(teacher, computed, trajectory)
        task.draw(fitter, task.steps, task.calibration)
        return fitter.rollout

    return Search(fitter_for(teacher, [0], trajectory), teacher.rollout, teacher.begun, roll, seed=seed)


def test_a_linear_model_is_known_after_one_rollout():
    slopes = torch.tensor([0.3, 0.5, 0.7, 0.9]).reshape(-1, 1, 1, 1)  # one for each sample
    search = search_of(toy_task(toy_draw(lambda x, t, subjects: slopes[: len(x)] * x + t / 1000), samples=4))
    search.try_truly((0, 3, 6, 9))
    surrogate = learn_slopes(search.teacher, list(search.rollouts.values()))
    expected = play(search.fitter, surrogate, (0, 2, 7, 8), search.begun)
    torch.testing.assert_close(search.roll((0, 2, 7, 8)).end, expected, rtol=1e-3, atol=1e-4)


def test_slopes_are_0_while_no_rollout_has_left_the_path():
    search = search_of(toy_task())
    assert all(not slope.any() for slope in learn_slopes(search.teacher, []).slopes)


@pytest.mark.parametrize("calls", range(1, 13))
def test_starts_have_as_many_steps_as_calls(calls):
    for computed in starts(calls, STEPS):
        assert len(computed) == calls
        assert computed[0] == 0
        assert sorted(set(computed)) == list(computed)
        assert computed[-1] < STEPS


def test_a_neighbour_moves_one_step_and_never_the_first():
    random, computed = Random(0), (0, 3, 6, 11)
    for _ in range(200):
        moved = neighbour(computed, STEPS, random)
        assert len(moved) == 4
        assert moved[0] == 0
        assert moved[-1] < STEPS
        assert len(set(moved) - set(computed)) == 1


@pytest.mark.parametrize("computed", [(0,), tuple(range(STEPS))])
def test_where_nothing_can_move_nothing_does(computed):
    assert neighbour(computed, STEPS, Random(0)) == computed


def test_climbing_finds_the_top_of_a_hill():
    top = (0, 2, 5, 11)
    found = climb(
        starts(4, STEPS), lambda computed: -sum(abs(a - b) for a, b in zip(computed, top)), STEPS,
        evaluations=200, random=Random(0),
    )  # fmt: skip
    assert found == top


def test_true_rollouts_decide_and_the_search_repeats_itself():
    first, again = search_of(toy_task()), search_of(toy_task())
    best = first.run(4)
    assert first.scores[best] == max(first.scores.values())
    assert first.scores[best] >= first.scores[(0, 3, 6, 9)]
    assert again.run(4) == best
    assert again.scores == first.scores


def test_a_search_that_is_over_has_tried_the_first_plan_alone():
    search = search_of(toy_task())
    search.is_over = lambda: True
    assert search.run(4) in search.scores
    assert len(search.scores) == 1


def test_pixels_out_of_bounds_are_not_seen():
    x, reference = torch.full((1, 1, 2, 2), 1.5), torch.full((1, 1, 2, 2), 1.0)
    assert decibels(x, reference) == pytest.approx(12.04, abs=0.01)
    assert decibels(x, reference, pixels=True) > 190


def test_the_base_of_a_search_is_left_as_it_was():
    task = toy_task()
    before = dict(task.scheduler.config)
    search_of(task).run(3)
    assert dict(task.scheduler.config) == before
    assert isinstance(task.scheduler, DDIM)
