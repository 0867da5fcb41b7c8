"""`skipdit plan`: the published counts, and costs that are those of the schedule."""

import re
from functools import cache

import pytest

from skipdit.caching import SkipCacheConfig, plan
from skipdit.cli.flags import parse
from skipdit.cli.plan import Plan, model_on_meta, scheduled
from skipdit.diffusion import respace
from skipdit.evaluation.price import price


def numbers(said) -> dict[str, list[float]]:
    """The numbers of each printed line by its caption."""
    lines = [re.match(r"(\D+?) {2,}(.*)|(predicted speed-up) (.*)", line) for line in said.out.splitlines()]
    pairs = [(match[1] or match[3], match[2] or match[4]) for match in lines if match]
    return {caption: [float(number) for number in re.findall(r"[\d.]+", rest)] for caption, rest in pairs}


def drawn(said) -> str:
    """The plan as printed, its lines joined."""
    return "".join(line for line in said.out.splitlines() if set(line) <= {"#", "."})


on_meta = cache(model_on_meta)  # builds 1.5 billion parameters of HunyuanDiT once


def asked(line: str) -> Plan:
    return parse(Plan, "plan", line.split())


def schedule(line: str):
    """Which steps compute by a command line, and its cache, without the FLOPs, which take seconds."""
    config = asked(line)
    settings, planned = scheduled(config, on_meta(config.model))
    return planned, settings


CLASS_TO_IMAGE = {2: (128, 122, 1.54), 3: (87, 163, 1.87), 4: (67, 183, 2.10), 5: (54, 196, 2.27), 6: (46, 204, 2.40)}
CLASS_TO_VIDEO = {
    (250, 2): (143, 107), (250, 3): (108, 142), (250, 4): (90, 160), (250, 5): (80, 170), (250, 6): (72, 178),
    (50, 2): (28, 22), (50, 3): (21, 29), (50, 4): (17, 33), (50, 5): (16, 34), (50, 6): (14, 36),
}  # fmt: skip
TEXT_TO_VIDEO = {
    "N2-700-50": (33, 17), "N3-700-50": (28, 22), "N4-700-50": (25, 25), "N2-800-50": (31, 19), "N3-800-50": (24, 26),
    "N3-900-50": (21, 29),
}  # fmt: skip
TEXT_TO_IMAGE = {
    (100, 2): (67, 33), (100, 3): (56, 44), (100, 4): (50, 50), (100, 5): (48, 52), (100, 6): (45, 55),
    (50, 2): (33, 17), (50, 3): (28, 22), (50, 4): (25, 25), (50, 5): (24, 26), (50, 6): (22, 28),
}  # fmt: skip
PUBLISHED = {
    **{f"--steps 250 --cache.preset class-to-image --cache.interval {n}": (4, *CLASS_TO_IMAGE[n][:2])
       for n in CLASS_TO_IMAGE},
    **{f"--model Latte-XL/2 --steps {steps} --cache.preset class-to-video --cache.interval {n}": (1, *counts)
       for (steps, n), counts in CLASS_TO_VIDEO.items()},
    **{f"--model LatteT2V --cache {name}": (1, *counts) for name, counts in TEXT_TO_VIDEO.items()},
    **{f"--model HunyuanDiT --steps {steps} --cache --cache-step {n}": (1, *counts)
       for (steps, n), counts in TEXT_TO_IMAGE.items()},
}  # fmt: skip


@pytest.mark.parametrize("line", PUBLISHED)
def test_the_published_settings_have_the_published_counts(line):
    planned, settings = schedule(line)
    assert (settings.branch, planned.full, planned.cached) == PUBLISHED[line]
    assert len(planned) == planned.full + planned.cached


@pytest.mark.parametrize(
    ("line", "full", "cached", "fresh", "layers"),
    [
        ("--model DiT-XL/2 --cache --cache-step 3", 87, 163, 8, 28),
        ("--model Latte-XL/2 --steps 250 --cache --cache-step 3", 108, 142, 2, 14),
        ("--model LatteT2V --cache N2-700-50", 33, 17, 2, 28),
        ("--model HunyuanDiT --cache", 67, 33, 2, 40),
    ],
)
def test_the_command_prints_the_counts_and_what_follows_of_them(skipdit, line, full, cached, fresh, layers):
    said = skipdit(f"plan {line}")
    assert said.code == 0
    found, steps = numbers(said), full + cached
    assert drawn(said) == str(schedule(line)[0])
    assert found["full / cached"] == [full, cached, steps]
    assert found["fresh layers"] == [fresh, layers]
    assert found["layers run"] == [round(100 * (full + cached * fresh / layers) / steps, 1)]
    assert found["predicted speed-up"] == [pytest.approx(100 / found["FLOPs"][0], abs=0.01)]


