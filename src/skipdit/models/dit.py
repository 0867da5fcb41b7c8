"""DiT, with or without long skips: class-to-image (arXiv 2212.09748; long skips arXiv 2411.17616).

    x_0     = patches(image) + positions,   c = timestep + class
    x_{i+1} = block_i(x_i, c)                                            layers that close no skip
    x_{i+1} = block_i(Linear(LN(concat[x_i, x_{L-i}])), c)               layers that close one ("replace")
    output  = unpatchify(final(x_L, c))                                  C channels of noise, C of variance
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from diffusers import ModelMixin  # noqa: F401  (diffusers looks this name up in the module of a saved component)
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor

from skipdit.models.adaln import AdaLNTransformer
from skipdit.models.checks import check_at_least_one
from skipdit.models.inputs import per_sample, read_class_ids
from skipdit.nn.embeddings import unpatchify
from skipdit.nn.rooms import Seam


class DiTContext(NamedTuple):
    """What every layer of one forward pass is given: the conditioning [B, D], the token grid (h, w), x_t's dtype."""

    conditioning: Tensor
    grid: tuple[int, int]
    dtype: torch.dtype


class DiT(AdaLNTransformer):
    """Diffusion Transformer for classes; `num_skips` 0 is the vanilla model, depth // 2 is Skip-DiT.

    Args:
        sample_size: height and width of the (latent) image, or a pair; other sizes are taken at `forward` too.
        num_skips: long skips m; layer i < m feeds layer depth-1-i. At most depth // 2.
        fuse: "replace" (published: the fused skip becomes the stream) or "residual" (it is added, starting at zero).
        num_classes: classes without the null class.
        class_dropout_prob: with which probability training replaces a label by the null class (the training loop
            does it, so that the model stays a function); 0 leaves the null class, and so guidance, out.
        out_channels: 2 * in_channels with a learned variance (the default), in_channels without.
        prediction_type: what the first in_channels of the output are, "epsilon" (published), "sample" or
            "v_prediction"; schedulers are told the same.
        id2label: what the classes are called, by their ids.

    Raises:
        ValueError: when a setting is out of its bounds.
    """

    constant_inputs = ("class_labels",)

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
        prediction_type: str = "epsilon",
        id2label: Mapping[int, str] | None = None,
    ):
        super().__init__()
        check_at_least_one(num_classes=num_classes)
        self.assemble()

    def embed(self, hidden_states: Tensor, timestep: Tensor | float, class_labels: Tensor) -> tuple[Tensor, DiTContext]:
        stream = self.tokens(self.cast_input(hidden_states, self.x_embedder.proj))
        time = self.t_embedder(per_sample(timestep, hidden_states), dtype=stream.dtype)
        conditioning = time + self.embed_classes(read_class_ids(class_labels, hidden_states))
        return stream, DiTContext(conditioning, self.grid_of(hidden_states), hidden_states.dtype)

    def layer(self, index: int, stream: Tensor, context: DiTContext) -> Tensor:
        return self.call_layer(self.blocks[index], stream, context.conditioning)

    def unembed(self, stream: Tensor, context: DiTContext) -> Tensor:
        patches = self.final_layer(stream, context.conditioning).to(context.dtype)
        height, width = context.grid
        return unpatchify(patches, height=height, width=width, patch_size=self.config.patch_size)

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor | float,
        class_labels: Tensor,
        return_dict: bool = True,
        *,
        seam: Seam | None = None,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """Noise and variance [B, 2C, H, W] of x_t [B, C, H, W] at timesteps [B] (0..999) for class ids [B].

        x_t may be of any precision, which the output has too; one timestep may stand for all samples. A cache puts its
        `seam` in the place of the trunk's call.
        Raises: ValueError for a class id outside the table, a number of timesteps, or sizes that are no whole patches.
        """
        self.check_samples(hidden_states)
        sample = self.compose(hidden_states=hidden_states, timestep=timestep, class_labels=class_labels, seam=seam)
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)
