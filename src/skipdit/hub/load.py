"""One name for a model, however it is kept: embedded, published, a folder or a checkpoint file -> a pipeline."""

import inspect
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderKLTemporalDecoder, DiffusionPipeline
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import logging

from skipdit.data import moving_digits
from skipdit.data.images import FASHION_CLASSES
from skipdit.data.text import minilm, no_progress_bar
from skipdit.diffusion import FLOW
from skipdit.files import read_object
from skipdit.hub import registry
from skipdit.hub.architectures import ARCHITECTURES
from skipdit.hub.fetching import download, located
from skipdit.hub.folders import check_components, safe_variant, weight_files
from skipdit.hub.original import CheckpointError, check_finite, first_line, load_original
from skipdit.hub.parts import absent, autoencoders, bases, check_parts
from skipdit.hub.registry import Published
from skipdit.hub.text_parts import check_text_parts, text_encoders
from skipdit.models import DiT, HunyuanDiT, Latte, LatteT2V
from skipdit.models.base import LongSkipModel
from skipdit.models.fits import check_config_fits
from skipdit.models.kept import STEM
from skipdit.models.places import check_device, read_dtype
from skipdit.pipelines import ClassToImagePipeline, ClassToVideoPipeline, PixelAutoencoder
from skipdit.pipelines.class_names import read_names
from skipdit.pipelines.schedulers import BETAS, HUNYUAN_V1_1, HUNYUAN_V1_2, LINEAR, Noise, make_scheduler
from skipdit.spelling import did_you_mean
from skipdit.tuning.plans import QUALITIES, SavedPlan, read_plan

