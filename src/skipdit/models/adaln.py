"""What DiT and Latte share: patches and classes in, adaLN-zero layers, patches out, under the published names."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import ModelMixin  # noqa: F401  (diffusers looks this name up in the module of a saved component)
from torch import Tensor, nn

from skipdit.models.base import LongSkipModel
from skipdit.models.checks import (
    check_at_least_one,
    check_grid,
    check_image,
    check_prediction_type,
    check_ratio,
    check_skips,
    check_width,
)
from skipdit.models.fits import Size
from skipdit.nn.blocks import DiTBlock, FinalLayer
from skipdit.nn.embeddings import LabelEmbedder, PatchEmbed, TimestepEmbedder, sincos_2d
from skipdit.nn.skips import SkipLinear, SkipNorm

SIZES = {  # blocks, hidden size, heads
    "XL": (28, 1152, 16),
    "L": (24, 1024, 16),
    "B": (12, 768, 12),
    "S": (12, 384, 6),
}
PATCH_SIZES = (2, 4, 8)
LABELS = "y_embedder.embedding_table.weight"


class AdaLNTransformer(LongSkipModel):
    """The parts of a class-conditional transformer; a layer is `blocks_per_layer` blocks in turn."""

    _no_split_modules = ["DiTBlock"]
    _repeated_blocks = ["DiTBlock"]
    _skip_layerwise_casting_patterns = ["pos_embed", "temp_embed", "skip_norms"]
    blocks_per_layer = 1

    @classmethod
    def from_size(cls, size: str, **config: Any) -> "AdaLNTransformer":
        """A published size, "XL/2" or "B/4": letter / patch; every other setting as keyword."""
        published = published_size(size)
        return cls(**published | {"depth": published["depth"] // cls.blocks_per_layer}, **config)

    @property
    def null_class(self) -> int | None:
        """The class id that stands for no class, or None where the model was made without one."""
        has_null = self.config.num_classes > 0 and self.config.class_dropout_prob > 0
        return self.config.num_classes if has_null else None

    def assemble(self) -> None:
        """Make every module that `config` names; raise ValueError where a setting is out of its bounds."""
        config = self.config
        check_skips(depth=config.depth, num_skips=config.num_skips, fuse=config.fuse)
        check_prediction_type(config.prediction_type)
        check_width(hidden_size=config.hidden_size, num_heads=config.num_heads)
        size = config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        check_at_least_one(height=height, width=width, patch_size=config.patch_size, in_channels=config.in_channels)
        check_grid(height, width, config.patch_size)
        check_ratio(config.mlp_ratio)
        if not 0 <= config.class_dropout_prob < 1:
            raise ValueError(f"class_dropout_prob is {config.class_dropout_prob}: it must be in [0, 1)")
        if config.out_channels is None:
            self.register_to_config(out_channels=2 * config.in_channels)
            config = self.config
        check_at_least_one(out_channels=config.out_channels)
        self.depth, self.num_skips = config.depth, config.num_skips
        self.grid = (height // config.patch_size, width // config.patch_size)

        self.x_embedder = PatchEmbed(config.in_channels, config.hidden_size, config.patch_size)
        self.pos_embed = frozen_table(sincos_2d(*self.grid, config.hidden_size))
        self.t_embedder = TimestepEmbedder(config.hidden_size)
        if config.num_classes:
            self.y_embedder = LabelEmbedder(config.num_classes + (config.class_dropout_prob > 0), config.hidden_size)
        blocks = range(config.depth * self.blocks_per_layer)
        self.blocks = nn.ModuleList(DiTBlock(config.hidden_size, config.num_heads, config.mlp_ratio) for _ in blocks)
        self.final_layer = FinalLayer(config.hidden_size, config.patch_size**2 * config.out_channels)
        if config.num_skips:
            skips = range(config.num_skips)
            self.skip_norms = nn.ModuleList(SkipNorm(config.hidden_size) for _ in skips)
            self.skip_linears = nn.ModuleList(SkipLinear(config.hidden_size, fuse=config.fuse) for _ in skips)

    @classmethod
    def list_sizes(cls, config: Mapping[str, Any]) -> list[Size]:
        side, patch, width = config["sample_size"], config["patch_size"], config["hidden_size"]
        height, length = (side, side) if isinstance(side, int) else side
        outputs = 2 * config["in_channels"] if config["out_channels"] is None else config["out_channels"]
        return [
            Size("hidden_size", "x_embedder.proj.weight", 0, width),
            Size("in_channels", "x_embedder.proj.weight", 1, config["in_channels"]),
            Size("patch_size", "x_embedder.proj.weight", 2, patch),
            Size("sample_size", "pos_embed", 1, (height // max(1, patch)) * (length // max(1, patch))),
            Size("depth", "blocks", 0, config["depth"] * cls.blocks_per_layer),
            Size("mlp_ratio", "blocks.0.mlp.fc1.bias", 0, int(width * config["mlp_ratio"])),
            Size("out_channels", "final_layer.linear.bias", 0, patch**2 * outputs),
            Size("num_classes", LABELS, 0, config["num_classes"] + (config["class_dropout_prob"] > 0)),
        ]

    def example_inputs(self, batch: int = 1) -> dict[str, Tensor]:
        sides = [side * self.config.patch_size for side in self.grid]
        inputs = {
            "hidden_states": torch.zeros(batch, *self.leading_sizes, *sides, device=self.device),
            "timestep": torch.zeros(batch, device=self.device),
        }
        if self.config.num_classes:
            inputs["class_labels"] = torch.zeros(batch, dtype=torch.long, device=self.device)
        return inputs

    @property
    def leading_sizes(self) -> tuple[int, ...]:
        """What stands before height and width in a sample: (C,), or (F, C) for clips."""
        return (self.config.in_channels,)

    def grid_of(self, images: Tensor) -> tuple[int, int]:
        """The token grid (h, w) of images [..., H, W]."""
        height, width = images.shape[-2:]
        check_image(height, width, self.config.patch_size)
        return height // self.config.patch_size, width // self.config.patch_size

    def embed_classes(self, class_labels: Tensor) -> Tensor:
        """Class ids [...] as vectors [..., D]; ValueError for one that the table lacks, known on the CPU alone."""
        try:
            return self.y_embedder(class_labels)
        except IndexError:
            last = self.y_embedder.embedding_table.num_embeddings - 1
            outside = sorted({label for label in class_labels.flatten().tolist() if not 0 <= label <= last})
            note = " (DiTPipeline guides by class 1000, skipdit's pipelines by the model's own)" * (1000 in outside)
            raise ValueError(
                f"class_labels hold {outside}: a model of {self.config.num_classes} classes takes 0 to {last}{note}"
            ) from None

    def tokens(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] as patches at their positions, [B, T, D]."""
        return self.x_embedder(images) + self.positions(self.grid_of(images)).to(images.dtype)

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """The position table [1, h * w, D]; the stored one where the grid is the one that the model was made for."""
        if grid == self.grid:
            return self.pos_embed
        return sincos_2d(*grid, self.config.hidden_size, device=self.pos_embed.device)[None]


def frozen_table(positions: Tensor) -> nn.Parameter:
    """Positions [T, D] as a parameter [1, T, D] of the dtype in which a model is made."""
    return nn.Parameter(positions[None].to(torch.get_default_dtype()), requires_grad=False)


def published_size(name: str) -> dict[str, int]:
    """Blocks (as depth), width, heads and patch of "XL/2", "L/4", ..., by the names of the arguments."""
    letter, _, patch = name.partition("/")
    if letter not in SIZES or patch not in map(str, PATCH_SIZES):
        raise ValueError(f"unknown size {name!r}: take one of {', '.join(SIZES)} over one of {PATCH_SIZES}, as in XL/2")
    depth, hidden_size, num_heads = SIZES[letter]
    return {"depth": depth, "hidden_size": hidden_size, "num_heads": num_heads, "patch_size": int(patch)}
