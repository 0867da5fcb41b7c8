"""What models learn from: your own files, and small real sets that come inside packages."""

from skipdit.data.captions import Captioned, captioned_folder
from skipdit.data.emoji import Emoji
from skipdit.data.image_folder import Crop, Images, image_folder
from skipdit.data.images import ImageSet
from skipdit.data.latents import Latents
from skipdit.data.moving_digits import CaptionedDigits, MovingDigits
from skipdit.data.sets import DATASETS, Dataset, digest, load
from skipdit.data.table import image_table
from skipdit.data.video_folder import Clips, Videos, video_folder

__all__ = [
    "DATASETS", "Captioned", "CaptionedDigits", "Clips", "Crop", "Dataset", "Emoji", "ImageSet", "Images", "Latents",
    "MovingDigits", "Videos", "captioned_folder", "digest", "image_folder", "image_table", "load", "video_folder",
]  # fmt: skip
