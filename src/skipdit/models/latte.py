"""Latte, with or without long skips: class-to-video (arXiv 2401.03048; long skips arXiv 2411.17616).

    x_0     = patches(frames) + positions,   c = timestep (+ class)
    x_{i+1} = temporal_i(spatial_i(x_i, c), c)              attention over the tokens of a frame, then over the frames
    output  = unpatchify(final(x_L, c))                     for each frame C channels of noise, C of variance

One layer is such a pair of blocks. The temporal positions are added once, between the two blocks of layer 0. Layers
that close a skip fuse it first, as in DiT. Still images may follow the frames: they bypass the temporal blocks.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from diffusers import ModelMixin  # noqa: F401  (diffusers looks this name up in the module of a saved component)
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from einops import rearrange
from torch import Tensor

from skipdit.models.adaln import AdaLNTransformer, frozen_table
from skipdit.models.checks import check_frames, check_length
from skipdit.models.fits import Size
from skipdit.models.inputs import WHOLE, per_sample, read_class_ids, read_tensor
from skipdit.nn.blocks import xavier_linears
from skipdit.nn.embeddings import sincos_1d, unpatchify
from skipdit.nn.rooms import Seam


class LatteContext(NamedTuple):
    """What every layer of one forward pass is given.

    `video` is the conditioning [B, 1, D] of a clip; `spatial` that of its frames, [B, 1, D] where they share one, or
    [B, F + M, D] with M stills. `frames` is F, `grid` the token grid (h, w), `dtype` that of x_t.
    """

    video: Tensor
    spatial: Tensor
    frames: int
    grid: tuple[int, int]
    dtype: torch.dtype


class Latte(AdaLNTransformer):
    """Latent video Diffusion Transformer; `num_skips` 0 is the vanilla model, depth // 2 is the published skip model.

    Args:
        sample_size: height and width of a (latent) frame, or a pair; other sizes are taken at `forward` too.
        depth: layers, of a spatial and a temporal block each (14 in XL, which is published as 28 blocks).
        num_frames: of the temporal positions; shorter clips are taken at `forward` too.
        num_classes: classes without the null class; 0 is an unconditional model.
        num_skips, fuse, class_dropout_prob, out_channels, prediction_type, id2label: as in `DiT`.

    Raises:
        ValueError: when a setting is out of its bounds.
    """

    blocks_per_layer = 2
    sample_axes, channel_dim = "BFCHW", 2
    constant_inputs = ("class_labels", "image_labels")

    @register_to_config
    def __init__(
        self,
        *,
        sample_size: int | tuple[int, int] = 32,
        patch_size: int = 2,
        in_channels: int = 4,
        out_channels: int | None = None,
        hidden_size: int = 1152,
        depth: int = 14,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        num_frames: int = 16,
        num_classes: int = 0,
        class_dropout_prob: float = 0.1,
        num_skips: int = 0,
        fuse: str = "replace",
        prediction_type: str = "epsilon",
        id2label: Mapping[int, str] | None = None,
    ):
        super().__init__()
        check_length(num_frames=num_frames)
        if num_classes < 0:
            raise ValueError(f"num_classes is {num_classes}: it must be at least 0, which is an unconditional model")
        self.assemble()
        if num_skips and fuse == "replace":
            xavier_linears(self.skip_linears)  # published for class-to-video; class-to-image keeps PyTorch's default
        self.temp_embed = frozen_table(sincos_1d(torch.arange(num_frames), hidden_size))

    @classmethod
    def list_sizes(cls, config: Mapping[str, Any]) -> list[Size]:
        return [*super().list_sizes(config), Size("num_frames", "temp_embed", 1, config["num_frames"])]

    @property
    def leading_sizes(self) -> tuple[int, ...]:
        return (self.config.num_frames, self.config.in_channels)

    def embed(
        self,
        hidden_states: Tensor,
        timestep: Tensor | float,
        class_labels: Tensor | None = None,
        num_images: int = 0,
        image_labels: Tensor | None = None,
    ) -> tuple[Tensor, LatteContext]:
        batch, frames = len(hidden_states), hidden_states.shape[1] - num_images
        check_frames(frames, at_most=self.config.num_frames, num_images=num_images)
        if image_labels is not None:
            image_labels = read_tensor("image_labels", image_labels, kinds=WHOLE, device=hidden_states.device).long()
        self.check_labels(class_labels, image_labels, num_images)
        pictures = rearrange(hidden_states, "b f c h w -> (b f) c h w")
        tokens = self.tokens(self.cast_input(pictures, self.x_embedder.proj))
        stream = rearrange(tokens, "(b f) t d -> b f t d", b=batch)
        time = self.t_embedder(per_sample(timestep, hidden_states), dtype=stream.dtype)[:, None]
        video = time
        if class_labels is not None:
            video = time + self.embed_classes(read_class_ids(class_labels, hidden_states))[:, None]
        spatial = video
        if num_images:
            stills = time if image_labels is None else time + self.embed_classes(image_labels)
            spatial = torch.cat([video.expand(-1, frames, -1), stills.expand(-1, num_images, -1)], dim=1)
        return stream, LatteContext(video, spatial, frames, self.grid_of(hidden_states), hidden_states.dtype)

    def layer(self, index: int, stream: Tensor, context: LatteContext) -> Tensor:
        spatial, temporal = self.blocks[2 * index], self.blocks[2 * index + 1]
        stream = self.call_layer(spatial, stream, context.spatial)
        video, stills = stream[:, : context.frames], stream[:, context.frames :]
        video = rearrange(video, "b f t d -> b t f d")
        if index == 0:
            video = video + self.temp_embed[:, : context.frames].to(video.dtype)
        video = rearrange(self.call_layer(temporal, video, context.video), "b t f d -> b f t d")
        return torch.cat([video, stills], dim=1) if stills.shape[1] else video

    def unembed(self, stream: Tensor, context: LatteContext) -> Tensor:
        patches = self.final_layer(stream, context.spatial).to(context.dtype)
        height, width = context.grid
        return unpatchify(patches, height=height, width=width, patch_size=self.config.patch_size)

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor | float,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
        *,
        num_images: int = 0,
        image_labels: Tensor | None = None,
        seam: Seam | None = None,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """Noise and variance of each frame, from x_t.

        Args:
            hidden_states: x_t [B, F, C, H, W], F at most `num_frames`; joint training puts M stills behind the frames
                of each clip, [B, F + M, C, H, W]. Of any precision, which the output has too.
            timestep: [B], 0..999, or one for all clips.
            class_labels: ids [B] of the clips; None for an unconditional model.
            num_images: M. Stills share no attention with the frames, nor with each other.
            image_labels: ids [B, M] of the stills.
            seam: what a cache puts in the place of the trunk's call.

        Returns: [B, F (+ M), 2C, H, W].
        Raises: ValueError for too many frames, or labels that the model lacks or does not have.
        """
        self.check_samples(hidden_states)
        sample = self.compose(
            hidden_states=hidden_states, timestep=timestep, class_labels=class_labels, num_images=num_images,
            image_labels=image_labels, seam=seam,
        )  # fmt: skip
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)

    def check_labels(self, class_labels: Tensor | None, image_labels: Tensor | None, num_images: int) -> None:
        given = {"class_labels": class_labels is not None, "image_labels": image_labels is not None}
        wanted = {"class_labels": self.config.num_classes > 0}
        wanted["image_labels"] = wanted["class_labels"] and num_images > 0
        for name, is_wanted in wanted.items():
            if given[name] != is_wanted:
                classes, remedy = self.config.num_classes, "give them" if is_wanted else "leave them out"
                said = "are given" if given[name] else "are missing"
                raise ValueError(f"{name} {said} for {num_images} stills and a model of {classes} classes: {remedy}")
        if image_labels is not None and image_labels.shape[1:] != (num_images,):
            shape = tuple(image_labels.shape)
            raise ValueError(f"image_labels have shape {shape}: {num_images} stills need [B, {num_images}]")
