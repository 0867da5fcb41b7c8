"""Classifier-free guidance: uncond + scale (cond - uncond), on some channels.

A model output has `eps_channels` of noise prediction, then perhaps as many of variance:

    channels guided       [0, channels)                uncond + scale (cond - uncond)
    channels left         [channels, all)              cond, unchanged: other noise channels, and all variance channels

DiT guides 3 of 4, which its released numbers rest on; diffusers guides all 4.
"""

import torch
from torch import Tensor


def guided(cond: Tensor, uncond: Tensor, *, scale: float, eps_channels: int, channels: int | None = None) -> Tensor:
    """Push the conditional prediction away from the unconditional one; scale 1 is no push, scale 0 is `uncond`.

    The first `channels` channels are guided (None: all `eps_channels`); the rest stay those of `cond`.
    Shapes: cond and uncond [B, C, ...], where C >= eps_channels; the result is like cond.
    Raises: ValueError if the shapes differ or unless 1 <= channels <= eps_channels <= C.
    Source: classifier-free guidance (arXiv 2207.12598), with its w = scale - 1.
    """
    channels = eps_channels if channels is None else channels
    _check(cond, uncond, eps_channels=eps_channels, channels=channels)
    eps_cond, eps_uncond = cond[:, :channels], uncond[:, :channels]
    return torch.cat([eps_uncond + scale * (eps_cond - eps_uncond), cond[:, channels:]], dim=1)


def _check(cond: Tensor, uncond: Tensor, *, eps_channels: int, channels: int) -> None:
    if cond.shape != uncond.shape:
        raise ValueError(
            f"cond has shape {tuple(cond.shape)}, uncond {tuple(uncond.shape)}; run both on the same x_t, or split one"
            " batch of both in two equal halves."
        )
    if not 1 <= channels <= eps_channels <= cond.shape[1]:
        raise ValueError(
            f"channels is {channels}, eps_channels {eps_channels} and the output has {cond.shape[1]}; choose"
            " 1 <= channels <= eps_channels <= channels of the output (DiT: 3, 4, 8)."
        )
