"""A folder of images of your own: one folder for each class, images at any depth below it.

    FOLDER/cat/1.png, FOLDER/cat/more/2.jpg, FOLDER/dog/3.webp  ->  x_0 uint8 [N, C, S, S], classes cat and dog

An image is turned as its EXIF says, laid on white where it is transparent, scaled to cover S x S and cropped at its
centre. A file that cannot be read is skipped and named; too many of them stop the run.
"""

import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps
from torch import Tensor

SUFFIXES = {
    ".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".jp2", ".avif", ".tga",
}  # fmt: skip
KEPT_BYTES = 4 * 2**30  # cropped images that together take more are read again at every step
LISTED = 10  # broken files in a message
GREY_MODES = {"1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"}
EXAMPLES = 20  # images of a preview
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)  # that Pillow raises for a broken file


@dataclass(frozen=True)
class Crop:
    """How a file becomes an image that a model takes."""

    size: int
    """height and width in pixels"""
    channels: int = 3
    """3 for colour, 1 for grey"""
    flip: bool = False
    """also train on the mirrored images"""
    max_broken: float = 0.01
    """the share of files that may be unreadable, 0 to 1; more stop the run before it begins"""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"crop.size is {self.size}: it must be at least 1")
        if self.channels not in (1, 3):
            raise ValueError(f"crop.channels is {self.channels}: take 3 for colour or 1 for grey")
        if not 0 <= self.max_broken <= 1:
            raise ValueError(f"crop.max_broken is {self.max_broken}: it must be in [0, 1]")


class Header(NamedTuple):
    """What a file says of its image before it is decoded: width and height as it is shown, and the mode."""

    width: int
    height: int
    mode: str


class Source(Protocol):
    """Where images come from, each by its number."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What an image is called in messages."""
        ...

    def open(self, index: int) -> Image.Image:
        """One image; raises what Pillow raises for a broken one."""
        ...


@dataclass(frozen=True)
class Files:
    """Images by their paths below `root`."""

    root: Path
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return self.names[index]

    def open(self, index: int) -> Image.Image:
        return Image.open(self.root / self.names[index])


