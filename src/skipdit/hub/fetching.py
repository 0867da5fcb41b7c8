"""Published models on this disk: downloaded where they are missing, whole, and the same bytes ever after.

    names -> records: what is here -> plans: what is missing, and room for it -> fetched, hashed, recorded

The hub's files (`hub_files`) and those of plain HTTPS addresses (`web`) are planned and fetched each in their own way.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from skipdit.hub import hub_files, web
from skipdit.hub.failures import WrongHashError, WrongSizeError, explained
from skipdit.hub.folders import shard_names
from skipdit.hub.plans import Plan, Remote, check_space
from skipdit.hub.records import VARIABLES, Record, Seen, check_recorded, checked, examined, kept, write_record
from skipdit.hub.registry import Hub, Published, Web, needed, published

PLACES = {Hub: hub_files, Web: web}


def download(*names: str, parts: bool = True, progress: bool = True) -> dict[str, Path]:
    """The files or folders of published models, and of their parts, fetched where they are missing; all are hashed.

    Nothing is fetched unless there is room for all of it.

    Raises:
        ValueError: no such model.
        DownloadError: by its subclasses: interrupted (the next call goes on where it can), of another size, of another
            hash, gone, not to be had without logging in, offline, no room on the disk or no right to write to it.
        CheckpointError: a repository or an index with names that lead out of the folder, or of files that it lacks.
    """
    models = chosen(names, parts=parts)
    found = {model.name: checked(model, thorough=True, progress=progress) for model in models}
    plans = [PLACES[type(model.source)].plan(model) for model in models if found[model.name] is None]
    check_space(plans)
    return found | {todo.model.name: fetch(todo, progress=progress) for todo in plans}


def located(name: str, *, progress: bool = True) -> Path | None:
    """Where a published model lies, None unless all of it is there; files of another size or time are hashed.

    Needs no network. Raises: ValueError for an unknown name, DownloadError for a file or a record that changed.
    """
    return checked(published(name), thorough=False, progress=progress)


def missing(*names: str, parts: bool = True) -> dict[str, int]:
    """The models, and the parts of them, that are not here, with their bytes, about.

    Needs no network and hashes nothing. Raises: ValueError for an unknown name, DownloadError for a broken record.
    """
    return {model.name: model.size for model in chosen(names, parts=parts) if kept(model) is None}


def chosen(names: Sequence[str], *, parts: bool) -> list[Published]:
    """The models of names and what they need, each once."""
    models = [model for name in names for model in (needed(name) if parts else (published(name),))]
    return list({model.name: model for model in models}.values())


def fetch(todo: Plan, *, progress: bool) -> Path:
    """Download what a plan lists, compare sizes and hashes, and record them."""
    model, place = todo.model, PLACES[type(todo.model.source)]
    root = place.fetch(todo, progress=progress)
    names = [file.name for file in todo.files]
    check_indexes(root, names)
    now = examined(model, root, names, progress=progress)
    for file in todo.files:
        check_published(model, file, root, now[file.name])
    check_recorded(model, root, now)
    with explained(replace(place.host(model), variables=VARIABLES)):
        write_record(model, Record(root, now, todo.commit))
    return root / model.source.path


def check_published(model: Published, file: Remote, root: Path, now: Seen) -> None:
    """WrongSizeError or WrongHashError where a file is not what its server said."""
    path, again = (root / file.name).resolve(), f"remove it, then `skipdit download {model.name}`"
    if now.bytes != file.size:
        raise WrongSizeError(f"{path} has {now.bytes} bytes, but {file.size} are published: {again}")
    if file.sha256 is not None and now.sha256 != file.sha256:
        raise WrongHashError(
            f"{path} has sha256 {now.sha256[:12]}, but {file.sha256[:12]} is published at {model.source.address}:"
            f" {again}"
        )


def check_indexes(root: Path, names: Sequence[str]) -> None:
    """Every file that an index names must be beside it."""
    for name in names:
        if name.endswith(".safetensors.index.json"):
            shard_names((root / name).parent, Path(name).name.removesuffix(".index.json"))
