"""One model in three layouts: published file, folder of ours, folder of diffusers' own class.

    original    {name: tensor} in a .pt or .safetensors file, under the names of the published code
    diffusers   config.json + diffusion_pytorch_model.safetensors, which the classes of this package load
    stock       the same, for DiTTransformer2DModel, LatteTransformer3DModel or HunyuanDiT2DModel

Whatever lies there becomes a `Source`: the model without weights and its tensors under our names, none of them read
yet. From it each layout is written tensor by tensor (docs/decisions/0016), whole or not at all.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiTTransformer2DModel, HunyuanDiT2DModel, LatteTransformer3DModel, Transformer2DModel
from torch import Tensor

from skipdit.files import new_folder
from skipdit.hub import registry
from skipdit.hub.architectures import ARCHITECTURES, Overrides
from skipdit.hub.errors import CheckpointError, NotFiniteError
from skipdit.hub.fetching import located
from skipdit.hub.folders import WEIGHTS, weight_files
from skipdit.hub.load import (
    CHECKPOINT_SUFFIXES,
    EMBEDDED,
    MODELS,
    checked_class,
    checked_model,
    class_of,
    is_pipeline,
    is_stock_dit,
    locate,
    model_config,
    read_config,
)
from skipdit.hub.names import HUNYUAN, NameMap, stock_dit
from skipdit.hub.original import arch_of, check_finite, check_fit, described, grafts, read, unwrap
from skipdit.hub.plans import in_words, nearest
from skipdit.hub.settings import check_overrides, spelled, untold
from skipdit.hub.streaming import WRITTEN_SUFFIXES, LazyState, LazyTensor, Progress, lazily, save, unseen
from skipdit.models import DiT, HunyuanDiT, Latte, LatteT2V
from skipdit.models.base import LongSkipModel
from skipdit.models.fits import defaults_of
from skipdit.nn.blocks import NORM_EPS
from skipdit.nn.embeddings import sincos_2d

LAYOUTS = ("diffusers", "stock", "original")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
POSITIONS = "pos_embed"  # of DiT, in the file; diffusers' class works it out
TABLES = {"caption_projection.y_embedding", "pos_embed.pos_embed"}  # that folders of an older diffusers hold
TABLE_ROUNDING = 5e-3  # of numbers up to 1 in bfloat16
OWN = {  # settings that diffusers' class of the same names lacks, at the values that mean what it does
    LatteT2V: {"num_skips": 0, "fuse": "replace", "prediction_type": "epsilon"},
    HunyuanDiT: {"num_skips": None, "prediction_type": "v_prediction", "rotary": "exact"},
}
STOCK_DIT = {  # settings of DiTTransformer2DModel that a published DiT has
    "activation_fn": "gelu-approximate", "attention_bias": True, "dropout": 0.0, "norm_elementwise_affine": False,
    "norm_num_groups": 32, "norm_type": "ada_norm_zero", "upcast_attention": False,
}  # fmt: skip
STOCK_DIT_RATIO = 4.0  # of MLP to width
STOCK_NOTE = (
    "DiTTransformer2DModel computes the same only with time_proj.downscale_freq_shift = 0 in every block:"
    " skipdit.hub.convert.as_published(transformer) sets it"
)


@dataclass(frozen=True)
class Source:
    """A model as it lies somewhere: on meta, its tensors under our names, and which of a file's weights they are."""

    model: LongSkipModel
    tensors: LazyState
    weights: str | None = None

    @property
    def parameters(self) -> int:
        return sum(tensor.like.numel() for tensor in self.tensors.values())


@dataclass(frozen=True)
class Target:
    """What is to be written: tensors under their new names, for a folder its config, and what its user must know."""

    tensors: LazyState
    config: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Converted:
    """What was read and written: a class of ours, its parameters, which weights, the bytes, and what one must know."""

    model: str
    parameters: int
    weights: str | None
    size: int
    notes: tuple[str, ...]


