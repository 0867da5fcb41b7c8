"""Data sets are values: whatever follows the protocol `Dataset`, ours by name and yours by `module:function`."""

import hashlib
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from skipdit.attributes import load_attribute
from skipdit.data.captions import captioned_folder
from skipdit.data.emoji import emoji
from skipdit.data.image_folder import Crop, image_folder
from skipdit.data.images import digits, fashion_mnist
from skipdit.data.latents import latents
from skipdit.data.moving_digits import captioned_digits, moving_digits
from skipdit.data.table import image_table
from skipdit.data.video_folder import Clips, video_folder


class Dataset(Protocol):
    """All that training asks of data.

    A sample is known by its index alone, so that a run resumes exactly; mirrored images are further samples.
    """

    def __len__(self) -> int: ...

    @property
    def gives(self) -> dict[str, int]:
        """What a model of this data takes, by the names of its arguments: in_channels, height, width, num_classes."""
        ...

    def x_0(self, indices: Tensor) -> Tensor:
        """Samples float32 [B, C, H, W], or clips [B, F, C, H, W] for a Latte; pixels lie in [-1, 1]."""
        ...

    def conditions(self, indices: Tensor, *, dropped: Tensor) -> dict[str, Tensor]:
        """Keyword arguments of the model for samples [B]; none is shown where `dropped`, bool [B]."""
        ...

    def examples(self) -> dict[str, Tensor]:
        """Keyword arguments to draw previews for."""
        ...


DATASETS = {
    "fashion-mnist": fashion_mnist,
    "digits": digits,
    "moving-digits": moving_digits,
    "captioned-digits": captioned_digits,
    "emoji": emoji,
}
OF_FILES = {  # of your own, cropped
    "images": (image_folder, Crop),
    "table": (lambda path, crop: image_table(str(path), crop), Crop),
    "videos": (video_folder, Clips),
    "captions": (captioned_folder, Crop),
}


def digest(dataset: Any) -> str:
    """A hash which tells whether a data set is the one that a run began with.

    It is made of a dataclass's fields, but for those that do not compare; of another object's first and last samples.
    """
    if is_dataclass(dataset):
        parts = [digest_part(getattr(dataset, field.name)) for field in fields(dataset) if field.compare]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()
    ends = torch.tensor([0, len(dataset) - 1])
    return digest_part((len(dataset), dataset.gives, digest_part(dataset.x_0(ends))))


def digest_part(value: Any) -> str:
    if is_dataclass(value):
        return digest(value)
    if isinstance(value, Tensor):
        hashed = row_sizes(value) if value.is_floating_point() else value
        return hashlib.sha256(hashed.contiguous().numpy().tobytes() + str(value.shape).encode()).hexdigest()
    return hashlib.sha256(repr(value).encode()).hexdigest()


def row_sizes(value: Tensor) -> Tensor:
    """The root mean square of each row in 1/64, int32: states of text differ from one CPU to another, these do not."""
    rows = value.double().reshape(*value.shape[:1], -1)
    return (rows.square().mean(-1).sqrt() * 64).round().to(torch.int32)


def load(name: str, *, folder: Path | None = None, crop: Crop | None = None) -> Dataset:
    """A data set by name, its training split where it has two, or what `module:function` returns.

    Raises: ValueError for an unknown name, or for a `crop` that nothing takes.
    """
    if name == "latents" and folder is not None and crop is None:
        return latents(folder)
    if name in OF_FILES:
        if folder is None or crop is None:
            raise ValueError(f"dataset is {name!r} without data_folder or crop: it needs both")
        read, kind = OF_FILES[name]
        if type(crop) is not kind:
            raise ValueError(f"crop is a {type(crop).__name__}, but dataset {name!r} takes a {kind.__name__}")
        return read(folder, crop)
    if crop is not None:
        raise ValueError(f"crop is given, but dataset {name!r} is not of files: leave it out")
    if name not in DATASETS and ":" not in name:
        known = ", ".join([*DATASETS, *OF_FILES, "latents (with data_folder)"])
        raise ValueError(f"unknown dataset {name!r}: take one of {known}, or module:function")
    make = DATASETS.get(name) or load_attribute("dataset", name)
    return make(folder) if name in DATASETS or folder is not None else make()
