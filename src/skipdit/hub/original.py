"""Published checkpoint files -> models: the architecture is read off the tensors.

    {name: tensor}  or  {"ema": {...}, "model": {...}, "opt": ..., "args": Namespace}       (.pt, or .safetensors flat)
"""

import argparse
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from skipdit.models import DiT
from skipdit.models.adaln import SIZES

WRAPPERS = ("ema", "model")  # the averaged weights first: they are what one samples from
PREFIXES = ("module.", "_orig_mod.")  # left by DistributedDataParallel and torch.compile


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read, or does not hold what the model needs."""


def load_original(source: str | Path | Mapping[str, Any], *, arch: str = "dit", **overrides: Any) -> DiT:
    """A model from a checkpoint in a published format, in eval mode.

    Args:
        source: a .pt or .safetensors file, or the dict that it holds; flat, or inside "ema" or "model".
        arch: "dit".
        overrides: arguments of the model that tensors cannot tell, such as num_heads of an unpublished width,
            sample_size of a rectangle, or class_dropout_prob=0 for a table without a null class. With num_skips and
            fuse="residual" a vanilla checkpoint becomes a skip model that computes exactly the same.

    Raises:
        ValueError: unknown `arch`, or an argument that is missing or out of bounds.
        CheckpointError: a file that is no checkpoint (truncated, pickled code), or keys and shapes that do not fit.
    """
    if arch not in ARCHITECTURES:
        raise ValueError(f"unknown arch {arch!r}: take one of {', '.join(ARCHITECTURES)}")
    state = unwrap(copied(source) if isinstance(source, Mapping) else read(Path(source)))
    model_class, infer = ARCHITECTURES[arch]
    try:
        config = infer(state, overrides)
    except (KeyError, IndexError) as missing:
        raise CheckpointError(f"no {arch} checkpoint: {missing} is missing among {len(state)} tensors") from None
    with torch.device("meta"):
        model = model_class(**config)
    fill(model, grafted(model, state))
    return model.eval()


def read(path: Path) -> Mapping[str, Any]:
    """The dict inside a checkpoint file. Nothing is unpickled but tensors, containers and argparse's Namespace."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: name a .pt or .safetensors file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        check_archive(path)
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path} is refused: {refusal(error)}; ask for it as safetensors") from None
    except (OSError, CheckpointError):
        raise
    except Exception as error:  # a damaged file may fail in any way
        raise CheckpointError(f"{path} cannot be read ({first_line(error)}): download or copy it again") from None


def check_archive(path: Path) -> None:
    """Refuse what `torch.save` did not write (plain pickles, torch before 1.6), and what has lost its end."""
    with path.open("rb") as file:
        if not zipfile.is_zipfile(file):
            remedy = "download or copy it again, or ask for it as safetensors"
            raise CheckpointError(f"{path} is no archive of torch.save, or not all of one: {remedy}")


def refusal(error: pickle.UnpicklingError) -> str:
    """What a file wants to unpickle besides tensors, where torch names it."""
    named = re.search(r"GLOBAL (\S+)", str(error))
    return f"it calls for {named[1]}, which is no tensor" if named else "it is no file of tensors"


def first_line(error: Exception) -> str:
    """The first line of an error, and the second where the first only announces it."""
    first, *rest = (str(error).strip() or type(error).__name__).splitlines()
    return (f"{first} {rest[0].strip()}" if first.endswith(":") and rest else first).rstrip(".")


