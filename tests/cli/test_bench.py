"""`skipdit bench` and `skipdit demo`: tables, JSON and pictures of what a cache saves and costs."""

import json
import re
from datetime import date

import numpy as np
import pytest
from PIL import Image

from skipdit.cli.bench import Bench, asked, bench, loaded, resolved
from skipdit.cli.flags import Cache, parse
from skipdit.cli.sample import Sample
from skipdit.cli.tasks import settings_of, with_recipe
from skipdit.evaluation.compare import check_size
from skipdit.hub.card import read_numbers
from skipdit.hub.sketch import sketch
from skipdit.videos import read_video
from tests.cli.conftest import contents
from tests.pipelines.tiny import pipeline, tiny, tiny_latte, tiny_latte_t2v, tiny_vae

SHORT = "--steps 8 --repeats 1 --warmup 0 "


def strict(text: bytes) -> dict:
    """JSON without the Infinity and NaN that only Python reads."""

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_a_bench_writes_and_prints_every_way_with_its_controls(skipdit, model):
    before = date.today()
    said = skipdit(f"bench {model} {SHORT} --cache.interval 2 --out bench.json")
    assert said.code == 0
    document = strict(contents()["bench.json"])
    results = document["results"]
    assert list(results) == [
        "uncached", "N=2, branch 1, hold", "N=2, branch 1, taylor 1", "6 steps", "branch 0, taylor 1",
        "6 of DPM++ trailing", "6 of DPM++ Karras", "6 of DPM++ even in log-SNR", "6 of UniPC",
        "6 of even, noise forecast", "6 of last steps, noise forecast",
    ]  # fmt: skip
    assert document["settings"].items() >= {"steps": 8, "scheduler": "ddim", "model": str(model)}.items()
    assert document["settings"]["cache"]["interval"] == 2
    assert document["machine"].keys() >= {"torch", "threads", "python"}
    assert before <= date.fromisoformat(document["date"]) <= date.today()
    assert read_numbers("bench.json").date == document["date"]  # so that a model card says it
    assert all(name in said.out for name in results)
    assert contents().keys() == {"bench.json"}


def test_the_controls_cost_at_most_what_the_cache_costs(skipdit, model):
    skipdit(f"bench {model} {SHORT} --cache.interval 3 --out bench.json")
    results = strict(contents()["bench.json"])["results"]
    uncached, hold, taylor, fewer, bare, *solvers = results.values()
    assert hold["flops"] == taylor["flops"] < uncached["flops"]
    assert fewer["flops"] <= hold["flops"]
    assert bare["flops"] <= hold["flops"]
    assert all(each["flops"] == fewer["flops"] for each in solvers)
    assert (uncached["full"], uncached["cached"], uncached["fidelity"]) == (8, 0, None)
    assert (hold["plan"], hold["full"], hold["cached"]) == ("#..#..#.", 3, 5)
    assert hold["predicted_speedup"] == pytest.approx(uncached["flops"] / hold["flops"])
    assert all(float(result["fidelity"]["psnr"]) > 0 for name, result in results.items() if name != "uncached")
    assert hold["bytes_remembered"] == 10 * 9 * 16 * 4  # one float32 tensor: guided batch, tokens, width
    assert taylor["bytes_remembered"] == 2 * hold["bytes_remembered"]


@pytest.mark.filterwarnings("ignore:Skip-Cache never fired")
def test_refreshing_at_every_step_is_as_faithful_as_can_be(model, tmp_path):
    config = Bench(
        str(model), out=tmp_path / "bench.json", steps=4, repeats=1, warmup=0, classes=(0, 1), cache=Cache(interval=1)
    )
    results = bench(config)
    fidelity = results["N=1, branch 1, hold"].fidelity
    assert (fidelity.identical, fidelity.images, fidelity.ssim) == (2, 2, pytest.approx(1))
    assert strict((tmp_path / "bench.json").read_bytes())["results"]["N=1, branch 1, hold"]["fidelity"]["psnr"] == "inf"


def test_a_bench_that_cannot_be_written_is_known_before_it_runs(skipdit, model, tmp_path):
    (tmp_path / "here" / "file").write_text("no folder")
    said = skipdit(f"bench {model} {SHORT} --out file/bench.json")
    assert said.code == 1
    assert (said.err.count("\n"), said.out) == (1, "")
    assert contents() == {"file": b"no folder"}


