"""`skipdit download NAME ...`: published models and what they need, fetched where missing, every byte hashed."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from skipdit.cli.flags import parse


@dataclass(frozen=True)
class Download:
    """Fetch published models. What was begun goes on; what is here is hashed and compared with its first download."""

    names: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="NAME [NAME ...]", help_behavior_hint="")
    ]
    """of `skipdit models`"""
    parts: bool = True
    """fetch the autoencoder and the text encoders that a model needs, too"""
    check: bool = False
    """download nothing: hash what is here"""


def command(arguments: Sequence[str]) -> None:
    download(parse(Download, "download", arguments))


def download(config: Download) -> None:
    from skipdit.hub import download as fetching
    from skipdit.hub.load import EMBEDDED

    if not config.names:
        raise ValueError("no name is given: take some of `skipdit models`")
    if own := [name for name in config.names if name in EMBEDDED]:
        raise ValueError(f"{', '.join(own)} came with skipdit: there is nothing to download")
    lacking = absent(config)
    if config.check:
        return check(config, lacking)
    announce(lacking)
    for name in config.names:
        print(f"{name}: {fetching.download(name, parts=config.parts)}")


def announce(sizes: Mapping[str, int]) -> None:
    """Say on stderr what is going to be downloaded, of so many bytes each; nothing where there is nothing."""
    from skipdit.hub.download import in_words

    if sizes:
        listed = ", ".join(f"{name} {in_words(size)}" for name, size in sizes.items())
        print(f"to download: {listed}; {in_words(sum(sizes.values()))} in all", file=sys.stderr)


def absent(config: Download) -> dict[str, int]:
    """What is asked for and not here, with its bytes."""
    from skipdit.hub.download import missing

    lacking = {name: missing(name) for name in config.names}
    return {
        part: size for name, sizes in lacking.items() for part, size in sizes.items() if config.parts or part == name
    }


def check(config: Download, lacking: dict[str, int]) -> None:
    """Hash what is here; FileNotFoundError where something is not."""
    from skipdit.hub.download import checked
    from skipdit.hub.registry import needed, published

    models = [model for name in config.names for model in (needed(name) if config.parts else (published(name),))]
    for model in dict.fromkeys(model.name for model in models if model.name not in lacking):
        print(f"{model}: whole, {checked(published(model), thorough=True, progress=True)}")
    if lacking:
        raise FileNotFoundError(f"{', '.join(lacking)}: not here; leave --check out to download")
