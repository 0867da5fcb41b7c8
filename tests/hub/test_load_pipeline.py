"""One name for a model, however it is kept; what is broken says so in one line."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from skipdit import DiT
from skipdit.evaluation.price import settings
from skipdit.hub import EMBEDDED, CheckpointError, load_original, load_pipeline
from skipdit.hub.errors import NotFiniteError
from skipdit.hub.load import files_of, model_config
from skipdit.pipelines.draw import Settings, draw
from skipdit.randomness import generator
from tests.pipelines.tiny import latents_of, pipeline, tiny, tiny_vae

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path):
    """A model as `save_pretrained` keeps it."""
    tiny().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def drawn(pipe):
    pipe.set_progress_bar_config(disable=True)
    return latents_of(pipe)


# Where a model may lie.


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_embedded_models_are_there(name):
    pipe = load_pipeline(name, scheduler="ddim")
    model = pipe.transformer
    skips = {"skip": model.depth // 2, "hunyuan": model.depth // 2 - 1}
    assert model.num_skips == skips.get(name.rpartition("-")[2], 0)
    assert (model.dtype, model.training) == (torch.float32, False)
    pipe.set_progress_bar_config(disable=True)
    subject = {"captioned": "the digit eight moving upwards", "emoji": "a red apple"}.get(name.partition("-")[0], 1)
    samples = draw(pipe, [subject], [generator(0)], Settings(steps=2))
    assert (samples.min() >= 0) & (samples.max() <= 1) & (samples.std() > 0)


def test_a_model_folder_draws_what_the_model_draws(folder):
    assert torch.equal(drawn(load_pipeline(str(folder), scheduler="ddim")), latents_of(pipeline()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_kept_small_are_computed_with_in_float32(tmp_path, dtype):
    model = tiny().to(dtype)
    model.save_pretrained(tmp_path)
    assert torch.equal(drawn(load_pipeline(str(tmp_path), scheduler="ddim")), latents_of(pipeline(model.float())))


def test_a_pipeline_folder_without_a_vae_draws_what_the_pipeline_draws(tmp_path):
    pipeline(scheduler="ddpm").save_pretrained(tmp_path)
    assert torch.equal(drawn(load_pipeline(str(tmp_path), scheduler="euler")), latents_of(pipeline(scheduler="euler")))


def test_a_pipeline_folder_brings_its_vae(tmp_path):
    torch.manual_seed(0)
    pipe = pipeline(tiny(in_channels=4), vae=tiny_vae())
    pipe.save_pretrained(tmp_path)
    again = load_pipeline(str(tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(again.vae.parameters(), pipe.vae.parameters(), strict=True))


def test_a_vae_from_a_folder_of_its_own_goes_before(tmp_path):
    torch.manual_seed(0)
    pipeline(tiny(in_channels=4), vae=tiny_vae()).save_pretrained(tmp_path / "pipeline")
    other = tiny_vae()
    other.save_pretrained(tmp_path / "vae")
    again = load_pipeline(str(tmp_path / "pipeline"), vae=str(tmp_path / "vae"))
    assert all(torch.equal(a, b) for a, b in zip(again.vae.parameters(), other.parameters(), strict=True))


def published(path) -> None:
    """A checkpoint file of the smallest published size, DiT-S/8."""
    state = DiT.from_size("S/8", num_classes=10).half().state_dict()
    torch.save({"ema": state}, path) if path.suffix != ".safetensors" else save_file(state, path)


@pytest.mark.parametrize("name", ["model.pth", "model.safetensors"])
def test_a_checkpoint_file_of_a_published_size_needs_no_words(tmp_path, name):
    published(tmp_path / name)
    pipe = load_pipeline(str(tmp_path / name))
    assert pipe.transformer.config.num_classes == 10
    assert pipe.scheduler.config.variance_type == "learned_range"


@pytest.mark.parametrize("out_channels", [1, 2])
def test_ddpm_learns_its_variance_from_models_that_have_one(tmp_path, out_channels):
    tiny(out_channels=out_channels).save_pretrained(tmp_path)
    variance = load_pipeline(str(tmp_path), scheduler="ddpm").scheduler.config.variance_type
    assert variance == {1: "fixed_small", 2: "learned_range"}[out_channels]


def test_loading_keeps_diffusers_as_talkative_as_it_was(folder):
    from diffusers.utils import logging

    before = logging.get_verbosity()
    load_pipeline(str(folder))
    (folder / WEIGHTS).unlink()
    with pytest.raises(CheckpointError):
        load_pipeline(str(folder))
    assert logging.get_verbosity() == before


def test_files_behind_linked_folders_are_of_the_model_too(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "config.json").write_text("{}")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "transformer").symlink_to(tmp_path / "blobs")
    (tmp_path / "model" / "itself").symlink_to(tmp_path / "model")
    assert files_of(str(tmp_path / "model")) == [tmp_path / "model" / "transformer" / "config.json"]


# What is not there.


@pytest.mark.parametrize("name", ["fashion", "nowhere", "nowhere.pt", "./nowhere", "organisation/model"])
def test_an_unknown_name_is_answered_with_what_there_is(name):
    known = ", ".join(EMBEDDED)
    with pytest.raises(ValueError, match=rf"unknown model '{name}': .*take one of {known}, a published one"):
        load_pipeline(name)


def test_a_repository_of_the_hub_is_answered_with_its_model_first():
    with pytest.raises(ValueError, match=r"did you mean hunyuandit-v1\.2, "):
        load_pipeline("Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers")


@pytest.mark.parametrize(("name", "meant"), [("fashion", "fashion-dit"), ("dit-xl-2-25", "dit-xl-2-256")])
def test_a_misspelt_name_is_answered_with_the_nearest(name, meant):
    with pytest.raises(ValueError, match=rf"unknown model '{name}': did you mean .*{meant}.*\? take one of"):
        load_pipeline(name)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_folder_whose_weights_are_no_numbers_is_refused(folder, value):
    state = load_file(folder / WEIGHTS)
    state["final_layer.linear.bias"][1] = value
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(NotFiniteError, match=r"final_layer\.linear\.bias has 1 of \d+ weights NaN or infinite"):
        load_pipeline(str(folder))


def test_an_empty_folder_is_no_model(tmp_path):
    with pytest.raises(ValueError, match=r"a folder with config.json or model_index.json"):
        load_pipeline(str(tmp_path))


def test_an_unknown_vae_or_scheduler_is_refused(folder):
    with pytest.raises(ValueError, match="vae is 'nowhere': name the folder of an AutoencoderKL"):
        load_pipeline(str(folder), vae="nowhere")
    with pytest.raises(ValueError, match="unknown scheduler 'fast'"):
        load_pipeline(str(folder), scheduler="fast")


# What is broken.


def set_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def set_weights(folder, **changes):
    state = load_file(folder / WEIGHTS) | {key.replace("__", "."): tensor for key, tensor in changes.items()}
    state = {key: tensor for key, tensor in state.items() if tensor is not None}
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})


BREAKAGES = {
    "truncated weights": (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:999]), "Unable to load"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), f"has no {WEIGHTS}, whole or in parts"),
    "config that is not JSON": (lambda f: (f / "config.json").write_text("{half"), "config.json cannot be read"),
    "config of no names": (lambda f: (f / "config.json").write_text("[1]"), "holds a list"),
    "config of nothing": (lambda f: (f / "config.json").write_text("{}"), "holds a None: a DiT or .* is needed"),
    "another model": (lambda f: set_config(f, _class_name="UNet2DModel"), "holds a UNet2DModel: a DiT or .* is needed"),
    "an unknown setting": (lambda f: set_config(f, colour=3), "sets colour, unknown to DiT"),
    "a setting out of bounds": (lambda f: set_config(f, num_skips=9), "num_skips is 9: depth 4 has room for 0 to 2"),
    "a weight too few": (lambda f: set_weights(f, pos_embed=None), "1 missing: pos_embed"),
    "a weight too many": (lambda f: set_weights(f, surplus=torch.ones(1)), "1 unexpected: surplus"),
    "another shape": (lambda f: set_weights(f, pos_embed=torch.ones(1, 9, 16)), "makes pos_embed 1x16x16"),
    "layers for another depth": (lambda f: set_config(f, depth=3, num_skips=1), "sets depth 3, which makes blocks 3"),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_a_broken_model_folder_says_so_in_one_line(folder, breakage):
    breaks, message = BREAKAGES[breakage]
    breaks(folder)
    with pytest.raises(CheckpointError, match=message) as raised:
        load_pipeline(str(folder))
    assert str(folder) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("part", "kind"), [("transformer", "DiT"), ("vae", "AutoencoderKL")])
def test_a_broken_pipeline_folder_says_so_in_one_line(tmp_path, part, kind):
    torch.manual_seed(0)
    pipeline(tiny(in_channels=4), vae=tiny_vae()).save_pretrained(tmp_path)
    weights = tmp_path / part / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match=f"{part} does not hold a whole {kind}") as raised:
        load_pipeline(str(tmp_path))
    assert "\n" not in str(raised.value)


def test_a_pipeline_folder_without_its_model_is_no_pipeline(tmp_path):
    pipeline().save_pretrained(tmp_path)
    shutil.rmtree(tmp_path / "transformer")
    with pytest.raises(CheckpointError, match=r"transformer/config\.json cannot be read"):
        load_pipeline(str(tmp_path))


# The settings alone.


def test_settings_are_read_without_weights(folder):
    (folder / WEIGHTS).unlink()
    assert model_config(str(folder)).items() >= {"depth": 4, "num_skips": 2, "hidden_size": 16}.items()
    assert not [name for name in model_config(str(folder)) if name.startswith("_")]


def test_settings_of_a_pipeline_folder_are_those_of_its_transformer(tmp_path):
    pipeline().save_pretrained(tmp_path)
    assert model_config(str(tmp_path))["depth"] == 4


def test_settings_make_the_model(folder):
    assert settings(DiT(**model_config(str(folder)))) == settings(tiny())


# A published checkpoint becomes a folder.


def test_a_checkpoint_file_goes_through_a_folder_and_back(tmp_path):
    torch.save({"ema": tiny().state_dict()}, tmp_path / "model.pt")
    load_original(tmp_path / "model.pt", num_heads=2).save_pretrained(tmp_path / "model")
    assert torch.equal(drawn(load_pipeline(str(tmp_path / "model"), scheduler="ddim")), latents_of(pipeline()))


def test_more_layers_than_the_weights_can_hold_are_refused_before_any_is_built(tmp_path):
    tiny().save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"depth": 10**7}))
    with pytest.raises(CheckpointError, match=r"sets depth 10000000, more than its weights of .* bytes hold"):
        load_pipeline(str(tmp_path))
    with pytest.raises(ValueError, match="depth is 10000000: it must be at most 1000"):
        tiny(depth=10**7)


# Names of classes, precision and place.


def test_classes_have_names(tmp_path):
    import skipdit

    pipe = skipdit.load_pipeline("fashion-skip", scheduler="ddim")
    run = {"num_inference_steps": 2, "output_type": "latent", "guidance_scale": 1}
    images = [
        pipe(labels, generator=torch.Generator().manual_seed(0), **run).images
        for labels in (7, "sneaker", ["Sneaker"], [7])
    ]
    assert all(torch.equal(image, images[0]) for image in images)
    with pytest.raises(ValueError, match="class 'sneker' is unknown: did you mean sneaker"):
        pipe("sneker", **run)
    pipe.save_pretrained(tmp_path)
    assert load_pipeline(str(tmp_path)).labels == pipe.labels
    tiny().save_pretrained(tmp_path / "nameless")
    with pytest.raises(ValueError, match="class 'dog' is unknown: take an id, 0 to .* classes have no names"):
        load_pipeline(str(tmp_path / "nameless"))(["dog"])


def test_every_part_comes_in_the_dtype_that_is_asked_for():
    pipe = load_pipeline("emoji-hunyuan", dtype=torch.bfloat16, device="cpu")
    parts = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    assert {parameter.dtype for part in parts for parameter in part.parameters()} == {torch.bfloat16}


def test_a_model_of_text_called_plainly_draws_at_its_own_size():
    pipe = load_pipeline("emoji-hunyuan", scheduler="ddim")
    assert pipe("a red apple", num_inference_steps=1).images[0].size == (64, 64)


@pytest.mark.parametrize("name", ["facebook/DiT-XL-2-256", "DiT-XL-2-256"])
def test_the_name_of_the_hub_is_near_ours(name):
    with pytest.raises(ValueError, match="did you mean dit-xl-2-256"):
        load_pipeline(name)
