"""The published runs as recipes: each is what was published, and takes a step with a model as small as can be."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from skipdit.models.adaln import SIZES
from skipdit.recipes.published import RECIPES
from skipdit.training.loop import start, steps


class Noise:
    """Eight latents of the sizes that a model takes."""

    def __init__(self, takes: dict[str, int]):
        self.gives = takes

    def __len__(self) -> int:
        return 8

    def x_0(self, indices: Tensor) -> Tensor:
        names = [name for name in ("num_frames", "in_channels", "height", "width") if name in self.gives]
        return torch.zeros(len(indices), *(self.gives[name] for name in names)) + indices.reshape(-1, *[1] * len(names))

    def conditions(self, indices: Tensor, *, dropped: Tensor) -> dict[str, Tensor]:
        classes = self.gives["num_classes"]
        return {"class_labels": (indices % classes).masked_fill(dropped, classes)} if classes else {}

    def examples(self) -> dict[str, Tensor]:
        return {}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_takes_a_step_at_a_tiny_size(tmp_path, name):
    config = RECIPES[name](tmp_path)
    small = {"hidden_size": 24, "num_heads": 2, "depth": 2, "sample_size": 4}
    small["num_skips"] = min(config.model.num_skips, 1)
    config = replace(config, model=replace(config.model, **small), batch_size=2, steps=config.steps)
    run = start(config, Noise(config.model.takes))
    assert next(steps(run)).loss.isfinite()


def test_there_is_one_for_every_published_size_and_set():
    images = {f"imagenet-{side}-dit-{letter.lower()}" for side in (256, 512) for letter in SIZES}
    videos = {f"{name}-latte-xl" for name in ("ffs", "sky", "taichi", "ucf101")}
    assert set(RECIPES) == {name + skip for name in images | videos for skip in ("", "-skip")}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("imagenet-256-dit-xl-skip", {"depth": 28, "hidden_size": 1152, "num_heads": 16, "num_skips": 14}),
        ("imagenet-512-dit-b", {"depth": 12, "hidden_size": 768, "num_skips": 0, "sample_size": 64}),
        ("ucf101-latte-xl-skip", {"depth": 14, "num_skips": 7, "num_classes": 101, "num_frames": 16}),
        ("sky-latte-xl", {"depth": 14, "num_skips": 0, "num_classes": 0, "sample_size": 32}),
    ],
)
def test_the_architectures_are_the_published_ones(tmp_path, name, expected):
    model = RECIPES[name](tmp_path).model
    assert {field: getattr(model, field) for field in expected} == expected
