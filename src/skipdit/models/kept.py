"""How folders keep weights: safetensors or pickles, one file or an index of several, the usual ones or a variant."""

import re
from pathlib import Path
from typing import Any, NamedTuple

STEM = "diffusion_pytorch_model"
KEPT = r"(\.(?P<of_file>\w+))?\.(?P<kind>safetensors|bin)(?P<index>\.index(\.(?P<of_index>\w+))?\.json)?"


class Kept(NamedTuple):
    """How a folder keeps its weights: one file or the index of several, "safetensors" or "bin", in which variant."""

    name: str
    kind: str
    variant: str | None
    indexed: bool


def find_kept(folder: Path, stem: str = STEM) -> list[Kept]:
    """The weights of a folder: safetensors before pickles, and those without a variant (fp16) before those of one.

    Raises: ValueError where there are several variants and not the usual one.
    """
    found = []
    for path in folder.glob(f"{stem}.*"):
        if match := re.fullmatch(re.escape(stem) + KEPT, path.name):
            variant, indexed = match["of_index"] or match["of_file"], match["index"] is not None
            found.append(Kept(path.name, match["kind"], variant, indexed))
    found.sort(key=lambda kept: (kept.kind != "safetensors", kept.variant is not None, kept.indexed))
    variants = sorted({kept.variant for kept in found if kept.kind == found[0].kind and kept.variant})
    if found and found[0].variant and len(variants) > 1:
        raise ValueError(f"{folder} has the variants {', '.join(variants)}: leave one of them there")
    return found


def options_for(folder: Path) -> dict[str, Any]:
    """The arguments of diffusers' `from_pretrained` by which it finds the weights of a folder."""
    found = find_kept(folder)
    return {"variant": found[0].variant, "use_safetensors": found[0].kind == "safetensors"} if found else {}