@pytest.mark.parametrize(
    ("kind", "prompt"), [(tiny, ""), (lambda: tiny_latte_t2v(caption_channels=384), "--prompt up")]
)
def test_images_too_small_to_compare_are_refused_before_any_is_drawn(skipdit, tmp_path, kind, prompt):
    kind().save_pretrained(tmp_path / "model")
    said = skipdit(f"bench {tmp_path / 'model'} {SHORT} {prompt}")
    assert "a side of 8 pixels: SSIM compares sides of at least 11" in said.complaint
    assert (said.code, said.err.count("\n")) == (2, 1)


def test_the_size_compared_is_that_of_pictures_not_of_latents():
    check_size(pipeline(tiny(in_channels=4), vae=tiny_vae()))  # 8 x 8 latents, 16 x 16 pictures
    with pytest.raises(ValueError, match="a side of 8 pixels"):
        check_size(pipeline(tiny(in_channels=4, sample_size=4), vae=tiny_vae()))


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ("--prompt up --guidance-channels 3", "guidance_channels is 3, for which a model of text has no use"),
        ("--prompt up --guidance-scale 0.5", "guidance_scale is 0.5: a model of text takes 1 (off) or more"),
        (f"--prompt {'.' * 119}", "tokens, more than 120: shorten it"),
    ],
)
def test_what_would_be_ignored_or_cut_off_is_refused_before_any_is_drawn(skipdit, tmp_path, flags, complaint):
    tiny_latte_t2v(sample_size=16, caption_channels=384).save_pretrained(tmp_path / "text")
    said = skipdit(f"bench {tmp_path / 'text'} {SHORT} {flags} --out bench.json")
    assert complaint in said.complaint
    assert (said.code, contents()) == (2, {})


USUAL = {"fashion-skip": 1.5, "moving-digits-skip": 4, "captioned-digits-skip": 4, "emoji-hunyuan": 6}


@pytest.mark.parametrize("name", USUAL)
def test_guidance_that_nobody_names_is_that_of_a_sample(name):
    pipeline, prompt = sketch(name), ("up",) if name in ("captioned-digits-skip", "emoji-hunyuan") else ()
    _, sampling = asked(resolved(Bench(name, prompt=prompt)), pipeline)
    assert sampling.guidance_scale == settings_of(with_recipe(Sample(name)), pipeline).guidance_scale == USUAL[name]


def test_videos_without_classes_are_measured_without_guidance_unless_told(skipdit, tmp_path):
    tiny_latte(sample_size=16, num_classes=0).save_pretrained(tmp_path / "free")
    done = skipdit(f"bench {tmp_path / 'free'} {SHORT} --steps 4 --out bench.json")
    assert done.code == 0, done.err
    assert strict(contents()["bench.json"])["settings"]["guidance_scale"] == 1
    told = skipdit(f"bench {tmp_path / 'free'} {SHORT} --guidance-scale 1.5 --out other.json")
    assert (told.code, told.complaint) == (2, "guidance_scale is 1.5: this model has no classes, so take 1")


def test_the_noise_of_hunyuan_ends_where_told_and_that_of_others_cannot_be():
    config = resolved(Bench("emoji-hunyuan", prompt=("up",), steps=4, beta_end=0.025))
    assert loaded(config).scheduler.config.beta_end == 0.025
    with pytest.raises(ValueError, match=r"beta_end is 0.025, for which a class-to-image model has no use"):
        loaded(resolved(Bench("fashion-skip", beta_end=0.025)))


def flags_of(page: str) -> dict[str, str]:
    """What a help page says of each flag, its lines joined."""
    words = " ".join(re.sub("[│╭╮╰╯─]", " ", page).split())
    return dict(re.findall(r"(?:^| )(--[a-z][a-z.-]*),? (.*?)(?= --[a-z]| cache options|$)", words))


def help_of(verb: str, capsys) -> str:
    with pytest.raises(SystemExit):
        parse({"bench": Bench, "sample": Sample}[verb], verb, ["--help"])
    return capsys.readouterr().out


def test_what_a_bench_shares_with_a_sample_is_explained_alike(capsys):
    ours, theirs = flags_of(help_of("bench", capsys)), flags_of(help_of("sample", capsys))
    alike = {
        "--weights", "--prompt", "--beta-end", "--guidance-scale", "--guidance-channels", "--vae", "--base",
        "--compile", "--cache.preset", "--cache.order",
    }  # fmt: skip
    assert alike <= ours.keys()
    assert {flag: ours[flag] for flag in alike} == {flag: theirs[flag] for flag in alike}


