"""Checkpoints in another layout: exact there and back, loaded by whom they are for, whole or absent."""

import argparse
import inspect
import json
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DiTTransformer2DModel, HunyuanDiT2DModel, LatteTransformer3DModel
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from skipdit import DiT, HunyuanDiT
from skipdit.cli import main
from skipdit.cli.convert import settings as parsed
from skipdit.evaluation.price import settings
from skipdit.hub import load_original, load_pipeline
from skipdit.hub.convert import TARGETS, Converted, Source, as_published, convert, model_source
from skipdit.hub.errors import CheckpointError, MismatchError, MissingSkipsError, NotFiniteError
from skipdit.hub.load import EMBEDDED, empty_model, load_model
from skipdit.hub.names import HUNYUAN
from skipdit.hub.original import described
from skipdit.hub.streaming import lazily, save
from skipdit.models.base import LongSkipModel
from tests.hub.published import adaln_shapes, hunyuan_shapes, latte_t2v_shapes, on_meta, tiny_hunyuan
from tests.models.subject import (
    DiTSubject,
    HunyuanDiTSubject,
    Inputs,
    LatteSubject,
    LatteT2VSubject,
    assert_equal,
    sample,
)
from tests.parity.test_diffusers_hunyuan import inputs as hunyuan_inputs
from tests.pipelines.tiny import tiny, tiny_stock_hunyuan

State = dict[str, Tensor]
DIT, LATTE, T2V, HUNYUAN_DIT = DiTSubject(), LatteSubject(), LatteT2VSubject(), HunyuanDiTSubject()
UNTOLD = {
    DIT: {"num_heads": 2},
    LATTE: {"num_heads": 2},
    T2V: {"num_attention_heads": 2, "sample_size": 4, "video_length": 3},
    HUNYUAN_DIT: {"sample_size": 4},
}
NAMES = {DIT: "dit", LATTE: "latte", T2V: "latte-t2v", HUNYUAN_DIT: "hunyuan"}
KINDS = pytest.mark.parametrize("kind", UNTOLD, ids=NAMES.get)
SKIPLESS = pytest.mark.parametrize("kind", [DIT, LATTE, T2V], ids=NAMES.get)
LEFTOVER = "caption_projection.y_embedding"


def published(kind, model: LongSkipModel) -> State:
    """What a published file of the model holds."""
    if kind is HUNYUAN_DIT:
        return HUNYUAN.to_original(model.state_dict())
    return model.state_dict() | ({LEFTOVER: torch.ones(120, 12)} if kind is T2V else {})


def to_file(state: dict, path: Path) -> Path:
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


def of_file(path: Path) -> dict:
    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, weights_only=True)


def to_folder(kind, source: Path, out: Path, **options) -> Converted:
    """A file as a folder for our classes."""
    return convert(source, out, layout="diffusers", overrides=UNTOLD[kind], **options)


def assert_same_state(found: State, expected: State) -> None:
    assert found.keys() == expected.keys()
    assert_equal([found[name] for name in expected], list(expected.values()))


def assert_same_model(kind, ours: LongSkipModel, theirs: LongSkipModel) -> None:
    assert (type(ours), ours.num_skips, ours.training) == (type(theirs), theirs.num_skips, False)
    assert_same_state(ours.state_dict(), theirs.state_dict())
    assert torch.equal(*(sample(model, kind.inputs(500)) for model in (ours, theirs)))


# As published.

PUBLISHED = {
    "DiT-XL/2": (292, adaln_shapes()),
    "DiT-XL/2 at 512": (292, adaln_shapes(tokens=1024)),
    "DiT-XL/2-skip": (348, adaln_shapes(skips=14)),
    "Latte": (292, adaln_shapes(frames=16, classes=0)),
    "Latte, ucf101": (293, adaln_shapes(frames=16, classes=101)),
    "Latte-skip": (320, adaln_shapes(frames=16, classes=0, skips=7)),
    "Latte-skip, ucf101": (321, adaln_shapes(frames=16, classes=101, skips=7)),
    "LatteT2V": (968, latte_t2v_shapes()),
    "LatteT2V-skip": (1024, latte_t2v_shapes(skips=14)),
    "HunyuanDiT v1.2": (1304, hunyuan_shapes()),
    "HunyuanDiT v1.1": (1305, hunyuan_shapes(styles=1)),
}


