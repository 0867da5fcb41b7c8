"""The architecture of a published checkpoint, read off the names and shapes of its tensors.

What no tensor tells (heads of an unpublished width, a grid that is no square, the frame size and length of LatteT2V,
the size of HunyuanDiT) is a published default or must be among the `overrides`, which go before everything read here.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch

from skipdit.hub.errors import CheckpointError
from skipdit.hub.names import HUNYUAN, NameMap, State
from skipdit.models import DiT, HunyuanDiT, Latte, LatteT2V
from skipdit.models.adaln import LABELS, SIZES
from skipdit.models.base import LongSkipModel

Overrides = Mapping[str, Any]

TASKS = {DiT: "class-to-image", Latte: "class-to-video", LatteT2V: "text-to-video", HunyuanDiT: "text-to-image"}
CLASS_COUNTS = (10, 100, 101, 1000)  # of data sets: CIFAR-10 and -100, UCF101, ImageNet
PUBLISHED_T2V = (1152, 16)  # width and heads of the one LatteT2V there is
PUBLISHED_HUNYUAN_RATIO = 4.3637  # of MLP to width 1408, rounded down to 6144


def infer_dit(state: State, overrides: Overrides) -> dict[str, Any]:
    """The arguments of `DiT`."""
    return infer_adaln(state, overrides, blocks_per_layer=1) | infer_classes(state, overrides)


def infer_latte(state: State, overrides: Overrides) -> dict[str, Any]:
    """The arguments of `Latte`; without a table of classes it is unconditional."""
    return infer_adaln(state, overrides, blocks_per_layer=2) | {
        "num_frames": shape(state, "temp_embed", dims=3)[1],
        **(infer_classes(state, overrides) if LABELS in state else {"num_classes": 0}),
    }


def infer_adaln(state: State, overrides: Overrides, *, blocks_per_layer: int) -> dict[str, Any]:
    """What DiT and Latte share."""
    hidden_size, in_channels, patch_size, _ = shape(state, "x_embedder.proj.weight", dims=4)
    blocks = count(state, "blocks")
    inferred = {
        "hidden_size": hidden_size,
        "in_channels": in_channels,
        "patch_size": patch_size,
        "out_channels": shape(state, "final_layer.linear.bias", dims=1)[0] // patch_size**2,
        "depth": blocks // blocks_per_layer,
        "mlp_ratio": shape(state, "blocks.0.mlp.fc1.bias", dims=1)[0] / hidden_size,
        "num_skips": count(state, "skip_linears"),
    }
    if "sample_size" not in overrides:
        inferred["sample_size"] = patch_size * square_side(shape(state, "pos_embed", dims=3)[1])
    if "num_heads" not in overrides:
        inferred["num_heads"] = published_heads(blocks, hidden_size)
    return inferred


def infer_latte_t2v(state: State, overrides: Overrides) -> dict[str, Any]:
    """The arguments of `LatteT2V`; frame size and length are those of the published model."""
    width, in_channels, patch_size, _ = shape(state, "pos_embed.proj.weight", dims=4)
    heads = overrides.get("num_attention_heads") or published_t2v_heads(width)
    return {
        "num_attention_heads": heads,
        "attention_head_dim": width // heads,
        "cross_attention_dim": width,
        "in_channels": in_channels,
        "patch_size": patch_size,
        "out_channels": shape(state, "proj_out.bias", dims=1)[0] // patch_size**2,
        "num_layers": count(state, "transformer_blocks"),
        "attention_bias": "transformer_blocks.0.attn1.to_q.bias" in state,
        "caption_channels": shape(state, "caption_projection.linear_1.weight", dims=2)[1],
        "num_skips": count(state, "skip_linears"),
    }


def infer_hunyuan(state: State, overrides: Overrides, name: Callable[[str], str] = str) -> dict[str, Any]:
    """The arguments of `HunyuanDiT`; `name` makes a file's names of the original ones, in which this is written."""
    hidden_size, in_channels, patch_size, _ = shape(state, name("x_embedder.proj.weight"), dims=4)
    head_dim = shape(state, name("blocks.0.attn1.q_norm.weight"), dims=1)[0]
    text_len, text_width = shape(state, name("text_embedding_padding"), dims=2)
    positions, text_width_t5 = shape(state, name("pooler.positional_embedding"), dims=2)  # the mean and each token
    outputs = shape(state, name("final_layer.linear.bias"), dims=1)[0]
    return {
        "num_attention_heads": hidden_size // head_dim,
        "attention_head_dim": head_dim,
        "in_channels": in_channels,
        "patch_size": patch_size,
        "hidden_size": hidden_size,
        "num_layers": count(state, "blocks"),
        "mlp_ratio": hunyuan_ratio(shape(state, name("blocks.0.mlp.fc1.bias"), dims=1)[0], hidden_size),
        "learn_sigma": outputs == 2 * in_channels * patch_size**2,
        "cross_attention_dim": text_width,
        "cross_attention_dim_t5": text_width_t5,
        "pooled_projection_dim": shape(state, name("pooler.c_proj.bias"), dims=1)[0],
        "text_len": text_len - positions + 1,
        "text_len_t5": positions - 1,
        "use_style_cond_and_image_meta_size": name("style_embedder.weight") in state,
        "num_skips": sum(key.endswith("skip_linear.weight") for key in state),
    }


