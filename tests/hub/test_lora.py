"""LoRA for HunyuanDiT: what an adapter adds is what merging it into the weights adds, whatever its names."""

import json
import sys

import pytest
import torch
from diffusers import HunyuanDiT2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from skipdit import HunyuanDiT, SkipCacheConfig
from skipdit.hub import CheckpointError, load_lora, load_original
from skipdit.hub.names import HUNYUAN
from tests.hub.published import tiny_hunyuan
from tests.models.subject import HunyuanDiTSubject, assert_equal

peft = pytest.importorskip("peft")

SUBJECT = HunyuanDiTSubject()
RANK = 3
ONE = ["blocks.0.attn1.Wqkv"]
TARGETS = ("Wqkv", "q_proj", "kv_proj", "out_proj")  # published
ROUNDING = 2e-4  # W x + B (A x) against (W + B A) x, six layers deep
State = dict[str, Tensor]


def original() -> State:
    return tiny_hunyuan()


def model_of(state: State) -> HunyuanDiT:
    return load_original(state, sample_size=4)


def adapter(names: list[str], *, rank: int = RANK, seed: int = 0) -> State:
    """Factors for modules under original names, in PEFT's spelling."""
    rng, found = torch.Generator().manual_seed(seed), {}
    for name in names:
        outside, inside = original()[f"{name}.weight"].shape
        found[f"{name}.lora_A.weight"] = torch.randn(rank, inside, generator=rng)
        found[f"{name}.lora_B.weight"] = 0.1 * torch.randn(outside, rank, generator=rng)
    return found


def published_targets() -> list[str]:
    keys = (key.removesuffix(".weight") for key in original() if key.endswith(".weight"))
    return [name for name in keys if name.endswith(TARGETS)]


def merged(state: State, factors: State, *, scale: float = 1.0) -> State:
    names = [key.removesuffix(".lora_A.weight") for key in factors if key.endswith(".lora_A.weight")]
    products = {f"{name}.weight": factors[f"{name}.lora_B.weight"] @ factors[f"{name}.lora_A.weight"] for name in names}
    return {key: value + scale * products[key] if key in products else value for key, value in state.items()}


