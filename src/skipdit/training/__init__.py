"""Training: the loop, EMA, checkpoints that resume bit-exactly, previews."""

from skipdit.training.config import Architecture, TrainConfig
from skipdit.training.loop import train

__all__ = ["Architecture", "TrainConfig", "train"]
