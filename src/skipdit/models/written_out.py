"""softmax(q k^T / sqrt(d)) v written out in the blocks of diffusers, for half-precision training on a CPU.

SDPA gives the same and is faster everywhere else (docs/decisions/0006).
"""

from collections.abc import Sequence

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor, HunyuanAttnProcessor2_0
from diffusers.models.embeddings import apply_rotary_emb
from einops import rearrange
from torch import Tensor, nn


def write_out_attention(model: nn.Module, *, own_text: Sequence[range] = ()) -> None:
    """Have diffusers' attention written out instead of fused.

    Args:
        own_text: for a HunyuanDiT, the positions of the text that may hold a token; at all others every text of a batch
            is padding, for which keys and values are then made once and not for each. None: at every position. Masks
            are not seen here: whoever makes them answers for it, as `skipdit.data.emoji.EncodedCaptions` does.
    """
    for module in model.modules():
        if isinstance(module, Attention):
            rotated = isinstance(module.processor, HunyuanAttnProcessor2_0 | WrittenOutRotaryAttention)
            module.set_processor(WrittenOutRotaryAttention(own_text) if rotated else AttnProcessor())


class WrittenOutRotaryAttention:
    """What HunyuanAttnProcessor2_0 computes in the blocks of a HunyuanDiT; `own_text` as in `write_out_attention`."""

    def __init__(self, own_text: Sequence[range] = ()):
        self.own_text = tuple(own_text)

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: None = None,
        temb: None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        query = apply_rotary_emb(attn.norm_q(by_head(attn.to_q(hidden_states), attn)), image_rotary_emb)
        if encoder_hidden_states is None:
            key = apply_rotary_emb(attn.norm_k(by_head(attn.to_k(hidden_states), attn)), image_rotary_emb)
            pairs = [(key, by_head(attn.to_v(hidden_states), attn))]
        else:
            parts = apart(encoder_hidden_states, self.own_text)
            pairs = [(attn.norm_k(by_head(attn.to_k(text), attn)), by_head(attn.to_v(text), attn)) for text in parts]
        attended = rearrange(attend(query, pairs), "b h t d -> b t (h d)")
        return attn.to_out[1](attn.to_out[0](attended))


def by_head(states: Tensor, attn: Attention) -> Tensor:
    return rearrange(states, "b t (h d) -> b h t d", h=attn.heads)


def apart(text: Tensor, own: Sequence[range]) -> list[Tensor]:
    """Text [B, S, C] at the positions of `own` for each sample, and at the others [1, S', C] for all of them."""
    if not own:
        return [text]
    ends = [0, *(end for positions in own for end in (positions.start, positions.stop)), text.shape[1]]
    others = [text[:1, first:last] for first, last in zip(ends[::2], ends[1::2], strict=True)]
    return [torch.cat([text[:, part.start : part.stop] for part in own], dim=1), torch.cat(others, dim=1)]


def attend(query: Tensor, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Attention of queries [B, H, T, d] to the keys and values [B or 1, H, S, d] of all pairs together."""
    query = query * query.shape[-1] ** -0.5
    scores = torch.cat([product(query, key.transpose(-2, -1)) for key, _ in pairs], dim=-1)
    weights = scores.softmax(dim=-1).split([key.shape[-2] for key, _ in pairs], dim=-1)
    first, *others = (product(weight, value) for weight, (_, value) in zip(weights, pairs, strict=True))
    return sum(others, first)


def product(left: Tensor, right: Tensor) -> Tensor:
    """[B, H, T, a] by [B or 1, H, a, b]; what is one for the whole batch is not copied for it."""
    if len(left) == len(right):
        return left @ right
    folded = rearrange(left, "b h t a -> h (b t) a") @ right[0]
    return rearrange(folded, "h (b t) c -> b h t c", b=len(left))
