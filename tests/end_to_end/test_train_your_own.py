"""What README and the how-to tell a user to type, in their order, with few steps and narrow models."""

import shlex
from pathlib import Path

import pytest

from skipdit.cli import main
from tests.end_to_end.belongings import own
from tests.end_to_end.test_readme import BLOCK, ROOT

MARK = "test_train_your_own"
SHORTER = shlex.split("--steps 3 --batch-size 4 --log-every 1 --checkpoint-every 1 --preview-every 0 --precision fp32")
NARROWER = shlex.split("--model.hidden-size 24 --model.num-heads 2")


def blocks() -> list[str]:
    pages = [ROOT / "README.md", ROOT / "docs" / "how-to-train-your-own.md"]
    found = [match for page in pages for match in BLOCK.finditer(page.read_text())]
    return [match["text"] for match in found if MARK in (match["skip"] or "")]


def shorter(arguments: list[str]) -> list[str]:
    """A command of training with few steps, of a narrow model where its size is free; others as they are."""
    if arguments[0] != "train":
        return arguments + ["--steps", "2"] * (arguments[0] == "sample")
    staged = ["--skips-only", "1"] * ("--skips-only" in arguments)
    return [*arguments, *SHORTER, *staged, *(NARROWER if "--size" in arguments else [])]


def test_the_pages_have_such_blocks():
    assert len(blocks()) == 4


@pytest.mark.parametrize("text", blocks(), ids=lambda text: text.split("\n")[0])
def test_a_page_is_typed_from_top_to_bottom(text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(own(tmp_path))
    for line in text.splitlines():
        _, *arguments = shlex.split(line, comments=True)
        assert main(shorter(arguments)) == 0, capsys.readouterr().err
        if "--out" in arguments:
            assert Path(arguments[arguments.index("--out") + 1]).exists()
