"""Every command that a page names is one: it parses by the flags of its verb, in this process, and is not run.

A command is a line of code that begins with `skipdit VERB`, in a block or inline; one that holds a word of PLACEHOLDERS
is none yet. Beyond its flags, its cache must not be refused, and its scheduler and its model must be there. In a table
with a column "ours", every --flag of that column is one of some verb.
"""

import re
import shlex
from contextlib import redirect_stdout, suppress
from functools import cache
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from skipdit.cli import VERBS, main
from skipdit.cli.flags import PUBLISHED_FLAGS, parse
from skipdit.hub.load import EMBEDDED
from skipdit.hub.registry import REGISTRY
from skipdit.pipelines.schedulers import ALIASES, SCHEDULERS
from skipdit.recipes import RECIPES

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "weights" / "README.md"]
INLINE = re.compile(r"`(skipdit \w+ [^`\n]+)`")
BLOCK = re.compile(r"^ {0,4}(?:[A-Z_]+=\S+ )*(skipdit \w+ (?:\\\n|[^\n])+)", re.MULTILINE)
PLACEHOLDERS = {"...", "VERB", "RECIPE", "NAME", "COMMAND", "LAYOUT", "IN", "OUT"}
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9.-]*")
CELL = re.compile(r"(?<!\\)\|")
OF_A_NAME = re.compile(r"[a-z0-9][a-z0-9-]*(\.[0-9][a-z0-9-]*)?")  # so is no folder or file of a page
PUBLISHED_SPELLINGS = {"--cache", "--deepcache", *PUBLISHED_FLAGS}


def commands() -> list[str]:
    found = [
        line.replace("\\\n", " ")
        for page in PAGES
        for pattern in (INLINE, BLOCK)
        for line in pattern.findall(page.read_text(encoding="utf-8"))
    ]
    return sorted({line for line in found if not PLACEHOLDERS & set(line.split())})


def parsed(verb: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the function of the verb would be given; SystemExit where the command cannot be."""
    module = import_module(f"skipdit.cli.{verb}")
    if verb != "train":
        return parse(getattr(module, verb.capitalize()), verb, arguments)
    runs: list[Any] = []
    monkeypatch.setattr(module, "train", runs.append)
    module.command(arguments)
    return runs[0]


def names(verb: str, config: Any) -> tuple[str, ...]:
    """The models that a command names."""
    match verb:
        case "sample" | "bench" | "plan":
            return (config.model,)
        case "convert":
            return (config.source,)
        case "download":
            return config.names
        case "models":
            return () if config.name is None else (config.name,)
    return ()


def is_known(name: str) -> bool:
    """A name of ours or of a published model, or else no name but a folder, a file or a size."""
    return name in EMBEDDED or name in REGISTRY or not OF_A_NAME.fullmatch(name)


def test_pages_name_commands_of_every_verb_but_the_demo():
    assert VERBS.keys() - {"demo"} <= {line.split()[1] for line in commands()}


@pytest.mark.parametrize("line", commands())
def test_a_command_is_one(line, monkeypatch):
    _, verb, *arguments = shlex.split(line, comments=True)
    assert verb in VERBS
    config = parsed(verb, arguments, monkeypatch)
    assert all(map(is_known, names(verb, config)))
    if verb in ("sample", "bench", "plan"):
        config.cache.config("class-to-image")
        assert config.scheduler in {None, *SCHEDULERS, *ALIASES}


@pytest.mark.parametrize("name", ["fashion-skp", "latte-ucf-skip", "hunyuandit-v1.3"])
def test_a_name_of_no_model_would_be_seen(name):
    assert not is_known(name)


@pytest.mark.parametrize("arguments", [["fashion-skip", "--no-such-flag", "1"], ["fashion-skip", "--steps", "few"]])
def test_a_renamed_flag_would_be_seen(arguments, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        parsed("sample", arguments, monkeypatch)


@cache
def known_flags() -> frozenset[str]:
    """Those of every verb and recipe, by their help."""
    ways = [(verb, []) for verb in VERBS if verb != "train"] + [("train", [recipe]) for recipe in RECIPES]
    return frozenset(PUBLISHED_SPELLINGS).union(*(flags_of(verb, arguments) for verb, arguments in ways))


def flags_of(verb: str, arguments: list[str]) -> set[str]:
    said = StringIO()
    with redirect_stdout(said), suppress(SystemExit):
        main([verb, *arguments, "--help"])
    return set(FLAG.findall(said.getvalue()))


def ours() -> list[tuple[str, str]]:
    """Each flag of a column "ours", with the page it stands on."""
    found = []
    for page in PAGES:
        column = None
        for line in page.read_text(encoding="utf-8").splitlines():
            cells = [cell.strip() for cell in CELL.split(line)[1:-1]] if line.startswith("|") else []
            column = cells.index("ours") if "ours" in cells else column if cells else None
            if column is not None and len(cells) > column:
                found += [(page.name, flag) for flag in FLAG.findall(cells[column])]
    return sorted(set(found))


def test_there_are_flags_to_compare():
    assert len(ours()) > 30


@pytest.mark.parametrize(("page", "flag"), ours())
def test_a_flag_beside_a_published_one_is_ours(page, flag):
    assert flag in known_flags()