def published_source(shapes) -> Source:
    state = {name: tensor for name, tensor in on_meta(shapes).items() if name != LEFTOVER}
    kind, config, state = described(state, None, {})
    return model_source(kind.model, config, state, to_ours=kind.names, upcycle=None)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_checkpoint_fits_without_a_word_and_comes_back_under_its_names(name):
    tensors, shapes = PUBLISHED[name]
    assert len(shapes) == tensors
    skips = [key for key in shapes if "skip_linear" in key and key.endswith("weight")]
    assert load_original(on_meta(shapes)).num_skips == len(skips)
    source = published_source(shapes)
    ours = {key: tensor.shape for key, tensor in TARGETS["diffusers"](source).tensors.items()}
    assert ours == {key: tensor.shape for key, tensor in source.model.state_dict().items()}
    target = TARGETS["original"](source)
    again = {key: tuple(tensor.shape) for key, tensor in target.tensors.items()}
    assert again == {key: shape for key, shape in shapes.items() if key != LEFTOVER}
    assert target.notes == ()


@pytest.mark.parametrize(
    ("name", "stock", "tensors"),
    [
        ("LatteT2V", LatteTransformer3DModel, 967),
        ("HunyuanDiT v1.2", HunyuanDiT2DModel, 1544),
        ("HunyuanDiT v1.1", HunyuanDiT2DModel, 1545),
    ],
)
def test_every_published_model_of_a_class_of_diffusers_fits_it(name, stock, tensors):
    target = TARGETS["stock"](published_source(PUBLISHED[name][1]))
    assert_fits(target, stock, tensors)


def test_the_published_dit_fits_the_class_of_diffusers():
    """Its positions have to have values: whether they are the published ones is looked at."""
    shapes = adaln_shapes()
    source = published_source(shapes)
    table = DiT(depth=1).pos_embed.detach()
    assert table.shape == shapes["pos_embed"]
    target = TARGETS["stock"](replace(source, tensors={**source.tensors, **lazily({"pos_embed": table})}))
    assert_fits(target, DiTTransformer2DModel, 538)
    assert sum(tensor.like.numel() for tensor in target.tensors.values()) == 749_826_464


def assert_fits(target, stock: type, tensors: int) -> None:
    config = dict(target.config)
    assert config.pop("_class_name") == stock.__name__
    with torch.device("meta"):
        theirs = stock(**config).state_dict()
    assert {name: t.shape for name, t in target.tensors.items()} == {name: t.shape for name, t in theirs.items()}
    assert len(theirs) == tensors


# There and back.


@KINDS
@pytest.mark.parametrize("first", [".pt", ".safetensors"])
@pytest.mark.parametrize("last", [".pt", ".pth", ".safetensors"])
def test_original_to_folder_to_original_is_exact(tmp_path, kind, first, last):
    state = published(kind, kind.build())
    source = to_file(state, tmp_path / f"first{first}")
    to_folder(kind, source, tmp_path / "folder")
    convert(tmp_path / "folder", tmp_path / f"last{last}", layout="original")
    state.pop(LEFTOVER, None)
    assert_same_state(of_file(tmp_path / f"last{last}"), state)


@KINDS
def test_original_to_original_is_exact(tmp_path, kind):
    """A HunyuanDiT is cut and joined on the way."""
    state = published(kind, kind.build())
    convert(to_file({"ema": state}, tmp_path / "a.pt"), tmp_path / "b.pt", layout="original", wrap="model",
            overrides=UNTOLD[kind])  # fmt: skip
    state.pop(LEFTOVER, None)
    found = of_file(tmp_path / "b.pt")
    assert found.keys() == {"model"}
    assert_same_state(found["model"], state)


@KINDS
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_folder_is_the_model_of_its_file(tmp_path, kind, suffix):
    model = kind.build()
    done = to_folder(kind, to_file(published(kind, model), tmp_path / f"model{suffix}"), tmp_path / "folder")
    assert_same_model(kind, load_model(str(tmp_path / "folder")), model)
    assert_same_model(kind, type(model).from_pretrained(tmp_path / "folder").eval(), model)
    assert settings(empty_model(str(tmp_path / "folder"))) | {"num_skips": 3} == settings(model)
    assert (done.model, done.weights, done.notes) == (type(model).__name__, None, ())
    assert done.parameters == sum(tensor.numel() for tensor in model.state_dict().values())
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == [
        "config.json", "diffusion_pytorch_model.safetensors"
    ]  # fmt: skip
    assert done.size == sum(path.stat().st_size for path in (tmp_path / "folder").iterdir())


@KINDS
def test_a_folder_that_was_saved_or_sharded_is_read_too(tmp_path, kind):
    model = kind.build()
    model.save_pretrained(tmp_path / "pipe" / "transformer", max_shard_size="30KB")
    (tmp_path / "pipe" / "model_index.json").write_text("{}")
    assert (tmp_path / "pipe" / "transformer" / "diffusion_pytorch_model.safetensors.index.json").exists()
    convert(tmp_path / "pipe", tmp_path / "folder", layout="diffusers")
    assert_same_model(kind, load_model(str(tmp_path / "folder")), model)


