"""`skipdit train`: a recipe with changes runs, shows itself, stops and goes on."""

import json
import signal

import pytest
from PIL import Image

from skipdit import DiT
from skipdit.cli import INTERRUPTED
from skipdit.training import loop
from tests.cli.conftest import contents

TINY = (
    "train digits --steps 6 --warmup-steps 0 --batch-size 8 --log-every 1 --checkpoint-every 2 --preview-every 4"
    " --preview-steps 2 --model.hidden-size 24 --model.depth 3 --model.num-skips 1 --out run "
)


@pytest.fixture
def interrupted_at():
    """Ctrl-C in the moment in which a step would begin. The signal is real; only the moment is arranged."""
    with pytest.MonkeyPatch.context() as patch:

        def arrange(step: int) -> None:
            noised_batch = loop.noised_batch

            def batch(run, **part):
                if run.step == step:
                    patch.undo()
                    signal.raise_signal(signal.SIGINT)
                return noised_batch(run, **part)

            patch.setattr(loop, "noised_batch", batch)

        yield arrange


def test_a_run_writes_its_settings_losses_checkpoints_previews_and_model(skipdit):
    said = skipdit(TINY)
    assert said.code == 0
    assert said.out == "run/model: 6 steps on digits\n"
    left = contents()
    assert {path.split("/")[1] for path in left} == {
        "config.json", "loss.csv", "checkpoint-00000004", "checkpoint-00000006", "previews", "model"
    }  # fmt: skip
    assert {path for path in left if "previews" in path} == {"run/previews/00000004.png", "run/previews/00000006.png"}
    settings = json.loads(left["run/config.json"])
    assert (settings["steps"], settings["model"]["hidden_size"], settings["seed"]) == (6, 24, 0)
    assert DiT.from_pretrained("run/model", low_cpu_mem_usage=False).config.hidden_size == 24
    assert Image.open("run/previews/00000006.png").size[0] > 10 * 64


def test_the_trained_model_is_sampled_by_its_folder(skipdit):
    skipdit(TINY)
    assert skipdit("sample run/model --steps 2 --cache.interval 2 --out grid.png").code == 0


def test_an_interrupted_run_says_where_it_goes_on_and_does(skipdit, interrupted_at):
    skipdit(TINY.replace("--out run", "--out through"))
    interrupted_at(4)
    said = skipdit(TINY)
    assert said.code == INTERRUPTED
    assert said.complaint == "interrupted; the same command goes on at step 5 of 6"
    said = skipdit(TINY)
    assert said.code == 0
    assert "5/6" in said.err
    left = contents()
    for path in ("loss.csv", "model/diffusion_pytorch_model.safetensors", "checkpoint-00000006/ema.safetensors"):
        assert left[f"run/{path}"] == left[f"through/{path}"]


def test_a_folder_of_another_run_is_refused(skipdit):
    skipdit(TINY)
    before = contents()
    said = skipdit(TINY + "--seed 1")
    assert said.complaint == (
        "run holds a run with other settings (seed): take another --out, or its settings"
    )
    assert said.code == 2
    assert contents() == before


def test_a_loss_that_is_not_finite_is_a_failure_with_its_remedy(skipdit):
    said = skipdit(TINY + "--learning-rate 1e30")
    assert "lower learning_rate, or take fp32" in said.complaint
    assert said.code == 1


def test_progress_is_all_that_goes_to_stderr(skipdit):
    lines = [line for line in skipdit(TINY).err.replace("\r", "\n").splitlines() if line]
    assert lines
    assert all(line.startswith("training: ") for line in lines)


def test_recipes_are_listed_and_an_unknown_one_names_its_neighbours(skipdit):
    said = skipdit("train --help")
    assert said.code == 0
    assert {"digits", "fashion-skip", "imagenet-256-dit-xl-skip"} <= set(said.out.split())
    assert skipdit("train fashion-skp").complaint.startswith("unknown recipe 'fashion-skp': did you mean fashion-skip")
    assert skipdit("train digits --stepz 3").complaint.startswith("unknown setting --stepz: did you mean steps")
