"""The average of the weights: its closed form, and what it averages."""

from math import prod

import pytest
import torch
from torch import nn

from skipdit.training.ema import EMA


def constant(value: float) -> nn.Module:
    """A layer all of whose weights are `value`, with one that does not train beside them."""
    layer = nn.Linear(2, 2)
    layer.register_parameter("frozen", nn.Parameter(torch.zeros(3), requires_grad=False))
    for parameter in layer.parameters():
        nn.init.constant_(parameter, value)
    return layer


def keep(step: int, decay: float) -> float:
    return min(decay, (1 + step) / (10 + step))


@pytest.mark.parametrize("decay", [0.0, 0.05, 0.5, 0.999])
def test_each_value_weighs_what_the_later_ones_leave_of_it(decay):
    values, model = [3.0, -1.0, 4.0, 1.0, -5.0], constant(2.0)
    ema = EMA(model, decay=decay)
    for step, value in enumerate(values):
        nn.init.constant_(model.weight, value)
        ema.update(model, step=step)
    kept = [keep(step, decay) for step in range(len(values))]
    expected = 2.0 * prod(kept) + sum(
        value * (1 - kept[step]) * prod(kept[step + 1 :]) for step, value in enumerate(values)
    )
    torch.testing.assert_close(ema.weights["weight"], torch.full((2, 2), expected))
    torch.testing.assert_close(ema.weights["bias"], torch.full((2,), 2.0))


def test_only_what_trains_is_averaged():
    assert EMA(constant(1.0), decay=0.9).weights.keys() == {"weight", "bias"}


def test_the_average_is_no_view_of_the_weights():
    model = constant(1.0)
    ema = EMA(model, decay=0.9)
    nn.init.constant_(model.weight, 7.0)
    assert torch.equal(ema.weights["weight"], torch.ones(2, 2))
    ema.copy_to(model)
    nn.init.constant_(model.weight, 7.0)
    assert torch.equal(ema.weights["weight"], torch.ones(2, 2))


def test_the_average_is_float32_whatever_the_weights_are():
    model = constant(1.0).bfloat16()
    ema = EMA(model, decay=0.999)
    ema.update(model, step=0)
    assert {weight.dtype for weight in ema.weights.values()} == {torch.float32}
