"""Which model a plan is of: a hash that a change of dtype or device leaves as it is.

sha256 over name, shape and the first 8 values of every parameter, rounded to bfloat16
"""

from hashlib import sha256
from typing import Any

import torch
from torch import nn

FIRST = 8


def fingerprint(model: nn.Module | None) -> dict[str, Any] | None:
    """Class and hash of a model; None where there is none."""
    if not isinstance(model, nn.Module):
        return None
    digest = sha256()
    for name, parameter in sorted(model.named_parameters()):
        first = parameter.detach().flatten()[:FIRST].to("cpu", torch.bfloat16).view(torch.int16)
        digest.update(f"{name} {tuple(parameter.shape)} {first.tolist()}".encode())
    return {"class": type(model).__name__, "sha256": digest.hexdigest()}
