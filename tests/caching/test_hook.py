"""What the hook says that it remembered: every tensor that its memories hold and that is not the caller's."""

import pytest
import torch
from torch import Tensor

from skipdit import SkipCacheConfig
from tests.models.subject import DiTSubject, HunyuanDiTSubject, LatteSubject, LatteT2VSubject, memories

FORECASTS = {"hold": {}, "residual": {"forecast": "residual"}, "taylor": {"forecast": "taylor", "order": 2}}


def kept(value: object) -> list[Tensor]:
    """The tensors in whatever a memory holds, wherever they lie."""
    if isinstance(value, dict | list | tuple):
        return [tensor for inner in (value.values() if isinstance(value, dict) else value) for tensor in kept(inner)]
    return [value] if isinstance(value, Tensor) else []


@pytest.mark.parametrize("forecast", FORECASTS)
@pytest.mark.parametrize("subject", [DiTSubject(), LatteSubject(), LatteT2VSubject(), HunyuanDiTSubject()])
def test_all_that_a_memory_holds_is_counted_but_the_inputs(subject, forecast):
    model = subject.cached(SkipCacheConfig(interval=2, **FORECASTS[forecast]))
    given = [subject.inputs(timestep) for timestep in (900, 800, 700, 600, 500)]
    constant = {name: value for name, value in given[0].items() if name in model.constant_inputs}
    with torch.no_grad():
        for inputs in given:
            model(**inputs | constant)
    (memory,) = memories(model)
    mine = {id(tensor) for tensor in constant.values()}
    held = {id(tensor): tensor.untyped_storage().nbytes() for tensor in kept(vars(memory))}
    assert mine.isdisjoint(held), "the inputs are the caller's: a run knows them by weak references"
    assert model.cache_stats()["default"].bytes_remembered == sum(held.values()) > 0
