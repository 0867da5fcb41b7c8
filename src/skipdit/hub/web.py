"""A file at a plain HTTPS address: beside its place until it is whole, and of one version from first to last byte.

    $HF_HOME/skipdit/files/NAME/FILE         once it is whole
    .../FILE.KEY.partial                     what is here of the version KEY

HEAD tells size and version (ETag, Last-Modified). The rest of what was begun is asked for under that version (If-Range,
RFC 9110 section 13.1.5), and an answer of another one is refused. Of a server that tells no version, nothing is gone on
with.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.client import HTTPResponse
from pathlib import Path
from urllib.request import Request, urlopen

from filelock import FileLock, Timeout
from tqdm import tqdm

from skipdit.hub.failures import (
    DownloadError,
    Host,
    InterruptedDownloadError,
    WrongSizeError,
    absent,
    explained,
    offline,
    stopped,
)
from skipdit.hub.plans import Plan, Remote, in_words
from skipdit.hub.records import CHUNK, VARIABLES, cache_folder, size_of
from skipdit.hub.registry import Published, check_relative

TIMEOUT = 30  # seconds without a byte


def host(model: Published, file: Remote | None = None) -> Host:
    return Host(
        model=model.name,
        address=model.source.address,
        access="see its page for another place",
        network="check the network",
        again="goes on from there" if file is None or condition(file) else "begins anew",
        variables=VARIABLES,
    )


def plan(model: Published) -> Plan:
    """The file as its server describes it; in offline mode the one that is here."""
    return Plan(model, (kept_file(model) if offline() else listed_file(model),), folder(model))


def folder(model: Published) -> Path:
    return cache_folder() / "files" / model.name


def kept_file(model: Published) -> Remote:
    target = folder(model) / model.source.path
    if not target.is_file():
        raise absent(model.name)
    return Remote(target.name, size_of(target), begun=size_of(target))


def listed_file(model: Published) -> Remote:
    with asked(host(model), Request(model.source.url, method="HEAD")) as response:
        size, version = response.headers.get("Content-Length", ""), version_of(response)
    if not size.isdecimal():
        raise WrongSizeError(f"{model.source.url} does not say how large it is: it could not be known to be whole")
    file = Remote(check_relative(model.source.path, model.name), int(size), version=version)
    return replace(file, begun=file.size if is_whole(model, file) else begun(model, file))


def version_of(response: HTTPResponse) -> tuple[str, str]:
    return response.headers.get("ETag", ""), response.headers.get("Last-Modified", "")


def condition(file: Remote) -> str:
    """What names this very version, "" where nothing does: a weak ETag is one of several versions."""
    tag, date = file.version
    return date if not tag or tag.startswith("W/") else tag


def is_whole(model: Published, file: Remote) -> bool:
    target = folder(model) / file.name
    return target.is_file() and size_of(target) == file.size


def begun(model: Published, file: Remote) -> int:
    part = partial(model, file)
    return size_of(part) if part.exists() and condition(file) else 0


def partial(model: Published, file: Remote) -> Path:
    """What was fetched so far of this version of a file."""
    key = hashlib.sha256(f"{file.version} {file.size}".encode()).hexdigest()[:12]
    return folder(model) / f"{file.name}.{key}.partial"


def fetch(todo: Plan, *, progress: bool) -> Path:
    """Download the file of a plan from where the last call stopped; returns the folder that it lies in."""
    model, (file,) = todo.model, todo.files
    target = folder(model) / file.name
    if offline():
        return target.parent
    with explained(host(model, file)):
        target.parent.mkdir(parents=True, exist_ok=True)
        with alone(target):
            if not is_whole(model, file):  # another process may have fetched it since it was planned
                transfer(model, file, partial(model, file), progress=progress)
                partial(model, file).replace(target)
            for old in target.parent.glob(f"{file.name}.*.partial"):  # of earlier versions
                old.unlink()
    return target.parent


@contextmanager
def alone(target: Path) -> Iterator[None]:
    """DownloadError where another process is at it."""
    try:
        with FileLock(target.with_name(f"{target.name}.lock"), timeout=0):
            yield
    except Timeout:
        raise DownloadError(f"{target} is being downloaded by another process: wait for it") from None


def transfer(model: Published, file: Remote, path: Path, *, progress: bool) -> None:
    """Append to `path` what it lacks; WrongSizeError or InterruptedDownloadError unless it is whole then."""
    done = begun(model, file)
    if done < file.size or file.size == 0:
        ranged = {"Range": f"bytes={done}-", "If-Range": condition(file)} if done else {}
        with asked(host(model, file), Request(model.source.url, headers=ranged)) as response:
            check_version(model, file, response, path)
            promised, done = check_range(model, file, response, done)
            receive(model, response, path, done, file.size, progress=progress)
        if size_of(path) < done + promised:
            raise stopped(host(model, file), f"{in_words(size_of(path))} of {in_words(file.size)} came")
    if size_of(path) != file.size:
        found = size_of(path)
        path.unlink()
        raise WrongSizeError(
            f"{model.source.url} sent {found} bytes, but had promised {file.size}: nothing was kept; try again later"
        )


def check_version(model: Published, file: Remote, response: HTTPResponse, path: Path) -> None:
    """InterruptedDownloadError for an answer of another version than was planned, of which nothing is kept.

    An answer of a part must have its ETag where the whole has one (RFC 9110, section 15.3.7); its date may be left out.
    """
    (tag, date), (new_tag, new_date) = file.version, version_of(response)
    other_tag = tag and new_tag != tag and (new_tag or response.status == 206)
    if other_tag or date and new_date and new_date != date:
        path.unlink(missing_ok=True)
        raise InterruptedDownloadError(
            f"{model.source.url} changed while it was downloaded, from version {tag or date} to"
            f" {new_tag or new_date or 'an unnamed one'}: nothing was kept; run the same command again"
        )


def check_range(model: Published, file: Remote, response: HTTPResponse, done: int) -> tuple[int, int]:
    """The bytes that this answer holds, and those to keep: none where the server begins anew."""
    if response.status != 206:
        done = 0
    else:
        told = response.headers.get("Content-Range", "")
        if not told.startswith(f"bytes {done}-") or not told.endswith((f"/{file.size}", "/*")):
            raise stopped(host(model), f"it sent {told}, not from byte {done} of {file.size}")
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else file.size - done, done


def receive(model: Published, response: HTTPResponse, path: Path, done: int, total: int, *, progress: bool) -> None:
    with (
        path.open("r+b" if path.exists() else "wb") as out,
        tqdm(total=total, initial=done, desc=model.name, unit="B", unit_scale=True, disable=not progress) as bar,
    ):
        out.truncate(done)
        out.seek(done)
        while chunk := response.read(CHUNK):
            out.write(chunk)
            bar.update(len(chunk))
        out.flush()
        os.fsync(out.fileno())


@contextmanager
def asked(where: Host, request: Request) -> Iterator[HTTPResponse]:
    """The answer to a request over the web; an address of HTTPS is not left for one without."""
    request.add_header("Accept-Encoding", "identity")  # so that bytes are those of the file
    request.add_header("User-Agent", "skipdit")
    with explained(where):
        response = urlopen(request, timeout=TIMEOUT)
    with response:
        if request.full_url.startswith("https:") and not response.url.startswith("https:"):
            raise DownloadError(f"{request.full_url} leads to {response.url}, which is not HTTPS: refused")
        yield response
