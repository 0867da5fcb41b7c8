"""DiT, with or without long skips: class-to-image (arXiv 2212.09748; long skips arXiv 2411.17616).

    x_0     = patches(image) + positions,   c = timestep + class
    x_{i+1} = block_i(x_i, c)                                            layers that close no skip
    x_{i+1} = block_i(Linear(LN(concat[x_i, x_{L-i}])), c)               layers that close one ("replace")
    output  = unpatchify(final(x_L, c))                                  C channels of noise, C of variance
"""

from typing import NamedTuple

from diffusers import ModelMixin  # noqa: F401  (diffusers looks this name up in the module of a saved component)
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor, nn

from skipdit.models.base import LongSkipModel
from skipdit.nn.blocks import DiTBlock, FinalLayer
from skipdit.nn.embeddings import LabelEmbedder, PatchEmbed, TimestepEmbedder, sincos_2d, unpatchify
from skipdit.nn.skips import FUSES, SkipLinear, SkipNorm, fuse_skip

SIZES = {  # depth, hidden size, heads
    "XL": (28, 1152, 16),
    "L": (24, 1024, 16),
    "B": (12, 768, 12),
    "S": (12, 384, 6),
}
PATCH_SIZES = (2, 4, 8)


class DiTContext(NamedTuple):
    """What every layer of one forward pass is given: the conditioning [B, D] and the token grid (h, w)."""

    conditioning: Tensor
    grid: tuple[int, int]


