"""Dtypes and devices as people write them: "bf16" and torch.bfloat16, "cuda" and torch.device."""

import torch

SHORT = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "half": "float16", "float": "float32"}
COMPUTING = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}


def read_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """A dtype that models compute in, by itself or by name; ValueError for any other."""
    name = str(dtype).removeprefix("torch.")
    if not isinstance(dtype, torch.dtype | str) or (found := COMPUTING.get(SHORT.get(name, name))) is None:
        raise ValueError(f"dtype is {dtype!r}: take one of {', '.join(COMPUTING)}")
    return found


def check_device(device: torch.device | str) -> None:
    """ValueError for a device that is not here."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"device is {device!r}: not to be had here ({reason}); take cpu") from None
