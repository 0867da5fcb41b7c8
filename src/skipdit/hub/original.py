"""Published checkpoint files -> models: the architecture is read off the tensors.

    {name: tensor}  or  {"ema": {...}, "model": {...}, "opt": ..., "args": Namespace}       (.pt, or .safetensors flat)

Every key and shape must fit, and every weight be a finite number: a model is the checkpoint's, whole, or there is an
error that lists what differs.
"""

import argparse
import pickle
import re
import tarfile
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial, reduce
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from skipdit.hub.architectures import ARCHITECTURES, Architecture, Overrides, recognised
from skipdit.hub.errors import (
    CheckpointError,
    DamagedCheckpointError,
    EmptyCheckpointError,
    MismatchError,
    MissingSkipsError,
    NotFiniteError,
    UnsafeCheckpointError,
    WrongShapeError,
)
from skipdit.hub.names import NameMap, State
from skipdit.hub.own_args import as_int, check_args, own_args, read_objective
from skipdit.hub.streaming import LazyTensor, made
from skipdit.models.base import LongSkipModel

WRAPPERS = (  # the averaged weights first: they are what one samples from
    "ema", "model_ema", "ema_model", "net_ema", "model", "net", "online_model", "module", "state_dict",
)  # fmt: skip
COUNTERS = {"n_averaged", "initted", "step", "decay", "num_updates"}  # of torch's AveragedModel, ema_pytorch, LitEma
PREFIXES = ("module.", "_orig_mod.")  # left by DistributedDataParallel and torch.compile
LEFTOVERS = {"caption_projection.y_embedding"}  # a buffer of diffusers 0.24 that no model reads
STORED = zipfile.ZIP_STORED  # torch.save compresses nothing
PICKLE = b"\x80"  # what pickles of protocol 2 and later begin with
ZIP = b"PK"


def load_original(
    source: str | Path | Mapping[str, Any], *, arch: str | None = None, weights: str | None = None, **overrides: Any
) -> LongSkipModel:
    """A model from a checkpoint in a published format, in eval mode.

    Args:
        source: a .pt or .safetensors file, or the dict that it holds; flat, or inside "ema", "model", "module" (of
            DeepSpeed) or "state_dict".
        arch: "dit", "latte", "latte-t2v", "hunyuan" or, a HunyuanDiT under diffusers' names, "hunyuan-diffusers"; read
            off the tensors where it is left out.
        weights: of a file that has several, the name of one: "ema", "model", "module", "state_dict" or another of
            `WRAPPERS`, of which the first that there is is taken where they are left out.
        overrides: arguments of the model that tensors cannot tell, such as num_heads of an unpublished width
            (num_attention_heads of a LatteT2V), sample_size of a rectangle, sample_size and video_length of a LatteT2V
            that is not the published one (64 and 16), sample_size and prediction_type of such a HunyuanDiT (128 and
            "v_prediction"), or class_dropout_prob=0 for a table without a null class. With num_skips and
            fuse="residual" a vanilla checkpoint becomes a skip model that computes exactly the same.

    A published "partial" training checkpoint (LatteIMG-skip-partial: two outer skips, numbered outermost first) cannot
    be told from ours by its tensors and is not supported: no error says so.

    Raises:
        ValueError: unknown `arch`, `weights` that are not there, or an argument that is missing or out of bounds.
        CheckpointError: by its classes in `skipdit.hub.errors`: a file that is damaged, empty or wants to run code, is
            of no known architecture, has keys and shapes that do not fit, or weights that are no finite numbers.
    """
    checkpoint = copied(source) if isinstance(source, Mapping) else read(Path(source))
    found = unwrap(checkpoint, weights)
    kind, config, state = described(found.state, arch, overrides, args=found.args)
    with parameters_on_meta():
        model = kind.model(**config)
    fill(model, in_one_dtype(grafted(model, state)), names=kind.names)
    return model.eval()


def arch_of(state: State, arch: str | None) -> str:
    """The architecture that was asked for, or else the one that the tensors tell."""
    if arch is not None and arch not in ARCHITECTURES:
        raise ValueError(f"unknown arch {arch!r}: take one of {', '.join(ARCHITECTURES)}")
    return recognised(state) if arch is None else arch