EMBEDDED = (
    "fashion-skip", "fashion-dit", "moving-digits-skip", "moving-digits-latte", "captioned-digits-skip",
    "captioned-digits-latte", "emoji-hunyuan",
)  # fmt: skip
CLASS_NAMES = {
    **dict.fromkeys(("fashion-skip", "fashion-dit"), FASHION_CLASSES),
    **dict.fromkeys(("moving-digits-skip", "moving-digits-latte"), moving_digits.CLASS_NAMES),
}
SPEEDS = {"high": "2x", "balanced": "3x", "fast": "4x"}  # of the plans of embedded models
TRAINED, WHOLE = "model", "pipeline"  # the folders of the model, and of all it draws with, in that of a training run
CHECKPOINT_SUFFIXES = (".pt", ".pth", ".safetensors", ".ckpt", ".bin", ".tar")  # that are read: model.pth.tar
MODELS = {
    "DiT": DiT, "Latte": Latte, "LatteT2V": LatteT2V, "HunyuanDiT": HunyuanDiT,
}  # fmt: skip
MODELS |= {name: kind for kind in MODELS.values() for name in kind.stock_names}
STOCK_DITS = {  # diffusers' own, by the settings that its config holds at least, and before it had a class of its own
    "DiTTransformer2DModel": {}, "Transformer2DModel": {"norm_type": "ada_norm_zero"},
}  # fmt: skip
LOADED = (  # names of what a folder of a model, a part or an adapter is loaded from
    f"{STEM}*", "model*.safetensors*", "pytorch_model*.bin*", "*_model.safetensors", "pytorch_lora_weights.safetensors",
    "config.json", "*_config.json", "model_index.json", "tokenizer*.json", "vocab.*", "merges.txt", "*.model",
    "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip
VAES = {
    "AutoencoderKL": AutoencoderKL,
    "AutoencoderKLTemporalDecoder": AutoencoderKLTemporalDecoder,
    "PixelAutoencoder": PixelAutoencoder,
}
PIPELINES = {DiT: ClassToImagePipeline, Latte: ClassToVideoPipeline}  # of classes
TEXT_PIPELINES = {  # diffusers' own at the model's size, from the modules that know how to draw with them
    LatteT2V: ("skipdit.pipelines.text_to_video", "LattePipeline"),
    HunyuanDiT: ("skipdit.pipelines.text_to_image", "HunyuanDiTPipeline"),
}
PUBLISHED = {  # scheduler and steps
    DiT: ("ddpm", 250), Latte: ("ddpm", 250), LatteT2V: ("ddim-leading", 50), HunyuanDiT: ("ddpm", 100),
}  # fmt: skip
MINILM_WIDTH = 384


def embedded_folder(name: str) -> Path:
    """Where an embedded model lies: inside the installed package, or at the root of a checkout."""
    package = Path(__file__).parents[1]
    installed, checkout = package / "weights" / name, package.parents[1] / "weights" / name
    return installed if installed.exists() else checkout


def load_pipeline(
    source: str,
    *,
    scheduler: str | None = None,
    vae: str | None = None,
    base: str | None = None,
    beta_end: float | None = None,
    weights: str | None = None,
    plan: str | Path | None = None,
    dtype: torch.dtype | str = torch.float32,
    device: torch.device | str = "cpu",
) -> DiffusionPipeline:
    """A pipeline from the name of an embedded or a published model, a folder, or a checkpoint file.

    A published model (`skipdit models`) is downloaded where it is missing, with the autoencoder or the base that it
    needs. A name is never looked for on the hub by itself.

    Every part computes in `dtype` on `device`, whatever its weights are kept in.

    A DiT comes as `ClassToImagePipeline`, a Latte as `ClassToVideoPipeline`; a LatteT2V and a HunyuanDiT come as
    diffusers' own `LattePipeline` and `HunyuanDiTPipeline`, where sizes that are left out are the model's.

    Args:
        scheduler: a name of `skipdit.pipelines.schedulers`; it takes the place of the one in a pipeline folder, but the
            folder's betas and prediction type are kept. Left out, it is the published one: ddpm, or ddim-leading for a
            LatteT2V.
        vae: folder or published name of the autoencoder for a model of latents; a pipeline folder brings its own.
        base: folder or published name of a text pipeline (Latte-1, HunyuanDiT) that lends text encoders and autoencoder
            to a text model that comes without. A LatteT2V trained on MiniLM's states and pixels, as the embedded ones
            are, needs none.
        beta_end: of the noise that the model was trained with. Left out, it is what the pipeline folder says or, for a
            model that comes without a pipeline, the published one of its version (`published_noise`).
        weights: which of a file that has several, as `load_model` takes it.
        plan: folder of a plan that `skipdit tune` wrote, or high, balanced, fast; it brings scheduler and cache. Draw
            with its number of steps. By quality it is the plan that the package has for an embedded model, at a half, a
            third and a quarter of the calls, and for another model a solver that needs no tuning.
        dtype, device: of every part, themselves or by name ("bf16", "cuda").

    Raises:
        ValueError: a name that is none of these, an unknown scheduler, dtype or device, or parts that are missing or
            not taken.
        CheckpointError: what lies there is not a whole model, or not the whole of a part that it needs.
        OSError: a package that reads text is not installed.
    """
    dtype, known = read_dtype(dtype), registry.REGISTRY.get(source)
    tuned = None if plan is None else find_plan(plan, source, scheduler)
    check_device(device)
    if known is not None:
        check_parts(class_of(known), vae=vae, base=base)  # before anything is downloaded
        vae, base = known.parts.get("vae") if vae is None else vae, known.parts.get("base") if base is None else base
        fetch_missing(source, vae=vae, base=base)
    path, model = locate(source), load_model(source, weights=weights)
    check_parts(type(model), vae=vae, base=base)
    fetch_missing(source, vae=vae, base=base)
    own = path if is_pipeline(path) else None
    sampler = scheduler_for(model, scheduler, folder=own, beta_end=beta_end)
    if type(model) in TEXT_PIPELINES:
        pipe = text_pipeline(model, sampler, base=own if base is None else locate(base), vae=vae)
    else:
        if vae is None and own is not None and (own / "vae").exists():
            vae = str(own / "vae")
        decoder = None if vae is None else load_vae(locate(vae))
        pipe = PIPELINES[type(model)](model, sampler, decoder, id2label=names_of_classes(source))
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):  # not its own `to`, which warns of every dtype (diffusers 0.42)
            torch.nn.Module.to(part, device, dtype)
    if tuned is not None:
        tuned.warn_of_another(pipe)
        tuned.use(pipe)
    return pipe


