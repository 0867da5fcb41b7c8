"""The registry is what was published: models build, caches are the paper's, parts exist."""

import json
from fnmatch import fnmatchcase
from types import MappingProxyType

import pytest
import torch

from skipdit.caching import SkipCacheConfig
from skipdit.hub import registry
from skipdit.hub.architectures import ARCHITECTURES
from skipdit.hub.registry import REGISTRY, Hub, Published, needed, published
from skipdit.models import DiT, HunyuanDiT, Latte, LatteT2V

MODELS = [model for model in REGISTRY.values() if model.task != "part"]
CACHED = [model for model in MODELS if model.recipe.cache is not None]
PARAMETERS = {  # worked out apart from this package
    "dit-xl-2-256": 675_129_632,
    "dit-xl-2-512": 676_014_368,
    "dit-xl-2-skip": 712_369_184,
    "latte-ucf101": 673_994_912 + 102 * 1152,
    "latte-ffs": 673_994_912,
    "latte-skytimelapse": 673_994_912,
    "latte-taichi": 673_994_912,
    "latte-ucf101-skip": 692_732_192,
    "latte-ffs-skip": 692_614_688,
    "latte-skytimelapse-skip": 692_614_688,
    "latte-taichi-skip": 692_614_688,
    "latte-0": 1_057_246_880,
    "latte-1": 1_057_246_880,
    "latte-t2v-skip": 1_094_486_432,
    "hunyuandit-v1.0": 1_516_534_048,
    "hunyuandit-v1.1": 1_516_534_048,
    "hunyuandit-v1.2": 1_499_952_032,
    "hunyuandit-v1.0-distilled": 1_516_534_048,
    "hunyuandit-v1.1-distilled": 1_516_534_048,
    "hunyuandit-v1.2-distilled": 1_499_952_032,
}
VAE, TEMPORAL_VAE, T5, MT5, BERT = 83_653_863, 97_742_847, 4_762_310_656, 1_669_958_656, 352_035_840  # parameters
BESIDE = {"latte-1": T5 + VAE} | {model.name: BERT + MT5 + VAE for model in MODELS if model.task == "text-to-image"}
PARTS = {
    "sd-vae-ft-mse": VAE, "sd-vae-ft-ema": VAE, "latte-vae": VAE, "latte-temporal-vae": TEMPORAL_VAE,
    "latte-base": T5 + VAE,
}  # fmt: skip
PUBLISHED_GB = {"dit-xl-2-skip": 11.40, "latte-t2v-skip": 8.76} | {
    f"latte-{data}-skip": 2.77 for data in ("ucf101", "ffs", "skytimelapse", "taichi")
}
TASKS = {DiT: "class-to-image", Latte: "class-to-video", LatteT2V: "text-to-video", HunyuanDiT: "text-to-image"}


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_every_model_has_the_published_parameters_by_its_config(model):
    kind = ARCHITECTURES[model.arch].model
    with torch.device("meta"):
        built = kind(**model.config)
    assert sum(parameter.numel() for parameter in built.parameters()) == PARAMETERS[model.name]
    assert TASKS[kind] == model.task


def test_the_numbers_of_parameters_are_those_of_the_whole_registry():
    assert PARAMETERS.keys() | PARTS.keys() == REGISTRY.keys()


@pytest.mark.parametrize("model", REGISTRY.values(), ids=lambda model: model.name)
def test_sizes_are_four_bytes_a_parameter_or_what_was_published(model):
    if model.size_from == "published":
        assert model.size == PUBLISHED_GB[model.name] * 1e9
    else:
        parameters = PARTS.get(model.name) or PARAMETERS[model.name] + BESIDE.get(model.name, 0)
        assert model.size == 4 * parameters


@pytest.mark.parametrize("model", CACHED, ids=lambda model: model.name)
def test_every_cache_is_the_one_published_for_its_task(model):
    assert model.recipe.cache == SkipCacheConfig.preset(model.task)


def test_models_with_skips_are_those_with_a_published_cache():
    with_skips = {model.name for model in MODELS if model.config.get("num_skips") or model.task == "text-to-image"}
    assert with_skips == {model.name for model in CACHED}
    assert len(with_skips) == 12


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_every_size_of_a_recipe_is_that_of_the_model(model):
    latents = model.config.get("sample_size", 128)
    assert model.recipe.size == (8 * latents, 8 * latents)
    assert (model.recipe.frames == 16) == ("video" in model.task)


