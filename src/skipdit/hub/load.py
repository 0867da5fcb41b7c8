"""One name for a model, however it is kept: an embedded name, a folder or a checkpoint file -> a pipeline."""

import inspect
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, AutoencoderKLTemporalDecoder, DiffusionPipeline
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import logging

from skipdit.hub.original import CheckpointError, first_line, load_original
from skipdit.models import DiT, Latte, LatteT2V
from skipdit.models.base import LongSkipModel
from skipdit.pipelines import ClassToImagePipeline, ClassToVideoPipeline, PixelAutoencoder
from skipdit.pipelines.schedulers import make_scheduler

EMBEDDED = ("fashion-skip", "fashion-dit", "moving-digits-skip", "captioned-digits-skip")
CHECKPOINT_SUFFIXES = (".pt", ".pth", ".safetensors")
MODELS = {"DiT": DiT, "Latte": Latte, "LatteT2V": LatteT2V, "LatteTransformer3DModel": LatteT2V}
VAES = {
    "AutoencoderKL": AutoencoderKL,
    "AutoencoderKLTemporalDecoder": AutoencoderKLTemporalDecoder,
    "PixelAutoencoder": PixelAutoencoder,
}
PIPELINES = {DiT: ClassToImagePipeline, Latte: ClassToVideoPipeline}  # of classes
PUBLISHED = {DiT: ("ddpm", 250), Latte: ("ddpm", 250), LatteT2V: ("ddim-leading", 50)}  # scheduler and steps
MINILM_WIDTH = 384
INERT = {  # settings of diffusers 0.24 at the values that change nothing in Latte
    "attention_type": "default", "double_self_attention": False, "norm_num_groups": 32, "num_vector_embeds": None,
    "only_cross_attention": False, "upcast_attention": False, "use_linear_projection": False,
}  # fmt: skip


def embedded_folder(name: str) -> Path:
    """Where an embedded model lies: inside the installed package, or at the root of a checkout."""
    package = Path(__file__).parents[1]
    installed, checkout = package / "weights" / name, package.parents[1] / "weights" / name
    return installed if installed.exists() else checkout


def load_pipeline(
    source: str, *, scheduler: str | None = None, vae: str | None = None, base: str | None = None
) -> DiffusionPipeline:
    """A pipeline from an embedded name, a model or pipeline folder, or a checkpoint file, by the model that it holds.

    A DiT comes as `ClassToImagePipeline`, a Latte as `ClassToVideoPipeline`, a LatteT2V as diffusers' `LattePipeline`.

    Args:
        scheduler: a name of `skipdit.pipelines.schedulers`; it takes the place of the one in a pipeline folder. Left
            out, it is the published one: ddpm for a model of classes, ddim-leading for one of text.
        vae: folder of the autoencoder for a model of latents; a pipeline folder brings its own.
        base: folder of a text pipeline (Latte-1) that lends text encoder and autoencoder to a text model that comes
            without. One trained on MiniLM's states and pixels, as the embedded ones are, needs none.

    Raises:
        ValueError: a name that is none of these, an unknown scheduler, or parts that are missing or not taken.
        CheckpointError: what lies there is not a whole model.
        OSError: the text encoder's package is not installed.
    """
    path, model = locate(source), load_model(source)
    name = published_scheduler(model) if scheduler is None else scheduler
    said = model.config.prediction_type
    noise = make_scheduler(name, learned_variance=uses_variance(model), prediction_type=said)
    own = path if is_pipeline(path) else None
    if isinstance(model, LatteT2V):
        return text_to_video(model, noise, base=own if base is None else Path(base), vae=vae)
    if base is not None:
        raise ValueError(f"base is {base!r}: {type(model).__name__} takes no text; give its vae alone")
    if vae is None and own is not None and (own / "vae").exists():
        vae = str(own / "vae")
    return PIPELINES[type(model)](model, noise, None if vae is None else load_vae(Path(vae)))