def test_the_predicted_speedups_of_images_are_the_published_bounds():
    """The published bound counts blocks; ours counts FLOPs, embedding and head and skips included."""
    cost = price(on_meta("DiT-XL/2"), SkipCacheConfig(branch=4))
    for interval, (*_, speedup) in CLASS_TO_IMAGE.items():
        planned, _ = schedule(f"--cache --cache-step {interval}")
        assert cost.speedup(planned) == pytest.approx(speedup, abs=0.02)


def test_the_speedups_of_videos_of_classes_are_nearly_those_of_their_layers():
    cost = price(on_meta("Latte-XL/2"), SkipCacheConfig())
    for steps, interval in CLASS_TO_VIDEO:
        planned, _ = schedule(f"--model Latte-XL/2 --steps {steps} --cache --cache-step {interval}")
        assert cost.speedup(planned) == pytest.approx(steps / (planned.full + planned.cached / 7), abs=0.02)


@pytest.mark.parametrize("name", TEXT_TO_VIDEO)
def test_every_step_before_the_window_of_a_video_of_text_computes(name):
    before_the_window = (1000 - int(name.split("-")[1])) // 20
    assert str(schedule(f"--model LatteT2V --cache {name}")[0]).startswith("#" * before_the_window)


@pytest.mark.parametrize(("steps", "interval"), TEXT_TO_IMAGE)
def test_the_two_published_spellings_of_a_setting_are_one_plan(steps, interval):
    line = f"--model HunyuanDiT --steps {steps} --cache"
    assert schedule(f"{line} N{interval}-700-50")[0] == schedule(f"{line} --cache-step {interval}")[0]


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
def test_published_spellings_are_ours(published, ours):
    """Before the model and behind it: where a flag stands does not matter."""
    expected = asked(f"--model HunyuanDiT {ours}").cache.config("text-to-image")
    assert expected is not None
    for line in (f"--model HunyuanDiT {published}", f"{published} --model HunyuanDiT"):
        assert asked(line).cache.config("text-to-image") == expected


TASKS = {
    "DiT-XL/2": "class-to-image", "Latte-XL/2": "class-to-video", "LatteT2V": "text-to-video",
    "HunyuanDiT": "text-to-image",
}  # fmt: skip


@pytest.mark.parametrize("model", TASKS)
def test_cache_alone_is_what_was_published_for_the_model_at_hand(model):
    alone = schedule(f"--model {model} --cache")
    assert alone[1] == SkipCacheConfig.preset(TASKS[model])
    assert alone == schedule(f"--model {model} --cache.preset {TASKS[model]}")


@pytest.mark.parametrize("text", ["2-700-50", "N2", "N2-700", "N-700-50", "N2-700-50-1", "n2-700-50", "N2-50-x"])
def test_a_malformed_published_setting_is_refused(skipdit, text):
    said = skipdit(f"plan --model LatteT2V --cache {text}")
    assert said.code == 2
    assert said.complaint == f"cache is '{text}': give N<interval>-<start>-<stop> in timesteps, as N2-700-50"


def test_the_plan_is_drawn_as_the_schedule_decides(skipdit):
    said = skipdit("plan --model S/8 --steps 250 --cache.interval 4 --cache.branch 2 --cache.window 100 900")
    expected = plan(SkipCacheConfig(interval=4, window=(100, 900)).schedule, respace(1000, 250))
    assert drawn(said) == str(expected)


def test_explicit_steps_are_drawn_as_given(skipdit):
    assert drawn(skipdit("plan --model S/8 --steps 12 --cache.steps 0,1,5,11")) == "##...#.....#"


@pytest.mark.parametrize("model", ["DiT-S/8", "emoji-hunyuan", "fashion-skip"])
def test_without_a_flag_every_step_computes_as_in_a_sample_without_one(skipdit, model):
    said = skipdit(f"plan --steps 7 --model {model}")
    found = numbers(said)
    assert drawn(said) == "#######"
    assert (found["full / cached"], found["layers run"], found["FLOPs"]) == ([7, 0, 7], [100], [100])
    assert found["predicted speed-up"] == [1]
    assert said.out.splitlines()[-1].startswith("uncached, as `skipdit sample` draws without --cache: give --cache ")
    assert "uncached" not in skipdit(f"plan --steps 7 --model {model} --cache").out


