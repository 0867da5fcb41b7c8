"""Models as their authors publish them: every name and shape of a file, written down apart from any table of names."""

import torch
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]


def hunyuan_shapes(
    *, width: int = 1408, depth: int = 40, head_dim: int = 88, inner: int = 6144, channels: int = 4, outputs: int = 8,
    patch: int = 2, text: int = 1024, text_t5: int = 2048, length: int = 77, length_t5: int = 256, pooled: int = 1024,
    styles: int = 0,
) -> Shapes:  # fmt: skip
    """Version 1.2; with `styles` those before it."""
    extras = pooled + (6 * 256 + width if styles else 0)
    shapes = {
        "text_embedding_padding": (length + length_t5, text),
        "pooler.positional_embedding": (length_t5 + 1, text_t5),
        "x_embedder.proj.weight": (width, channels, patch, patch),
        "x_embedder.proj.bias": (width,),
        **linear("mlp_t5.0", text_t5, 4 * text_t5),
        **linear("mlp_t5.2", 4 * text_t5, text),
        **linear("pooler.k_proj", text_t5, text_t5),
        **linear("pooler.q_proj", text_t5, text_t5),
        **linear("pooler.v_proj", text_t5, text_t5),
        **linear("pooler.c_proj", text_t5, pooled),
        **linear("t_embedder.mlp.0", 256, width),
        **linear("t_embedder.mlp.2", width, width),
        **linear("extra_embedder.0", extras, 4 * width),
        **linear("extra_embedder.2", 4 * width, width),
        **linear("final_layer.linear", width, patch**2 * outputs),
        **linear("final_layer.adaLN_modulation.1", width, 2 * width),
    }
    for index in range(depth):
        block = {
            **norm("norm1", width), **norm("norm2", width), **norm("norm3", width),
            **linear("attn1.Wqkv", width, 3 * width), **linear("attn1.out_proj", width, width),
            **linear("attn2.q_proj", width, width), **linear("attn2.kv_proj", text, 2 * width),
            **linear("attn2.out_proj", width, width), **linear("mlp.fc1", width, inner),
            **linear("mlp.fc2", inner, width), **linear("default_modulation.1", width, width),
        }  # fmt: skip
        for name in ("attn1.q_norm", "attn1.k_norm", "attn2.q_norm", "attn2.k_norm"):
            block |= norm(name, head_dim)
        if index > depth // 2:
            block |= {**norm("skip_norm", 2 * width), **linear("skip_linear", 2 * width, width)}
        shapes |= {f"blocks.{index}.{name}": shape for name, shape in block.items()}
    return shapes | ({"style_embedder.weight": (styles, width)} if styles else {})


def linear(name: str, inside: int, outside: int) -> Shapes:
    return {f"{name}.weight": (outside, inside), f"{name}.bias": (outside,)}


def norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def on_meta(shapes: Shapes) -> dict[str, Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


TINY = {
    "width": 16, "depth": 6, "head_dim": 8, "inner": 64, "text": 12, "text_t5": 8, "length": 5, "length_t5": 7,
    "pooled": 10,
}  # fmt: skip


def tiny_hunyuan(*, seed: int = 0, **sizes) -> dict[str, Tensor]:
    """Weights of a small one, every one of them drawn."""
    rng = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=rng).mul(0.2) for name, shape in hunyuan_shapes(**TINY | sizes).items()}


# DiT, Latte and LatteT2V.


def adaln_shapes(
    *, width: int = 1152, depth: int = 28, tokens: int = 256, channels: int = 4, patch: int = 2, classes: int = 1000,
    frames: int = 0, skips: int = 0,
) -> Shapes:  # fmt: skip
    """DiT-XL/2, its blocks counted one by one; with `frames` it is Latte-XL/2, unconditional with 0 `classes`."""
    shapes = {
        "pos_embed": (1, tokens, width),
        "x_embedder.proj.weight": (width, channels, patch, patch),
        "x_embedder.proj.bias": (width,),
        **linear("t_embedder.mlp.0", 256, width),
        **linear("t_embedder.mlp.2", width, width),
        **linear("final_layer.linear", width, 2 * channels * patch**2),
        **linear("final_layer.adaLN_modulation.1", width, 2 * width),
    }
    for index in range(depth):
        block = {
            **linear("attn.qkv", width, 3 * width), **linear("attn.proj", width, width),
            **linear("mlp.fc1", width, 4 * width), **linear("mlp.fc2", 4 * width, width),
            **linear("adaLN_modulation.1", width, 6 * width),
        }  # fmt: skip
        shapes |= {f"blocks.{index}.{name}": shape for name, shape in block.items()}
    shapes |= {"temp_embed": (1, frames, width)} if frames else {}
    shapes |= {"y_embedder.embedding_table.weight": (classes + 1, width)} if classes else {}
    return shapes | skip_shapes(width, skips)


def skip_shapes(width: int, skips: int) -> Shapes:
    layers = ({**norm(f"skip_norms.{i}", 2 * width), **linear(f"skip_linears.{i}.linear", 2 * width, width)}
              for i in range(skips))  # fmt: skip
    return {name: shape for layer in layers for name, shape in layer.items()}


def latte_t2v_shapes(
    *, width: int = 1152, depth: int = 28, channels: int = 4, caption: int = 4096, skips: int = 0, leftover: bool = True
) -> Shapes:
    shapes = {
        "pos_embed.proj.weight": (width, channels, 2, 2),
        "pos_embed.proj.bias": (width,),
        "scale_shift_table": (2, width),
        **linear("adaln_single.emb.timestep_embedder.linear_1", 256, width),
        **linear("adaln_single.emb.timestep_embedder.linear_2", width, width),
        **linear("adaln_single.linear", width, 6 * width),
        **linear("caption_projection.linear_1", caption, width),
        **linear("caption_projection.linear_2", width, width),
        **linear("proj_out", width, 8 * channels),
    }
    for index in range(depth):
        for kind, attentions in {"transformer": ["attn1", "attn2"], "temporal_transformer": ["attn1"]}.items():
            block = {"scale_shift_table": (6, width), **linear("ff.net.0.proj", width, 4 * width)}
            block |= linear("ff.net.2", 4 * width, width)
            for name in attentions:
                for part in ("to_q", "to_k", "to_v", "to_out.0"):
                    block |= linear(f"{name}.{part}", width, width)
            shapes |= {f"{kind}_blocks.{index}.{name}": shape for name, shape in block.items()}
    shapes |= {"caption_projection.y_embedding": (120, caption)} if leftover else {}
    return shapes | skip_shapes(width, skips)
