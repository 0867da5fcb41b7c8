"""What was downloaded, as it was when it was last hashed: one record a model, and whether its files still are so.

    $HF_HOME/skipdit/records/NAME.json       commit of the hub; bytes, time of change and sha256 of each file
    $HF_HOME/skipdit/files/NAME/FILE         what does not lie on the hub

SKIPDIT_CACHE names another folder for both (docs/decisions/0015).
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import uuid4

from huggingface_hub import constants
from tqdm import tqdm

from skipdit.hub.failures import RecordError, WrongHashError
from skipdit.hub.registry import Published

CACHE_VARIABLE = "SKIPDIT_CACHE"
CHUNK = 1 << 20  # bytes that are read at once
VARIABLES = f"HF_HOME, or {CACHE_VARIABLE}, to a folder of yours"  # that move what this module and `web` write


@dataclass(frozen=True)
class Seen:
    """A file as it was when it was last hashed."""

    bytes: int
    mtime_ns: int
    sha256: str

    def unchanged(self, path: Path) -> bool:
        now = path.stat()
        return (now.st_size, now.st_mtime_ns) == (self.bytes, self.mtime_ns)


@dataclass(frozen=True)
class Record:
    """The files of a model by name below `root`, and the commit of the hub that they are of."""

    root: Path
    files: Mapping[str, Seen]
    commit: str = ""

    @property
    def doubtful(self) -> list[str]:
        """Files of another size or time than when they were hashed."""
        return [name for name, seen in self.files.items() if not seen.unchanged(self.root / name)]

    @property
    def resized(self) -> list[str]:
        return [name for name, seen in self.files.items() if size_of(self.root / name) != seen.bytes]


def kept(model: Published) -> Record | None:
    """The record of a model all of whose files are there; nothing is hashed. RecordError where it cannot be read."""
    record = read_record(model)
    here = record is not None and record.files and all((record.root / name).is_file() for name in record.files)
    return record if here else None


def checked(model: Published, *, thorough: bool, progress: bool) -> Path | None:
    """Where a model lies by its record, after hashing its files: all, or those of another size or time."""
    record = kept(model)
    if record is None:
        return None
    if doubtful := list(record.files) if thorough else record.doubtful:
        now = examined(model, record.root, doubtful, progress=progress)
        check_recorded(model, record.root, now)
        if now.items() - record.files.items():
            with suppress(OSError):  # a cache that others own is hashed the next time, too
                write_record(model, Record(record.root, {**record.files, **now}, record.commit))
    return record.root / model.source.path


def examined(model: Published, root: Path, names: Sequence[str], *, progress: bool) -> dict[str, Seen]:
    """The files as they are, hashed."""
    total = sum(size_of(root / name) for name in names)
    with tqdm(
        total=total, desc=f"checking {model.name}", unit="B", unit_scale=True, leave=False, disable=not progress
    ) as bar:
        return {name: seen(root / name, bar) for name in names}


def snapshot(files: Sequence[Path], before: Mapping[str, Seen]) -> dict[str, Seen]:
    """Files as they are, hashed, but for those that have the size and time that they had `before`."""
    held = {str(path): before.get(str(path)) for path in files}
    known = {path: file for path, file in held.items() if file and file.unchanged(Path(path))}
    fresh = [path for path in files if str(path) not in known]
    total = sum(map(size_of, fresh))
    with tqdm(total=total, desc="hashing the model", unit="B", unit_scale=True, leave=False, delay=1) as bar:
        return known | {str(path): seen(path, bar) for path in fresh}


def seen(path: Path, bar: tqdm) -> Seen:
    digest, before = hashlib.sha256(), path.stat()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            bar.update(len(chunk))
    return Seen(before.st_size, before.st_mtime_ns, digest.hexdigest())


def check_recorded(model: Published, root: Path, now: Mapping[str, Seen]) -> None:
    """WrongHashError where a file is not the one that was first downloaded."""
    record = read_record(model)
    for name, file in now.items():
        before = record and record.files.get(name)
        if before and before.sha256 != file.sha256:
            raise WrongHashError(
                f"{(root / name).resolve()} has sha256 {file.sha256[:12]}, but {before.sha256[:12]} was recorded at its"
                f" first download: remove the file, then `skipdit download {model.name}` (if it was republished,"
                f" remove {record_path(model)}, too)"
            )


def read_record(model: Published) -> Record | None:
    """What was recorded of a model, None before its first download; RecordError where it cannot be read."""
    try:
        record = json.loads(record_path(model).read_text("utf-8"))
        files = {name: as_seen(file) for name, file in record["files"].items()}
        return Record(Path(record["root"]), files, record["commit"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecordError(
            f"{record_path(model)} cannot be read ({error}): remove it, then `skipdit download {model.name}`"
        ) from None


def as_seen(file: Mapping[str, int | str]) -> Seen:
    return Seen(int(file["bytes"]), int(file["mtime_ns"]), str(file["sha256"]))


def write_record(model: Published, record: Record) -> None:
    """Whole or not at all, even where the power fails: a broken record would stop the model from being used."""
    path = record_path(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    files = {name: asdict(file) for name, file in record.files.items()}
    aside = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with aside.open("w", encoding="utf-8", newline="") as file:
            file.write(json.dumps({"root": str(record.root), "commit": record.commit, "files": files}, indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def record_path(model: Published) -> Path:
    return cache_folder() / "records" / f"{model.name}.json"


def cache_folder() -> Path:
    """Where records lie, and files that are not on the hub."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path(constants.HF_HOME) / "skipdit").expanduser()


def size_of(path: Path) -> int:
    return path.stat().st_size
