"""What models learn from: your own files, and small real sets that come inside packages."""

from skipdit.data.emoji import Emoji
from skipdit.data.image_folder import Crop, Images, image_folder
from skipdit.data.images import ImageSet
from skipdit.data.moving_digits import CaptionedDigits, MovingDigits
from skipdit.data.sets import DATASETS, Dataset, digest, load

__all__ = [
    "DATASETS", "CaptionedDigits", "Crop", "Dataset", "Emoji", "ImageSet", "Images", "MovingDigits", "digest",
    "image_folder", "load",
]  # fmt: skip
