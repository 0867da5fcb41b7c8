"""What a cached step saves is the trunk, to the last multiplication."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from skipdit import SkipCacheConfig
from skipdit.models.base import LongSkipModel
from tests.models.subject import Inputs, Subject, assert_equal, recorded, sample


@torch.no_grad()
def flops(call: Callable[[], object]) -> int:
    """FLOPs of matrix products and convolutions; the counter knows attention on a CPU only where it is written out."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


HEADS = [  # layers of the head that a cached step runs, of 6
    (0, 1, "hold", 0), (0, 2, "hold", 0), (0, 2, "residual", 2), (1, 2, "hold", 1), (3, 2, "hold", 2),
]  # fmt: skip


class Cost(Subject):
    @pytest.mark.parametrize("branch", [0, 1, 2])
    @torch.no_grad()
    def test_a_cached_step_costs_a_full_one_less_the_trunk(self, branch, model):
        inputs = self.inputs(900)
        shallow = model.head(branch, **inputs)
        full = flops(lambda: model(**inputs))
        trunk = flops(lambda: model.trunk(branch, shallow.stream, shallow.context))
        constant = flops(lambda: model.constants(inputs["hidden_states"], **self.constant(model, inputs)))
        model.enable_cache(SkipCacheConfig(interval=2, branch=branch))
        assert flops(lambda: sample(model, inputs)) == full
        assert flops(lambda: sample(model, self.inputs(800))) == full - trunk - constant

    @pytest.mark.parametrize("branch", [0, 1, 2])
    @torch.no_grad()
    def test_a_cached_step_costs_its_outer_layers_and_both_ends(self, branch, model):
        inputs = self.inputs(900)
        stream, context = model.embed(**inputs)
        ends = flops(lambda: model.embed(**inputs)) + flops(lambda: model.unembed(stream, context))
        ends -= flops(lambda: model.constants(inputs["hidden_states"], **self.constant(model, inputs)))
        opening = sum(flops(lambda index=index: model.layer(index, stream, context)) for index in range(branch))
        closing = sum(
            flops(lambda index=index: model.close(index, stream, stream, context)) for index in range(6 - branch, 6)
        )
        model.enable_cache(SkipCacheConfig(interval=2, branch=branch))
        sample(model, inputs)
        assert flops(lambda: sample(model, self.inputs(800))) == ends + opening + closing

    @pytest.mark.parametrize(("num_skips", "branch", "forecast", "head"), HEADS)
    def test_of_the_head_a_cached_step_runs_what_somebody_reads(self, num_skips, branch, forecast, head):
        """Layers that open no skip only make the shallow stream, which `residual` reads and `hold` does not."""
        config = SkipCacheConfig(interval=2, branch=branch, forecast=forecast)
        model, unread = (self.cached(config, num_skips=num_skips) for _ in range(2))
        self.run(model, (900,)), self.run(unread, (900,))
        for layer in self.layers(unread)[head : 6 - branch]:
            layer.register_forward_hook(poison)
        with recorded(self.layers(model)) as ran:
            expected = self.run(model, (800,))
        assert ran == [*range(head), *range(6 - branch, 6)]
        assert_equal(self.run(unread, (800,)), expected)

    def constant(self, model: LongSkipModel, inputs: Inputs) -> Inputs:
        return {name: inputs.get(name) for name in model.constant_inputs}


def poison(*_) -> Tensor:
    raise AssertionError("a layer that nobody reads has run")
