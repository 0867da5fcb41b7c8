"""Checkpoints of HunyuanDiT: the original layout and diffusers', what is read off and what does not fit."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from skipdit import HunyuanDiT
from skipdit.evaluation.price import settings
from skipdit.hub import CheckpointError, load_original
from skipdit.hub.load import load_model, model_config
from skipdit.hub.names import HUNYUAN
from tests.hub.published import hunyuan_shapes, on_meta, tiny_hunyuan
from tests.models.subject import HunyuanDiTSubject, assert_equal, sample

SUBJECT = HunyuanDiTSubject()
LAYOUTS = {"hunyuan": HUNYUAN.to_original, "hunyuan-diffusers": dict}
EACH_LAYOUT = pytest.mark.parametrize("layout", LAYOUTS)


def load(state, **overrides) -> HunyuanDiT:
    return load_original(state, **{"sample_size": 4} | overrides)


def assert_same(ours: HunyuanDiT, theirs: HunyuanDiT) -> None:
    assert (type(ours), settings(ours)) == (type(theirs), settings(theirs))
    assert_equal(list(ours.state_dict().values()), list(theirs.state_dict().values()))
    assert not ours.training


# As published.


@pytest.mark.parametrize(("styles", "tensors", "parameters"), [(0, 1304, 1_499_952_032), (1, 1305, 1_516_534_048)])
def test_the_published_models_need_no_words(styles, tensors, parameters):
    state = on_meta(hunyuan_shapes(styles=styles))
    assert len(state) == tensors
    model = load_original(state)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    with torch.device("meta"):
        published = HunyuanDiT(use_style_cond_and_image_meta_size=bool(styles), num_skips=19)
    assert settings(model) == settings(published)


def test_the_first_of_several_styles_is_taken():
    state = tiny_hunyuan(styles=3)
    model = load(state)
    assert torch.equal(model.time_extra_emb.style_embedder.weight, state["style_embedder.weight"][:1])


# What is read off.


@given(
    layout=st.sampled_from(sorted(LAYOUTS)),
    depth=st.integers(1, 4), skips=st.integers(0, 2), patch=st.sampled_from([1, 2, 4]), channels=st.integers(1, 4),
    learned=st.booleans(), styled=st.booleans(), heads=st.sampled_from([1, 2, 3]), ratio=st.floats(0.5, 5),
    text=st.integers(1, 5), text_t5=st.sampled_from([8, 16]), length=st.integers(1, 4), length_t5=st.integers(1, 4),
    pooled=st.integers(1, 4),
)  # fmt: skip
def test_a_saved_model_is_the_same_model_again(
    layout, depth, skips, patch, channels, learned, styled, heads, ratio, text, text_t5, length, length_t5, pooled
):
    model = SUBJECT.build(
        depth=depth, num_skips=min(skips, depth // 2), patch_size=patch, in_channels=channels, learn_sigma=learned,
        use_style_cond_and_image_meta_size=styled, num_attention_heads=heads, attention_head_dim=4,
        hidden_size=4 * heads, mlp_ratio=ratio, cross_attention_dim=text, cross_attention_dim_t5=text_t5,
        text_len=length, text_len_t5=length_t5, pooled_projection_dim=pooled,
    )  # fmt: skip
    assert_same(load(LAYOUTS[layout](model.state_dict()), mlp_ratio=ratio), model)


@pytest.mark.parametrize("inner", range(1, 200, 13))
@pytest.mark.parametrize("width", [4, 12, 36])
def test_a_ratio_that_was_read_off_makes_the_layer_it_was_read_off(inner, width):
    state = tiny_hunyuan(width=width, head_dim=4, inner=inner)
    assert load(state).blocks[0].ff.net[0].proj.bias.shape == (inner,)


@EACH_LAYOUT
@pytest.mark.parametrize("named", [False, True])
def test_a_loaded_model_draws_what_the_saved_one_draws(layout, named):
    model = SUBJECT.build()
    again = load(LAYOUTS[layout](model.state_dict()), **{"arch": layout} if named else {})
    for tall in (False, True):
        assert torch.equal(*(sample(each, SUBJECT.inputs(500, tall=tall)) for each in (again, model)))


def test_settings_that_no_tensor_tells_are_given():
    model = load(tiny_hunyuan(), rotary="given", prediction_type="epsilon", sample_size=8)
    assert (model.config.rotary, model.config.prediction_type, model.config.sample_size) == ("given", "epsilon", 8)


def test_half_precision_stays_half_precision():
    state = {name: tensor.half() for name, tensor in tiny_hunyuan().items()}
    assert {parameter.dtype for parameter in load(state).parameters()} == {torch.float16}


# Where it may lie.


@EACH_LAYOUT
@pytest.mark.parametrize("wrapper", [None, "ema", "module"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_wrappers_and_prefixes_change_nothing(tmp_path, layout, wrapper, prefix):
    model = SUBJECT.build()
    state = {prefix + name: tensor for name, tensor in LAYOUTS[layout](model.state_dict()).items()}
    torch.save(state if wrapper is None else {wrapper: state, "steps": 3}, tmp_path / "model.pt")
    assert_equal(list(load(tmp_path / "model.pt").state_dict().values()), list(model.state_dict().values()))


def test_the_averaged_weights_go_before_those_of_deepspeed():
    state = tiny_hunyuan()
    model = load({"module": tiny_hunyuan(seed=1), "ema": state, "epoch": 1})
    assert torch.equal(model.text_embedding_padding, state["text_embedding_padding"])


def test_a_safetensors_file_becomes_a_folder_and_comes_back(tmp_path):
    """Tensors that were cut from one have to be apart in memory to be saved."""
    save_file(tiny_hunyuan(), tmp_path / "model.safetensors")
    model = load(tmp_path / "model.safetensors")
    model.save_pretrained(tmp_path / "model")
    assert_same(load_model(str(tmp_path / "model")), model)
    assert model_config(str(tmp_path / "model")) == settings(model)


# What does not fit.


def changed(**changes) -> dict[str, torch.Tensor]:
    state = tiny_hunyuan() | {name.replace("__", "."): tensor for name, tensor in changes.items()}
    return {name: tensor for name, tensor in state.items() if tensor is not None}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (changed(blocks__1__attn1__Wqkv__bias=None), r"1 missing: blocks\.1\.attn1\.Wqkv\.bias"),
        (changed(blocks__5__skip_norm__bias=None), r"1 missing: blocks\.5\.skip_norm\.bias"),
        (changed(blocks__0__norm1__norm__bias=torch.ones(16)), r"1 unexpected: blocks\.0\.norm1\.norm\.bias"),
        (changed(blocks__0__attn1__to_q__bias=torch.ones(16)), r"1 unexpected: blocks\.0\.attn1\.to_q\.bias"),
        (changed(surplus=torch.ones(1)), "1 unexpected: surplus"),
        (changed(blocks__1__attn1__Wqkv__bias=torch.ones(47)), r"1 of another shape: .*Wqkv\.bias \(47,\) for \(48,\)"),
        (changed(blocks__1__attn1__Wqkv__bias=torch.tensor(1.0)), r"Wqkv\.bias \(\) for \(48,\)"),
        (changed(final_layer__adaLN_modulation__1__bias=torch.ones(1)), r"\.1\.bias \(1,\) for \(32,\)"),
        (changed(style_embedder__weight=torch.tensor(1.0)), r"style_embedder\.weight \(\) for \(1, 16\)"),
        (changed(text_embedding_padding=None), "no hunyuan checkpoint: 'text_embedding_padding' is missing among"),
        (changed(blocks__0__attn1__q_norm__weight=torch.ones(1, 1)), r"q_norm\.weight has shape \(1, 1\)"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_listed_under_the_names_of_the_file(state, message):
    with pytest.raises(CheckpointError, match=message) as raised:
        load(state)
    assert "\n" not in str(raised.value)


def test_a_file_of_diffusers_names_says_what_it_lacks():
    state = SUBJECT.build().state_dict()
    for name in ("pos_embed.proj.weight", "blocks.0.ff.net.0.proj.bias"):
        with pytest.raises(CheckpointError, match=f"no hunyuan-diffusers checkpoint: '{name}' is missing among"):
            load({key: tensor for key, tensor in state.items() if key != name})
    with pytest.raises(CheckpointError, match=r"1 missing: blocks\.2\.attn1\.to_q\.bias"):
        load({key: tensor for key, tensor in state.items() if key != "blocks.2.attn1.to_q.bias"})
