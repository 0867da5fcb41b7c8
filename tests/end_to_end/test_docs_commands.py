"""Every command that a page names is one: each `skipdit VERB ...` in code parses by the flags of its verb."""

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from skipdit.cli import VERBS
from skipdit.cli.flags import parse

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
INLINE, BLOCK = re.compile(r"`(skipdit \w+ [^`\n]+)`"), re.compile(r"^(skipdit \w+ (?:\\\n|[^\n])+)", re.MULTILINE)
PLACEHOLDERS = ("...", "VERB", "RECIPE", "NAME", "COMMAND")


def commands() -> list[str]:
    found = [
        line.replace("\\\n", " ")
        for page in PAGES
        for pattern in (INLINE, BLOCK)
        for line in pattern.findall(page.read_text())
    ]
    return sorted({line for line in found if not any(word in line.split() for word in PLACEHOLDERS)})


def test_pages_name_commands_of_most_verbs():
    assert {"sample", "plan", "models", "download", "convert", "train"} <= {line.split()[1] for line in commands()}


@pytest.mark.parametrize("line", [line for line in commands() if line.split()[1] not in ("train", "demo")])
def test_a_command_has_the_flags_that_a_page_gives_it(line):
    _, verb, *arguments = shlex.split(line, comments=True)
    assert verb in VERBS
    module = import_module(f"skipdit.cli.{verb}")
    parse(getattr(module, verb.capitalize()), verb, arguments)
