"""The adaLN-zero block and the output head of DiT (Peebles & Xie 2023, arXiv 2212.09748, section 3.2).

shift1, scale1, gate1, shift2, scale2, gate2 = Linear(SiLU(c))
x <- x + gate1 * Attention(LN(x) (1 + scale1) + shift1)
x <- x + gate2 * MLP(LN(x) (1 + scale2) + shift2)
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skipdit.nn.attention import SelfAttention

NORM_EPS = 1e-6  # every LayerNorm of the published models
STILL = 0.1  # of the median spread: a channel that varies less is not stretched further


def xavier_linears(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases for every Linear below `module`."""
    for child in module.modules():
        if isinstance(child, nn.Linear):
            nn.init.xavier_uniform_(child.weight)
            nn.init.zeros_(child.bias)


def zero(linear: nn.Linear) -> None:
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)


def statistics(states: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and spread [D] of states [N, D] in each channel, no spread below a tenth of their median.

    Three of MiniLM's 384 channels hardly vary: with 1 / std of their own spread, weights are infinite in float16.
    """
    std = states.std(dim=0)
    return states.mean(dim=0), std.clamp(min=STILL * std.median())


@torch.no_grad()
def standardise_inputs(linear: nn.Linear, mean: Tensor, std: Tensor) -> None:
    """Have W x + b become W (x - mean) / std + b, with the `statistics` of the inputs x.

    Token states of a text encoder share most of their value: without this a network sees the words through a veil.
    """
    linear.weight /= std
    linear.bias -= linear.weight @ mean


def modulate(hidden_states: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """LN(x) (1 + scale) + shift for x [..., T, D] and shift, scale [..., D], which all T tokens share."""
    normed = F.layer_norm(hidden_states, hidden_states.shape[-1:], eps=NORM_EPS)
    return normed * (1 + scale[..., None, :]) + shift[..., None, :]


class MLP(nn.Module):
    """Linear -> GELU (tanh) -> Linear."""

    def __init__(self, hidden_size: int, mlp_size: int):
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, mlp_size)
        self.fc2 = nn.Linear(mlp_size, hidden_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(hidden_states), approximate="tanh"))


class DiTBlock(nn.Module):
    """One adaLN-zero layer: stream [..., T, D] and conditioning [..., D] -> stream [..., T, D].

    The leading axes of the conditioning broadcast against the stream's: a video [B, F, T, D] takes [B, 1, D] for all
    its frames or [B, F, D] for each.
    """

    def __init__(self, hidden_size: int, num_heads: int, mlp_ratio: float):
        super().__init__()
        self.attn = SelfAttention(hidden_size, num_heads)
        self.mlp = MLP(hidden_size, int(hidden_size * mlp_ratio))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 6 * hidden_size))
        xavier_linears(self)
        zero(self.adaLN_modulation[1])

    def forward(self, hidden_states: Tensor, conditioning: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(conditioning).chunk(6, dim=-1)
        hidden_states = hidden_states + gate1[..., None, :] * self.attn(modulate(hidden_states, shift1, scale1))
        return hidden_states + gate2[..., None, :] * self.mlp(modulate(hidden_states, shift2, scale2))


class FinalLayer(nn.Module):
    """The output head: stream [..., T, D] and conditioning [..., D] -> patches [..., T, p * p * C]."""

    def __init__(self, hidden_size: int, out_features: int):
        super().__init__()
        self.linear = nn.Linear(hidden_size, out_features)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 2 * hidden_size))
        zero(self.linear)
        zero(self.adaLN_modulation[1])

    def forward(self, hidden_states: Tensor, conditioning: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(conditioning).chunk(2, dim=-1)
        return self.linear(modulate(hidden_states, shift, scale))
