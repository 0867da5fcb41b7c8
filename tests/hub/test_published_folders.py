"""Whole pipelines as they are published, at tiny size: drawn as by diffusers' own classes, cached, or refused."""

import io
import json
import shutil
import sys
from pathlib import Path

import pytest
import sentencepiece
import torch
from diffusers import AutoencoderKLTemporalDecoder, HunyuanDiTPipeline, LattePipeline, LatteTransformer3DModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

from skipdit import HunyuanDiT, LatteT2V, SkipCacheConfig
from skipdit.hub import CheckpointError, load_pipeline
from skipdit.hub.errors import NotFiniteError, UnsafeCheckpointError
from skipdit.hub.load import embedded_folder, load_model
from skipdit.hub.names import HUNYUAN
from tests.pipelines.published_folders import (
    LATTE,
    LEFTOVER,
    WEIGHTS,
    edit,
    hunyuan,
    latte_0,
    latte_1,
    module_dtypes,
    stock_latte,
)
from tests.pipelines.tiny import tiny_latte_t2v

VERSIONS = ["1.1", "1.2", "1.1-distilled", "1.2-distilled"]
VIDEO = {"height": 16, "width": 16, "video_length": 3, "decode_chunk_size": 14}
IMAGE = {"height": 64, "width": 64, "use_resolution_binning": False}
CACHE = SkipCacheConfig(interval=2, window=(50, 700))


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("published")


@pytest.fixture(scope="module")
def latte(place) -> Path:
    return latte_1(place / "Latte-1")


@pytest.fixture(scope="module")
def older(place) -> Path:
    return latte_0(place / "Latte-0") / "transformer"


@pytest.fixture(scope="module")
def hunyuan_1_2(place) -> Path:
    return hunyuan(place / "HunyuanDiT", "1.2")


def without_model(folder: Path, to: Path) -> Path:
    """As the registry's `latte-base` is downloaded: its model_index.json still names a transformer."""
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns("transformer", "vae_temporal_decoder"))
    assert "transformer" in json.loads((to / "model_index.json").read_text())
    return to


def drawn(pipe: DiffusionPipeline) -> Tensor:
    pipe.set_progress_bar_config(disable=True)
    sizes = VIDEO if isinstance(pipe, LattePipeline) else IMAGE
    rng = torch.Generator().manual_seed(0)
    return pipe("a red apple", num_inference_steps=4, generator=rng, output_type="pt", return_dict=False, **sizes)[0]


def check_cache(pipe: DiffusionPipeline, uncached: Tensor) -> None:
    pipe.transformer.enable_cache(CACHE)
    assert not torch.equal(drawn(pipe), uncached)
    stats = pipe.transformer.cache_stats()["default"]
    assert (stats.plan, stats.full, stats.cached) == ("#.#.", 2, 2)


# They draw what diffusers' own classes draw.


def test_latte_1_draws_the_same_bits(latte):
    ours, theirs = load_pipeline(str(latte)), LattePipeline.from_pretrained(latte)
    assert (type(ours.transformer), type(theirs.transformer)) == (LatteT2V, LatteTransformer3DModel)
    expected = drawn(theirs)
    assert torch.equal(drawn(ours), expected)
    check_cache(ours, expected)


def test_latte_1_decodes_with_the_autoencoder_of_a_folder_beside_it(latte):
    vae = latte / "vae_temporal_decoder"
    theirs = LattePipeline.from_pretrained(latte, vae=AutoencoderKLTemporalDecoder.from_pretrained(vae))
    assert torch.equal(drawn(load_pipeline(str(latte), vae=str(vae))), drawn(theirs))


def test_latte_0_draws_the_same_bits_with_the_rest_of_latte_1(older, latte, tmp_path):
    """Its class is of the published code, and its weights hold a buffer that no model has any more."""
    assert LEFTOVER in load_file(older / WEIGHTS)
    ours = load_pipeline(str(older), base=str(without_model(latte, tmp_path / "base")))
    theirs = LattePipeline.from_pretrained(latte, transformer=stock_latte(seed=1))
    expected = drawn(theirs)
    assert torch.equal(drawn(ours), expected)
    check_cache(ours, expected)


@pytest.mark.parametrize("version", VERSIONS)
def test_hunyuan_dit_draws_the_same_but_for_rounding(tmp_path, version):
    """Its rotary tables are worked out in another order."""
    folder = hunyuan(tmp_path / "folder", version)
    ours, theirs = load_pipeline(str(folder)), HunyuanDiTPipeline.from_pretrained(folder)
    assert (type(ours.transformer), ours.transformer.num_skips) == (HunyuanDiT, 2)
    assert ours.transformer.config.use_style_cond_and_image_meta_size == version.startswith("1.1")
    assert ours.scheduler.config.beta_end == (0.03 if version.startswith("1.1") else 0.018)
    expected = drawn(ours)
    torch.testing.assert_close(expected, drawn(theirs), rtol=0, atol=1e-5)
    check_cache(ours, expected)


