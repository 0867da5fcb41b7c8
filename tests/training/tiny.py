"""Training runs of seconds, and a disk that fills up."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from skipdit.training import Architecture, TrainConfig

ARCHITECTURE = {"sample_size": 8, "patch_size": 4, "hidden_size": 16, "depth": 2, "num_heads": 2, "num_skips": 1}


def tiny_run(out: Path, *, model: dict | None = None, **changes) -> TrainConfig:
    """Ten steps on digits, a checkpoint after each four."""
    settings = {
        "dataset": "digits", "steps": 10, "batch_size": 8, "learning_rate": 1e-3, "warmup_steps": 2,
        "decay": "cosine", "ema_decay": 0.9, "precision": "fp32", "log_every": 2, "checkpoint_every": 4,
        "keep_checkpoints": 9, "preview_every": 0, "preview_steps": 2, "export_dtype": "float32",
    }  # fmt: skip
    return TrainConfig(out=out, model=Architecture(**ARCHITECTURE | (model or {})), **settings | changes)


@contextmanager
def full_disk(*, after: int) -> Iterator[None]:
    """Writing more than `after` bytes to any one file fails, as on a full disk, in whatever library it happens.

    It is the limit that the kernel sets on a process's files: the error is EFBIG where a full disk's is ENOSPC.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (after, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