@pytest.mark.parametrize("name", ["fashion-skip", "emoji-hunyuan"])
def test_an_embedded_model_becomes_a_published_file(tmp_path, name):
    convert(name, tmp_path / "model.pt", layout="original")
    state, model = of_file(tmp_path / "model.pt"), load_model(name)
    found = HUNYUAN.to_ours(state) if isinstance(model, HunyuanDiT) else state
    assert_same_state({key: tensor.float() for key, tensor in found.items()}, model.state_dict())


def noted(done: Converted) -> dict:
    """The settings that a note asks for, read as the command reads them."""
    flags = [re.search("`--set (.*)`", note)[1] for note in done.notes]
    return parsed(" ".join(flags).split())


@pytest.mark.parametrize("name", EMBEDDED)
def test_an_embedded_model_comes_back_from_its_tensors_and_the_flags_that_are_noted(tmp_path, name):
    told = noted(convert(name, tmp_path / "model.pt", layout="original"))
    convert(tmp_path / "model.pt", tmp_path / "again", layout="diffusers", overrides=told)
    again, model = empty_model(str(tmp_path / "again")), empty_model(name)
    assert settings(again) | {"num_skips": again.num_skips} == settings(model) | {"num_skips": model.num_skips}


TOLD = [
    (DIT, {"sample_size": (4, 8), "prediction_type": "sample", "class_dropout_prob": 0.0}),
    (DIT, {"class_dropout_prob": 0.2, "num_heads": 4, "mlp_ratio": 2.5}),
    (LATTE, {"prediction_type": "v_prediction", "num_classes": 0}),
    (T2V, {"sample_size": 6, "video_length": 5, "norm_eps": 1e-5, "prediction_type": "sample"}),
    (HUNYUAN_DIT, {"prediction_type": "epsilon", "rotary": "given"}),
    (HUNYUAN_DIT, {}),
]


@pytest.mark.parametrize(("kind", "config"), TOLD)
def test_no_setting_is_lost_and_none_is_noted_without_need(tmp_path, kind, config):
    model = kind.build(**config)
    model.save_pretrained(tmp_path / "model")
    told = noted(convert(tmp_path / "model", tmp_path / "model.safetensors", layout="original"))
    again = load_original(tmp_path / "model.safetensors", **told)
    assert settings(again) | {"num_skips": again.num_skips} == settings(model) | {"num_skips": model.num_skips}
    for name in told:
        others = {other: value for other, value in told.items() if other != name}
        assert not loads_as(again, tmp_path / "model.safetensors", others), name


def loads_as(model: LongSkipModel, file: Path, told: dict) -> bool:
    try:
        return settings(load_original(file, **told)) == settings(model)
    except ValueError:
        return False


def test_a_folder_is_drawn_from_by_a_pipeline(tmp_path):
    model = tiny()
    convert(to_file(model.state_dict(), tmp_path / "a.pt"), tmp_path / "model", layout="diffusers",
            overrides={"num_heads": 2})  # fmt: skip
    pipe = load_pipeline(str(tmp_path / "model"), scheduler="ddim")
    assert_same_state(pipe.transformer.state_dict(), model.state_dict())
    assert pipe([1], num_inference_steps=2, output_type="latent").images.isfinite().all()


# Which weights.

CHECKPOINT = {"opt": {"step": 3}, "args": argparse.Namespace(model="DiT-XL/2"), "steps": 4}


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
@pytest.mark.parametrize(("asked", "taken"), [(None, "ema"), ("ema", "ema"), ("model", "model"), ("module", "module")])
def test_the_weights_are_those_asked_for_or_else_the_averaged(tmp_path, prefix, asked, taken):
    classes = {"module": 10, "model": 101, "ema": 1000}
    states = {name: DIT.build(num_classes=number).state_dict() for name, number in classes.items()}
    wrapped = {name: {prefix + key: value for key, value in state.items()} for name, state in states.items()}
    done = to_folder(DIT, to_file(wrapped | CHECKPOINT, tmp_path / "a.pt"), tmp_path / "model", weights=asked)
    assert done.weights == taken
    assert_same_state(load_model(str(tmp_path / "model")).state_dict(), states[taken])


@pytest.mark.parametrize(
    ("wrapper", "asked", "message"),
    [
        ("model", "ema", "weights is 'ema': no such weights in the checkpoint, it holds model$"),
        (None, "ema", "weights is 'ema': no such weights in the checkpoint, it is flat, so leave weights out"),
    ],
)
def test_weights_that_are_not_there_are_an_error_that_lists_what_is(tmp_path, wrapper, asked, message):
    state = DIT.build().state_dict()
    file = to_file(state if wrapper is None else {wrapper: state} | CHECKPOINT, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=message):
        to_folder(DIT, file, tmp_path / "model", weights=asked)


