"""Datasets by name.

Each has a length, `x_0(indices)` in [-1, 1] and `conditions(indices, dropped=...)`, the keyword arguments of the model:
all that training asks for.
"""

import hashlib
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from skipdit.data.emoji import Emoji, emoji
from skipdit.data.images import ImageSet, digits, fashion_mnist
from skipdit.data.moving_digits import CaptionedDigits, MovingDigits, captioned_digits, moving_digits

Dataset = ImageSet | MovingDigits | CaptionedDigits | Emoji

DATASETS = {
    "fashion-mnist": fashion_mnist,
    "digits": digits,
    "moving-digits": moving_digits,
    "captioned-digits": captioned_digits,
    "emoji": emoji,
}


def digest(value: Any) -> str:
    """A hash of a data set's tensors and names, which tells whether it is the one that a run began with."""
    if is_dataclass(value):
        parts = [digest(getattr(value, field.name)) for field in fields(value)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()
    if isinstance(value, Tensor):
        hashed = row_sizes(value) if value.is_floating_point() else value
        return hashlib.sha256(hashed.contiguous().numpy().tobytes() + str(value.shape).encode()).hexdigest()
    return hashlib.sha256(repr(value).encode()).hexdigest()


def row_sizes(value: Tensor) -> Tensor:
    """The root mean square of each row in 1/64, int32: states of text differ from one CPU to another, these do not."""
    rows = value.double().reshape(*value.shape[:1], -1)
    return (rows.square().mean(-1).sqrt() * 64).round().to(torch.int32)


def load(name: str, *, folder: Path | None = None) -> Dataset:
    """A dataset by name, its training split where it has two; ValueError lists the names."""
    if name not in DATASETS:
        raise ValueError(f"unknown dataset {name!r}: take one of {', '.join(DATASETS)}")
    return DATASETS[name](folder)
