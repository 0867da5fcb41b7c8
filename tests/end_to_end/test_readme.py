"""What the README and the how-tos tell a stranger to type runs as it stands there.

Every line of a ```bash block that begins with `skipdit ` and every ```python block, each in an empty folder, but for
blocks after a comment <!-- not run: reason -->. The `make` targets are what runs this test.
"""

import re
import shlex
from pathlib import Path

import pytest

from skipdit.cli import main

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "docs" / "the-idea.md", *sorted((ROOT / "docs").glob("how-to-*.md"))]
BLOCK = re.compile(
    r"(?P<skip><!--\s*not run:[^>]*-->\s*)?^```(?P<language>\w+)\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL
)


def blocks(language: str) -> list[str]:
    found = [match for page in PAGES for match in BLOCK.finditer(page.read_text())]
    return [match["text"] for match in found if match["language"] == language and not match["skip"]]


def commands() -> list[str]:
    lines = "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("skipdit ")]


def test_there_is_something_to_run():
    assert commands()
    assert blocks("python")


@pytest.mark.parametrize("line", commands())
def test_a_command_runs(tmp_path, monkeypatch, capsys, line):
    monkeypatch.chdir(tmp_path)
    _, *arguments = shlex.split(line, comments=True)
    assert main(arguments) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert said
    if "--out" in arguments:
        assert (tmp_path / arguments[arguments.index("--out") + 1]).exists()


@pytest.mark.parametrize("text", blocks("python"), ids=lambda text: text.strip().splitlines()[0])
def test_a_program_runs(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    exec(compile(text, "page", "exec"), {"__name__": "__main__"})
