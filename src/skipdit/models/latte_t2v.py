"""LatteT2V, with or without long skips: text-to-video (arXiv 2401.03048; long skips arXiv 2411.17616).

    x_0     = patches(frames) + positions,   t6, e = timestep,   text = MLP(token states)
    x_{i+1} = temporal_i(spatial_i(x_i, t6, text), t6)      each block adds its own table to t6 (adaLN-single)
    output  = unpatchify(Linear(LN(x_L) (1 + scale) + shift)),   shift, scale = table + e

The spatial blocks attend over the tokens of a frame, then to the text; the temporal ones over the frames. Everything
but the rooms is diffusers' own, so that `LatteTransformer3DModel` folders load and give the same bits. Still images may
follow the frames, each with a text of its own: they bypass the temporal blocks.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from diffusers import ModelMixin  # noqa: F401  (diffusers looks this name up in the module of a saved component)
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.embeddings import PatchEmbed, PixArtAlphaTextProjection
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.normalization import AdaLayerNormSingle
from einops import rearrange, repeat
from torch import Tensor, nn

from skipdit.models.base import LongSkipModel
from skipdit.models.checks import (
    check_activation,
    check_at_least_one,
    check_frames,
    check_grid,
    check_image,
    check_length,
    check_prediction_type,
    check_skips,
    check_tensors,
)
from skipdit.models.fits import Size
from skipdit.models.inputs import per_sample
from skipdit.nn.blocks import NORM_EPS, modulate
from skipdit.nn.embeddings import sincos_1d, unpatchify
from skipdit.nn.rooms import Seam
from skipdit.nn.skips import SkipLinear, SkipNorm

NORM_TYPE = "ada_norm_single"
CAPTION_TOKENS = 120  # that the published pipeline pads captions to
DISCARDED = -10_000.0  # added to the attention scores of masked text (published)


class LatteT2VConstants(NamedTuple):
    """Text [(B N), S, D] and its bias [(B N), 1, S] or None, which do not change over a run; see `LatteT2VContext`."""

    text: Tensor
    text_bias: Tensor | None


class LatteT2VContext(NamedTuple):
    """What every layer of one forward pass is given, repeated as the blocks take it.

    `text` [(B N), S, D] and its bias [(B N), 1, S] or None for each of the N = F (+ M) pictures; `spatial_time`
    [(B N), 6 D] and `temporal_time` [(B T), 6 D]; `embedded_time` [B, 1, D] for the output; `frames` is F and `grid`
    (h, w), `dtype` that of x_t.
    """

    text: Tensor
    text_bias: Tensor | None
    spatial_time: Tensor
    temporal_time: Tensor
    embedded_time: Tensor
    frames: int
    grid: tuple[int, int]
    temporal: bool
    dtype: torch.dtype


class LatteT2V(LongSkipModel):
    """Text-to-video Diffusion Transformer; `num_skips` 0 is diffusers' model, num_layers // 2 the published skip model.

    Args:
        num_layers: of a spatial and a temporal block each.
        sample_size: height and width of a latent frame; other sizes are taken at `forward` too.
        video_length: frames of the temporal positions; shorter clips are taken at `forward` too.
        caption_channels: width of the text encoder's token states.
        num_skips, fuse, prediction_type: as in `DiT`.
        The others as in diffusers' `LatteTransformer3DModel`; the defaults are the published model's.

    Raises:
        ValueError: when a setting is out of its bounds.
    """

    _no_split_modules = ["BasicTransformerBlock"]
    _repeated_blocks = ["BasicTransformerBlock"]
    _skip_layerwise_casting_patterns = ["pos_embed", "norm"]
    _keys_to_ignore_on_load_unexpected = ["caption_projection.y_embedding"]  # an unused buffer of old checkpoints
    stock_names = ("LatteTransformer3DModel",)
    sample_axes = "BCFHW"
    inert = {  # of diffusers 0.24
        "attention_type": "default", "double_self_attention": False, "norm_num_groups": 32, "num_vector_embeds": None,
        "only_cross_attention": False, "upcast_attention": False, "use_linear_projection": False,
    }  # fmt: skip
    constant_inputs = ("encoder_hidden_states", "encoder_attention_mask", "num_images")

    @register_to_config
    def __init__(
        self,
        num_attention_heads: int = 16,
        attention_head_dim: int = 72,
        in_channels: int = 4,
        out_channels: int | None = 8,
        num_layers: int = 28,
        dropout: float = 0.0,
        cross_attention_dim: int | None = 1152,
        attention_bias: bool = True,
        sample_size: int = 64,
        patch_size: int = 2,
        activation_fn: str = "gelu-approximate",
        num_embeds_ada_norm: int | None = 1000,
        norm_type: str = NORM_TYPE,
        norm_elementwise_affine: bool = False,
        norm_eps: float = NORM_EPS,
        caption_channels: int = 4096,
        video_length: int = 16,
        num_skips: int = 0,
        fuse: str = "replace",
        prediction_type: str = "epsilon",
    ):
        super().__init__()
        check_skips(depth=num_layers, num_skips=num_skips, fuse=fuse)
        check_prediction_type(prediction_type)
        check_activation(activation_fn)
        check_at_least_one(
            num_attention_heads=num_attention_heads, attention_head_dim=attention_head_dim, in_channels=in_channels,
            sample_size=sample_size, patch_size=patch_size, caption_channels=caption_channels,
            out_channels=in_channels if out_channels is None else out_channels,
        )  # fmt: skip
        check_length(video_length=video_length)
        check_grid(sample_size, sample_size, patch_size)
        width = num_attention_heads * attention_head_dim
        if norm_type != NORM_TYPE:
            raise ValueError(f"norm_type is {norm_type!r}: Latte has {NORM_TYPE!r} alone")
        if cross_attention_dim != width or width % 4:
            raise ValueError(
                f"cross_attention_dim is {cross_attention_dim} and num_attention_heads x attention_head_dim {width}:"
                " both must be the same, and a multiple of 4"
            )
        self.depth, self.num_skips = num_layers, num_skips
        self.out_channels = in_channels if out_channels is None else out_channels
        self.grid = (sample_size // patch_size, sample_size // patch_size)

        def blocks(*, cross_attention_dim: int | None) -> nn.ModuleList:
            return nn.ModuleList(
                BasicTransformerBlock(
                    width, num_attention_heads, attention_head_dim, dropout=dropout, activation_fn=activation_fn,
                    cross_attention_dim=cross_attention_dim, num_embeds_ada_norm=num_embeds_ada_norm,
                    attention_bias=attention_bias, norm_type=norm_type, norm_eps=norm_eps,
                    norm_elementwise_affine=norm_elementwise_affine,
                )
                for _ in range(num_layers)
            )  # fmt: skip

        self.pos_embed = PatchEmbed(
            height=sample_size, width=sample_size, patch_size=patch_size, in_channels=in_channels, embed_dim=width,
            interpolation_scale=max(sample_size // 64, 1),
        )  # fmt: skip
        self.transformer_blocks = blocks(cross_attention_dim=cross_attention_dim)
        self.temporal_transformer_blocks = blocks(cross_attention_dim=None)
        self.scale_shift_table = nn.Parameter(torch.randn(2, width) / width**0.5)
        self.proj_out = nn.Linear(width, patch_size**2 * self.out_channels)
        self.adaln_single = AdaLayerNormSingle(width, use_additional_conditions=False)
        self.caption_projection = PixArtAlphaTextProjection(in_features=caption_channels, hidden_size=width)
        table = sincos_1d(torch.arange(video_length), width).float()
        self.register_buffer("temp_pos_embed", table[None], persistent=False)
        if num_skips:
            self.skip_norms = nn.ModuleList(SkipNorm(width) for _ in range(num_skips))
            self.skip_linears = nn.ModuleList(SkipLinear(width, fuse=fuse) for _ in range(num_skips))

    @classmethod
    def list_sizes(cls, config: Mapping[str, Any]) -> list[Size]:
        channels, patch, heads = config["in_channels"], config["patch_size"], config["num_attention_heads"]
        outputs = channels if config["out_channels"] is None else config["out_channels"]
        width = heads * config["attention_head_dim"]
        return [
            Size("num_attention_heads x attention_head_dim", "pos_embed.proj.weight", 0, width),
            Size("in_channels", "pos_embed.proj.weight", 1, channels),
            Size("patch_size", "pos_embed.proj.weight", 2, patch),
            Size("num_layers", "transformer_blocks", 0, config["num_layers"]),
            Size("out_channels", "proj_out.bias", 0, patch**2 * outputs),
            Size("caption_channels", "caption_projection.linear_1.weight", 1, config["caption_channels"]),
        ]

    def example_inputs(self, batch: int = 1) -> dict[str, Tensor]:
        config, device = self.config, self.device
        clip = (config.in_channels, config.video_length, config.sample_size, config.sample_size)
        return {
            "hidden_states": torch.zeros(batch, *clip, device=device),
            "timestep": torch.zeros(batch, device=device),
            "encoder_hidden_states": torch.zeros(batch, CAPTION_TOKENS, config.caption_channels, device=device),
        }

    def constants(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
        num_images: int | None = None,
    ) -> LatteT2VConstants:
        stills, pictures = num_images or 0, hidden_states.shape[2]
        check_frames(pictures - stills, at_most=self.config.video_length, num_images=stills)
        check_text(encoder_hidden_states, encoder_attention_mask, num_images=stills)
        states = self.caption_projection(self.cast_input(encoder_hidden_states, self.pos_embed.proj))
        text = per_picture(states, frames=pictures - stills, pictures=pictures)
        if encoder_attention_mask is None:
            return LatteT2VConstants(text, None)
        bias = self.cast_input(encoder_attention_mask, self.pos_embed.proj)
        if is_bias(encoder_attention_mask, num_images=stills):
            return LatteT2VConstants(text, repeat(bias, "b 1 s -> (b f) 1 s", f=pictures))
        mask = per_picture(bias[..., None], frames=pictures - stills, pictures=pictures)
        return LatteT2VConstants(text, rearrange((1 - mask) * DISCARDED, "n s 1 -> n 1 s"))

    def embed(
        self,
        hidden_states: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
        enable_temporal_attentions: bool = True,
        num_images: int = 0,
        constants: LatteT2VConstants | None = None,
    ) -> tuple[Tensor, LatteT2VContext]:
        batch, _, pictures, height, width = hidden_states.shape
        frames, patch = pictures - num_images, self.config.patch_size
        check_image(height, width, patch)
        if constants is None:
            constants = self.constants(hidden_states, encoder_hidden_states, encoder_attention_mask, num_images)
        pictured = rearrange(hidden_states, "b c f h w -> (b f) c h w")
        tokens = self.pos_embed(self.cast_input(pictured, self.pos_embed.proj))
        stream = rearrange(tokens, "(b f) t d -> b f t d", b=batch)
        timesteps = per_sample(timestep, hidden_states)
        time, embedded = self.adaln_single(timesteps, batch_size=batch, hidden_dtype=stream.dtype)
        return stream, LatteT2VContext(
            text=constants.text,
            text_bias=constants.text_bias,
            spatial_time=repeat(time, "b d -> (b f) d", f=pictures),
            temporal_time=repeat(time, "b d -> (b t) d", t=stream.shape[2]),
            embedded_time=embedded[:, None],
            frames=frames,
            grid=(height // patch, width // patch),
            temporal=enable_temporal_attentions,
            dtype=hidden_states.dtype,
        )

    def layer(self, index: int, stream: Tensor, context: LatteT2VContext) -> Tensor:
        batch = len(stream)
        spatial = self.call_layer(
            self.transformer_blocks[index], rearrange(stream, "b f t d -> (b f) t d"), None, context.text,
            context.text_bias, context.spatial_time,
        )  # fmt: skip
        stream = rearrange(spatial, "(b f) t d -> b f t d", b=batch)
        if not context.temporal:
            return stream
        video, stills = stream[:, : context.frames], stream[:, context.frames :]
        video = rearrange(video, "b f t d -> (b t) f d")
        if index == 0 and context.frames > 1:
            video = video + self.temp_pos_embed[:, : context.frames].to(video.dtype)
        temporal = self.temporal_transformer_blocks[index]
        video = self.call_layer(temporal, video, None, None, None, context.temporal_time)
        video = rearrange(video, "(b t) f d -> b f t d", b=batch)
        return torch.cat([video, stills], dim=1) if stills.shape[1] else video

    def unembed(self, stream: Tensor, context: LatteT2VContext) -> Tensor:
        shift, scale = (self.scale_shift_table + context.embedded_time).chunk(2, dim=1)  # [B, 1, D] each
        patches = self.proj_out(modulate(stream, shift, scale)).to(context.dtype)
        height, width = context.grid
        frames = unpatchify(patches, height=height, width=width, patch_size=self.config.patch_size)
        return rearrange(frames, "b f c h w -> b c f h w")

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
        enable_temporal_attentions: bool = True,
        return_dict: bool = True,
        *,
        num_images: int = 0,
        seam: Seam | None = None,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """Noise and variance of each frame, from x_t and text.

        Args:
            hidden_states: x_t [B, C, F, H, W], F at most `video_length`; joint training puts M stills behind the frames
                of each clip, [B, C, F + M, H, W]. Of any precision, which the output has too.
            timestep: [B], 0..999, or one for all clips.
            encoder_hidden_states: token states [B, S, caption_channels]; with stills [B, 1 + M, S, caption_channels],
                the clip's text and one for each still.
            encoder_attention_mask: 1 where a token counts and 0 where it is padding, [B, S] or [B, 1 + M, S]; without
                stills also diffusers' additive bias [B, 1, S] in floating point, 0 and -10000, taken as it is.
            enable_temporal_attentions: False leaves the temporal blocks out: F pictures apart from each other.
            num_images: M.
            seam: what a cache puts in the place of the trunk's call.

        Returns: [B, out_channels, F (+ M), H, W].
        Raises: ValueError for too many frames, or text that does not fit.
        """
        self.check_samples(hidden_states)
        sample = self.compose(
            hidden_states=hidden_states, timestep=timestep, encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask, enable_temporal_attentions=enable_temporal_attentions,
            num_images=num_images, seam=seam,
        )  # fmt: skip
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)


def per_picture(text: Tensor, *, frames: int, pictures: int) -> Tensor:
    """Text [B, S, D], or [B, 1 + M, S, D] where M stills follow the frames, as [(B pictures), S, D]."""
    if text.ndim == 3:
        return repeat(text, "b s d -> (b f) s d", f=pictures)
    of_frames = repeat(text[:, 0], "b s d -> b f s d", f=frames)
    return rearrange(torch.cat([of_frames, text[:, 1:]], dim=1), "b f s d -> (b f) s d")


def check_text(text: Tensor, mask: Tensor | None, *, num_images: int) -> None:
    check_tensors(encoder_hidden_states=text, **({} if mask is None else {"encoder_attention_mask": mask}))
    wanted = "[B, S, C]" if num_images == 0 else f"[B, {1 + num_images}, S, C]"
    fits = text.ndim == 3 if num_images == 0 else text.ndim == 4 and text.shape[1] == 1 + num_images
    if not fits:
        raise ValueError(
            f"encoder_hidden_states has shape {tuple(text.shape)}: with {num_images} stills it must be {wanted}"
        )
    if mask is None or mask.shape == text.shape[:-1]:
        return
    if is_bias(mask, num_images=num_images) and mask.shape == (len(text), 1, text.shape[1]):
        return
    or_bias = f", or a floating-point bias {(len(text), 1, text.shape[1])}" if num_images == 0 else ""
    raise ValueError(
        f"encoder_attention_mask has shape {tuple(mask.shape)} and dtype {mask.dtype}: for this text it must be"
        f" {tuple(text.shape[:-1])}{or_bias}"
    )


def is_bias(mask: Tensor, *, num_images: int) -> bool:
    """Whether a text mask is the additive bias [B, 1, S] of diffusers; with stills [B, 1 + M, S] is a mask."""
    return num_images == 0 and mask.ndim == 3 and mask.is_floating_point()