def described(
    state: State, arch: str | None, overrides: Overrides, *, args: Mapping[str, Any] | None = None
) -> tuple[Architecture, dict[str, Any], dict[str, Tensor]]:
    """The architecture, the arguments of its model, and the tensors that it reads.

    `args` are those of the training run, where the checkpoint holds them; `overrides` go before them.
    """
    arch, args = arch_of(state, arch), {} if args is None else args
    kind = ARCHITECTURES[arch]
    ruled_out = {*overrides} | ({"image_size"} if "sample_size" in overrides else set())
    state, read = dict(kind.trimmed(state)), {} if "prediction_type" in overrides else read_objective(args)
    overrides = read | dict(overrides)
    try:
        config = kind.infer(state, with_classes(args, overrides)) | overrides
    except (KeyError, IndexError) as missing:
        raise MismatchError(f"no {arch} checkpoint: {missing} is missing among {len(state)} tensors") from None
    check_args({name: value for name, value in args.items() if name not in ruled_out}, kind.model, config)
    return kind, config, state


def with_classes(args: Mapping[str, Any], overrides: Overrides) -> Overrides:
    """The overrides, and the number of classes that the run itself was told."""
    classes = as_int(args.get("num_classes"))
    return overrides if classes is None else {"num_classes": classes, **overrides}


