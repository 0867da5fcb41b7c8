"""Sets of images as they lie on a disk: folders of pictures, and the .npz of the ADM evaluator."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


class ImageSet:
    """The images of a folder and its folders, in the order of their names, or of an .npz (`arr_0`, uint8 [N, H, W, 3]).

    Raises: ValueError for a path that holds no images.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        if self.path.is_dir():
            self.files = sorted(file for file in self.path.rglob("*") if file.suffix.lower() in SUFFIXES)
            self.array, count = None, len(self.files)
        elif self.path.suffix == ".npz":
            self.array = read_array(self.path)
            count = len(self.array)
        else:
            raise ValueError(f"{self.path} is no folder and no .npz file: give one of them")
        if not count:
            kinds = ", ".join(sorted(SUFFIXES))
            raise ValueError(f"{self.path} holds no images: a set is a folder of {kinds}, or an .npz")
        self.count = count

    def __len__(self) -> int:
        return self.count

    def batches(self, size: int) -> Iterator[Tensor]:
        """Images [B, 3, H, W] in [0, 1]; a batch ends early where the next image has another size."""
        batch: list[Tensor] = []
        for index in range(len(self)):
            image = self.read(index)
            if batch and (len(batch) == size or image.shape != batch[0].shape):
                yield torch.stack(batch)
                batch = []
            batch.append(image)
        yield torch.stack(batch)

    def read(self, index: int) -> Tensor:
        """One image [3, H, W] in [0, 1]; transparent pixels lie on white."""
        pixels = read_pixels(self.files[index]) if self.array is None else self.array[index]
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255


def read_pixels(file: Path) -> np.ndarray:
    try:
        with Image.open(file) as opened:
            image = opened.convert("RGBA")
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{file} cannot be read as an image ({error}): remove it or mend it") from None
    white = Image.new("RGBA", image.size, "white")
    return np.asarray(Image.alpha_composite(white, image).convert("RGB"))


def read_array(file: Path) -> np.ndarray:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            array = arrays["arr_0"]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{file} holds no arr_0 ({error}): give the .npz of the ADM evaluator") from None
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] != 3:
        raise ValueError(f"{file}: arr_0 is {array.dtype} {array.shape}, but must be uint8 [N, H, W, 3]")
    return array
