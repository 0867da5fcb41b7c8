"""A command that is given again: what lay there is compared, what is finished is left alone."""

import json
import os
import shutil
from pathlib import Path

import pytest

from skipdit.files import alone_in
from tests.cli.conftest import contents
from tests.pipelines.tiny import drawn, tiny, tiny_vae


@pytest.fixture
def model(tmp_path):
    tiny(in_channels=4).save_pretrained(tmp_path / "model")
    tiny_vae().save_pretrained(tmp_path / "vae")
    return tmp_path / "model"


def command(model, out, *more):
    return f"sample {model} --vae {model.parent / 'vae'} --steps 2 --num-images 2 --out {out} {' '.join(more)}"


@pytest.mark.parametrize("part", ["model", "vae"])
def test_samples_do_not_go_on_with_another_model_at_the_same_place(skipdit, model, part):
    skipdit(command(model, "images"))
    before = contents()
    shutil.rmtree(model.parent / part)
    {"model": lambda: tiny(in_channels=4, seed=1), "vae": lambda: drawn(tiny_vae(), seed=5)}[part]().save_pretrained(
        model.parent / part
    )
    said = skipdit(command(model, "images", "--num-images 3"))
    assert said.code == 2
    assert f"{part}/diffusion_pytorch_model.safetensors was replaced" in said.complaint
    assert contents() == before


def test_a_model_that_was_only_touched_or_copied_goes_on(skipdit, model):
    skipdit(command(model, "images"))
    for file in model.iterdir():
        os.utime(file, ns=(1, 1))
    assert skipdit(command(model, "images", "--num-images 3")).code == 0
    assert len([name for name in contents() if name.endswith("png")]) == 3


@pytest.mark.parametrize("out", ["images", "grid.png", "all.npz"])
def test_a_finished_command_does_nothing(skipdit, model, out):
    skipdit(command(model, out))
    before = contents()
    said = skipdit(command(model, out))
    assert (said.code, said.out) == (0, f"{out}: finished already; remove it to draw it anew\n")
    assert contents() == before
    assert "finished" not in skipdit(command(model, out, "--num-images 3")).out


def test_an_output_that_is_a_link_is_followed(skipdit, model, tmp_path):
    for name in ("grid.png", "images"):
        os.symlink(tmp_path / "elsewhere" / name, name)
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        assert skipdit(command(model, name)).code == 0
        assert os.path.islink(name)
        assert (tmp_path / "elsewhere" / name).exists()


def test_two_commands_do_not_share_an_output(skipdit, model, tmp_path):
    with alone_in(Path("images")):
        said = skipdit(command(model, "images"))
    assert (said.code, said.complaint) == (
        1,
        "images is in use by another process: wait for its end, or take another --out",
    )


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"files": 3}', '{"files": {"a": 3}}', '{"prompts": 3}'])
def test_a_damaged_record_is_named(skipdit, model, text):
    skipdit(command(model, "images"))
    with open("images/run.json", "w") as file:
        file.write(text)
    assert "images/run.json" in (complaint := skipdit(command(model, "images")).complaint)
    assert complaint.endswith(": take another --out, or remove it")


def test_a_record_of_an_earlier_version_goes_on(skipdit, model):
    skipdit(command(model, "images"))
    with open("images/run.json") as file:
        record = json.load(file)
    del record["files"]
    with open("images/run.json", "w") as file:
        json.dump(record, file)
    assert skipdit(command(model, "images", "--num-images 3")).code == 0