def find_plan(plan: str | Path, source: str | None = None, scheduler: str | None = None) -> SavedPlan:
    """The plan in a folder, of the package by its name, or by quality; ValueError for a scheduler beside it."""
    if scheduler is not None:
        raise ValueError(f"scheduler is {scheduler!r} beside plan {str(plan)!r}, which brings its own: leave it out")
    if plan in QUALITIES and not Path(plan).exists():
        own = embedded_folder("plans") / f"{source}-{SPEEDS[plan]}"
        calls = QUALITIES[plan]
        return read_plan(own) if own.exists() else SavedPlan(None, calls, calls, name=f"plan {plan}")
    own = embedded_folder("plans") / plan
    return read_plan(own if own.exists() and not Path(plan).exists() else plan)


def names_of_classes(source: str) -> dict[str, str] | None:
    """What the classes of a model are called: of an embedded one, or as its pipeline's index or its config says."""
    if source in CLASS_NAMES:
        return read_names(CLASS_NAMES[source])
    if source in registry.REGISTRY or not (folder := locate(source)).is_dir():
        return None
    if is_pipeline(folder) and (names := read_config(folder, "model_index.json").get("id2label")) is not None:
        path = folder / "model_index.json"
    else:
        path, names = folder / "config.json", model_config(source).get("id2label")
    try:
        return read_names(names)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None


def scheduler_for(
    model: LongSkipModel, name: str | None = None, *, folder: Path | None = None, beta_end: float | None = None
) -> SchedulerMixin:
    """The scheduler of a name, or the published one, for what a model was trained with; needs no weights.

    The noise and what is predicted are those of the scheduler in a pipeline `folder` where it has one, and otherwise
    those of the model. Raises: ValueError for an unknown name, or a `beta_end` out of bounds.
    """
    noise, predicted = published_noise(model), model.config.prediction_type
    if predicted == FLOW:
        check_straight(folder)
    elif folder is not None and (folder / "scheduler").exists():
        config = scheduler_config(folder / "scheduler")
        noise = replace(noise, **{key: config[key] for key in BETAS})
        predicted = config.get("prediction_type", "epsilon")  # which is what diffusers' schedulers default to
    if beta_end is not None:
        noise = replace(noise, beta_end=beta_end)
    name = published_scheduler(model) if name is None else name
    return make_scheduler(name, learned_variance=uses_variance(model), prediction_type=predicted, noise=noise)


def check_straight(folder: Path | None) -> None:
    """CheckpointError for a pipeline folder of a flow whose scheduler moves its times, which no name here does."""
    if folder is not None and (folder / "scheduler").exists():
        config = read_config(folder / "scheduler", "scheduler_config.json")
        if config.get("shift", 1) != 1 or config.get("use_dynamic_shifting"):
            raise CheckpointError(f"{folder / 'scheduler'} shifts its times: draw with diffusers, or take shift 1")


def scheduler_config(folder: Path) -> dict[str, Any]:
    """The settings of a saved scheduler, where they are betas that every scheduler can take over."""
    config = read_config(folder, "scheduler_config.json")
    others = [key for key in ("trained_betas", "rescale_betas_zero_snr") if config.get(key)]
    if others or not config.keys() >= set(BETAS):
        fault = f"sets {', '.join(others)}" if others else f"lacks {', '.join(sorted(BETAS - config.keys()))}"
        raise CheckpointError(f"{folder / 'scheduler_config.json'} {fault}: noise by {', '.join(BETAS)} is needed")
    return config