# A model alone, and a base that lacks one.


def test_a_base_without_a_transformer_lends_the_rest_of_latte(latte, tmp_path):
    settings = {name: LATTE[name] for name in ("in_channels", "out_channels", "caption_channels")}
    model = tiny_latte_t2v(**settings, num_skips=2)
    model.save_pretrained(tmp_path / "model")
    base = without_model(latte, tmp_path / "base")
    pipe = load_pipeline(str(tmp_path / "model"), base=str(base))
    uncached = drawn(pipe)
    assert torch.equal(uncached, drawn(LattePipeline.from_pretrained(latte, transformer=model)))
    check_cache(pipe, uncached)


def test_a_base_without_a_transformer_lends_the_rest_of_hunyuan_dit(hunyuan_1_2, tmp_path):
    state = load_file(hunyuan_1_2 / "transformer" / WEIGHTS)
    torch.save({"module": HUNYUAN.to_original(state)}, tmp_path / "pytorch_model_distill.pt")
    base = without_model(hunyuan_1_2, tmp_path / "base")
    config = load_model(str(hunyuan_1_2)).config
    pipe = load_pipeline(str(tmp_path / "pytorch_model_distill.pt"), base=str(base))
    assert pipe.transformer.config.num_layers == config.num_layers
    assert torch.equal(drawn(pipe), drawn(load_pipeline(str(hunyuan_1_2))))


# Everything computes in float32, whatever it is kept in.


@pytest.mark.filterwarnings("ignore:timestep comes in bfloat16")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("model", ["latte", "hunyuan"])
def test_parts_kept_small_compute_in_float32(tmp_path, model, dtype):
    make = latte_1 if model == "latte" else lambda path, **kept: hunyuan(path, "1.2", **kept)
    folder = make(tmp_path / "folder", dtype=dtype)
    pipe = load_pipeline(str(folder))
    assert module_dtypes(pipe) == {torch.float32}
    assert drawn(pipe).isfinite().all()
    narrow = drawn(pipe.to(dtype))
    assert (module_dtypes(pipe), narrow.isfinite().all().item()) == ({dtype}, True)


def test_the_embedded_text_to_image_model_computes_in_float32_and_draws_what_its_weights_as_kept_draw():
    folder = embedded_folder("emoji-hunyuan")
    assert {tensor.dtype for tensor in load_file(folder / "text_encoder" / "model.safetensors").values()} == {
        torch.float16
    }
    pipe = load_pipeline("emoji-hunyuan", scheduler="ddim")
    assert module_dtypes(pipe) == {torch.float32}
    wide = drawn(pipe)
    pipe.text_encoder.half()
    torch.testing.assert_close(drawn(pipe), wide, rtol=0, atol=0.02)


# What is broken says so in one line.


def set_weights(file: Path, **changes: Tensor | None) -> None:
    state = load_file(file) | {key.replace("__", "."): value for key, value in changes.items()}
    kept = {key: value for key, value in state.items() if value is not None}
    save_file(kept, file, metadata={"format": "pt"})


def shard(folder: Path, number: int) -> Path:
    return folder / "text_encoder" / f"model-{number:05d}-of-00002.safetensors"


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-9])


def lose_a_weight(folder: Path) -> None:
    """From the shards of the text encoder and from their index."""
    index = folder / "text_encoder" / "model.safetensors.index.json"
    places = json.loads(index.read_text())["weight_map"]
    name = "encoder.final_layer_norm.weight"
    set_weights(folder / "text_encoder" / places.pop(name), **{name: None})
    edit(index, weight_map=places)


