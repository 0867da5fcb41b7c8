"""The text-to-image model that the package carries, on captioned drawings of emoji."""

from pathlib import Path

from skipdit.training.config import HunyuanDiTArchitecture, TrainConfig


def emoji_hunyuan(out: Path = Path("runs/emoji-hunyuan")) -> TrainConfig:
    """The embedded HunyuanDiT: 64 x 64 pixels, patch 8, 8 layers of width 256 and 3 long skips, on captioned emoji.

    11 million parameters; both texts are encoded before the first step, a minute. Cost: 92,800 samples, 26 passes over
    the drawings, 50 min on one CPU core with AMX to itself. The drawings' packages: `python -m skipdit.data.emoji`.
    """
    return TrainConfig(
        out=out,
        dataset="emoji",
        model=HunyuanDiTArchitecture(num_skips=3),
        steps=2_900,
        batch_size=32,
        optimizer="muon",
        learning_rate=3e-3,
        warmup_steps=100,
        decay="cosine",
        betas=(0.9, 0.99),
        ema_decay=0.999,
        precision="bf16",
        compile=True,
        log_every=50,
        checkpoint_every=250,
        preview_every=500,
    )


RECIPES = {"emoji-hunyuan": emoji_hunyuan}