def folder(path, factors: State, **config) -> str:
    """As PEFT keeps an adapter."""
    path.mkdir()
    wrapped = {f"base_model.model.{key}": value for key, value in factors.items()}
    save_file(wrapped, path / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": list(TARGETS)}
    (path / "adapter_config.json").write_text(json.dumps(settings | config))
    return str(path)


def in_our_names(factors: State) -> State:
    """The factors of a file that names modules as we do."""
    ours = {}
    for key, value in factors.items():
        module, _, factor = key.partition(".lora_")
        row, names = HUNYUAN.row(module)
        parts = [value.clone() for _ in names] if factor.startswith("A") else row.parts(value)
        ours |= {f"{name}.lora_{factor}": part for name, part in zip(names, parts, strict=True)}
    return ours


def assert_draws(model: HunyuanDiT, state: State) -> None:
    """What the model of `state` draws, as closely as float32 adds up, which is not what it draws without."""
    without, ours, theirs = SUBJECT.run(model_of(original())), SUBJECT.run(model), SUBJECT.run(model_of(state))
    assert min((a - b).abs().max() for a, b in zip(without, theirs, strict=True)) > 100 * ROUNDING
    torch.testing.assert_close(ours, theirs, rtol=0, atol=ROUNDING)


def assert_draws_as_without(model: HunyuanDiT) -> None:
    """But for the last bits: torch multiplies by weights that ask for no gradient in another order."""
    torch.testing.assert_close(SUBJECT.run(model), SUBJECT.run(model_of(original())), rtol=0, atol=5e-6)


# What it adds.


def test_an_adapter_of_original_names_is_its_weights_merged(tmp_path):
    factors = adapter(published_targets())
    model = model_of(original())
    load_lora(model, folder(tmp_path / "lora", factors))
    assert "pooler.q_proj" in published_targets()
    assert_draws(model, merged(original(), factors))


def test_an_adapter_of_our_names_is_the_same(tmp_path):
    factors = adapter(published_targets())
    save_file(in_our_names(factors), tmp_path / "lora.safetensors")
    ours, theirs = model_of(original()), model_of(original())
    load_lora(ours, tmp_path / "lora.safetensors")
    load_lora(theirs, folder(tmp_path / "lora", factors))
    assert_equal(SUBJECT.run(ours), SUBJECT.run(theirs))


def test_every_linear_layer_can_be_adapted(tmp_path):
    """Those of which halves are swapped, too."""
    weights = [key for key, value in original().items() if value.ndim == 2 and key.endswith(".weight")]
    factors = adapter([key.removesuffix(".weight") for key in weights])
    model = model_of(original())
    load_lora(model, folder(tmp_path / "lora", factors))
    assert_draws(model, merged(original(), factors))


@pytest.mark.parametrize(
    ("config", "own"),
    [
        ({"lora_alpha": 2 * RANK}, 2.0),
        ({"lora_alpha": RANK, "use_rslora": True}, RANK**0.5),
        ({"lora_alpha": 1, "alpha_pattern": {"Wqkv|q_proj|kv_proj|out_proj": 2 * RANK}}, 2.0),
    ],
)
def test_alpha_and_scale_multiply(tmp_path, config, own):
    factors = adapter(published_targets())
    model = model_of(original())
    load_lora(model, folder(tmp_path / "lora", factors, **config), scale=0.5)
    assert_draws(model, merged(original(), factors, scale=0.5 * own))


def test_ranks_and_alphas_may_differ_from_module_to_module(tmp_path):
    wide, narrow = adapter(["blocks.1.attn1.Wqkv"], rank=4), adapter(["blocks.2.attn1.Wqkv"], rank=2)
    model = model_of(original())
    path = folder(tmp_path / "lora", wide | narrow, lora_alpha=4, alpha_pattern={"blocks.2.attn1.Wqkv": 8})
    load_lora(model, path)
    assert_draws(model, merged(merged(original(), wide), narrow, scale=4))


def test_adapters_add_up_and_go_again(tmp_path):
    first, second = adapter(["blocks.1.attn1.Wqkv"]), adapter(["blocks.1.attn1.Wqkv", "mlp_t5.0"], seed=1)
    model = model_of(original())
    load_lora(model, folder(tmp_path / "first", first), name="first")
    load_lora(model, folder(tmp_path / "second", second), name="second", scale=0.5)
    assert_draws(model, merged(merged(original(), first), second, scale=0.5))
    model.delete_adapters(["first", "second"])
    assert_draws_as_without(model)


def test_those_that_were_there_stay_as_they_were_set(tmp_path):
    """One is scaled, one is off, one learns: what the next adds is all that changes."""
    names = ("scaled", "off", "next")
    parts = {name: adapter([*ONE, "mlp_t5.0"], seed=seed) for seed, name in enumerate(names)}
    parts["next"] |= adapter(["blocks.1.attn1.Wqkv"])
    model = model_of(original())
    for name in names[:2]:
        load_lora(model, folder(tmp_path / name, parts[name]), name=name)
    model.set_adapters(["scaled"], [0.5])
    trained = {key: weight.requires_grad for key, weight in model.named_parameters() if ".lora_" in key}
    load_lora(model, folder(tmp_path / "next", parts["next"]), name="next")
    assert model.active_adapters() == ["scaled", "next"]
    assert_draws(model, merged(merged(original(), parts["scaled"], scale=0.5), parts["next"]))
    after = dict(model.named_parameters())
    assert {key: after[key].requires_grad for key in trained} == trained
    model.set_adapters(["off"])
    assert_draws(model, merged(original(), parts["off"]))


def test_it_adds_up_with_what_a_stock_model_had(tmp_path):
    ours = model_of(original())
    ours.save_pretrained(tmp_path / "model")
    stock, targets = HunyuanDiT2DModel.from_pretrained(tmp_path / "model"), ["blocks.0.attn1.to_q"]
    peft.inject_adapter_in_model(peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=targets), stock, "first")
    first = {key: value for key, value in in_our_names(adapter(ONE)).items() if "to_q" in key}
    linear = stock.blocks[0].attn1.to_q
    with torch.no_grad():
        linear.lora_A["first"].weight.copy_(first["blocks.0.attn1.to_q.lora_A.weight"])
        linear.lora_B["first"].weight.copy_(first["blocks.0.attn1.to_q.lora_B.weight"])
    second = adapter([*ONE, "blocks.1.attn1.Wqkv"], seed=1)
    path, model = folder(tmp_path / "second", second), HunyuanDiT.from_diffusers(stock)
    with pytest.raises(ValueError, match="name is 'first': an adapter of this name is loaded"):
        load_lora(model, path, name="first")
    load_lora(model, path, name="second")
    padded = adapter(ONE)
    padded["blocks.0.attn1.Wqkv.lora_B.weight"][16:] = 0  # queries alone
    assert_draws(model, merged(merged(original(), padded), second))