def convert(
    source: str | Path,
    out: str | Path,
    *,
    layout: str,
    weights: str | None = None,
    dtype: str | None = None,
    arch: str | None = None,
    overrides: Overrides | None = None,
    upcycle: int | None = None,
    wrap: str | None = None,
    progress: Progress = unseen,
) -> Converted:
    """Rewrite a checkpoint, tensor by tensor, into a file or folder that is whole or absent.

    Args:
        source: an original file, a folder of ours or of diffusers' classes, a pipeline folder, or the name of an
            embedded or a published model, which is downloaded where it is missing.
        out: a folder for the layouts "diffusers" and "stock", a .pt, .pth or .safetensors file for "original".
        weights: "ema", "model", "module" or "state_dict"; left out, the first of them that a file has.
        dtype: "float32", "float16" or "bfloat16" for every tensor; left out, as they are.
        arch, overrides: as in `load_original`, for a file; those of a published model are known, and `overrides` go
            before them.
        upcycle: number of long skips to add to a vanilla model, so that it computes exactly the same (`fuse`
            "residual").
        wrap: the name under which an original .pt file holds its tensors; left out, it is flat.
        progress: called with the bytes of each tensor that was written, and with those of all.

    Raises:
        ValueError: settings out of bounds or without effect, `out` that exists, a model that the layout cannot hold.
        CheckpointError: what lies at `source` is not a whole, harmless, finite model.
        OSError: `out` cannot be written, or is there by now; nothing is begun where the disk has too little room.
    """
    out = Path(out)
    check_target(out, layout, wrap)
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}: take one of {', '.join(DTYPES)}")
    if upcycle is not None and upcycle < 1:
        raise ValueError(f"upcycle is {upcycle}: give at least 1 skip, at most half the depth")
    found = read_source(source, weights=weights, arch=arch, overrides=dict(overrides or {}), upcycle=upcycle)
    target = TARGETS[layout](found)
    tensors = {name: in_dtype(name, tensor, dtype) for name, tensor in target.tensors.items()}
    check_room(sum(tensor.nbytes for tensor in tensors.values()), out)
    if target.config is None:
        save(tensors, out, wrap=wrap, progress=progress)
    else:
        save_folder(tensors, target.config, out, progress=progress)
    return Converted(type(found.model).__name__, found.parameters, found.weights, size_of(out), target.notes)


def check_target(out: Path, layout: str, wrap: str | None) -> None:
    if layout not in LAYOUTS:
        raise ValueError(f"layout is {layout!r}: take one of {', '.join(LAYOUTS)}")
    if os.path.lexists(out):
        raise ValueError(f"{out} exists: remove it, or name another place to write to")
    is_file, wrapped = out.suffix in WRITTEN_SUFFIXES, "" if wrap is None else f" (wrapped as {wrap}: .pt or .pth)"
    if layout == "original" and (not is_file or wrap is not None and out.suffix == ".safetensors"):
        raise ValueError(f"{out} must end in .pt, .pth or .safetensors{wrapped} for the original layout")
    if layout != "original" and (out.suffix in CHECKPOINT_SUFFIXES or wrap is not None):
        at_fault = f"wrap is {wrap!r}" if wrap is not None else f"{out} is named as a file"
        raise ValueError(f"{at_fault}: layout {layout} writes a folder, which has no wrapping and no such suffix")


def check_room(size: int, out: Path) -> None:
    """OSError where the disk has less room than the tensors need."""
    folder = nearest(out.absolute().parent)
    free = shutil.disk_usage(folder).free
    if size > free:
        raise OSError(
            f"{out} would have {in_words(size)}, but {in_words(free)} are free at {folder}: make room, or name a place"
            " on another disk"
        )


def in_dtype(name: str, tensor: LazyTensor, dtype: str | None) -> LazyTensor:
    return tensor if dtype is None else tensor.then(partial(cast, name=name, dtype=DTYPES[dtype]))


def cast(tensor: Tensor, *, name: str, dtype: torch.dtype) -> Tensor:
    try:
        return check_finite(tensor.to(dtype), name=name)
    except NotFiniteError:
        raise NotFiniteError(f"{name} has weights too large for {dtype}: take bfloat16 or float32") from None


def size_of(path: Path) -> int:
    return sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file())


# What lies there.


def absent(source: str) -> dict[str, int]:
    """The published model of a name with its bytes, about, where it is not here; ValueError for a part of one."""
    if source not in registry.REGISTRY:
        return {}
    known = checked_model(registry.REGISTRY[source])
    return {source: known.size} if located(source) is None else {}


def read_source(
    source: str | Path, *, weights: str | None, arch: str | None, overrides: dict[str, Any], upcycle: int | None
) -> Source:
    check_asked(str(source), weights=weights, arch=arch, overrides=overrides, upcycle=upcycle)
    known = registry.REGISTRY.get(str(source))
    if known is not None and known.format == "original":
        arch, overrides = arch or known.arch, {**known.config, **overrides}
    path = locate(str(source))
    check_name(str(source), path)
    folder = path / "transformer" if is_pipeline(path) else path
    if not folder.is_dir():
        return file_source(folder, weights=weights, arch=arch, overrides=overrides, upcycle=upcycle)
    check_not_given(folder, weights=weights, arch=arch, overrides=overrides)
    return folder_source(folder, upcycle=upcycle)


