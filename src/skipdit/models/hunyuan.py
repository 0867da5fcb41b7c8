"""HunyuanDiT: text-to-image with two text encoders and long skips of its own (arXiv 2405.08748).

    text    = [BERT states | MLP(T5 states)], a learned table where either is padding
    c       = MLP(timestep) + MLP(pool(T5 states) | sizes | style)
    x_0     = patches(x_t)                                      positions are rotations of queries and keys
    x_{i+1} = block_i(x_i, c, text),   the last m on Linear(LN([x_i | x_{L-i}]))      m = 19 of L = 40
    output  = unpatchify(Linear(LN(x_L) (1 + scale) + shift)),   scale, shift = Linear(SiLU(c))

Modules and their names are diffusers' own, so that `HunyuanDiT2DModel` folders load and give the same bits. Ours are
the rooms, how the pooler calls its linears, and the rotary tables (docs/decisions/0013). Text and its pooling do not
change from step to step: `constants`, worked out once a run where a cache is on.
"""

import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from diffusers import ModelMixin  # noqa: F401  (diffusers looks this name up in the module of a saved component)
from diffusers.configuration_utils import register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.attention import AttentionMixin
from diffusers.models.attention_processor import Attention, FusedHunyuanAttnProcessor2_0, HunyuanAttnProcessor2_0
from diffusers.models.embeddings import (
    HunyuanCombinedTimestepTextSizeStyleEmbedding,
    HunyuanDiTAttentionPool,
    PatchEmbed,
    PixArtAlphaTextProjection,
)
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.normalization import AdaLayerNormContinuous
from einops import rearrange
from torch import Tensor, nn

from skipdit.models.base import LongSkipModel
from skipdit.models.checks import (
    check_activation,
    check_at_least_one,
    check_grid,
    check_image,
    check_prediction_type,
    check_ratio,
    check_skips,
    check_tensors,
)
from skipdit.models.fits import Size
from skipdit.models.inputs import per_sample
from skipdit.nn.blocks import NORM_EPS, xavier_linears, zero
from skipdit.nn.embeddings import rotary_tables, unpatchify
from skipdit.nn.rooms import Seam

if TYPE_CHECKING:
    from diffusers import HunyuanDiT2DModel

BASE_SIDE = 64  # in latent pixels: the square over which rotary positions are laid ("base512" of the published code)
POOL_HEADS = 8  # published
NORM_TYPE = "layer_norm"
ROTARY = ("exact", "given")


class HunyuanDiTConstants(NamedTuple):
    """What does not change over a run: text [B, S, C], its pooling [B, D], cosines and sines [T, head_dim]."""

    text: Tensor
    pooled: Tensor
    rotary: tuple[Tensor, Tensor] | None


class HunyuanDiTContext(NamedTuple):
    """What every layer of one forward pass is given; `controls` are a ControlNet's, one for each skip or none."""

    text: Tensor
    conditioning: Tensor
    rotary: tuple[Tensor, Tensor]
    controls: Sequence[Tensor] | None
    grid: tuple[int, int]


class Pooler(HunyuanDiTAttentionPool):
    """diffusers' pooler, but with its linears called, not their weights read: offloading and LoRA act on calls."""

    def forward(self, states: Tensor) -> Tensor:
        """[B, S, C] -> [B, pooled_projection_dim]: attention of the mean over all tokens, padding too (published)."""
        states = torch.cat([states.mean(dim=1, keepdim=True), states], dim=1) + self.positional_embedding.to(
            states.dtype
        )
        query = rearrange(self.q_proj(states[:, 0]), "b (h d) -> b h 1 d", h=self.num_heads)
        key, value = (
            rearrange(linear(states), "b s (h d) -> b h s d", h=self.num_heads) for linear in (self.k_proj, self.v_proj)
        )
        return self.c_proj(rearrange(F.scaled_dot_product_attention(query, key, value), "b h 1 d -> b (h d)"))


