"""`skipdit models` and `skipdit download`: what they print fits a terminal, is true, and can be run."""

import json
import os
import re
import shlex
from pathlib import Path

import pytest
from huggingface_hub import constants

from skipdit.cli.flags import parse
from skipdit.cli.models import numbers
from skipdit.cli.sample import Sample
from skipdit.hub import registry
from skipdit.hub.load import EMBEDDED, embedded_folder
from skipdit.hub.records import record_path
from skipdit.hub.registry import REGISTRY, Numbers
from tests.hub.loopback import serving

MODELS = [name for name, model in REGISTRY.items() if model.task != "part"]


@pytest.fixture(autouse=True)
def _no_cache(tmp_path, monkeypatch):
    """Nothing is downloaded yet, and nothing can be asked of the hub."""
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.delenv("SKIPDIT_CACHE", raising=False)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A registry of one model and its part, at a server of files."""
    common = {"licence": "none", "bytes": 1000, "bytes_from": "computed", "format": "original", "title": "a file"}
    with serving() as server:
        part = {"task": "part", "source": {"url": f"{server.url}/files/part.pt"}, **common}
        model = {"task": "part", "source": {"url": f"{server.url}/files/model.pt"}, "parts": {"vae": "part"}, **common}
        (tmp_path / "registry.json").write_text(json.dumps({"model": model, "part": part}))
        monkeypatch.setattr(registry, "REGISTRY", registry.read(tmp_path / "registry.json"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        server.files |= {"model.pt": b"m" * 1000, "part.pt": b"p" * 1000}
        yield server


def test_every_model_is_listed_and_lines_fit(skipdit):
    said = skipdit("models")
    assert said.code == 0
    lines = said.out.splitlines()
    assert max(map(len, lines)) <= 120
    named = [line.split()[0] for line in lines if line.startswith("  ")]
    assert sorted(named) == sorted([*REGISTRY, *EMBEDDED])
    here = {line.split()[0] for line in lines if line.startswith("  ") and line.split()[-1] == "yes"}
    assert here == set(EMBEDDED)


@pytest.mark.parametrize("name", [*REGISTRY, *EMBEDDED])
def test_every_model_is_described_and_lines_fit(skipdit, name):
    said = skipdit(f"models {name}")
    assert said.code == 0
    assert max(map(len, said.out.splitlines())) <= 120
    assert name in said.out.splitlines()[0]


@pytest.mark.parametrize("name", MODELS)
def test_what_could_not_be_verified_and_all_numbers_are_shown(skipdit, name):
    text = " ".join(skipdit(f"models {name}").out.split())
    model = REGISTRY[name]
    assert model.unverified is None or model.unverified in text
    assert model.note is None or model.note in text
    for way, row in model.numbers.rows.items() if model.numbers else ():
        shown = next(line for line in skipdit(f"models {name}").out.splitlines() if line.strip().startswith(f"{way}  "))
        values = shown.strip().removeprefix(way).split()
        assert [None if value == "-" else float(value) for value in values] == list(row)


@pytest.mark.parametrize("name", MODELS)
def test_every_command_is_one_of_ours(skipdit, name):
    ways = commands_of(name, skipdit)
    recipe = REGISTRY[name].recipe
    assert list(ways)[-1] == ("cached" if recipe.cache else "original")
    for way, line in ways.items():
        config = parse(Sample, "sample", shlex.split(line)[2:])
        assert config.model in REGISTRY
        assert (config.steps, config.guidance_scale or 1) == (recipe.steps, recipe.guidance_scale)
        assert config.cache.config(REGISTRY[name].task) == (recipe.cache if way == "cached" else None)


@pytest.mark.parametrize("name", MODELS)
def test_commands_can_be_run_in_turn(skipdit, name):
    """Each draws to a place of its own: videos to a folder, images to a grid."""
    asked = [parse(Sample, "sample", shlex.split(line)[2:]) for line in commands_of(name, skipdit).values()]
    assert len({config.out for config in asked}) == len(asked)
    assert {config.out.suffix for config in asked} == {"" if REGISTRY[name].recipe.frames else ".png"}


def commands_of(name: str, skipdit) -> dict[str, str]:
    """The commands for a model, by what stands above each; one of two lines is one for a shell."""
    lines = skipdit(f"models {name}").out.partition("\ncommands\n")[2].replace("\\\n", "").splitlines()
    return {way.removeprefix("  # "): line for way, line in zip(lines[::2], lines[1::2])}


def test_a_column_that_is_measured_of_nothing_is_dashes():
    rows = {"uncached": (1.5, None), "cached": (2.25, None)}
    assert [line.split() for line in numbers(Numbers("a paper", ("FID", "IS"), rows))] == [
        ["FID", "IS"], ["uncached", "1.50", "-"], ["cached", "2.25", "-"]
    ]  # fmt: skip


def test_an_unknown_name_is_a_usage_error(skipdit):
    said = skipdit("models dit-xl-3-256")
    assert said.code == 2
    assert "did you mean dit-xl-2-256" in said.complaint


def test_a_download_says_how_much_before_and_where_after(skipdit, server):
    said = skipdit("download model")
    assert said.code == 0
    assert said.err.splitlines()[0] == "to download: model 1 kB, part 1 kB; 2 kB in all"
    name, _, path = said.out.strip().partition(": ")
    assert (name, Path(path).read_bytes()) == ("model", b"m" * 1000)
    assert [line.split()[-1] for line in skipdit("models").out.splitlines() if line.startswith("  model ")] == ["yes"]


def test_parts_are_left_out_where_they_are_not_wanted(skipdit, server):
    said = skipdit("download model --no-parts")
    assert said.err.splitlines()[0] == "to download: model 1 kB; 1 kB in all"
    assert server.got("part.pt") == []


def test_room_is_counted_for_all_names_of_a_command(skipdit, server):
    """The second one is larger than any disk: not a byte of the first one is fetched."""
    server.promised["part.pt"] = 10**18
    said = skipdit("download model part --no-parts")
    assert (said.code, "1000000000 GB are to be downloaded" in said.complaint) == (1, True)
    assert server.got("model.pt") == []


def test_each_name_is_told_where_it_is_once(skipdit, server):
    said = skipdit("download part model part")
    assert [line.partition(":")[0] for line in said.out.splitlines()] == ["part", "model"]


def test_check_downloads_nothing_and_says_what_is_whole(skipdit, server):
    assert skipdit("download model --check").complaint == "model, part: not here; leave --check out to download"
    assert server.asked == []
    skipdit("download model")
    said = skipdit("download model --check")
    assert (said.code, [line.split(",")[0] for line in said.out.splitlines()]) == (0, ["model: whole", "part: whole"])


def test_check_finds_a_changed_file_and_models_shows_it(skipdit, server):
    path = skipdit("download model").out.strip().partition(": ")[2]
    with open(path, "ab") as file:
        file.write(b"x")
    said = skipdit("download model --check")
    assert said.code == 1
    assert said.complaint.startswith(path)
    assert "remove the file" in said.complaint
    listed = [line.split()[-1] for line in skipdit("models").out.splitlines() if line.startswith("  model ")]
    assert listed == ["changed"]
    assert f"changed: {path}" in " ".join(skipdit("models model").out.split())


def test_a_listing_hashes_nothing(skipdit, server):
    """Neither of what was touched, which it tells, nor of all the rest; a check does, once."""
    path = Path(skipdit("download model").out.strip().partition(": ")[2])
    os.utime(path, ns=(1, 1))
    record = record_path(registry.published("model"))
    before = record.read_bytes()
    said = skipdit("models")
    assert here(said.out) == {"model": "yes, unchecked", "part": "yes"}
    assert f"unchecked: {path}; `skipdit download model --check` hashes it" in " ".join(
        skipdit("models model").out.split()
    )
    assert (record.read_bytes(), said.err) == (before, "")
    assert skipdit("download model --check").code == 0
    assert here(skipdit("models").out) == {"model": "yes", "part": "yes"}


def test_a_record_that_cannot_be_read_is_one_row_of_the_listing(skipdit, server):
    skipdit("download model")
    record_path(registry.published("model")).write_text("{")
    said = skipdit("models")
    assert (said.code, here(said.out)) == (0, {"model": "unreadable record", "part": "yes"})
    assert "model.json cannot be read" in " ".join(skipdit("models model").out.split())


def here(listing: str) -> dict[str, str]:
    """What a listing says of the two models of the server."""
    rows = [re.split("  +", line.strip()) for line in listing.splitlines()]
    return {row[0]: row[-1] for row in rows if row[0] in ("model", "part") and len(row) > 1}


def test_a_failed_download_is_one_line(skipdit, server):
    server.files.clear()
    said = skipdit("download model")
    assert said.code == 1
    assert "is not there (404)" in said.complaint


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("download fashion-skip", "fashion-skip came with skipdit: there is nothing to download"),
        ("download nothing", "no published model is called 'nothing'"),
        ("download", "no name is given"),
    ],
)
def test_what_cannot_be_downloaded_is_a_usage_error(skipdit, line, complaint):
    said = skipdit(line)
    assert said.code == 2
    assert said.complaint.startswith(complaint)


def test_an_embedded_model_is_described_with_its_classes_numbers_and_commands(skipdit):
    said = skipdit("models fashion-skip").out
    assert "7 sneaker" in said
    assert "N=3, branch 1, taylor 1" in said
    command = next(line.strip() for line in said.splitlines() if line.strip().startswith("skipdit sample"))
    assert skipdit(command.removeprefix("skipdit ").replace("--steps 50", "--steps 2").replace('"', "")).code == 0


def test_words_of_other_programs_are_answered_with_ours(skipdit):
    for flag in ("--cfg-scale 4", "--cfg-scale=4"):
        said = skipdit(f"sample fashion-skip {flag}")
        assert (said.code, said.complaint) == (2, "unknown flag --cfg-scale: did you mean --guidance-scale?")
    with pytest.raises(SystemExit):  # by tyro, since it has no guidance_scale
        skipdit("models --cfg-scale 4")
    assert "did you mean fashion-skip" in skipdit("models fashion-ski").complaint
    assert "did you mean sneaker?" in skipdit("sample fashion-skip --classes sneker").complaint


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("captioned-digits-skip", "digits-measured.json"),  # the older record is of the model that it has replaced
        ("moving-digits-skip", "digits-measured-older.json"),
        ("captioned-digits-latte", "digits-measured-older.json"),
    ],
)
def test_models_of_digits_show_what_a_reader_sees(skipdit, name, record):
    newest = json.loads((embedded_folder(name).parent / "digits-measured.json").read_text())["models"]
    record = "digits-measured.json" if name in newest else record
    ways = json.loads((embedded_folder(name).parent / record).read_text())["models"][name]
    shown = skipdit(f"models {name}").out
    for way, values in ways.items():
        expected = [f"{100 * values[what]:.1f}" for what in ("direction", "digit", "both")]
        assert [line.split()[-3:] for line in shown.splitlines() if line.startswith(f"  {way}  ")] == [expected]


def test_classes_are_named_to_a_bench_as_to_a_sample(skipdit):
    once = "--steps 8 --repeats 1 --warmup 0 --out bench.json"
    skipdit(f"bench fashion-skip --classes sneaker Bag {once}")
    named = json.loads(Path("bench.json").read_text())["results"]
    skipdit(f"bench fashion-skip --classes 7 8 {once}")
    by_id = json.loads(Path("bench.json").read_text())["results"]
    assert {way: row["fidelity"] for way, row in named.items()} == {way: row["fidelity"] for way, row in by_id.items()}
    assert "did you mean sneaker?" in skipdit(f"bench fashion-skip --classes sneker {once}").complaint