def file_source(
    path: Path, *, weights: str | None, arch: str | None, overrides: Overrides, upcycle: int | None
) -> Source:
    found = unwrap(read(path), weights)
    check_overrides(overrides, ARCHITECTURES[arch_of(found.state, arch)].model)
    kind, config, state = described(found.state, arch, overrides, args=found.args)
    return model_source(kind.model, config, state, to_ours=kind.names, weights=found.name, upcycle=upcycle)


def folder_source(folder: Path, *, upcycle: int | None) -> Source:
    kind, config = folder_model(folder)
    state = {name: tensor for name, tensor in folder_state(folder).items() if name not in TABLES}
    if kind is DiTTransformer2DModel:
        return stock_dit_source(config, state, upcycle=upcycle)
    return model_source(kind, config, state, upcycle=upcycle)


def check_asked(
    source: str, *, weights: str | None, arch: str | None, overrides: Overrides, upcycle: int | None
) -> None:
    """ValueError for what a published model cannot be asked for, before it is downloaded."""
    known = registry.REGISTRY.get(source)
    if known is None:
        return
    if checked_model(known).format == "diffusers":
        check_not_given(known.name, weights=weights, arch=arch, overrides=overrides)
    check_overrides(overrides, class_of(known))
    on_meta(class_of(known), {**known.config, **overrides}, upcycle)


def check_not_given(folder: str | Path, *, weights: str | None, arch: str | None, overrides: Overrides) -> None:
    given = {"weights": weights, "arch": arch, "overrides": overrides or None}
    if names := [name for name, value in given.items() if value is not None]:
        raise ValueError(f"{', '.join(names)}: {folder} is a folder, whose config.json tells all; leave them out")


def check_name(source: str, path: Path) -> None:
    """ValueError for what is neither there nor named as a file or a place, and so must be meant for a model's name."""
    is_name = Path(source).name == source and path.suffix not in CHECKPOINT_SUFFIXES
    if is_name and not path.exists():
        near = registry.suggest(source, EMBEDDED)
        raise ValueError(f"no model, folder or file is called {source!r}: {near}`skipdit models` lists the models")


def folder_model(folder: Path) -> tuple[type, dict[str, Any]]:
    """The class that a folder names, and the arguments of a model of ours."""
    config = read_config(folder)
    if is_stock_dit(config):
        return DiTTransformer2DModel, ours_of_stock_dit(config, folder)
    return checked_class(MODELS, folder), model_config(str(folder))