def unwrap(checkpoint: Any) -> dict[str, Tensor]:
    """The flat state dict inside a checkpoint, its keys without the prefixes of wrappers."""
    if not isinstance(checkpoint, Mapping):
        raise CheckpointError(f"the checkpoint is a {type(checkpoint).__name__}: it must be a dict of tensors")
    inner = next((checkpoint[name] for name in WRAPPERS if isinstance(checkpoint.get(name), Mapping)), checkpoint)
    strays = [str(key) for key, value in inner.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if strays or not inner:
        raise CheckpointError(f"the checkpoint holds {', '.join(strays) or 'nothing'} where tensors belong")
    return {without_prefix(key): tensor for key, tensor in inner.items()}


def without_prefix(key: str) -> str:
    """A key without the prefixes of wrappers, in whatever order they were put around the model."""
    while key.startswith(PREFIXES):
        key = key.split(".", 1)[1]
    return key


def infer_dit(state: Mapping[str, Tensor], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `DiT` from the shapes of its tensors, and `overrides` over them."""
    hidden_size, in_channels, patch_size, _ = shape(state, "x_embedder.proj.weight", dims=4)
    depth = count(state, "blocks")
    has_null = overrides.get("class_dropout_prob", 0.1) > 0
    inferred = {
        "hidden_size": hidden_size,
        "in_channels": in_channels,
        "patch_size": patch_size,
        "out_channels": shape(state, "final_layer.linear.bias", dims=1)[0] // patch_size**2,
        "depth": depth,
        "mlp_ratio": shape(state, "blocks.0.mlp.fc1.bias", dims=1)[0] / hidden_size,
        "num_classes": shape(state, "y_embedder.embedding_table.weight", dims=2)[0] - has_null,
        "num_skips": count(state, "skip_linears"),
    }
    if "sample_size" not in overrides:
        inferred["sample_size"] = patch_size * square_side(shape(state, "pos_embed", dims=3)[1])
    if "num_heads" not in overrides:
        inferred["num_heads"] = published_heads(depth, hidden_size)
    return inferred | dict(overrides)


def shape(state: Mapping[str, Tensor], key: str, *, dims: int) -> torch.Size:
    found = state[key].shape
    if len(found) != dims:
        raise CheckpointError(f"{key} has shape {tuple(found)}: it must have {dims} dimensions")
    return found


def count(state: Mapping[str, Tensor], name: str) -> int:
    """How many modules a ModuleList `name` has: one more than its largest index, 0 where there is none."""
    places = [key.split(".")[1] for key in state if key.startswith(f"{name}.")]
    return max((int(place) for place in places if place.isdecimal()), default=-1) + 1


def square_side(tokens: int) -> int:
    side = round(tokens**0.5)
    if side * side != tokens:
        raise ValueError(f"pos_embed has {tokens} tokens, which is no square: pass sample_size=(height, width)")
    return side


def published_heads(depth: int, hidden_size: int) -> int:
    for known_depth, known_size, heads in SIZES.values():
        if (known_depth, known_size) == (depth, hidden_size):
            return heads
    raise ValueError(f"depth {depth} at width {hidden_size} is no published size: pass num_heads")


def grafted(model: DiT, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A vanilla checkpoint for a model with residual skips gets skips that change nothing: unit norms, zero linears."""
    if model.config.fuse != "residual" or any(key.startswith("skip_") for key in state):
        return state
    shapes = {key: tensor.shape for key, tensor in model.state_dict().items() if key.startswith("skip_")}
    units = {key for key in shapes if key.startswith("skip_norms") and key.endswith("weight")}
    return state | {key: torch.ones(shape) if key in units else torch.zeros(shape) for key, shape in shapes.items()}


def fill(model: torch.nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a model its weights without a copy; every key and shape must fit."""
    own = model.state_dict()
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    misshapen = [
        f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}"
        for key in sorted(own.keys() & state.keys())
        if state[key].shape != own[key].shape
    ]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    if any(faults.values()):
        found = (f"{len(keys)} {fault}: {', '.join(keys)}" for fault, keys in faults.items() if keys)
        raise CheckpointError(f"the checkpoint does not fit: {'; '.join(found)}")
    model.load_state_dict(state, assign=True)


def copied(value: Any) -> Any:
    """The caller's dict with tensors of its own, so that a model trained from it leaves the caller's alone."""
    if isinstance(value, Tensor):
        return value.clone()
    return {key: copied(inner) for key, inner in value.items()} if isinstance(value, Mapping) else value


ARCHITECTURES = {"dit": (DiT, infer_dit)}