NAN = torch.full((8,), float("nan"))
MODEL, VAE = f"transformer/{WEIGHTS}", f"vae/{WEIGHTS}"
BREAKAGES = {
    "a weight too few": (lambda f: set_weights(f / MODEL, proj_out__bias=None), "1 missing: proj_out.bias"),
    "a weight too many": (lambda f: set_weights(f / MODEL, surplus=NAN), "1 unexpected: surplus"),
    "skips too many": (lambda f: set_weights(f / MODEL, skip_norms__0__bias=NAN), "1 unexpected: skip_norms.0.bias"),
    "no model": (lambda f: shutil.rmtree(f / "transformer"), r"transformer/config\.json cannot be read"),
    "an autoencoder of a weight too few": (lambda f: set_weights(f / VAE, decoder__conv_in__bias=None),
                                           "vae does not fit its config.json: 1 missing: decoder.conv_in.bias"),
    "a cut autoencoder": (lambda f: cut(f / VAE), "vae does not hold a whole AutoencoderKL"),
    "no text encoder": (lambda f: shutil.rmtree(f / "text_encoder"), "text_encoder has no config.json"),
    "a text encoder that is not named": (lambda f: edit(f / "model_index.json", text_encoder=[None, None]),
                                         r"model_index\.json names no text_encoder"),
    "a text encoder of another library": (lambda f: edit(f / "model_index.json", text_encoder=["transformers", "Yes"]),
                                          "text_encoder does not hold a whole Yes"),
    "a text encoder of a weight too few": (lose_a_weight, "1 missing: encoder.final_layer_norm.weight"),
    "a shard too few": (lambda f: shard(f, 2).unlink(), "text_encoder does not hold a whole T5EncoderModel"),
    "a cut shard": (lambda f: cut(shard(f, 1)), "text_encoder does not hold a whole T5EncoderModel"),
    "no tokenizer": (lambda f: shutil.rmtree(f / "tokenizer"), r"tokenizer has no tokenizer\.json, spiece\.model"),
    "a broken tokenizer": (lambda f: (f / "tokenizer" / "tokenizer.json").write_text("{"), "not hold a whole Latte"),
}  # fmt: skip


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_a_broken_latte_folder_says_so_in_one_line(latte, tmp_path, breakage, capfd):
    breaks, message = BREAKAGES[breakage]
    folder = Path(shutil.copytree(latte, tmp_path / "broken"))
    breaks(folder)
    with pytest.raises(CheckpointError, match=message) as raised:
        load_pipeline(str(folder))
    assert str(folder) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "MISSING" not in capfd.readouterr().err, "the table of transformers"


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("embeddings.LayerNorm.weight", None, CheckpointError, "1 missing: embeddings.LayerNorm.weight"),
        ("embeddings.LayerNorm.weight", torch.full((12,), float("inf")), NotFiniteError,
         "text_encoder.embeddings.LayerNorm.weight has 12 of 12 weights NaN or infinite"),
    ],
)  # fmt: skip
def test_a_bert_of_which_a_weight_is_lost_is_refused(hunyuan_1_2, tmp_path, name, value, error, message):
    folder = Path(shutil.copytree(hunyuan_1_2, tmp_path / "broken"))
    set_weights(folder / "text_encoder" / "model.safetensors", **{name: value})
    with pytest.raises(error, match=message):
        load_pipeline(str(folder))


def test_a_bert_needs_no_pooler_and_may_hold_more_than_it_needs(hunyuan_1_2, tmp_path):
    folder = Path(shutil.copytree(hunyuan_1_2, tmp_path / "other"))
    changes = {"pooler__dense__weight": None, "pooler__dense__bias": None, "embeddings__position_ids": torch.arange(77)}
    set_weights(folder / "text_encoder" / "model.safetensors", **changes)
    assert torch.equal(drawn(load_pipeline(str(folder))), drawn(load_pipeline(str(hunyuan_1_2))))


def test_weights_that_are_a_pickle_alone_are_refused_with_the_command_that_rewrites_them(older, tmp_path):
    folder = Path(shutil.copytree(older, tmp_path / "pickled"))
    torch.save(load_file(folder / WEIGHTS), folder / "diffusion_pytorch_model.bin")
    assert load_model(str(folder)).num_skips == 0, "beside safetensors it is not looked at"
    (folder / WEIGHTS).unlink()
    with pytest.raises(UnsafeCheckpointError, match=f"rewrite them with `skipdit convert {folder} OUT`"):
        load_model(str(folder))


# The tokenizer as it is published: a SentencePiece model and no tokenizer.json.


@pytest.fixture
def pieces(latte, tmp_path) -> Path:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a red apple", "a blue cat"] * 4), model_writer=model, vocab_size=24, pad_id=0,
        eos_id=1, unk_id=2, bos_id=-1, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    folder = Path(shutil.copytree(latte, tmp_path / "pieces"))
    (folder / "tokenizer" / "tokenizer.json").unlink()
    (folder / "tokenizer" / "spiece.model").write_bytes(model.getvalue())
    return folder


def test_a_tokenizer_of_pieces_reads_text(pieces):
    pytest.importorskip("google.protobuf")
    tokenizer = load_pipeline(str(pieces)).tokenizer
    ids = tokenizer("a red apple").input_ids
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a red apple"


def test_a_tokenizer_of_pieces_says_which_packages_it_needs(pieces, monkeypatch):
    monkeypatch.setitem(sys.modules, "google.protobuf", None)
    with pytest.raises(OSError, match=r"spiece\.model needs sentencepiece and protobuf: pip install 'skipdit\[text\]'"):
        load_pipeline(str(pieces))
