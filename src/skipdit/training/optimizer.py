"""The optimizer of a run: AdamW for everything, or Muon for the matrices inside the layers and AdamW for the rest.

    Muon    W <- W - rate * 0.2 sqrt(max(rows, columns)) * orthogonalised(momentum)

Scaled so, both take one learning rate (Liu et al. 2025, arXiv 2502.16982, section 2.2; Muon: Jordan et al. 2024).
"""

import re
from typing import Any

import torch
from torch import nn

from skipdit.training.config import TrainConfig

INSIDE_LAYERS = re.compile(r"(^|_)blocks\.\d+\..*\.weight$|^skip_linears\.\d+\.linear\.weight$")
MUON_MOMENTUM = 0.95


class MuonAndAdamW:
    """Two optimizers in the place of one: their groups, steps and states together."""

    def __init__(self, muon: torch.optim.Optimizer, adamw: torch.optim.Optimizer):
        self.parts = {"muon": muon, "adamw": adamw}

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts.values() for group in part.param_groups]

    def step(self) -> None:
        for part in self.parts.values():
            part.step()

    def zero_grad(self, *, set_to_none: bool = True) -> None:
        for part in self.parts.values():
            part.zero_grad(set_to_none=set_to_none)

    def state_dict(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, part in self.parts.items():
            part.load_state_dict(state[name])


Optimizer = torch.optim.Optimizer | MuonAndAdamW


def make_optimizer(model: nn.Module, config: TrainConfig) -> Optimizer:
    """The optimizer that `config` names, for the trainable parameters.

    Raises: ValueError for "muon" where torch has none (before 2.9).
    """
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if config.optimizer == "adamw":
        return adamw(list(trainable.values()), config)
    if not hasattr(torch.optim, "Muon"):
        raise ValueError(f"optimizer is 'muon', which torch {torch.__version__} lacks: take adamw, or torch 2.9")
    matrices = [p for name, p in trainable.items() if p.ndim == 2 and INSIDE_LAYERS.search(name)]
    inside = {id(parameter) for parameter in matrices}
    muon = torch.optim.Muon(
        matrices, lr=config.learning_rate, weight_decay=config.weight_decay, momentum=MUON_MOMENTUM,
        adjust_lr_fn="match_rms_adamw",
    )  # fmt: skip
    return MuonAndAdamW(muon, adamw([p for p in trainable.values() if id(p) not in inside], config))


def adamw(parameters: list[nn.Parameter], config: TrainConfig) -> torch.optim.AdamW:
    rate, decay = config.learning_rate, config.weight_decay
    return torch.optim.AdamW(parameters, lr=rate, betas=config.betas, weight_decay=decay, fused=True)
