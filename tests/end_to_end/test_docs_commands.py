"""Every command that a page names is one: it parses by the flags of its verb, in this process, and is not run.

A command is a line of code that begins with `skipdit VERB`, in a block or inline; one that holds a word of PLACEHOLDERS
is none yet. Its model must be there, and a pipeline of it without weights must not refuse what is asked for: classes,
prompts, sizes, scheduler, cache. A published file or folder on a page counts as the model of that name.

In a table with a column "ours", every --flag of that column is one of the verbs that the cell names, else of those that
the paragraph above the table names, else of `sample`.
"""

import re
import shlex
from contextlib import redirect_stdout, suppress
from dataclasses import replace
from functools import cache
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from skipdit.caching.layouts import LAYOUTS
from skipdit.cli import VERBS, bench, main
from skipdit.cli.flags import PUBLISHED_FLAGS, parse
from skipdit.cli.plan import model_on_meta, plan_attached, scheduled
from skipdit.cli.runs import runs_of
from skipdit.cli.tasks import with_recipe
from skipdit.hub.load import EMBEDDED
from skipdit.hub.registry import REGISTRY
from skipdit.hub.sketch import sketch
from skipdit.recipes import RECIPES
from tests.end_to_end.belongings import own

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "weights" / "README.md"]
INLINE = re.compile(r"`(skipdit \w+ [^`\n]+)`")
BLOCK = re.compile(r"^ {0,4}(?:[A-Z_]+=\S+ )*(skipdit \w+ (?:\\\n|[^\n])+)", re.MULTILINE)
PLACEHOLDERS = {"...", "VERB", "RECIPE", "NAME", "COMMAND", "LAYOUT", "IN", "OUT", "FOLDER", "--help"}
VERB = re.compile(rf"`skipdit ({'|'.join(VERBS)})\b")
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
    if verb == "data":
        task, *arguments = arguments
        return parse(module.TASKS[task], f"data {task}", arguments)
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


@pytest.fixture(scope="session")
def belongings(tmp_path_factory) -> Path:
    """A folder with all that the pages take a user to have, and a model that one has trained."""
    return own(tmp_path_factory.mktemp("user"), model=True)


def test_pages_name_commands_of_every_verb_but_the_demo():
    assert VERBS.keys() - {"demo"} <= {line.split()[1] for line in commands()}


@pytest.mark.parametrize("line", commands())
def test_a_command_is_one(line, monkeypatch, belongings):
    monkeypatch.chdir(belongings)
    _, verb, *arguments = shlex.split(line, comments=True)
    assert verb in VERBS
    config = parsed(verb, arguments, monkeypatch)
    assert all(map(is_known, names(verb, config)))
    check_asked(verb, config)


def check_asked(verb: str, config: Any) -> None:
    """ValueError for what the model that a command names would refuse."""
    match verb:
        case "plan" if config.model in LAYOUTS:
            plan_attached(config)
        case "plan":
            scheduled(config, on_meta(config.model))
        case "bench":
            config = bench.resolved(config)
            bench.asked(config, pipeline_of(config.model, config.scheduler, config.vae, config.base))
        case "sample":
            config = with_recipe(replace(config, model=model_of(config)))
            pipeline = pipeline_of(config.model, config.scheduler, config.vae, config.base)
            prompts = list(config.prompt) if config.prompts_file is None else ["a dog"]
            runs_of(pipeline, [(config, prompts)])


def model_of(config: Any) -> str:
    """A name: that of the command, or that of the published model whose file or folder it names, or of its base."""
    if config.model in EMBEDDED or config.model in REGISTRY or Path(config.model, "model").is_dir():
        return config.model
    file = [entry.name for entry in REGISTRY.values() if entry.source.path == config.model]
    folder = [entry.name for entry in REGISTRY.values() if entry.source.page.endswith(f"/{config.model}")]
    return next(iter([*file, *folder]), config.base)


on_meta = cache(model_on_meta)


@cache
def pipeline_of(model: str, scheduler: str | None, vae: str | None, base: str | None) -> Any:
    return sketch(model, scheduler=scheduler, vae=vae, base=base)


