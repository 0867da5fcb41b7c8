"""`bench`, `convert` and `plan` of a published NAME, from a server on loopback: announced, downloaded, as published."""

import json
from io import BytesIO
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from skipdit import DiT
from skipdit.cli.bench import Bench, loaded, resolved
from skipdit.hub import convert, registry
from skipdit.hub.load import load_model
from tests.hub.loopback import serving
from tests.models.subject import assert_equal, randomised

CONFIG = {
    "sample_size": 12, "num_classes": 6, "num_heads": 2, "num_skips": 1, "patch_size": 4, "in_channels": 1,
    "hidden_size": 16, "depth": 4, "prediction_type": "v_prediction",
}  # fmt: skip
CACHE = {"interval": 3, "branch": 1, "window": [20, 1000]}
RECIPE = {"scheduler": "ddpm", "steps": 6, "guidance_scale": 2.0, "guidance_channels": 1, "size": [12, 12]}
ANNOUNCED = "to download: tiny-skip 40 kB; 40 kB in all"
ONCE = "--repeats 1 --warmup 0"


def entries(url: str) -> dict:
    common = {"bytes": 40_000, "bytes_from": "computed", "licence": "none", "format": "original"}
    model = {"task": "class-to-image", "arch": "dit", "config": CONFIG, **common}
    return {
        "tiny-skip": {
            "title": "a DiT", "source": {"url": f"{url}/files/tiny.pt"}, "recipe": {**RECIPE, "cache": CACHE}, **model
        },
        "tiny-uncached": {"title": "a DiT", "source": {"url": f"{url}/files/tiny.pt"}, "recipe": RECIPE, **model},
        "tiny-small": {
            "title": "a DiT", "source": {"url": f"{url}/files/small.pt"}, "recipe": RECIPE, **model,
            "config": CONFIG | {"sample_size": 8},
        },
        "tiny-text": {
            "title": "a LatteT2V", "source": {"url": f"{url}/files/text.pt"}, "recipe": RECIPE, **model,
            "task": "text-to-video", "arch": "latte-t2v", "config": {}, "parts": {"base": "tiny-part"},
        },
        "tiny-part": {"title": "a part", "task": "part", "source": {"url": f"{url}/files/part.pt"}, **common},
    }  # fmt: skip


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A registry, its server, and the model there, beside other weights of it."""
    model, raw = randomised(DiT(**CONFIG)).eval(), DiT(**CONFIG)
    torch.save({"ema": model.state_dict(), "model": raw.state_dict()}, tmp_path / "tiny.pt")
    with serving() as server:
        (tmp_path / "registry.json").write_text(json.dumps(entries(server.url)))
        monkeypatch.setattr(registry, "REGISTRY", registry.read(tmp_path / "registry.json"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("SKIPDIT_CACHE", str(tmp_path / "cache"))
        server.files["tiny.pt"] = (tmp_path / "tiny.pt").read_bytes()
        yield server, model


def bench(skipdit, line: str) -> dict:
    said = skipdit(f"bench {line} {ONCE} --out bench.json")
    assert said.code == 0, said.err
    return json.loads(Path("bench.json").read_text())


def test_a_bench_says_how_much_it_downloads(skipdit, published):
    for number, expected in enumerate((True, False)):
        said = skipdit(f"bench tiny-skip --steps 4 {ONCE} --out {number}.json")
        assert said.code == 0, said.err
        assert (ANNOUNCED in said.err) == expected


def test_a_bench_runs_as_published_where_nothing_else_is_said(skipdit, published):
    document = bench(skipdit, "tiny-skip")
    settings = document["settings"]
    expected = {**RECIPE, "guidance_channels": "1", "classes": [0, 1, 2, 3]}
    assert settings.items() >= {name: value for name, value in expected.items() if name != "size"}.items()
    assert settings["cache"].items() >= CACHE.items()
    assert document["results"]["uncached"]["plan"] == "######"
    assert document["results"]["N=3, branch 1, hold"]["plan"] == "#..#.."


def test_what_is_given_to_a_bench_goes_before_what_was_published(skipdit, published):
    document = bench(
        skipdit, "tiny-skip --steps 4 --scheduler ddim --guidance-scale 1 --classes 5 --cache.interval 2"
    )  # fmt: skip
    expected = {"steps": 4, "scheduler": "ddim", "guidance_scale": 1.0, "guidance_channels": "all", "classes": [5]}
    assert document["settings"].items() >= expected.items()
    assert document["settings"]["cache"]["interval"] == 2
    assert document["settings"]["cache"]["window"] is None


@pytest.mark.parametrize("weights", ["ema", "model"])
def test_the_weights_measured_are_those_asked_for(published, weights):
    server, _ = published
    expected = torch.load(BytesIO(server.files["tiny.pt"]), weights_only=True)[weights]
    found = loaded(resolved(Bench("tiny-skip", weights=weights))).transformer.state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


def test_a_bench_of_weights_that_a_folder_has_not_is_refused(skipdit, published):
    _, model = published
    model.save_pretrained("model")
    said = skipdit(f"bench model --steps 4 {ONCE} --weights ema")
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "which holds one set: leave it out" in said.complaint


def test_without_a_published_cache_a_bench_measures_every_second_step(skipdit, published):
    assert bench(skipdit, "tiny-uncached --num-images 1")["settings"]["cache"]["interval"] == 2


def test_what_lies_in_a_folder_is_measured_as_ever(skipdit, published):
    _, model = published
    model.save_pretrained("model")
    document = bench(skipdit, "model --steps 4")
    expected = {"scheduler": "ddim", "guidance_scale": 1.5, "guidance_channels": "all", "classes": []}
    assert document["settings"].items() >= expected.items()
    assert skipdit(f"bench model {ONCE} --steps 0").complaint == "steps is 0: it must be at least 1"


def test_a_name_is_converted_as_the_registry_knows_it_after_saying_how_much(skipdit, published):
    """Its heads, size and prediction type stand in no tensor."""
    server, model = published
    for out, expected in (("first", True), ("second", False)):
        said = skipdit(f"convert tiny-skip {out}")
        assert said.code == 0, said.err
        assert (ANNOUNCED in said.err) == expected
        again = load_model(out)
        assert {name: again.config[name] for name in CONFIG} == CONFIG
        assert_equal(list(again.state_dict().values()), list(model.state_dict().values()))
    assert len(server.got("tiny.pt")) == 1


def test_what_a_model_that_is_here_cannot_be_asked_for_is_found_out_once(skipdit, published, monkeypatch):
    """Since it builds the model without weights; before a download it is found out twice."""
    asked, check_asked = [], convert.check_asked

    def counted(source, **told):
        asked.append(source)
        check_asked(source, **told)

    monkeypatch.setattr(convert, "check_asked", counted)
    for out, expected in (("first", 2), ("second", 3)):
        assert skipdit(f"convert tiny-skip {out}").code == 0
        assert len(asked) == expected


def test_a_setting_that_is_given_goes_before_that_of_the_registry(skipdit, published):
    assert skipdit("convert tiny-skip model --set prediction_type=sample").code == 0
    assert load_model("model").config.prediction_type == "sample"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("convert tiny-part model", "tiny-part is a part, a part: take a model of `skipdit models`"),
        ("convert tiny-skip model --as original", "model must end in .pt, .pth or .safetensors for the"),
        ("convert tiny-skip model --set heads", "set is 'heads': give NAME=VALUE, each name once, as num_heads=8 or "),
        ("bench tiny-part", "tiny-part is a part, a part: take a model of `skipdit models`"),
        ("bench tiny-text", "prompts are missing for a model of text: give at least one"),
        ("bench tiny-skip --classes 7", "class id 7 is out of range: take 0 to 6 (6 is the null class)"),
        ("bench tiny-skip --device nowhere", "device is 'nowhere': not to be had here"),
        ("bench tiny-skip --prompt dog", "prompts are given (1) to a model of 6 classes: give class ids"),
        ("bench tiny-skip --cache.branch 3", "branch is 3: a model of 4 layers takes 0 to 1"),
        ("bench tiny-skip --cache.steps 0,6", "steps name step 6: a run of 6 has steps 0 to 5"),
        ("bench tiny-skip --guidance-channels 2", "guidance_channels is 2: take 1 to 1, or 'all'"),
        ("bench tiny-small", "images have a side of 8 pixels: SSIM compares sides of at least 11"),
        ("bench tiny-skip --vae tiny-skip", "vae is 'tiny-skip' (a DiT), which is none for a DiT: "),
    ],
)
def test_what_cannot_be_is_known_before_anything_is_downloaded(skipdit, published, line, complaint):
    server, _ = published
    said = skipdit(line)
    assert said.code == 2
    assert said.complaint.startswith(complaint)
    assert "to download" not in said.err
    assert not server.asked


def test_a_plan_of_a_name_is_that_of_its_sample(skipdit, published):
    """Without a cache as with one; the numbers of steps are those of the recipe."""
    for flags, expected in (("", "######"), ("--cache.interval 2", "#.#.#.")):
        assert expected in skipdit(f"plan --model tiny-skip {flags}").out.splitlines()
        assert skipdit(f"sample tiny-skip --classes 1 --out {len(flags)}.png {flags}").code == 0
        assert json.loads(Path(f"{len(flags)}.json").read_text())["plan"] == expected
