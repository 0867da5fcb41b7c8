"""A sketch is what `load_pipeline` gives, but for the weights: so what it refuses, the whole would refuse."""

import json

import pytest
import torch
from diffusers import DiffusionPipeline
from huggingface_hub import constants

from skipdit import DiT
from skipdit.hub import EMBEDDED, load_pipeline
from skipdit.hub.errors import CheckpointError
from skipdit.hub.load import class_of
from skipdit.hub.registry import REGISTRY
from skipdit.hub.sketch import sketch
from skipdit.pipelines.class_conditional import ClassConditionalPipeline
from tests.pipelines.tiny import hunyuan_pipeline, tiny, tiny_stock_hunyuan, tiny_vae

MODELS = [name for name, entry in REGISTRY.items() if entry.arch]


@pytest.fixture
def nothing_here(tmp_path, monkeypatch):
    """As on a machine where nothing is downloaded, and nothing can be."""
    monkeypatch.setenv("SKIPDIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def settings(part) -> dict | None:
    return None if part is None else {name: value for name, value in part.config.items() if name[0] != "_"}


def assert_same_but_for_weights(bare: DiffusionPipeline, whole: DiffusionPipeline) -> None:
    assert type(bare) is type(whole)
    assert {parameter.device.type for parameter in bare.transformer.parameters()} == {"meta"}
    for name in ("transformer", "scheduler", "vae"):
        assert type(getattr(bare, name)) is type(getattr(whole, name))
        assert settings(getattr(bare, name)) == settings(getattr(whole, name))


@pytest.mark.parametrize("name", EMBEDDED)
@pytest.mark.parametrize("scheduler", [None, "ddim"])
def test_a_sketch_of_an_embedded_model_is_all_but_the_weights(name, scheduler):
    assert_same_but_for_weights(sketch(name, scheduler=scheduler), load_pipeline(name, scheduler=scheduler))


def test_a_sketch_of_a_folder_has_the_autoencoder_of_its_name(tmp_path):
    tiny(in_channels=4).save_pretrained(tmp_path / "model")
    tiny_vae().save_pretrained(tmp_path / "vae")
    source, vae = str(tmp_path / "model"), str(tmp_path / "vae")
    assert_same_but_for_weights(sketch(source, vae=vae), load_pipeline(source, vae=vae))


def test_a_sketch_of_a_pipeline_folder_has_its_noise_and_its_autoencoder(tmp_path):
    hunyuan_pipeline(tmp_path, tiny_stock_hunyuan()).save_pretrained(tmp_path / "pipe")
    source = str(tmp_path / "pipe")
    assert_same_but_for_weights(sketch(source, beta_end=0.02), load_pipeline(source, beta_end=0.02))


def test_a_sketch_of_a_file_is_of_the_set_of_weights_that_is_named(tmp_path):
    sizes = {"ema": DiT.from_size("S/8", num_skips=2).half(), "model": DiT.from_size("S/8").half()}
    torch.save({name: model.state_dict() for name, model in sizes.items()}, tmp_path / "sets.pt")
    for weights, model in sizes.items():
        assert sketch(str(tmp_path / "sets.pt"), weights=weights).transformer.config.num_skips == model.num_skips


@pytest.mark.parametrize("name", MODELS)
def test_a_sketch_of_a_published_model_draws_pictures_of_the_published_size(nothing_here, name):
    entry, pipeline = REGISTRY[name], sketch(name)
    assert type(pipeline.transformer) is class_of(entry)
    side = pipeline.transformer.config.sample_size
    if isinstance(pipeline, ClassConditionalPipeline):
        assert pipeline.latent_size(*entry.recipe.size) == (side, side)
    else:
        assert tuple(entry.recipe.size) == (side * pipeline.vae_scale_factor,) * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": "nowhere"}, "unknown model 'nowhere': take one of"),
        ({"source": "sd-vae-ft-mse"}, "sd-vae-ft-mse is a part"),
        ({"source": "dit-xl-2-skip", "base": "latte-base"}, "base is 'latte-base' .* which is none for a DiT"),
        ({"source": "dit-xl-2-skip", "vae": "nowhere"}, "vae is 'nowhere': name the folder of an AutoencoderKL"),
        ({"source": "dit-xl-2-skip", "vae": "sd-vae-ft-mae"}, "vae is .* did you mean sd-vae-ft-m"),
        ({"source": "latte-1", "base": "latte-bse"}, "base is 'latte-bse': did you mean latte-base"),
        ({"source": "latte-1", "base": "nowhere"}, "base is 'nowhere': name the folder of a text pipeline"),
        ({"source": "latte-1", "scheduler": "fast"}, "unknown scheduler 'fast'"),
        ({"source": "hunyuandit-v1.2", "beta_end": 2.0}, "beta_end must lie above beta_start"),
    ],
)
def test_what_is_known_without_weights_is_refused_without_them(nothing_here, arguments, message):
    with pytest.raises(ValueError, match=message):
        sketch(**arguments)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"_class_name": "StableDiffusionPipeline"}, "holds a StableDiffusionPipeline: LatteT2V takes its parts from"),
        ({"_class_name": "LattePipeline"}, "names no tokenizer"),
    ],
)
def test_a_base_that_cannot_lend_is_refused_before_anything_is_downloaded(nothing_here, tmp_path, index, message):
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=message):
        sketch("latte-t2v-skip", base=str(tmp_path))
