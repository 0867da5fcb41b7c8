"""`skipdit sample NAME` of a published model, from a server on loopback: downloaded, drawn as published, kept."""

import json

import pytest
import torch
from huggingface_hub import constants

from skipdit import DiT
from skipdit.cli import main
from skipdit.hub import load_pipeline, registry
from skipdit.hub.load import empty_model, load_model
from tests.hub.loopback import serving
from tests.models.subject import randomised

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
    assert main(["plan", "--model", "tiny-skip", "--cache.interval", "2"]) == 0
    assert "2 / 1 of 3 steps" in capsys.readouterr().out
    with torch.device("meta"):
        assert empty_model("tiny-skip").num_skips == 1
    assert not server.asked


def test_a_part_is_no_model(published, tmp_path, capsys):
    server, _ = published
    assert main(["sample", "tiny-part", "--out", str(tmp_path / "none.png")]) == 2
    assert "tiny-part is a part, a part: take a model of `skipdit models`" in capsys.readouterr().err
    assert not server.asked
