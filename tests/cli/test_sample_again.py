"""A command that is given again: what lay there is compared, what is finished is left alone."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from skipdit.files import lock_folder
from tests.cli.conftest import contents
from tests.pipelines.tiny import drawn, hunyuan_pipeline, tiny, tiny_stock_hunyuan, tiny_vae


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


@pytest.fixture
def text_parts(tmp_path):
    """A HunyuanDiT, the pipeline that lends it text encoders and autoencoder, and an adapter."""
    hunyuan_pipeline(tmp_path, tiny_stock_hunyuan()).save_pretrained(tmp_path / "base")
    shutil.copytree(tmp_path / "base" / "transformer", tmp_path / "model")
    write_adapter(tmp_path / "lora", seed=0)
    return tmp_path


def write_adapter(folder, *, seed):
    linear, rng = tiny_stock_hunyuan().blocks[0].attn1.to_q, torch.Generator().manual_seed(seed)
    factors = {
        "blocks.0.attn1.to_q.lora_A.weight": torch.randn(2, linear.in_features, generator=rng),
        "blocks.0.attn1.to_q.lora_B.weight": torch.randn(linear.out_features, 2, generator=rng),
    }
    folder.mkdir(exist_ok=True)
    save_file(factors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2}))


def change_first_weight(path):
    tensors = load_file(path)
    name = next(iter(tensors))
    save_file(tensors | {name: tensors[name] + 1}, path, {"format": "pt"})


@pytest.mark.parametrize(
    ("part", "replace"),
    [
        ("base/text_encoder/model.safetensors", change_first_weight),
        ("base/vae/diffusion_pytorch_model.safetensors", change_first_weight),
        ("lora/adapter_model.safetensors", lambda path: write_adapter(path.parent, seed=1)),
    ],
)
def test_nor_with_another_base_or_adapter(skipdit, text_parts, part, replace):
    parts = f"--base {text_parts / 'base'} --lora {text_parts / 'lora'} --out images"
    line = f"sample {text_parts / 'model'} --steps 1 --prompt cat {parts}"
    assert skipdit(line).code == 0
    before = contents()
    replace(text_parts / part)
    said = skipdit(f"{line} --num-per-prompt 2")
    assert said.code == 2
    assert f"of other settings ({text_parts / part} was replaced): take another --out" in said.complaint
    assert contents() == before


def test_what_came_is_gone_or_does_not_count_is_told_apart(skipdit, model):
    """A folder may hold what no model is loaded from: notes, pictures, the state of an optimizer."""
    skipdit(command(model, "images"))
    for name in ("README.md", "notes.txt", "optimizer.pt", "loss.json"):
        (model / name).write_text("{}")
    assert skipdit(command(model, "images", "--num-images 3")).code == 0
    (model / "tokenizer.json").write_text("{}")
    assert f"({model}/tokenizer.json is new)" in skipdit(command(model, "images", "--num-images 4")).complaint
    (model / "tokenizer.json").unlink()
    tiny(in_channels=4).save_pretrained(model, max_shard_size="5KB")
    (model / "diffusion_pytorch_model.safetensors").unlink(missing_ok=True)
    said = skipdit(command(model, "images", "--num-images 4")).complaint
    assert f"{model}/diffusion_pytorch_model.safetensors is gone" in said
    assert f"{model}/diffusion_pytorch_model.safetensors.index.json is new" in said
    assert "was replaced" not in said


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
    with lock_folder(Path("images")):
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
