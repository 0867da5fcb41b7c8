"""Published checkpoints and folders of Latte and LatteT2V: what is read off, what is asked for, what does not fit."""

import json
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from skipdit import DiT, Latte, LatteT2V
from skipdit.evaluation.price import settings
from skipdit.hub import CheckpointError, load_original
from skipdit.hub.errors import MissingSkipsError
from skipdit.hub.load import load_model, model_config
from skipdit.models.adaln import SIZES
from skipdit.models.base import LongSkipModel
from tests.models.subject import DiTSubject, LatteSubject, LatteT2VSubject, Subject, assert_equal, randomised, sample

State = dict[str, Tensor]
LATTE, T2V = LatteSubject(), LatteT2VSubject()
UNTOLD = {LATTE: {"num_heads": 2}, T2V: {"num_attention_heads": 2, "sample_size": 4, "video_length": 3}}
KINDS = pytest.mark.parametrize("kind", [LATTE, T2V], ids=["latte", "latte-t2v"])
DEPTH = {LATTE: "depth", T2V: "num_layers"}
LEFTOVER = {"caption_projection.y_embedding": torch.ones(120, 12)}


def load(kind: Subject, source, **overrides) -> LongSkipModel:
    return load_original(source, **UNTOLD[kind] | overrides)


def assert_same(kind: Subject, ours: LongSkipModel, theirs: LongSkipModel) -> None:
    """Of one class and settings, with the same weights, and the same function at the size made for and at another."""
    assert (type(ours), settings(ours)) == (type(theirs), settings(theirs))
    assert_equal(list(ours.state_dict().values()), list(theirs.state_dict().values()))
    assert not ours.training
    for tall in (False, True):
        assert torch.equal(*(sample(model, kind.inputs(500, tall=tall)) for model in (ours, theirs)))


# What is read off.


