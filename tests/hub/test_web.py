"""Files of plain addresses: of one version from first to last byte, resumed where that can be known, fetched once."""

from threading import Thread

import pytest

from skipdit.hub import registry, web
from skipdit.hub.failures import DownloadError, InterruptedDownloadError, WrongHashError, WrongSizeError
from skipdit.hub.fetching import located
from tests.hub.downloads import DATA, OTHER, fetch, record_of
from tests.hub.loopback import PATIENCE, Held

DATE = {"Last-Modified": "Wed, 04 Jun 2025 10:00:00 GMT"}
TAG = {"ETag": '"first"'}


def test_an_interrupted_file_is_not_used_and_goes_on_where_it_stopped(server):
    server.cut = 300_000
    with pytest.raises(InterruptedDownloadError, match="the same command goes on"):
        fetch("web", parts=False)
    assert located("web") is None
    assert not (web.folder(registry.published("web")) / "web.pt").exists()
    path = fetch("web", parts=False)
    assert path.read_bytes() == DATA
    assert server.got("web.pt") == [None, "bytes=300000-"]
    assert [file.name for file in path.parent.iterdir() if "partial" in file.name] == []


def test_what_was_begun_of_another_version_is_not_gone_on_with(server):
    server.cut = 300_000
    with pytest.raises(InterruptedDownloadError):
        fetch("web", parts=False)
    server.files["web.pt"] = OTHER
    assert fetch("web", parts=False).read_bytes() == OTHER
    assert server.got("web.pt") == [None, None]
    assert list(web.folder(registry.published("web")).glob("*.partial")) == []


@pytest.mark.parametrize("difference", [-10, 10])
def test_another_size_than_was_promised_is_refused_and_not_kept(server, difference):
    server.promised["web.pt"] = len(DATA) + difference
    with pytest.raises(WrongSizeError, match=f"{len(DATA)} bytes.*{len(DATA) + difference}"):
        fetch("web", parts=False)
    assert located("web") is None
    assert list(web.folder(registry.published("web")).glob("*.partial")) == []


def test_a_file_of_unknown_size_could_not_be_known_to_be_whole(server):
    server.promised["web.pt"] = -1
    with pytest.raises(WrongSizeError, match="does not say how large"):
        fetch("web", parts=False)


def test_a_republished_file_is_refused_while_the_first_one_is_on_record(server):
    fetch("web", parts=False).unlink()
    server.files["web.pt"] = OTHER
    with pytest.raises(WrongHashError, match="if it was republished, remove"):
        fetch("web", parts=False)
    record_of("web").unlink()
    assert fetch("web", parts=False).read_bytes() == OTHER


def test_the_folder_of_files_that_are_not_on_the_hub_can_be_moved(server, monkeypatch, tmp_path):
    monkeypatch.setenv("SKIPDIT_CACHE", str(tmp_path / "elsewhere"))
    assert fetch("web", parts=False) == tmp_path / "elsewhere" / "files" / "web" / "web.pt"


@pytest.mark.parametrize(
    ("version", "condition"), [(TAG, '"first"'), (DATE, DATE["Last-Modified"]), (DATE | TAG, '"first"')]
)
def test_the_rest_of_a_file_is_asked_for_under_its_version(server, version, condition):
    server.versions["web.pt"] = version
    begin(server)
    assert fetch("web", parts=False).read_bytes() == DATA
    assert [(asked.range, asked.condition) for asked in server.asked if asked.method == "GET"] == [
        (None, None),
        ("bytes=300000-", condition),
    ]


@pytest.mark.parametrize("version", [{}, {"ETag": 'W/"like the first"'}])
def test_without_a_strong_version_a_file_begins_anew(server, version):
    """Of the same size, and without a name, another file cannot be told from the one that was begun."""
    server.versions["web.pt"] = version
    begin(server, "begins anew")
    server.files["web.pt"] = OTHER
    assert fetch("web", parts=False).read_bytes() == OTHER
    assert server.got("web.pt") == [None, None]
    assert parts() == []


@pytest.mark.parametrize("careless", [False, True], ids=["asked for its version", "careless about the version"])
@pytest.mark.parametrize("resumed", [False, True], ids=["whole", "the rest"])
def test_a_file_that_changes_after_it_was_described_is_refused(server, careless, resumed):
    server.careless = careless
    if resumed:
        begin(server)
    server.swapped["web.pt"] = OTHER
    with pytest.raises(InterruptedDownloadError, match=r"web\.pt changed while .* run the same command again"):
        fetch("web", parts=False)
    assert located("web") is None
    assert parts() == []
    assert fetch("web", parts=False).read_bytes() == OTHER


def test_a_part_that_does_not_name_its_version_is_refused(server):
    """It must where the whole does (RFC 9110, section 15.3.7), so that nobody can know what it is a part of."""
    begin(server)
    server.careless = True
    server.unnamed = "part"
    with pytest.raises(InterruptedDownloadError, match="to an unnamed one"):
        fetch("web", parts=False)
    server.unnamed = ""
    assert fetch("web", parts=False).read_bytes() == DATA


def test_a_version_that_is_told_with_the_file_alone_does_no_harm(server):
    server.unnamed = "HEAD"
    begin(server, "begins anew")
    assert fetch("web", parts=False).read_bytes() == DATA
    assert server.got("web.pt") == [None, None]


def test_two_downloads_of_one_file_do_not_mix(server):
    """The second one is refused while the first is at it, which ends as ever."""
    held = server.held["/files/web.pt"] = Held()
    first = Thread(target=fetch, args=["web"], kwargs={"parts": False})
    first.start()
    assert held.reached.wait(PATIENCE)
    with pytest.raises(DownloadError, match="being downloaded by another process: wait for it"):
        fetch("web", parts=False)
    held.released.set()
    first.join()
    assert located("web").read_bytes() == DATA
    assert len(server.got("web.pt")) == 1


def test_what_another_download_fetched_meanwhile_is_not_fetched_again(server):
    """It planned a file that was missing then; its part is what it waits for."""
    held = server.held["/api/models/someone/tiny/revision/main"] = Held()
    slow = Thread(target=fetch, args=["web"])
    slow.start()
    assert held.reached.wait(PATIENCE)
    fetch("web", parts=False)
    held.released.set()
    slow.join()
    assert located("hub").read_bytes() == located("web").read_bytes() == DATA
    assert len(server.got("web.pt")) == 1


def begin(server, rest: str = "goes on from there") -> None:
    """Fetch 300 kB of a file."""
    server.cut = 300_000
    with pytest.raises(InterruptedDownloadError, match=f"300 kB of 1.05 MB came.*the same command {rest}"):
        fetch("web", parts=False)


def parts() -> list:
    return list(web.folder(registry.published("web")).glob("*.partial"))
