"""What models learn from: small real sets that come inside packages, and clips made of them."""

from skipdit.data.emoji import Emoji
from skipdit.data.images import ImageSet
from skipdit.data.moving_digits import CaptionedDigits, MovingDigits
from skipdit.data.sets import DATASETS, Dataset, digest, load

__all__ = ["DATASETS", "CaptionedDigits", "Dataset", "Emoji", "ImageSet", "MovingDigits", "digest", "load"]
