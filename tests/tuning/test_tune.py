"""A plan is held out on other noise against every control, and is given only where it wins."""

import json

import pytest
import torch

from skipdit.tuning import Task, TunedScheduler, samples_of, split_subjects, tune
from skipdit.tuning.held_out import Candidate, mean_and_error, row
from skipdit.tuning.search import starts
from skipdit.tuning.task import calls_asked, resized, searched_samples
from tests.tuning.toy import STEPS, ideal, toy_draw, toy_task


@pytest.fixture(scope="module")
def tuned():
    return tune(toy_task(samples=8), calls=4)


def test_what_is_given_is_what_the_report_says_has_won(tuned):
    rows, best = tuned.report["held_out"], tuned.report["best_control"]
    assert max(rows[name]["psnr"] for name in rows if name != "tuned") == rows[best]["psnr"]
    won = rows[best]["gain"] > 2 * rows[best]["gain_error"]
    assert tuned.report["chosen"] == ("tuned" if won else best)
    assert isinstance(tuned.way.scheduler, TunedScheduler) == (
        tuned.report["chosen"] in ("tuned", "even, noise forecast")
    )


def test_the_plan_beats_its_own_forecast_without_corrections(tuned):
    forecast = tuned.report["held_out"]["even, noise forecast"]
    assert forecast["gain"] > 2 * forecast["gain_error"]


def test_every_control_makes_as_many_calls(tuned):
    rows = tuned.report["held_out"]
    assert {"4 steps", "DPM++ trailing", "DPM++ Karras", "DPM++ even in log-SNR", "UniPC"} < set(rows)
    assert all(each["calls"] >= 4 for each in rows.values())


def test_the_table_is_that_of_the_pictures(tuned):
    """The reported decibels are those of the pictures that came with them."""
    values = -10 * (tuned.pictures["tuned"] - tuned.pictures["every step"]).double().pow(2).flatten(1).mean(1).log10()
    assert tuned.report["held_out"]["tuned"]["psnr"] == pytest.approx(values.mean().item(), abs=1e-4)


def test_the_report_is_json(tuned):
    assert json.loads(json.dumps(tuned.report))["plan"].count("#") == 4


def test_where_all_steps_are_computed_nothing_wins():
    """Then the plan is a control, since equal pictures are no gain."""
    tuned = tune(toy_task(samples=4), calls=STEPS)
    assert tuned.report["chosen"] != "tuned"
    assert "does not win by two standard errors" in " ".join(tuned.report["words"])


def test_a_finer_teacher_leads_nearer_to_the_accurate_solution(tuned):
    fine = tune(toy_task(samples=8, reference="fine"), calls=4)
    assert fine.report["held_out"]["tuned"]["to_exact"] > tuned.report["held_out"]["tuned"]["to_exact"]


def test_a_quality_takes_no_more_calls_than_it_needs():
    tuned = tune(toy_task(samples=4), quality=40.0)
    assert max(each["decibels"] for each in tuned.report["searched"]) >= 40
    assert 1 < tuned.report["calls"] < STEPS


def test_a_search_can_begin_where_another_ended(tuned):
    warm = tuple(tuned.report["computed"])
    again = tune(toy_task(samples=8), calls=4, warm=[warm])
    assert again.report["searched"][0]["computed"] == list(warm)


def test_ctrl_c_keeps_the_best_that_was_verified():
    calls = iter(range(10**6))

    def draw(scheduler, steps, samples):
        if next(calls) == 4:  # the teacher and three rollouts are done
            raise KeyboardInterrupt
        return toy_draw()(scheduler, steps, samples)

    tuned = tune(toy_task(draw, samples=4), calls=4)
    assert tuned.report["stopped"]
    assert [tuple(each["computed"]) for each in tuned.report["searched"]] == starts(4, STEPS)


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({"budget": 0.5}, "budget is 0.5x: 12 steps take 1x to 12x"),
        ({"budget": 20.0}, "budget is 20x: 12 steps take 1x to 12x"),
        ({"calls": 0}, "calls are 0: 12 steps take 1 to 12"),
        ({"calls": 13}, "calls are 13: 12 steps take 1 to 12"),
        ({}, "nothing given: give one of calls, budget and quality"),
        ({"calls": 3, "budget": 2.0}, "calls and budget given: give one of"),
    ],
)
def test_what_cannot_be_asked_for_is_said_in_one_line(asked, complaint):
    with pytest.raises(ValueError, match=complaint):
        tune(toy_task(), **asked)


def test_a_quality_that_cannot_be_reached_says_what_can():
    with pytest.raises(ValueError, match=r"quality is 300 dB: 11 of 12 calls reach \d+\.\d, ask less"):
        tune(toy_task(samples=4), quality=300.0)


def test_too_few_samples_are_refused():
    with pytest.raises(ValueError, match="samples are 3: a fit needs at least 4"):
        toy_task(samples=3)
    with pytest.raises(ValueError, match="held_out has 8 samples: a proof needs at least 16"):
        toy_task(held_out=8)


def test_nothing_is_fitted_and_held_out():
    samples = samples_of([0], 16, seed=0)
    with pytest.raises(ValueError, match="a held-out sample is among those that are fitted: give it other noise"):
        Task(toy_task().scheduler, STEPS, toy_draw(), samples, samples)


def test_nan_is_said_in_one_line():
    with pytest.raises(ValueError, match="output at timestep 999 has NaN"):
        tune(toy_task(toy_draw(lambda x, t, subjects: ideal(x, t, subjects) / 0 * 0)), calls=3)


def test_every_other_subject_is_held_out():
    assert split_subjects(range(6)) == ([0, 2, 4], [1, 3, 5])
    assert split_subjects(["a", "b", "a"]) == (["a", "b"], ["a", "b"])  # too few to leave any out


@pytest.mark.parametrize("calls", [1, 6, 12, 17, 25, 33, 50])
@pytest.mark.parametrize("samples", [8, 16, 64])
def test_a_search_costs_three_uncached_runs_of_its_samples(calls, samples):
    searched = searched_samples(samples, 50, calls)
    assert 4 <= searched <= samples
    assert searched == 4 or (50 + calls) * samples + 6 * calls * searched <= 3 * 50 * samples


@pytest.mark.parametrize("calls", [1, 2, 4, 5, 11])
def test_a_resized_plan_has_its_number_of_calls_and_starts_at_0(calls):
    plan = resized((0, 1, 2, 7), calls, STEPS)
    assert len(plan) == calls
    assert plan[0] == 0
    assert plan[-1] < STEPS
    assert resized((0, 1, 2, 7), 4, STEPS) == (0, 1, 2, 7)


def test_a_gain_is_paired():
    """Two ways that differ by the same everywhere have no error in their difference."""
    values = torch.tensor([30.0, 40.0, 50.0])
    said = row(Candidate(None, 12, 4), values - 1, values)
    assert (said["gain"], said["gain_error"]) == (1.0, 0.0)
    assert said["error"] == pytest.approx(10 / 3**0.5)
    assert mean_and_error(values) == (40.0, pytest.approx(10 / 3**0.5))


def test_a_budget_is_rounded_down_to_calls():
    assert calls_asked(50, calls=None, budget=3.0, quality=None) == 16