def text_to_video(model: LatteT2V, noise: SchedulerMixin, *, base: Path | None, vae: str | None) -> DiffusionPipeline:
    from diffusers import LattePipeline  # which imports transformers

    from skipdit.data.text import minilm

    decoder = {} if vae is None else {"vae": load_vae(Path(vae))}
    if base is not None:
        if not is_pipeline(base):
            raise ValueError(f"base is {str(base)!r}: name the folder of a text pipeline, with model_index.json")
        with warnings_off():  # of classes that are not those in the folder, which is the point
            return LattePipeline.from_pretrained(
                base, transformer=model, scheduler=noise, local_files_only=True, **decoder
            )
    if model.config.caption_channels != MINILM_WIDTH:
        width = model.config.caption_channels
        raise ValueError(f"this model reads text of width {width}: give base, the folder of a pipeline that brings it")
    tokenizer, text_encoder = minilm()
    pixels = {"vae": PixelAutoencoder(latent_channels=model.config.in_channels)} if vae is None else decoder
    return LattePipeline(tokenizer, text_encoder, transformer=model, scheduler=noise, **pixels)


def locate(source: str) -> Path:
    return embedded_folder(source) if source in EMBEDDED else Path(source)


def is_pipeline(path: Path) -> bool:
    return (path / "model_index.json").exists()


def load_model(source: str) -> LongSkipModel:
    """The model alone, by the same names, of the class that its config or its tensors tell; float32, in eval mode.

    Raises:
        ValueError: a name that is none of these.
        CheckpointError: what lies there is not a whole model.
    """
    path = locate(source)
    folder = path / "transformer" if is_pipeline(path) else path
    if is_pipeline(path) or (folder / "config.json").exists():
        return whole(MODELS, folder).float().eval()
    if path.suffix in CHECKPOINT_SUFFIXES and path.exists():
        return load_original(path).float()
    raise ValueError(
        f"unknown model {source!r}: take one of {', '.join(EMBEDDED)}, a folder with config.json or model_index.json,"
        f" or a {', '.join(CHECKPOINT_SUFFIXES)} file"
    )


def model_config(source: str) -> dict[str, Any]:
    """The arguments of a model by embedded name or folder, without its weights; ValueError for another name."""
    folder = model_folder(source)
    known = arguments(checked_class(MODELS, folder))
    return {name: value for name, value in read_config(folder).items() if name in known}


def empty_model(source: str) -> LongSkipModel:
    """A model by embedded name or folder as its config says, on the present device and without its weights."""
    return checked_class(MODELS, model_folder(source))(**model_config(source))


def model_folder(source: str) -> Path:
    for folder in (locate(source), locate(source) / "transformer"):
        if (folder / "config.json").exists():
            return folder
    names = ", ".join(EMBEDDED)
    raise ValueError(f"unknown model {source!r}: take XL/2, Latte-XL/2, LatteT2V, one of {names}, or a model folder")


def load_vae(path: Path) -> AutoencoderKL:
    if not (path / "config.json").exists():
        raise ValueError(f"vae is {str(path)!r}: name the folder of an AutoencoderKL, with its config.json")
    return whole(VAES, path)


def whole(kinds: Mapping[str, type], path: Path):
    """A model of one of `kinds`, but with an error where diffusers warns and draws missing weights at random."""
    kind = checked_class(kinds, path)
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


def checked_class(kinds: Mapping[str, type], path: Path) -> type:
    """The class that a folder's config names, by the names of `kinds`, where it knows every other setting there."""
    config = read_config(path)
    if (found := config.get("_class_name")) not in kinds:
        raise CheckpointError(f"{path} holds a {found}: a {' or '.join(kinds)} is needed")
    known = arguments(kinds[found])
    settings = (item for item in config.items() if item not in INERT.items())
    if unknown := [name for name, _ in settings if name not in known and not name.startswith("_")]:
        raise CheckpointError(f"{path / 'config.json'} sets {', '.join(unknown)}, unknown to {kinds[found].__name__}")
    return kinds[found]


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


def read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): copy the folder again") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} holds a {type(config).__name__}: it must hold settings by name")
    return config


def published_scheduler(model: LongSkipModel) -> str:
    scheduler, _ = PUBLISHED[type(model)]
    return scheduler


def uses_variance(model: LongSkipModel) -> bool:
    """Whether ddpm takes the model's variance channels; LattePipeline would guide them out of their bounds."""
    return not isinstance(model, LatteT2V) and model.config.out_channels == 2 * model.config.in_channels