def test_help_names_the_flag_cache_and_no_python(capsys):
    page = help_of("bench", capsys)
    assert "--cache alone is --cache.preset model" in " ".join(page.split())
    assert "None" not in page
    assert "(default: )" not in page
    assert all(flags_of(page)[flag].strip() for flag in ("--vae", "--warmup", "--base"))


PARTS = ("class-to-image", "class-to-video", "text-to-video", "text-to-image")


@pytest.mark.slow
def test_the_demo_shows_pictures_animations_and_numbers(skipdit):
    said = skipdit("demo --steps 4 --interval 2 --out shown")
    assert said.code == 0
    videos = {f"shown/{part}{suffix}" for part in PARTS if part.endswith("video") for suffix in (".gif", ".mp4")}
    pictures = {f"shown/{part}.png" for part in PARTS if part.endswith("image")}
    assert contents().keys() == {"shown/run.json"} | pictures | videos
    record = strict(contents()["shown/run.json"])
    assert record["settings"].items() >= {"steps": 4, "interval": 2}.items()
    assert tuple(record["parts"]) == PARTS
    for results in record["parts"].values():
        assert list(results) == ["uncached", "N=2, branch 1, hold", "N=2, branch 1, taylor 1"]
        assert all(name in said.out for name in results)
        assert (results["uncached"]["plan"], results["N=2, branch 1, hold"]["plan"]) == ("####", "#.#.")
    page = np.array(Image.open("shown/class-to-image.png"))
    assert page.shape[0] > 5 * 3 * 28
    assert page.shape[1] > 10 * 3 * 28
    assert page.std() > 10
    for path in videos:
        frames, fps = read_video(path)
        assert (len(frames), fps) == (16, 8)
        assert frames.shape[1] > 5 * 4 * 32
        assert frames.shape[2] > 4 * 4 * 32


VIDEO_MODELS = {"latte": tiny_latte, "latte-t2v": lambda **sizes: tiny_latte_t2v(caption_channels=384, **sizes)}


@pytest.mark.parametrize(
    ("kind", "asked", "wrong", "said"),
    [
        ("latte", "--classes 1 2", "--prompt up", "prompts are given (1) to a model of 10 classes: give class ids"),
        ("latte-t2v", "--prompt up down", "--classes 1", "classes are [1], but this model has none: leave them out"),
        ("latte-t2v", "--prompt up", "", "prompts are missing for a model of text: give at least one"),
    ],
)
def test_videos_are_measured_frame_by_frame(skipdit, tmp_path, kind, asked, wrong, said):
    VIDEO_MODELS[kind](sample_size=16).save_pretrained(tmp_path / kind)
    done = skipdit(f"bench {tmp_path / kind} {SHORT} {asked} --cache.interval 2 --out bench.json")
    assert done.code == 0, done.err
    results = strict(contents()["bench.json"])["results"]
    samples = len(asked.split()) - 1
    assert results["N=2, branch 1, hold"]["fidelity"]["images"] == 3 * samples
    assert results["N=2, branch 1, hold"]["plan"] == "#.#.#.#."
    fewer = next(result for name, result in results.items() if name.endswith(" steps"))
    assert fewer["cached"] == 0
    assert fewer["flops"] <= results["N=2, branch 1, hold"]["flops"]
    refused = skipdit(f"bench {tmp_path / kind} {SHORT} {wrong} --out other.json")
    assert (refused.code, refused.complaint) == (2, said)


def test_an_adaptive_schedule_is_measured_by_the_plan_of_its_run(skipdit, model):
    """And its controls cost at most what that plan costs."""
    said = skipdit(f"bench {model} --steps 6 --num-images 2 --repeats 1 --warmup 0 --cache.threshold 5 --out b.json")
    assert said.code == 0, said.err
    rows = json.loads(contents()["b.json"])["results"]
    adaptive = next(row for name, row in rows.items() if name.startswith("change 5.0"))
    assert set(adaptive["plan"]) <= {"#", "."}
    assert adaptive["full"] + adaptive["cached"] == len(adaptive["plan"]) == 6
    assert all(row["flops"] <= adaptive["flops"] for name, row in rows.items() if "steps" in name)
