"""`skipdit bench` and `skipdit demo`: tables, JSON and pictures of what a cache saves and costs."""

import json

import numpy as np
import pytest
from PIL import Image

from skipdit.cli.bench import Bench, bench
from skipdit.cli.flags import Cache
from tests.cli.conftest import contents
from tests.pipelines.tiny import tiny

SHORT = "--steps 8 --repeats 1 --warmup 0 "


def strict(text: bytes) -> dict:
    """JSON without the Infinity and NaN that only Python reads."""

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_a_bench_writes_and_prints_every_way_with_its_controls(skipdit, model):
    said = skipdit(f"bench {model} {SHORT} --cache.interval 2 --out bench.json")
    assert said.code == 0
    document = strict(contents()["bench.json"])
    results = document["results"]
    assert list(results) == [
        "uncached", "N=2, branch 1, hold", "N=2, branch 1, taylor 1", "6 steps", "branch 0, taylor 1"
    ]  # fmt: skip
    assert document["settings"].items() >= {"steps": 8, "scheduler": "ddim", "model": str(model)}.items()
    assert document["settings"]["cache"]["interval"] == 2
    assert document["machine"].keys() >= {"torch", "threads", "python"}
    assert all(name in said.out for name in results)
    assert contents().keys() == {"bench.json"}


def test_the_controls_cost_at_most_what_the_cache_costs(skipdit, model):
    skipdit(f"bench {model} {SHORT} --cache.interval 3 --out bench.json")
    results = strict(contents()["bench.json"])["results"]
    uncached, hold, taylor, fewer, bare = results.values()
    assert hold["flops"] == taylor["flops"] < uncached["flops"]
    assert fewer["flops"] <= hold["flops"]
    assert bare["flops"] <= hold["flops"]
    assert (uncached["full"], uncached["cached"], uncached["fidelity"]) == (8, 0, None)
    assert (hold["plan"], hold["full"], hold["cached"]) == ("#..#..#.", 3, 5)
    assert hold["predicted_speedup"] == pytest.approx(uncached["flops"] / hold["flops"])
    assert all(float(result["fidelity"]["psnr"]) > 0 for name, result in results.items() if name != "uncached")
    assert hold["bytes_remembered"] == 10 * 9 * 16 * 4  # one float32 tensor: guided batch, tokens, width
    assert taylor["bytes_remembered"] == 2 * hold["bytes_remembered"]


@pytest.mark.filterwarnings("ignore:Skip-Cache never fired")
def test_refreshing_at_every_step_is_as_faithful_as_can_be(model, tmp_path):
    config = Bench(
        str(model), out=tmp_path / "bench.json", steps=4, repeats=1, warmup=0, classes=(0, 1), cache=Cache(interval=1)
    )
    results = bench(config)
    fidelity = results["N=1, branch 1, hold"].fidelity
    assert (fidelity.identical, fidelity.images, fidelity.ssim) == (2, 2, pytest.approx(1))
    assert strict((tmp_path / "bench.json").read_bytes())["results"]["N=1, branch 1, hold"]["fidelity"]["psnr"] == "inf"


def test_a_bench_that_cannot_be_written_is_known_before_it_runs(skipdit, model, tmp_path):
    (tmp_path / "here" / "file").write_text("no folder")
    said = skipdit(f"bench {model} {SHORT} --out file/bench.json")
    assert said.code == 1
    assert (said.err.count("\n"), said.out) == (1, "")
    assert contents() == {"file": b"no folder"}


def test_images_too_small_to_compare_are_refused_before_any_is_drawn(skipdit, tmp_path):
    tiny().save_pretrained(tmp_path / "model")
    said = skipdit(f"bench {tmp_path / 'model'} {SHORT}")
    assert "a side of 8 pixels: SSIM compares sides of at least 11" in said.complaint
    assert (said.code, said.err.count("\n")) == (2, 1)


def test_the_demo_shows_rows_and_numbers(skipdit):
    said = skipdit("demo --steps 4 --interval 2 --out shown")
    assert said.code == 0
    assert contents().keys() == {"shown/class-to-image.png", "shown/run.json"}
    record = strict(contents()["shown/run.json"])
    assert list(record["results"]) == ["uncached", "N=2, branch 1, hold", "N=2, branch 1, taylor 1"]
    assert record["settings"].items() >= {"steps": 4, "interval": 2}.items()
    assert all(name in said.out for name in record["results"])
    assert "#.#." in said.out
    width, height = Image.open("shown/class-to-image.png").size
    assert width > 10 * 3 * 28
    assert height > 5 * 3 * 28
    assert np.array(Image.open("shown/class-to-image.png")).std() > 10
