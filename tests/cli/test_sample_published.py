"""`skipdit sample NAME` of a published model, from a server on loopback: downloaded, drawn as published, kept."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from PIL import Image

from skipdit import DiT, HunyuanDiT, LatteT2V
from skipdit.cli import main
from skipdit.evaluation import to_uint8
from skipdit.hub import load_pipeline, registry
from skipdit.hub.load import empty_model, load_model
from skipdit.pipelines.draw import Settings, draw
from skipdit.randomness import generator
from tests.hub.loopback import serving
from tests.models.subject import randomised
from tests.pipelines.published_folders import LATTE, LEFTOVER, files_of, hunyuan, latte_0, latte_1, stock_latte
from tests.pipelines.tiny import tiny_latte_t2v

CONFIG = {
    "sample_size": 8, "num_classes": 3, "num_heads": 2, "num_skips": 1, "patch_size": 2, "in_channels": 1,
    "hidden_size": 16, "depth": 2,
}  # fmt: skip
RECIPE = {"scheduler": "ddim", "steps": 3, "guidance_scale": 2.0, "guidance_channels": 1, "size": [8, 8]}


def entries(url: str) -> dict:
    common = {"bytes": 40_000, "bytes_from": "computed", "licence": "none", "format": "original"}
    model = {"task": "class-to-image", "arch": "dit", "config": CONFIG, "recipe": RECIPE, **common}
    return {
        "tiny-skip": {"title": "a DiT", "source": {"url": f"{url}/files/tiny.pt"}, **model},
        "tiny-part": {"title": "a part", "task": "part", "source": {"url": f"{url}/files/part.pt"}, **common},
    }


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A registry of one model, its server, and the model itself."""
    model = randomised(DiT(**CONFIG)).eval()
    torch.save({"ema": model.state_dict(), "model": {}}, tmp_path / "tiny.pt")
    with serving() as server:
        (tmp_path / "registry.json").write_text(json.dumps(entries(server.url)))
        monkeypatch.setattr(registry, "REGISTRY", registry.read(tmp_path / "registry.json"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("SKIPDIT_CACHE", str(tmp_path / "cache"))
        server.files["tiny.pt"] = (tmp_path / "tiny.pt").read_bytes()
        yield server, model


def test_a_published_model_is_downloaded_once_after_saying_how_much(published, tmp_path, capsys):
    server, _ = published
    asked = []
    for name in ("first.png", "second.png"):
        assert main(["sample", "tiny-skip", "--classes", "0", "2", "--out", str(tmp_path / name)]) == 0
        told = capsys.readouterr().err
        assert ("to download: tiny-skip 40 kB; 40 kB in all" in told) == (name == "first.png")
        asked.append(len(server.asked))
    assert asked[0] == asked[1] > 0
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()


def test_what_is_left_out_is_as_published_and_what_is_given_goes_before(published, tmp_path, capsys):
    assert main(["sample", "tiny-skip", "--classes", "1", "--out", str(tmp_path / "as.png")]) == 0
    assert ", 3 ddim steps in " in capsys.readouterr().out
    record = json.loads((tmp_path / "as.json").read_text())
    assert {name: record[name] for name in RECIPE if name != "size"} == {k: v for k, v in RECIPE.items() if k != "size"}
    given = ["--steps", "2", "--guidance-scale", "1"]
    assert main(["sample", "tiny-skip", "--classes", "1", "--out", str(tmp_path / "given.png"), *given]) == 0
    record = json.loads((tmp_path / "given.json").read_text())
    assert (record["steps"], record["scheduler"], record["guidance_scale"]) == (2, "ddim", 1.0)


def test_a_name_loads_what_the_file_holds(published):
    _, model = published
    for loaded in (load_model("tiny-skip"), load_pipeline("tiny-skip").transformer):
        for name, value in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], value)
        assert loaded.num_skips == 1


def test_a_plan_is_of_the_published_run_and_needs_no_download(published, capsys):
    server, _ = published
    assert main(["plan", "--model", "tiny-part"]) == 2
    assert main(["plan", "--model", "tiny-skip", "--cache.branch", "0"]) == 0
    assert "2 / 1 of 3 steps" in capsys.readouterr().out
    with torch.device("meta"):
        assert empty_model("tiny-skip").num_skips == 1
    assert not server.asked


def test_a_part_is_no_model(published, tmp_path, capsys):
    server, _ = published
    assert main(["sample", "tiny-part", "--out", str(tmp_path / "none.png")]) == 2
    assert "tiny-part is a part, a part: take a model of `skipdit models`" in capsys.readouterr().err
    assert not server.asked


# Whole folders of the hub, by the very entries of the registry, but for sizes.

