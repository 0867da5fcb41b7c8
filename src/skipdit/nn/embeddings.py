"""What enters a transformer: patches, positions, the timestep and the class, each as vectors of width D.

    sincos(u)   = [sin(u w_k) | cos(u w_k)],  w_k = 10000^(-k / (d/2))          one coordinate, d wide
    position    = [sincos(column) | sincos(row)]                                 each D/2 wide
    timestep    = MLP([cos(t f_k) | sin(t f_k)]),  f_k = exp(-ln(10000) k / 128)
    rotation    = [u_column g_k | u_row g_k],  g_k = 10000^(-2k / (d/2)) each twice

In rotations u is where a patch begins, inside a square of which the longer side fills the whole length.
"""

import math

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

FREQUENCY_WIDTH = 256  # width of the timestep sinusoid (DiT, Latte, HunyuanDiT)


def sincos_1d(coordinates: Tensor, width: int) -> Tensor:
    """Fixed sine-cosine code of coordinates [N] as [N, width], float64."""
    omega = 10000.0 ** -(torch.arange(width // 2, dtype=torch.float64, device=coordinates.device) / (width // 2))
    angles = coordinates.double()[:, None] * omega
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def sincos_2d(height: int, width: int, dim: int, *, device: torch.device | None = None) -> Tensor:
    """Fixed position table [height * width, dim] of a row-major grid, columns in the first half, float32.

    It is made on the CPU wherever it goes: MPS has no float64.
    """
    columns = sincos_1d(torch.arange(width, device="cpu"), dim // 2)
    rows = sincos_1d(torch.arange(height, device="cpu"), dim // 2)
    table = torch.cat([repeat(columns, "w d -> (h w) d", h=height), repeat(rows, "h d -> (h w) d", w=width)], dim=-1)
    return table.float().to(torch.get_default_device() if device is None else device)


def rotary_tables(height: int, width: int, head_dim: int, *, base: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines [height * width, head_dim] that turn queries and keys of a row-major grid, float32.

    The grid is laid over the middle of a square of `base` patches, its longer side filling it (HunyuanDiT, arXiv
    2405.08748, section 2.3). Raises: ValueError where head_dim is no multiple of 4.
    """
    if head_dim % 4:
        raise ValueError(f"head_dim is {head_dim}: it must be a multiple of 4, two angles for each of two axes")
    rows, columns = (starts(side, longest=max(height, width), base=base, device=device) for side in (height, width))
    frequencies = 1.0 / 10000.0 ** (
        torch.arange(0, head_dim // 2, 2, dtype=torch.float32, device=device) / (head_dim // 2)
    )
    angles = [
        torch.outer(repeat(columns, "w -> (h w)", h=height), frequencies),
        torch.outer(repeat(rows, "h -> (h w)", w=width), frequencies),
    ]
    turned = repeat(torch.cat(angles, dim=-1), "n d -> n (d two)", two=2)
    return turned.cos(), turned.sin()


def starts(side: int, *, longest: int, base: int, device: torch.device) -> Tensor:
    """Where the `side` patches of a side begin within `base`, scaled so that the longest side fills it, float32."""
    extent = round(base / longest * side)
    first = round((base - extent) / 2)
    last = first + extent * (side - 1) / side
    return torch.linspace(first, last, side, dtype=torch.float32, device=device)


def timestep_sinusoid(timestep: Tensor, width: int = FREQUENCY_WIDTH) -> Tensor:
    """Sinusoid [B, width], cosines first, of timesteps [B] (fractional ones too), float32."""
    half = width // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=timestep.device) / half)
    angles = timestep.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class PatchEmbed(nn.Module):
    """Non-overlapping patches as tokens: [B, C, H, W] -> [B, (H/p)(W/p), D], row-major."""

    def __init__(self, in_channels: int, hidden_size: int, patch_size: int):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, hidden_size, kernel_size=patch_size, stride=patch_size)
        nn.init.xavier_uniform_(self.proj.weight.view(hidden_size, -1))
        nn.init.zeros_(self.proj.bias)

    def forward(self, image: Tensor) -> Tensor:
        return rearrange(self.proj(image), "b d h w -> b (h w) d")


class TimestepEmbedder(nn.Module):
    """Timesteps [B] in the units of training (0..999) as vectors [B, D] of the given dtype."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(FREQUENCY_WIDTH, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size)
        )
        for linear in (self.mlp[0], self.mlp[2]):
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def forward(self, timestep: Tensor, *, dtype: torch.dtype) -> Tensor:
        return self.mlp(timestep_sinusoid(timestep).to(dtype))


class LabelEmbedder(nn.Module):
    """Class ids [B] as vectors [B, D]; where there is a null class it is the last row."""

    def __init__(self, num_rows: int, hidden_size: int):
        super().__init__()
        self.embedding_table = nn.Embedding(num_rows, hidden_size)
        nn.init.normal_(self.embedding_table.weight, std=0.02)

    def forward(self, class_labels: Tensor) -> Tensor:
        return self.embedding_table(class_labels)


def unpatchify(patches: Tensor, *, height: int, width: int, patch_size: int) -> Tensor:
    """Tokens [..., height * width, p * p * C] as images [..., C, height * p, width * p]."""
    return rearrange(patches, "... (h w) (p q c) -> ... c (h p) (w q)", h=height, w=width, p=patch_size, q=patch_size)
