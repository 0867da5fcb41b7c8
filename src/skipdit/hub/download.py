"""Published models on this disk: downloaded where they are missing, whole, and the same bytes ever after.

    $HF_HOME/hub/models--OWNER--NAME/snapshots/COMMIT/...    what lies on the hub: huggingface_hub's own cache
    $HF_HOME/skipdit/files/NAME/FILE                         what lies elsewhere; FILE.KEY.partial until it is whole
    $HF_HOME/skipdit/records/NAME.json                       bytes, time of change and sha256 of each file

SKIPDIT_CACHE names another folder for the last two. Mirrors, tokens, offline mode and progress bars are those of
huggingface_hub, by its own environment variables (docs/decisions/0015).
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from http.client import HTTPResponse
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from filelock import FileLock, Timeout
from huggingface_hub import HfApi, constants, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from tqdm import tqdm

from skipdit.files import write_text
from skipdit.hub.errors import EscapingNameError
from skipdit.hub.folders import shard_names
from skipdit.hub.registry import Hub, Published, check_relative, needed, published

CACHE_VARIABLE = "SKIPDIT_CACHE"
CHUNK = 1 << 20  # bytes that are read at once
TIMEOUT = 30  # seconds without a byte


class DownloadError(OSError):
    """A published model that could not be fetched, or is not what it was."""


class InterruptedDownloadError(DownloadError):
    """A transfer that stopped, or a server that cannot be reached."""


class WrongSizeError(DownloadError):
    """A file of another size than its server said."""


class WrongHashError(DownloadError):
    """A file whose sha256 is not the published one, or not the one recorded when it was first downloaded."""


class GoneError(DownloadError):
    """A file or repository that is not where it was published."""


class AccessError(DownloadError):
    """A file for which one must log in, or accept a licence."""


class OfflineError(DownloadError):
    """A file that is not here, in offline mode."""


class NoSpaceError(DownloadError):
    """Too little room on the disk."""


@dataclass(frozen=True)
class Remote:
    """A file where it is published: bytes, sha256 where the hub tells it, and whether it is in the cache already."""

    name: str
    size: int
    sha256: str | None = None
    here: bool = False
    key: str = ""  # of this very version, where a part of it is kept


@dataclass(frozen=True)
class Plan:
    """What must be fetched for a model, and the folder that it goes to."""

    model: Published
    files: tuple[Remote, ...]
    folder: Path

    @property
    def size(self) -> int:
        begun = sum(size_of(part) for file in self.files if file.key and (part := partial(self.model, file)).exists())
        return sum(file.size for file in self.files if not file.here) - begun


@dataclass(frozen=True)
class Seen:
    """A file as it was when it was last checked."""

    bytes: int
    mtime_ns: int
    sha256: str

    def unchanged(self, path: Path) -> bool:
        now = path.stat()
        return (now.st_size, now.st_mtime_ns) == (self.bytes, self.mtime_ns)


@dataclass(frozen=True)
class Record:
    """The files of a model by name below `root`."""

    root: Path
    files: Mapping[str, Seen]


def download(name: str, *, parts: bool = True, progress: bool = True) -> Path:
    """The file or folder of a published model, fetched with its parts where they are missing; every byte is hashed.

    Raises:
        ValueError: no such model.
        DownloadError: by its subclasses: interrupted (the next call goes on where it can), of another size, of another
            hash, gone, not to be had without logging in, offline, or no room on the disk.
        CheckpointError: a repository or an index with names that lead out of the folder, or of files that it lacks.
    """
    models = needed(name) if parts else (published(name),)
    found = {model.name: checked(model, thorough=True, progress=progress) for model in models}
    plans = [plan(model) for model in models if found[model.name] is None]
    check_space(plans)
    for todo in plans:
        found[todo.model.name] = fetch(todo, progress=progress)
    return found[name]


def located(name: str) -> Path | None:
    """Where a published model lies, None unless all of it is there; files that look changed are hashed.

    Needs no network. Raises: ValueError for an unknown name, WrongHashError for a file that changed.
    """
    return checked(published(name), thorough=False, progress=False)


def missing(name: str) -> dict[str, int]:
    """The model and the parts of it that are not here, with their bytes, about; needs no network."""
    return {model.name: model.size for model in needed(name) if located(model.name) is None}


# What is here.


def checked(model: Published, *, thorough: bool, progress: bool) -> Path | None:
    """Where a model lies by its record, after hashing its files: all, or those of another size or time."""
    record = read_record(model)
    if record is None or not all((record.root / name).is_file() for name in record.files):
        return None
    doubtful = [name for name, seen in record.files.items() if thorough or not seen.unchanged(record.root / name)]
    if doubtful:
        now = examined(model, record.root, doubtful, progress=progress)
        check_recorded(model, record, record.root, now)
        if now.items() - record.files.items():
            write_record(model, Record(record.root, {**record.files, **now}))
    return record.root / model.source.path


def examined(model: Published, root: Path, names: Sequence[str], *, progress: bool) -> dict[str, Seen]:
    """The files as they are, hashed."""
    total = sum(size_of(root / name) for name in names)
    with tqdm(
        total=total, desc=f"checking {model.name}", unit="B", unit_scale=True, leave=False, disable=not progress
    ) as bar:
        return {name: seen(root / name, bar) for name in names}


def seen(path: Path, bar: tqdm) -> Seen:
    digest, before = hashlib.sha256(), path.stat()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            bar.update(len(chunk))
    return Seen(before.st_size, before.st_mtime_ns, digest.hexdigest())


def check_recorded(model: Published, record: Record | None, root: Path, now: Mapping[str, Seen]) -> None:
    """WrongHashError where a file is not the one that was first downloaded."""
    for name, file in now.items():
        before = record and record.files.get(name)
        if before and before.sha256 != file.sha256:
            raise WrongHashError(
                f"{(root / name).resolve()} has sha256 {file.sha256[:12]}, but {before.sha256[:12]} was recorded at its"
                f" first download: remove the file, then `skipdit download {model.name}` (if it was republished,"
                f" remove {record_path(model)}, too)"
            )


def read_record(model: Published) -> Record | None:
    try:
        record = json.loads(record_path(model).read_text("utf-8"))
        return Record(Path(record["root"]), {name: Seen(**file) for name, file in record["files"].items()})
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise DownloadError(
            f"{record_path(model)} cannot be read ({error}): remove it, then `skipdit download {model.name}`"
        ) from None


def write_record(model: Published, record: Record) -> None:
    path = record_path(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    files = {name: asdict(file) for name, file in record.files.items()}
    write_text(path, json.dumps({"root": str(record.root), "files": files}, indent=2) + "\n")


def record_path(model: Published) -> Path:
    return cache_folder() / "records" / f"{model.name}.json"


def cache_folder() -> Path:
    """Where records lie, and files that are not on the hub."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path(constants.HF_HOME) / "skipdit").expanduser()