@KINDS
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_every_tensor_has_the_dtype_asked_for(tmp_path, kind, dtype):
    state = published(kind, kind.build())
    to_folder(kind, to_file(state, tmp_path / "a.pt"), tmp_path / "model", dtype=dtype)
    found = load_file(tmp_path / "model" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in found.values()} == {getattr(torch, dtype)}
    expected = kind.build().to(getattr(torch, dtype)).state_dict()
    assert_same_state(found, expected)


def test_weights_that_a_dtype_cannot_hold_are_an_error(tmp_path):
    state = DIT.build().state_dict()
    state["blocks.3.attn.qkv.bias"][5] = 1e5
    file = to_file(state, tmp_path / "a.pt")
    with pytest.raises(NotFiniteError, match=r"blocks\.3\.attn\.qkv\.bias has weights too large for torch\.float16"):
        to_folder(DIT, file, tmp_path / "model", dtype="float16")
    to_folder(DIT, file, tmp_path / "model", dtype="bfloat16")


# Diffusers' own classes.


def theirs(folder: Path, kind: type):
    """As anyone loads it, and no setting is left over."""
    config = json.loads((folder / "config.json").read_text())
    known = inspect.signature(kind.__init__).parameters
    assert [name for name in config if name not in known and not name.startswith("_")] == []
    model, keys = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(keys.values())
    return model.eval()


def latte_inputs() -> Inputs:
    return {name: value for name, value in T2V.inputs(500).items() if name != "encoder_attention_mask"}


@pytest.mark.parametrize("layout", ["diffusers", "stock"])
def test_a_latte_t2v_without_skips_is_loaded_by_both(tmp_path, layout):
    model = T2V.build(num_skips=0)
    source = to_file(published(T2V, model), tmp_path / "a.pt")
    convert(source, tmp_path / "model", layout=layout, overrides=UNTOLD[T2V])
    loaded = theirs(tmp_path / "model", LatteTransformer3DModel)
    for same in (loaded, load_model(str(tmp_path / "model"))):
        assert torch.equal(sample(same, latte_inputs()), sample(model, latte_inputs()))
    name = json.loads((tmp_path / "model" / "config.json").read_text())["_class_name"]
    assert name == {"diffusers": "LatteT2V", "stock": "LatteTransformer3DModel"}[layout]


@pytest.mark.parametrize("layout", ["diffusers", "stock"])
@pytest.mark.parametrize("styles", [0, 1])
def test_a_hunyuan_dit_is_loaded_by_both(tmp_path, layout, styles):
    source = to_file(tiny_hunyuan(styles=styles), tmp_path / "a.pt")
    convert(source, tmp_path / "model", layout=layout, overrides={"sample_size": 4})
    step = hunyuan_inputs(told=bool(styles))
    expected = sample(load_original(source, sample_size=4), step)
    for same in (theirs(tmp_path / "model", HunyuanDiT2DModel), load_model(str(tmp_path / "model"))):
        assert torch.equal(sample(same, step), expected)


def test_a_folder_of_diffusers_hunyuan_becomes_the_published_file(tmp_path):
    stock = tiny_stock_hunyuan()
    stock.save_pretrained(tmp_path / "stock")
    convert(tmp_path / "stock", tmp_path / "model.pt", layout="original")
    assert_same_state(of_file(tmp_path / "model.pt"), HUNYUAN.to_original(stock.state_dict()))


@pytest.fixture
def dit(tmp_path) -> tuple[DiT, Path]:
    """A vanilla DiT, and a folder of it for diffusers' class."""
    model = DIT.build(num_skips=0)
    to_folder(DIT, to_file(model.state_dict(), tmp_path / "a.pt"), tmp_path / "ours")
    done = convert(tmp_path / "ours", tmp_path / "stock", layout="stock")
    assert "skipdit.hub.convert.as_published(transformer)" in done.notes[0]
    return model, tmp_path / "stock"


@pytest.mark.parametrize("timestep", [0, 1, 500, 999])
def test_diffusers_dit_computes_the_published_when_told_to(dit, timestep):
    model, folder = dit
    stock, step = theirs(folder, DiTTransformer2DModel), DIT.inputs(timestep)
    assert as_published(stock) is stock
    torch.testing.assert_close(sample(stock, step), sample(model, step), rtol=1e-5, atol=1e-5)


def test_diffusers_dit_computes_something_else_when_not_told(dit):
    model, folder = dit
    stock, step = theirs(folder, DiTTransformer2DModel), DIT.inputs(999)
    assert (sample(stock, step) - sample(model, step)).abs().max() > 0.01


