"""The command in this process, in an empty folder, with what it says and what it leaves."""

from pathlib import Path
from typing import NamedTuple

import pytest

from skipdit.cli import main
from tests.pipelines.tiny import tiny


class Said(NamedTuple):
    """How a command ended: exit code, stdout and stderr."""

    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The line that says what went wrong; progress bars may stand before it, nothing after it, no traceback."""
        *before, last = self.err.replace("\r", "\n").splitlines()
        assert not [line for line in before if "Traceback" in line or line.startswith("skipdit: ")]
        assert last.startswith("skipdit: ")
        return last.removeprefix("skipdit: ")


@pytest.fixture
def skipdit(tmp_path, monkeypatch, capfd):
    """Call it with a command line; relative paths lie in an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def call(line: str) -> Said:
        capfd.readouterr()
        code = main(line.split())
        return Said(code, *capfd.readouterr())

    return call


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """A model of 12 x 12 grey pixels and 5 classes, as a folder."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny(sample_size=12, patch_size=4, num_classes=5).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def large_model(tmp_path_factory) -> Path:
    """A model of 64 x 64 coloured pixels, whose PNGs are larger than any text beside them."""
    folder = tmp_path_factory.mktemp("models") / "large"
    tiny(sample_size=64, patch_size=16, in_channels=3, num_classes=5).save_pretrained(folder)
    return folder


def contents(folder: Path = Path()) -> dict[str, bytes]:
    """Every file below a folder, by its path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
