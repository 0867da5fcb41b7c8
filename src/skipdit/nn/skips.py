"""How a long skip re-enters the stream: Linear(LayerNorm(concat[stream, skip])), the norm in float32."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skipdit.nn.blocks import NORM_EPS, zero

FUSES = ("replace", "residual")


class SkipNorm(nn.LayerNorm):
    """LayerNorm over the concatenated 2D channels, computed in float32 and returned in the input's dtype."""

    def __init__(self, hidden_size: int):
        super().__init__(2 * hidden_size, eps=NORM_EPS)

    def forward(self, hidden_states: Tensor) -> Tensor:
        normed = F.layer_norm(
            hidden_states.float(), self.normalized_shape, self.weight.float(), self.bias.float(), self.eps
        )
        return normed.to(hidden_states.dtype)


class SkipLinear(nn.Module):
    """Linear 2D -> D under the published name `skip_linears.{j}.linear`.

    PyTorch's default initialisation, as published for class-to-image; zero where the fused skip is added to the
    stream, so that a pretrained vanilla model keeps exactly its function.
    """

    def __init__(self, hidden_size: int, *, fuse: str):
        super().__init__()
        self.linear = nn.Linear(2 * hidden_size, hidden_size)
        if fuse == "residual":
            zero(self.linear)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.linear(hidden_states)


def fuse_skip(stream: Tensor, skip: Tensor, norm: SkipNorm, linear: SkipLinear, *, fuse: str) -> Tensor:
    """Merge a skip into the stream, both [..., T, D]: "replace" (published) or "residual" (added to the stream)."""
    fused = linear(norm(torch.cat([stream, skip], dim=-1)))
    return stream + fused if fuse == "residual" else fused
