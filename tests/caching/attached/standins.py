"""The published models with long skips that live outside of diffusers, in our own words.

    x = embed(x);   for each layer:  [x = fuse(x, skip)],  x = layer(x);   unembed(x)

Each has the name and the parameters of the published class, and computes what that computes, without its options. They
were written from a description of the models, without a look at their code.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import partial
from math import log
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from einops.layers.torch import Rearrange
from torch import Tensor, nn

SCALED_TANH = partial(nn.GELU, approximate="tanh")


def named(**modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(modules))


def sinusoid(t: Tensor, width: int, *, sine_first: bool = False, last: int = 0) -> Tensor:
    frequencies = torch.exp(-log(10000) * torch.arange(width // 2) / (width // 2 - last))
    angles = t[:, None].float() * frequencies
    waves = (angles.sin(), angles.cos()) if sine_first else (angles.cos(), angles.sin())
    return torch.cat(waves, -1)  # [B, width]


def two_linear(width: int, inner: int, act: Callable[[], nn.Module], *, entry: int = 0) -> nn.Sequential:
    return nn.Sequential(nn.Linear(entry or width, inner), act(), nn.Linear(inner, width))


def feed_forward(width: int, act: Callable[[], nn.Module] = nn.GELU) -> nn.Sequential:
    return named(fc1=nn.Linear(width, 4 * width), act=act(), fc2=nn.Linear(4 * width, width))


def feed_forward_of_diffusers(width: int, act: Callable[[], nn.Module] = nn.GELU, gates: int = 1) -> nn.Sequential:
    enter = named(proj=nn.Linear(width, 4 * gates * width), act=act())
    return named(net=nn.Sequential(enter, nn.Identity(), nn.Linear(4 * width, width)))


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale) + shift


def run_nested(x: Tensor, layers: Iterable[nn.Module], *conditions: Any) -> Tensor:
    """The first half opens a skip each, the last half closes them; a layer between does neither."""
    layers, skips = list(layers), []
    half = len(layers) // 2
    for index, layer in enumerate(layers):
        x = layer(x, skips.pop() if index >= len(layers) - half else None, *conditions)
        if index < half:
            skips.append(x)
    return x


def rotate(x: Tensor, inv_freq: Tensor, *, adjacent: bool) -> Tensor:
    """Rotary embedding of positions 0, 1, ...; a pair is adjacent channels, or i and i + hd/2."""
    angles = torch.arange(x.shape[-2])[:, None].float() * inv_freq
    cos, sin, axis = angles.cos(), angles.sin(), -1 if adjacent else -2
    a, b = x.unflatten(-1, (-1, 2) if adjacent else (2, -1)).unbind(axis)
    return torch.stack([a * cos - b * sin, b * cos + a * sin], axis).flatten(-2)


class Attention(nn.Module):
    """softmax(q k^T hd^-1/2 + mask) v, [B, T, D].

    `twisted`: [q | k | v] stand side by side and are cut into heads first, so that a head's q, k and v are neighbours
    there, whatever the projections are called; in cross-attention [k | v].
    """

    def __init__(
        self, width: int, heads: int, *, context: int = 0, fused: bool = False, bias: bool = False,
        norm: Callable[[int], nn.Module] = nn.Identity, norms: tuple[str, str] = ("norm_q", "norm_k"),
        out: str = "proj", twisted: bool = False,
    ):  # fmt: skip
        super().__init__()
        self.heads, self.twisted, self.names = heads, twisted, (*norms, out)
        if fused:
            self.qkv = nn.Linear(width, 3 * width, bias)
        else:
            self.to_q = nn.Linear(width, width, bias)
            self.to_k, self.to_v = (nn.Linear(context or width, width, bias) for _ in range(2))
        for name in norms:
            self.add_module(name, norm(width // heads))
        made = nn.Linear(width, width)
        self.add_module(out, nn.Sequential(made) if out == "to_out" else made)

    def forward(
        self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None,
        turn: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> Tensor:  # fmt: skip
        norm_q, norm_k, out = (self.get_submodule(name) for name in self.names)
        q, k, v = self.project(x, x if context is None else context, is_cross=context is not None)
        q, k = turn(norm_q(q)), turn(norm_k(k))
        return out(rearrange(F.scaled_dot_product_attention(q, k, v, mask), "b h t d -> b t (h d)"))

    def project(self, x: Tensor, context: Tensor, *, is_cross: bool) -> tuple[Tensor, ...]:
        split = partial(rearrange, pattern="b t (h d) -> b h t d", h=self.heads)
        if hasattr(self, "qkv"):
            return tuple(map(split, self.qkv(x).chunk(3, -1)))
        q, k, v = self.to_q(x), self.to_k(context), self.to_v(context)
        if self.twisted and is_cross:
            return split(q), *split(torch.cat([k, v], -1)).chunk(2, -1)
        return split(torch.cat([q, k, v], -1)).chunk(3, -1) if self.twisted else tuple(map(split, (q, k, v)))


# U-ViT (arXiv 2209.12152): plain pre-norm layers; the time is a token.


class UViTBlock(nn.Module):
    def __init__(self, width: int, heads: int, bias: bool, closes: bool = False):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn, self.mlp = Attention(width, heads, fused=True, bias=bias), feed_forward(width)
        self.skip_linear = nn.Linear(2 * width, width) if closes else None

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        if skip is not None:
            x = self.skip_linear(torch.cat([x, skip], -1))
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class UViT(nn.Module):
    """Of classes, of text (`clip_dim`), or of neither."""

    def __init__(
        self, *, img_size: int, patch_size: int, in_chans: int, embed_dim: int, depth: int, num_heads: int,
        qkv_bias: bool, mlp_time_embed: bool, num_classes: int = -1, conv: bool = True, clip_dim: int = 0,
        num_clip_token: int = 0, mlp_ratio: int = 4,
    ):  # fmt: skip
        super().__init__()
        d, p, patches = embed_dim, patch_size, (img_size // patch_size) ** 2
        self.width, self.has_labels, self.patches = d, num_classes > 0, patches
        self.patch_embed = named(proj=nn.Conv2d(in_chans, d, p, p), tokens=Rearrange("b d h w -> b (h w) d"))
        self.time_embed = two_linear(d, 4 * d, nn.SiLU) if mlp_time_embed else nn.Identity()
        if clip_dim:
            self.context_embed = nn.Linear(clip_dim, d)
        if self.has_labels:
            self.label_emb = nn.Embedding(num_classes, d)
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + num_clip_token + self.has_labels + patches, d))
        self.in_blocks = nn.ModuleList(UViTBlock(d, num_heads, qkv_bias) for _ in range(depth // 2))
        self.mid_block = UViTBlock(d, num_heads, qkv_bias)
        self.out_blocks = nn.ModuleList(UViTBlock(d, num_heads, qkv_bias, closes=True) for _ in range(depth // 2))
        self.norm, self.decoder_pred = nn.LayerNorm(d), nn.Linear(d, p * p * in_chans)
        self.unpatchify = Rearrange("b (h w) (p q c) -> b c (h p) (w q)", p=p, q=p, h=img_size // p)
        self.final_layer = nn.Conv2d(in_chans, in_chans, 3, padding=1) if conv else nn.Identity()

    def forward(self, x: Tensor, timesteps: Tensor, y: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        tokens = [self.time_embed(sinusoid(timesteps, self.width))[:, None], self.patch_embed(x)]
        if context is not None:
            tokens.insert(1, self.context_embed(context))
        if self.has_labels:
            tokens.insert(0, self.label_emb(y)[:, None])
        x = torch.cat(tokens, 1) + self.pos_embed
        x = run_nested(x, [*self.in_blocks, self.mid_block, *self.out_blocks])
        return self.final_layer(self.unpatchify(self.decoder_pred(self.norm(x))[:, -self.patches :]))


# Hunyuan3D-2.1 and TripoSG: the same layers on a set of latents, with other names and eps; the time is a token.


class SetBlock(nn.Module):
    def __init__(self, width: int, eps: float, closes: bool, attention: Callable[..., Attention], context: int):
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width, eps) for _ in range(3))
        self.attn1, self.attn2 = attention(), attention(context=context)
        if closes:
            self.skip_linear, self.skip_norm = nn.Linear(2 * width, width), nn.LayerNorm(width, eps)

    def forward(self, x: Tensor, skip: Tensor | None, context: Tensor) -> Tensor:
        if skip is not None:
            x = self.skip_norm(self.skip_linear(torch.cat([skip, x], -1)))
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)
        return x + self.feed(self.norm3(x))

    def feed(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class TripoBlock(SetBlock):
    def __init__(self, width: int, heads: int, context: int, closes: bool):
        norm = partial(nn.RMSNorm, eps=1e-6)
        attention = partial(Attention, width, heads, norm=norm, out="to_out", twisted=True)
        super().__init__(width, 1e-5, closes, attention, context)
        self.ff = feed_forward_of_diffusers(width)

    def feed(self, x: Tensor) -> Tensor:
        return self.ff(x)


class TripoSGDiTModel(nn.Module):
    def __init__(
        self, *, num_attention_heads: int, width: int, in_channels: int, num_layers: int, cross_attention_dim: int
    ):
        super().__init__()
        half, d = num_layers // 2, width
        self.proj_in, self.width = nn.Linear(in_channels, d), d
        self.time_proj = named(linear_1=nn.Linear(d, 4 * d), act=nn.GELU(), linear_2=nn.Linear(4 * d, d))
        self.blocks = nn.ModuleList(
            TripoBlock(d, num_attention_heads, cross_attention_dim, i >= num_layers - half) for i in range(num_layers)
        )
        self.norm_out, self.proj_out = nn.LayerNorm(d), nn.Linear(d, in_channels)

    def forward(
        self, hidden_states: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, return_dict: bool = False
    ) -> tuple[Tensor]:
        time = self.time_proj(sinusoid(timestep, self.width, sine_first=True))[:, None]
        x = torch.cat([time, self.proj_in(hidden_states)], 1)
        x = self.norm_out(run_nested(x, self.blocks, encoder_hidden_states))
        return (self.proj_out(x[:, 1:]),)


class Experts(nn.Module):
    """The weighted sum of the `top` likeliest feed-forwards of each token, and one for all."""

    def __init__(self, width: int, experts: int, top: int):
        super().__init__()
        self.top = top
        self.experts = nn.ModuleList(feed_forward_of_diffusers(width) for _ in range(experts))
        self.shared_experts = feed_forward_of_diffusers(width)
        self.gate = nn.Linear(width, experts, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        weights, chosen = self.gate(x).softmax(-1).topk(self.top)
        shares = ((weights * (chosen == index)).sum(-1, keepdim=True) for index in range(len(self.experts)))
        return sum(share * expert(x) for share, expert in zip(shares, self.experts)) + self.shared_experts(x)


class HunyuanBlock(SetBlock):
    def __init__(self, width: int, heads: int, context: int, closes: bool, experts: tuple[int, int] | None):
        norm, norms = partial(nn.RMSNorm, eps=1e-6), ("q_norm", "k_norm")
        attention = partial(Attention, width, heads, norm=norm, norms=norms, out="out_proj", twisted=True)
        super().__init__(width, 1e-6, closes, attention, context)
        self.feed_name = "moe" if experts else "mlp"
        self.add_module(self.feed_name, Experts(width, *experts) if experts else feed_forward(width))

    def feed(self, x: Tensor) -> Tensor:
        return self.get_submodule(self.feed_name)(x)


class HunYuanDiTPlain(nn.Module):
    def __init__(
        self, *, in_channels: int, hidden_size: int, context_dim: int, depth: int, num_heads: int,
        num_moe_layers: int, num_experts: int, moe_top_k: int, **unused: Any,
    ):  # fmt: skip
        super().__init__()
        d, half, experts = hidden_size, depth // 2, (num_experts, moe_top_k)
        self.width, self.x_embedder = d, nn.Linear(in_channels, d)
        self.t_embedder = named(mlp=two_linear(d, 4 * d, nn.GELU))
        self.blocks = nn.ModuleList(
            HunyuanBlock(d, num_heads, context_dim, i >= depth - half, experts if i >= depth - num_moe_layers else None)
            for i in range(depth)
        )
        self.final_layer = named(norm_final=nn.LayerNorm(d, 1e-6), linear=nn.Linear(d, in_channels))

    def forward(self, x: Tensor, t: Tensor, contexts: dict[str, Tensor], **unused: Any) -> Tensor:
        time = self.t_embedder(sinusoid(t, self.width, sine_first=True))[:, None]
        x = torch.cat([time, self.x_embedder(x)], 1)
        return self.final_layer(run_nested(x, self.blocks, contexts["main"]))[:, 1:]


# EzAudio (arXiv 2409.10819): one modulation for all layers, with a low-rank correction in each.


class Rotary(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("inv_freq", 10000 ** (-torch.arange(0, width, 2) / width))


class GatedGelu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        value, gate = x.chunk(2, -1)
        return value * F.gelu(gate)


class LowRankModulation(nn.Module):
    def __init__(self, width: int, rank: int, alpha: int):
        super().__init__()
        self.lora_a = nn.Linear(width, 6 * rank, bias=False)
        self.lora_b = nn.Linear(6 * rank, 6 * width, bias=False)
        self.scale_shift_table, self.scale = nn.Parameter(torch.zeros(6, width)), alpha / rank

    def forward(self, token: Tensor, shared: Tensor) -> tuple[Tensor, ...]:
        own = shared + self.scale * self.lora_b(self.lora_a(token))
        return (self.scale_shift_table + own.unflatten(-1, (6, -1)))[:, :, None].unbind(1)  # each [B, 1, D]


class UDiTBlock(nn.Module):
    def __init__(self, width: int, heads: int, rank: int, alpha: int, closes: bool = False):
        super().__init__()
        self.norm1, self.norm2, self.norm3, self.norm_context = (nn.LayerNorm(width) for _ in range(4))
        self.attn, self.cross_attn = (Attention(width, heads, norm=nn.LayerNorm) for _ in range(2))
        self.attn.rotary = Rotary(width // heads)
        self.mlp = feed_forward_of_diffusers(width, GatedGelu, gates=2)
        self.adaln = LowRankModulation(width, rank, alpha)
        if closes:
            self.skip_norm, self.skip_linear = nn.LayerNorm(2 * width), nn.Linear(2 * width, width)

    def forward(
        self, x: Tensor, skip: Tensor | None, token: Tensor, shared: Tensor, context: Tensor, mask: Tensor
    ) -> Tensor:
        if skip is not None:
            x = self.skip_linear(self.skip_norm(torch.cat([x, skip], -1)))
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = self.adaln(token, shared)
        turn = partial(rotate, inv_freq=self.attn.rotary.inv_freq, adjacent=False)
        x = x + (1 - gate) * self.attn(modulate(self.norm1(x), shift, scale), turn=turn)
        x = x + self.cross_attn(self.norm2(x), self.norm_context(context), mask)
        return x + (1 - gate_mlp) * self.mlp(modulate(self.norm3(x), shift_mlp, scale_mlp))


class UDiT(nn.Module):
    def __init__(
        self, *, in_chans: int, out_chans: int, embed_dim: int, depth: int, num_heads: int, ada_sola_rank: int,
        ada_sola_alpha: int, context_dim: int, **unused: Any,
    ):  # fmt: skip
        super().__init__()
        d, settings = embed_dim, (embed_dim, num_heads, ada_sola_rank, ada_sola_alpha)
        self.patch_embed = named(proj=nn.Conv1d(in_chans, d, 1), tokens=Rearrange("b d t -> b t d"))
        self.time_embed = named(mlp=two_linear(d, d, nn.SiLU, entry=256))
        self.time_ada, self.time_ada_final = nn.Linear(d, 6 * d), nn.Linear(d, 2 * d)
        self.context_embed = two_linear(d, d, nn.SiLU, entry=context_dim)
        self.in_blocks = nn.ModuleList(UDiTBlock(*settings) for _ in range(depth // 2))
        self.mid_block = UDiTBlock(*settings)
        self.out_blocks = nn.ModuleList(UDiTBlock(*settings, closes=True) for _ in range(depth // 2))
        self.final_block = nn.ModuleDict(
            {"norm": nn.LayerNorm(d), "linear": nn.Linear(d, out_chans)}
            | {"final_layer": nn.Conv1d(out_chans, out_chans, 3, padding=1)}
        )

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor, context_mask: Tensor | None = None) -> Tensor:
        time = F.silu(self.time_embed(sinusoid(timesteps.expand(len(x)), 256)))
        mask = None if context_mask is None else context_mask[:, None, None]
        layers = [*self.in_blocks, self.mid_block, *self.out_blocks]
        x = run_nested(self.patch_embed(x), layers, time, self.time_ada(time), self.context_embed(context), mask)
        shift, scale = self.time_ada_final(time)[:, None].chunk(2, -1)
        norm, linear, conv = self.final_block.values()
        return conv(linear(modulate(norm(x), shift, scale)).transpose(1, 2))


# MDTv2 (arXiv 2303.14389): DiT's layers, nested, and behind them a decoder that sees the embedding again.


class PositionBias(nn.Module):
    def __init__(self, side: int, heads: int):
        super().__init__()
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * side - 1) ** 2 + 3, heads))
        self.register_buffer("relative_position_index", torch.zeros(side**2, side**2, dtype=torch.long))

    def forward(self) -> Tensor:
        return self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)  # [heads, T, T]


class MDTBlock(nn.Module):
    def __init__(self, width: int, heads: int, side: int, closes: bool = False):
        super().__init__()
        self.attn, self.mlp = Attention(width, heads, fused=True, bias=True), feed_forward(width, SCALED_TANH)
        self.attn.rel_pos_bias = PositionBias(side, heads)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.skip_linear = nn.Linear(2 * width, width) if closes else None

    def forward(self, x: Tensor, skip: Tensor | None, c: Tensor) -> Tensor:
        if skip is not None:
            x = self.skip_linear(torch.cat([x, skip], -1))
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = self.adaLN_modulation(c)[:, None].chunk(6, -1)
        bias = self.attn.rel_pos_bias()
        x = x + gate * self.attn(modulate(F.layer_norm(x, x.shape[-1:], eps=1e-6), shift, scale), mask=bias)
        return x + gate_mlp * self.mlp(modulate(F.layer_norm(x, x.shape[-1:], eps=1e-6), shift_mlp, scale_mlp))


class MDTv2(nn.Module):
    def __init__(
        self, *, input_size: int, patch_size: int, in_channels: int, hidden_size: int, depth: int, num_heads: int,
        num_classes: int, decode_layer: int, **unused: Any,
    ):  # fmt: skip
        super().__init__()
        d, p, side, half = hidden_size, patch_size, input_size // patch_size, (depth - decode_layer) // 2
        layer = partial(MDTBlock, d, num_heads, side)
        self.x_embedder = named(proj=nn.Conv2d(in_channels, d, p, p), tokens=Rearrange("b d h w -> b (h w) d"))
        self.t_embedder = named(mlp=two_linear(d, d, nn.SiLU, entry=256))
        self.y_embedder = named(embedding_table=nn.Embedding(num_classes + 1, d))
        self.pos_embed, self.decoder_pos_embed = (nn.Parameter(torch.zeros(1, side**2, d)) for _ in range(2))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, d))  # this and the side layer: of masked training
        self.en_inblocks = nn.ModuleList(layer() for _ in range(half))
        self.en_outblocks = nn.ModuleList(layer(closes=True) for _ in range(half))
        self.de_blocks = nn.ModuleList(layer(closes=True) for _ in range(decode_layer))
        self.sideblocks = nn.ModuleList([layer()])
        self.final_layer = nn.ModuleDict(
            {"adaLN_modulation": nn.Sequential(nn.SiLU(), nn.Linear(d, 2 * d))}
            | {"linear": nn.Linear(d, p * p * 2 * in_channels)}
        )
        self.unpatchify = Rearrange("b (h w) (p q c) -> b c (h p) (w q)", p=p, q=p, h=side)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        c = self.t_embedder(sinusoid(t, 256)) + self.y_embedder(y)
        embedding = self.x_embedder(x) + self.pos_embed
        x = run_nested(embedding, [*self.en_inblocks, *self.en_outblocks], c) + self.decoder_pos_embed
        for block in self.de_blocks:
            x = block(x, embedding, c)
        shift, scale = self.final_layer["adaLN_modulation"](c)[:, None].chunk(2, -1)
        x = modulate(F.layer_norm(x, x.shape[-1:], eps=1e-6), shift, scale)
        return self.unpatchify(self.final_layer["linear"](x))


# E2-TTS (arXiv 2406.18009): a skip is what enters a layer; the layers are lists of parts that the model itself calls.


class RootNorm(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.g = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1) * x.shape[-1] ** 0.5 * self.g


class UNetT(nn.Module):
    def __init__(
        self, *, dim: int, depth: int, heads: int, dim_head: int, mel_dim: int, text_num_embeds: int, **unused: Any
    ):
        super().__init__()
        conv = partial(nn.Conv1d, dim, dim, 31, padding=15, groups=16)
        self.time_embed = named(time_mlp=two_linear(dim, dim, nn.SiLU, entry=256))
        self.text_embed = named(text_embed=nn.Embedding(text_num_embeds + 1, mel_dim))
        self.input_embed = nn.ModuleDict(
            {"proj": nn.Linear(3 * mel_dim, dim)}
            | {"conv_pos_embed": named(conv1d=nn.Sequential(conv(), nn.Mish(), conv(), nn.Mish()))}
        )
        self.rotary_embed = Rotary(dim_head)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    nn.Linear(2 * dim, dim, bias=False) if index >= depth // 2 else None,
                    RootNorm(dim),
                    Attention(dim, heads, bias=True, out="to_out"),
                    RootNorm(dim),
                    named(ff=nn.Sequential(nn.Sequential(nn.Linear(dim, 4 * dim), SCALED_TANH()), nn.Identity(),
                                           nn.Linear(4 * dim, dim))),
                ]
            )
            for index in range(depth)
        )  # fmt: skip
        self.norm_out, self.proj_out = RootNorm(dim), nn.Linear(dim, mel_dim)

    def embed(self, x: Tensor, cond: Tensor, text: Tensor) -> Tensor:
        words = F.pad(text + 1, (0, max(0, x.shape[1] - text.shape[1])))[:, : x.shape[1]]
        h = self.input_embed["proj"](torch.cat([x, cond, self.text_embed(words)], -1))
        return h + self.input_embed["conv_pos_embed"](h.transpose(1, 2)).transpose(1, 2)

    def turn_first_head(self, q: Tensor) -> Tensor:
        first, others = q[:, :1], q[:, 1:]
        return torch.cat([rotate(first, self.rotary_embed.inv_freq, adjacent=True), others], 1)

    def forward(self, x: Tensor, cond: Tensor, text: Tensor, time: Tensor, cfg_infer: bool = False) -> Tensor:
        t = self.time_embed(sinusoid(1000 * time.expand(len(x)), 256, sine_first=True, last=1))[:, None]
        h = self.embed(x, cond, text)
        if cfg_infer:
            h = torch.cat([h, self.embed(x, torch.zeros_like(cond), torch.full_like(text, -1))])
            t = torch.cat([t, t])
        x, skips = torch.cat([t, h], 1), []
        for index, (fuse, attention_norm, attention, feed_norm, feed) in enumerate(self.layers):
            if index < len(self.layers) // 2:
                skips.append(x)
            else:
                x = fuse(torch.cat([x, skips.pop()], -1))
            x = attention(attention_norm(x), turn=self.turn_first_head) + x
            x = feed(feed_norm(x)) + x
        return self.proj_out(self.norm_out(x)[:, 1:])
