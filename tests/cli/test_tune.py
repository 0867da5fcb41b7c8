"""`skipdit tune`: a plan, its report, and what is drawn by it."""

import json
from pathlib import Path

import pytest

from tests.pipelines.tiny import tiny

SHORT = "--steps 8 --calls 3 --samples 4 --guidance-scale 1.5"


@pytest.fixture(scope="module")
def larger(tmp_path_factory) -> Path:
    """A model of 12 x 12 pixels and 4 classes, so that two are held out."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny(sample_size=12, patch_size=4, num_classes=4).save_pretrained(folder)
    return folder


def test_it_writes_a_plan_that_sample_draws_by(skipdit, larger):
    said = skipdit(f"tune {larger} {SHORT} --out plan")
    assert said.code == 0, said.err
    assert "held out" in said.out
    assert {path.name for path in Path("plan").iterdir()} == {
        "plan.json", "scheduler_config.json", "report.json", "report.png",
    }  # fmt: skip
    report = json.loads(Path("plan/report.json").read_text())
    assert report["plan"].count("#") == 3
    assert report["other_subjects"]
    assert report["machine"]["torch"]
    drawn = skipdit(f"sample {larger} --plan plan --guidance-scale 1.5 --out a.png")
    assert drawn.code == 0, drawn.err
    assert Path("a.png").exists()
    again = skipdit(f"tune {larger} {SHORT} --out plan")
    assert again.code == 0
    resumed = json.loads(Path("plan/report.json").read_text())["searched"]
    assert resumed[0]["decibels"] == max(each["decibels"] for each in report["searched"])


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ("--budget 0.5x", "budget is 0.5x: 8 steps take 1x to 8x"),
        ("--budget fast", "budget is 'fast': give a number, as 4x"),
        ("--quality high", "quality is 'high': give a number, as 4dB"),
        ("--calls 9", "calls are 9: 8 steps take 1 to 8"),
        ("", "nothing given: give one of calls, budget and quality"),
        ("--calls 3 --samples 3", "samples are 3: a fit needs at least 4"),
        ("--calls 3 --held-out 4", "held_out has 4 samples: a proof needs at least 16"),
        ("--calls 3 --scheduler ddpm", "scheduler is ddpm, which draws noise at each step: give --budget, by FLOPs"),
        ("--calls 3 --scheduler heun", "HeunDiscreteScheduler cannot be tuned: its step is not one that free steps"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(skipdit, larger, flags, complaint):
    said = skipdit(f"tune {larger} --steps 8 {flags}")
    assert said.code == 2
    assert said.complaint.startswith(complaint)


@pytest.mark.parametrize("flags", ["--steps 4", "--scheduler ddim", "--cache.interval 2"])
def test_what_a_plan_decides_cannot_be_asked_for_beside_it(skipdit, larger, flags):
    said = skipdit(f"sample {larger} --plan plan {flags}")
    assert said.code == 2
    assert said.complaint.endswith("is given beside plan 'plan', which decides it: leave it out")


def test_a_plan_that_is_not_there_is_named(skipdit, larger):
    said = skipdit(f"sample {larger} --plan nowhere")
    assert said.code == 2
    assert "nowhere/plan.json cannot be read" in said.complaint
    assert said.complaint.endswith("name a folder that `skipdit tune` wrote")


def test_a_plan_is_shown_and_held_against_its_controls(skipdit, larger):
    assert skipdit(f"tune {larger} {SHORT} --out plan").code == 0
    shown = skipdit("plan plan")
    assert shown.code == 0, shown.err
    assert "calls              3 of 8 steps, guidance 1.5" in shown.out
    uncached = json.loads(Path("plan/plan.json").read_text())["cache"] is None
    assert ("speed-up by calls  2.67x" in shown.out) == uncached
    told = skipdit(f"bench {larger} --plan plan --steps 8 --guidance-scale 1.5 --repeats 1 --warmup 0 --out bench.json")
    assert told.code == 0, told.err
    results = json.loads(Path("bench.json").read_text())["results"]
    assert {"uncached", "plan, 3 calls", "3 steps", "DPM++ even in log-SNR", "branch 1, hold"} < set(results)
    assert results["plan, 3 calls"]["full"] == 3
    assert "PSNR to an accurate solution" in told.out


def test_a_sampler_that_draws_noise_gets_a_cache(skipdit, larger):
    told = skipdit(f"tune {larger} --steps 8 --budget 1.5x --scheduler ddpm --samples 4 --guidance-scale 2 --out plan")
    assert told.code == 0, told.err
    plan = json.loads(Path("plan/plan.json").read_text())
    assert plan["cache"]["steps"][0] == 0
    report = json.loads(Path("plan/report.json").read_text())
    assert set(report["plan"]) == {"#", "."}
    assert {each["cache"]["branch"] for each in report["searched"]} == {0, 1}
    drawn = skipdit(f"sample {larger} --plan plan --guidance-scale 2 --out a.png")
    assert drawn.code == 0, drawn.err
    assert f"{len(plan['cache']['steps'])} full" in drawn.out
