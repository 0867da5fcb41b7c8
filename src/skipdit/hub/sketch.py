"""A pipeline without weights: asked what it would refuse, before anything of it is downloaded or loaded.

    name, folder or file  ->  class and settings  ->  a pipeline around a model on the meta device

Its scheduler is the real one. Its autoencoder has the settings of the real one where that is here; one that is still to
be downloaded is taken for what all published ones are. Text that is too long is known to the whole pipeline alone.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderKLTemporalDecoder, DiffusionPipeline
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import nn

from skipdit.hub import registry
from skipdit.hub.fetching import located
from skipdit.hub.load import (
    CHECKPOINT_SUFFIXES,
    PIPELINES,
    VAES,
    arguments,
    base_index,
    check_one_set,
    checked_class,
    checked_model,
    empty_model,
    is_pipeline,
    load_model,
    load_vae,
    locate,
    names_of_classes,
    read_config,
    reading_minilm,
    scheduler_for,
    text_kind,
)
from skipdit.hub.original import check_fit, described, read, unwrap
from skipdit.hub.parts import check_parts, decodes_frames, is_whole
from skipdit.models.base import LongSkipModel

PUBLISHED_LEVELS = 4  # of every published autoencoder, so that latents have an eighth of each side


class NoText:
    """In the place of a tokenizer that may not be here yet: it knows no word, and makes no token of any text."""

    model_max_length = 77

    def __call__(self, text: str | list[str]) -> SimpleNamespace:
        return SimpleNamespace(input_ids=[()])

    def get_vocab(self) -> dict[str, int]:
        return {}


def sketch(
    source: str,
    *,
    scheduler: str | None = None,
    vae: str | None = None,
    base: str | None = None,
    beta_end: float | None = None,
    weights: str | None = None,
) -> DiffusionPipeline:
    """The pipeline that `load_pipeline` would give, by the same arguments, without weights; needs no network.

    Raises: as `load_pipeline`, for what is known without weights.
    """
    known = registry.REGISTRY.get(source)
    model = model_of(source, weights)
    check_parts(type(model), vae=vae, base=base)
    if known is not None:
        vae, base = known.parts.get("vae") if vae is None else vae, known.parts.get("base") if base is None else base
    own = here(source)
    folder = own if own is not None and is_pipeline(own) else None
    sampler = scheduler_for(model, scheduler, folder=folder, beta_end=beta_end)
    lender = source if folder is not None or (known is not None and is_whole(known)) else None
    if type(model) in PIPELINES:
        decoder = vae_of(model, vae=vae, lender=lender)
        return PIPELINES[type(model)](model, sampler, decoder, id2label=names_of_classes(source))
    return text_sketch(model, sampler, base=lender if base is None else base, vae=vae)


def text_sketch(
    model: LongSkipModel, sampler: SchedulerMixin, *, base: str | None, vae: str | None
) -> DiffusionPipeline:
    """diffusers' own pipeline around a model, with the parts that `text_pipeline` would give it, without weights."""
    kind = text_kind(type(model))
    if base is not None and (folder := here(base)) is not None:
        base_index(type(model), folder)
    parts = reading_minilm(model) if base is None else reading_nothing(kind)
    decoder = vae_of(model, vae=vae, lender=base)
    return kind(**parts | {"transformer": model, "scheduler": sampler, "vae": decoder or parts["vae"]})


def reading_nothing(kind: type[DiffusionPipeline]) -> dict[str, Any]:
    """The parts of a pipeline for text, as far as it has them."""
    blank = {"tokenizer": NoText(), "tokenizer_2": NoText(), "requires_safety_checker": False}
    blank |= dict.fromkeys(("text_encoder", "text_encoder_2", "safety_checker", "feature_extractor"))
    return {name: value for name, value in blank.items() if name in arguments(kind)}


def model_of(source: str, weights: str | None) -> LongSkipModel:
    """The model on meta: by the registry, by the config of a folder, or by the shapes in a file."""
    if source in registry.REGISTRY:
        if checked_model(registry.REGISTRY[source]).format == "diffusers":
            check_one_set(source, weights)
        return on_meta(source)
    path = locate(source)
    if any((folder / "config.json").exists() for folder in (path, path / "transformer")):
        check_one_set(source, weights)
        return on_meta(source)
    if path.suffix in CHECKPOINT_SUFFIXES and path.is_file():
        return of_file(path, weights)
    return load_model(source, weights=weights)  # which says what MODEL may be


def on_meta(source: str) -> LongSkipModel:
    with torch.device("meta"):
        return empty_model(source)


def of_file(path: Path, weights: str | None) -> LongSkipModel:
    found = unwrap(read(path), weights)
    kind, config, state = described(found.state, None, {}, args=found.args)
    with torch.device("meta"):
        model = kind.model(**config)
    own = model.state_dict()
    check_fit(own if kind.names is None else kind.names.to_original(own), state, model)
    return model


def here(name: str) -> Path | None:
    """Where a model or a part lies; None for a published one that is still to be downloaded."""
    return located(name) if name in registry.REGISTRY else locate(name)


def vae_of(model: LongSkipModel, *, vae: str | None, lender: str | None) -> nn.Module | None:
    """The autoencoder by its own name or folder, else that of a pipeline; None where there is none."""
    if vae is not None:
        return published_vae(model, vae) if (folder := here(vae)) is None else empty_vae(folder)
    if lender is None:
        return None
    if (folder := here(lender)) is None:
        return published_vae(model, lender)
    return None if type(model) in PIPELINES and not (folder / "vae").exists() else empty_vae(folder / "vae")


def empty_vae(folder: Path) -> nn.Module:
    """By its config, on meta."""
    if not (folder / "config.json").exists():
        return load_vae(folder)  # which says what is wrong with it
    kind = checked_class(VAES, folder)
    known = arguments(kind)
    with torch.device("meta"):
        return kind(**{name: value for name, value in read_config(folder).items() if name in known})


def published_vae(model: LongSkipModel, name: str) -> nn.Module:
    """What is known of a published autoencoder before it is here: whether it sees time, and how small latents are."""
    kind: Any = AutoencoderKLTemporalDecoder if decodes_frames(name) else AutoencoderKL
    levels = {"block_out_channels": (32,) * PUBLISHED_LEVELS}
    levels |= {"down_block_types": ("DownEncoderBlock2D",) * PUBLISHED_LEVELS}
    if kind is AutoencoderKL:
        levels |= {"up_block_types": ("UpDecoderBlock2D",) * PUBLISHED_LEVELS}
    with torch.device("meta"):
        return kind(latent_channels=model.config.in_channels, **levels)
