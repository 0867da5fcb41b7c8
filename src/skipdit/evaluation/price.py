"""What a schedule costs on a model before it runs: FLOPs of a full and of a cached step, on the meta device.

    cost = (full F + cached f) / (S F),   predicted speed-up = 1 / cost
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from skipdit.caching import Plan
from skipdit.evaluation.cost import count_flops, predicted_speedup
from skipdit.models import DiT


class Price(NamedTuple):
    """FLOPs of one step, computed in full and cached, and the fraction of layers that a cached step runs."""

    full_flops: int
    cached_flops: int
    cached_layers: float

    def layers(self, plan: Plan) -> float:
        """Layers run over a whole plan, as a fraction of an uncached run's."""
        return plan.cost(self.cached_layers)

    def flops(self, plan: Plan) -> int:
        return plan.full * self.full_flops + plan.cached * self.cached_flops

    def speedup(self, plan: Plan) -> float:
        """How many times faster the plan is, if FLOPs were time."""
        return predicted_speedup(
            full_steps=plan.full, cached_steps=plan.cached, full_flops=self.full_flops, cached_flops=self.cached_flops
        )


def price(config: Mapping[str, Any], *, branch: int, batch: int = 1) -> Price:
    """The price of steps of a `DiT` of these settings, over `batch` inputs of its own size; needs no weights."""
    with torch.device("meta"):
        model = DiT(**config).eval()
        height, width = (side * model.config.patch_size for side in model.grid)
        inputs = {
            "hidden_states": torch.empty(batch, model.config.in_channels, height, width),
            "timestep": torch.empty(batch),
            "class_labels": torch.zeros(batch, dtype=torch.long),
        }
    with torch.no_grad():
        shallow = model.head(branch, **inputs)
        full = count_flops(lambda: model(**inputs))
        cached = count_flops(lambda: model.head(branch, **inputs)) + count_flops(
            lambda: model.tail(branch, shallow.stream, shallow.skips, shallow.context)
        )
    return Price(full, cached, 2 * branch / model.depth)


def settings(model: DiT) -> dict[str, Any]:
    """The arguments that a model was made with."""
    return {name: value for name, value in model.config.items() if not name.startswith("_")}