@given(
    depth=st.integers(1, 5), skips=st.integers(0, 2), patch=st.sampled_from([1, 2, 4]), learned=st.booleans(),
    classes=st.sampled_from([0, 3, 10]), fuse=st.sampled_from(["replace", "residual"]), width=st.sampled_from([8, 16]),
    ratio=st.sampled_from([1.0, 4.0]), size=st.sampled_from([4, 8, (4, 8)]), frames=st.integers(1, 5),
)  # fmt: skip
def test_a_saved_latte_makes_the_same_model(depth, skips, patch, learned, classes, fuse, width, ratio, size, frames):
    model = randomised(Latte(
        depth=depth, num_skips=min(skips, depth // 2), patch_size=patch, out_channels=8 if learned else 4,
        num_classes=classes, fuse=fuse, hidden_size=width, num_heads=2, mlp_ratio=ratio, sample_size=size,
        num_frames=frames,
    ))  # fmt: skip
    rectangle = {"sample_size": size} if isinstance(size, tuple) else {}
    again = load(LATTE, model.state_dict(), fuse=fuse, class_dropout_prob=0.1, **rectangle)
    assert (type(again), settings(again)) == (Latte, settings(model))
    assert_equal(list(again.state_dict().values()), list(model.state_dict().values()))
    assert [name for name, p in again.named_parameters() if not p.requires_grad] == ["pos_embed", "temp_embed"]


@given(
    depth=st.integers(1, 4), skips=st.integers(0, 2), patch=st.sampled_from([1, 2, 4]), channels=st.integers(1, 9),
    fuse=st.sampled_from(["replace", "residual"]), heads=st.sampled_from([1, 2, 4]), bias=st.booleans(),
    caption=st.integers(1, 9), leftover=st.booleans(),
)  # fmt: skip
def test_a_saved_latte_t2v_makes_the_same_model(depth, skips, patch, channels, fuse, heads, bias, caption, leftover):
    model = T2V.build(
        depth=depth, num_skips=min(skips, depth // 2), patch_size=patch, out_channels=channels, fuse=fuse,
        num_attention_heads=heads, attention_head_dim=16 // heads, attention_bias=bias, caption_channels=caption,
    )  # fmt: skip
    state = model.state_dict() | (LEFTOVER if leftover else {})
    again = load(T2V, state, fuse=fuse, num_attention_heads=heads)
    assert (type(again), settings(again)) == (LatteT2V, settings(model))
    assert_equal(list(again.state_dict().values()), list(model.state_dict().values()))


@KINDS
@pytest.mark.parametrize("num_skips", [0, 3])
@pytest.mark.parametrize("named", [False, True])
def test_a_loaded_model_is_the_model_that_was_saved(kind, num_skips, named):
    """Its tables of positions too, which no file of LatteT2V holds."""
    model = kind.build(num_skips=num_skips)
    arch = {"arch": {LATTE: "latte", T2V: "latte-t2v"}[kind]} if named else {}
    assert_same(kind, load(kind, model.state_dict(), **arch), model)
    loaded = load(kind, model.state_dict(), **arch)
    assert {name: b.device.type for name, b in loaded.named_buffers() if b.device.type != "cpu"} == {}


@KINDS
def test_loading_draws_no_random_number(kind):
    state = kind.build().state_dict()
    torch.manual_seed(0)
    expected = torch.randn(3)
    torch.manual_seed(0)
    load(kind, state)
    assert torch.equal(torch.randn(3), expected)


@KINDS
def test_a_model_made_after_one_was_loaded_is_as_any_other(kind):
    state = kind.build().state_dict()
    with pytest.raises(ValueError, match="num_skips is 9"):
        load(kind, state, num_skips=9)
    assert {parameter.device.type for parameter in kind.build().parameters()} == {"cpu"}


@pytest.mark.parametrize("letter", SIZES)
@pytest.mark.parametrize("patch", [2, 4, 8])
@pytest.mark.parametrize("num_classes", [0, 101])
def test_the_published_sizes_of_latte_need_no_overrides(letter, patch, num_classes):
    with torch.device("meta"):
        model = Latte.from_size(f"{letter}/{patch}", num_classes=num_classes)
    assert settings(load_original(model.state_dict())) == settings(model)


@pytest.mark.parametrize("num_skips", [0, 14])
def test_the_published_latte_t2v_needs_no_overrides(num_skips):
    with torch.device("meta"):
        model = LatteT2V(num_skips=num_skips)
    assert settings(load_original({"ema": model.state_dict() | LEFTOVER})) == settings(model)


@KINDS
def test_half_precision_stays_half_precision(kind):
    state = {name: value.bfloat16() for name, value in kind.build(num_skips=0).state_dict().items()}
    for graft in ({}, {"num_skips": 2, "fuse": "residual"}):
        model = load(kind, state, **graft)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


# Where it may lie.

WRAPPERS: dict[str, Callable[[State], dict]] = {
    "flat": lambda state: state,
    "ema": lambda state: {"ema": state},
    "model": lambda state: {"model": state},
    "state_dict": lambda state: {"state_dict": state},
    "training checkpoint": lambda state: {"model": {name: value + 1 for name, value in state.items()}, "ema": state},
}


@KINDS
@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_wrappers_and_prefixes_change_nothing(tmp_path, kind, wrapper, prefix):
    model = kind.build()
    state = model.state_dict() | (LEFTOVER if kind is T2V else {})
    torch.save(WRAPPERS[wrapper]({prefix + name: value for name, value in state.items()}), tmp_path / "model.pt")
    assert_same(kind, load(kind, tmp_path / "model.pt"), model)


@KINDS
def test_a_safetensors_file_is_the_same(tmp_path, kind):
    model = kind.build()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    assert_same(kind, load(kind, tmp_path / "model.safetensors"), model)


# From vanilla to skip.


@KINDS
@pytest.mark.parametrize("num_skips", [1, 3])
def test_a_vanilla_checkpoint_with_residual_skips_computes_the_same(kind, num_skips):
    vanilla = kind.build(num_skips=0)
    skip = load(kind, vanilla.state_dict(), num_skips=num_skips, fuse="residual")
    assert skip.num_skips == num_skips
    assert_equal(kind.run(skip), kind.run(vanilla))


@KINDS
def test_a_vanilla_checkpoint_is_no_skip_model(kind):
    state = kind.build(num_skips=0).state_dict()
    with pytest.raises(CheckpointError) as raised:
        load(kind, state, num_skips=1)
    names = "skip_linears.0.linear.bias, skip_linears.0.linear.weight, skip_norms.0.bias, skip_norms.0.weight"
    assert str(raised.value).startswith(f"the checkpoint does not fit: 4 missing: {names}. It is of a vanilla model")
    assert isinstance(raised.value, MissingSkipsError)


@KINDS
def test_a_skip_checkpoint_that_lost_its_skips_in_part_is_refused(kind):
    state = {name: value for name, value in kind.build().state_dict().items() if "skip_norms.2" not in name}
    with pytest.raises(CheckpointError, match=r"2 missing: skip_norms\.2\.bias, skip_norms\.2\.weight"):
        load(kind, state)


# What is taken for something else.


@pytest.mark.parametrize(
    ("kind", "arch", "message"),
    [
        (DiTSubject(), "latte", "no latte checkpoint: 'temp_embed' is missing among"),
        (DiTSubject(), "latte-t2v", r"no latte-t2v checkpoint: 'pos_embed\.proj\.weight' is missing among"),
        (LATTE, "dit", "1 unexpected: temp_embed"),
        (LATTE, "latte-t2v", r"no latte-t2v checkpoint: 'pos_embed\.proj\.weight' is missing among"),
        (T2V, "dit", r"no dit checkpoint: 'x_embedder\.proj\.weight' is missing among"),
        (T2V, "latte", r"no latte checkpoint: 'x_embedder\.proj\.weight' is missing among"),
    ],
)
def test_a_checkpoint_of_another_architecture_says_what_is_missing(kind, arch, message):
    state = kind.build().state_dict()
    with pytest.raises(CheckpointError, match=message):
        load_original(state, arch=arch, **{} if arch == "latte-t2v" else {"num_heads": 2})


def test_an_unconditional_latte_is_no_dit():
    state = LATTE.build(num_classes=0).state_dict()
    with pytest.raises(CheckpointError, match=r"no dit checkpoint: 'y_embedder\.embedding_table\.weight' is missing"):
        load_original(state, arch="dit", num_heads=2)


def test_an_architecture_is_recognised_by_its_tensors():
    assert type(load_original(DiTSubject().build().state_dict(), num_heads=2)) is DiT
    assert type(load(LATTE, LATTE.build().state_dict())) is Latte
    assert type(load(T2V, T2V.build().state_dict())) is LatteT2V


@pytest.mark.parametrize(
    ("kind", "overrides", "message"),
    [
        (LATTE, {}, "12 blocks at width 16 are no published size: pass num_heads"),
        (T2V, {}, "width 16 is not the published 1152: pass num_attention_heads"),
        (T2V, {"num_attention_heads": 3}, "cross_attention_dim is 16 and num_attention_heads x attention_head_dim 15"),
        (T2V, {"num_attention_heads": 2, "patch_size": 3}, "image is 64 x 64.*patch size 3"),
    ],
)
def test_what_no_tensor_tells_is_asked_for(kind, overrides, message):
    with pytest.raises(ValueError, match=message):
        load_original(kind.build().state_dict(), **overrides)


def test_an_odd_number_of_blocks_is_no_latte():
    state = LATTE.build(num_skips=0).state_dict()
    odd = {name: value for name, value in state.items() if not name.startswith("blocks.11.")}
    with pytest.raises(CheckpointError, match=r"10 unexpected: blocks\.10\."):
        load(LATTE, odd)


# Folders.


@KINDS
def test_a_model_folder_is_loaded_as_the_class_that_it_names(tmp_path, kind):
    """In float32, however small its weights are kept; tables of positions are never kept, nor so small."""
    kind.build().half().save_pretrained(tmp_path)
    model = kind.build()
    model.load_state_dict({name: value.half() for name, value in model.state_dict().items()})
    assert_same(kind, load_model(str(tmp_path)), model)
    assert model_config(str(tmp_path)) == settings(model)


@KINDS
def test_a_checkpoint_goes_through_a_folder_and_back(tmp_path, kind):
    model = kind.build()
    load(kind, {"ema": model.state_dict()}).save_pretrained(tmp_path)
    assert_same(kind, load_model(str(tmp_path)), model)


def test_a_checkpoint_file_is_loaded_as_the_class_that_it_holds(tmp_path):
    with torch.device("meta"):
        shapes = Latte.from_size("S/8", num_frames=2).state_dict()
    torch.save({"ema": {name: torch.zeros(value.shape).half() for name, value in shapes.items()}}, tmp_path / "ffs.pt")
    model = load_model(str(tmp_path / "ffs.pt"))
    assert (type(model), model.config.num_frames, model.dtype) == (Latte, 2, torch.float32)


@KINDS
def test_the_model_of_a_pipeline_folder_is_its_transformer(tmp_path, kind):
    kind.build().save_pretrained(tmp_path / "transformer")
    (tmp_path / "model_index.json").write_text("{}")
    assert_same(kind, load_model(str(tmp_path)), kind.build())
    assert model_config(str(tmp_path)) == settings(kind.build())


OLD = {
    "norm_num_groups": 32, "num_vector_embeds": None, "attention_type": "default", "only_cross_attention": False,
    "double_self_attention": False, "upcast_attention": False, "use_linear_projection": False,
}  # fmt: skip


def set_config(folder, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_folder_of_an_old_diffusers_has_settings_that_change_nothing(tmp_path):
    model = T2V.build()
    model.save_pretrained(tmp_path)
    set_config(tmp_path, _diffusers_version="0.24.0", **OLD)
    assert_equal(T2V.run(load_model(str(tmp_path))), T2V.run(model))
    assert model_config(str(tmp_path)) == settings(model)


def test_an_old_setting_that_would_change_something_is_refused(tmp_path):
    T2V.build().save_pretrained(tmp_path)
    set_config(tmp_path, **OLD | {"double_self_attention": True, "attention_type": "gated"})
    with pytest.raises(CheckpointError, match="sets attention_type, double_self_attention, unknown to LatteT2V"):
        load_model(str(tmp_path))


@KINDS
def test_a_folder_with_a_layer_too_few_is_refused(tmp_path, kind):
    model = kind.build()
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    set_config(tmp_path, **{DEPTH[kind]: 7})
    with pytest.raises(CheckpointError, match=r"config\.json sets \w+ 7, which makes \w*blocks (7|14), but in"):
        load_model(str(tmp_path))
