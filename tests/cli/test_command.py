"""The command as a whole: help, versions, exit codes, one line for what went wrong, and a traceback on request."""

import os
import sys

import pytest
import torch
from safetensors.torch import save_file

from skipdit import DiT, __version__
from skipdit.cli import VERBS, exit_code, explanation, main
from skipdit.hub import EMBEDDED
from tests.cli.conftest import contents
from tests.pipelines.tiny import tiny

SAMPLE = "sample {model} --steps 4 --num-images 2 "


def test_help_names_every_verb(skipdit):
    for line in ("--help", "-h", ""):
        said = skipdit(line)
        assert said.code == 0
        assert all(verb in said.out for verb in VERBS)


def test_help_says_in_one_line_each_which_verbs_take_a_published_model(skipdit):
    lines = {line.split()[0]: line for line in skipdit("--help").out.splitlines() if line.startswith("  ")}
    assert [verb for verb, line in lines.items() if "published" in line] == ["sample", "models", "download"]


def test_a_reader_who_has_read_enough_is_told_nothing_more(monkeypatch, capfd):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as broken:
        monkeypatch.setattr(sys, "stdout", broken)
        assert main(["--help"]) == 1
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_its_flags(verb, capsys):
    try:
        code = main([verb, "--help"])
    except SystemExit as ended:
        code = ended.code
    assert code == 0
    assert "usage" in capsys.readouterr().out.lower()


def test_the_version_is_the_packages(skipdit):
    assert skipdit("--version").out.strip() == __version__


# A value that cannot be: code 2, one line with the value, the bound and the remedy, and nothing written.

USAGE = {
    "paint": "unknown command 'paint': take one of sample, plan, bench, tune, evaluate, train",
    "sample nowhere": f"unknown model 'nowhere': take one of {', '.join(EMBEDDED)}, a published one",
    "plan --model nowhere": "unknown model 'nowhere': take XL/2, Latte-XL/2, LatteT2V, HunyuanDiT, one of fashion-skip",
    "plan --model XL/3": "unknown size 'XL/3': take one of XL, L, B, S over one of (2, 4, 8)",
    SAMPLE + "--classes 6": "class id 6 is out of range: take 0 to 5 (5 is the null class)",
    SAMPLE + "--classes 1 -1": "class id -1 is out of range: take 0 to 5",
    "bench {model} --steps 4 --classes 6": "class id 6 is out of range: take 0 to 5",
    SAMPLE + "--cache.window 30 20": "window is (30.0, 20.0): give (stop, start) in timesteps, stop <= start",
    SAMPLE + "--cache.interval 0": "interval is 0: it must be an integer of at least 1",
    SAMPLE + "--cache.branch 3": "branch is 3: a model of 4 layers takes 0 to 1",
    SAMPLE + "--cache.branch -1": "branch is -1: it must be an integer of at least 0",
    "plan --cache.branch 15": "branch is 15: a model of 28 layers takes 0 to 13",
    "bench {model} --steps 4 --cache.branch 3": "branch is 3: a model of 4 layers takes 0 to 1",
    SAMPLE + "--cache.steps 0,4": "steps name step 4: a run of 4 has steps 0 to 3",
    SAMPLE + "--cache.steps 1,2": "they must begin with 0",
    "train nowhere": "unknown recipe 'nowhere'",
    SAMPLE + "--cache.steps 0,2,x": "steps are '0,2,x': give numbers with commas between",
    SAMPLE + "--cache.steps 0,2 --cache.interval 2": "interval is 2 beside steps is (0, 2): give one of them",
    SAMPLE + "--cache.order 2": "order is 2 with forecast 'hold'",
    SAMPLE + "--cache.forecast guess": "unknown forecast 'guess': take one of hold, residual, taylor",
    SAMPLE + "--cache.forecast os:getcwd": "forecast is 'os:getcwd': give a function of three arguments",
    SAMPLE + "--cache.preset class-to-smell": "unknown preset 'class-to-smell': take one of class-to-image",
    SAMPLE + "--scheduler fast": "unknown scheduler 'fast': take one of ddpm, ddim",
    SAMPLE + "--guidance-channels 2": "guidance_channels is 2: take 1 to 1, or 'all'",
    SAMPLE + "--guidance-channels some": "guidance_channels is 'some': give a number of channels, or all",
    SAMPLE + "--vae nowhere": "vae is 'nowhere': name the folder of an AutoencoderKL",
    SAMPLE + "--seed -1": "seed is -1: it must be at least 0",
    SAMPLE + "--device nowhere": "device is 'nowhere': not to be had here",
    SAMPLE + "--steps 61 --scheduler dpm++": "end at timestep -1: take 60 or 62",
    SAMPLE + "--guidance-channels 1 --guidance-scale 1": "guidance_channels is 1 at guidance_scale 1",
    SAMPLE + "--steps 0": "steps is 0: it must be at least 1",
    SAMPLE + "--steps 1001": "1001 cannot be larger than",
    SAMPLE + "--batch-size 0": "batch_size is 0: it must be at least 1",
    SAMPLE + "--num-images 0": "num_images is 0: it must be at least 1",
    SAMPLE + "--out picture.jpg": "out is 'picture.jpg': it must end in .png or .npz, or be a folder",
    "plan --steps 0": "steps is 0: a run has at least one step",
    "bench {model} --steps 0": "steps is 0: it must be at least 1",
    "bench {model} --steps 4 --repeats 0": "repeats is 0: it must be at least 1",
    "demo --steps 0": "steps is 0: it must be at least 1",
    "demo --interval 0": "interval is 0: it must be an integer of at least 1",
}


