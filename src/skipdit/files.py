"""Files and folders that are whole or absent, whatever stops the writing, and names for them."""

import json
import re
import shutil
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import FileLock, Timeout

SHORTEST_NAME = 32  # bytes; room for a hash and some letters
HASHED = re.compile(r".*-[0-9a-f]{12}", re.DOTALL)
RESERVED_CHARACTERS = '<>:"/\\|?*'  # these and the names below: learn.microsoft.com/windows/win32/fileio/naming-a-file
RESERVED_NAMES = {"con", "prn", "aux", "nul", "conin$", "conout$"} | {
    f"{port}{number}" for port in ("com", "lpt") for number in "0123456789\u00b9\u00b2\u00b3"
}


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 aside in the same folder, then rename over `path`; an OSError leaves what was there before.

    A link is followed.
    """
    path = path.resolve()
    aside = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        aside.write_text(text, encoding="utf-8", newline="")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def read_object(path: Path, *, remedy: str) -> dict[str, Any]:
    """The JSON object in a file of ours; ValueError with the file and a remedy for anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}): {remedy}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}, not settings by name: {remedy}")
    return value


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold a folder, which is made where it is missing; OSError where another process holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        remedy = "wait for its end, or take another --out"
        raise BlockingIOError(f"{folder} is in use by another process: {remedy}") from None
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
        with suppress(OSError):
            folder.rmdir()  # where nothing was written


@contextmanager
def place_aside(path: Path) -> Iterator[Path]:
    """A name beside `path` that is ours alone, gone at the end; what killed processes left beside it goes first.

    A lock beside each such name tells whether its process lives.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    ours = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}\.lock")
    for left in [each for each in path.parent.iterdir() if ours.fullmatch(each.name)]:
        with suppress(Timeout), FileLock(left, timeout=0):
            remove(left.with_suffix(""))
            left.unlink(missing_ok=True)
    aside = path.with_name(f".{path.name}.{uuid4().hex[:8]}")
    lock = path.with_name(f"{aside.name}.lock")
    with FileLock(lock):
        try:
            yield aside
        finally:
            remove(aside)
            lock.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """A file or a folder, where it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder aside to write into, renamed to `path` at the end, where nothing but an empty folder may be then.

    Two processes with one `path` write apart, and the second to end fails.
    Raises: OSError for whatever fails inside, as `whole_folder`.
    """
    try:
        with place_aside(path) as aside:
            aside.mkdir()
            yield aside
            aside.rename(path)
    except Exception as error:
        raise not_written(path, error) from error


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder aside to write into, renamed to `path` at the end; what a killed process left of it is replaced.

    What was at `path` is renamed aside and removed when the new one is in its place, so that a failure loses neither; a
    process killed between the two renames leaves the old one aside, and the next call puts it back first. A link is
    followed.
    Raises: OSError for whatever fails inside, since a full disk has many names (SafetensorError, RuntimeError).
    """
    path = path.resolve()
    aside, old = (path.with_name(f".{state}-{path.name}") for state in ("partial", "replaced"))
    try:
        _settle(old, path)
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        yield aside
        if path.is_dir():  # over anything else the second rename fails, as it should
            path.rename(old)
        aside.rename(path)
    except Exception as error:
        raise not_written(path, error) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        _settle(old, path)


def not_written(path: Path, error: Exception) -> OSError:
    """What was at `path` is as it was; a full disk is the likeliest reason, but not the only one."""
    reason = str(error).partition("\n")[0] or type(error).__name__
    return OSError(f"{path} could not be written ({reason}): mend that, or make room, then run the same command again")


def _settle(old: Path, path: Path) -> None:
    """Put the old folder back where no new one took its place, else remove it."""
    if old.exists() and not path.exists():
        old.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def safe_name(text: str, *, at_most: int = 200) -> str:
    """A file name for any text, such as a prompt: the text itself where that is a name, else a likeness and a hash.

    Different texts have different names, but where file systems ignore case, as those of Windows and macOS do:
    `distinct_names` minds that too. Text that ends as a name with a hash does gets a hash, which is why only names
    without one are their own names. The likeness has "_" for what no name may hold, such as "/", and is in Unicode's
    composed form (NFC). Append a suffix as text: `Path.with_suffix` would replace what follows a dot.
    Units: at_most in bytes of UTF-8, as file systems count; 200 of their 255 leave room for a suffix and a name aside.
    Raises: ValueError for at_most below 32.
    """
    if at_most < SHORTEST_NAME:
        raise ValueError(f"at_most is {at_most}; it must be at least {SHORTEST_NAME} bytes, for the hash and a word.")
    is_name = _likeness(text) == text and len(text.encode()) <= at_most and not ends_in_hash(text)
    return text if is_name else _hashed(text, at_most)


def ends_in_hash(text: str) -> bool:
    """Whether text could be taken for a name with a hash, in whatever case."""
    return HASHED.fullmatch(_folded(text)) is not None


def distinct_names(texts: Sequence[str], *, at_most: int = 200) -> list[str]:
    """`safe_name` of each text, with a hash for those that differ from an earlier one in nothing but case.

    Equal texts have equal names, and more texts at the end change no name before them.
    """
    names: dict[str, str] = {}
    taken: set[str] = set()
    for text in dict.fromkeys(texts):
        name = safe_name(text, at_most=at_most)
        names[text] = _hashed(text, at_most) if _folded(name) in taken else name
        taken.add(_folded(names[text]))
    return [names[text] for text in texts]


def _hashed(text: str, at_most: int) -> str:
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()
    beginning = _likeness(text).encode()[: at_most - len(digest) - 1].decode(errors="ignore")  # of whole characters
    return f"{beginning}-{digest}"


def _likeness(text: str) -> str:
    """The nearest name that every file system takes, of any length."""
    allowed = "".join("_" if _is_reserved(character) else character for character in unicodedata.normalize("NFC", text))
    name = _trimmed(allowed) or "untitled"
    device = name.partition(".")[0].rstrip().lower() in RESERVED_NAMES
    return f"_{name}" if device else name


def _is_reserved(character: str) -> bool:
    """Control, format and unassigned characters, lone surrogates, ends of lines, and what Windows keeps for itself."""
    category = unicodedata.category(character)
    return category[0] == "C" or category in ("Zl", "Zp") or character in RESERVED_CHARACTERS


def _trimmed(name: str) -> str:
    """Without dots and spaces at either end, of whatever width."""
    return re.sub(r"^[.\s]+|[.\s]+$", "", name)


def _folded(text: str) -> str:
    """The same for texts that differ in case alone; by way of capitals, since the dotless i has that of i."""
    return unicodedata.normalize("NFC", text.upper().casefold())
