"""What a download will do, known before its first byte: the files as their server lists them, and room for all."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from skipdit.hub.failures import NoSpaceError
from skipdit.hub.registry import Published


@dataclass(frozen=True)
class Remote:
    """A file where it is published: bytes, how many of them are here, sha256 where the hub tells it, its version.

    `version` is what a plain server calls it, its ETag and its Last-Modified; both are "" where it says nothing.
    """

    name: str
    size: int
    begun: int = 0
    sha256: str | None = None
    version: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class Plan:
    """The files of a model, the folder of caches that they go to, and the commit of the hub that they are of."""

    model: Published
    files: tuple[Remote, ...]
    folder: Path
    commit: str = ""


def check_space(plans: Sequence[Plan]) -> None:
    """NoSpaceError where a disk has less room than all plans need; a file that two of them share counts once."""
    lacking = {
        (todo.folder, todo.model.source.address, file.name): file.size - file.begun
        for todo in plans
        for file in todo.files
    }
    for folder in dict.fromkeys(todo.folder for todo in plans):
        size = sum(size for (other, *_), size in lacking.items() if disk(other) == disk(folder))
        free = shutil.disk_usage(nearest(folder)).free
        if size > free:
            raise NoSpaceError(
                f"{in_words(size)} are to be downloaded, but {in_words(free)} are free at {folder}: make room, or set"
                f" HF_HOME to a folder on another disk"
            )


def disk(folder: Path) -> int:
    return nearest(folder).stat().st_dev


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
