"""Checkpoints that are whole or absent: weights, EMA, optimizer and step, written aside and then renamed.

    checkpoint-00001000/  model.safetensors  ema.safetensors  optimizer.pt  state.json
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from skipdit.files import whole_folder
from skipdit.training.ema import EMA
from skipdit.training.optimizer import Optimizer

PREFIX = "checkpoint-"
NAME = re.compile(rf"{PREFIX}\d{{8}}")


def save(
    folder: Path, *, step: int, model: nn.Module, ema: EMA, optimizer: Optimizer, keep: int, beside: dict[str, Any]
) -> Path:
    """Write the state after `step` steps, and what stands `beside` it, then drop all but the `keep` newest checkpoints.

    Raises: OSError when the disk is full; the run's older checkpoints are untouched and no half-written one is left.
    """
    final = folder / f"{PREFIX}{step:08d}"
    with whole_folder(final) as partial:
        weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        save_file(weights, partial / "model.safetensors")
        save_file(ema.weights, partial / "ema.safetensors")
        torch.save(optimizer.state_dict(), partial / "optimizer.pt")
        (partial / "state.json").write_text(json.dumps({"step": step, **beside}))
    for stale in checkpoints(folder)[:-keep]:
        shutil.rmtree(stale)
    return final


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first; a user's copies under other names are none."""
    return sorted(path for path in folder.glob(f"{PREFIX}*") if NAME.fullmatch(path.name))


def load(
    path: Path, *, model: nn.Module, ema: EMA, optimizer: Optimizer, check_beside: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Restore everything in place; returns `step`, the number of steps taken, and what stands beside it.

    `check_beside` raises for a state that the run did not write.
    Raises: OSError for a file that cannot be read, with its name.
    """
    state: dict[str, Any] = {}
    restore = {
        "model.safetensors": lambda file: model.load_state_dict(load_file(file)),
        "ema.safetensors": lambda file: ema.load(load_file(file)),
        "optimizer.pt": lambda file: optimizer.load_state_dict(torch.load(file, weights_only=True)),
        "state.json": lambda file: state.update(json.loads(file.read_text())),
    }
    for name, read in restore.items():
        try:
            read(path / name)
            if name == "state.json":
                check_step(state, path)
                check_beside(state)
        except MemoryError:
            raise
        except Exception as error:  # a damaged file may fail in any way
            reason = str(error).partition("\n")[0] or type(error).__name__
            remedy = f"remove {path.name}, and the run goes on from the checkpoint before it"
            raise OSError(f"{path / name} cannot be read ({reason}): {remedy}") from None
    return state


def check_step(state: dict[str, Any], path: Path) -> None:
    step, named = state.get("step"), int(path.name.removeprefix(PREFIX))
    if type(step) is not int or step != named:
        raise ValueError(f"step is {step!r}, not {named}")


def checkpointed_step(folder: Path) -> int:
    """The step of the newest checkpoint of a run, 0 where there is none."""
    found = checkpoints(folder)
    return int(found[-1].name.removeprefix(PREFIX)) if found else 0