def test_as_published_sets_the_norms_of_folders_that_others_made(dit):
    model, folder = dit
    set_config(folder, norm_eps=0.1)
    step = DIT.inputs(500)
    stock = as_published(theirs(folder, DiTTransformer2DModel))
    torch.testing.assert_close(sample(stock, step), sample(model, step), rtol=1e-5, atol=1e-5)
    with pytest.raises(TypeError, match="a DiT is no DiTTransformer2DModel"):
        as_published(model)


def set_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_diffusers_dit_becomes_ours_again(tmp_path, dit):
    model, folder = dit
    convert(folder, tmp_path / "again", layout="diffusers")
    again = load_model(str(tmp_path / "again"))
    assert_same_model(DIT, again, model)
    assert settings(again) == settings(model)


def test_a_dit_that_diffusers_saved_becomes_ours(tmp_path, dit):
    """With its 28 copies in several files, and the epsilon that it has by default."""
    model, folder = dit
    theirs(folder, DiTTransformer2DModel).save_pretrained(tmp_path / "saved", max_shard_size="50KB")
    set_config(tmp_path / "saved", norm_eps=1e-5)
    convert(tmp_path / "saved", tmp_path / "again.pt", layout="original")
    assert_same_state(of_file(tmp_path / "again.pt"), model.state_dict())


FROM_0_12 = {  # settings of a DiT that was saved before diffusers had a class of its own for it
    "_class_name": "Transformer2DModel", "_diffusers_version": "0.12.0.dev0", "cross_attention_dim": None,
    "num_vector_embeds": None, "only_cross_attention": False, "use_linear_projection": False,
}  # fmt: skip


@pytest.mark.parametrize("config", [{}, FROM_0_12], ids=["of today", "of 0.12"])
@pytest.mark.parametrize("place", ["", "transformer"])
def test_loading_a_dit_of_diffusers_names_the_command_that_rewrites_it(tmp_path, dit, monkeypatch, config, place):
    """As a folder and inside that of a DiTPipeline; and the command does."""
    model, folder = dit
    shutil.copytree(folder, tmp_path / "theirs" / place)
    set_config(tmp_path / "theirs" / place, **config)
    if place:
        (tmp_path / "theirs" / "model_index.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    for load in (load_model, load_pipeline, empty_model):
        with pytest.raises(CheckpointError, match="holds a .*Transformer2DModel: rewrite it with") as refusal:
            load("theirs")
    (command,) = re.findall("`skipdit (.*)`", str(refusal.value))
    assert command == f"convert {Path('theirs', place)} OUT"
    assert main(command.split()) == 0
    assert_same_model(DIT, load_model("OUT"), model)


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"norm_type": "layer_norm"}, "holds a Transformer2DModel: a DiT or"),
        ({"cross_attention_dim": 8}, "sets cross_attention_dim as no published DiT does"),
    ],
)
def test_another_transformer_of_diffusers_is_none(tmp_path, dit, config, complaint):
    _, folder = dit
    set_config(folder, **FROM_0_12 | config)
    with pytest.raises(CheckpointError, match=complaint):
        convert(folder, tmp_path / "again", layout="diffusers")


@pytest.mark.parametrize("name", ["timestep_embedder.linear_1.bias", "class_embedder.embedding_table.weight"])
def test_a_trained_dit_of_diffusers_whose_embedders_parted_is_refused(tmp_path, dit, name):
    _, folder = dit
    file = folder / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    state[f"transformer_blocks.4.norm1.emb.{name}"][0] += 1e-3
    save_file(state, file)
    with pytest.raises(MismatchError, match="the 6 copies of ._embedder.* differ: a model that has one cannot hold"):
        convert(folder, tmp_path / "again", layout="diffusers")
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    ("kind", "build", "message"),
    [
        (DIT, {}, "DiTTransformer2DModel cannot hold the 3 long skips of this model: take layout diffusers"),
        (T2V, {}, "LatteTransformer3DModel cannot hold the 3 long skips of this model"),
        (HUNYUAN_DIT, {}, "HunyuanDiT2DModel cannot hold the 3 long skips"),
        (LATTE, {"num_skips": 0}, "diffusers has no class for Latte"),
        (DIT, {"num_skips": 0, "mlp_ratio": 2.0}, r"DiTTransformer2DModel cannot hold mlp_ratio 2\.0"),
        (DIT, {"num_skips": 0, "sample_size": (4, 8)}, r"cannot hold sample_size \[4, 8\]"),
        (DIT, {"num_skips": 0, "class_dropout_prob": 0.0}, "cannot hold no null class"),
    ],
)
def test_what_diffusers_class_cannot_hold_is_an_error(tmp_path, kind, build, message):
    kind.build(**build).save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=message):
        convert(tmp_path / "model", tmp_path / "stock", layout="stock")
    assert not (tmp_path / "stock").exists()


