"""Names of tensors in published files and in our models: one table, read in both directions.

    original                                  ours
    blocks.3.norm3.bias                       blocks.3.norm2.bias                               renamed
    blocks.3.attn1.Wqkv.bias [3D]             blocks.3.attn1.to_q.bias, to_k.bias, to_v.bias    cut in equal parts
    final_layer.adaLN_modulation.1.bias [2D]  norm_out.linear.bias                              its halves swapped
    t_embedder.mlp.0.bias                     transformer_blocks.0.norm1.(...), and each other  copied

Ours are those of diffusers.
"""

import re
from collections.abc import Collection, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from skipdit.hub.errors import MismatchError
from skipdit.hub.streaming import LazyState, LazyTensor, lazily, made

State = Mapping[str, Tensor]


class Row(NamedTuple):
    """A module, or a bare parameter: its original name, and ours, several where we have it in parts; * is a number."""

    original: str
    ours: tuple[str, ...]
    swapped: bool = False
    copied: bool = False

    def part(self, tensor: Tensor, index: int = 0) -> Tensor:
        """What our tensor of a number is of an original one, whose first axis is that of outputs."""
        if self.swapped:
            return torch.cat(tensor.chunk(2)[::-1])
        if self.copied or len(self.ours) == 1:
            return tensor
        return tensor.chunk(len(self.ours))[index].clone()

    def parts(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """What is in our model of an original tensor."""
        return tuple(self.part(tensor, index) for index in range(len(self.ours)))

    def whole(self, parts: list[Tensor]) -> Tensor:
        """The original tensor of its parts in our model; MismatchError for copies that differ."""
        if self.swapped:
            return torch.cat(parts[0].chunk(2)[::-1])
        if self.copied and differ(parts):
            raise MismatchError(
                f"the {len(parts)} copies of {self.original} ({self.ours[0]}, ...) differ: a model that has one cannot"
                " hold them"
            )
        if self.copied or len(parts) == 1:
            return parts[0]
        return torch.cat(parts)


def differ(tensors: list[Tensor]) -> bool:
    """Whether any two do; tensors on meta, which have no values, do not."""
    first, *others = tensors
    return not first.is_meta and not all(torch.equal(first, other) for other in others)


class NameMap:
    """A table of modules, original name to ours.

    Those of `swapped` have their halves the other way round; those of `copied` are whole under each of our names.
    """

    def __init__(
        self,
        table: Mapping[str, str | tuple[str, ...]],
        *,
        swapped: Collection[str] = (),
        copied: Collection[str] = (),
    ):
        rows = {name: (ours,) if isinstance(ours, str) else ours for name, ours in table.items()}
        self.rows = [Row(name, ours, name in swapped, name in copied) for name, ours in rows.items()]

    def row(self, original: str) -> tuple[Row, tuple[str, ...]]:
        """The row of an original name, of a module or anything in it, and our names; KeyError where there is none."""
        for row in self.rows:
            if ours := tuple(filter(None, (renamed(original, row.original, name) for name in row.ours))):
                return row, ours
        raise KeyError(original)

    def ours(self, original: str) -> str:
        """Our name of an original tensor that we have whole; KeyError for another."""
        _, (name,) = self.row(original)
        return name

    def to_ours(self, state: State) -> dict[str, Tensor]:
        """A state dict under our names; KeyError for a name that is not in the table."""
        return made(self.cut(lazily(state)))

    def to_original(self, state: State) -> dict[str, Tensor]:
        """A state dict under the original names; KeyError for a name that is not in the table, or a missing part."""
        return made(self.joined(lazily(state)))

    def cut(self, state: LazyState) -> dict[str, LazyTensor]:
        """`to_ours` of tensors that are still to be made."""
        found = {}
        for name, tensor in state.items():
            row, ours = self.row(name)
            found |= {part: tensor.then(partial(row.part, index=index)) for index, part in enumerate(ours)}
        return found

    def joined(self, state: LazyState) -> dict[str, LazyTensor]:
        """`to_original` of tensors that are still to be made."""
        found = {}
        for name in state:
            original = self.original(name)
            row, ours = self.row(original)
            if original not in found:
                found[original] = LazyTensor.joined([state[part] for part in ours], row.whole)
        return found

    def original(self, ours: str) -> str:
        """The original name of a tensor of ours; KeyError where there is none."""
        for row in self.rows:
            for name in row.ours:
                if original := renamed(ours, name, row.original):
                    return original
        raise KeyError(ours)


def renamed(name: str, source: str, target: str) -> str | None:
    """A name like `source`, or of anything inside it, like `target`; None for another."""
    pattern = re.escape(source).replace(r"\*", r"(?P<index>\d+)") + r"(?P<rest>(\..+)?)"
    found = re.fullmatch(pattern, name)
    return found and target.replace("*", found.groupdict().get("index", "*")) + found["rest"]


def block(table: Mapping[str, str | tuple[str, ...]], *, ours: str = "blocks") -> dict[str, tuple[str, ...]]:
    """A table of the modules of a block, for each block."""
    lists = {name: (parts,) if isinstance(parts, str) else parts for name, parts in table.items()}
    return {f"blocks.*.{name}": tuple(f"{ours}.*.{part}" for part in parts) for name, parts in lists.items()}


HUNYUAN = NameMap(
    {
        "mlp_t5.0": "text_embedder.linear_1",
        "mlp_t5.2": "text_embedder.linear_2",
        "text_embedding_padding": "text_embedding_padding",
        "x_embedder.proj": "pos_embed.proj",
        "t_embedder.mlp.0": "time_extra_emb.timestep_embedder.linear_1",
        "t_embedder.mlp.2": "time_extra_emb.timestep_embedder.linear_2",
        "pooler": "time_extra_emb.pooler",
        "style_embedder": "time_extra_emb.style_embedder",
        "extra_embedder.0": "time_extra_emb.extra_embedder.linear_1",
        "extra_embedder.2": "time_extra_emb.extra_embedder.linear_2",
        **block({
            "norm1": "norm1.norm",
            "default_modulation.1": "norm1.linear",
            "norm3": "norm2",
            "norm2": "norm3",
            "attn1.Wqkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
            "attn1.q_norm": "attn1.norm_q",
            "attn1.k_norm": "attn1.norm_k",
            "attn1.out_proj": "attn1.to_out.0",
            "attn2.q_proj": "attn2.to_q",
            "attn2.kv_proj": ("attn2.to_k", "attn2.to_v"),
            "attn2.q_norm": "attn2.norm_q",
            "attn2.k_norm": "attn2.norm_k",
            "attn2.out_proj": "attn2.to_out.0",
            "mlp.fc1": "ff.net.0.proj",
            "mlp.fc2": "ff.net.2",
            "skip_norm": "skip_norm",
            "skip_linear": "skip_linear",
        }),
        "final_layer.adaLN_modulation.1": "norm_out.linear",
        "final_layer.linear": "proj_out",
    },
    swapped={"final_layer.adaLN_modulation.1"},
)  # fmt: skip


def stock_dit(depth: int) -> NameMap:
    """DiT, and as "ours" diffusers' DiTTransformer2DModel, which has the embedders in each block and no positions."""

    def each(name: str) -> tuple[str, ...]:
        return tuple(f"transformer_blocks.{index}.norm1.emb.{name}" for index in range(depth))

    embedders = {
        "t_embedder.mlp.0": each("timestep_embedder.linear_1"),
        "t_embedder.mlp.2": each("timestep_embedder.linear_2"),
        "y_embedder.embedding_table": each("class_embedder.embedding_table"),
    }
    blocks = {
        "adaLN_modulation.1": "norm1.linear",
        "attn.qkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
        "attn.proj": "attn1.to_out.0",
        "mlp.fc1": "ff.net.0.proj",
        "mlp.fc2": "ff.net.2",
    }
    ends = {
        "x_embedder.proj": "pos_embed.proj",
        "final_layer.adaLN_modulation.1": "proj_out_1",
        "final_layer.linear": "proj_out_2",
    }
    return NameMap(embedders | block(blocks, ours="transformer_blocks") | ends, copied=embedders)
