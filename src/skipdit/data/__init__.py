"""Images with classes, as uint8 tensors in memory: small sets that come inside packages."""

from skipdit.data.images import DATASETS, ImageSet, load

__all__ = ["DATASETS", "ImageSet", "load"]