@pytest.mark.parametrize("line", USAGE)
def test_a_value_that_cannot_be_is_answered_in_one_line(skipdit, model, line):
    said = skipdit(line.format(model=model))
    assert USAGE[line] in said.complaint
    assert (said.code, said.out) == (2, "")
    assert said.err.count("\n") == 1
    assert contents() == {}


@pytest.mark.parametrize(
    "line",
    [
        "sample", SAMPLE + "--cache.interval often", SAMPLE + "--dtype float8",
        SAMPLE + "--colour red", "train digits --steps 0", "train digits --steps 10",
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_a_usage_error(skipdit, model, line, capfd):
    with pytest.raises(SystemExit) as ended:
        skipdit(line.format(model=model))
    assert ended.value.code == 2
    assert "Traceback" not in capfd.readouterr().err
    assert contents() == {}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--model.num-skips 4", "num_skips is 4: depth 4 has room for 0 to 2 skips"),
        ("--model.in-channels 3", "set in_channels to the data's"),
        ("--data-folder .", "the digits come inside scikit-learn; leave the folder out"),
    ],
)
def test_training_that_cannot_be_is_answered_and_leaves_nothing(skipdit, line, message):
    said = skipdit(f"train digits {line}")
    assert message in said.complaint
    assert said.code == 2
    assert contents() == {}


def test_data_that_is_missing_is_a_failure_with_its_remedy(skipdit):
    said = skipdit("train fashion-skip --data-folder .")
    assert "does not exist: apt-get install dataset-fashion-mnist" in said.complaint
    assert said.code == 1
    assert contents() == {}


# A file that is broken: code 1, one line that names it, and nothing written.


def truncated(path):
    tiny().save_pretrained(path)
    weights = path / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def no_json(path):
    tiny().save_pretrained(path)
    (path / "config.json").write_text("{")


def cut_off(path):
    torch.save({"ema": tiny().state_dict()}, path)
    path.write_bytes(path.read_bytes()[:-100])


class Creates:
    def __reduce__(self):
        return (open, ("created", "w"))


ONE = torch.ones(1)
BROKEN = {
    "folder with truncated weights": ("model", truncated, "does not hold a whole DiT"),
    "folder without JSON": ("model", no_json, "config.json cannot be read"),
    "file that is truncated": ("model.pt", cut_off, "is no archive of torch.save, or not all of one"),
    "file that is pickled": ("model.pt", lambda path: torch.save({"x": Creates()}, path), "it calls for io.open"),
    "file of another model": (
        "model.safetensors",
        lambda path: save_file({"conv_in.weight": ONE}, path),
        "hunyuan-diffusers, by its 1 tensors (conv_in, ...): pass arch",
    ),
    "file of another shape": (
        "model.safetensors",
        lambda path: save_file(DiT.from_size("S/8").half().state_dict() | {"final_layer.linear.weight": ONE}, path),
        "1 of another shape: final_layer.linear.weight (1,) for (512, 384)",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_model_is_answered_in_one_line(skipdit, tmp_path, name):
    file, breaks, message = BROKEN[name]
    breaks(tmp_path / file)
    said = skipdit(f"sample {tmp_path / file} --steps 2")
    assert message in said.complaint
    assert (said.code, said.err.count("\n")) == (1, 1)
    assert contents() == {}


# On request.


def test_debug_shows_where_it_went_wrong(skipdit):
    with pytest.raises(ValueError, match="steps is 0"):
        skipdit("plan --steps 0 --debug")
    with pytest.raises(ValueError, match="steps is 0"):
        skipdit("--debug plan --steps 0")


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (ValueError("first\nsecond"), "first", 2),
        (RuntimeError(""), "RuntimeError", 1),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device", 1),
        (KeyboardInterrupt(), "interrupted", 130),
        (KeyboardInterrupt("interrupted; go on"), "interrupted; go on", 130),
    ],
)
def test_any_error_is_one_line_and_a_code(error, line, code):
    assert explanation(error) == line
    assert exit_code(error) == code
