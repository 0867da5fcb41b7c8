"""Timesteps and class ids as people write them: numbers, lists, arrays or tensors, as one tensor; else a ValueError."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from skipdit.models.checks import show_short

WHOLE, ANY = "iu", "iuf"  # kinds of NumPy's numbers


def per_sample(timestep: Any, samples: Tensor) -> Tensor:
    """Timesteps [B] for samples [B, ...], from one for each, or one number for all.

    Raises: ValueError for another count, what is no number, and, where no accelerator must be waited for, numbers below
    0.
    """
    if type(timestep) in (int, float):  # all that torch.compile traces
        timestep = torch.tensor(timestep, dtype=torch.float32, device=samples.device)
    timestep = read_tensor("timestep", timestep, kinds=ANY, device=samples.device)
    check_one_each("timestep", timestep, len(samples))
    if can_be_read(timestep) and not bool((timestep >= 0).all()):
        raise ValueError(f"timestep is {show_short(timestep.tolist())}: take numbers from 0 to 999")
    return timestep.reshape(-1).expand(len(samples))


def read_class_ids(class_labels: Any, samples: Tensor) -> Tensor:
    """Class ids [B] for samples [B, ...], from one for each, or one for all; ValueError for what is none."""
    ids = read_tensor("class_labels", class_labels, kinds=WHOLE, device=samples.device)
    check_one_each("class_labels", ids, len(samples))
    return ids.reshape(-1).long().expand(len(samples))


def read_tensor(name: str, value: Any, *, kinds: str, device: torch.device) -> Tensor:
    """A tensor as it is, anything else as a tensor on the device; ValueError for what holds other things."""
    if isinstance(value, Tensor):
        if value.dtype == torch.bool or value.is_complex() or (kinds == WHOLE and value.is_floating_point()):
            raise ValueError(f"{name} is a tensor of {value.dtype}: give {wanted(kinds)}")
        return value
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError):  # lists of several lengths, tensors of an accelerator
        array = np.asarray(None)
    if array.dtype.kind not in kinds and array.size or array.dtype.kind == "O":
        raise ValueError(f"{name} is {show_short(value)}: give {wanted(kinds)}, one or a list")
    return torch.tensor(array.tolist(), dtype=torch.int64 if kinds == WHOLE else torch.float32, device=device)


def wanted(kinds: str) -> str:
    return "whole numbers" if kinds == WHOLE else "numbers"


def check_one_each(name: str, numbers: Tensor, samples: int) -> None:
    if numbers.ndim > 1 or numbers.numel() not in (1, samples):
        raise ValueError(f"{name} has shape {tuple(numbers.shape)}: {samples} samples take 1 or {samples} in a row")


def can_be_read(tensor: Tensor) -> bool:
    """Whether its values are at hand: no accelerator is waited for, and no graph is broken."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()