def text_pipeline(
    model: LongSkipModel, sampler: SchedulerMixin, *, base: Path | None, vae: str | None
) -> DiffusionPipeline:
    """diffusers' own pipeline around a model, with the text encoders and the autoencoder of `base`."""
    parts = {"transformer": model, "scheduler": sampler}
    kind = text_kind(type(model))
    if base is None:
        return kind(**reading_minilm(model) | parts | ({} if vae is None else {"vae": load_vae(locate(vae))}))
    index = base_index(type(model), base)
    if "requires_safety_checker" in arguments(kind) and not any(index.get("safety_checker") or ()):
        parts["requires_safety_checker"] = False
    bars = no_progress_bars() if base == embedded_folder(base.name) else nullcontext()
    with bars:
        parts["vae"] = load_vae(base / "vae" if vae is None else locate(vae))
        parts |= text_encoders(base, index, arguments(kind))
        return assembled(kind, base, parts)


def text_kind(model: type[LongSkipModel]) -> type[DiffusionPipeline]:
    """diffusers' pipeline around a model of text."""
    module, name = TEXT_PIPELINES[model]
    return getattr(import_module(module), name)


def base_index(model: type[LongSkipModel], base: Path) -> dict[str, Any]:
    """The model_index.json of a folder that lends its parts to a model of text.

    Raises: ValueError for what is no pipeline, CheckpointError for another one, or without what is needed.
    """
    kind, known = text_kind(model), bases(model)
    if not is_pipeline(base):
        raise ValueError(
            f"base is {str(base)!r}: {did_you_mean(str(base), known)}name the folder of a text pipeline, with"
            f" model_index.json, or one of {', '.join(known)}"
        )
    index = read_config(base, "model_index.json")
    check_components(index, base / "model_index.json")
    if (found := index.get("_class_name")) != kind.__name__:
        raise CheckpointError(f"{base} holds a {found}: {model.__name__} takes its parts from a {kind.__name__}")
    check_text_parts(base, index, arguments(kind))
    return index


def assembled(kind: type[DiffusionPipeline], base: Path, parts: Mapping[str, Any]) -> DiffusionPipeline:
    """The pipeline of a folder around `parts`, with the rest, which has no weights but a safety checker's, from there.

    diffusers warns of classes that are not those in the folder, which is the point.
    """
    try:
        with warnings_off():
            return kind.from_pretrained(base, local_files_only=True, **parts)
    except MemoryError:
        raise
    except Exception as error:  # whatever diffusers and transformers make of a broken folder
        raise CheckpointError(f"{base} does not hold a whole {kind.__name__}: {first_line(error)}") from None


def reading_minilm(model: LongSkipModel) -> dict[str, Any]:
    """The other parts of a pipeline for a LatteT2V that was trained on MiniLM's states and pixels; no other has any."""
    if not isinstance(model, LatteT2V) or model.config.caption_channels != MINILM_WIDTH:
        width = model.config.caption_channels if isinstance(model, LatteT2V) else model.config.cross_attention_dim
        raise ValueError(f"this model reads text of width {width}: give base, the folder of a pipeline that brings it")
    tokenizer, text_encoder = minilm()
    pixels = PixelAutoencoder(latent_channels=model.config.in_channels)
    return {"tokenizer": tokenizer, "text_encoder": text_encoder, "vae": pixels}


def fetch_missing(source: str, *, vae: str | None, base: str | None) -> None:
    """Download a model and its parts in one go, so that room is known for all of them before the first byte."""
    if lacking := absent(source, vae=vae, base=base):
        download(*lacking, parts=False)


def locate(source: str) -> Path:
    """Where a model or a part lies; a published one is downloaded where it is missing."""
    if source in registry.REGISTRY:
        return located(source) or download(source, parts=False)[source]
    path = embedded_folder(source) if source in EMBEDDED else Path(source)
    if is_pipeline(path):
        return path
    if is_pipeline(path / WHOLE):
        return path / WHOLE
    return path / TRAINED if (path / TRAINED / "config.json").exists() else path


