"""The training runs of the published models as functions, by the rows of the paper's tables that they reproduce.

Each trains on a folder of latents that `skipdit data encode` wrote, with the published optimizer (AdamW at 1e-4, no
weight decay, EMA 0.9999), but under autocast to bfloat16 where the published trainers have float32. None of them was
run here to its end. One command starts one on 8 GPUs:

    torchrun --nproc-per-node 8 -m skipdit train imagenet-256-dit-xl-skip --device cuda --compile
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from skipdit.models.adaln import SIZES, published_size
from skipdit.training.config import Architecture, LatteArchitecture, TrainConfig

PUBLISHED = {"learning_rate": 1e-4, "ema_decay": 0.9999, "precision": "bf16", "preview_every": 0, "log_every": 100}
OF_IMAGES = PUBLISHED | {"batch_size": 256, "clip_grad_norm": None, "checkpoint_every": 50_000}
OF_CLIPS = PUBLISHED | {"batch_size": 32, "clip_grad_norm": 0.1, "checkpoint_every": 10_000}
LATTE_SETS = {  # classes, warm-up and steps
    "ffs": (0, 0, 1_000_000), "sky": (0, 0, 1_000_000), "taichi": (0, 0, 1_000_000), "ucf101": (101, 300, 100_000),
}  # fmt: skip


def imagenet_dit(
    out: Path = Path("runs/imagenet-dit"), *, letter: str = "XL", image_size: int = 256, with_skips: bool = False
) -> TrainConfig:
    """DiT on ImageNet: a published size with patch 2, vanilla or with skips across half the depth, from fresh weights.

    Published: DiT-XL/2 at 256 x 256 has FID 9.62 without guidance and 2.27 with it after 7 million steps (arXiv
    2212.09748, table 4); DiT-XL/2-skip was published as trained for 38 % of the cost of its vanilla model.
    """
    size = published_size(f"{letter}/2")
    skips = size["depth"] // 2 if with_skips else 0
    model = Architecture(sample_size=image_size // 8, in_channels=4, num_classes=1000, num_skips=skips, **size)
    folder = Path(f"latents/imagenet-{image_size}")
    return TrainConfig(out=out, dataset="latents", data_folder=folder, model=model, steps=7_000_000, **OF_IMAGES)


def latte(
    out: Path = Path("runs/latte"), *, video_set: str = "ffs", with_skips: bool = False, letter: str = "XL"
) -> TrainConfig:
    """Latte on one of its four sets: 16 frames, every third, of 256 x 256 pixels, from fresh weights.

    Published: 8 GPUs with 4 clips each; the Skip-DiT paper trains Latte-XL/2 with skips across its 14 layers alike. The
    published trainer adds 8 still images to each clip, clips gradients from a late step on only (20,000 to 500,000),
    and uses a rate of 1e-4 for all sets, whatever their files say.
    """
    classes, warmup, steps = LATTE_SETS[video_set]
    size = published_size(f"{letter}/2")
    size["depth"] //= 2
    skips = size["depth"] // 2 if with_skips else 0
    model = LatteArchitecture(
        sample_size=32, in_channels=4, num_classes=classes, num_frames=16, num_skips=skips, **size
    )
    return TrainConfig(
        out=out, dataset="latents", data_folder=Path(f"latents/{video_set}"), model=model, steps=steps,
        warmup_steps=warmup, **OF_CLIPS,
    )  # fmt: skip


def named(name: str, recipe: Callable[..., TrainConfig], **settings: Any) -> Callable[..., TrainConfig]:
    """A recipe with settings, whose folder in runs/ has its name."""

    def own(out: Path = Path("runs") / name) -> TrainConfig:
        return recipe(out, **settings)

    own.__doc__ = recipe.__doc__
    return own


RECIPES = {
    name: named(name, imagenet_dit, letter=letter, image_size=side, with_skips=with_skips)
    for letter in SIZES
    for side in (256, 512)
    for with_skips in (False, True)
    for name in [f"imagenet-{side}-dit-{letter.lower()}" + "-skip" * with_skips]
} | {
    name: named(name, latte, video_set=video_set, with_skips=with_skips)
    for video_set in LATTE_SETS
    for with_skips in (False, True)
    for name in [f"{video_set}-latte-xl" + "-skip" * with_skips]
}
