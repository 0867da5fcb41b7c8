"""What goes wrong with a download is said in one line: where, what, and what to do; our own bugs are not dressed up."""

import errno
import socket
from http.client import BadStatusLine

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError

from skipdit.hub import hub_files, registry
from skipdit.hub.failures import (
    AccessError,
    DownloadError,
    GoneError,
    InterruptedDownloadError,
    NoSpaceError,
    OfflineError,
    UnwritableError,
    explained,
)
from tests.hub.downloads import fetch
from tests.hub.loopback import COMMIT


@pytest.mark.parametrize(("status", "kind"), [(401, AccessError), (403, AccessError), (500, InterruptedDownloadError)])
def test_a_plain_host_that_refuses_is_an_error_by_its_status(server, status, kind):
    server.statuses["/files/web.pt"] = (status, "")
    with pytest.raises(kind, match=rf"files/web\.pt .*{status}"):
        fetch("web", parts=False)


@pytest.mark.parametrize("name", ["web", "hub"])
def test_a_file_that_is_gone_is_said_to_be(server, name):
    server.files.clear()
    server.repos.clear()
    with pytest.raises(GoneError, match="404.*renamed or removed"):
        fetch(name, parts=False)


def test_offline_what_is_not_here_is_refused_without_asking(server, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for name in ("web", "hub", "folder"):
        with pytest.raises(OfflineError, match=f"{name} is not here.*HF_HUB_OFFLINE"):
            fetch(name, parts=False)
    assert server.asked == []


@pytest.mark.parametrize(("status", "word"), [(401, "RepoNotFound"), (403, "GatedRepo")])
@pytest.mark.parametrize("path", ["/api/models/someone/tiny/revision/main", "/someone/tiny/resolve/{}/tiny.pt"])
def test_a_closed_repository_says_how_to_log_in(server, status, word, path):
    """And that the hub says the same of one that is gone, where it does."""
    server.statuses[path.format(COMMIT)] = (status, word)
    with pytest.raises(AccessError, match=r"someone/tiny .*hf auth login.*accept the licence") as refused:
        fetch("hub")
    assert ("the hub answers 401 for what is gone, too" in str(refused.value)) == (status == 401)


@pytest.mark.parametrize(
    ("name", "remedy"), [("web", "check the network; the same"), ("hub", "check the network, or HF_ENDPOINT; the same")]
)
def test_a_host_that_cannot_be_reached_is_named_with_what_to_check(server, monkeypatch, tmp_path, name, remedy):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{unused.getsockname()[1]}"
    text = (tmp_path / "registry.json").read_text().replace(server.url, nowhere)
    (tmp_path / "registry.json").write_text(text)
    monkeypatch.setattr(registry, "REGISTRY", registry.read(tmp_path / "registry.json"))
    monkeypatch.setattr(constants, "ENDPOINT", nowhere)
    with pytest.raises(InterruptedDownloadError, match=rf"{name} stopped at {nowhere}/.*Errno.*{remedy}"):
        fetch(name, parts=False)


@pytest.mark.parametrize(
    ("name", "in_the_way", "variables"),
    [
        ("web", "SKIPDIT_CACHE", "HF_HOME, or SKIPDIT_CACHE,"),
        ("hub", "SKIPDIT_CACHE", "HF_HOME, or SKIPDIT_CACHE,"),  # where its record would lie
        ("hub", "HF_HUB_CACHE", "HF_HOME"),
    ],
)
def test_a_cache_that_cannot_be_written_names_the_variables(server, monkeypatch, tmp_path, name, in_the_way, variables):
    (tmp_path / "file").write_text("in the way")
    below = str(tmp_path / "file" / "below")
    if in_the_way == "SKIPDIT_CACHE":
        monkeypatch.setenv("SKIPDIT_CACHE", below)
    else:
        monkeypatch.setattr(constants, "HF_HUB_CACHE", below)
    with pytest.raises(
        UnwritableError, match=rf"file.* cannot be written \(.*\): set {variables} to a folder of yours"
    ):
        fetch(name, parts=False)


def host():
    return hub_files.host(registry.published("dit-xl-2-skip"))


@pytest.mark.parametrize(
    ("number", "kind", "remedy"),
    [
        (errno.EACCES, UnwritableError, "/data/hub cannot be written .*: set HF_HOME to a folder of yours"),
        (errno.EROFS, UnwritableError, "/data/hub cannot be written .*: set HF_HOME to a folder of yours"),
        (errno.ENOSPC, NoSpaceError, "the disk is full: make room"),
        (errno.EDQUOT, NoSpaceError, "the disk is full: make room"),
        (errno.EIO, DownloadError, r"/data/hub fails \(as the system says\): look at its disk"),
    ],
)
def test_an_error_of_the_disk_is_told_by_its_number(number, kind, remedy):
    with pytest.raises(kind, match=remedy) as failed, explained(host()):
        raise OSError(number, "as the system says", "/data/hub")
    assert type(failed.value) is kind


@pytest.mark.parametrize("error", [ConnectionResetError(errno.ECONNRESET, "reset"), TimeoutError(), BadStatusLine("?")])
def test_what_a_broken_connection_raises_is_an_interruption(monkeypatch, error):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(InterruptedDownloadError, match="check the network, or HF_ENDPOINT"), explained(host()):
        raise error


def test_a_file_that_is_gone_without_an_answer_is_gone():
    with pytest.raises(GoneError, match="dit-xl-2-skip anew"), explained(host()):
        raise EntryNotFoundError("it was listed")


@pytest.mark.parametrize("bug", [AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError])
def test_a_bug_is_not_taken_for_the_network(bug):
    with pytest.raises(bug, match="ours"), explained(host()):
        raise bug("ours")