def test_positions_that_are_not_the_published_are_not_lost(tmp_path):
    model = DIT.build(num_skips=0)
    model.pos_embed.data[0, 1, 2] += 0.1
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="pos_embed is not the published table"):
        convert(tmp_path / "model", tmp_path / "stock", layout="stock")


def test_what_a_model_predicts_is_said_where_no_config_holds_it(tmp_path):
    DIT.build(num_skips=0, prediction_type="v_prediction").save_pretrained(tmp_path / "model")
    *_, note = convert(tmp_path / "model", tmp_path / "stock", layout="stock").notes
    assert note.startswith("its scheduler must be given prediction_type='v_prediction'")


def test_a_setting_that_no_published_dit_has_is_refused(tmp_path, dit):
    _, folder = dit
    set_config(folder, activation_fn="geglu")
    with pytest.raises(RuntimeError, match="sets activation_fn as no published DiT does"):
        convert(folder, tmp_path / "again", layout="diffusers")


# Upcycling.


@SKIPLESS
@pytest.mark.parametrize("num_skips", [1, 3])
@pytest.mark.parametrize("form", ["file", "folder"])
def test_an_upcycled_model_computes_exactly_the_same(tmp_path, kind, num_skips, form):
    vanilla = kind.build(num_skips=0)
    if form == "file":
        file = to_file({"ema": published(kind, vanilla)}, tmp_path / "a.pt")
        to_folder(kind, file, tmp_path / "up", upcycle=num_skips)
    else:
        vanilla.save_pretrained(tmp_path / "vanilla")
        convert(tmp_path / "vanilla", tmp_path / "up", layout="diffusers", upcycle=num_skips)
    skip = load_model(str(tmp_path / "up"))
    assert (skip.num_skips, skip.config.fuse) == (num_skips, "residual")
    assert_equal(kind.run(skip), kind.run(vanilla))


def test_a_dit_of_diffusers_is_upcycled_too(tmp_path, dit):
    model, folder = dit
    convert(folder, tmp_path / "up", layout="diffusers", upcycle=2)
    assert_equal(DIT.run(load_model(str(tmp_path / "up"))), DIT.run(model))


@pytest.mark.parametrize(
    ("kind", "skips", "upcycle", "message"),
    [
        (DIT, 0, 0, "upcycle is 0: give at least 1 skip"),
        (LATTE, 0, 4, "num_skips is 4: depth 6 has room for 0 to 3 skips"),
        (T2V, 3, 2, "upcycle is 2: this LatteT2V has 3 skips of its own"),
        (HUNYUAN_DIT, 2, 1, "upcycle is 1: this HunyuanDiT has 2 skips of its own"),
        (HUNYUAN_DIT, 0, 1, "upcycle is 1: this HunyuanDiT has 0 skips of its own"),
    ],
)
def test_what_cannot_be_upcycled_is_an_error(tmp_path, kind, skips, upcycle, message):
    file = to_file(published(kind, kind.build(num_skips=skips)), tmp_path / "a.pt")
    with pytest.raises(ValueError, match=message):
        to_folder(kind, file, tmp_path / "up", upcycle=upcycle)


def test_residual_skips_do_not_become_published_ones(tmp_path):
    file = to_file(DIT.build(num_skips=0).state_dict(), tmp_path / "a.pt")
    with pytest.raises(ValueError, match="the original layout cannot hold fuse='residual'"):
        convert(file, tmp_path / "b.pt", layout="original", overrides={"num_heads": 2}, upcycle=2)


@SKIPLESS
def test_vanilla_weights_asked_for_as_a_skip_model_name_the_remedy(tmp_path, kind):
    file = to_file(published(kind, kind.build(num_skips=0)), tmp_path / "a.pt")
    for load in (
        lambda: load_original(file, num_skips=3, **UNTOLD[kind]),
        lambda: convert(file, tmp_path / "b", layout="diffusers", overrides=UNTOLD[kind] | {"num_skips": 3}),
    ):
        remedy = r"12 missing: skip_.*fuse='residual' \(skipdit convert --upcycle 3\) gives it skips"
        with pytest.raises(MissingSkipsError, match=remedy):
            load()


# Settings.


def test_settings_that_no_tensor_tells_are_in_the_folder(tmp_path):
    model = DIT.build(sample_size=(4, 8), fuse="residual")
    told = {"num_heads": 2, "sample_size": (4, 8), "fuse": "residual", "prediction_type": "sample"}
    convert(to_file(model.state_dict(), tmp_path / "a.pt"), tmp_path / "model", layout="diffusers", overrides=told)
    config = load_model(str(tmp_path / "model")).config
    assert {name: config[name] for name in told} == told | {"sample_size": [4, 8]}


