"""Published checkpoint files: the architecture is read off the tensors, and what does not fit is named."""

import argparse
import pickle
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from skipdit import DiT
from skipdit.evaluation.price import settings
from skipdit.hub import CheckpointError, load_original
from tests.pipelines.tiny import SETTINGS, tiny


def weights(**config) -> dict[str, torch.Tensor]:
    return tiny(**config).state_dict()


def same_weights(model: DiT, state: dict[str, torch.Tensor]) -> bool:
    own = model.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[key], state[key]) for key in own)


def output(model: DiT) -> torch.Tensor:
    rng = torch.Generator().manual_seed(1)
    height, width = (side * model.config.patch_size for side in model.grid)
    x_t = torch.randn(2, model.config.in_channels, height, width, generator=rng)
    with torch.no_grad():
        return model(x_t, torch.tensor([3, 900]), torch.tensor([0, 1])).sample


# What is read off.


@given(
    depth=st.integers(1, 5), skips=st.integers(0, 2), patch=st.sampled_from([1, 2, 4]), in_channels=st.integers(1, 4),
    learned=st.booleans(), classes=st.integers(2, 5), dropout=st.sampled_from([0, 0.1]),
    fuse=st.sampled_from(["replace", "residual"]), width=st.sampled_from([8, 16, 24]),
    ratio=st.sampled_from([1.0, 2.5, 4.0]), size=st.sampled_from([4, 8, (4, 8)]),
)  # fmt: skip
def test_a_saved_state_dict_makes_the_same_model(
    depth, skips, patch, in_channels, learned, classes, dropout, fuse, width, ratio, size
):
    model = tiny(
        depth=depth, num_skips=min(skips, depth // 2), patch_size=patch, in_channels=in_channels, fuse=fuse,
        out_channels=(2 if learned else 1) * in_channels, num_classes=classes, class_dropout_prob=dropout,
        hidden_size=width, mlp_ratio=ratio, sample_size=size,
    )  # fmt: skip
    untold = {"num_heads": 2, "fuse": fuse, "class_dropout_prob": dropout}
    if isinstance(size, tuple):
        untold["sample_size"] = size
    again = load_original(model.state_dict(), **untold)
    assert settings(again) == settings(model)
    assert same_weights(again, model.state_dict())
    assert torch.equal(output(again), output(model))
    assert not again.training


@pytest.mark.parametrize(
    ("letter", "depth", "width", "heads"),
    [("XL", 28, 1152, 16), ("L", 24, 1024, 16), ("B", 12, 768, 12), ("S", 12, 384, 6)],
)
@pytest.mark.parametrize("patch", [2, 4, 8])
def test_the_published_sizes_need_no_overrides(letter, depth, width, heads, patch):
    with torch.device("meta"):
        state = DiT.from_size(f"{letter}/{patch}", num_skips=depth // 2).state_dict()
    config = load_original(state).config
    found = {name: config[name] for name in ("depth", "hidden_size", "num_heads", "patch_size", "num_skips")}
    assert found == {
        "depth": depth, "hidden_size": width, "num_heads": heads, "patch_size": patch, "num_skips": depth // 2
    }  # fmt: skip
    assert (config.num_classes, config.in_channels, config.out_channels, config.sample_size) == (1000, 4, 8, 32)


def test_the_frozen_table_stays_frozen_and_the_rest_trains():
    model = load_original(weights(), num_heads=2)
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["pos_embed"]


def test_an_override_goes_before_what_was_read():
    state = weights(num_classes=10, class_dropout_prob=0)
    for untold in ({"class_dropout_prob": 0}, {"num_classes": 10}):
        bare = load_original(state, num_heads=4, **untold)
        assert (bare.config.num_classes, bare.null_class, bare.config.num_heads) == (10, None, 4)


def test_half_precision_stays_half_precision():
    state = {key: tensor.bfloat16() for key, tensor in weights().items()}
    assert load_original(state, num_heads=2).dtype == torch.bfloat16


# Where it may lie.

ARGS = argparse.Namespace(model="DiT-XL/2", global_seed=0)
WRAPPERS = {
    "flat": lambda state: state,
    "ema": lambda state: {"ema": state},
    "model": lambda state: {"model": state},
    "module": lambda state: {"module": state, "steps": 3},
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "training checkpoint": lambda state: {"model": weights(seed=1), "ema": state, "opt": {"step": 3}, "args": ARGS},
    "model beside other things": lambda state: {"model": state, "opt": {}, "args": ARGS},
}
PREFIXES = ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("prefix", PREFIXES)
def test_wrappers_and_prefixes_of_a_pt_file_change_nothing(tmp_path, wrapper, prefix):
    state = weights()
    prefixed = {prefix + key: tensor for key, tensor in state.items()}
    checkpoint = WRAPPERS[wrapper](prefixed)
    torch.save(checkpoint, tmp_path / "model.pt")
    assert same_weights(load_original(tmp_path / "model.pt", num_heads=2), state)
    assert same_weights(load_original(checkpoint, num_heads=2), state)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_of_a_safetensors_file_change_nothing(tmp_path, prefix):
    state = weights()
    save_file({prefix + key: tensor for key, tensor in state.items()}, tmp_path / "model.safetensors")
    assert same_weights(load_original(str(tmp_path / "model.safetensors"), num_heads=2), state)


# What does not fit.


def changed(**changes) -> dict[str, torch.Tensor]:
    """The weights of a model with some tensors replaced, or left out where the change is None."""
    state = weights() | {key.replace("__", "."): tensor for key, tensor in changes.items()}
    return {key: tensor for key, tensor in state.items() if tensor is not None}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (changed(t_embedder__mlp__0__bias=None), r"1 missing: t_embedder\.mlp\.0\.bias"),
        (changed(surplus=torch.ones(1)), "1 unexpected: surplus"),
        (changed(blocks__x__bias=torch.ones(1)), r"1 unexpected: blocks\.x\.bias"),
        (changed(blocks__1__attn__qkv__bias=torch.ones(5)), r"1 of another shape: blocks\.1.*bias \(5,\) for \(48,\)"),
        (changed(skip_norms__0__bias=None, surplus=torch.ones(1)), r"1 missing: skip_norms\..*; 1 unexpected: surplus"),
        (changed(x_embedder__proj__weight=None), "'x_embedder.proj.weight' is missing among 59 tensors"),
        (changed(x_embedder__proj__weight=torch.ones(3, 3)), r"x_embedder\.proj\.weight has shape \(3, 3\)"),
        (changed(final_layer__linear__bias=torch.tensor(1.0)), r"final_layer\.linear\.bias has shape \(\)"),
        ({"conv_in.weight": torch.ones(1)}, r"no checkpoint of latte-t2v, .*, by its 1 tensors \(conv_in, .*pass arch"),
        ({}, "holds nothing where tensors belong"),
        ({"ema": {}}, "holds nothing where tensors belong"),
        ({"x_embedder.proj.weight": 3, "step": "x"}, "holds x_embedder.proj.weight, step where tensors belong"),
        ({1: torch.ones(1)}, "holds 1 where tensors belong"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_listed(state, message):
    with pytest.raises(CheckpointError, match=message) as raised:
        load_original(state, num_heads=2)
    assert "\n" not in str(raised.value)


def test_a_layer_that_is_missing_altogether_is_named_key_by_key():
    state = {key: tensor for key, tensor in weights().items() if not key.startswith("blocks.1.")}
    with pytest.raises(CheckpointError, match=r"10 missing: blocks\.1\.adaLN.*bias, (.*, ){8}blocks\.1.*fc2\.weight"):
        load_original(state, num_heads=2)


def test_a_list_is_no_checkpoint(tmp_path):
    torch.save([torch.ones(1)], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="the checkpoint is a list"):
        load_original(tmp_path / "list.pt")


@pytest.mark.parametrize(
    ("config", "overrides", "message"),
    [
        ({}, {}, "4 blocks at width 16 are no published size: pass num_heads"),
        ({}, {"num_heads": 3}, r"hidden_size is 16: it must be a multiple of num_heads \(3\)"),
        ({}, {"num_heads": 2, "arch": "unet"}, "unknown arch 'unet': take one of latte-t2v, latte, dit"),
        ({"sample_size": (4, 6)}, {"num_heads": 2}, "pos_embed has 6 tokens, which is no square: pass sample_size="),
    ],
)
def test_what_no_tensor_tells_is_asked_for(config, overrides, message):
    with pytest.raises(ValueError, match=message):
        load_original(weights(**config), **overrides)


def test_a_setting_that_no_model_has_is_refused():
    with pytest.raises(TypeError, match="colour"):
        load_original(weights(), num_heads=2, colour="red")
    assert "colour" not in SETTINGS


# What is no whole, harmless file.


class Creates:
    """Unpickling this creates a file: what a checkpoint from a stranger may do."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("plain", [False, True], ids=["torch.save", "pickle.dump"])
@pytest.mark.parametrize("place", ["alone", "beside the weights"])
def test_code_in_a_pickle_is_refused_and_does_not_run(tmp_path, plain, place):
    bait, file = tmp_path / "created", tmp_path / "model.pt"
    checkpoint = Creates(bait) if place == "alone" else weights() | {"args": Creates(bait)}
    if plain:
        file.write_bytes(pickle.dumps(checkpoint))
    else:
        torch.save(checkpoint, file)
    with pytest.raises(CheckpointError, match="as safetensors") as raised:
        load_original(file, num_heads=2)
    assert "\n" not in str(raised.value)
    assert plain or "it calls for io.open" in str(raised.value)
    assert not bait.exists()
    torch.load(file, weights_only=False) if not plain else pickle.loads(file.read_bytes())
    assert bait.exists(), "the bait would not have been taken by an unsafe reader either"


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.999])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_truncated_file_is_refused(tmp_path, kept, suffix):
    whole, cut = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
    torch.save(weights(), whole) if suffix == ".pt" else save_file(weights(), whole)
    content = whole.read_bytes()
    cut.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    with pytest.raises(CheckpointError, match="download or copy it again") as raised:
        load_original(cut, num_heads=2)
    assert str(cut) in str(raised.value)
    assert "\n" not in str(raised.value)


@given(place=st.floats(0, 1), byte=st.integers(0, 255))
def test_a_damaged_index_is_refused_or_harmless(tmp_path_factory, place, byte):
    file = tmp_path_factory.getbasetemp() / "damaged.pt"
    torch.save(weights(), file)
    content = bytearray(file.read_bytes())
    content[int(place * 8000)] = byte  # the pickle comes first in the archive, tensors after
    file.write_bytes(content)
    with suppress(CheckpointError):
        load_original(file, num_heads=2)


def test_what_is_no_checkpoint_at_all_is_refused(tmp_path):
    (tmp_path / "notes.pt").write_text("these are notes\n" * 20)
    with pytest.raises(CheckpointError, match="is no archive of torch.save"):
        load_original(tmp_path / "notes.pt")


def test_a_file_that_does_not_exist_is_said_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.pt does not exist: name a .pt or .safetensors file"):
        load_original(tmp_path / "nowhere.pt")


def test_a_vanilla_checkpoint_with_residual_skips_computes_the_same():
    vanilla = tiny(num_skips=0)
    skip = load_original(vanilla.state_dict(), num_heads=2, num_skips=1, fuse="residual")
    assert skip.num_skips == 1
    assert torch.equal(output(skip), output(vanilla))


def test_a_model_does_not_share_tensors_with_the_dict_that_it_came_from():
    state = weights()
    model = load_original({"ema": state, "step": 3}, num_heads=2)
    with torch.no_grad():
        model.pos_embed.zero_()
    assert state["pos_embed"].any()
