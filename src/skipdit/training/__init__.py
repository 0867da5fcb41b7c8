"""Training: the loop, EMA, checkpoints that resume bit-exactly, previews."""

from skipdit.training.checkpoint import checkpointed_step
from skipdit.training.config import (
    Architecture,
    HunyuanDiTArchitecture,
    LatteArchitecture,
    LatteT2VArchitecture,
    TrainConfig,
)
from skipdit.training.loop import Report, train

__all__ = [
    "Architecture",
    "HunyuanDiTArchitecture",
    "LatteArchitecture",
    "LatteT2VArchitecture",
    "Report",
    "TrainConfig",
    "checkpointed_step",
    "train",
]
