"""What a schedule costs on a model before it runs: FLOPs of a full and of a cached step, on the meta device.

    cost = (full F + cached f - (S - 1) c) / (S F),   predicted speed-up = 1 / cost

c is what a cached run works out once, as the projection of text, and an uncached one at every step.
"""

from typing import Any, NamedTuple

import torch

from skipdit.caching import Plan, SkipCacheConfig
from skipdit.evaluation.cost import count_flops
from skipdit.models.base import LongSkipModel


class Price(NamedTuple):
    """FLOPs of one step, in full and cached, of what of it is worked out once, and the layers that a cached step runs.

    `cached_layers` is a fraction. Without a cache nothing is kept: `constant_flops` is 0.
    """

    full_flops: int
    cached_flops: int
    constant_flops: int
    cached_layers: float

    def layers(self, plan: Plan) -> float:
        """Layers run over a whole plan, as a fraction of an uncached run's."""
        return plan.cost(self.cached_layers)

    def flops(self, plan: Plan) -> int:
        kept = (len(plan) - 1) * self.constant_flops
        return plan.full * self.full_flops + plan.cached * self.cached_flops - kept

    def speedup(self, plan: Plan) -> float:
        """How many times faster the plan is, if FLOPs were time."""
        return len(plan) * self.full_flops / self.flops(plan)


def price(
    model: LongSkipModel, cache: SkipCacheConfig | None, *, batch: int = 1, text_tokens: int | None = None
) -> Price:
    """The price of steps of a model over `batch` inputs of its own size; only its settings count, it may be on meta.

    Text has `text_tokens`, or the published number where none is given; models of classes have no use for it.
    """
    with torch.device("meta"):
        twin = type(model)(**settings(model)).eval()
    inputs = twin.example_inputs(batch)
    if "encoder_hidden_states" in inputs and text_tokens is not None:
        inputs["encoder_hidden_states"] = inputs["encoder_hidden_states"][:, :text_tokens]
    with torch.no_grad():
        branch = 0 if cache is None else cache.branch
        opened = branch if cache and cache.reads_shallow else min(branch, twin.num_skips)
        shallow = twin.head(opened, **inputs)
        full = count_flops(lambda: twin(**inputs))
        cached = count_flops(lambda: twin.head(opened, **inputs)) + count_flops(
            lambda: twin.tail(branch, shallow.stream, shallow.skips, shallow.context)
        )
        given = {name: inputs[name] for name in twin.constant_inputs if name in inputs}
        constant = count_flops(lambda: twin.constants(inputs["hidden_states"], **given))
    return Price(full, cached, 0 if cache is None else constant, (opened + branch) / twin.depth)


def settings(model: LongSkipModel) -> dict[str, Any]:
    """The arguments that a model was made with."""
    return {name: value for name, value in model.config.items() if not name.startswith("_")}
