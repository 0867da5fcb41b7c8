"""`skipdit bench` on pipelines that somebody else wrote: attached, with the same table and controls."""

import json
from pathlib import Path

import pytest

from tests.cli.foreign import make_dit

WAYS = ["uncached", "branch 1, hold", "branch 1, taylor", "branch 0, taylor, spread"]


def measured(said) -> dict:
    assert said.code == 0, said.err
    return json.loads(Path("numbers.json").read_text())["results"]


def test_a_function_that_returns_a_pipeline_and_the_arguments_of_its_call(skipdit):
    said = skipdit("bench tests.cli.foreign:make_pixart --steps 8 --repeats 1 --warmup 0 --out numbers.json")
    results = measured(said)
    assert [name for name in results if "steps" not in name] == WAYS
    assert results["branch 1, hold"]["plan"] == "#.#.#.#."
    (fewer,) = (row for name, row in results.items() if "steps" in name)
    assert fewer["flops"] <= results["branch 1, hold"]["flops"] < results["uncached"]["flops"]
    assert results["branch 0, taylor, spread"]["full"] == 4
    assert all(row["fidelity"]["psnr"] > 0 for name, row in results.items() if name != "uncached")


def test_a_folder_of_a_stock_pipeline_draws_classes(skipdit):
    make_dit().save_pretrained("dit")
    said = skipdit(
        "bench dit --classes 1 3 --steps 6 --cache.interval 3 --cache.forecast taylor --guidance-scale 2 --repeats 1"
        " --warmup 0 --out numbers.json"
    )
    results = measured(said)
    assert results["branch 1, taylor"]["plan"] == "#..#.."
    assert "branch 1, hold" in results


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("tests.cli.foreign:make_nothing", "gives a NoneType: return a pipeline of diffusers"),
        ("tests.cli.foreign:make_headless", "has no denoiser that attach knows"),
        ("tests.cli.foreign:no_such", "cannot be imported"),
        ("tests.cli.foreign:make_pixart --classes 1", "PixArtAlphaPipeline takes no class_labels: leave it out"),
        ("tests.cli.foreign:make_pixart --cache", "no setting was published for this model"),
        ("tests.cli.foreign:make_pixart --scheduler ddim", "scheduler is given for a pipeline of others"),
        ("tests.cli.foreign:make_pixart --cache.branch 3", "branch is 3: a model of 6 layers takes 0 to 2"),
    ],
)
def test_what_cannot_be_measured_is_one_line(skipdit, asked, message):
    said = skipdit(f"bench {asked}")
    assert said.code == 2
    assert message in said.complaint