def files_of(source: str) -> list[Path]:
    """The weights and settings of a model or a part by its name, folder or file; none of what is published.

    What was downloaded has a record of its own.
    """
    path = locate(source) if source not in registry.REGISTRY else Path()
    if source in registry.REGISTRY or path.is_file():
        return [path][: path.is_file()]
    return sorted(file for file in walk_files(path) if any(fnmatch(file.name, pattern) for pattern in LOADED))


def walk_files(path: Path) -> Iterator[Path]:
    """The files below a folder and below the folders that are linked there, but for a link that leads back up."""
    for root, folders, names in os.walk(path, followlinks=True):
        above = {folder.resolve() for folder in (Path(root), *Path(root).parents)}
        folders[:] = [name for name in folders if Path(root, name).resolve() not in above]
        yield from (Path(root, name) for name in names)


def is_pipeline(path: Path) -> bool:
    return (path / "model_index.json").exists()


def load_model(source: str, *, weights: str | None = None) -> LongSkipModel:
    """The model alone, by the same names, of the class that its config or its tensors tell; float32, in eval mode.

    `weights` are which of a file that has several: "ema" where there are any, else the first of "model", "module" and
    "state_dict".

    Raises:
        ValueError: a name that is none of these, or weights that are not there.
        CheckpointError: what lies there is not a whole model.
    """
    known = None if source not in registry.REGISTRY else checked_model(registry.REGISTRY[source])
    path = locate(source)
    if known is not None and known.format == "original":
        return load_original(path, arch=known.arch, weights=weights, **known.config).float()
    folder = path / "transformer" if is_pipeline(path) else path
    if is_pipeline(path) or (folder / "config.json").exists():
        check_one_set(source, weights)
        return whole(MODELS, folder).float().eval()
    if path.suffix in CHECKPOINT_SUFFIXES and path.exists():
        return load_original(path, weights=weights).float()
    raise ValueError(
        f"unknown model {source!r}: {registry.suggest(source, EMBEDDED)}take one of {', '.join(EMBEDDED)}, a published"
        " one (`skipdit models`), a folder with config.json or model_index.json, or a"
        f" {', '.join(CHECKPOINT_SUFFIXES)} file"
    )


def check_one_set(source: str, weights: str | None) -> None:
    if weights is not None:
        raise ValueError(f"weights is {weights!r}, but {source} is a folder, which holds one set: leave it out")


def checked_model(entry: Published) -> Published:
    if entry.arch is None:
        raise ValueError(f"{entry.name} is a part, {entry.title}: take a model of `skipdit models`")
    return entry


def model_config(source: str) -> dict[str, Any]:
    """The arguments of a model by name or folder, without its weights; ValueError for another name."""
    if source in registry.REGISTRY:
        return dict(checked_model(registry.REGISTRY[source]).config)
    folder = model_folder(source)
    known = arguments(checked_class(MODELS, folder))
    return {name: value for name, value in read_config(folder).items() if name in known}


def empty_model(source: str) -> LongSkipModel:
    """A model by name or folder as its config says, on the present device and without its weights or a download."""
    known = registry.REGISTRY.get(source)
    kind = checked_class(MODELS, model_folder(source)) if known is None else class_of(known)
    return kind(**model_config(source))


def class_of(entry: Published) -> type[LongSkipModel]:
    return ARCHITECTURES[checked_model(entry).arch].model


def model_folder(source: str) -> Path:
    for folder in (locate(source), locate(source) / "transformer"):
        if (folder / "config.json").exists():
            return folder
    raise ValueError(
        f"unknown model {source!r}: {registry.suggest(source, EMBEDDED)}take XL/2, Latte-XL/2, LatteT2V, HunyuanDiT,"
        f" one of {', '.join(EMBEDDED)}, a published one (`skipdit models`), or a model folder"
    )


def load_vae(path: Path) -> AutoencoderKL:
    if not (path / "config.json").exists():
        raise ValueError(
            f"vae is {str(path)!r}: {did_you_mean(str(path), autoencoders(DiT))}name the folder of an AutoencoderKL,"
            " with its config.json, or a published one"
        )
    return whole(VAES, path)