def told(**overrides) -> dict:
    return {"layout": "diffusers", "overrides": overrides}


@pytest.mark.parametrize(
    ("out", "options", "message"),
    [
        ("there", {"layout": "diffusers"}, "there exists: remove it, or name another place"),
        ("new", {"layout": "flax"}, "layout is 'flax': take one of diffusers, stock, original"),
        ("new", {"layout": "original"}, r"new must end in \.pt, \.pth or \.safetensors"),
        ("new.safetensors", {"layout": "original", "wrap": "ema"}, "must end in .*wrapped as ema"),
        ("new.pt", {"layout": "diffusers"}, r"new\.pt is named as a file: layout diffusers writes a folder"),
        ("new", {"layout": "stock", "wrap": "ema"}, "wrap is 'ema': layout stock writes a folder"),
        ("new", {"layout": "diffusers", "dtype": "int8"}, "dtype is 'int8': take one of float32"),
        ("new", {"layout": "diffusers", "arch": "unet"}, "unknown arch 'unet': take one of latte-t2v"),
        ("new", {"layout": "diffusers", "overrides": {}}, "4 blocks at width 16 are no published size"),
        ("new", told(heads=2), "DiT has no heads: did you mean num_heads.* set one of class_dropout_prob, "),
        ("new", told(num_heads=2, zzz=1), "DiT has no zzz: set one of class_dropout_prob, "),
        ("new", told(num_heads="four"), "num_heads is four: DiT takes a whole number$"),
        ("new", told(mlp_ratio=float("nan")), "mlp_ratio is NaN: DiT takes a number$"),
        ("new", told(num_heads=2.0), r"num_heads is 2\.0: DiT takes a whole number$"),
        ("new", told(num_heads=True), "num_heads is true: DiT takes a whole number$"),
        ("new", told(num_heads=0), "num_heads is 0"),
        ("new", told(sample_size=(4, 8, 2)), "sample_size is 4,8,2: DiT takes a whole number or two whole numbers"),
        ("new", told(out_channels="x,y"), "out_channels is x,y: DiT takes a whole number or null"),
        ("new", told(mlp_ratio=None), "mlp_ratio is null: DiT takes a number"),
        ("new", told(prediction_type=1), "prediction_type is 1: DiT takes a word"),
    ],
)
def test_settings_without_effect_or_out_of_bounds_are_errors(tmp_path, out, options, message):
    file = to_file(tiny().state_dict(), tmp_path / "a.pt")
    (tmp_path / "there").mkdir()
    with pytest.raises(ValueError, match=message):
        convert(file, tmp_path / out, **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pt", "there"]


@pytest.mark.parametrize(
    ("options", "names"),
    [({"weights": "ema"}, "weights"), ({"arch": "dit"}, "arch"), ({"overrides": {"num_heads": 2}}, "overrides")],
)
def test_a_folder_needs_no_words(tmp_path, options, names):
    tiny().save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=f"{names}: .*model is a folder, whose config.json tells all; leave them out"):
        convert(tmp_path / "model", tmp_path / "new", layout="diffusers", **options)


# What is written.

DTYPES = st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16])
SHAPES = st.lists(st.integers(0, 5), max_size=3).map(tuple)
LAYOUT = st.dictionaries(st.text("abc.é", min_size=1, max_size=8), st.tuples(SHAPES, DTYPES), min_size=1, max_size=6)


def drawn(layout: dict) -> State:
    rng = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=rng).to(dtype) for name, (shape, dtype) in layout.items()}


@given(layout=LAYOUT)
def test_the_library_of_safetensors_reads_what_was_streamed(tmp_path_factory, layout):
    file = tmp_path_factory.mktemp("streamed") / "a.safetensors"
    save(lazily(state := drawn(layout)), file)
    assert_same_state(load_file(file), state)
    with safe_open(file, "pt") as opened:
        assert opened.metadata() == {"format": "pt"}
    content = file.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    assert not any((start + header[name]["data_offsets"][0]) % tensor.itemsize for name, tensor in state.items())


@given(layout=LAYOUT, wrap=st.sampled_from([None, "ema"]), mmap=st.booleans())
def test_torch_reads_what_was_streamed(tmp_path_factory, layout, wrap, mmap):
    file = tmp_path_factory.mktemp("streamed") / "a.pt"
    save(lazily(state := drawn(layout)), file, wrap=wrap)
    found = torch.load(file, weights_only=True, mmap=mmap)
    assert_same_state(found if wrap is None else found[wrap], state)
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
    tensors = (found if wrap is None else found[wrap]).values()
    assert not mmap or not any(tensor.data_ptr() % 64 for tensor in tensors)


