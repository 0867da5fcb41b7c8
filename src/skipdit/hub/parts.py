"""Parts by name: which published autoencoders and bases a model may be given, and which of them are missing."""

from skipdit.hub import registry
from skipdit.hub.architectures import ARCHITECTURES
from skipdit.hub.fetching import missing
from skipdit.hub.registry import Published
from skipdit.models import DiT, HunyuanDiT, LatteT2V
from skipdit.models.base import LongSkipModel

OF_TEXT = (LatteT2V, HunyuanDiT)


def check_parts(kind: type[LongSkipModel], *, vae: str | None, base: str | None) -> None:
    """ValueError for a published name that is no autoencoder, or no base, for a model of this class.

    Folders are judged by what lies in them, when they are read; a model of classes takes none for a base. Needs no
    network.
    """
    for role, name, fitting in (("vae", vae, autoencoders(kind)), ("base", base, bases(kind))):
        if name in registry.REGISTRY and name not in fitting:
            title, remedy = registry.REGISTRY[name].title, f"take {', '.join(fitting)}, or a folder"
            raise ValueError(
                f"{role} is {name!r} ({title}), which is none for a {kind.__name__}:"
                f" {remedy if fitting else 'leave it out'}"
            )
    if base is not None and kind not in OF_TEXT:
        raise ValueError(f"base is {base!r}: {kind.__name__} takes no text; give its vae alone")


def autoencoders(kind: type[LongSkipModel]) -> list[str]:
    """Parts that are no base; those of text-to-video decode frames together, so that they are none for images.

    A HunyuanDiT draws latents of Stable Diffusion XL, whose autoencoder its base brings.
    """
    if kind is HunyuanDiT:
        return []
    lenders = {base for model in OF_TEXT for base in bases(model)}
    parts = [name for name, entry in registry.REGISTRY.items() if entry.task == "part" and name not in lenders]
    return [name for name in parts if not (kind is DiT and decodes_frames(name))]


def decodes_frames(name: str) -> bool:
    """Whether a part is the autoencoder of published text-to-video models, which sees several frames."""
    return name in {entry.parts.get("vae") for entry in entries(LatteT2V)}


def bases(kind: type[LongSkipModel]) -> list[str]:
    """What lends text encoders and autoencoder to a model of this class: pipelines of it, and bases of others of it."""
    if kind not in OF_TEXT:
        return []
    lenders = (entry.parts.get("base", entry.name if is_whole(entry) else None) for entry in entries(kind))
    return list(dict.fromkeys(name for name in lenders if name is not None))


def entries(kind: type[LongSkipModel]) -> list[Published]:
    return [entry for entry in registry.REGISTRY.values() if entry.arch and ARCHITECTURES[entry.arch].model is kind]


def is_whole(entry: Published) -> bool:
    """Whether it is a pipeline folder, which brings all that a model needs."""
    return entry.format == "diffusers" and not entry.source.path


def absent(model: str, *, vae: str | None, base: str | None) -> dict[str, int]:
    """What is not here of a model and its parts, with its bytes, about; parts that are given replace its own.

    Needs no network.
    """
    entry = registry.REGISTRY.get(model)
    given = {role: part for role, part in (("vae", vae), ("base", base)) if part is not None}
    parts = ({} if entry is None else dict(entry.parts)) | given
    return missing(*(name for name in (model, *parts.values()) if name in registry.REGISTRY), parts=False)
