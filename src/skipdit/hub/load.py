"""One name for a model, however it is kept: an embedded name, a folder or a checkpoint file -> a pipeline."""

import json
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL

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
    if (path / "model_index.json").exists():
        pipeline = whole(ClassToImagePipeline, path)
        model, vae_module = pipeline.transformer, pipeline.vae
    else:
        model, vae_module = load_model(source, path), None
    if vae is not None:
        vae_module = whole(AutoencoderKL, Path(vae))
    return ClassToImagePipeline(model, make_scheduler(scheduler, learned_variance=learns_variance(model)), vae_module)


def locate(source: str) -> Path:
    return embedded_folder(source) if source in EMBEDDED else Path(source)


def model_config(source: str) -> dict[str, Any]:
    """The arguments of a model by embedded name or folder, without its weights; ValueError for another name."""
    for folder in (locate(source), locate(source) / "transformer"):
        if (folder / "config.json").exists():
            config = json.loads((folder / "config.json").read_text())
            return {name: value for name, value in config.items() if not name.startswith("_")}
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


def whole(kind: type, path: Path):
    """`kind.from_pretrained(path)`, which answers a broken folder with one line."""
    try:
        return kind.from_pretrained(path, **({"low_cpu_mem_usage": False} if kind is DiT else {}))
    except (OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path} does not hold a whole {kind.__name__}: {first_line(error)}") from None


def learns_variance(model: DiT) -> bool:
    return model.config.out_channels == 2 * model.config.in_channels
