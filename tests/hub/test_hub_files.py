"""Files of the hub: those of one commit, what patterns say and no more, compared with what the hub lists."""

import json
import os
import shutil

import pytest
from huggingface_hub import constants, try_to_load_from_cache

from skipdit.hub.errors import CheckpointError, EscapingNameError
from skipdit.hub.failures import GoneError, WrongHashError, WrongSizeError
from skipdit.hub.fetching import located
from tests.hub.downloads import DATA, FOLDER, WANTED, fetch, names, record_of
from tests.hub.loopback import COMMIT, LATER

LATER_FOLDER = FOLDER | {"vae/config.json": b"[]"}


def test_a_folder_has_what_its_patterns_say_and_no_more(server):
    path = fetch("folder")
    assert names(path) == WANTED
    assert located("folder") == path
    assert not server.got("model.bin")


def test_an_interrupted_file_of_the_hub_goes_on_where_it_stopped(server, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100_000)  # what it keeps; else 10 MiB
    server.cut = 300_000
    assert fetch("hub").read_bytes() == DATA
    first, second = server.got("tiny.pt")
    assert (first, second) == (None, "bytes=300000-")


def test_another_size_than_the_hub_lists_is_refused(server):
    server.listed["tiny.pt"] = len(DATA) + 10
    with pytest.raises(WrongSizeError, match=str(len(DATA) + 10)):
        fetch("hub")
    assert located("hub") is None


def test_a_file_that_another_program_left_short_in_the_cache_is_refused(server):
    path = fetch("hub")
    record_of("hub").unlink()
    path.write_bytes(DATA[:-10])
    with pytest.raises(WrongSizeError, match=f"{len(DATA) - 10} bytes, but {len(DATA)} are published"):
        fetch("hub")
    assert located("hub") is None


def test_another_hash_than_the_hub_lists_is_refused_until_the_file_is_removed(server):
    server.hashes["tiny.pt"] = "0" * 64
    for _ in range(2):  # the second time it is in the cache
        with pytest.raises(WrongHashError, match=r"000000000000 is published .* remove it") as refused:
            fetch("hub")
        assert located("hub") is None
    os.remove(str(refused.value).partition(" has sha256")[0])
    server.hashes.clear()
    assert fetch("hub").read_bytes() == DATA


def test_a_folder_that_lost_a_file_is_fetched_again(server):
    path = fetch("folder")
    (path / "vae" / "config.json").resolve().unlink()
    assert located("folder") is None
    fetch("folder")
    assert (path / "vae" / "config.json").read_bytes() == b"{}"


def test_a_file_that_a_repository_does_not_have_any_more_is_named(server):
    del server.repos["someone/folder"]["vae/model.safetensors"]
    with pytest.raises(GoneError, match=r"has no vae/\*\.safetensors\* \(any more\)"):
        fetch("folder")


def test_offline_what_the_cache_of_the_hub_holds_is_taken_and_recorded(server, monkeypatch):
    path = fetch("folder")
    record_of("folder").unlink()
    asked = len(server.asked)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert located("folder") is None
    assert fetch("folder") == path
    assert located("folder") == path
    assert len(server.asked) == asked


@pytest.mark.parametrize("name", ["vae/..\\out.safetensors", "vae/C:.safetensors"])
def test_a_name_that_leads_out_of_the_folder_is_refused(server, name, tmp_path):
    server.repos["someone/folder"][name] = b"out"
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(EscapingNameError, match="leads out of its folder"):
        fetch("folder")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_name_of_another_folder_is_no_file_of_ours(server):
    server.repos["someone/folder"]["vae/../../../out.safetensors"] = b"out"
    assert names(fetch("folder")) == WANTED
    assert not server.got("out.safetensors")


@pytest.mark.parametrize("shard", ["../../out.safetensors", "absent.safetensors"])
def test_an_index_names_files_of_its_own_folder_that_are_there(server, shard):
    index = json.dumps({"weight_map": {"weight": shard}}).encode()
    server.repos["someone/folder"]["vae/model.safetensors.index.json"] = index
    with pytest.raises(CheckpointError, match=r"out\.safetensors|absent\.safetensors"):
        fetch("folder")
    assert located("folder") is None


def test_what_is_fetched_is_of_the_commit_that_was_listed(server):
    """A configuration of the same size, of which the hub tells no hash: nothing else would find the mixture."""
    server.later["someone/folder"] = LATER_FOLDER
    path = fetch("folder")
    assert server.main == LATER
    assert path.name == json.loads(record_of("folder").read_text())["commit"] == COMMIT
    assert {name: (path / name).read_bytes() for name in WANTED} == {name: FOLDER[name] for name in WANTED}


def test_a_folder_that_lost_a_file_is_completed_of_the_commit_on_record(server):
    path = fetch("folder")
    server.later["someone/folder"], server.main = LATER_FOLDER, LATER
    (path / "vae" / "config.json").resolve().unlink()
    assert fetch("folder") == path
    assert (path / "vae" / "config.json").read_bytes() == FOLDER["vae/config.json"]


def test_a_commit_on_record_that_is_gone_is_named_with_the_way_to_the_newest(server):
    path = fetch("folder")
    (path / "vae" / "config.json").resolve().unlink()
    server.statuses[f"/api/models/someone/folder/revision/{COMMIT}"] = (404, "RevisionNotFound")
    with pytest.raises(GoneError, match=f"or remove .*folder.json, which is of commit {COMMIT[:12]}"):
        fetch("folder")


def test_offline_a_cache_that_was_moved_is_found_by_the_commit_on_record(server, monkeypatch, tmp_path):
    """Even where another program has since moved main on."""
    path = fetch("folder")
    (path.parents[1] / "refs" / "main").write_text(LATER)
    shutil.move(tmp_path / "home", tmp_path / "moved")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "moved" / "hub"))
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "moved"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert located("folder") is None
    assert fetch("folder").is_relative_to(tmp_path / "moved")
    assert names(located("folder")) == WANTED


def test_other_programs_find_what_was_downloaded_as_the_newest(server):
    path = fetch("folder")
    assert try_to_load_from_cache("someone/folder", "model_index.json") == str(path / "model_index.json")


def test_weights_come_with_their_index_but_neither_twice_nor_of_another_folder(server):
    index = json.dumps({"weight_map": {"a": "model-1.safetensors"}}).encode()
    wanted = {"vae/model-1.safetensors": DATA, "vae/model.safetensors.index.json": index}
    unwanted = [
        "vae/model.fp16.safetensors", "vae/model.fp16-1.safetensors", "vae/model.safetensors.index.fp16.json",
        "vae/model.non_ema.safetensors", "vae/old/model.safetensors",
    ]  # fmt: skip
    server.repos["someone/folder"] |= wanted | dict.fromkeys(unwanted, DATA)
    assert names(fetch("folder")) == WANTED | wanted.keys()


def test_offline_variants_that_are_not_here_are_not_missed(server, monkeypatch):
    server.repos["someone/folder"] |= {"vae/model.fp16.safetensors": DATA, "vae/old/model.safetensors": DATA}
    path = fetch("folder")
    record_of("folder").unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch("folder") == path