def web_folder(model: Published) -> Path:
    return cache_folder() / "files" / model.name


def partial(model: Published, file: Remote) -> Path:
    """What was fetched so far of this version of a file."""
    return web_folder(model) / f"{file.name}.{file.key}.partial"


def size_of(path: Path) -> int:
    return path.stat().st_size


# What must be fetched.


def plan(model: Published) -> Plan:
    """The files of a model as its server lists them; in offline mode those in the cache."""
    if isinstance(model.source, Hub):
        files = cached_files(model) if offline() else hub_files(model)
        return Plan(model, tuple(files), Path(constants.HF_HUB_CACHE))
    target = web_folder(model) / model.source.path
    if not offline():
        return Plan(model, (web_file(model),), web_folder(model))
    if not target.is_file():
        raise absent(model)
    return Plan(model, (Remote(target.name, size_of(target), here=True),), web_folder(model))


def hub_files(model: Published) -> list[Remote]:
    source = model.source
    with explained(model):
        api = HfApi()
        commit = api.model_info(source.repo, revision=source.revision).sha
        listed = list(api.list_repo_tree(source.repo, recursive=True, revision=commit))
    files = [item for item in listed if isinstance(item, RepoFile) and wanted(item.path, source)]
    if lacking := unmatched(source, [item.path for item in files]):
        raise GoneError(
            f"{address(model)} has no {', '.join(lacking)} (any more): it was renamed or removed; look at that page"
        )
    return [
        Remote(
            name=check_inside(item.path, source),
            size=item.size,
            sha256=None if item.lfs is None else item.lfs.sha256,
            here=isinstance(try_to_load_from_cache(source.repo, item.path, revision=commit), str),
        )
        for item in files
    ]


def cached_files(model: Published) -> list[Remote]:
    """What the cache of the hub holds of a model, all of it or OfflineError."""
    with explained(model):
        root = snapshot(model)
    names = [path.relative_to(root).as_posix() for path in sorted(root.rglob("*")) if path.is_file()]
    names = [name for name in names if wanted(name, model.source)]
    if unmatched(model.source, names):
        raise absent(model)
    return [Remote(name, size_of(root / name), here=True) for name in names]


def snapshot(model: Published) -> Path:
    """The folder of a repository's files, downloaded where they are missing."""
    source = model.source
    return Path(snapshot_download(source.repo, revision=source.revision, allow_patterns=list(source.files)))