def whole(kinds: Mapping[str, type], path: Path):
    """A model of one of `kinds`, but with an error where diffusers warns and draws missing weights at random."""
    kind, variant = checked_class(kinds, path), safe_variant(path)
    weight_files(path)  # which not every diffusers checks
    try:
        with warnings_off():
            model, keys = kind.from_pretrained(
                path, variant=variant, use_safetensors=True, low_cpu_mem_usage=False, output_loading_info=True
            )
    except MemoryError:
        raise
    except Exception as error:  # whatever diffusers makes of a broken folder
        reason = first_line(error).removeprefix(f"{path} ")
        raise CheckpointError(f"{path} does not hold a whole {kind.__name__}: {reason}") from None
    for fault in ("missing", "unexpected"):
        if names := sorted(keys[f"{fault}_keys"]):
            raise CheckpointError(f"{path} does not fit its config.json: {len(names)} {fault}: {', '.join(names)}")
    for name, tensor in model.state_dict().items():
        check_finite(tensor, name=name)
    return model


def checked_class(kinds: Mapping[str, type], path: Path) -> type:
    """The class that a folder's config names, by the names of `kinds`, where it knows every other setting there."""
    config = read_config(path)
    if (found := config.get("_class_name")) not in kinds:
        convertible = "DiT" in kinds and is_stock_dit(config)
        remedy = f"rewrite it with `skipdit convert {path} OUT`" if convertible else f"a {' or '.join(kinds)} is needed"
        raise CheckpointError(f"{path} holds a {found}: {remedy}")
    known = arguments(kinds[found])
    inert = kinds[found].inert if issubclass(kinds[found], LongSkipModel) else {}
    settings = (item for item in config.items() if item not in inert.items())
    if unknown := [name for name, _ in settings if name not in known and not name.startswith("_")]:
        raise CheckpointError(f"{path / 'config.json'} sets {', '.join(unknown)}, unknown to {kinds[found].__name__}")
    if issubclass(kinds[found], LongSkipModel):
        try:
            check_config_fits(kinds[found], config, path)
        except ValueError as error:
            raise CheckpointError(str(error)) from None
    return kinds[found]


def is_stock_dit(config: Mapping[str, Any]) -> bool:
    """Whether it is of diffusers' DiT, whose tensors have names that `skipdit convert` knows and no class of ours."""
    least = STOCK_DITS.get(config.get("_class_name"))
    return least is not None and config.items() >= least.items()


def arguments(kind: type) -> set[str]:
    return set(inspect.signature(kind.__init__).parameters)


@contextmanager
def warnings_off() -> Iterator[None]:
    before = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(before)


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Neither of diffusers nor of transformers, for embedded parts, which load in a second."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with no_progress_bar():
            yield
    finally:
        if shown:
            logging.enable_progress_bar()


def read_config(folder: Path, name: str = "config.json") -> dict[str, Any]:
    try:
        return read_object(folder / name, remedy="copy the folder again")
    except ValueError as error:
        raise CheckpointError(str(error)) from None


def published_scheduler(model: LongSkipModel) -> str:
    """The published one of a class; Euler's steps for a model of a flow."""
    scheduler, _ = PUBLISHED[type(model)]
    return "euler" if model.config.prediction_type == FLOW else scheduler


def published_noise(model: LongSkipModel) -> Noise:
    """The noise that a published model of this class, and version, was trained with."""
    if not isinstance(model, HunyuanDiT):
        return LINEAR
    return HUNYUAN_V1_1 if model.config.use_style_cond_and_image_meta_size else HUNYUAN_V1_2


def uses_variance(model: LongSkipModel) -> bool:
    """Whether ddpm takes the model's variance channels.

    diffusers' pipelines lend it none: LattePipeline would guide them out of their bounds, and HunyuanDiTPipeline drops
    them.
    """
    return type(model) in PIPELINES and model.config.out_channels == 2 * model.config.in_channels