def test_where_it_would_have_no_effect_it_is_refused(tmp_path):
    path, model = folder(tmp_path / "lora", adapter(ONE)), model_of(original())
    model.fuse_qkv_projections()
    with pytest.raises(ValueError, match=r"attention is fused .*: unfuse_qkv_projections\(\) first"):
        load_lora(model, path)
    model.unfuse_qkv_projections()
    load_lora(model, path)
    model.disable_lora()
    with pytest.raises(ValueError, match=r"adapters are disabled: enable_lora\(\) first"):
        load_lora(model, path, name="second")
    model.enable_lora()
    load_lora(model, path, name="second")
    assert_draws(model, merged(original(), adapter(ONE), scale=2))


def test_what_a_pipeline_saves_has_its_alpha(tmp_path):
    """Settings then have the name of the pipeline's part before their own."""
    factors = adapter(published_targets())
    settings = {"transformer.r": RANK, "transformer.lora_alpha": 2 * RANK}
    saved = {f"transformer.{key}": value for key, value in in_our_names(factors).items()}
    save_file(saved, tmp_path / "lora.safetensors", {"lora_adapter_metadata": json.dumps(settings)})
    model = model_of(original())
    load_lora(model, tmp_path / "lora.safetensors")
    assert_draws(model, merged(original(), factors, scale=2))


def test_an_adapter_that_never_learnt_changes_nothing(tmp_path):
    """As that of pooler.q_proj of the original code."""
    factors = adapter(["pooler.q_proj"])
    factors["pooler.q_proj.lora_B.weight"].zero_()
    model = model_of(original())
    load_lora(model, folder(tmp_path / "lora", factors))
    assert_draws_as_without(model)


def test_what_diffusers_saves_comes_back(tmp_path):
    """With the settings inside the file."""
    model, again = model_of(original()), model_of(original())
    load_lora(model, folder(tmp_path / "lora", adapter(published_targets()), lora_alpha=5))
    model.save_lora_adapter(tmp_path / "saved", adapter_name="lora")
    load_lora(again, tmp_path / "saved")
    assert_equal(SUBJECT.run(again), SUBJECT.run(model))


def test_an_adapter_acts_while_cached(tmp_path):
    factors = adapter(published_targets())
    adapted, plain = model_of(original()), model_of(merged(original(), factors))
    cache = SkipCacheConfig(interval=2)
    for model in (adapted, plain):
        model.enable_cache(cache)
    load_lora(adapted, folder(tmp_path / "lora", factors))
    outputs = SUBJECT.run(adapted)
    torch.testing.assert_close(outputs, SUBJECT.run(plain), rtol=0, atol=ROUNDING)
    assert adapted.cache_stats()["default"].plan == "#.#.#"
    adapted.disable_cache()
    assert not torch.equal(outputs[1], SUBJECT.run(adapted)[1])


def test_an_adapter_takes_the_precision_of_the_model(tmp_path):
    model = model_of(original()).half()
    load_lora(model, folder(tmp_path / "lora", adapter(["blocks.0.attn2.kv_proj"])))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float16}


# What does not fit.


def without(factors: State, key: str) -> State:
    return {name: value for name, value in factors.items() if name != key}


