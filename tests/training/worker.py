"""A run that torchrun starts several times: `worker.py OUT [SETTINGS as JSON] [STEP at which rank 1 dies]`."""

import json
import os
import signal
import sys
from pathlib import Path

import torch

from skipdit.training import train
from tests.training.tiny import tiny_run


def main(out: str, settings: str = "{}", dies_at: str = "0") -> None:
    torch.set_num_threads(1)

    def die(report) -> None:
        if report.step == int(dies_at) and os.environ.get("RANK") == "1":
            os.kill(os.getpid(), signal.SIGKILL)

    train(tiny_run(Path(out), **json.loads(settings)), on_step=die)


if __name__ == "__main__":
    main(*sys.argv[1:])