TINY_T2V = {
    name: LATTE[name]
    for name in ("sample_size", "video_length", "num_attention_heads", "attention_head_dim", "cross_attention_dim",
                 "caption_channels", "num_layers")
}  # fmt: skip
VIDEOS, IMAGES = ["latte-0", "latte-1", "latte-t2v-skip"], ["hunyuandit-v1.1", "hunyuandit-v1.2-distilled"]


@pytest.fixture(scope="module")
def repos(tmp_path_factory) -> dict[str, Path]:
    """Repositories as they are published, at tiny size."""
    place = tmp_path_factory.mktemp("repos")
    skips = tiny_latte_t2v(**{name: LATTE[name] for name in ("in_channels", "out_channels", "caption_channels")})
    state = skips.state_dict() | {LEFTOVER: torch.ones(120, 8)}
    (place / "Skip-DiT").mkdir()
    torch.save({"model": {}, "ema": state}, place / "Skip-DiT" / "Latte-skip.pt")
    return {
        "maxin-cn/Latte-0": latte_0(place / "Latte-0"),
        "maxin-cn/Latte-1": latte_1(place / "Latte-1"),
        "GuanjieChen/Skip-DiT": place / "Skip-DiT",
        "Tencent-Hunyuan/HunyuanDiT-v1.1-Diffusers": hunyuan(place / "v1.1", "1.1"),
        "Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers-Distilled": hunyuan(place / "v1.2", "1.2-distilled"),
    }


@pytest.fixture
def hub(repos, tmp_path, monkeypatch):
    """A server that stands in for the hub, and the registry with the arguments of tiny models in it."""
    entries = json.loads(Path(registry.__file__).with_name("registry.json").read_text("utf-8"))
    entries["latte-t2v-skip"]["config"] = TINY_T2V | {"num_skips": 2}
    (tmp_path / "registry.json").write_text(json.dumps(entries))
    with serving() as server:
        monkeypatch.setattr(registry, "REGISTRY", registry.read(tmp_path / "registry.json"))
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("SKIPDIT_CACHE", str(tmp_path / "cache"))
        server.repos |= {name: files_of(folder) for name, folder in repos.items()}
        yield server


def weights_of(name: str, repos: dict[str, Path]) -> dict[str, torch.Tensor]:
    """What the transformer of a published name holds."""
    match name:
        case "latte-0" | "latte-1":
            return stock_latte(seed=1 - int(name[-1])).state_dict()
        case "latte-t2v-skip":
            kept = torch.load(repos["GuanjieChen/Skip-DiT"] / "Latte-skip.pt")["ema"]
            return {key: value for key, value in kept.items() if key != LEFTOVER}
    return load_model(str(repos[registry.published(name).source.repo])).state_dict()


def pictures(folder: Path) -> np.ndarray:
    """The PNGs below a folder, images or the frames of a video, in order."""
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.rglob("*.png"))])


@pytest.mark.parametrize("name", VIDEOS + IMAGES)
def test_a_folder_of_the_hub_is_sampled_by_its_name_cached_or_not(hub, repos, name, tmp_path, capsys):
    arguments = ["--prompt", "a red apple", "--steps", "4", "--seed", "3"]
    arguments += ["--format", "frames"] if name in VIDEOS else []
    assert main(["sample", name, *arguments, "--out", str(tmp_path / "uncached")]) == 0
    assert f"to download: {name} " in capsys.readouterr().err
    asked = len(hub.asked)
    assert main(["sample", name, *arguments, "--cache", "--out", str(tmp_path / "cached")]) == 0
    assert "plan #.#.: 2 full, 2 cached" in capsys.readouterr().out
    assert len(hub.asked) == asked

    pipe = load_pipeline(name)
    assert type(pipe.transformer) is (LatteT2V if name in VIDEOS else HunyuanDiT)
    held, state = weights_of(name, repos), pipe.transformer.state_dict()
    assert held.keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in held.items())
    pipe.set_progress_bar_config(disable=True)
    scale = registry.published(name).recipe.guidance_scale
    drawn = draw(pipe, ["a red apple"], [generator(3, 0, 0)], Settings(steps=4, guidance_scale=scale))
    expected = to_uint8(drawn.flatten(0, -4))
    assert np.array_equal(pictures(tmp_path / "uncached"), expected)
    assert not np.array_equal(pictures(tmp_path / "cached"), expected)


def test_a_folder_of_the_hub_becomes_a_clip(hub, tmp_path):
    arguments = ["--prompt", "a red apple", "--steps", "2", "--guidance-scale", "1"]
    assert main(["sample", "latte-1", *arguments, "--out", str(tmp_path / "clip.webp")]) == 0
    with Image.open(tmp_path / "clip.webp") as clip:
        assert (clip.n_frames, clip.size) == (3, (16, 16))
