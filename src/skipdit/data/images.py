"""Labelled image sets, whole in memory.

    fashion-mnist   60,000 drawings of clothes, 28 x 28, 10 classes (MIT), Debian package `dataset-fashion-mnist`
    digits          1,797 handwritten digits, 8 x 8, 10 classes (CC BY 4.0), inside scikit-learn
"""

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FASHION_MNIST_FOLDER = Path("/usr/share/datasets/fashion-mnist")  # where the Debian package puts it
FASHION_CLASSES = (
    "T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip


@dataclass(frozen=True)
class ImageSet:
    """Images uint8 [N, C, H, W] with class ids int64 [N] and the names of the classes."""

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def gives(self) -> dict[str, int]:
        """What a model of this data takes, by the names of its arguments."""
        _, channels, height, width = self.images.shape
        return {
            "in_channels": channels, "height": height, "width": width, "num_classes": len(self.class_names)
        }  # fmt: skip

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images in [-1, 1], float32 [B, C, H, W], and their class ids [B]."""
        return self.x_0(indices), self.labels[indices]

    def x_0(self, indices: Tensor) -> Tensor:
        """Images in [-1, 1], float32 [B, C, H, W]."""
        return self.images[indices].float() / 127.5 - 1

    def conditions(self, indices: Tensor, *, dropped: Tensor) -> dict[str, Tensor]:
        """Class labels int64 [B]; those of `dropped`, bool [B], are the null class, one past the last."""
        return {"class_labels": self.labels[indices].masked_fill(dropped, len(self.class_names))}

    def examples(self) -> dict[str, Tensor]:
        """Conditions to draw previews for: four rows, a column for each class."""
        return {"class_labels": torch.arange(len(self.class_names)).repeat(4)}


def fashion_mnist(folder: Path | None = None) -> ImageSet:
    """The 60,000 training images of Fashion-MNIST (arXiv 1708.07747), from `folder` of the four .gz files."""
    folder = FASHION_MNIST_FOLDER if folder is None else folder
    images = read_idx(folder / "train-images-idx3-ubyte.gz")[:, None]
    labels = read_idx(folder / "train-labels-idx1-ubyte.gz").long()
    return ImageSet(images, labels, FASHION_CLASSES)


def digits(folder: Path | None = None) -> ImageSet:
    """The 1,797 digits of scikit-learn, 17 grey levels stretched to 0..255."""
    if folder is not None:
        raise ValueError(f"folder is {str(folder)!r}: the digits come inside scikit-learn; leave the folder out")
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise OSError("the digits come inside scikit-learn, which is missing: pip install 'skipdit[data]'") from None
    raw = load_digits()
    images = torch.from_numpy(np.rint(raw.images * (255 / 16)).astype(np.uint8))[:, None]
    return ImageSet(images, torch.from_numpy(raw.target).long(), tuple(map(str, range(10))))


def read_idx(path: Path) -> Tensor:
    """The bytes of a gzipped IDX file, uint8, in the shape that its header says: [N, H, W] or [N]."""
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist: apt-get install dataset-fashion-mnist, or name the folder of the four .gz files"
        )
    try:
        content = gzip.decompress(path.read_bytes())
        dims = content[3]
        shape = np.frombuffer(content, ">u4", count=dims, offset=4)
        values = np.frombuffer(content, np.uint8, offset=4 + 4 * dims).reshape(shape)
    except (gzip.BadGzipFile, zlib.error, EOFError, IndexError, ValueError) as error:
        raise OSError(f"{path} cannot be read ({error}): install or copy it again") from None
    return torch.from_numpy(values.copy())
