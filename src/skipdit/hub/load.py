"""One name for a model, however it is kept: an embedded name, a folder or a checkpoint file -> a pipeline."""

import inspect
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL
from diffusers.utils import logging

from skipdit.hub.original import CheckpointError, first_line, load_original
from skipdit.models import DiT
from skipdit.pipelines import ClassToImagePipeline
from skipdit.pipelines.schedulers import make_scheduler

EMBEDDED = ("fashion-skip", "fashion-dit")
CHECKPOINT_SUFFIXES = (".pt", ".pth", ".safetensors")


def embedded_folder(name: str) -> Path:
    """Where an embedded model lies: inside the installed package, or at the root of a checkout."""
    package = Path(__file__).parents[1]
    installed, checkout = package / "weights" / name, package.parents[1] / "weights" / name
    return installed if installed.exists() else checkout


def load_pipeline(source: str, *, scheduler: str = "ddpm", vae: str | None = None) -> ClassToImagePipeline:
    """A class-to-image pipeline from an embedded name, a model or pipeline folder, or a checkpoint file.

    `vae` is the folder of an AutoencoderKL for a model of latents; a pipeline folder brings its own.

    Raises:
        ValueError: a name that is none of these, or an unknown scheduler.
        CheckpointError: what lies there is not a whole model.
    """
    path = locate(source)
    is_pipeline = (path / "model_index.json").exists()
    model = whole(DiT, path / "transformer").float().eval() if is_pipeline else load_model(source, path)
    noise = make_scheduler(scheduler, learned_variance=learns_variance(model))
    if vae is None and not (is_pipeline and (path / "vae").exists()):
        return ClassToImagePipeline(model, noise)
    return ClassToImagePipeline(model, noise, load_vae(path / "vae" if vae is None else Path(vae)))


def locate(source: str) -> Path:
    return embedded_folder(source) if source in EMBEDDED else Path(source)


def model_config(source: str) -> dict[str, Any]:
    """The arguments of a model by embedded name or folder, without its weights; ValueError for another name."""
    for folder in (locate(source), locate(source) / "transformer"):
        if (folder / "config.json").exists():
            return {name: value for name, value in read_config(folder).items() if not name.startswith("_")}
    raise ValueError(f"unknown model {source!r}: take a size as XL/2, one of {', '.join(EMBEDDED)}, or a model folder")


def load_model(source: str, path: Path) -> DiT:
    if (path / "config.json").exists():
        return whole(DiT, path).float().eval()
    if path.suffix in CHECKPOINT_SUFFIXES and path.exists():
        return load_original(path).float()
    raise ValueError(
        f"unknown model {source!r}: take one of {', '.join(EMBEDDED)}, a folder with config.json or model_index.json,"
        f" or a {', '.join(CHECKPOINT_SUFFIXES)} file"
    )


def load_vae(path: Path) -> AutoencoderKL:
    if not (path / "config.json").exists():
        raise ValueError(f"vae is {str(path)!r}: name the folder of an AutoencoderKL, with its config.json")
    return whole(AutoencoderKL, path)


def whole(kind: type, path: Path):
    """`kind.from_pretrained(path)`, but with an error where diffusers warns and draws missing weights at random."""
    check_config(kind, path)
    try:
        with warnings_off():
            model, keys = kind.from_pretrained(
                path, use_safetensors=True, low_cpu_mem_usage=False, output_loading_info=True
            )
    except Exception as error:  # whatever diffusers makes of a broken folder
        raise CheckpointError(f"{path} does not hold a whole {kind.__name__}: {first_line(error)}") from None
    for fault in ("missing", "unexpected"):
        if names := sorted(keys[f"{fault}_keys"]):
            raise CheckpointError(f"{path} does not fit its config.json: {len(names)} {fault}: {', '.join(names)}")
    return model


def check_config(kind: type, path: Path) -> None:
    config, known = read_config(path), inspect.signature(kind.__init__).parameters
    if (found := config.get("_class_name")) != kind.__name__:
        raise CheckpointError(f"{path} holds a {found}: a {kind.__name__} is needed")
    if unknown := [name for name in config if name not in known and not name.startswith("_")]:
        raise CheckpointError(f"{path / 'config.json'} sets {', '.join(unknown)}, unknown to {kind.__name__}")


@contextmanager
def warnings_off() -> Iterator[None]:
    before = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): copy the folder again") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} holds a {type(config).__name__}: it must hold settings by name")
    return config


def learns_variance(model: DiT) -> bool:
    return model.config.out_channels == 2 * model.config.in_channels