def test_parts_are_parts_and_vanilla_models_are_the_same_without_skips():
    for model in MODELS:
        assert [part.task for part in needed(model.name)[1:]] == ["part"] * len(model.parts)
        if model.vanilla:
            theirs = dict(published(model.vanilla).config)
            assert {**theirs, "num_skips": model.config["num_skips"]} == model.config
            assert published(model.vanilla).task == model.task


def test_the_swapped_links_of_the_published_page_are_right_here():
    assert published("dit-xl-2-skip").source.files == ("DiT-XL-2-skip.pt",)
    assert published("latte-t2v-skip").source.files == ("Latte-skip.pt",)
    assert published("latte-skytimelapse-skip").source.files == ("skylapse-skip.pt",)  # as it is spelt there


def test_weights_are_safetensors_or_published_checkpoints():
    for model in REGISTRY.values():
        assert not [name for name in model.source.files if ".bin" in name]
        assert (model.format == "original") == (model.source.files[0].endswith(".pt"))


def test_weights_come_with_the_index_of_their_shards():
    patterns = [pattern for model in REGISTRY.values() for pattern in model.source.files if "safetensors" in pattern]
    assert len(patterns) == 34
    assert all(fnmatchcase(f"{pattern.rstrip('*')}.index.json", pattern) for pattern in patterns)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("vae/model.safetensors", True),
        ("vae/model-00001-of-00002.safetensors", True),
        ("vae/model.safetensors.index.json", True),
        ("vae/config.json", True),
        ("vae/model.fp16.safetensors", False),
        ("vae/model.fp16-00001-of-00002.safetensors", False),
        ("vae/model.safetensors.index.fp16.json", False),
        ("vae/model.non_ema.safetensors", False),
        ("vae/older/model.safetensors", False),
        ("model.safetensors", False),
        ("named.fp16.safetensors", True),  # which is no pattern
    ],
)
def test_a_pattern_is_of_one_folder_and_of_no_variant(name, wanted):
    assert Hub("a/b", ("vae/config.json", "vae/*.safetensors*", "named.fp16.safetensors")).wants(name) == wanted


def test_entries_cannot_be_changed():
    assert isinstance(published("dit-xl-2-skip").config, MappingProxyType)
    with pytest.raises(TypeError):
        REGISTRY["mine"] = published("dit-xl-2-skip")


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"'dit-xl-skip': did you mean dit-xl-2-skip"):
        published("dit-xl-skip")
    with pytest.raises(ValueError, match=r"called '\?': `skipdit models` lists them"):
        published("?")


def settings(**changes) -> dict:
    whole = {
        "title": "a part", "task": "part", "source": {"repo": "a/b", "files": ["c.pt"]}, "bytes": 1,
        "bytes_from": "computed", "licence": "none", "format": "original",
    }  # fmt: skip
    return {key: value for key, value in (whole | changes).items() if value is not None}


@pytest.mark.parametrize(
    ("name", "changes", "fault"),
    [
        ("a", {"licence": None}, "missing licence"),
        ("a", {"colour": "blue"}, "unknown or missing colour"),
        ("a", {"source": {"repo": "a/b", "file": "c.pt"}}, "Hub with unknown or missing file, files"),
        ("a", {"recipe": {"steps": 50}}, "Recipe with unknown or missing"),
        ("a", {"task": "image"}, "has 'image'"),
        ("a", {"format": "pickle"}, "has 'pickle'"),
        ("a", {"parts": {"vae": "b"}}, "needs 'b'"),
        ("a", {"parts": {"text": "a"}}, "a part for text"),
        ("a", {"vanilla": "b"}, "needs 'b'"),
        ("a", {"numbers": {"source": "s", "columns": ["FID"], "rows": {"N=2": [1, 2]}}}, "rows N=2 of other lengths"),
        ("a", {"source": {"repo": "a/b", "files": ["c"], "path": "../c"}}, "leads out of its folder"),
        ("../a", {}, "is no name"),
        ("A", {}, "is no name"),
        ("", {}, "is no name"),
    ],
)
def test_a_registry_with_a_fault_is_refused(tmp_path, name, changes, fault):
    path = tmp_path / "registry.json"
    path.write_text(json.dumps({name: settings(**changes)}))
    with pytest.raises(ValueError, match=fault):
        registry.read(path)


def test_a_whole_registry_is_read(tmp_path):
    path = tmp_path / "registry.json"
    path.write_text(json.dumps({"a": settings()}))
    assert registry.read(path)["a"] == Published(
        name="a", title="a part", task="part", source=Hub("a/b", ("c.pt",)), size=1, size_from="computed",
        licence="none", format="original",
    )  # fmt: skip
