"""`skipdit convert`: what it says, what it leaves, and its exit codes."""

import argparse
import re
from pathlib import Path

import pytest
import torch

from skipdit.cli.convert import settings
from skipdit.hub.load import load_model
from tests.cli.conftest import contents
from tests.models.subject import assert_equal
from tests.pipelines.tiny import tiny


@pytest.fixture
def checkpoint(skipdit) -> Path:
    """A training checkpoint of a vanilla DiT, in the folder at hand."""
    states = {name: tiny(seed=seed, num_skips=0).state_dict() for seed, name in enumerate(("model", "ema"))}
    torch.save(states | {"opt": {}, "args": argparse.Namespace(model="DiT-XL/2")}, "a.pt")
    return Path("a.pt")


def test_a_file_becomes_a_folder_and_says_so_in_a_line(skipdit, checkpoint):
    said = skipdit("convert a.pt model --as diffusers --set num_heads=2")
    size = sum(len(content) for content in contents(Path("model")).values())
    number = sum(parameter.numel() for parameter in tiny(num_skips=0).parameters())
    assert said.code == 0
    assert said.out == f"model: DiT, {number:,} parameters, from a.pt (ema) as diffusers, {size:,} bytes\n"
    expected = tiny(seed=1, num_skips=0).state_dict()
    assert_equal(list(load_model("model").state_dict().values()), list(expected.values()))


def test_flags_do_what_they_say(skipdit, checkpoint):
    line = "convert a.pt model --weights model --dtype bfloat16 --upcycle 2 --set num_heads=2 prediction_type=sample"
    assert skipdit(line).code == 0
    model = load_model("model")
    settings = {name: model.config[name] for name in ("num_skips", "fuse", "num_heads", "prediction_type")}
    assert settings == {"num_skips": 2, "fuse": "residual", "num_heads": 2, "prediction_type": "sample"}
    expected = tiny(num_skips=0).state_dict()["blocks.0.attn.qkv.weight"]
    assert torch.equal(model.state_dict()["blocks.0.attn.qkv.weight"], expected.bfloat16().float())


def test_an_original_file_is_wrapped_when_asked(skipdit, checkpoint):
    assert skipdit("convert a.pt b.pt --as original --wrap ema --set num_heads=2").code == 0
    ours, theirs = (torch.load(name, weights_only=False)["ema"] for name in ("b.pt", "a.pt"))
    assert ours.keys() == theirs.keys()
    assert_equal(list(ours.values()), [theirs[name] for name in ours])


def test_what_diffusers_class_must_be_told_is_in_the_output(skipdit, checkpoint):
    said = skipdit("convert a.pt stock --as stock --set num_heads=2")
    assert said.code == 0
    first, note = said.out.splitlines()
    assert first.startswith("stock: DiT, ")
    assert re.fullmatch("note: .*downscale_freq_shift = 0 in every block: .*as_published.*", note)


@pytest.mark.parametrize(
    ("line", "code", "complaint"),
    [
        ("convert a.pt model", 2, "4 blocks at width 16 are no published size: pass num_heads, or "
                                  "`skipdit convert IN OUT --set num_heads=N`$"),
        ("sample a.pt", 2, ".* pass num_heads, or `skipdit convert IN OUT --set num_heads=N`$"),
        ("convert a.pt a.pt --as original", 2, "a.pt exists: remove it, or name another place to write to"),
        ("convert a.pt model --set heads", 2, "set is 'heads': give NAME=VALUE, each name once, as"),
        ("convert a.pt model --set num_heads=2 num_heads=3", 2, "set is 'num_heads=3': give NAME=VALUE, each name"),
        ("convert a.pt model --set num_heads=2 --weights module", 2, "weights is 'module': .* it holds ema, model"),
        ("convert a.pt model --set num_heads=2 --upcycle 3", 2, "num_skips is 3: depth 4 has room for 0 to 2 skips"),
        ("convert a.pt model --set num_head=2", 2, "DiT has no num_head: did you mean num_heads.* set one of class_d"),
        ("convert a.pt model --set num_heads=four", 2, "num_heads is four: DiT takes a whole number$"),
        ("convert fashion-di model", 2, "no model, folder or file is called 'fashion-di': did you mean fashion-dit, "),
        ("convert dit-xl-2-skp model", 2, "no model, folder or file .*: did you mean dit-xl-2-skip.* `skipdit models`"),
        ("convert zzzz model", 2, "no model, folder or file is called 'zzzz': `skipdit models` lists the models$"),
        ("convert ./fashion-di model", 1, "fashion-di does not exist: name a .pt or .safetensors file"),
        ("convert dit-xl-2-skip model --set zzz=1", 2, "DiT has no zzz: set one of class_dropout_prob, "),
        ("convert dit-xl-2-skip model --set num_heads=7", 2, "hidden_size is 1152: it must be a multiple of num_heads"),
        ("convert dit-xl-2-skip model --upcycle 3", 2, "upcycle is 3: this DiT has 14 skips of its own"),
        ("convert latte-1 model --weights ema", 2, "weights: latte-1 is a folder, whose config.json tells all"),
        ("convert b.pt model", 1, "b.pt does not exist: name a .pt or .safetensors file"),
        ("convert notes.pt model", 1, "notes.pt is no archive of torch.save, or not all of one"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line_and_leaves_nothing(skipdit, checkpoint, line, code, complaint):
    Path("notes.pt").write_text("notes")
    before = contents()
    said = skipdit(line)
    assert said.code == code
    assert re.match(complaint, said.complaint)
    assert contents() == before


@pytest.mark.parametrize(
    "line", ["convert b.pt model", "convert a.pt model --set num_heads=four", "convert dit-xl-2-skip model --upcycle 2"]
)
def test_nothing_is_announced_of_what_is_not_begun(skipdit, checkpoint, line):
    said = skipdit(line)
    assert said.err == f"skipdit: {said.complaint}\n"


def test_settings_that_stand_in_no_tensor_are_noted_as_flags(skipdit, checkpoint):
    said = skipdit("convert a.pt b.pt --as original --set num_heads=2 prediction_type=sample")
    _, note = said.out.splitlines()
    assert note == (
        "note: its tensors do not tell num_heads, prediction_type: give `skipdit convert` back"
        " `--set num_heads=2 prediction_type=sample`"
    )


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        ("a=8", 8), ("a=0.5", 0.5), ("a=32,64", (32, 64)), ("a=true", True), ("a=null", None), ("a=sample", "sample"),
        ("a=x,y", "x,y"), ("a=b=c", "b=c"),
    ],
)  # fmt: skip
def test_a_setting_is_a_number_a_pair_or_text(pair, expected):
    assert settings([pair]) == {"a": expected}
