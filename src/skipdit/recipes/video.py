"""The class-to-video and text-to-video models that the package carries, on clips of moving digits."""

from pathlib import Path
from typing import Any

from skipdit.training.config import LatteArchitecture, LatteT2VArchitecture, TrainConfig

BUDGET: dict[str, Any] = {  # the same for all four
    "steps": 5_000,
    "batch_size": 16,
    "optimizer": "muon",
    "learning_rate": 3e-3,
    "warmup_steps": 100,
    "decay": "cosine",
    "betas": (0.9, 0.99),
    "ema_decay": 0.998,
    "precision": "bf16",
    "compile": True,
    "log_every": 50,
    "checkpoint_every": 500,
    "preview_every": 1000,
}


def moving_digits_latte(out: Path = Path("runs/moving-digits-latte"), *, num_skips: int = 0) -> TrainConfig:
    """The embedded vanilla Latte: 16 frames of 32 x 32 pixels, patch 8, 6 layers of width 128, on moving digits.

    Cost: 80,000 clips, 45 min on one CPU core with AMX to itself.
    """
    model = LatteArchitecture(
        sample_size=32, patch_size=8, hidden_size=128, depth=6, num_heads=2, num_classes=40, num_skips=num_skips,
        prediction_type="v_prediction",
    )  # fmt: skip
    return TrainConfig(out=out, dataset="moving-digits", model=model, **BUDGET)


def moving_digits_skip(out: Path = Path("runs/moving-digits-skip")) -> TrainConfig:
    """The embedded Latte with 3 long skips: else `moving_digits_latte`, the same data, steps and seed."""
    return moving_digits_latte(out, num_skips=3)


def captioned_digits_latte(out: Path = Path("runs/captioned-digits-latte"), *, num_skips: int = 0) -> TrainConfig:
    """The embedded vanilla LatteT2V: 16 frames of 32 x 32 pixels, patch 8, 6 layers of width 128, captions by MiniLM.

    Cost: 80,000 clips, 45 min on one CPU core with AMX to itself.
    """
    model = LatteT2VArchitecture(
        patch_size=8, num_layers=6, num_attention_heads=2, attention_head_dim=64, num_skips=num_skips,
        prediction_type="v_prediction",
    )  # fmt: skip
    return TrainConfig(out=out, dataset="captioned-digits", model=model, **BUDGET)


def captioned_digits_skip(out: Path = Path("runs/captioned-digits-skip")) -> TrainConfig:
    """The embedded LatteT2V with 3 long skips: else `captioned_digits_latte`, the same data, steps and seed."""
    return captioned_digits_latte(out, num_skips=3)


RECIPES = {
    "moving-digits-latte": moving_digits_latte,
    "moving-digits-skip": moving_digits_skip,
    "captioned-digits-latte": captioned_digits_latte,
    "captioned-digits-skip": captioned_digits_skip,
}