@pytest.mark.parametrize(
    "line",
    [
        "plan --model fashion-skip --cache.branch 7", "plan --model dit-xl-2-skip --cache --cache-at-branch 30",
        "bench fashion-skip --cache.interval 2 --cache-at-branch 30", "bench fashion-skip --classes 12",
        "sample dit-xl-2-skip --cache --cache-at-branch 30", "sample dit-xl-2-skip --prompt dog",
        "sample ucf101-skip.pt --vae latte-vae --classes 102", "sample latte-t2v-skip --prompt dog --classes 3",
        "sample HunyuanDiT-v1.2-Diffusers --prompt dog --original-size 8 8", "sample hunyuandit-v1.2",
        "sample pytorch_model_ema.pt --base hunyuandit-v1.2 --prompt dog --frames 3", "sample latte-0 --prompt dog "
        "--scheduler fast",
    ],
)  # fmt: skip
def test_what_a_model_would_refuse_would_be_seen(line, monkeypatch):
    verb, *arguments = line.split()
    with pytest.raises(ValueError, match=": a model of|out of range|has no use|is missing|is not told|unknown sched"):
        check_asked(verb, parsed(verb, arguments, monkeypatch))


@pytest.mark.parametrize("name", ["fashion-skp", "latte-ucf-skip", "hunyuandit-v1.3"])
def test_a_name_of_no_model_would_be_seen(name):
    assert not is_known(name)


@pytest.mark.parametrize("arguments", [["fashion-skip", "--no-such-flag", "1"], ["fashion-skip", "--steps", "few"]])
def test_a_renamed_flag_would_be_seen(arguments, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        parsed("sample", arguments, monkeypatch)


@cache
def flags_of_verb(verb: str) -> frozenset[str]:
    """Those of its help, of `train` those of every recipe, with the published spellings where there is a cache."""
    ways = [[recipe] for recipe in RECIPES] if verb == "train" else [[]]
    ways = [["check"], ["encode"]] if verb == "data" else ways + [["--data", "x"]] * (verb == "train")
    found = frozenset().union(*(flags_of(verb, arguments) for arguments in ways))
    return found | PUBLISHED_SPELLINGS if "--cache.interval" in found else found


def flags_of(verb: str, arguments: list[str]) -> set[str]:
    said = StringIO()
    with redirect_stdout(said), suppress(SystemExit):
        main([verb, *arguments, "--help"])
    return set(FLAG.findall(said.getvalue()))


def ours(text: str) -> set[tuple[str, tuple[str, ...]]]:
    """Each flag of a column "ours", with the verbs that it may be of."""
    found, column, above, verbs = set(), None, "", ()
    for line in text.splitlines():
        cells = [cell.strip() for cell in CELL.split(line)[1:-1]] if line.startswith("|") else []
        if not cells:
            column, above = None, line or above
        elif "ours" in cells:
            column, verbs = cells.index("ours"), tuple(VERB.findall(above)) or ("sample",)
        elif column is not None and len(cells) > column:
            of_cell = tuple(VERB.findall(cells[column])) or verbs
            found |= {(flag, of_cell) for flag in FLAG.findall(cells[column])}
    return found


def stands(flag: str, verbs: tuple[str, ...]) -> bool:
    return any(flag in flags_of_verb(verb) for verb in verbs)


FLAGS_OF_PAGES = sorted({(page.name, *row) for page in PAGES for row in ours(page.read_text(encoding="utf-8"))})


def test_there_are_flags_to_compare_of_several_verbs():
    assert len(FLAGS_OF_PAGES) > 30
    assert {verb for *_, verbs in FLAGS_OF_PAGES for verb in verbs} >= {"sample", "train", "plan"}


@pytest.mark.parametrize(("page", "flag", "verbs"), FLAGS_OF_PAGES)
def test_a_flag_beside_a_published_one_is_one_of_its_verb(page, flag, verbs):
    assert stands(flag, verbs)


@pytest.mark.parametrize(
    "text",
    [
        "As before:\n\n| published | ours |\n|---|---|\n| `--epochs` | `--log-every` |",
        "`skipdit train RECIPE`:\n\n| published | ours |\n|---|---|\n| `--vae` | `--offload` |",
        "As before:\n\n| published | ours |\n|---|---|\n| `lr` | `skipdit train NAME` with `--tf32` |",
    ],
)
def test_a_flag_of_another_verb_would_be_seen(text):
    assert [stands(*row) for row in ours(text)] == [False]
