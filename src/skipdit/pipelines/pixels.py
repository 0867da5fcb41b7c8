"""The identity in the place of a VAE, so that a pipeline that decodes latents runs a model of pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from torch import Tensor

if TYPE_CHECKING:  # with these come all of diffusers' autoencoders and scipy, which `import skipdit` does without
    from diffusers.models.autoencoders.vae import DecoderOutput, IdentityDistribution


class PixelAutoencoder(ModelMixin, ConfigMixin):
    """Pixels in [-1, 1] as their own latents; a gray picture comes out in three equal channels.

    Args:
        latent_channels: of the pixels, 1 or 3.
        block_out_channels: one entry, from which pipelines read that a latent is as large as its picture.
        scaling_factor: by which pipelines divide before `decode`, and multiply after `encode`.

    Raises:
        ValueError: when a setting is out of its bounds.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 3,
        block_out_channels: tuple[int, ...] = (1,),
        scaling_factor: float = 1.0,
    ):
        super().__init__()
        if latent_channels not in (1, 3):
            raise ValueError(f"latent_channels is {latent_channels}: pixels have 1 or 3")
        if len(block_out_channels) != 1:
            raise ValueError(f"block_out_channels are {block_out_channels}: pixels are not made smaller, so give one")
        if not scaling_factor > 0:
            raise ValueError(f"scaling_factor is {scaling_factor}: it must be above 0")
        # diffusers reads device and dtype off a tensor, and loads no model whose file has none.
        self.register_buffer("place", torch.zeros(()))

    def encode(self, x: Tensor, return_dict: bool = True) -> AutoencoderKLOutput | tuple[IdentityDistribution]:
        """Pixels [B, C, H, W] as a distribution of one point."""
        from diffusers.models.autoencoders.vae import IdentityDistribution

        posterior = IdentityDistribution(self.checked(x))
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def decode(
        self, z: Tensor, return_dict: bool = True, generator: torch.Generator | None = None
    ) -> DecoderOutput | tuple[Tensor]:
        """Pixels [B, C, H, W] as pictures [B, 3, H, W]; nothing is drawn, so that `generator` stays as it was."""
        from diffusers.models.autoencoders.vae import DecoderOutput

        sample = self.checked(z).repeat(1, 3 // self.config.latent_channels, 1, 1)
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    def forward(
        self,
        sample: Tensor,
        sample_posterior: bool = False,
        return_dict: bool = True,
        generator: torch.Generator | None = None,
    ) -> DecoderOutput | tuple[Tensor]:
        """Encode and decode [B, C, H, W] -> [B, 3, H, W], with the arguments of AutoencoderKL."""
        posterior = self.encode(sample).latent_dist
        return self.decode(posterior.sample(generator) if sample_posterior else posterior.mode(), return_dict)

    def checked(self, pixels: Tensor) -> Tensor:
        channels = self.config.latent_channels
        if pixels.ndim != 4 or pixels.shape[1] != channels:
            raise ValueError(f"pixels have shape {tuple(pixels.shape)}: they must be [B, {channels}, H, W]")
        return pixels