def folder_state(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a folder, from one file or several; none is read before it is used."""
    names = weight_files(folder)
    return unwrap({key: tensor for name in names for key, tensor in read(folder / name).items()}).state


def model_source(
    kind: type[LongSkipModel],
    config: Mapping[str, Any],
    state: Mapping[str, Tensor],
    *,
    to_ours: NameMap | None = None,
    weights: str | None = None,
    upcycle: int | None,
) -> Source:
    """A state dict under our names, or under original ones that `to_ours` knows."""
    model = on_meta(kind, config, upcycle)
    tensors = checked(state, model)
    own = model.state_dict()
    check_fit(own if to_ours is None else to_ours.to_original(own), tensors, model)
    return Source(model, tensors if to_ours is None else to_ours.cut(tensors), weights)


def stock_dit_source(config: Mapping[str, Any], state: Mapping[str, Tensor], *, upcycle: int | None) -> Source:
    """A state dict under the names of DiTTransformer2DModel, which has each embedder 28 times, and no positions."""
    vanilla = on_meta(DiT, config, None)
    names = stock_dit(vanilla.depth)
    tensors = finite(state)
    check_fit(names.cut(without_positions(lazily(vanilla.state_dict()))), tensors, vanilla)
    dtype = next(iter(state.values())).dtype
    ours = names.joined(tensors) | {POSITIONS: position_table(vanilla, dtype)}
    model = on_meta(DiT, config, upcycle)
    return Source(model, ours | grafts(model, ours, dtype=dtype, device=torch.device("cpu")))


def on_meta(kind: type[LongSkipModel], config: Mapping[str, Any], upcycle: int | None) -> LongSkipModel:
    """A model without weights, which costs no memory, with `upcycle` residual skips where it had none."""
    with torch.device("meta"):
        model = kind(**config)
        if upcycle is None:
            return model
        if model.num_skips or kind is HunyuanDiT:
            skips = f"{kind.__name__} has {model.num_skips} skips of its own"
            raise ValueError(f"upcycle is {upcycle}: this {skips}, take a vanilla DiT, Latte or LatteT2V")
        return kind(**dict(config) | {"num_skips": upcycle, "fuse": "residual"})


def checked(state: Mapping[str, Tensor], model: LongSkipModel) -> dict[str, LazyTensor]:
    """The tensors of a file, and skips that change nothing where the model asks for them and the file has none."""
    like = next(iter(state.values()))
    return finite(state) | grafts(model, state, dtype=like.dtype, device=torch.device("cpu"))


def finite(state: Mapping[str, Tensor]) -> dict[str, LazyTensor]:
    return {name: tensor.then(partial(check_finite, name=name)) for name, tensor in lazily(state).items()}


def without_positions(tensors: LazyState) -> dict[str, LazyTensor]:
    return {name: tensor for name, tensor in tensors.items() if name != POSITIONS}


def position_table(model: DiT, dtype: torch.dtype) -> LazyTensor:
    table = sincos_2d(*model.grid, model.config.hidden_size, device=torch.device("cpu"))[None]
    return LazyTensor.of(table.to(dtype))


def ours_of_stock_dit(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The arguments of `DiT` for a folder of DiTTransformer2DModel, whatever its norm_eps: published is 1e-6.

    Folders from before diffusers 0.29 name Transformer2DModel, with settings of its other uses at their defaults.
    """
    defaults, unused = defaults_of(DiTTransformer2DModel), defaults_of(Transformer2DModel)
    settings = defaults | {name: value for name, value in config.items() if not name.startswith("_")}
    unknown = sorted(name for name in settings.keys() - defaults.keys() if (name, settings[name]) not in unused.items())
    others = [name for name, value in STOCK_DIT.items() if settings[name] != value]
    if unknown or others:
        raise CheckpointError(f"{folder / 'config.json'} sets {', '.join(unknown + others)} as no published DiT does")
    channels = settings["in_channels"]
    return {
        "sample_size": settings["sample_size"],
        "patch_size": settings["patch_size"],
        "in_channels": channels,
        "out_channels": settings["out_channels"] or channels,
        "hidden_size": settings["num_attention_heads"] * settings["attention_head_dim"],
        "depth": settings["num_layers"],
        "num_heads": settings["num_attention_heads"],
        "mlp_ratio": STOCK_DIT_RATIO,
        "num_classes": settings["num_embeds_ada_norm"],
    }


# What is written.


def as_diffusers(source: Source) -> Target:
    """For our classes; settings that diffusers' class of the same names lacks are left out where they are defaults."""
    kind, settings = type(source.model), settings_of(source.model)
    return Target(source.tensors, {"_class_name": kind.__name__} | without_defaults(kind, settings))


def without_defaults(kind: type, settings: Mapping[str, Any]) -> dict[str, Any]:
    own = OWN.get(kind, {})
    return {name: value for name, value in settings.items() if name not in own or value != own[name]}


def settings_of(model: LongSkipModel) -> dict[str, Any]:
    """The arguments of a model; a number of skips that HunyuanDiT has anyway is none that was asked for."""
    settings = {name: value for name, value in model.config.items() if not name.startswith("_")}
    if type(model) is HunyuanDiT and model.num_skips == (model.depth - 1) // 2:
        settings["num_skips"] = None
    return settings


def as_stock(source: Source) -> Target:
    """For diffusers' own class; ValueError for a model that it cannot hold."""
    model, kind = source.model, type(source.model)
    if kind is Latte:
        raise ValueError("diffusers has no class for Latte, class-to-video: take the layout diffusers, for ours")
    theirs, settings = STOCK[kind].__name__, settings_of(model)
    if settings["num_skips"]:  # none, or those that HunyuanDiT2DModel has
        raise ValueError(f"{theirs} cannot hold the {model.num_skips} long skips of this model: take layout diffusers")
    notes = prediction_notes(model)
    if kind is DiT:
        names = stock_dit(model.depth)
        tensors = names.cut(without_positions(with_published_positions(source)))
        return Target(tensors, {"_class_name": theirs} | stock_dit_settings(model), (STOCK_NOTE, *notes))
    config = {name: value for name, value in settings.items() if name not in OWN[kind]}
    return Target(source.tensors, {"_class_name": theirs} | config, notes)


def prediction_notes(model: LongSkipModel) -> tuple[str, ...]:
    """What a model predicts stands in no config of diffusers' classes, but in their schedulers'."""
    predicted = model.config.prediction_type
    if predicted == OWN.get(type(model), {}).get("prediction_type", "epsilon"):
        return ()
    return (f"its scheduler must be given prediction_type={predicted!r}, which no config of a transformer holds",)


def with_published_positions(source: Source) -> LazyState:
    """The tensors of a DiT whose positions are the ones that diffusers works out; ValueError for others."""
    table = position_table(source.model, torch.float32).make()
    if not torch.allclose(source.tensors[POSITIONS].make().float(), table, rtol=0, atol=TABLE_ROUNDING):
        raise ValueError(f"{POSITIONS} is not the published table, and DiTTransformer2DModel has no other")
    return source.tensors


def stock_dit_settings(model: DiT) -> dict[str, Any]:
    """The arguments of DiTTransformer2DModel; ValueError where it has none for what the model is."""
    config = model.config
    faults = {
        f"sample_size {config.sample_size}": not isinstance(config.sample_size, int),
        f"mlp_ratio {config.mlp_ratio}": config.mlp_ratio != STOCK_DIT_RATIO,
        "no null class": model.null_class is None,
    }
    if found := [fault for fault, is_so in faults.items() if is_so]:
        raise ValueError(f"DiTTransformer2DModel cannot hold {', '.join(found)}: take layout diffusers")
    return STOCK_DIT | {
        "num_attention_heads": config.num_heads,
        "attention_head_dim": config.hidden_size // config.num_heads,
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "num_layers": config.depth,
        "sample_size": config.sample_size,
        "patch_size": config.patch_size,
        "num_embeds_ada_norm": config.num_classes,
        "norm_eps": NORM_EPS,
    }


def as_original(source: Source) -> Target:
    """Under the published names; ValueError for skips that no published code reads."""
    model = source.model
    if model.config.get("fuse") == "residual" and model.num_skips:
        raise ValueError("the original layout cannot hold fuse='residual', its skips replace: take layout diffusers")
    tensors = HUNYUAN.joined(source.tensors) if type(model) is HunyuanDiT else source.tensors
    return Target(tensors, notes=untold_notes(model, tensors))


def untold_notes(model: LongSkipModel, tensors: LazyState) -> tuple[str, ...]:
    """The settings that stand in no file of tensors, as the flags that give them back."""
    told = untold({name: tensor.like for name, tensor in tensors.items()}, settings_of(model))
    flags = " ".join(f"{name}={spelled(value)}" for name, value in told.items())
    return (f"its tensors do not tell {', '.join(told)}: give `skipdit convert` back `--set {flags}`",) if told else ()


STOCK = {DiT: DiTTransformer2DModel, LatteT2V: LatteTransformer3DModel, HunyuanDiT: HunyuanDiT2DModel}
TARGETS: dict[str, Callable[[Source], Target]] = {
    "diffusers": as_diffusers, "stock": as_stock, "original": as_original,
}  # fmt: skip


def save_folder(tensors: LazyState, config: Mapping[str, Any], out: Path, *, progress: Progress) -> None:
    """config.json and the weights, in a new folder that is whole or absent."""
    try:
        with new_folder(out) as folder:
            text = json.dumps({"_diffusers_version": diffusers.__version__, **config}, indent=2, sort_keys=True)
            (folder / "config.json").write_text(f"{text}\n", encoding="utf-8")
            save(tensors, folder / WEIGHTS, progress=progress)
    except OSError as error:
        if isinstance(error.__cause__, CheckpointError | ValueError):  # of what was read, not of the disk
            raise error.__cause__ from None
        raise


def as_published(transformer: DiTTransformer2DModel) -> DiTTransformer2DModel:
    """A DiT of diffusers' class, changed in place to compute what the published code computes with its weights.

    The frequencies of the timestep are divided by 128, not 127, and every norm has an epsilon of 1e-6. A config can
    hold the second alone. Raises: TypeError for another class.
    """
    if not isinstance(transformer, DiTTransformer2DModel):
        raise TypeError(f"a {type(transformer).__name__} is no DiTTransformer2DModel: give pipe.transformer")
    for block in transformer.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
        block.norm3.eps = NORM_EPS
    return transformer
