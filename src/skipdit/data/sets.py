"""Datasets by name.

Each has a length, `x_0(indices)` in [-1, 1] and `conditions(indices, dropped=...)`, the keyword arguments of the model:
all that training asks for.
"""

from pathlib import Path

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


def load(name: str, *, folder: Path | None = None) -> Dataset:
    """A dataset by name, its training split where it has two; ValueError lists the names."""
    if name not in DATASETS:
        raise ValueError(f"unknown dataset {name!r}: take one of {', '.join(DATASETS)}")
    return DATASETS[name](folder)
