"""Inputs are seen as if standardised, and channels that hardly vary stay finite in float16."""

import copy

import torch
from torch import nn

from skipdit.nn.blocks import STILL, standardise_inputs, statistics


def states_with_a_dead_channel() -> torch.Tensor:
    states = 3 * torch.randn(200, 8, generator=torch.Generator().manual_seed(0)) + 5
    states[:, 2] = 0.3
    return states


def test_a_linear_with_statistics_folded_in_is_the_linear_of_standardised_inputs():
    states = states_with_a_dead_channel().double()
    folded, mean, std = nn.Linear(8, 4).double(), *statistics(states)
    plain = copy.deepcopy(folded)
    standardise_inputs(folded, mean, std)
    torch.testing.assert_close(folded(states), plain((states - mean) / std))


def test_a_dead_channel_is_finite_in_float16():
    states = states_with_a_dead_channel()
    linear, (mean, std) = nn.Linear(8, 4), statistics(states)
    standardise_inputs(linear, mean, std)
    assert std[2] == STILL * states.std(dim=0).median()
    assert all(parameter.half().isfinite().all() for parameter in linear.parameters())