def hunyuan_ratio(inner: int, width: int) -> float:
    """A ratio that `int(width * ratio)` makes `inner` of; the published one where it does."""
    candidates = (PUBLISHED_HUNYUAN_RATIO, inner / width, (inner + 0.5) / width)
    return next(ratio for ratio in candidates if int(width * ratio) == inner)


def one_style(state: State) -> State:
    """The first of several styles is the one that is ever asked for."""
    key = "style_embedder.weight"
    return {**state, key: state[key][:1]} if key in state and state[key].ndim else state


class Architecture(NamedTuple):
    """A model, how its arguments are read off a checkpoint, and a tensor by which the checkpoint is known.

    Where a checkpoint has other names than the model, `names` are both; `trimmed` leaves out what no model reads.
    """

    model: type[LongSkipModel]
    infer: Callable[[State, Overrides], dict[str, Any]]
    mark: str
    names: NameMap | None = None
    trimmed: Callable[[State], State] = dict


ARCHITECTURES = {  # in the order of asking: Latte has every tensor of DiT, and more
    "latte-t2v": Architecture(LatteT2V, infer_latte_t2v, "temporal_transformer_blocks.0.scale_shift_table"),
    "latte": Architecture(Latte, infer_latte, "temp_embed"),
    "dit": Architecture(DiT, infer_dit, "blocks.0.attn.qkv.weight"),
    "hunyuan": Architecture(HunyuanDiT, infer_hunyuan, "blocks.0.attn1.Wqkv.weight", HUNYUAN, one_style),
    "hunyuan-diffusers": Architecture(
        HunyuanDiT, partial(infer_hunyuan, name=HUNYUAN.ours), "time_extra_emb.pooler.positional_embedding"
    ),
}


def recognised(state: State) -> str:
    """The name of the architecture; CheckpointError where it is none of ours."""
    for name, architecture in ARCHITECTURES.items():
        if architecture.mark in state:
            return name
    names, heads = ", ".join(ARCHITECTURES), ", ".join(sorted({key.partition(".")[0] for key in state})[:8])
    raise CheckpointError(
        f"no checkpoint of {names}, by its {len(state)} tensors ({heads}, ...): pass arch to read what is missing"
    )


def infer_classes(state: State, overrides: Overrides) -> dict[str, Any]:
    """The number of classes, and no dropout where the table has no row for a null class.

    The tensors do not tell what the last row is: a table of a row more than a data set has classes ends in a null
    class, of another size it is asked for. Raises: ValueError, which says how to answer.
    """
    rows = shape(state, LABELS, dims=2)[0]
    if "class_dropout_prob" in overrides:
        return {"num_classes": rows - (overrides["class_dropout_prob"] > 0)}
    if overrides.get("num_classes") == rows:
        return {"num_classes": rows, "class_dropout_prob": 0.0}
    if "num_classes" in overrides or rows - 1 in CLASS_COUNTS and rows not in CLASS_COUNTS:
        return {"num_classes": rows - 1}
    raise ValueError(
        f"{LABELS} has {rows} rows, for {rows} classes or for {rows - 1} and a null class: pass num_classes={rows} or"
        f" num_classes={rows - 1}, or `skipdit convert IN OUT --set num_classes=N`"
    )


def shape(state: State, key: str, *, dims: int) -> torch.Size:
    found = state[key].shape
    if len(found) != dims:
        raise CheckpointError(f"{key} has shape {tuple(found)}: it must have {dims} dimensions")
    return found


def count(state: State, name: str) -> int:
    """How many modules a ModuleList `name` has: one more than its largest index, 0 where there is none."""
    places = [key.split(".")[1] for key in state if key.startswith(f"{name}.")]
    return max((int(place) for place in places if place.isdecimal()), default=-1) + 1


def square_side(tokens: int) -> int:
    side = round(tokens**0.5)
    if side * side != tokens:
        raise ValueError(
            f"pos_embed has {tokens} tokens, which is no square: pass sample_size=(height, width), or"
            " `skipdit convert IN OUT --set sample_size=H,W`"
        )
    return side


def published_heads(blocks: int, hidden_size: int) -> int:
    for known_blocks, known_size, heads in SIZES.values():
        if (known_blocks, known_size) == (blocks, hidden_size):
            return heads
    raise ValueError(
        f"{blocks} blocks at width {hidden_size} are no published size: pass num_heads, or"
        " `skipdit convert IN OUT --set num_heads=N`"
    )


def published_t2v_heads(width: int) -> int:
    known_width, heads = PUBLISHED_T2V
    if width != known_width:
        raise ValueError(
            f"width {width} is not the published {known_width}: pass num_attention_heads, or"
            " `skipdit convert IN OUT --set num_attention_heads=N`"
        )
    return heads
