"""A data set as a user writes one: any class with the methods of `skipdit.data.Dataset`."""

import torch
from torch import Tensor


class TwoDots:
    """16 images of 8 x 8 grey pixels with one bright dot, left for class 0 and right for class 1."""

    gives = {"in_channels": 1, "height": 8, "width": 8, "num_classes": 2}

    def __len__(self) -> int:
        return 16

    def x_0(self, indices: Tensor) -> Tensor:
        images = torch.full((len(indices), 1, 8, 8), -1.0)
        images[torch.arange(len(indices)), 0, indices % 8, 2 + 4 * (indices // 8)] = 1
        return images

    def conditions(self, indices: Tensor, *, dropped: Tensor) -> dict[str, Tensor]:
        return {"class_labels": (indices // 8).masked_fill(dropped, 2)}

    def examples(self) -> dict[str, Tensor]:
        return {"class_labels": torch.tensor([0, 1])}


def two_dots() -> TwoDots:
    return TwoDots()