def read(path: Path) -> Mapping[str, Any]:
    """The dict inside a checkpoint file, whose tensors are read from the disk when they are used.

    Nothing is unpickled but tensors, containers and the `HARMLESS` values that training checkpoints have beside them.
    """
    if not path.exists():
        remedy = "name a .pt or .safetensors file (load_pipeline takes models by name)"
        raise FileNotFoundError(f"{path} does not exist: {remedy}")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: load_pipeline loads it, or from_pretrained of its class")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        check_archive(path)
        with torch.serialization.safe_globals(HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        remedy = "ask for it as safetensors, or save its tensors alone if it is yours"
        raise UnsafeCheckpointError(f"{path} is refused: {refusal(error)}; {remedy}") from None
    except (OSError, CheckpointError):
        raise
    except Exception as error:  # a damaged file may fail in any way
        reason = first_line(error)
        raise DamagedCheckpointError(f"{path} cannot be read ({reason}): download or copy it again") from None


def plain_dict(factory: type | None = None) -> dict:
    """In the place of a defaultdict, whose factory nobody calls."""
    return {}


HARMLESS = [  # what `torch.load` may make beside tensors: none of it runs code of the file
    argparse.Namespace, list, dict, set, int, float,
    (plain_dict, "collections.defaultdict"),
    *((PurePosixPath, f"{module}.PosixPath") for module in ("pathlib", "pathlib._local")),
    *((PureWindowsPath, f"{module}.WindowsPath") for module in ("pathlib", "pathlib._local")),
    np.ndarray, np.dtype, *{type(np.dtype(code)) for code in "?bhilqBHILQefdgFDGSU"},
    *((made.__reduce__()[0], f"numpy.{core}.multiarray.{made.__reduce__()[0].__name__}")
      for made in (np.zeros(0), np.float64(0)) for core in ("core", "_core")),
]  # fmt: skip


def check_archive(path: Path) -> None:
    """Refuse what `torch.save` did not write: plain pickles, torch before 1.6, compressed archives, lost ends."""
    with path.open("rb") as file:
        if zipfile.is_zipfile(file):
            if any(entry.compress_type != STORED for entry in zipfile.ZipFile(file).infolist()):
                raise UnsafeCheckpointError(
                    f"{path} is compressed, which torch.save never does, and may fill the memory: ask for it as"
                    " safetensors"
                )
            return
        file.seek(0)
        start = file.read(2)
        file.seek(0)
        old = start.startswith(PICKLE) or start != ZIP and tarfile.is_tarfile(file)
    remedy = "download or copy it again, or ask for it as safetensors"
    if old:
        raise UnsafeCheckpointError(f"{path} is no archive of torch.save since 1.6 but a bare pickle or tar: {remedy}")
    raise DamagedCheckpointError(f"{path} is no archive of torch.save, or not all of one: {remedy}")


def refusal(error: pickle.UnpicklingError) -> str:
    """What a file wants to unpickle besides tensors, where torch names it."""
    named = re.search(r"GLOBAL (\S+)", str(error))
    return f"it calls for {named[1]}, which is no tensor" if named else "it is no file of tensors"


def first_line(error: Exception) -> str:
    """The first line of an error, and the second where the first only announces it."""
    first, *rest = (str(error).strip() or type(error).__name__).splitlines()
    return (f"{first} {rest[0].strip()}" if first.endswith(":") and rest else first).rstrip(".")


class Unwrapped(NamedTuple):
    """The flat state dict inside a checkpoint, the name of the set that it was, and what the run was told."""

    name: str | None
    state: dict[str, Tensor]
    args: dict[str, Any]


def unwrap(checkpoint: Any, weights: str | None = None) -> Unwrapped:
    """The weights in a checkpoint, their names without prefixes of wrappers and trainers.

    `weights` are those of a name, of the checkpoint or, as Lightning has them, before each tensor's; left out, the
    first of `WRAPPERS` that holds tensors. Raises: ValueError for weights that are not there.
    """
    if not isinstance(checkpoint, Mapping):
        raise MismatchError(f"the checkpoint is a {type(checkpoint).__name__}: it must be a dict of tensors")
    wrapped = {name: checkpoint[name] for name in WRAPPERS if isinstance(checkpoint.get(name), Mapping)}
    name = weights if weights in wrapped else first_filled(wrapped)
    inner = checkpoint if name is None else wrapped[name]
    check_tensors(inner, [other for other in wrapped if other != name and is_filled(wrapped[other])])
    state = {without_prefix(key): tensor for key, tensor in inner.items() if not is_counter(key, tensor)}
    sets = {other: inside for other in WRAPPERS if (inside := take_below(state, other))}
    if weights is not None and weights not in wrapped and weights not in sets:
        found = f"it holds {', '.join({**wrapped, **sets})}" if wrapped or sets else "it is flat, so leave weights out"
        raise ValueError(f"weights is {weights!r}: no such weights in the checkpoint, {found}")
    if sets:
        name, state = one_set(sets, state, weights=weights, name=name)
    state = {key: tensor for key, tensor in without_common_prefix(state).items() if key not in LEFTOVERS}
    return Unwrapped(name, state, own_args(checkpoint))


def first_filled(wrapped: Mapping[str, Mapping]) -> str | None:
    """The first set that holds tensors, with a word of those before it; the first of all where none does."""
    name = next((name for name, inner in wrapped.items() if is_filled(inner)), next(iter(wrapped), None))
    if name and (empty := list(wrapped)[: list(wrapped).index(name)]):
        warnings.warn(f"{', '.join(empty)} holds no tensors by name, so weights is {name!r}: say so", stacklevel=4)
    return name


def is_filled(inner: Mapping) -> bool:
    return any(map(is_dense, inner.values()))


def check_tensors(inner: Mapping[Any, Any], others: list[str]) -> None:
    """Every value is a tensor by a name, with memory for each of its numbers, and there is one."""
    remedy = f": take weights (--weights) {' or '.join(others)}" if others else ""
    if not inner:
        raise EmptyCheckpointError(f"the checkpoint holds nothing where tensors belong{remedy}")
    if strays := [str(key) for key, value in inner.items() if not (isinstance(key, str) and is_dense(value))]:
        raise MismatchError(f"the checkpoint holds {', '.join(strays)} where tensors belong{remedy}")
    for name, tensor in inner.items():
        if (held := tensor.untyped_storage().nbytes()) < tensor.nbytes:
            raise UnsafeCheckpointError(
                f"{name} is {tensor.nbytes:,} bytes made of {held:,}, which may fill the memory: ask for it as"
                " safetensors"
            )


def take_below(state: State, prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix and a dot, without them."""
    start = f"{prefix}."
    return {without_prefix(key.removeprefix(start)): tensor for key, tensor in state.items() if key.startswith(start)}


def one_set(
    sets: Mapping[str, dict[str, Tensor]], state: State, *, weights: str | None, name: str | None
) -> tuple[str | None, dict[str, Tensor]]:
    """Of sets of weights by their prefixes (model., ema.) the wanted, and its name; MismatchError where others are."""
    if len(sets) == 1 and sum(map(len, sets.values())) == len(state):
        return name, next(iter(sets.values()))
    if weights not in sets and sum(map(len, sets.values())) < len(state):
        raise MismatchError(
            f"the names of tensors begin with {', '.join(list_beginnings(state))}: take weights (--weights)"
            f" {' or '.join(sets)}, or rename them"
        )
    name = weights if weights in sets else first_known(sets)
    return name, sets[name]


def first_known(sets: Mapping[str, dict[str, Tensor]]) -> str:
    """The first set under names that a model has, with a word of those before it; the first of all where none is."""
    first, *_ = sets
    name = next((name for name, state in sets.items() if has_mark(without_common_prefix(state))), first)
    if name != first:
        warnings.warn(f"{first} has names that no model has, so weights is {name!r}: say so", stacklevel=5)
    return name


def list_beginnings(state: State) -> list[str]:
    return sorted({f"{head}{dot}" for head, dot, _ in (key.partition(".") for key in state)})


def without_common_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without what a trainer put before every name, as `net.`, where an architecture is recognised then."""
    stripped = state
    while len(heads := list_beginnings(stripped)) == 1 and heads[0].endswith("."):
        stripped = take_below(stripped, heads[0][:-1])
        if has_mark(stripped):
            return stripped
    return state


def has_mark(state: State) -> bool:
    return any(architecture.mark in state for architecture in ARCHITECTURES.values())


def is_counter(key: str, tensor: Tensor) -> bool:
    """Whether it is one number that an average of weights has beside them."""
    return tensor.numel() == 1 and key.rpartition(".")[2] in COUNTERS


def is_dense(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout is torch.strided


def in_one_dtype(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Tensors of mixed dtypes in the narrowest that holds all of them; those of one as they are."""
    kinds = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
    if len(kinds) < 2:
        return state
    wide = reduce(torch.promote_types, (kind if kind.itemsize > 1 else torch.bfloat16 for kind in kinds))
    return {name: tensor.to(wide) if tensor.is_floating_point() else tensor for name, tensor in state.items()}


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
    """A vanilla checkpoint for a model with residual skips gets skips that change nothing."""
    like = next(iter(state.values()))
    return state | made(grafts(model, state, dtype=like.dtype, device=like.device))


def grafts(
    model: LongSkipModel, names: Iterable[str], *, dtype: torch.dtype, device: torch.device
) -> dict[str, LazyTensor]:
    """Unit norms and zero linears for residual skips of which a checkpoint has none."""
    if model.config.get("fuse") != "residual" or any(name.startswith("skip_") for name in names):
        return {}
    skips = {name: tensor for name, tensor in model.state_dict().items() if name.startswith("skip_")}
    return {
        name: LazyTensor(
            torch.empty(tensor.shape, dtype=dtype, device="meta"),
            partial(
                torch.ones if name.startswith("skip_norms") and name.endswith("weight") else torch.zeros,
                tensor.shape, dtype=dtype, device=device,
            ),
        )
        for name, tensor in skips.items()
    }  # fmt: skip


def fill(model: nn.Module, state: Mapping[str, Tensor], *, names: NameMap | None = None) -> None:
    """Give a model its weights, without a copy where they are its own; every key and shape must fit."""
    check_fit(model.state_dict() if names is None else names.to_original(model.state_dict()), state, model)
    for name, tensor in state.items():
        check_finite(tensor, name=name)
    model.load_state_dict(state if names is None else names.to_ours(state), assign=True)


def check_fit(
    own: Mapping[str, Tensor | LazyTensor], state: Mapping[str, Tensor | LazyTensor], model: LongSkipModel
) -> None:
    """MismatchError lists every key and shape of a checkpoint that is not that of the model's `own`, if any is."""
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    misshapen = [
        f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}"
        for key in sorted(own.keys() & state.keys())
        if state[key].shape != own[key].shape
    ]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    if not any(faults.values()):
        return
    found = (f"{len(keys)} {fault}: {', '.join(keys)}" for fault, keys in faults.items() if keys)
    message = f"the checkpoint does not fit: {'; '.join(found)}"
    if not misshapen and not unexpected and all(is_of_skips(key) for key in missing):
        raise MissingSkipsError(message + graft_remedy(model, missing))
    raise MismatchError(message) if missing or unexpected else WrongShapeError(message)


def is_of_skips(key: str) -> bool:
    return any(part.startswith("skip_") for part in key.split("."))


def graft_remedy(model: LongSkipModel, missing: Iterable[str]) -> str:
    """What to do with a vanilla checkpoint where a skip model was asked for; nothing helps one that lost some skips."""
    lost = {key for key in model.state_dict() if key.startswith("skip_")}
    if not lost or lost - set(missing):
        return ""
    skips = model.config.num_skips
    return (
        f". It is of a vanilla model: fuse='residual' (skipdit convert --upcycle {skips}) gives it skips that change"
        " nothing"
    )


def check_finite(tensor: Tensor, *, name: str) -> Tensor:
    """The tensor; NotFiniteError where a weight is infinite or no number. One pass over its memory, without a copy."""
    if tensor.is_meta or not tensor.numel() or not tensor.is_floating_point():
        return tensor
    # Its smallest and largest are NaN where any is. Types of one byte have neither.
    extremes = torch.stack((tensor.float() if tensor.itemsize == 1 else tensor).aminmax())
    if not extremes.isfinite().all():
        bad = int((~tensor.float().isfinite()).sum())
        raise NotFiniteError(f"{name} has {bad} of {tensor.numel()} weights NaN or infinite: take another checkpoint")
    return tensor


def copied(value: Any) -> Any:
    """The caller's dict with tensors of its own, so that a model trained from it leaves the caller's alone."""
    if isinstance(value, Tensor):
        return value.clone()
    return {key: copied(inner) for key, inner in value.items()} if isinstance(value, Mapping) else value
