"""`skipdit sample --vae NAME`, `--base NAME` and `--weights SET`: parts of the registry, and the sets of a file."""

import io
import json

import pytest
import torch
from huggingface_hub import constants, snapshot_download
from safetensors.torch import save_file

from skipdit.hub import registry
from skipdit.hub.parts import autoencoders, bases
from skipdit.models import DiT, HunyuanDiT, Latte, LatteT2V
from tests.cli.conftest import contents
from tests.hub.loopback import serving
from tests.pipelines.tiny import SETTINGS as SIZES
from tests.pipelines.tiny import hunyuan_pipeline, tiny, tiny_stock_hunyuan, tiny_vae

SHORT = "--steps 2 --num-images 2 --scheduler ddim --guidance-scale 1"
SETTINGS = SIZES | {"in_channels": 4}
RECIPE = {"scheduler": "ddim", "steps": 2, "guidance_scale": 1.0, "size": [16, 16]}
COMMON = {"bytes": 40_000, "bytes_from": "computed", "licence": "none"}


def part(name: str, *files: str) -> dict:
    source = {"repo": f"someone/{name}", "files": ["*", *files]}
    return {"title": f"a {name}", "task": "part", "format": "diffusers", "source": source, **COMMON}


def model(title: str, url: str, **more) -> dict:
    return {"title": title, "task": "class-to-image", "format": "original", "source": {"url": url}, **COMMON, **more}


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A registry of models, autoencoders and a base, of which a server has the files that are asked for."""
    with serving() as server:
        files = f"{server.url}/files"
        entries = {name: part(name) for name in ("usual-vae", "other-vae", "time-vae", "text-base")} | {
            "tiny-dit": model("a DiT", f"{files}/latents.pt", arch="dit", config=SETTINGS, recipe=RECIPE,
                              parts={"vae": "usual-vae"}),
            "tiny-sets": model("two", f"{files}/sets.pt", arch="dit", config=SIZES, recipe=RECIPE),
            "tiny-hunyuan": {**part("tiny-hunyuan", "*/*"), "task": "text-to-image", "arch": "hunyuan-diffusers",
                             "config": {"use_style_cond_and_image_meta_size": False}, "recipe": RECIPE},
            "tiny-latte": model("a Latte", f"{files}/none.pt", arch="latte", recipe=RECIPE, parts={"vae": "usual-vae"},
                                config=SETTINGS | {"num_frames": 3}),
            "tiny-t2v": model("a LatteT2V", f"{files}/none.pt", arch="latte-t2v", recipe=RECIPE,
                              config={"sample_size": 64, "video_length": 16},
                              parts={"base": "text-base", "vae": "time-vae"}),
        }  # fmt: skip
        (tmp_path / "registry.json").write_text(json.dumps(entries))
        monkeypatch.setattr(registry, "REGISTRY", registry.read(tmp_path / "registry.json"))
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("SKIPDIT_CACHE", str(tmp_path / "home" / "skipdit"))
        tiny(in_channels=4).save_pretrained(tmp_path / "latents")
        server.files["latents.pt"] = saved(tiny(in_channels=4).state_dict())
        torch.manual_seed(0)
        tiny_vae().save_pretrained(tmp_path / "other-vae")
        server.repos["someone/other-vae"] = contents(tmp_path / "other-vae")
        yield server


def saved(state: dict) -> bytes:
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def test_a_vae_may_be_named_and_is_downloaded_once_after_saying_how_much(skipdit, published, tmp_path):
    said = skipdit(f"sample {tmp_path / 'latents'} {SHORT} --vae {tmp_path / 'other-vae'} --out folder")
    assert "to download" not in said.err
    said = skipdit(f"sample {tmp_path / 'latents'} {SHORT} --vae other-vae --out first")
    assert (said.code, "to download: other-vae 40 kB; 40 kB in all" in said.err) == (0, True)
    asked = len(published.asked)
    said = skipdit(f"sample {tmp_path / 'latents'} {SHORT} --vae other-vae --out second")
    assert ("to download" in said.err, len(published.asked) - asked) == (False, 0)
    held = contents()
    for index in range(2):
        assert held[f"folder/{index:06d}.png"] == held[f"first/{index:06d}.png"] == held[f"second/{index:06d}.png"]


def test_a_named_vae_replaces_that_of_a_published_model_which_is_not_downloaded(skipdit, published):
    said = skipdit(f"sample tiny-dit {SHORT} --vae other-vae --out images")
    assert (said.code, "to download: tiny-dit 40 kB, other-vae 40 kB; 80 kB in all" in said.err) == (0, True)
    assert not [asked for asked in published.asked if "usual-vae" in asked.path]


@pytest.mark.parametrize("source", ["tiny-sets", "latents --vae other-vae"])
def test_offline_nothing_is_announced_that_will_not_be_downloaded(skipdit, published, tmp_path, monkeypatch, source):
    line = f"sample {source} {SHORT} --out images".replace("latents", str(tmp_path / "latents"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    said = skipdit(line)
    assert "is not here, or not all of it, and HF_HUB_OFFLINE is set: unset it, then" in said.complaint
    assert (said.code, said.err.count("\n"), published.asked, contents()) == (1, 1, [], {})


def test_offline_what_another_program_downloaded_is_taken_and_not_announced(skipdit, published, tmp_path, monkeypatch):
    snapshot_download("someone/other-vae", endpoint=published.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    said = skipdit(f"sample {tmp_path / 'latents'} {SHORT} --vae other-vae --out images")
    assert (said.code, "to download" in said.err) == (0, False)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--vae text-base", "vae is 'text-base' (a text-base), which is none for a DiT: take usual-vae, other-vae, or"),
        ("--vae tiny-dit", "vae is 'tiny-dit' (a DiT), which is none for a DiT: take usual-vae, other-vae, or"),
        ("--base text-base", "base is 'text-base' (a text-base), which is none for a DiT: leave it out"),
    ],
)
def test_a_name_of_another_kind_is_refused_before_a_download(skipdit, published, flags, message):
    said = skipdit(f"sample tiny-dit {flags} --out images")
    assert message in said.complaint
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert (published.asked, contents()) == ([], {})


IMAGES, VIDEOS, CLIPS, PICTURES = "tiny-dit", "tiny-latte", "tiny-t2v", "tiny-hunyuan"
KNOWN_BEFORE = {  # by the class and the settings of a model
    f"{IMAGES} --prompt dog": "prompt is ('dog',), for which a class-to-image model has no use: give --classes",
    f"{IMAGES} --out x.bmp": "out is 'x.bmp': it must end in .png or .npz, or be a folder",
    f"{IMAGES} --device nowhere": "device is 'nowhere': not to be had here",
    f"{IMAGES} --offload model": "offload is 'model' on device 'cpu': give --device an accelerator",
    f"{IMAGES} --classes 11": "class id 11 is out of range: take 0 to 10 (10 is the null class)",
    f"{IMAGES} --size 64 60": "image side 60 is not a multiple of 16",
    f"{IMAGES} --cache.branch 3": "branch is 3: a model of 4 layers takes 0 to 1",
    f"{IMAGES} --cache.steps 0,2": "steps name step 2: a run of 2 has steps 0 to 1",
    f"{IMAGES} --scheduler fast": "unknown scheduler 'fast'",
    f"{IMAGES} --guidance-channels 5 --guidance-scale 2": "guidance_channels is 5: take 1 to 4, or 'all'",
    f"{IMAGES} --steps 1001": "num_steps is 1001, but a chain of 1000 training steps can be walked in 1 to 1000",
    f"{IMAGES} --vae nowhere": "name the folder of an AutoencoderKL",
    f"{IMAGES} --base .": "base is '.': DiT takes no text; give its vae alone",
    f"{VIDEOS} --frames 4": "video has 4 frames: this model has temporal positions for 1 to 3",
    f"{VIDEOS} --out x.npz": "out is 'x.npz': it must end in .png, .mp4, .mkv, .webp or .gif, or be a folder",
    f"{VIDEOS} --fps 0": "fps is 0.0; it must be between 0.1 and 240 for .mp4",
    f"{CLIPS}": "prompt is missing: a text-to-video model draws what --prompt or --prompts-file says",
    f"{CLIPS} --classes 1": "classes is (1,), for which a text-to-video model has no use: give --prompt",
    f"{CLIPS} --prompt dog --guidance-scale 0.5": "guidance_scale is 0.5: a model of text takes 1 (off) or more",
    f"{CLIPS} --prompt dog --vae-slicing": "AutoencoderKLTemporalDecoder for a vae, without slicing: leave it out",
    f"{CLIPS} --prompt dog --size 512 500": "side 500 is not a multiple of 16 above 0: take one that is",
    f"{CLIPS} --prompt dog --base .": "base is '.': name the folder of a text pipeline, with model_index.json",
    f"{PICTURES}": "prompt is missing: a text-to-image model draws what --prompt or --prompts-file says",
    f"{PICTURES} --prompt dog --original-size 8 8": "of which a model of version 1.2 is not told: leave it out",
    f"{PICTURES} --prompt dog --cache.branch 21": "branch is 21: a model of 40 layers takes 0 to 19",
    f"{PICTURES} --prompt dog --weights ema": "tiny-hunyuan is a folder, which holds one set: leave it out",
    f"{PICTURES} --prompt dog --lora nowhere": "no adapter at nowhere: name a .safetensors file",
}


@pytest.mark.parametrize("line", KNOWN_BEFORE)
def test_what_no_weights_are_needed_for_is_refused_before_anything_is_asked_of_a_server(skipdit, published, line):
    said = skipdit(f"sample {line}" if "--out" in line else f"sample {line} --out folder")
    assert KNOWN_BEFORE[line] in said.complaint
    assert (said.code, said.err.count("\n")) == (1 if "--lora" in line else 2, 1)
    assert (published.asked, contents()) == ([], {})


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_the_parts_of_a_model_that_is_here_are_not_downloaded_for_what_it_refuses(skipdit, published, tmp_path, kind):
    published_width = DiT.from_size("S/8", num_classes=10).half()  # a file tells no other number of heads
    torch.save(published_width.state_dict(), tmp_path / "file.pt")
    source = tmp_path / {"file": "file.pt", "folder": "latents"}[kind]
    refused = {
        "--classes 11": "class id 11 is out of range: take 0 to 10",
        "--frames 3": "frames is 3, for which a class-to-image model has no use",
        "--size 60 64": "image side 60 is not a multiple of",
    }
    for flags, complaint in refused.items():
        said = skipdit(f"sample {source} {SHORT} --vae other-vae {flags} --out images")
        assert complaint in said.complaint
    assert (published.asked, contents()) == ([], {})


def test_a_folder_of_other_settings_is_refused_before_anything_is_asked_of_a_server(skipdit, published, tmp_path):
    vae = tmp_path / "other-vae"
    assert skipdit(f"sample {tmp_path / 'latents'} {SHORT} --vae {vae} --out images").code == 0
    before = contents()
    said = skipdit(f"sample tiny-dit {SHORT} --vae {vae} --out images")
    assert said.complaint == "images holds images of other settings (model): take another --out, or remove it"
    assert (said.code, published.asked, contents()) == (2, [], before)


def test_an_adapter_that_does_not_fit_is_refused_before_anything_is_asked_of_a_server(skipdit, published, tmp_path):
    factors = {"nothing.lora_A.weight": torch.ones(2, 3), "nothing.lora_B.weight": torch.ones(3, 2)}
    save_file(factors, tmp_path / "adapter.safetensors")
    said = skipdit(f"sample {PICTURES} --prompt dog --lora {tmp_path / 'adapter.safetensors'} --out pictures")
    assert "the adapter does not fit the model: 1 no linear layers of it, or twice: nothing" in said.complaint
    assert (published.asked, contents()) == ([], {})


def test_an_autoencoder_is_no_base_of_a_model_of_text(skipdit, published):
    said = skipdit("sample tiny-t2v --prompt cat --base other-vae --out clips")
    assert said.complaint == (
        "base is 'other-vae' (a other-vae), which is none for a LatteT2V: take text-base, or a folder"
    )


def test_a_base_may_be_named_and_lends_what_its_folder_lends(skipdit, published, tmp_path):
    pipe = hunyuan_pipeline(tmp_path, tiny_stock_hunyuan())
    pipe.save_pretrained(tmp_path / "pipe")
    published.repos["someone/tiny-hunyuan"] = contents(tmp_path / "pipe")
    line = f"sample {tmp_path / 'pipe' / 'transformer'} --steps 2 --scheduler ddim --prompt cat"
    assert skipdit(f"{line} --base {tmp_path / 'pipe'} --out folder").code == 0
    said = skipdit(f"{line} --base tiny-hunyuan --out name")
    assert (said.code, "to download: tiny-hunyuan 40 kB; 40 kB in all" in said.err) == (0, True), said.err
    held = contents()
    assert held["name/000000-cat.png"] == held["folder/000000-cat.png"]


def test_the_parts_of_each_model_are_named_by_the_registry():
    assert bases(LatteT2V) == ["latte-base", "latte-1"]
    assert {"hunyuandit-v1.0", "hunyuandit-v1.2-distilled"} <= set(bases(HunyuanDiT))
    assert bases(DiT) == bases(Latte) == autoencoders(HunyuanDiT) == []
    assert autoencoders(DiT) == ["sd-vae-ft-mse", "sd-vae-ft-ema", "latte-vae"]
    assert autoencoders(LatteT2V) == [*autoencoders(DiT), "latte-temporal-vae"]


# Sets of weights.


@pytest.mark.parametrize(("flags", "taken"), [("", "ema"), ("--weights ema", "ema"), ("--weights model", "model")])
def test_the_weights_are_those_of_the_name(skipdit, published, tmp_path, flags, taken):
    sets = {name: tiny(seed=seed) for seed, name in enumerate(("ema", "model"))}
    sets[taken].save_pretrained(tmp_path / "taken")
    published.files["sets.pt"] = saved({name: dit.state_dict() for name, dit in sets.items()} | {"opt": {}})
    said = skipdit(f"sample tiny-sets {SHORT} {flags} --out file")
    assert said.code == 0, said.err
    skipdit(f"sample {tmp_path / 'taken'} {SHORT} --out folder")
    held = contents()
    assert held["file/000001.png"] == held["folder/000001.png"]
    assert json.loads(held["file/run.json"])["weights"] == (flags.split() or [None])[-1]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("both.pt", "weights is 'module': no such weights in the checkpoint, it holds ema, model"),
        ("folder", "is a folder, which holds one set: leave it out"),
    ],
)
def test_weights_that_are_not_there_are_answered_in_one_line(skipdit, tmp_path, source, message):
    torch.save({"ema": tiny().state_dict(), "model": tiny().state_dict()}, tmp_path / "both.pt")
    tiny().save_pretrained(tmp_path / "folder")
    said = skipdit(f"sample {tmp_path / source} {SHORT} --weights module --out images")
    assert message in said.complaint
    assert (said.code, said.err.count("\n"), contents()) == (2, 1, {})
