"""When the trunk is computed: the published counts, the written rule, and steps named one by one."""

import pytest
import torch

from skipdit.caching import ExplicitSteps, Guarded, Interval, Now, Plan, RelativeChange, Schedule, plan
from skipdit.diffusion import respace

DDPM_250 = respace(1000, 250)
LEADING_50 = range(980, -1, -20)
LEADING_100_FROM_1 = range(991, 0, -10)
LEADING_50_FROM_1 = range(981, 0, -20)

PUBLISHED = {  # timesteps, window, full / cached for N = 2, 3, ...
    "class-to-image": (DDPM_250, (20, 1000), ["128/122", "87/163", "67/183", "54/196", "46/204"]),
    # Published as "reset when t < 50"; on whole timesteps that is t <= 49.
    "class-to-video": (DDPM_250, (49, 900), ["143/107", "108/142", "90/160", "80/170", "72/178"]),
    "text-to-video, 700-50": (LEADING_50, (50, 700), ["33/17", "28/22", "25/25"]),
    "text-to-video, 800-50": (LEADING_50, (50, 800), ["31/19", "24/26"]),
    "text-to-image, 100 steps": (LEADING_100_FROM_1, (50, 700), ["67/33", "56/44", "50/50", "48/52", "45/55"]),
    "text-to-image, 50 steps": (LEADING_50_FROM_1, (50, 700), ["33/17", "28/22", "25/25", "24/26", "22/28"]),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_counts(name):
    timesteps, window, expected = PUBLISHED[name]
    plans = [plan(Guarded(Interval(interval), window), timesteps) for interval in range(2, 2 + len(expected))]
    assert [f"{each.full}/{each.cached}" for each in plans] == expected


def test_the_first_timestep_at_the_stop_still_follows_the_interval():
    assert DDPM_250[244] == 20
    assert str(plan(Guarded(Interval(3), (20, 1000)), DDPM_250))[240:] == "#..#.#####"
    assert str(plan(Guarded(Interval(3), (19, 1000)), DDPM_250))[240:] == "#..#..####"


def test_the_timestep_at_the_start_of_the_window_computes():
    assert str(plan(Guarded(Interval(9), (0, 800)), [900, 801, 800, 799, 798])) == "###.."


def test_without_a_window_nobody_asks_for_a_timestep():
    interval, steps = Interval(3), ExplicitSteps((0, 1))
    assert not interval.reads_timestep
    assert not steps.reads_timestep
    assert Guarded(Interval(3), (0, 1000)).reads_timestep
    assert [interval(Now(step), None, {}) for step in range(4)] == [True, False, False, True]
    assert not Guarded(interval).ends_reuse(None)


def test_the_first_steps_can_be_retained():
    assert str(plan(Guarded(Interval(4), retention=3), range(10, 0, -1))) == "###.#...#."


def test_no_more_than_so_many_steps_in_a_row_are_cached():
    assert str(plan(Guarded(ExplicitSteps((0, 1, 9)), max_cached=3), range(12, 0, -1))) == "##...#...#.."


@pytest.mark.parametrize("inner", [ExplicitSteps((0, 3)), RelativeChange(0.1)])
def test_guards_need_what_the_guarded_schedule_needs(inner):
    guarded = Guarded(inner, retention=2)
    assert (guarded.reads_timestep, guarded.reads_shallow) == (inner.reads_timestep, inner.reads_shallow)
    assert Guarded(inner, window=(0, 1)).reads_timestep


def run_of(schedule: Schedule, features: list[float]) -> str:
    """The plan over shallow features of a constant value each."""
    made, state = Plan(), {}
    for index, value in enumerate(features):
        computes = schedule(Now(index, since=made.since), torch.full((2, 3), value), state) or index == 0
        made = Plan((*made, computes))
    return str(made)


def test_relative_change_adds_up_until_it_reaches_the_threshold():
    """In halves of a power of two, so that sums are exact: changes of 1/8, 1/8, 1/4, 1/2 of the value before."""
    features = [64.0, 72.0, 81.0, 81.0 * 1.25, 81.0 * 1.25 * 1.5]
    assert run_of(RelativeChange(0.25), features) == "#.###"
    assert run_of(RelativeChange(0.375), features) == "#..##"
    assert run_of(RelativeChange(0.5), features) == "#..##"
    assert run_of(RelativeChange(1.5), features) == "#...."
    assert run_of(RelativeChange(0.25), [1.0] * 5) == "#...."


def test_a_schedule_that_looks_at_features_has_no_plan_before_the_run():
    planned = plan(RelativeChange(0.1), range(5, 0, -1))
    assert (str(planned), planned.is_known, planned.full, planned.cached) == ("#????", False, 1, 0)
    assert plan(Interval(2), range(5, 0, -1)).is_known


def test_named_steps_compute_and_no_other():
    assert str(plan(ExplicitSteps((0, 1, 5)), range(9, 0, -1))) == "##...#..."


@pytest.mark.parametrize(
    ("steps", "message"),
    [((), "begin with 0"), ((1, 2), "begin with 0"), ((0, 3, 2), "rise"), ((0, 2, 2), "rise")],
)
def test_named_steps_begin_with_0_and_rise(steps, message):
    with pytest.raises(ValueError, match=message):
        ExplicitSteps(steps)


def test_a_named_step_outside_the_run_is_refused():
    with pytest.raises(ValueError, match="step 5: a run of 5 has steps 0 to 4"):
        plan(ExplicitSteps((0, 5)), range(5, 0, -1))


def test_a_run_without_steps_is_refused():
    with pytest.raises(ValueError, match="at least one step"):
        plan(Interval(2), [])


def test_a_plan_is_priced_by_its_computed_and_cached_steps():
    steps = Plan([True, False, False, True])
    assert (str(steps), steps.full, steps.cached) == ("#..#", 2, 2)
    assert steps.cost(0.25) == 0.625
    assert steps.cost(1) == 1
