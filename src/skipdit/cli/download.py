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
    from skipdit.hub import fetching
    from skipdit.hub.load import EMBEDDED

    if not config.names:
        raise ValueError("no name is given: take some of `skipdit models`")
    if own := [name for name in config.names if name in EMBEDDED]:
        raise ValueError(f"{', '.join(own)} came with skipdit: there is nothing to download")
    lacking = fetching.missing(*config.names, parts=config.parts)
    if config.check:
        return check(config, lacking)
    announce(lacking)
    found = fetching.download(*config.names, parts=config.parts)
    for name in dict.fromkeys(config.names):
        print(f"{name}: {found[name]}")


def announce(sizes: Mapping[str, int]) -> None:
    """Say on stderr what is going to be downloaded, of so many bytes each; nothing where there is nothing.

    Raises: OfflineError for what is not here in offline mode, where what other programs downloaded is taken.
    """
    from skipdit.hub import failures, fetching
    from skipdit.hub.plans import in_words

    if failures.offline():
        for model in fetching.chosen(list(sizes), parts=False):
            fetching.PLACES[type(model.source)].plan(model)
    elif sizes:
        listed = ", ".join(f"{name} {in_words(size)}" for name, size in sizes.items())
        print(f"to download: {listed}; {in_words(sum(sizes.values()))} in all", file=sys.stderr)


def check(config: Download, lacking: dict[str, int]) -> None:
    """Hash what is here; FileNotFoundError where something is not."""
    from skipdit.hub.fetching import chosen
    from skipdit.hub.records import checked

    for model in chosen(config.names, parts=config.parts):
        if model.name not in lacking:
            print(f"{model.name}: whole, {checked(model, thorough=True, progress=True)}")
    if lacking:
        raise FileNotFoundError(f"{', '.join(lacking)}: not here; leave --check out to download")