@dataclass(frozen=True)
class Images:
    """Cropped images of `source` with class ids int64 [N]; where they fit into memory they are `kept`.

    With `crop.flip` sample N + i is image i mirrored. Two sets are the same by `identity`, labels and crop.
    """

    identity: tuple[str, ...]
    labels: Tensor
    class_names: tuple[str, ...]
    crop: Crop
    source: Source = field(compare=False)
    which: Tensor = field(compare=False)  # the numbers of the images in the source, int64 [N]
    kept: Tensor | None = field(default=None, compare=False, repr=False)
    broken: tuple[str, ...] = field(default=(), compare=False)

    def __len__(self) -> int:
        return len(self.labels) * (1 + self.crop.flip)

    @property
    def gives(self) -> dict[str, int]:
        """What a model of this data takes, by the names of its arguments."""
        side = self.crop.size
        return {
            "in_channels": self.crop.channels, "height": side, "width": side, "num_classes": len(self.class_names)
        }  # fmt: skip

    def x_0(self, indices: Tensor) -> Tensor:
        """Images in [-1, 1], float32 [B, C, S, S]. Raises: OSError for a file that changed since the run began."""
        plain = indices % len(self.labels)
        images = self.kept[plain] if self.kept is not None else self.read(plain)
        mirrored = (indices >= len(self.labels)).reshape(-1, 1, 1, 1)
        return torch.where(mirrored, images.flip(-1), images).float() / 127.5 - 1

    def read(self, plain: Tensor) -> Tensor:
        """Images uint8 [B, C, S, S] from their source."""
        numbers = self.which[plain].tolist()
        images = list(decode_all(self.source, numbers, self.crop))
        if None in images:
            name = self.source.name(numbers[images.index(None)])
            raise OSError(f"{name} can no longer be read: put it back as it was, or begin a new run")
        return torch.stack(images)

    def conditions(self, indices: Tensor, *, dropped: Tensor) -> dict[str, Tensor]:
        """Class labels int64 [B]; those of `dropped`, bool [B], are the null class, one past the last."""
        labels = self.labels[indices % len(self.labels)]
        return {"class_labels": labels.masked_fill(dropped, len(self.class_names))}

    def examples(self) -> dict[str, Tensor]:
        """Conditions to draw previews for: the classes in turn."""
        count = max(EXAMPLES // len(self.class_names), 1) * min(len(self.class_names), EXAMPLES)
        return {"class_labels": torch.arange(count) % len(self.class_names)}


def image_folder(folder: Path, crop: Crop) -> Images:
    """The images below `folder`, each decoded once, so that no broken file stops the run later.

    Raises: FileNotFoundError for a missing folder; ValueError for one without images or with one class only, or for a
    larger share of unreadable files than `crop.max_broken`.
    """
    names = image_names(folder)
    class_names = class_names_of(folder, names)
    number = {name: index for index, name in enumerate(class_names)}
    sizes = [f"{name} {(folder / name).stat().st_size}" for name in names]
    labels = [number[class_of(name)] for name in names]
    return decoded_images(Files(folder, tuple(names)), str(folder), labels, class_names, crop, identity=sizes)


def decoded_images(
    source: Source, title: str, labels: Sequence[int], class_names: Sequence[str], crop: Crop, *, identity: list[str]
) -> Images:
    """The images of a source that can be read. Raises: ValueError for too many that cannot, or a class without any."""
    keep = len(source) * crop.channels * crop.size**2 <= KEPT_BYTES
    decoded = decode_all(source, range(len(source)), crop)
    images = [image if keep or image is None else torch.empty(0) for image in decoded]
    broken = tuple(source.name(index) for index, image in enumerate(images) if image is None)
    report_broken(title, broken, total=len(source), at_most=crop.max_broken)
    good = [index for index, image in enumerate(images) if image is not None]
    missing = sorted(set(range(len(class_names))) - {labels[index] for index in good})
    if missing:
        raise ValueError(f"class {class_names[missing[0]]} of {title} has no image that can be read: mend or remove it")
    return Images(
        identity=tuple(identity),
        labels=torch.tensor([labels[index] for index in good]),
        class_names=tuple(class_names),
        crop=crop,
        source=source,
        which=torch.tensor(good),
        kept=torch.stack([image for image in images if image is not None]) if keep else None,
        broken=broken,
    )


def image_names(folder: Path) -> list[str]:
    """The images below a folder by their paths from there, sorted; hidden ones are left out."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder: name one that has a folder of images for each class")
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    names = sorted(name.as_posix() for name in found if not any(part.startswith(".") for part in name.parts))
    if not names:
        raise ValueError(f"{folder} has no image: put images in it, a folder for each class ({in_words(SUFFIXES)})")
    return names


def in_words(suffixes: set[str]) -> str:
    return ", ".join(sorted(suffix[1:] for suffix in suffixes))


def class_of(name: str) -> str:
    """The first folder of a path; an image beside the class folders has no class."""
    return name.split("/")[0] if "/" in name else ""


def class_names_of(folder: Path, names: Sequence[str]) -> tuple[str, ...]:
    """The classes, sorted as ImageFolder sorts them. Raises: ValueError for fewer than two, or images without one."""
    classes = sorted({class_of(name) for name in names})
    if "" in classes:
        loose = next(name for name in names if not class_of(name))
        raise ValueError(f"{folder / loose} lies in no folder of a class: put each image in the folder of its class")
    if len(classes) < 2:
        remedy = "put images of two classes or more in it, each in a folder of its own"
        raise ValueError(f"{folder} has one class, {classes[0]}: {remedy}")
    return tuple(classes)


def report_broken(title: str, broken: Sequence[str], *, total: int, at_most: float) -> None:
    """Warn of images that were skipped. Raises: ValueError where they are more than the share `at_most`."""
    if not broken:
        return
    named = ", ".join(broken[:LISTED]) + ", ..." * (len(broken) > LISTED)
    said = f"{len(broken)} of {total} files in {title} cannot be read ({named})"
    if len(broken) > at_most * total:
        raise ValueError(f"{said}, more than the share {at_most}: mend or remove them, or raise crop.max_broken")
    warnings.warn(f"{said} and are skipped", stacklevel=2)


def decode_all(source: Source, numbers: Sequence[int], crop: Crop) -> Iterator[Tensor | None]:
    """Images uint8 [C, S, S] in the order of `numbers`, decoded on all cores; None for a broken one."""

    def decoded(index: int) -> Tensor | None:
        try:
            with source.open(index) as image:
                return pixels_of(image, crop)
        except UNREADABLE:
            return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes without the interpreter's lock
        yield from pool.map(decoded, numbers)


def pixels_of(image: Image.Image, crop: Crop) -> Tensor:
    """One image as uint8 [C, S, S]. Raises: what Pillow raises for a broken file."""
    square = centre_crop(upright(image), crop.size)
    pixels = np.array(square.convert("L" if crop.channels == 1 else "RGB"))
    return torch.from_numpy(pixels).reshape(crop.size, crop.size, crop.channels).permute(2, 0, 1).contiguous()


def upright(image: Image.Image) -> Image.Image:
    """An image of any mode as L or RGB, turned as its EXIF says. Raises: what Pillow raises for a broken file."""
    return in_eight_bits(ImageOps.exif_transpose(image))


def in_eight_bits(image: Image.Image) -> Image.Image:
    """An image of any mode as L or RGB: 16 bits are rounded, transparency lies on white."""
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(rounded(np.asarray(image)))
    if image.mode == "LAB":
        return ImageCms.profileToProfile(
            image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    if image.has_transparency_data:
        coloured = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), coloured).convert("RGB")
    return image.convert("L" if image.mode in GREY_MODES else "RGB")


def rounded(values: np.ndarray) -> np.ndarray:
    """Grey values as uint8: integers are 16 bits, floating numbers are in [0, 1]. Raises: ValueError for others."""
    most = 1 if values.dtype.kind == "f" else 2**16 - 1
    if not (values.min() >= 0 and values.max() <= most):
        raise ValueError(f"values go from {values.min()} to {values.max()}: 0 to {most} are read")
    return np.rint(values.astype(np.float64) * (255 / most)).astype(np.uint8)


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """Halve while the image stays at least twice as large, then scale its short side to `size`, and crop the centre.

    Source: the preprocessing of ADM (arXiv 2105.05233), which DiT trains with.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize([max(size, round(side * scale)) for side in image.size], Image.Resampling.BICUBIC)
    left, top = ((side - size) // 2 for side in image.size)
    return image.crop((left, top, left + size, top + size))


def read_header(source: Source, index: int) -> Header | None:
    """Size and mode of an image as it is shown, without decoding it; None for a file that Pillow does not know."""
    try:
        with source.open(index) as image:
            turned = image.getexif().get(0x0112, 1) >= 5  # the EXIF orientations that swap width and height
            width, height = image.size[::-1] if turned else image.size
            return Header(width, height, image.mode)
    except UNREADABLE:
        return None