class HunyuanDiT(LongSkipModel, AttentionMixin, PeftAdapterMixin):
    """Text-to-image Diffusion Transformer with long skips; the defaults are version 1.1 of the published model.

    Version 1.2 and its distilled one have `use_style_cond_and_image_meta_size=False`.

    Args:
        hidden_size: num_attention_heads x attention_head_dim.
        sample_size: height and width of the latent image; other sizes are taken at `forward` too.
        num_skips: 0 to num_layers // 2; None is the published (num_layers - 1) // 2, so that an even depth has two
            layers without a partner in its middle.
        rotary: "exact" lays positions over any size itself and has no use for tables that a pipeline gives, since those
            of diffusers are wrong where the image is no square (docs/decisions/0013); "given" takes the given ones.
        prediction_type: as in `DiT`; "v_prediction" is the published.
        The others as in diffusers' `HunyuanDiT2DModel`.

    Raises:
        ValueError: when a setting is out of its bounds.
    """

    _no_split_modules = ["HunyuanDiTBlock"]
    _repeated_blocks = ["HunyuanDiTBlock"]
    _skip_layerwise_casting_patterns = ["pos_embed", "norm", "pooler"]
    stock_names = ("HunyuanDiT2DModel",)
    constant_inputs = (
        "encoder_hidden_states", "text_embedding_mask", "encoder_hidden_states_t5", "text_embedding_mask_t5",
        "image_meta_size", "style",
    )  # fmt: skip

    @register_to_config
    def __init__(
        self,
        num_attention_heads: int = 16,
        attention_head_dim: int = 88,
        in_channels: int = 4,
        patch_size: int = 2,
        activation_fn: str = "gelu-approximate",
        sample_size: int = 128,
        hidden_size: int = 1408,
        num_layers: int = 40,
        mlp_ratio: float = 4.3637,
        learn_sigma: bool = True,
        cross_attention_dim: int = 1024,
        norm_type: str = NORM_TYPE,
        cross_attention_dim_t5: int = 2048,
        pooled_projection_dim: int = 1024,
        text_len: int = 77,
        text_len_t5: int = 256,
        use_style_cond_and_image_meta_size: bool = True,
        num_skips: int | None = None,
        prediction_type: str = "v_prediction",
        rotary: str = "exact",
    ):
        # Here, for diffusers loads every transformer that it has with this one.
        from diffusers.models.transformers.hunyuan_transformer_2d import HunyuanDiTBlock

        super().__init__()
        self.depth = num_layers
        self.num_skips = (num_layers - 1) // 2 if num_skips is None else num_skips
        check_skips(depth=num_layers, num_skips=self.num_skips, fuse="replace")
        check_prediction_type(prediction_type)
        check_activation(activation_fn)
        check_at_least_one(
            num_attention_heads=num_attention_heads, attention_head_dim=attention_head_dim, in_channels=in_channels,
            patch_size=patch_size, sample_size=sample_size, text_len=text_len, text_len_t5=text_len_t5,
            cross_attention_dim=cross_attention_dim, cross_attention_dim_t5=cross_attention_dim_t5,
            pooled_projection_dim=pooled_projection_dim,
        )  # fmt: skip
        check_grid(sample_size, sample_size, patch_size)
        check_ratio(mlp_ratio)
        check_settings(self.config)
        self.num_heads, self.inner_dim = num_attention_heads, hidden_size  # HunyuanDiTPipeline reads them
        self.out_channels = 2 * in_channels if learn_sigma else in_channels
        self.grid = (sample_size // patch_size, sample_size // patch_size)

        self.text_embedder = PixArtAlphaTextProjection(
            in_features=cross_attention_dim_t5, hidden_size=4 * cross_attention_dim_t5,
            out_features=cross_attention_dim, act_fn="silu_fp32",
        )  # fmt: skip
        self.text_embedding_padding = nn.Parameter(torch.randn(text_len + text_len_t5, cross_attention_dim))
        self.pos_embed = PatchEmbed(
            height=sample_size, width=sample_size, in_channels=in_channels, embed_dim=hidden_size,
            patch_size=patch_size, pos_embed_type=None,
        )  # fmt: skip
        self.time_extra_emb = HunyuanCombinedTimestepTextSizeStyleEmbedding(
            hidden_size, pooled_projection_dim=pooled_projection_dim, seq_len=text_len_t5,
            cross_attention_dim=cross_attention_dim_t5,
            use_style_cond_and_image_meta_size=use_style_cond_and_image_meta_size,
        )  # fmt: skip
        self.time_extra_emb.pooler = Pooler(
            text_len_t5, cross_attention_dim_t5, num_heads=POOL_HEADS, output_dim=pooled_projection_dim
        )
        self.blocks = nn.ModuleList(
            HunyuanDiTBlock(
                dim=hidden_size, num_attention_heads=num_attention_heads, cross_attention_dim=cross_attention_dim,
                activation_fn=activation_fn, ff_inner_dim=int(hidden_size * mlp_ratio), qk_norm=True,
                skip=index >= num_layers - self.num_skips,
            )
            for index in range(num_layers)
        )  # fmt: skip
        self.norm_out = AdaLayerNormContinuous(hidden_size, hidden_size, elementwise_affine=False, eps=NORM_EPS)
        self.proj_out = nn.Linear(hidden_size, patch_size**2 * self.out_channels)
        self.initialise()

    def initialise(self) -> None:
        """As published: Xavier; blocks that begin unmodulated, and an output of zero."""
        xavier_linears(self)
        nn.init.xavier_uniform_(self.pos_embed.proj.weight.view(self.inner_dim, -1))
        nn.init.zeros_(self.pos_embed.proj.bias)
        embedders = (self.time_extra_emb.timestep_embedder, self.time_extra_emb.extra_embedder)
        for linear in (linear for mlp in embedders for linear in (mlp.linear_1, mlp.linear_2)):
            nn.init.normal_(linear.weight, std=0.02)
        for linear in (*(block.norm1.linear for block in self.blocks), self.norm_out.linear, self.proj_out):
            zero(linear)

    @classmethod
    def from_diffusers(cls, transformer: "HunyuanDiT2DModel", **changes: Any) -> "HunyuanDiT":
        """The same model in three rooms: its modules are those of `transformer`, weights, adapters and all; no copy.

        `changes` are arguments of this class: rotary, prediction_type. What the config says beside such arguments, of
        quantization for one, is in the modules already.

        Raises:
            ValueError: the model is offloaded: hooks of modules that are not taken over would be lost.
        """
        theirs = transformer.time_extra_emb
        check_not_offloaded(transformer, theirs, theirs.pooler)
        known = inspect.signature(cls).parameters
        with torch.device("meta"):
            model = cls(**{name: value for name, value in transformer.config.items() if name in known} | changes)
        pooler = share(model.time_extra_emb.pooler, theirs.pooler)
        share(model, transformer, time_extra_emb=share(model.time_extra_emb, theirs, pooler=pooler))
        if "peft_config" in vars(transformer):
            model.peft_config, model._hf_peft_config_loaded = transformer.peft_config, True
        return model.train(transformer.training)

    @classmethod
    def list_sizes(cls, config: Mapping[str, Any]) -> list[Size]:
        channels, patch, width = config["in_channels"], config["patch_size"], config["hidden_size"]
        pooler, length_t5 = "time_extra_emb.pooler", config["text_len_t5"]
        return [
            Size("hidden_size", "pos_embed.proj.weight", 0, width),
            Size("in_channels", "pos_embed.proj.weight", 1, channels),
            Size("patch_size", "pos_embed.proj.weight", 2, patch),
            Size("attention_head_dim", "blocks.0.attn1.norm_q.weight", 0, config["attention_head_dim"]),
            Size("num_layers", "blocks", 0, config["num_layers"]),
            Size("mlp_ratio", "blocks.0.ff.net.0.proj.bias", 0, int(width * config["mlp_ratio"])),
            Size("cross_attention_dim", "text_embedding_padding", 1, config["cross_attention_dim"]),
            Size("cross_attention_dim_t5", f"{pooler}.positional_embedding", 1, config["cross_attention_dim_t5"]),
            Size("text_len_t5", f"{pooler}.positional_embedding", 0, length_t5 + 1),
            Size("text_len", "text_embedding_padding", 0, config["text_len"] + length_t5),
            Size("pooled_projection_dim", f"{pooler}.c_proj.bias", 0, config["pooled_projection_dim"]),
            Size("learn_sigma", "proj_out.bias", 0, patch**2 * channels * (2 if config["learn_sigma"] else 1)),
        ]

    def example_inputs(self, batch: int = 1) -> dict[str, Tensor]:
        config, device = self.config, self.device
        side = config.sample_size
        inputs = {
            "hidden_states": torch.zeros(batch, config.in_channels, side, side, device=device),
            "timestep": torch.zeros(batch, device=device),
            "encoder_hidden_states": torch.zeros(batch, config.text_len, config.cross_attention_dim, device=device),
            "text_embedding_mask": torch.ones(batch, config.text_len, device=device),
            "encoder_hidden_states_t5": torch.zeros(
                batch, config.text_len_t5, config.cross_attention_dim_t5, device=device
            ),
            "text_embedding_mask_t5": torch.ones(batch, config.text_len_t5, device=device),
        }
        if config.use_style_cond_and_image_meta_size:
            inputs["image_meta_size"] = torch.zeros(batch, 6, device=device)
            inputs["style"] = torch.zeros(batch, dtype=torch.long, device=device)
        if config.rotary == "given":
            inputs["image_rotary_emb"] = self.exact_tables(self.grid, device)
        return inputs

    def exact_tables(self, grid: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
        """Cosines and sines [T, head_dim] of the positions in a grid."""
        base = BASE_SIDE // self.config.patch_size
        return rotary_tables(*grid, self.config.attention_head_dim, base=base, device=device)

    def attentions(self) -> Iterator[Attention]:
        return (module for module in self.modules() if isinstance(module, Attention))

    def fuse_qkv_projections(self) -> None:
        """Project queries, keys and values at once, or keys and values where text is attended to.

        Raises:
            ValueError: attention has adapters: the fused projections would be without them.
        """
        if any(".lora_" in name for attention in self.attentions() for name, _ in attention.named_parameters()):
            raise ValueError("attention has adapters, which fusing would drop: fuse_lora() and unload_lora() first")
        for attention in self.attentions():
            attention.fuse_projections(fuse=True)
        self.set_attn_processor(FusedHunyuanAttnProcessor2_0())

    def unfuse_qkv_projections(self) -> None:
        """Project them apart again, where they were fused."""
        for attention in filter(lambda attention: attention.fused_projections, self.attentions()):
            delattr(attention, "to_kv" if attention.is_cross_attention else "to_qkv")
            attention.fused_projections = False
            attention.set_processor(HunyuanAttnProcessor2_0())

    def constants(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        text_embedding_mask: Tensor,
        encoder_hidden_states_t5: Tensor,
        text_embedding_mask_t5: Tensor,
        image_meta_size: Tensor | None = None,
        style: Tensor | None = None,
    ) -> HunyuanDiTConstants:
        dtype, grid = self.pos_embed.proj.weight.dtype, self.grid_of(hidden_states)
        check_text("encoder_hidden_states", encoder_hidden_states, text_embedding_mask, length=self.config.text_len)
        check_text(
            "encoder_hidden_states_t5", encoder_hidden_states_t5, text_embedding_mask_t5, length=self.config.text_len_t5
        )
        states_t5 = encoder_hidden_states_t5.to(dtype)
        text = torch.cat([encoder_hidden_states.to(dtype), self.text_embedder(states_t5)], dim=1)
        mask = torch.cat([text_embedding_mask, text_embedding_mask_t5], dim=-1)
        return HunyuanDiTConstants(
            text=torch.where(mask[..., None].bool(), text, self.text_embedding_padding),
            pooled=self.time_extra_emb.extra_embedder(self.extras(states_t5, image_meta_size, style)),
            rotary=self.exact_tables(grid, hidden_states.device) if self.config.rotary == "exact" else None,
        )

    def extras(self, states_t5: Tensor, image_meta_size: Tensor | None, style: Tensor | None) -> Tensor:
        """What conditions every token beside the timestep: pooled text; up to version 1.1 sizes and style too."""
        embed = self.time_extra_emb
        pooled = embed.pooler(states_t5)
        if not self.config.use_style_cond_and_image_meta_size:
            return pooled
        if image_meta_size is None or style is None:
            raise ValueError("image_meta_size or style is missing: this model (up to version 1.1) needs both")
        sizes = rearrange(embed.size_proj(image_meta_size.flatten()), "(b n) d -> b (n d)", b=len(pooled))
        return torch.cat([pooled, sizes.to(pooled.dtype), embed.style_embedder(style)], dim=1)

    def embed(
        self,
        hidden_states: Tensor,
        timestep: Tensor | float,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
        controlnet_block_samples: Sequence[Tensor] | None = None,
        constants: HunyuanDiTConstants | None = None,
        **constant: Tensor | None,
    ) -> tuple[Tensor, HunyuanDiTContext]:
        if constants is None:
            constants = self.constants(hidden_states, **constant)
        if controlnet_block_samples is not None and len(controlnet_block_samples) != self.num_skips:
            number = len(controlnet_block_samples)
            raise ValueError(f"controlnet_block_samples are {number}: this model has {self.num_skips} skips, one each")
        stream = self.pos_embed(hidden_states)
        embed = self.time_extra_emb
        time = embed.timestep_embedder(embed.time_proj(per_sample(timestep, hidden_states)).to(stream.dtype))
        return stream, HunyuanDiTContext(
            text=constants.text,
            conditioning=time + constants.pooled,
            rotary=given_tables(image_rotary_emb) if constants.rotary is None else constants.rotary,
            controls=controlnet_block_samples,
            grid=self.grid_of(hidden_states),
        )

    def layer(self, index: int, stream: Tensor, context: HunyuanDiTContext) -> Tensor:
        return self.call_layer(self.blocks[index], stream, context.text, context.conditioning, context.rotary)

    def close(self, index: int, stream: Tensor, skip: Tensor, context: HunyuanDiTContext) -> Tensor:
        if context.controls is not None:
            skip = skip + context.controls[self.depth - 1 - index]
        return self.call_layer(self.blocks[index], stream, context.text, context.conditioning, context.rotary, skip)

    def unembed(self, stream: Tensor, context: HunyuanDiTContext) -> Tensor:
        patches = self.proj_out(self.norm_out(stream, context.conditioning.float()))
        height, width = context.grid
        return unpatchify(patches, height=height, width=width, patch_size=self.config.patch_size)

    def grid_of(self, hidden_states: Tensor) -> tuple[int, int]:
        """Rows and columns of patches; ValueError where they are not whole."""
        height, width = hidden_states.shape[-2:]
        check_image(height, width, self.config.patch_size)
        return height // self.config.patch_size, width // self.config.patch_size

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        text_embedding_mask: Tensor,
        encoder_hidden_states_t5: Tensor,
        text_embedding_mask_t5: Tensor,
        image_meta_size: Tensor | None = None,
        style: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
        controlnet_block_samples: Sequence[Tensor] | None = None,
        return_dict: bool = True,
        *,
        seam: Seam | None = None,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """What the model says of x_t and text (v, as published), with variance channels behind.

        Args:
            hidden_states: x_t [B, C, H, W], of any precision: a half-precision model takes float32 and gives it back.
            timestep: [B], 0..999, of any type; bfloat16 would round them, which is warned of.
            encoder_hidden_states: states of the BERT [B, text_len, cross_attention_dim].
            text_embedding_mask: 1 where a token counts and 0 where it is padding [B, text_len].
            encoder_hidden_states_t5, text_embedding_mask_t5: the same of the T5 [B, text_len_t5, ...].
            image_meta_size, style: six sizes [B, 6] and the style's id [B]; versions above 1.1 have no use for them.
            image_rotary_emb: cosines and sines [T, head_dim], see `rotary`.
            controlnet_block_samples: [B, T, D] for each skip, the outermost first, added to it; the list stays whole.
            seam: what a cache puts in the place of the trunk's call.

        Returns: [B, 2C, H, W], or [B, C, H, W] without `learn_sigma`.
        Raises: ValueError for sizes that do not fit.
        """
        self.check_samples(hidden_states)
        warn_of_rounding(timestep)
        sample = self.compose(
            hidden_states=hidden_states.to(self.pos_embed.proj.weight.dtype), timestep=timestep,
            encoder_hidden_states=encoder_hidden_states, text_embedding_mask=text_embedding_mask,
            encoder_hidden_states_t5=encoder_hidden_states_t5, text_embedding_mask_t5=text_embedding_mask_t5,
            image_meta_size=image_meta_size, style=style, image_rotary_emb=image_rotary_emb,
            controlnet_block_samples=controlnet_block_samples, seam=seam,
        ).to(hidden_states.dtype)  # fmt: skip
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)


def share(mine: nn.Module, theirs: nn.Module, **but: nn.Module) -> nn.Module:
    """`mine` with the parameters and children of `theirs`, those of `but` excepted."""
    for name, part in (*theirs.named_parameters(recurse=False), *theirs.named_children()):
        setattr(mine, name, but.get(name, part))
    return mine


def check_not_offloaded(*modules: nn.Module) -> None:
    """accelerate hangs a hook on a module, diffusers a registry of hooks, which stays when they are gone."""
    for own in map(vars, modules):
        if "_hf_hook" in own or "_diffusers_hook" in own and own["_diffusers_hook"].hooks:
            raise ValueError("the model has hooks of offloading, which would be lost: make it ours before offloading")


def check_settings(config: Any) -> None:
    width = config.num_attention_heads * config.attention_head_dim
    if config.hidden_size != width:
        raise ValueError(
            f"hidden_size is {config.hidden_size} and num_attention_heads x attention_head_dim {width}: make them equal"
        )
    if config.attention_head_dim % 4:
        raise ValueError(f"attention_head_dim is {config.attention_head_dim}: rotations need a multiple of 4")
    if config.cross_attention_dim_t5 % POOL_HEADS:
        raise ValueError(
            f"cross_attention_dim_t5 is {config.cross_attention_dim_t5}: the pooler's {POOL_HEADS} heads need a"
            " multiple"
        )
    if config.norm_type != NORM_TYPE:
        raise ValueError(f"norm_type is {config.norm_type!r}: HunyuanDiT has {NORM_TYPE!r} alone")
    if config.rotary not in ROTARY:
        raise ValueError(f"rotary is {config.rotary!r}: take one of {', '.join(ROTARY)}")


def check_text(name: str, states: Tensor, mask: Tensor, *, length: int) -> None:
    check_tensors(**{name: states, f"the mask of {name}": mask})
    if states.shape[1] != length or mask.shape != states.shape[:2]:
        raise ValueError(
            f"{name} has shape {tuple(states.shape)} and its mask {tuple(mask.shape)}: this model takes {length}"
            " tokens, padded and masked"
        )


def given_tables(tables: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
    if tables is None:
        raise ValueError("image_rotary_emb is missing: give it, or make the model with rotary='exact'")
    return tables


def warn_of_rounding(timestep: Tensor | float) -> None:
    if isinstance(timestep, Tensor) and timestep.dtype == torch.bfloat16:
        warnings.warn(
            "timestep comes in bfloat16, which rounds 991 to 992: give it in float32, or use float16"
            " (HunyuanDiTPipeline takes the dtype of its latents for it: give it latents in float32)",
            stacklevel=3,
        )
