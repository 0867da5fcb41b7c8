"""Files and folders that are whole or absent, whatever stops the writing."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


def write_text(path: Path, text: str) -> None:
    """Write aside in the same folder, then rename over `path`; an OSError leaves what was there before."""
    aside = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        aside.write_text(text, newline="")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder aside to write into, renamed to `path` at the end; what a killed process left of it is replaced.

    Raises: OSError for whatever fails inside, since a full disk has many names (SafetensorError, RuntimeError).
    """
    aside = path.with_name(f".partial-{path.name}")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        yield aside
        shutil.rmtree(path, ignore_errors=True)
        aside.rename(path)
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise OSError(f"{path} could not be written ({reason}): make room, then run the same command again") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