def test_the_same_tensors_are_the_same_bytes(tmp_path):
    state = DIT.build().state_dict()
    for suffix in (".pt", ".safetensors"):
        for name in "ab":
            save(lazily(state), tmp_path / f"{name}{suffix}")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    save_file(state, tmp_path / "c.safetensors", metadata={"format": "pt"})
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "c.safetensors").read_bytes()


@pytest.mark.parametrize("out", ["model", "b.pt", "b.safetensors"])
def test_what_fails_on_the_way_leaves_nothing(tmp_path, out):
    state = DIT.build().state_dict()
    state["x_embedder.proj.weight"][0, 0, 0, 0] = torch.nan
    file = to_file(state, tmp_path / "a.pt")
    layout = "original" if "." in out else "diffusers"
    written = []
    with pytest.raises(NotFiniteError, match=r"x_embedder\.proj\.weight has 1 of 256 weights NaN or infinite"):
        convert(file, tmp_path / out, layout=layout, overrides={"num_heads": 2},
                progress=lambda nbytes, total: written.append(nbytes))  # fmt: skip
    assert written, "it failed before it wrote anything"
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


@pytest.mark.parametrize("out", ["model", "b.pt", "b.safetensors"])
def test_what_appears_meanwhile_is_not_replaced(tmp_path, out):
    """As of two processes with one place to write to: the second to end fails, and changes nothing."""
    file = to_file(DIT.build().state_dict(), tmp_path / "a.pt")
    layout, place = ("original" if "." in out else "diffusers"), tmp_path / out

    def appears(*_) -> None:
        text = place if "." in out else place / "text"
        text.parent.mkdir(exist_ok=True)
        text.write_text("another's")

    with pytest.raises(OSError, match=out):
        convert(file, place, layout=layout, overrides={"num_heads": 2}, progress=appears)
    assert (place if "." in out else place / "text").read_text() == "another's"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["a.pt", out])


@pytest.mark.parametrize("out", ["deep/model", "b.pt"])
def test_more_than_the_disk_holds_is_refused_before_anything_is_written(tmp_path, out, monkeypatch):
    to_file(DIT.build().state_dict(), tmp_path / "a.pt")
    full = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    layout = "original" if "." in out else "diffusers"
    with pytest.raises(OSError, match=r"would have .* kB, but 10 bytes are free at .*: make room, or name"):
        convert(tmp_path / "a.pt", tmp_path / out, layout=layout, overrides={"num_heads": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_progress_adds_up(tmp_path):
    calls = []
    to_folder(DIT, to_file(DIT.build().state_dict(), tmp_path / "a.pt"), tmp_path / "model",
              progress=lambda nbytes, total: calls.append((nbytes, total)))  # fmt: skip
    assert {total for _, total in calls} == {sum(nbytes for nbytes, _ in calls)}


# Memory.

LIMITED = """
import resource, sys
from pathlib import Path
from skipdit.hub.convert import convert
from skipdit.hub.original import read

told = {"overrides": {"num_heads": 2}}
convert("small.pt", "small.safetensors", layout="original", **told)  # loads whatever is loaded once
status = dict(line.split(":") for line in open("/proc/self/status"))
in_use = int(status["VmData"].split()[0]) * 1024
room = Path("big.pt").stat().st_size + 64 * 2**20  # mapped, which counts, and 64 MiB for everything else
resource.setrlimit(resource.RLIMIT_DATA, (in_use + room, resource.RLIM_INFINITY))
convert("big.pt", "folder", layout="diffusers", **told)
convert("folder", "stock", layout="stock", dtype="bfloat16")
convert("big.pt", "again.pt", layout="original", dtype="float16", **told)
convert("big.pt", "up", layout="diffusers", upcycle=6, **told)
print("converted")
kept = {name: tensor.clone() for name, tensor in read(Path("big.pt")).items()}
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the size of a process as Linux tells it")
def test_a_file_needs_little_more_memory_than_its_largest_tensor(tmp_path):
    """290 MB, of which 8 in one tensor: a process that may map the file, and have 64 MiB besides, converts it.

    The same process cannot keep all tensors.
    """
    sizes = {"sample_size": 4, "num_heads": 2, "num_classes": 10, "hidden_size": 576}
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in DiT(depth=12, **sizes).state_dict().items()}
    table = DiT(depth=1, **sizes).pos_embed.detach()
    torch.save({name: torch.zeros(shape) for name, shape in shapes.items()} | {"pos_embed": table}, tmp_path / "big.pt")
    torch.save(DIT.build(num_skips=0).state_dict(), tmp_path / "small.pt")
    assert 280e6 < (tmp_path / "big.pt").stat().st_size < 300e6
    command = [sys.executable, "-c", LIMITED]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "converted\n", done.stderr
    assert done.returncode != 0
    assert "allocate memory" in done.stderr
