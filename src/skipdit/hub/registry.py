"""Every published model of the paper, its bases and the parts that they need: registry.json as frozen values.

An entry says where a model lies, how large it is, under which licence, the arguments of its class, how it was run in
the paper, and which numbers it had there. Facts that could not be checked are in its own words under `unverified`.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, TypeVar

from huggingface_hub import constants

from skipdit.caching.config import SkipCacheConfig
from skipdit.spelling import did_you_mean

T = TypeVar("T")
TASKS = ("class-to-image", "class-to-video", "text-to-video", "text-to-image", "part")
FORMATS = ("original", "diffusers")
ORIGINS = ("published", "computed")  # of a size: rounded on its page, or parameters x 4
ROLES = ("vae", "base")  # what a part is to a model, as `load_pipeline` calls it
VARIANTS = ("*.fp16[.-]*", "*.bf16[.-]*", "*.non_ema[.-]*")  # the same weights again, as diffusers names them


@dataclass(frozen=True)
class Hub:
    """Files of a repository of the hub, by name or pattern; the model is `path` among them, or all of the folder.

    A * stands for any part of a name, but neither for a folder nor for a variant (fp16) of the weights.
    """

    repo: str
    files: tuple[str, ...]
    path: str = ""
    revision: str = "main"

    @property
    def page(self) -> str:
        return self.repo

    @property
    def address(self) -> str:
        return f"{constants.ENDPOINT}/{self.repo}"

    @property
    def unwanted(self) -> list[str]:
        """What a * of `files` would match beside the wanted, in the patterns of fnmatch, whose * crosses folders."""
        crossing = [
            f"{pattern[:at]}*/*{pattern[at + 1 :]}"
            for pattern in self.files
            for at, sign in enumerate(pattern)
            if sign == "*"
        ]
        return [*VARIANTS, *crossing]

    def wants(self, name: str) -> bool:
        return any(matches(name, pattern) for pattern in self.files)

    def unmatched(self, names: Iterable[str]) -> list[str]:
        """The patterns of which there is no file among `names`."""
        names = list(names)
        return [pattern for pattern in self.files if not any(matches(name, pattern) for name in names)]


@dataclass(frozen=True)
class Web:
    """One file at a plain HTTPS address."""

    url: str

    @property
    def path(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def files(self) -> tuple[str, ...]:
        return (self.path,)

    @property
    def page(self) -> str:
        return self.url.split("/")[2]

    @property
    def address(self) -> str:
        return self.url


@dataclass(frozen=True)
class Recipe:
    """How a model was run in the paper; `cache` is None for a model of which no cached run is published."""

    scheduler: str
    steps: int
    guidance_scale: float
    size: tuple[int, int]
    guidance_channels: int | str = "all"
    frames: int | None = None
    cache: SkipCacheConfig | None = None


@dataclass(frozen=True)
class Numbers:
    """What was measured: for each way of running a value, or None, in each column."""

    source: str
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[float | None, ...]]


@dataclass(frozen=True)
class Published:
    """A published model, or part of one.

    `size` is in bytes, about; `config` holds the arguments of the class that differ from its defaults; `parts` are
    names of other entries by their role, "vae" or "base"; `vanilla` is the model without long skips that the paper
    compares with.
    """

    name: str
    title: str
    task: str
    source: Hub | Web
    size: int
    size_from: str
    licence: str
    format: str
    arch: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    parts: Mapping[str, str] = field(default_factory=dict)
    vanilla: str | None = None
    recipe: Recipe | None = None
    numbers: Numbers | None = None
    note: str | None = None
    unverified: str | None = None

    def __post_init__(self) -> None:
        for value, allowed in ((self.task, TASKS), (self.format, FORMATS), (self.size_from, ORIGINS)):
            if value not in allowed:
                raise ValueError(f"{self.name} has {value!r}: take one of {', '.join(allowed)}")
        if unknown := [role for role in self.parts if role not in ROLES]:
            raise ValueError(f"{self.name} has a part for {', '.join(unknown)}: take {' or '.join(ROLES)}")
        check_relative(self.source.path, self.name)


def read(path: Path) -> Mapping[str, Published]:
    """The entries of a registry file by name; ValueError for what it has too much or too little."""
    entries = {name: entry(name, settings) for name, settings in json.loads(path.read_text("utf-8")).items()}
    for model in entries.values():
        for other in (*model.parts.values(), *filter(None, [model.vanilla])):
            if other not in entries:
                raise ValueError(f"{model.name} needs {other!r}, which {path.name} lacks")
    return MappingProxyType(entries)


def entry(name: str, settings: Mapping[str, Any]) -> Published:
    settings = dict(settings)
    source, numbers = settings.pop("source"), settings.pop("numbers", None)
    how = settings.pop("recipe", None)
    return made(
        Published,
        {
            "name": check_name(name),
            "source": made(Web if "url" in source else Hub, source, name),
            "size": settings.pop("bytes"),
            "size_from": settings.pop("bytes_from"),
            "recipe": None if how is None else recipe(how, name),
            "numbers": None if numbers is None else table(numbers, name),
            **settings,
        },
        name,
    )


def recipe(settings: Mapping[str, Any], name: str) -> Recipe:
    cache = settings.get("cache")
    return made(Recipe, {**settings, "cache": None if cache is None else made(SkipCacheConfig, cache, name)}, name)


def table(settings: Mapping[str, Any], name: str) -> Numbers:
    numbers = made(Numbers, settings, name)
    if bad := [way for way, row in numbers.rows.items() if len(row) != len(numbers.columns)]:
        raise ValueError(f"{name} has rows {', '.join(bad)} of other lengths than its {len(numbers.columns)} columns")
    return numbers


def made(kind: type[T], settings: Mapping[str, Any], name: str) -> T:
    """A dataclass of JSON values: lists become tuples, objects cannot be changed; ValueError for unknown or missing."""
    known = {member.name: member for member in fields(kind)}
    needed = {key for key, member in known.items() if member.default is MISSING and member.default_factory is MISSING}
    if fault := (settings.keys() - known.keys()) | (needed - settings.keys()):
        raise ValueError(f"{name} has a {kind.__name__} with unknown or missing {', '.join(sorted(fault))}")
    return kind(**{key: frozen(value) for key, value in settings.items()})


def frozen(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(frozen, value))
    return MappingProxyType({key: frozen(inner) for key, inner in value.items()}) if isinstance(value, dict) else value


def check_name(name: str) -> str:
    """A name is part of paths and command lines: lower case letters, digits, hyphens and dots."""
    if not name[:1].isalnum() or set(name) - set("abcdefghijklmnopqrstuvwxyz0123456789-."):
        raise ValueError(f"{name!r} is no name of a model: take lower case letters, digits, hyphens and dots")
    return name


def check_relative(path: str, name: str) -> str:
    """ValueError for a path that leads out of its folder, on whatever system."""
    if PurePosixPath(path).is_absolute() or ".." in path.split("/") or any(sign in path for sign in "\\:\0"):
        raise ValueError(f"{name} has a file {path!r}, which leads out of its folder")
    return path


def matches(name: str, pattern: str) -> bool:
    """Whether a name is the pattern's, folder by folder, and of no variant of the weights."""
    parts, patterns = name.split("/"), pattern.split("/")
    if name == pattern:
        return True
    alike = len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))
    return alike and not any(fnmatchcase(parts[-1], variant) for variant in VARIANTS)


REGISTRY = read(Path(__file__).with_name("registry.json"))


def suggest(name: str, others: Iterable[str] = ()) -> str:
    """`did_you_mean` among published models and `others`; models that lie in the hub's repository `name` go first."""
    here = [model.name for model in REGISTRY.values() if model.arch and model.source.page.casefold() == name.casefold()]
    return did_you_mean(name, (*others, *REGISTRY), first=here)


def published(name: str, *, others: Iterable[str] = ()) -> Published:
    """The entry of a name; ValueError with the nearest names, `others` among them, for another."""
    if name in REGISTRY:
        return REGISTRY[name]
    raise ValueError(f"no published model is called {name!r}: {suggest(name, others)}`skipdit models` lists them")


def needed(name: str) -> tuple[Published, ...]:
    """An entry and the parts that it needs, itself first."""
    model = published(name)
    return (model, *(published(part) for part in model.parts.values()))