def wanted(name: str, source: Hub) -> bool:
    return any(fnmatch(name, pattern) for pattern in source.files)


def check_inside(name: str, source: Hub) -> str:
    try:
        return check_relative(name, source.repo)
    except ValueError as error:
        raise EscapingNameError(f"{error}: nothing was downloaded") from None


def unmatched(source: Hub, names: Sequence[str]) -> list[str]:
    """The patterns of which there is no file."""
    return [pattern for pattern in source.files if not any(fnmatch(name, pattern) for name in names)]


def web_file(model: Published) -> Remote:
    with asked(model, Request(model.source.url, method="HEAD")) as response:
        size = response.headers.get("Content-Length", "")
        version = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
    if not size.isdecimal():
        raise WrongSizeError(f"{model.source.url} does not say how large it is: it could not be known to be whole")
    name, here = check_relative(model.source.path, model.name), web_folder(model) / model.source.path
    key = hashlib.sha256(f"{version} {size}".encode()).hexdigest()[:12]
    return Remote(name, int(size), here=here.is_file() and size_of(here) == int(size), key=key)


def check_space(plans: Sequence[Plan]) -> None:
    """NoSpaceError where a disk has less room than what goes there."""
    for folder in dict.fromkeys(todo.folder for todo in plans):
        disk = nearest(folder).stat().st_dev
        size = sum(todo.size for todo in plans if nearest(todo.folder).stat().st_dev == disk)
        free = shutil.disk_usage(nearest(folder)).free
        if size > free:
            raise NoSpaceError(
                f"{in_words(size)} are to be downloaded, but {in_words(free)} are free at {folder}: make room, or set"
                f" HF_HOME to a folder on another disk"
            )


