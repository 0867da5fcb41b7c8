"""Published models on this disk: whole, found again without a server, and the same bytes ever after."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import reload
from types import SimpleNamespace

import pytest
from huggingface_hub import constants

from skipdit import hub
from skipdit.hub import plans, registry
from skipdit.hub.failures import NoSpaceError, RecordError, WrongHashError
from skipdit.hub.fetching import download, located, missing
from skipdit.hub.load import load_pipeline
from skipdit.hub.plans import in_words
from skipdit.hub.records import read_record
from tests.hub.downloads import DATA, OTHER, entries, fetch, record_of


@pytest.mark.parametrize("name", ["web", "hub"])
def test_a_file_is_whole_and_found_again_without_the_server(server, name):
    assert located(name) is None
    path = fetch(name, parts=False)
    assert path.read_bytes() == DATA
    asked = len(server.asked)
    assert located(name) == path
    assert fetch(name, parts=False) == path
    assert len(server.asked) == asked


def test_a_model_comes_with_its_parts_unless_they_are_not_wanted(server):
    assert missing("web") == {"web": len(DATA), "hub": len(DATA)}
    fetch("web", parts=False)
    assert missing("web") == {"hub": len(DATA)}
    fetch("web")
    assert missing("web") == {}
    assert located("hub").read_bytes() == DATA


@pytest.mark.parametrize("name", ["web", "hub"])
def test_a_file_that_changed_is_refused_until_it_is_fetched_again(server, name):
    path = fetch(name, parts=False)
    path.write_bytes(DATA[:-1] + b"x")
    for check in (located, fetch):
        with pytest.raises(WrongHashError, match="remove the file") as refused:
            check(name)
    os.remove(str(refused.value).partition(" has sha256")[0])
    assert located(name) is None
    assert fetch(name, parts=False).read_bytes() == DATA


def test_a_change_that_kept_size_and_time_is_found_by_download_alone(server):
    path = fetch("web", parts=False)
    before = path.stat()
    path.write_bytes(DATA[:-1] + b"x")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert located("web") == path
    with pytest.raises(WrongHashError):
        fetch("web", parts=False)


def test_a_file_that_was_only_touched_is_hashed_once_and_found(server):
    path = fetch("web", parts=False)
    os.utime(path, ns=(1, 1))
    assert located("web") == path
    assert read_record(registry.published("web")).files["web.pt"].mtime_ns == 1


def test_the_record_is_bytes_time_and_sha256(server):
    path = fetch("web", parts=False)
    record = json.loads(record_of("web").read_text())
    assert record["root"] == str(path.parent)
    assert record["files"]["web.pt"] == {
        "bytes": len(DATA),
        "mtime_ns": path.stat().st_mtime_ns,
        "sha256": hashlib.sha256(DATA).hexdigest(),
    }


def test_more_than_the_disk_holds_is_refused_before_anything_is_fetched(server):
    server.listed["tiny.pt"] = 10**18
    with pytest.raises(NoSpaceError, match="1000000000 GB are to be downloaded.*free"):
        fetch("web")
    assert server.got("tiny.pt") == server.got("web.pt") == []


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 bytes"), (999, "999 bytes"), (5216, "5.22 kB"), (334615452, "335 MB"), (114e8, "11.4 GB")],
)
def test_sizes_are_said_in_three_digits(size, words):
    assert in_words(size) == words


def test_it_is_public_and_so_are_its_errors(server):
    """Not the module of that name, as once."""
    server.files.clear()
    with pytest.raises(hub.GoneError):
        hub.download("web", parts=False, progress=False)
    assert hub.located("web") is None


def test_several_models_are_one_download(server):
    found = download("web", "folder", progress=False)
    assert found == {name: located(name) for name in ("web", "hub", "folder")}
    assert missing("web", "folder") == {}


def test_room_is_counted_for_all_names_before_anything_is_fetched(server):
    server.listed["vae/model.safetensors"] = 10**18
    with pytest.raises(NoSpaceError, match="1000000000 GB are to be downloaded"):
        download("web", "folder", parts=False, progress=False)
    assert server.got("web.pt") == []


def test_a_file_that_two_models_share_needs_room_once(server, monkeypatch, tmp_path):
    """Two bases of one repository, each of two thirds of what is free, whatever the disk of this machine has."""
    free = 3 * 10**9
    monkeypatch.setattr(plans.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    server.listed["tiny.pt"] = free * 2 // 3
    both = entries(server.url)
    both["again"] = both["hub"]
    (tmp_path / "registry.json").write_text(json.dumps(both))
    monkeypatch.setattr(registry, "REGISTRY", registry.read(tmp_path / "registry.json"))
    with pytest.raises(OSError, match="tiny.pt|Consistency check") as stopped:
        download("hub", "again", progress=False)
    assert not isinstance(stopped.value, NoSpaceError)


def test_room_is_counted_for_a_model_and_its_parts_before_it_is_loaded(server, monkeypatch, tmp_path):
    with_model = entries(server.url)
    with_model["model"] = {**with_model["web"], "task": "class-to-image", "arch": "dit"}
    (tmp_path / "registry.json").write_text(json.dumps(with_model))
    monkeypatch.setattr(registry, "REGISTRY", registry.read(tmp_path / "registry.json"))
    server.listed["tiny.pt"] = 10**18
    with pytest.raises(NoSpaceError):
        load_pipeline("model")
    assert server.got("web.pt") == []


def test_what_is_missing_is_told_without_hashing(server):
    path = fetch("web", parts=False)
    path.write_bytes(OTHER)
    assert missing("web") == {"hub": len(DATA)}


@pytest.mark.parametrize("shown", [True, False])
def test_hashing_what_was_touched_shows_how_far_it_is(server, capfd, shown):
    os.utime(fetch("web", parts=False), ns=(1, 1))
    capfd.readouterr()
    assert located("web", progress=shown)
    assert ("checking web" in capfd.readouterr().err) == shown


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"root": "/", "files": []}', '{"root": "/", "files": {"a": {}}}', '{"files": {}}', "\0"]
)
def test_a_record_that_cannot_be_read_is_named_with_the_remedy(server, text):
    fetch("web", parts=False)
    record_of("web").write_text(text)
    for use in (located, fetch):
        with pytest.raises(RecordError, match=r"web\.json cannot be read .* remove it, then `skipdit download web`"):
            use("web")


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """huggingface_hub's constants as they are read of these variables when Python starts."""
    others = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "HF_ENDPOINT", "HF_HOME", "SKIPDIT_CACHE")
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name in others:
                patch.delenv(name, raising=False)
            for name, value in variables.items():
                patch.setenv(name, value)
            reload(constants)
            yield
    finally:
        reload(constants)


def test_the_variables_of_the_hub_are_obeyed(server, tmp_path):
    """HF_ENDPOINT is a mirror, HF_HOME moves the cache, HF_HUB_OFFLINE asks nobody."""
    variables = {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "mine")}
    record = tmp_path / "mine" / "skipdit" / "records" / "hub.json"
    with environment(**variables):
        found = fetch("hub")
    assert found.is_relative_to(tmp_path / "mine" / "hub")
    asked = len(server.asked)
    record.unlink()  # so that it would ask again
    with environment(**variables, HF_HUB_OFFLINE="1"):
        assert fetch("hub") == found
    assert (len(server.asked), record.exists()) == (asked, True)
