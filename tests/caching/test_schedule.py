"""When the trunk is computed: the published counts, the written rule, and steps named one by one."""

import pytest

from skipdit.caching import ExplicitSteps, Interval, Plan, plan
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
    plans = [plan(Interval(interval, window), timesteps) for interval in range(2, 2 + len(expected))]
    assert [f"{each.full}/{each.cached}" for each in plans] == expected


def test_the_first_timestep_at_the_stop_still_follows_the_interval():
    assert DDPM_250[244] == 20
    assert str(plan(Interval(3, (20, 1000)), DDPM_250))[240:] == "#..#.#####"
    assert str(plan(Interval(3, (19, 1000)), DDPM_250))[240:] == "#..#..####"


def test_the_timestep_at_the_start_of_the_window_computes():
    assert str(plan(Interval(9, (0, 800)), [900, 801, 800, 799, 798])) == "###.."


def test_without_a_window_nobody_asks_for_a_timestep():
    interval, steps = Interval(3), ExplicitSteps((0, 1))
    assert not interval.reads_timestep
    assert not steps.reads_timestep
    assert Interval(3, (0, 1000)).reads_timestep
    assert [interval(step, None, None) for step in range(4)] == [True, False, False, True]
    assert not interval.ends_reuse(None)
    assert not steps.ends_reuse(None)


def test_named_steps_compute_and_no_other():
    assert str(plan(ExplicitSteps((0, 1, 5)), range(9, 0, -1))) == "##...#..."


@pytest.mark.parametrize(
    ("steps", "message"),
    [((), "first must be 0"), ((1, 2), "first must be 0"), ((0, 3, 2), "larger"), ((0, 2, 2), "larger")],
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