def nearest(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def in_words(size: int) -> str:
    """11400000000 as "11.4 GB"."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 999.5 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "bytes" or size >= 99.95 else f"{size:.3g} {unit}"
        size /= 1000
    raise AssertionError(size)


# Fetching.


def fetch(todo: Plan, *, progress: bool) -> Path:
    """Download what a plan lists, compare sizes and hashes, and record them."""
    model = todo.model
    if isinstance(model.source, Hub):
        with explained(model), bars(progress):
            root = snapshot(model)
    else:
        root = web_folder(model)
        fetch_web(model, todo.files[0], progress=progress)
    names = [file.name for file in todo.files]
    check_indexes(root, names)
    now = examined(model, root, names, progress=progress)
    for file in todo.files:
        check_published(model, file, root, now[file.name])
    check_recorded(model, read_record(model), root, now)
    write_record(model, Record(root, now))
    return root / model.source.path


def check_published(model: Published, file: Remote, root: Path, now: Seen) -> None:
    """WrongSizeError or WrongHashError where a file is not what its server said."""
    path, again = (root / file.name).resolve(), f"remove it, then `skipdit download {model.name}`"
    if now.bytes != file.size:
        raise WrongSizeError(f"{path} has {now.bytes} bytes, but {file.size} are published: {again}")
    if file.sha256 is not None and now.sha256 != file.sha256:
        raise WrongHashError(
            f"{path} has sha256 {now.sha256[:12]}, but {file.sha256[:12]} is published at {model.source.repo}: {again}"
        )


def check_indexes(root: Path, names: Sequence[str]) -> None:
    """Every file that an index names must be beside it."""
    for name in names:
        if name.endswith(".safetensors.index.json"):
            shard_names((root / name).parent, Path(name).name.removesuffix(".index.json"))


@contextmanager
def bars(progress: bool) -> Iterator[None]:
    """Without the progress bars of huggingface_hub, where none are wanted."""
    shown = not progress and not are_progress_bars_disabled()
    if shown:
        disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()


def fetch_web(model: Published, file: Remote, *, progress: bool) -> None:
    """A file from a plain HTTPS address: beside its place until it is whole, from where the last call stopped."""
    if file.here:
        return
    target = web_folder(model) / file.name
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(target.with_name(f"{file.name}.lock"), timeout=0):
            transfer(model, file, partial(model, file), progress=progress)
            partial(model, file).replace(target)
            for old in target.parent.glob(f"{file.name}.*.partial"):  # of earlier versions
                old.unlink()
    except Timeout:
        raise DownloadError(f"{target} is being downloaded by another process: wait for it") from None


def transfer(model: Published, file: Remote, path: Path, *, progress: bool) -> None:
    """Append to `path` what it lacks; WrongSizeError or InterruptedDownloadError unless it is whole then."""
    done = size_of(path) if path.exists() else 0
    if done < file.size or file.size == 0:
        ranged = {"Range": f"bytes={done}-"} if done else {}
        with asked(model, Request(model.source.url, headers=ranged)) as response:
            promised, done = check_range(model, file, response, done)
            receive(model, response, path, done, file.size, progress=progress)
        if size_of(path) < done + promised:
            raise stopped(model, f"{in_words(size_of(path))} of {in_words(file.size)} are here")
    if size_of(path) != file.size:
        found = size_of(path)
        path.unlink()
        raise WrongSizeError(
            f"{model.source.url} sent {found} bytes, but had promised {file.size}: nothing was kept; try again later"
        )


def check_range(model: Published, file: Remote, response: HTTPResponse, done: int) -> tuple[int, int]:
    """The bytes that this answer holds, and those to keep: none where the server begins anew."""
    if response.status != 206:
        done = 0
    elif not response.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
        raise stopped(model, f"the server sent {response.headers.get('Content-Range')}, not from byte {done}")
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else file.size - done, done


def receive(model: Published, response: HTTPResponse, path: Path, done: int, total: int, *, progress: bool) -> None:
    with (
        path.open("r+b" if path.exists() else "wb") as out,
        tqdm(total=total, initial=done, desc=model.name, unit="B", unit_scale=True, disable=not progress) as bar,
        explained(model),
    ):
        out.truncate(done)
        out.seek(done)
        while chunk := response.read(CHUNK):
            out.write(chunk)
            bar.update(len(chunk))
        out.flush()
        os.fsync(out.fileno())


@contextmanager
def asked(model: Published, request: Request) -> Iterator[HTTPResponse]:
    """The answer to a request over the web; an address of HTTPS is not left for one without."""
    request.add_header("Accept-Encoding", "identity")  # so that bytes are those of the file
    request.add_header("User-Agent", "skipdit")
    with explained(model):
        response = urlopen(request, timeout=TIMEOUT)
    with response:
        if request.full_url.startswith("https:") and not response.url.startswith("https:"):
            raise DownloadError(f"{request.full_url} leads to {response.url}, which is not HTTPS: refused")
        yield response


# What went wrong.


@contextmanager
def explained(model: Published) -> Iterator[None]:
    """What huggingface_hub, its HTTP library or Python's raise, as errors of ours that say what to do."""
    try:
        yield
    except DownloadError:
        raise
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        cause = error.__cause__
        raise (refused(model, cause) if isinstance(cause, HfHubHTTPError) else unreachable(model, error)) from None
    except (HfHubHTTPError, HTTPError, EntryNotFoundError) as error:
        raise refused(model, error) from None
    except Exception as error:  # whatever a broken connection makes of it: OSError, HTTPException, httpx's own
        raise unreachable(model, error) from None


def refused(model: Published, error: Exception) -> DownloadError:
    """What a server means by its status."""
    status = error.code if isinstance(error, HTTPError) else error.response.status_code
    where = address(model)
    if status in (401, 403):
        return AccessError(
            f"{where} is not open to you ({status}): run `hf auth login`, and accept the licence on its page there"
            if isinstance(model.source, Hub)
            else f"{where} is not open to you ({status}): see its page for another place"
        )
    if status == 404:
        return GoneError(f"{where} is not there (404): it was renamed or removed; look for {model.name} anew")
    return stopped(model, f"{where} answers {status}")


def unreachable(model: Published, error: Exception) -> DownloadError:
    text = str(error).strip().partition("\n")[0] or type(error).__name__
    if offline():
        return absent(model)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return NoSpaceError(f"the disk is full: make room, then run the same command again ({text})")
    if text.startswith("Consistency check failed"):  # huggingface_hub's, of a size
        return WrongSizeError(f"{text} Run the same command again, and tell {address(model)} if that does not help")
    return stopped(model, text)


def stopped(model: Published, reason: str) -> DownloadError:
    """huggingface_hub goes on within a file while it runs, but keeps no part of one when it gives up (2.4)."""
    rest = "keeps whole files and fetches the rest" if isinstance(model.source, Hub) else "goes on from there"
    return InterruptedDownloadError(f"the download of {model.name} stopped ({reason}): the same command {rest}")


def absent(model: Published) -> OfflineError:
    return OfflineError(
        f"{model.name} is not here, or not all of it, and HF_HUB_OFFLINE is set: unset it, then"
        f" `skipdit download {model.name}`"
    )


def address(model: Published) -> str:
    return f"{constants.ENDPOINT}/{model.source.repo}" if isinstance(model.source, Hub) else model.source.url


def offline() -> bool:
    return constants.HF_HUB_OFFLINE
