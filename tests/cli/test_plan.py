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


@pytest.mark.parametrize(
    ("steps", "interval", "full", "cached"),
    [
        (250, 2, 143, 107), (250, 3, 108, 142), (250, 4, 90, 160), (250, 5, 80, 170), (250, 6, 72, 178),
        (50, 2, 28, 22), (50, 3, 21, 29), (50, 4, 17, 33), (50, 5, 16, 34), (50, 6, 14, 36),
    ],
)  # fmt: skip
def test_the_published_class_to_video_settings_have_the_published_counts(skipdit, steps, interval, full, cached):
    said = skipdit(f"plan --model Latte-XL/2 --steps {steps} --cache.preset class-to-video --cache.interval {interval}")
    assert said.code == 0
    found = numbers(said)
    assert found["full / cached"] == [full, cached, steps]
    assert found["fresh layers"] == [2, 14]
    assert found["predicted speed-up"][0] == pytest.approx(steps / (full + cached / 7), abs=0.02)


@pytest.mark.parametrize(
    ("cache", "full", "cached"),
    [
        ("N2-700-50", 33, 17), ("N3-700-50", 28, 22), ("N4-700-50", 25, 25), ("N2-800-50", 31, 19),
        ("N3-800-50", 24, 26), ("N3-900-50", 21, 29),
    ],
)  # fmt: skip
def test_the_published_text_to_video_settings_have_the_published_counts(skipdit, cache, full, cached):
    said = skipdit(f"plan --model LatteT2V --cache {cache}")
    assert said.code == 0
    found = numbers(said)
    assert found["full / cached"] == [full, cached, 50]
    assert found["fresh layers"] == [2, 28]
    before_the_window = (1000 - int(cache.split("-")[1])) // 20
    assert drawn(said).startswith("#" * before_the_window)


@pytest.mark.parametrize(
    ("steps", "interval", "full", "cached"),
    [
        (100, 2, 67, 33), (100, 3, 56, 44), (100, 4, 50, 50), (100, 5, 48, 52), (100, 6, 45, 55),
        (50, 2, 33, 17), (50, 3, 28, 22), (50, 4, 25, 25), (50, 5, 24, 26), (50, 6, 22, 28),
    ],
)  # fmt: skip
def test_the_published_text_to_image_settings_have_the_published_counts(skipdit, steps, interval, full, cached):
    said = skipdit(f"plan --model HunyuanDiT --steps {steps} --cache --cache-step {interval}")
    assert said.code == 0
    found = numbers(said)
    assert found["full / cached"] == [full, cached, steps]
    assert found["fresh layers"] == [2, 40]
    assert drawn(skipdit(f"plan --model HunyuanDiT --steps {steps} --cache N{interval}-700-50")) == drawn(said)


def test_a_run_of_hunyuandit_has_the_published_hundred_steps(skipdit):
    assert numbers(skipdit("plan --model HunyuanDiT --cache"))["full / cached"] == [67, 33, 100]


@pytest.mark.parametrize(
    ("published", "ours"),
    [
        ("--cache", "--cache.preset text-to-image"),
        ("--cache --cache-step 4", "--cache.preset text-to-image --cache.interval 4"),
        ("--cache --cache-at-branch 3", "--cache.preset text-to-image --cache.branch 3"),
        ("--cache --cache-step=4", "--cache.preset text-to-image --cache.interval 4"),
        ("--cache-step 4", "--cache.preset text-to-image --cache.interval 4"),
        ("--deepcache -N 3", "--cache.preset text-to-image --cache.interval 3"),
        ("--deepcache 3", "--cache.preset text-to-image --cache.interval 3"),
        ("--deepcache=3", "--cache.preset text-to-image --cache.interval 3"),
        ("--cache=N3-700-50", "--cache.published N3-700-50"),
    ],
)
def test_published_spellings_are_ours(skipdit, published, ours):
    """Before the model and behind it: where a flag stands does not matter."""
    expected = skipdit(f"plan --model HunyuanDiT {ours}")
    assert expected.code == 0
    for line in (f"plan --model HunyuanDiT {published}", f"plan {published} --model HunyuanDiT"):
        said = skipdit(line)
        assert (said.code, said.out) == (0, expected.out)


@pytest.mark.parametrize("model", ["DiT-XL/2", "Latte-XL/2", "LatteT2V"])
def test_cache_alone_is_what_was_published_for_the_model_at_hand(skipdit, model):
    task = {"DiT-XL/2": "class-to-image", "Latte-XL/2": "class-to-video", "LatteT2V": "text-to-video"}[model]
    assert skipdit(f"plan --model {model} --cache").out == skipdit(f"plan --model {model} --cache.preset {task}").out


@pytest.mark.parametrize("text", ["2-700-50", "N2", "N2-700", "N-700-50", "N2-700-50-1", "n2-700-50", "N2-50-x"])
def test_a_malformed_published_setting_is_refused(skipdit, text):
    said = skipdit(f"plan --model LatteT2V --cache {text}")
    assert said.code == 2
    assert said.complaint == f"cache is '{text}': give N<interval>-<start>-<stop> in timesteps, as N2-700-50"


def test_the_plan_is_drawn_as_the_schedule_decides(skipdit):
    said = skipdit("plan --steps 250 --cache.interval 4 --cache.branch 2 --cache.window 100 900")
    expected = plan(SkipCacheConfig(interval=4, window=(100, 900)).schedule, respace(1000, 250))
    assert drawn(said) == str(expected)


def test_explicit_steps_are_drawn_as_given(skipdit):
    assert drawn(skipdit("plan --steps 12 --cache.steps 0,1,5,11")) == "##...#.....#"


@pytest.mark.parametrize("model", ["DiT-S/8", "HunyuanDiT", "fashion-skip", "dit-xl-2-skip"])
def test_without_a_flag_every_step_computes_as_in_a_sample_without_one(skipdit, model):
    said = skipdit(f"plan --steps 7 --model {model}")
    found = numbers(said)
    assert drawn(said) == "#######"
    assert (found["full / cached"], found["layers run"], found["FLOPs"]) == ([7, 0, 7], [100], [100])
    assert found["predicted speed-up"] == [1]
    assert said.out.splitlines()[-1].startswith("uncached, as `skipdit sample` draws without --cache: give --cache ")
    assert "uncached" not in skipdit(f"plan --steps 7 --model {model} --cache").out


def test_with_one_of_its_flags_the_others_are_their_defaults(skipdit):
    assert drawn(skipdit("plan --steps 7 --cache.branch 1")) == "#.#.#.#"


def test_computing_always_saves_nothing(skipdit):
    found = numbers(skipdit("plan --steps 10 --cache.interval 1"))
    assert (found["layers run"], found["FLOPs"], found["predicted speed-up"]) == ([100], [100], [1])


def test_a_scheduler_that_asks_twice_a_step_has_a_decision_for_each_call(skipdit):
    assert len(drawn(skipdit("plan --steps 10 --scheduler heun"))) == 19


@pytest.mark.parametrize("name", ["XL/2", "S/8", "fashion-skip"])
def test_sizes_and_embedded_names_are_priced(skipdit, name):
    said = skipdit(f"plan --steps 20 --model {name} --cache.interval 2")
    assert said.code == 0
    assert 1 < numbers(said)["predicted speed-up"][0] < 2


def test_a_model_folder_is_priced(skipdit, model):
    assert numbers(skipdit(f"plan --steps 20 --model {model} --cache.branch 1"))["fresh layers"] == [2, 4]