MISFITS = {
    "a name that fits nothing": (
        {
            "blocks.9.attn1.Wqkv.lora_A.weight": torch.ones(1, 16),
            "blocks.9.attn1.Wqkv.lora_B.weight": torch.ones(48, 1),
        },
        r"1 no linear layers of it, or twice: blocks\.9\.attn1\.Wqkv",
    ),
    "a layer that is not linear": (
        {"x_embedder.proj.lora_A.weight": torch.ones(1, 16), "x_embedder.proj.lora_B.weight": torch.ones(16, 1)},
        r"1 no linear layers of it, or twice: x_embedder\.proj",
    ),
    "one layer under both its names": (
        adapter(ONE) | in_our_names(adapter(ONE)),
        r"4 no linear layers of it, or twice: blocks\.0\.attn1\.Wqkv, blocks\.0\.attn1\.to_k",
    ),
    "half a pair": (without(adapter(ONE), "blocks.0.attn1.Wqkv.lora_B.weight"), r"pairs .*: blocks\.0\.attn1\.Wqkv"),
    "another shape": (
        adapter(ONE) | {"blocks.0.attn1.Wqkv.lora_B.weight": torch.ones(47, RANK)},
        r"1 of another shape: blocks\.0\.attn1\.Wqkv \(3, 16\), \(47, 3\)",
    ),
    "two ranks": (adapter(ONE) | {"blocks.0.attn1.Wqkv.lora_B.weight": torch.ones(48, 2)}, r"\(3, 16\), \(48, 2\)"),
    "no matrix": (adapter(ONE) | {"blocks.0.attn1.Wqkv.lora_B.weight": torch.ones(48)}, r"Wqkv\.lora_B\.weight"),
    "another kind of adapter": ({"blocks.0.attn1.Wqkv.lokr_w1": torch.ones(2, 2)}, r"pairs .*: blocks.*lokr_w1"),
    "a magnitude": (adapter(ONE) | {"blocks.0.attn1.Wqkv.lora_magnitude_vector": torch.ones(48)}, "magnitude_vector"),
    "nothing": ({}, "it holds nothing"),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_what_does_not_fit_is_listed_and_the_model_stays_as_it_was(tmp_path, misfit):
    factors, message = MISFITS[misfit]
    model = model_of(original())
    save_file(factors, tmp_path / "lora.safetensors")
    with pytest.raises(CheckpointError, match=message) as raised:
        load_lora(model, tmp_path / "lora.safetensors")
    assert "\n" not in str(raised.value)
    assert model.state_dict().keys() == model_of(original()).state_dict().keys()


def test_a_path_without_an_adapter_says_what_to_name(tmp_path):
    (tmp_path / "lora.bin").write_bytes(b"0")
    for path in (tmp_path / "nowhere", tmp_path / "nowhere.safetensors", tmp_path, tmp_path / "lora.bin"):
        with pytest.raises(FileNotFoundError, match=r"no adapter at .*: name a \.safetensors file, or a folder"):
            load_lora(model_of(original()), path)


@pytest.mark.parametrize("broken", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_broken_file_says_so_in_one_line(tmp_path, broken):
    path = folder(tmp_path / "lora", adapter(ONE))
    (tmp_path / "lora" / broken).write_bytes((tmp_path / "lora" / broken).read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="cannot be read .*: download or copy it again") as raised:
        load_lora(model_of(original()), path)
    assert "\n" not in str(raised.value)


def test_a_name_is_given_once_and_a_scale_is_finite(tmp_path):
    path, model = folder(tmp_path / "lora", adapter(ONE)), model_of(original())
    with pytest.raises(ValueError, match="scale is nan: give a finite number"):
        load_lora(model, path, scale=float("nan"))
    load_lora(model, path)
    with pytest.raises(ValueError, match="name is 'lora': an adapter of this name is loaded"):
        load_lora(model, path)


def test_without_peft_the_package_is_named(tmp_path, monkeypatch):
    path = folder(tmp_path / "lora", adapter(ONE))
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(OSError, match=r"LoRA cannot be loaded \(.*peft.*\): pip install 'skipdit\[lora\]'"):
        load_lora(model_of(original()), path)


def test_a_file_in_a_folder_of_peft_has_the_settings_beside_it(tmp_path):
    factors = adapter(published_targets())
    path = folder(tmp_path / "lora", factors, lora_alpha=2 * RANK)
    assert load_file(f"{path}/adapter_model.safetensors").keys() != factors.keys()
    model = model_of(original())
    load_lora(model, f"{path}/adapter_model.safetensors")
    assert_draws(model, merged(original(), factors, scale=2))