@pytest.mark.parametrize(("model", "steps"), [("DiT-XL/2", 250), ("HunyuanDiT", 100), ("dit-xl-2-skip", 250)])
def test_a_run_has_the_published_steps_which_all_compute_without_a_flag(model, steps):
    assert schedule(f"--model {model}") == (plan(SkipCacheConfig(interval=1).schedule, respace(1000, steps)), None)


def test_with_one_of_its_flags_the_others_are_their_defaults(skipdit):
    assert drawn(skipdit("plan --model S/8 --steps 7 --cache.branch 1")) == "#.#.#.#"


def test_help_says_what_a_flag_is_where_it_is_left_out(capsys):
    with pytest.raises(SystemExit):
        asked("--help")
    page = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "None" not in page
    assert "--steps N (default: 250, videos of text 50, images of text 100; of a published model its own)" in page
    assert "(default: ddpm, videos of text ddim-leading; of a published model its own)" in page


def test_computing_always_saves_nothing(skipdit):
    found = numbers(skipdit("plan --model S/8 --steps 10 --cache.interval 1"))
    assert (found["layers run"], found["FLOPs"], found["predicted speed-up"]) == ([100], [100], [1])


def test_a_scheduler_that_asks_twice_a_step_has_a_decision_for_each_call(skipdit):
    assert len(drawn(skipdit("plan --model S/8 --steps 10 --scheduler heun"))) == 19


@pytest.mark.parametrize("name", ["L/2", "S/8", "fashion-skip"])
def test_sizes_and_embedded_names_are_priced(skipdit, name):
    said = skipdit(f"plan --steps 20 --model {name} --cache.interval 2")
    assert said.code == 0
    assert 1 < numbers(said)["predicted speed-up"][0] < 2


def test_a_model_folder_is_priced(skipdit, model):
    assert numbers(skipdit(f"plan --steps 20 --model {model} --cache.branch 1"))["fresh layers"] == [2, 4]


def test_a_published_setting_keeps_its_share_of_the_layers_of_a_shallow_model(skipdit):
    """Branch 4 of 28 layers would leave no trunk in 8."""
    said = skipdit("plan --model fashion-skip --steps 50 --cache")
    assert numbers(said)["fresh layers"] == [2, 8]
    assert skipdit("plan --model fashion-skip --cache --cache-at-branch 4").code == 2


def test_a_vanilla_model_runs_no_head_for_a_forecast_that_does_not_read_it(skipdit):
    line = "plan --model fashion-dit --steps 50 --cache.interval 2 --cache.branch 2"
    assert numbers(skipdit(line))["fresh layers"] == [2, 8]
    assert numbers(skipdit(f"{line} --cache.forecast residual"))["fresh layers"] == [4, 8]


def test_a_schedule_that_looks_at_features_is_not_priced_and_says_so(skipdit):
    said = skipdit("plan --model fashion-skip --steps 5 --cache.threshold 0.1")
    assert said.code == 0
    assert said.out.splitlines()[0] == "#????"
    assert "not priced" in said.out
    assert "predicted" not in said.out


def test_a_class_of_diffusers_is_priced_by_the_layers_that_run(skipdit):
    """Flux has 19 and 38 layers and no long skips: of a cached step at branch 2 the last 2 run."""
    said = skipdit("plan --model FluxTransformer2DModel --steps 12 --cache.interval 3 --cache.branch 2")
    assert drawn(said) == "#..#..#..#.."
    assert numbers(said)["fresh layers"] == [2, 57]
    assert numbers(said)["full / cached"] == [4, 8, 12]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("", "no cache is given for WanTransformer3DModel: give --cache.interval 2"),
        ("--cache", "no setting was published for this model: give --cache.interval 2"),
        ("--cache.interval 2 --cache.branch 20", "branch is 20: a model of 40 layers takes 0 to 19"),
        ("--cache.interval 2 --scheduler ddim", "scheduler is 'ddim' beside a class of diffusers"),
    ],
)
def test_what_cannot_be_priced_of_a_class_of_diffusers_is_one_line(skipdit, asked, message):
    said = skipdit(f"plan --model WanTransformer3DModel {asked}")
    assert said.code == 2
    assert message in said.complaint
