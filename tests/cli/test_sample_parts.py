"""`skipdit sample --vae NAME`, `--base NAME` and `--weights SET`: parts of the registry, and the sets of a file."""

import io
import json

import pytest
import torch
from huggingface_hub import constants

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


def part(name: str) -> dict:
    source = {"repo": f"someone/{name}", "files": ["*"]}
    return {"title": f"a {name}", "task": "part", "format": "diffusers", "source": source, **COMMON}


def model(title: str, url: str, **more) -> dict:
    return {"title": title, "task": "class-to-image", "format": "original", "source": {"url": url}, **COMMON, **more}


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A registry of models, autoencoders and a base, of which a server has the files that are asked for."""
    with serving() as server:
        files = f"{server.url}/files"
        entries = {name: part(name) for name in ("usual-vae", "other-vae", "text-base")} | {
            "tiny-dit": model("a DiT", f"{files}/latents.pt", arch="dit", config=SETTINGS, recipe=RECIPE,
                              parts={"vae": "usual-vae"}),
            "tiny-sets": model("two", f"{files}/sets.pt", arch="dit", config=SIZES, recipe=RECIPE),
            "tiny-hunyuan": {**part("tiny-hunyuan"), "task": "text-to-image", "arch": "hunyuan-diffusers"},
            "tiny-t2v": model("a LatteT2V", f"{files}/none.pt", arch="latte-t2v", parts={"base": "text-base"}),
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
