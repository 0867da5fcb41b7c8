"""`skipdit plan`: the published counts, and costs that are those of the schedule."""

import re

import pytest

from skipdit.caching import SkipCacheConfig, plan
from skipdit.diffusion import respace


def numbers(said) -> dict[str, list[float]]:
    """The numbers of each printed line by its caption."""
    lines = [re.match(r"(\D+?) {2,}(.*)|(predicted speed-up) (.*)", line) for line in said.out.splitlines()]
    pairs = [(match[1] or match[3], match[2] or match[4]) for match in lines if match]
    return {caption: [float(number) for number in re.findall(r"[\d.]+", rest)] for caption, rest in pairs}


def drawn(said) -> str:
    """The plan as printed, its lines joined."""
    return "".join(line for line in said.out.splitlines() if set(line) <= {"#", "."})


@pytest.mark.parametrize(
    ("interval", "full", "cached", "speedup"),
    [(2, 128, 122, 1.54), (3, 87, 163, 1.87), (4, 67, 183, 2.10), (5, 54, 196, 2.27), (6, 46, 204, 2.40)],
)
def test_the_published_settings_have_the_published_counts(skipdit, interval, full, cached, speedup):
    said = skipdit(f"plan --steps 250 --cache.preset class-to-image --cache.interval {interval}")
    assert said.code == 0
    found = numbers(said)
    assert found["full / cached"] == [full, cached, 250]
    assert found["fresh layers"] == [8, 28]
    assert found["layers run"] == [round(100 * (full + cached * 8 / 28) / 250, 1)]
    # The published bound counts blocks; ours counts FLOPs, embedding and head and skips included.
    assert found["predicted speed-up"][0] == pytest.approx(speedup, abs=0.02)
    assert found["FLOPs"][0] == pytest.approx(100 / speedup, abs=1)


def test_the_plan_is_drawn_as_the_schedule_decides(skipdit):
    said = skipdit("plan --steps 250 --cache.interval 4 --cache.branch 2 --cache.window 100 900")
    expected = plan(SkipCacheConfig(interval=4, window=(100, 900)).schedule, respace(1000, 250))
    assert drawn(said) == str(expected)


def test_explicit_steps_are_drawn_as_given(skipdit):
    assert drawn(skipdit("plan --steps 12 --cache.steps 0,1,5,11")) == "##...#.....#"


def test_without_a_flag_every_second_step_computes(skipdit):
    assert drawn(skipdit("plan --steps 7")) == "#.#.#.#"


def test_computing_always_saves_nothing(skipdit):
    found = numbers(skipdit("plan --steps 10 --cache.interval 1"))
    assert (found["layers run"], found["FLOPs"], found["predicted speed-up"]) == ([100], [100], [1])


def test_a_scheduler_that_asks_twice_a_step_has_a_decision_for_each_call(skipdit):
    assert len(drawn(skipdit("plan --steps 10 --scheduler heun"))) == 19


@pytest.mark.parametrize("name", ["XL/2", "S/8", "fashion-skip"])
def test_sizes_and_embedded_names_are_priced(skipdit, name):
    said = skipdit(f"plan --steps 20 --model {name}")
    assert said.code == 0
    assert 1 < numbers(said)["predicted speed-up"][0] < 2


def test_a_model_folder_is_priced(skipdit, model):
    assert numbers(skipdit(f"plan --steps 20 --model {model} --cache.branch 1"))["fresh layers"] == [2, 4]