class DiT(LongSkipModel):
    """Diffusion Transformer for classes; `num_skips` 0 is the vanilla model, depth // 2 is Skip-DiT.

    Args:
        sample_size: height and width of the (latent) image, or a pair; other sizes are taken at `forward` too.
        num_skips: long skips m; layer i < m feeds layer depth-1-i. At most depth // 2.
        fuse: "replace" (published: the fused skip becomes the stream) or "residual" (it is added, starting at zero).
        num_classes: classes without the null class.
        class_dropout_prob: with which probability training replaces a label by the null class (the training loop
            does it, so that the model stays a function); 0 leaves the null class, and so guidance, out.
        out_channels: 2 * in_channels with a learned variance (the default), in_channels without.

    Raises:
        ValueError: when a setting is out of its bounds.
    """

    _no_split_modules = ["DiTBlock"]
    _repeated_blocks = ["DiTBlock"]
    _skip_layerwise_casting_patterns = ["pos_embed", "skip_norms"]

    @register_to_config
    def __init__(
        self,
        *,
        sample_size: int | tuple[int, int] = 32,
        patch_size: int = 2,
        in_channels: int = 4,
        out_channels: int | None = None,
        hidden_size: int = 1152,
        depth: int = 28,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        num_classes: int = 1000,
        class_dropout_prob: float = 0.1,
        num_skips: int = 0,
        fuse: str = "replace",
    ):
        super().__init__()
        check_architecture(depth=depth, num_skips=num_skips, fuse=fuse, hidden_size=hidden_size, num_heads=num_heads)
        height, width = (sample_size, sample_size) if isinstance(sample_size, int) else sample_size
        counts = {"patch_size": patch_size, "in_channels": in_channels, "num_classes": num_classes}
        check_at_least_one(height=height, width=width, **counts)
        if not 0 <= class_dropout_prob < 1:
            raise ValueError(f"class_dropout_prob is {class_dropout_prob}: it must be in [0, 1)")
        check_image(height, width, patch_size)
        out_channels = 2 * in_channels if out_channels is None else out_channels
        self.register_to_config(out_channels=out_channels)
        self.depth, self.num_skips = depth, num_skips
        self.grid = (height // patch_size, width // patch_size)

        self.x_embedder = PatchEmbed(in_channels, hidden_size, patch_size)
        self.pos_embed = nn.Parameter(sincos_2d(*self.grid, hidden_size)[None], requires_grad=False)
        self.t_embedder = TimestepEmbedder(hidden_size)
        self.y_embedder = LabelEmbedder(num_classes + (class_dropout_prob > 0), hidden_size)
        self.blocks = nn.ModuleList(DiTBlock(hidden_size, num_heads, mlp_ratio) for _ in range(depth))
        self.final_layer = FinalLayer(hidden_size, patch_size**2 * out_channels)
        if num_skips:
            self.skip_norms = nn.ModuleList(SkipNorm(hidden_size) for _ in range(num_skips))
            self.skip_linears = nn.ModuleList(SkipLinear(hidden_size, fuse=fuse) for _ in range(num_skips))

    @classmethod
    def from_size(cls, size: str, **config) -> "DiT":
        """A published size, "XL/2" or "B/4": letter / patch; every other setting as keyword."""
        return cls(**published_size(size), **config)

    @property
    def null_class(self) -> int | None:
        """The class id that stands for no class, or None where the model was made without one."""
        return self.config.num_classes if self.config.class_dropout_prob > 0 else None

    def embed(self, hidden_states: Tensor, timestep: Tensor, class_labels: Tensor) -> tuple[Tensor, DiTContext]:
        height, width = hidden_states.shape[-2:]
        check_image(height, width, self.config.patch_size)
        grid = (height // self.config.patch_size, width // self.config.patch_size)
        stream = self.x_embedder(hidden_states) + self.positions(grid).to(hidden_states.dtype)
        conditioning = self.t_embedder(timestep, dtype=stream.dtype) + self.y_embedder(class_labels)
        return stream, DiTContext(conditioning, grid)

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """The position table [1, h * w, D]; the stored one where the grid is the one that the model was made for."""
        if grid == self.grid:
            return self.pos_embed
        return sincos_2d(*grid, self.config.hidden_size, device=self.pos_embed.device)[None]

    def layer(self, index: int, stream: Tensor, context: DiTContext) -> Tensor:
        return self.call_layer(self.blocks[index], stream, context.conditioning)

    def fuse(self, index: int, stream: Tensor, skip: Tensor) -> Tensor:
        return fuse_skip(stream, skip, self.skip_norms[index], self.skip_linears[index], fuse=self.config.fuse)

    def unembed(self, stream: Tensor, context: DiTContext) -> Tensor:
        patches = self.final_layer(stream, context.conditioning)
        height, width = context.grid
        return unpatchify(patches, height=height, width=width, patch_size=self.config.patch_size)

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        class_labels: Tensor,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """Noise and variance [B, 2C, H, W] of x_t [B, C, H, W] at timesteps [B] (0..999) for class ids [B]."""
        sample = self.compose(hidden_states=hidden_states, timestep=timestep, class_labels=class_labels)
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)


def published_size(name: str) -> dict[str, int]:
    """Depth, width, heads and patch of "XL/2", "L/4", ..., as keyword arguments of `DiT`."""
    letter, _, patch = name.partition("/")
    if letter not in SIZES or patch not in map(str, PATCH_SIZES):
        raise ValueError(f"unknown size {name!r}: take one of {', '.join(SIZES)} over one of {PATCH_SIZES}, as in XL/2")
    depth, hidden_size, num_heads = SIZES[letter]
    return {"depth": depth, "hidden_size": hidden_size, "num_heads": num_heads, "patch_size": int(patch)}


def check_architecture(*, depth: int, num_skips: int, fuse: str, hidden_size: int, num_heads: int) -> None:
    check_at_least_one(depth=depth, num_heads=num_heads)
    if not 0 <= num_skips <= depth // 2:
        raise ValueError(f"num_skips is {num_skips}: depth {depth} has room for 0 to {depth // 2} skips")
    if fuse not in FUSES:
        raise ValueError(f"fuse is {fuse!r}: take one of {', '.join(FUSES)}")
    if hidden_size % num_heads or hidden_size % 4:
        raise ValueError(f"hidden_size is {hidden_size}: it must be a multiple of num_heads ({num_heads}) and of 4")


def check_at_least_one(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} is {count}: it must be at least 1")


def check_image(height: int, width: int, patch_size: int) -> None:
    if height % patch_size or width % patch_size:
        raise ValueError(f"image is {height} x {width}: both sides must be multiples of the patch size {patch_size}")
