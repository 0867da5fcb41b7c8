"""softmax(q k^T / sqrt(d)) v, by whichever of two equal ways is faster where it runs."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled dot-product attention over [B, heads, tokens, head_dim].

    SDPA everywhere but in half-precision training on a CPU, where the backward of the fused kernel takes a third of
    the step and the written-out product is about 1.5x faster (benchmarks/attention.py).
    """
    if query.device.type == "cpu" and query.dtype in (torch.bfloat16, torch.float16) and query.requires_grad:
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
        return scores.softmax(dim=-1) @ value
    return F.scaled_dot_product_attention(query, key, value)


class SelfAttention(nn.Module):
    """Multi-head self-attention over T, [..., T, D] -> [..., T, D], one fused projection laid out [q | k | v]."""

    def __init__(self, hidden_size: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        query, key, value = rearrange(self.qkv(hidden_states), "... t (n h d) -> n (...) h t d", n=3, h=self.num_heads)
        attended = rearrange(attention(query, key, value), "b h t d -> b t (h d)")
        return self.proj(attended.reshape(hidden_states.shape))
