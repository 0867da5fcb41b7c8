"""The table of names: whole, read both ways, and as published."""

import pytest
import torch
from diffusers import HunyuanDiT2DModel

from skipdit.hub.names import HUNYUAN
from tests.hub.published import hunyuan_shapes, on_meta, tiny_hunyuan
from tests.models.subject import assert_equal

SIZES = {"in_channels": 4, "patch_size": 2, "hidden_size": 1408, "num_layers": 40, "mlp_ratio": 4.3637}


@pytest.mark.parametrize("styles", [0, 1])
def test_every_published_name_and_shape_is_diffusers_in_the_table(styles):
    with torch.device("meta"):
        theirs = HunyuanDiT2DModel(**SIZES, use_style_cond_and_image_meta_size=bool(styles)).state_dict()
    ours = HUNYUAN.to_ours(on_meta(hunyuan_shapes(styles=styles)))
    assert {name: tensor.shape for name, tensor in ours.items()} == {name: t.shape for name, t in theirs.items()}
    assert len(theirs) == 1544 + styles
    assert HUNYUAN.to_original(theirs).keys() == hunyuan_shapes(styles=styles).keys()


@pytest.mark.parametrize("styles", [0, 1])
def test_there_and_back_is_exact(styles):
    state = tiny_hunyuan(styles=styles)
    ours = HUNYUAN.to_ours(state)
    again = HUNYUAN.to_original(ours)
    assert again.keys() == state.keys()
    assert_equal([again[name] for name in state], list(state.values()))
    twice = HUNYUAN.to_ours(again)
    assert twice.keys() == ours.keys()
    assert_equal([twice[name] for name in ours], list(ours.values()))


def test_parts_have_memory_of_their_own():
    ours = HUNYUAN.to_ours(tiny_hunyuan())
    assert len({tensor.untyped_storage().data_ptr() for tensor in ours.values()}) == len(ours)


def test_norms_and_halves_change_places():
    state = tiny_hunyuan()
    ours = HUNYUAN.to_ours(state)
    assert torch.equal(ours["blocks.3.norm2.weight"], state["blocks.3.norm3.weight"])
    assert torch.equal(ours["blocks.3.norm3.weight"], state["blocks.3.norm2.weight"])
    shift, scale = state["final_layer.adaLN_modulation.1.weight"].chunk(2)
    assert torch.equal(ours["norm_out.linear.weight"], torch.cat([scale, shift]))
    assert torch.equal(ours["blocks.3.attn2.to_v.weight"], state["blocks.3.attn2.kv_proj.weight"][16:])


def test_a_module_is_named_as_its_weights_are():
    _, ours = HUNYUAN.row("blocks.12.attn1.Wqkv")
    assert ours == ("blocks.12.attn1.to_q", "blocks.12.attn1.to_k", "blocks.12.attn1.to_v")
    assert HUNYUAN.original("blocks.12.attn1.to_k.bias") == "blocks.12.attn1.Wqkv.bias"


@pytest.mark.parametrize(
    "name", ["blocks.x.norm1.bias", "blocks.0.attn3.q_proj.bias", "norm1.bias", "skip_norms.0.bias"]
)
def test_a_name_that_is_not_in_the_table_is_an_error(name):
    for read in (HUNYUAN.to_ours, HUNYUAN.to_original):
        with pytest.raises(KeyError, match=name):
            read({name: torch.ones(2)})


def test_a_part_that_is_missing_is_an_error():
    with pytest.raises(KeyError, match=r"blocks\.0\.attn1\.to_v\.bias"):
        HUNYUAN.to_original({f"blocks.0.attn1.to_{part}.bias": torch.ones(2) for part in "qk"})
