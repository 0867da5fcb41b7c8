"""Names in the JSON files of a folder: what they name must lie in it, and be of a library that belongs there.

A file itself may be a link to elsewhere, as in the cache of a hub: whoever made the folder on this disk made it.
"""

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from skipdit.hub.errors import DamagedCheckpointError, EscapingNameError, UnsafeCheckpointError
from skipdit.models.kept import STEM, Kept, find_kept

WEIGHTS = f"{STEM}.safetensors"
LIBRARIES = ("diffusers", "transformers", "skipdit")  # whose classes parts of a pipeline may be


def kept_weights(folder: Path, stem: str = STEM) -> Kept:
    """The weights of a folder: safetensors before pickles, and those without a variant (fp16) before those of one.

    Raises: DamagedCheckpointError where there are none, or several variants of which none is the usual one.
    """
    try:
        found = find_kept(folder, stem)
    except ValueError as error:
        raise DamagedCheckpointError(str(error)) from None
    if not found:
        raise DamagedCheckpointError(f"{folder} has no {stem}.safetensors, whole or in parts: copy the folder again")
    return found[0]


def weight_files(folder: Path) -> list[str]:
    """The files of a folder's weights, pickles too: DamagedCheckpointError for one that is missing."""
    kept = kept_weights(folder)
    return shards_of(folder / kept.name, kept.kind) if kept.indexed else [kept.name]


def shard_names(folder: Path, weights: str = WEIGHTS) -> list[str]:
    """The files that the index of a folder names, none where it has no index; errors as `shards_of`."""
    path = folder / f"{weights}.index.json"
    return shards_of(path) if path.exists() else []


def shards_of(path: Path, kind: str = "safetensors") -> list[str]:
    """The files that an index names.

    Raises: EscapingNameError for one outside the folder, DamagedCheckpointError for one that is missing.
    """
    names = sorted(set(weight_map(path).values()))
    for name in names:
        check_name(name, path)
        if not name.endswith(f".{kind}"):
            raise UnsafeCheckpointError(f"{path} names {name!r}: .{kind} files are needed")
        if not (path.parent / name).exists():
            raise DamagedCheckpointError(f"{path.parent} has no {name}, which {path.name} names: copy the folder again")
    return names


def safe_variant(folder: Path, stem: str = STEM) -> str | None:
    """The variant in which a folder keeps its weights as safetensors, None for the usual one.

    Raises: UnsafeCheckpointError for weights that are there as a pickle alone, with the command that rewrites them.
    """
    kept = kept_weights(folder, stem)
    if kept.kind != "safetensors":
        raise UnsafeCheckpointError(
            f"{folder} has its weights in {kept.name}, a pickle: rewrite them with `skipdit convert {folder} OUT`"
        )
    return kept.variant


def weight_map(path: Path) -> dict[str, str]:
    try:
        index = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DamagedCheckpointError(f"{path} cannot be read ({error}): copy the folder again") from None
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise DamagedCheckpointError(f"{path} has no weight_map of file names: copy the folder again")
    return places


def check_components(index: Mapping[str, Any], path: Path) -> None:
    """The parts that a model_index.json names: folders in its own, of classes of diffusers, transformers or ours.

    diffusers imports whatever library an index names. Raises: EscapingNameError, UnsafeCheckpointError.
    """
    for name, kind in index.items():
        if name.startswith("_") or not isinstance(kind, list):
            continue
        check_name(name, path)
        library = kind[0] if kind else None
        if library is not None and str(library).partition(".")[0] not in LIBRARIES and not is_pipeline_module(library):
            raise UnsafeCheckpointError(
                f"{path} has {name} of the library {library!r}: parts of {', '.join(LIBRARIES)} alone are loaded"
            )


def is_pipeline_module(library: Any) -> bool:
    """Whether it is a module of diffusers.pipelines, as that of a safety checker is."""
    return str(library).isidentifier() and find_spec(f"diffusers.pipelines.{library}") is not None


def check_name(name: str, path: Path) -> None:
    """EscapingNameError for what is no bare name of a file or folder beside `path`, on whatever system."""
    if name in ("", ".", "..") or any(character in name for character in "/\\:\0"):
        raise EscapingNameError(f"{path} names {name!r}: a bare name in its own folder is needed")
