"""Sets of images as they lie on a disk: folders of pictures, and the .npz of the ADM evaluator."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from skipdit.data.image_folder import UNREADABLE, Files, image_names, upright


class StoredImages:
    """The images of a folder and its folders, in the order of their names, or of an .npz (`arr_0`, uint8 [N, H, W, 3]).

    They are decoded as for training: any mode, EXIF turned, transparent pixels on white.
    Raises: ValueError for a path that holds no images.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        if self.path.is_dir():
            self.images: Files | np.ndarray = Files(self.path, tuple(image_names(self.path)))
        elif self.path.suffix == ".npz":
            self.images = read_array(self.path)
        else:
            raise ValueError(f"{self.path} is no folder and no .npz file: give one of them")

    def __len__(self) -> int:
        return len(self.images)

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
        """One image [3, H, W] in [0, 1]."""
        pixels = self.images[index] if isinstance(self.images, np.ndarray) else read_pixels(self.images, index)
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255


def read_pixels(files: Files, index: int) -> np.ndarray:
    try:
        with files.open(index) as image:
            return np.asarray(upright(image).convert("RGB"))
    except UNREADABLE as error:
        name = files.root / files.name(index)
        raise ValueError(f"{name} cannot be read as an image ({error}): remove it or mend it") from None


def read_array(file: Path) -> np.ndarray:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            array = arrays["arr_0"]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{file} holds no arr_0 ({error}): give the .npz of the ADM evaluator") from None
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] != 3 or len(array) == 0:
        raise ValueError(f"{file}: arr_0 is {array.dtype} {array.shape}, but must be uint8 [N, H, W, 3], N at least 1")
    return array
