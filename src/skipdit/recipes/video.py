"""The class-to-video and text-to-video models that the package carries, on clips of moving digits."""

from pathlib import Path
from typing import Any

from skipdit.training.config import LatteArchitecture, LatteT2VArchitecture, TrainConfig

COMMON: dict[str, Any] = {
    "optimizer": "muon",
    "learning_rate": 3e-3,
    "warmup_steps": 100,
    "betas": (0.9, 0.99),
    "ema_decay": 0.998,
    "precision": "bf16",
    "compile": True,
    "log_every": 50,
}
OF_CLASSES: dict[str, Any] = COMMON | {
    "steps": 5_000,
    "batch_size": 16,
    "decay": "cosine",
    "checkpoint_every": 500,
    "preview_every": 1000,
}
OF_CAPTIONS: dict[str, Any] = COMMON | {  # why other than those of classes: docs/decisions/0021
    "steps": 2_750,
    "batch_size": 8,
    "decay": "trapezoid",
    "cooldown": 0.6,
    "v_weight_cap": 2.0,
    "checkpoint_every": 50,
    "preview_every": 0,
}


def moving_digits_latte(out: Path = Path("runs/moving-digits-latte"), *, num_skips: int = 0) -> TrainConfig:
    """The embedded vanilla Latte: 16 frames of 32 x 32 pixels, patch 8, 6 layers of width 128, on moving digits.

    Cost: 80,000 clips, 45 min on one CPU core with AMX to itself.
    """
    model = LatteArchitecture(
        sample_size=32, patch_size=8, hidden_size=128, depth=6, num_heads=2, num_classes=40, num_skips=num_skips,
        prediction_type="v_prediction",
    )  # fmt: skip
    return TrainConfig(out=out, dataset="moving-digits", model=model, **OF_CLASSES)


def moving_digits_skip(out: Path = Path("runs/moving-digits-skip")) -> TrainConfig:
    """The embedded Latte with 3 long skips: else `moving_digits_latte`, the same data, steps and seed."""
    return moving_digits_latte(out, num_skips=3)


def captioned_digits_latte(out: Path = Path("runs/captioned-digits-latte"), *, num_skips: int = 0) -> TrainConfig:
    """The vanilla twin of `captioned_digits_skip`: 16 frames of 32 x 32 pixels, patch 4, 6 layers of width 96.

    The embedded `captioned-digits-latte` is not of this recipe: it is older, with patch 8 (weights/README.md).
    Cost: 22,000 clips, 25 to 30 min on one CPU core without AMX to itself, an hour on a shared one.
    """
    model = LatteT2VArchitecture(
        patch_size=4, num_layers=6, num_attention_heads=6, attention_head_dim=16, num_skips=num_skips,
        prediction_type="v_prediction",
    )  # fmt: skip
    return TrainConfig(out=out, dataset="captioned-digits", model=model, **OF_CAPTIONS)


def captioned_digits_skip(out: Path = Path("runs/captioned-digits-skip")) -> TrainConfig:
    """The embedded LatteT2V with 3 long skips, captions by MiniLM: else `captioned_digits_latte`, of the same seed.

    A reader finds the requested digit in 70 % of its clips: 22,000 are too few. Cost: as the twin.
    """
    return captioned_digits_latte(out, num_skips=3)


RECIPES = {
    "moving-digits-latte": moving_digits_latte,
    "moving-digits-skip": moving_digits_skip,
    "captioned-digits-latte": captioned_digits_latte,
    "captioned-digits-skip": captioned_digits_skip,
}
