"""Checkpoints that are whole or absent: weights, EMA, optimizer and step, written aside and then renamed.

    checkpoint-00001000/  model.safetensors  ema.safetensors  optimizer.pt  state.json
"""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from skipdit.files import whole_folder
from skipdit.training.ema import EMA
from skipdit.training.optimizer import Optimizer

PREFIX = "checkpoint-"


def save(folder: Path, *, step: int, model: nn.Module, ema: EMA, optimizer: Optimizer, keep: int) -> Path:
    """Write the state after `step` steps, then drop all but the `keep` newest checkpoints.

    Raises: OSError when the disk is full; the run's older checkpoints are untouched and no half-written one is left.
    """
    final = folder / f"{PREFIX}{step:08d}"
    with whole_folder(final) as partial:
        weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        save_file(weights, partial / "model.safetensors")
        save_file(ema.weights, partial / "ema.safetensors")
        torch.save(optimizer.state_dict(), partial / "optimizer.pt")
        (partial / "state.json").write_text(json.dumps({"step": step}))
    for stale in checkpoints(folder)[:-keep]:
        shutil.rmtree(stale)
    return final


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted(folder.glob(f"{PREFIX}*"))


def load(path: Path, *, model: nn.Module, ema: EMA, optimizer: Optimizer) -> int:
    """Restore everything in place; returns the number of steps taken."""
    model.load_state_dict(load_file(path / "model.safetensors"))
    ema.load(load_file(path / "ema.safetensors"))
    optimizer.load_state_dict(torch.load(path / "optimizer.pt", weights_only=True))
    return json.loads((path / "state.json").read_text())["step"]


def checkpointed_step(folder: Path) -> int:
    """The step of the newest checkpoint of a run, 0 where there is none."""
    found = checkpoints(folder)
    return int(found[-1].name.removeprefix(PREFIX)) if found else 0
