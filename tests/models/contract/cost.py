"""What a cached step saves is the trunk, to the last multiplication."""

from collections.abc import Callable

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from skipdit import SkipCacheConfig
from tests.models.subject import Subject, sample


@torch.no_grad()
def flops(call: Callable[[], object]) -> int:
    """FLOPs of matrix products and convolutions; the counter knows attention on a CPU only where it is written out."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


class Cost(Subject):
    @pytest.mark.parametrize("branch", [0, 1, 2])
    @torch.no_grad()
    def test_a_cached_step_costs_a_full_one_less_the_trunk(self, branch, model):
        inputs = self.inputs(900)
        shallow = model.head(branch, **inputs)
        full = flops(lambda: model(**inputs))
        trunk = flops(lambda: model.trunk(branch, shallow.stream, shallow.context))
        model.enable_cache(SkipCacheConfig(interval=2, branch=branch))
        assert flops(lambda: sample(model, inputs)) == full
        assert flops(lambda: sample(model, self.inputs(800))) == full - trunk

    @pytest.mark.parametrize("branch", [0, 1, 2])
    @torch.no_grad()
    def test_a_cached_step_costs_its_outer_layers_and_both_ends(self, branch, model):
        stream, context = model.embed(**self.inputs(900))
        ends = flops(lambda: model.embed(**self.inputs(900))) + flops(lambda: model.unembed(stream, context))
        opening = sum(flops(lambda index=index: model.layer(index, stream, context)) for index in range(branch))
        closing = sum(
            flops(lambda index=index: model.close(index, stream, stream, context)) for index in range(6 - branch, 6)
        )
        model.enable_cache(SkipCacheConfig(interval=2, branch=branch))
        sample(model, self.inputs(900))
        assert flops(lambda: sample(model, self.inputs(800))) == ends + opening + closing
