"""The text-to-image model that the package carries, on captioned drawings of emoji."""

from pathlib import Path

from skipdit.training.config import HunyuanDiTArchitecture, TrainConfig


def emoji_hunyuan(out: Path = Path("runs/emoji-hunyuan")) -> TrainConfig:
    """The embedded HunyuanDiT: 64 x 64 pixels, patch 8, 8 layers of width 256 and 3 long skips, on captioned emoji.

    It predicts the clean drawing, its loss is the error of v with a cap (docs/decisions/0017). 11 million parameters;
    both texts are encoded before the first step, a minute. Cost: 208,000 samples, 58 passes over the drawings, 1 h
    45 min on one CPU core with AMX. The drawings' packages: `python -m skipdit.data.emoji`.
    """
    return TrainConfig(
        out=out,
        dataset="emoji",
        model=HunyuanDiTArchitecture(num_skips=3, prediction_type="sample"),
        v_weight_cap=25,
        steps=6_500,
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
