"""Downloads from a server on loopback: whole, resumed, checked, and refused with what to do."""

import hashlib
import json
import os
import subprocess
import sys

import pytest
from huggingface_hub import constants

from skipdit.hub import download as fetching
from skipdit.hub import registry
from skipdit.hub.download import (
    AccessError,
    DownloadError,
    GoneError,
    InterruptedDownloadError,
    NoSpaceError,
    OfflineError,
    WrongHashError,
    WrongSizeError,
    download,
    located,
    missing,
)
from skipdit.hub.errors import CheckpointError, EscapingNameError
from tests.hub.loopback import COMMIT, serving

DATA = bytes(range(256)) * 4096  # 1 MiB
COMMON = {"task": "part", "bytes": len(DATA), "bytes_from": "computed", "licence": "none", "format": "original"}
FOLDER = {"model_index.json": b"{}", "vae/config.json": b"{}", "vae/model.safetensors": DATA, "vae/model.bin": b"no"}


def entries(url: str) -> dict:
    """A file of no repository that needs a file of one, and a folder."""
    one = {"repo": "someone/tiny", "files": ["tiny.pt"], "path": "tiny.pt"}
    folder = {"repo": "someone/folder", "files": ["model_index.json", "vae/config.json", "vae/*.safetensors*"]}
    return {
        "web": {"title": "a file", "source": {"url": f"{url}/files/web.pt"}, "parts": {"vae": "hub"}, **COMMON},
        "hub": {"title": "a file", "source": one, **COMMON},
        "folder": {"title": "a folder", "source": folder, **COMMON},
    }


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The server, as the endpoint of the hub and in a registry of three; caches are empty."""
    with serving() as server:
        (tmp_path / "registry.json").write_text(json.dumps(entries(server.url)))
        monkeypatch.setattr(registry, "REGISTRY", registry.read(tmp_path / "registry.json"))
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
        monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.delenv("SKIPDIT_CACHE", raising=False)
        server.files["web.pt"] = DATA
        server.repos |= {"someone/tiny": {"tiny.pt": DATA, "other.pt": b"other"}, "someone/folder": dict(FOLDER)}
        yield server


def fetch(name: str, **more):
    return download(name, progress=False, **more)


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


def test_a_folder_has_what_its_patterns_say_and_no_more(server):
    path = fetch("folder")
    names = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
    assert names == FOLDER.keys() - {"vae/model.bin"}
    assert located("folder") == path
    assert not server.got("model.bin")


def test_an_interrupted_file_is_not_used_and_goes_on_where_it_stopped(server):
    server.cut = 300_000
    with pytest.raises(InterruptedDownloadError, match="the same command goes on"):
        fetch("web", parts=False)
    assert located("web") is None
    assert not (fetching.web_folder(registry.published("web")) / "web.pt").exists()
    path = fetch("web", parts=False)
    assert path.read_bytes() == DATA
    assert server.got("web.pt") == [None, "bytes=300000-"]
    assert [file.name for file in path.parent.iterdir() if "partial" in file.name] == []


def test_an_interrupted_file_of_the_hub_goes_on_where_it_stopped(server, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100_000)  # what it keeps; else 10 MiB
    server.cut = 300_000
    assert fetch("hub").read_bytes() == DATA
    first, second = server.got("tiny.pt")
    assert (first, second) == (None, "bytes=300000-")


def test_what_was_begun_of_another_version_is_not_gone_on_with(server):
    server.cut = 300_000
    with pytest.raises(InterruptedDownloadError):
        fetch("web", parts=False)
    server.files["web.pt"] = DATA[::-1]
    assert fetch("web", parts=False).read_bytes() == DATA[::-1]
    assert server.got("web.pt") == [None, None]
    assert list(fetching.web_folder(registry.published("web")).glob("*.partial")) == []


@pytest.mark.parametrize("difference", [-10, 10])
def test_another_size_than_was_promised_is_refused_and_not_kept(server, difference):
    server.promised["web.pt"] = len(DATA) + difference
    with pytest.raises(WrongSizeError, match=f"{len(DATA)} bytes.*{len(DATA) + difference}"):
        fetch("web", parts=False)
    assert located("web") is None
    assert list(fetching.web_folder(registry.published("web")).glob("*.partial")) == []


def test_a_file_of_unknown_size_could_not_be_known_to_be_whole(server):
    server.promised["web.pt"] = -1
    with pytest.raises(WrongSizeError, match="does not say how large"):
        fetch("web", parts=False)


@pytest.mark.parametrize(("status", "kind"), [(401, AccessError), (403, AccessError), (500, InterruptedDownloadError)])
def test_a_plain_host_that_refuses_is_an_error_by_its_status(server, status, kind):
    server.statuses["/files/web.pt"] = (status, "")
    with pytest.raises(kind, match=rf"files/web\.pt .*{status}"):
        fetch("web", parts=False)


def test_a_host_that_cannot_be_reached_is_an_interruption(server):
    server.server_close()
    server.shutdown()
    with pytest.raises(InterruptedDownloadError, match="web stopped"):
        fetch("web", parts=False)


def test_another_size_than_the_hub_lists_is_refused(server):
    server.listed["tiny.pt"] = len(DATA) + 10
    with pytest.raises(WrongSizeError, match=str(len(DATA) + 10)):
        fetch("hub")
    assert located("hub") is None


def test_a_file_that_another_program_left_short_in_the_cache_is_refused(server):
    path = fetch("hub")
    fetching.record_path(registry.published("hub")).unlink()
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
    assert fetching.read_record(registry.published("web")).files["web.pt"].mtime_ns == 1


def test_the_record_is_bytes_time_and_sha256(server):
    path = fetch("web", parts=False)
    record = json.loads(fetching.record_path(registry.published("web")).read_text())
    assert record["root"] == str(path.parent)
    assert record["files"]["web.pt"] == {
        "bytes": len(DATA),
        "mtime_ns": path.stat().st_mtime_ns,
        "sha256": hashlib.sha256(DATA).hexdigest(),
    }


def test_a_republished_file_is_refused_while_the_first_one_is_on_record(server):
    fetch("web", parts=False).unlink()
    server.files["web.pt"] = DATA[::-1]
    with pytest.raises(WrongHashError, match="if it was republished, remove"):
        fetch("web", parts=False)
    fetching.record_path(registry.published("web")).unlink()
    assert fetch("web", parts=False).read_bytes() == DATA[::-1]


def test_a_folder_that_lost_a_file_is_fetched_again(server):
    path = fetch("folder")
    (path / "vae" / "config.json").resolve().unlink()
    assert located("folder") is None
    fetch("folder")
    assert (path / "vae" / "config.json").read_bytes() == b"{}"


@pytest.mark.parametrize("name", ["web", "hub"])
def test_a_file_that_is_gone_is_said_to_be(server, name):
    server.files.clear()
    server.repos.clear()
    with pytest.raises(GoneError, match="404.*renamed or removed"):
        fetch(name, parts=False)


def test_a_file_that_a_repository_does_not_have_any_more_is_named(server):
    del server.repos["someone/folder"]["vae/model.safetensors"]
    with pytest.raises(GoneError, match=r"has no vae/\*\.safetensors\* \(any more\)"):
        fetch("folder")


@pytest.mark.parametrize(("status", "word"), [(401, "RepoNotFound"), (403, "GatedRepo")])
@pytest.mark.parametrize("path", ["/api/models/someone/tiny/revision/main", "/someone/tiny/resolve/{}/tiny.pt"])
def test_a_closed_repository_says_how_to_log_in(server, status, word, path):
    server.statuses[path.format(COMMIT)] = (status, word)
    with pytest.raises(AccessError, match=r"someone/tiny .*hf auth login.*accept the licence"):
        fetch("hub")


def test_offline_what_is_not_here_is_refused_without_asking(server, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for name in ("web", "hub", "folder"):
        with pytest.raises(OfflineError, match=f"{name} is not here.*HF_HUB_OFFLINE"):
            fetch(name, parts=False)
    assert server.asked == []


def test_offline_what_the_cache_of_the_hub_holds_is_taken_and_recorded(server, monkeypatch):
    path = fetch("folder")
    fetching.record_path(registry.published("folder")).unlink()
    asked = len(server.asked)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert located("folder") is None
    assert fetch("folder") == path
    assert located("folder") == path
    assert len(server.asked) == asked


def test_more_than_the_disk_holds_is_refused_before_anything_is_fetched(server):
    server.listed["tiny.pt"] = 10**18
    with pytest.raises(NoSpaceError, match="1000000000 GB are to be downloaded.*free"):
        fetch("web")
    assert server.got("tiny.pt") == server.got("web.pt") == []


@pytest.mark.parametrize("name", ["vae/../../../out.safetensors", "vae/..\\out.safetensors", "vae/C:.safetensors"])
def test_a_name_that_leads_out_of_the_folder_is_refused(server, name, tmp_path):
    server.repos["someone/folder"][name] = b"out"
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(EscapingNameError, match="leads out of its folder"):
        fetch("folder")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("shard", ["../../out.safetensors", "absent.safetensors"])
def test_an_index_names_files_of_its_own_folder_that_are_there(server, shard):
    index = json.dumps({"weight_map": {"weight": shard}}).encode()
    server.repos["someone/folder"]["vae/model.safetensors.index.json"] = index
    with pytest.raises(CheckpointError, match=r"out\.safetensors|absent\.safetensors"):
        fetch("folder")
    assert located("folder") is None


def test_two_downloads_of_one_file_do_not_mix(server):
    from filelock import FileLock

    folder = fetching.web_folder(registry.published("web"))
    folder.mkdir(parents=True)
    with FileLock(folder / "web.pt.lock"), pytest.raises(DownloadError, match="another process"):
        fetch("web", parts=False)


def test_the_folder_of_files_that_are_not_on_the_hub_can_be_moved(server, monkeypatch, tmp_path):
    monkeypatch.setenv("SKIPDIT_CACHE", str(tmp_path / "elsewhere"))
    assert fetch("web", parts=False) == tmp_path / "elsewhere" / "files" / "web" / "web.pt"


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 bytes"), (999, "999 bytes"), (5216, "5.22 kB"), (334615452, "335 MB"), (114e8, "11.4 GB")],
)
def test_sizes_are_said_in_three_digits(size, words):
    assert fetching.in_words(size) == words


PROGRAM = """
import sys
from pathlib import Path
from skipdit.hub import download, registry
registry.REGISTRY = registry.read(Path(sys.argv[1]))
print(download.download("hub", progress=False))
"""


def test_the_variables_of_the_hub_are_obeyed(server, tmp_path):
    """HF_ENDPOINT is a mirror, HF_HOME moves the cache, HF_HUB_OFFLINE asks nobody: read when Python starts."""
    variables = {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "mine")}

    def run(**more):
        names = ("HF_HUB_CACHE", "HF_HUB_OFFLINE", "HUGGINGFACE_HUB_CACHE")
        kept = {name: value for name, value in os.environ.items() if name not in names}
        command = [sys.executable, "-c", PROGRAM, str(tmp_path / "registry.json")]
        return subprocess.run(command, env=kept | variables | more, capture_output=True, text=True, check=False)

    found = run()
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith(str(tmp_path / "mine" / "hub"))
    asked = len(server.asked)
    record = tmp_path / "mine" / "skipdit" / "records" / "hub.json"
    record.unlink()  # so that it would ask again
    assert run(HF_HUB_OFFLINE="1").stdout == found.stdout
    assert (len(server.asked), record.exists()) == (asked, True)
