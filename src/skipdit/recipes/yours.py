"""A run on data of your own: its model is made for the data, or is a pretrained one that the data is cropped for."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from skipdit import data
from skipdit.data.captions import metadata_of
from skipdit.data.image_folder import GREY_MODES, Crop, Files, Source, class_names_of, image_names, read_header
from skipdit.data.latents import is_latents
from skipdit.data.latents import latents as load_latents
from skipdit.data.table import is_table, open_table
from skipdit.data.video_folder import Clips, has_videos, video_classes, video_names
from skipdit.hub.sketch import model_of
from skipdit.models import HunyuanDiT
from skipdit.models.adaln import AdaLNTransformer, published_size
from skipdit.training.config import Architecture, HunyuanDiTArchitecture, LatteArchitecture, TrainConfig

LARGEST_SIDE = 64  # pixels of an image that is not asked to be larger: attention costs the fourth power of it
SMALLEST_OF_TEXT = 64  # diffusers' HunyuanDiTPipeline counts sides in eighths, of which a patch has 8
SIZE = "S/2"


def yours(
    source: str,
    out: Path = Path("runs/mine"),
    *,
    size: str | None = None,
    skips: int | None = None,
    init: str | None = None,
    upcycle: int | None = None,
    fuse: str | None = None,
    image_size: int | None = None,
    frames: int | None = None,
    interval: int | None = None,
    unlabelled: bool = False,
    vae: str | None = None,
) -> TrainConfig:
    """A run on data of yours, as `skipdit train --data` has it.

    `source` is a folder of images or videos, a table of images, or the `module:function` that returns a data set.

    Raises: ValueError for settings that exclude each other; as the data set and the pretrained model do.
    """
    check_start(size=size, skips=skips, init=init, upcycle=upcycle, fuse=fuse)
    if metadata_of(Path(source)) is not None:
        check_of_text(size=size, upcycle=upcycle, fuse=fuse, frames=frames, interval=interval, vae=vae)
        return captioned(Path(source), out, skips=skips, init=init, image_size=image_size)
    lent = {} if init is None else lent_settings(init)
    if ":" in source and not is_table(source) and not Path(source).exists():
        if image_size is not None:
            raise ValueError(f"image_size is {image_size}, but {source} is no folder of images: leave it out")
        gives, files = data.load(source).gives, {}
    elif is_latents(Path(source)):
        gives, files = load_latents(Path(source)).gives, {"dataset": "latents", "data_folder": Path(source), "vae": vae}
        files |= {"class_names": load_latents(Path(source)).class_names}
    elif vae is not None:
        remedy = f"run `skipdit data encode {source} --vae {vae} --out latents`, then train with --data latents"
        raise ValueError(f"vae is {vae}, but {source} is no folder of latents: {remedy}")
    elif frames is not None or has_videos(Path(source)):
        taken = {"frames": frames, "interval": interval, "labelled": not unlabelled}
        gives, files = of_videos(Path(source), image_size, lent=lent, **taken)
    else:
        if interval is not None or unlabelled:
            raise ValueError(f"interval or unlabelled is given, but {source} has no videos: leave it out")
        gives, files = of_images(source, image_size, patch=patch_of(size, lent), lent=lent)
    depth, own = shaped(size, lent, gives)
    merged = skips_of(depth, skips=skips, upcycle=upcycle, fuse=fuse, lent=lent)
    kind = LatteArchitecture if "num_frames" in gives else Architecture
    names = {str(number): name for number, name in enumerate(files.pop("class_names", ()))}
    model = kind(**own | merged | {"id2label": names or None})
    blind = files.get("dataset") == "latents" and vae is None
    return TrainConfig(
        out=out, model=model, init=init, **{"dataset": source} | files, preview_every=0 if blind else 500,
        batch_size=64, learning_rate=3e-4, ema_decay=0.999, log_every=50, checkpoint_every=500,
    )  # fmt: skip


def captioned(
    folder: Path, out: Path, *, skips: int | None, init: str | None, image_size: int | None
) -> TrainConfig:
    """A run on images with captions: a HunyuanDiT as small as the embedded one, or from the weights of such a one."""
    own = {} if init is None else hunyuan_settings(init)
    side = image_size or own.get("sample_size", LARGEST_SIDE)
    if side % SMALLEST_OF_TEXT:
        raise ValueError(f"image_size is {side}: a model of captions takes multiples of {SMALLEST_OF_TEXT}")
    settings = own | {"sample_size": side} | ({} if skips is None else {"num_skips": skips})
    return TrainConfig(
        out=out, dataset="captions", data_folder=folder, crop=Crop(side), init=init,
        model=HunyuanDiTArchitecture(**settings), batch_size=32, learning_rate=3e-4, ema_decay=0.999, log_every=50,
        checkpoint_every=500, preview_every=500,
    )  # fmt: skip


def check_of_text(**given: Any) -> None:
    if beside := [name for name, value in given.items() if value is not None]:
        raise ValueError(f"{beside[0]} is {given[beside[0]]}, which a model of captions does not take: leave it out")


def hunyuan_settings(init: str) -> dict[str, Any]:
    """The settings of the architecture of a pretrained HunyuanDiT. Raises: ValueError for another class."""
    model = model_of(init, None)
    if not isinstance(model, HunyuanDiT):
        raise ValueError(f"init {init} is a {type(model).__name__}: captions take a HunyuanDiT, as emoji-hunyuan")
    names = [field.name for field in fields(HunyuanDiTArchitecture) if field.name in model.config]
    return {name: model.config[name] for name in names}


def check_start(*, init: str | None, upcycle: int | None, fuse: str | None, **own: Any) -> None:
    if init is None and upcycle is not None:
        raise ValueError(f"upcycle is {upcycle} without init: name the vanilla model that gets skips, or take skips")
    if init is not None and (beside := [name for name, value in own.items() if value is not None]):
        remedy = "leave it out, or give upcycle for skips" if beside == ["skips"] else "leave one of them out"
        raise ValueError(f"init is {init} beside {' and '.join(beside)}, which it settles: {remedy}")
    if init is not None and fuse is not None and upcycle is None:
        raise ValueError(f"fuse is {fuse} without upcycle: init settles how its own skips are merged, leave it out")


def lent_settings(init: str) -> dict[str, Any]:
    """The settings of the architecture of a pretrained DiT or Latte. Raises: ValueError for another class."""
    model = model_of(init, None)
    if not isinstance(model, AdaLNTransformer):
        raise ValueError(f"init {init} is a {type(model).__name__}, which draws from text: take a DiT or a Latte")
    return dict(model.config)


def patch_of(size: str | None, lent: dict[str, Any]) -> int:
    return lent["patch_size"] if lent else published_size(size or SIZE)["patch_size"]


def of_images(
    place: str, image_size: int | None, *, patch: int, lent: dict[str, Any]
) -> tuple[dict[str, int], dict[str, Any]]:
    """What the images of a folder or a table give, and the settings of a run that read them."""
    kind = "table" if is_table(place) else "images"
    source, class_names = listed(place)
    headers = [header for number in range(len(source)) if (header := read_header(source, number)) is not None]
    if not headers:
        raise ValueError(f"none of the {len(source)} images in {place} can be read: mend or replace them")
    grey = all(header.mode in GREY_MODES for header in headers)
    side = lent.get("sample_size") if image_size is None else image_size
    if side is None:
        side = min(LARGEST_SIDE, *(min(header.width, header.height) for header in headers))
        side = max(side - side % patch, patch)
    crop = Crop(side, channels=lent.get("in_channels", 1 if grey else 3))
    gives = {"in_channels": crop.channels, "height": side, "width": side, "num_classes": len(class_names)}
    return gives, {"dataset": kind, "data_folder": Path(place), "crop": crop, "class_names": class_names}


def of_videos(
    folder: Path, image_size: int | None, *, frames: int | None, interval: int | None, labelled: bool,
    lent: dict[str, Any],
) -> tuple[dict[str, int], dict[str, Any]]:  # fmt: skip
    """What the videos of a folder give, and the settings of a run that read them."""
    names = video_names(folder)
    class_names = video_classes(folder, names) if labelled else ()
    side = lent.get("sample_size", LARGEST_SIDE) if image_size is None else image_size
    own = {"frames": frames or lent.get("num_frames"), "interval": interval}
    own = {name: value for name, value in own.items() if value is not None}
    crop = Clips(side, channels=lent.get("in_channels", 3), labelled=labelled, **own)
    gives = {"num_frames": crop.frames, "in_channels": crop.channels, "height": side, "num_classes": len(class_names)}
    return gives, {"dataset": "videos", "data_folder": folder, "crop": crop, "class_names": class_names}


def listed(place: str) -> tuple[Source, Sequence[str]]:
    """The images of a folder or a table, undecoded, and the names of their classes."""
    if is_table(place):
        rows, _, class_names = open_table(place)
        return rows, class_names
    names = image_names(Path(place))
    return Files(Path(place), tuple(names)), class_names_of(Path(place), names)


def shaped(size: str | None, lent: dict[str, Any], gives: dict[str, int]) -> tuple[int, dict[str, Any]]:
    """The depth and the settings of an architecture, of a published size or of the pretrained model, for the data."""
    kind = LatteArchitecture if "num_frames" in gives else Architecture
    if lent:
        own = {field.name: lent[field.name] for field in fields(kind) if field.name in lent}
    else:
        own = published_size(size or SIZE)
        own["depth"] //= 2 if "num_frames" in gives else 1  # a layer of a Latte has two blocks
    given = {"sample_size": gives["height"], "in_channels": gives["in_channels"], "num_classes": gives["num_classes"]}
    return own["depth"], own | given | {name: gives[name] for name in ("num_frames",) if name in gives}


def skips_of(
    depth: int, *, skips: int | None, upcycle: int | None, fuse: str | None, lent: dict[str, Any]
) -> dict[str, Any]:
    """How many skips the model has, and how they are merged."""
    if upcycle is not None and lent["num_skips"]:
        raise ValueError(f"upcycle is {upcycle}: init has {lent['num_skips']} skips already, leave it out")
    if upcycle is not None:
        return {"num_skips": upcycle, "fuse": fuse or "residual"}
    if lent:
        return {"num_skips": lent["num_skips"], "fuse": lent.get("fuse", "replace")}
    return {"num_skips": depth // 2 if skips is None else skips, "fuse": fuse or "replace"}
