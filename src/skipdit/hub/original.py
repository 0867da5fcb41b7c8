"""Published checkpoint files -> models: the architecture is read off the tensors.

    {name: tensor}  or  {"ema": {...}, "model": {...}, "opt": ..., "args": Namespace}       (.pt, or .safetensors flat)

Every key and shape must fit: a model is the checkpoint's, whole, or there is an error that lists what differs.
"""

import argparse
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from skipdit.hub.architectures import ARCHITECTURES, CheckpointError, recognised
from skipdit.hub.names import NameMap
from skipdit.models.base import LongSkipModel

WRAPPERS = ("ema", "model", "module", "state_dict")  # the averaged weights first: they are what one samples from
PREFIXES = ("module.", "_orig_mod.")  # left by DistributedDataParallel and torch.compile
LEFTOVERS = {"caption_projection.y_embedding"}  # a buffer of diffusers 0.24 that no model reads


def load_original(
    source: str | Path | Mapping[str, Any], *, arch: str | None = None, **overrides: Any
) -> LongSkipModel:
    """A model from a checkpoint in a published format, in eval mode.

    Args:
        source: a .pt or .safetensors file, or the dict that it holds; flat, or inside "ema", "model", "module" (of
            DeepSpeed) or "state_dict".
        arch: "dit", "latte", "latte-t2v", "hunyuan" or, a HunyuanDiT under diffusers' names, "hunyuan-diffusers"; read
            off the tensors where it is left out.
        overrides: arguments of the model that tensors cannot tell, such as num_heads of an unpublished width
            (num_attention_heads of a LatteT2V), sample_size of a rectangle, sample_size and video_length of a LatteT2V
            that is not the published one (64 and 16), sample_size and prediction_type of such a HunyuanDiT (128 and
            "v_prediction"), or class_dropout_prob=0 for a table without a null class. With num_skips and
            fuse="residual" a vanilla checkpoint becomes a skip model that computes exactly the same.

    A published "partial" training checkpoint (LatteIMG-skip-partial: two outer skips, numbered outermost first) cannot
    be told from ours by its tensors and is not supported: no error says so.

    Raises:
        ValueError: unknown `arch`, or an argument that is missing or out of bounds.
        CheckpointError: a file that is no checkpoint (truncated, pickled code), is of no known architecture, or has
            keys and shapes that do not fit.
    """
    if arch is not None and arch not in ARCHITECTURES:
        raise ValueError(f"unknown arch {arch!r}: take one of {', '.join(ARCHITECTURES)}")
    state = unwrap(copied(source) if isinstance(source, Mapping) else read(Path(source)))
    arch = recognised(state) if arch is None else arch
    kind = ARCHITECTURES[arch]
    state = kind.trimmed(state)
    try:
        config = kind.infer(state, overrides) | overrides
    except (KeyError, IndexError) as missing:
        raise CheckpointError(f"no {arch} checkpoint: {missing} is missing among {len(state)} tensors") from None
    with parameters_on_meta():
        model = kind.model(**config)
    fill(model, grafted(model, state), names=kind.names)
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
    state = {without_prefix(key): tensor for key, tensor in inner.items()}
    return {key: tensor for key, tensor in state.items() if key not in LEFTOVERS}


def without_prefix(key: str) -> str:
    """A key without the prefixes of wrappers, in whatever order they were put around the model."""
    while key.startswith(PREFIXES):
        key = key.split(".", 1)[1]
    return key


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Models built here have parameters without values and draw no random numbers, but their buffers are real.

    Tables of positions that no checkpoint holds (those of `LatteT2V`) are therefore as in any other model.
    """
    hook = register_module_parameter_registration_hook(
        lambda _, __, parameter: nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)
    )
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        hook.remove()


def grafted(model: LongSkipModel, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A vanilla checkpoint for a model with residual skips gets skips that change nothing: unit norms, zero linears."""
    if model.config.get("fuse") != "residual" or any(key.startswith("skip_") for key in state):
        return state
    like = next(iter(state.values()))
    shapes = {key: tensor.shape for key, tensor in model.state_dict().items() if key.startswith("skip_")}
    units = {key for key in shapes if key.startswith("skip_norms") and key.endswith("weight")}
    skips = {key: like.new_ones(shape) if key in units else like.new_zeros(shape) for key, shape in shapes.items()}
    return state | skips


def fill(model: nn.Module, state: Mapping[str, Tensor], *, names: NameMap | None = None) -> None:
    """Give a model its weights, without a copy where they are its own; every key and shape must fit."""
    own = model.state_dict() if names is None else names.to_original(model.state_dict())
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
    model.load_state_dict(state if names is None else names.to_ours(state), assign=True)


def copied(value: Any) -> Any:
    """The caller's dict with tensors of its own, so that a model trained from it leaves the caller's alone."""
    if isinstance(value, Tensor):
        return value.clone()
    return {key: copied(inner) for key, inner in value.items()} if isinstance(value, Mapping) else value
