"""Two ways to one attention."""

import pytest
import torch
from torch import Tensor

from skipdit.nn.attention import SelfAttention, attention


def by_definition(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v in float64."""
    query, key, value = query.double(), key.double(), value.double()
    return (query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5).softmax(-1) @ value


@pytest.mark.parametrize("trained", [True, False], ids=["written out", "SDPA"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2), (torch.float16, 2e-3)])
def test_attention_equals_its_definition(trained, dtype, tolerance):
    query, key, value = torch.randn(3, 2, 4, 10, 8).to(dtype).unbind()
    ours = attention(query.requires_grad_(trained), key, value)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.double(), by_definition(query, key, value), rtol=tolerance, atol=tolerance)


def test_both_ways_have_the_same_gradient():
    inputs = torch.randn(3, 2, 4, 10, 8)
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        leaf = inputs.to(dtype, copy=True).requires_grad_()
        attention(*leaf.unbind()).square().sum().backward()
        gradients.append(leaf.grad.float())
    torch.testing.assert_close(*gradients, rtol=5e-2, atol=5e-2)


def test_the_projection_is_laid_out_query_key_value_then_heads():
    module, hidden_states = SelfAttention(12, num_heads=3).double(), torch.randn(2, 5, 12).double()
    weights, biases = module.qkv.weight.chunk(3), module.qkv.bias.chunk(3)
    query, key, value = (hidden_states @ w.T + b for w, b in zip(weights, biases, strict=True))
    heads = [by_definition(query[..., s], key[..., s], value[..., s]) for s in (slice(0, 4), slice(4, 8), slice(8, 12))]
    torch.testing.assert_close(module(hidden_states), module.proj(torch.cat(heads, dim=-1)))
