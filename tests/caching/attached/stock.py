"""The transformers of diffusers that have a layout, at tiny sizes with random weights, and calls of them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import diffusers
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True)
class Stock:
    """A class, its tiny settings, its conditions (drawn once a run) and how the sample and timestep are given."""

    name: str
    config: dict[str, Any]
    conditions: Callable[[], dict[str, Any]]
    sample: Callable[[], Any]
    depth: int
    timestep: Callable[[float], Any] = lambda level: torch.full((2,), level)
    names: tuple[str, str] = ("hidden_states", "timestep")
    skips: bool = False
    options: dict[str, Any] = field(default_factory=lambda: {"return_dict": False})

    def build(self) -> nn.Module:
        torch.manual_seed(0)
        model = getattr(diffusers, self.name)(**self.config).eval()
        for parameter in model.parameters():
            parameter.data = torch.randn_like(parameter) * (0.3 / max(1, parameter[0].numel()) ** 0.5 + 0.02)
        return model

    def call(self, level: float, conditions: dict[str, Any], *, seed: int = 0) -> dict[str, Any]:
        """One call at a noise level from 1000 to 0."""
        with torch.random.fork_rng():
            torch.manual_seed(seed * 10_000 + int(level))
            moving = {self.names[0]: self.sample(), self.names[1]: self.timestep(level)}
        return conditions | moving | self.options

    def draw_conditions(self, seed: int = 0) -> dict[str, Any]:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return self.conditions()


def tensors(output: Any) -> list[Tensor]:
    return [each for each in tree_leaves(output) if isinstance(each, Tensor)]


def randn(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(*shape)


def text(length: int, channels: int, /, **more: Callable[[], Any]) -> Callable[[], dict[str, Any]]:
    def draw() -> dict[str, Any]:
        states = torch.randn(2, length, channels)
        return {"encoder_hidden_states": states} | {name: make() for name, make in more.items()}

    return draw


def whole(level: float) -> Tensor:
    return torch.full((2,), int(level))


def flow(level: float) -> Tensor:
    return torch.full((2,), level / 1000)


def rising(level: float) -> Tensor:
    return torch.full((2,), 1 - level / 1000)


def ids(rows: int, columns: int) -> Callable[[], Tensor]:
    return lambda: torch.zeros(rows, columns)


DIT = {"num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 4, "sample_size": 8, "patch_size": 2}
FLUX = {
    "patch_size": 1, "in_channels": 4, "num_layers": 3, "num_single_layers": 3, "attention_head_dim": 16,
    "num_attention_heads": 2, "joint_attention_dim": 12, "axes_dims_rope": (4, 4, 8),
}  # fmt: skip
FLUX_IDS = {"img_ids": ids(16, 3), "txt_ids": ids(5, 3)}
STOCK = [
    Stock(
        "DiTTransformer2DModel", DIT | {"num_layers": 6, "out_channels": 8, "num_embeds_ada_norm": 10},
        lambda: {"class_labels": torch.tensor([1, 2])}, randn(2, 4, 8, 8), 6, whole,
    ),
    Stock(
        "PixArtTransformer2DModel",
        DIT | {"num_layers": 6, "out_channels": 8, "cross_attention_dim": 16, "caption_channels": 12,
               "use_additional_conditions": False},
        text(5, 12, added_cond_kwargs=lambda: {"resolution": None, "aspect_ratio": None}), randn(2, 4, 8, 8), 6, whole,
    ),
    Stock(
        "LatteTransformer3DModel",
        DIT | {"num_layers": 6, "out_channels": 8, "cross_attention_dim": 16, "caption_channels": 12,
               "video_length": 3},
        text(5, 12), randn(2, 4, 3, 8, 8), 6, whole,
    ),
    Stock(
        "HunyuanDiT2DModel",
        {"num_attention_heads": 2, "attention_head_dim": 8, "hidden_size": 16, "num_layers": 6, "mlp_ratio": 2.0,
         "in_channels": 4, "patch_size": 2, "sample_size": 8, "cross_attention_dim": 12, "cross_attention_dim_t5": 16,
         "pooled_projection_dim": 6, "text_len": 5, "text_len_t5": 4, "use_style_cond_and_image_meta_size": False},
        text(5, 12, text_embedding_mask=lambda: torch.ones(2, 5), encoder_hidden_states_t5=randn(2, 4, 16),
             text_embedding_mask_t5=lambda: torch.ones(2, 4),
             image_rotary_emb=lambda: (torch.randn(16, 8), torch.randn(16, 8))),
        randn(2, 4, 8, 8), 6, skips=True,
    ),
    Stock(
        "SD3Transformer2DModel",
        {"sample_size": 8, "patch_size": 2, "in_channels": 4, "num_layers": 6, "attention_head_dim": 8,
         "num_attention_heads": 2, "joint_attention_dim": 12, "caption_projection_dim": 16,
         "pooled_projection_dim": 6, "out_channels": 4, "pos_embed_max_size": 8, "dual_attention_layers": (0, 1),
         "qk_norm": "rms_norm"},
        text(5, 12, pooled_projections=randn(2, 6)), randn(2, 4, 8, 8), 6,
    ),
    Stock(
        "FluxTransformer2DModel", FLUX | {"pooled_projection_dim": 6},
        text(5, 12, pooled_projections=randn(2, 6), **FLUX_IDS), randn(2, 16, 4), 6, flow,
    ),
    Stock(
        "Flux2Transformer2DModel",
        FLUX | {"timestep_guidance_channels": 8, "axes_dims_rope": (4, 4, 4, 4), "mlp_ratio": 2.0},
        text(5, 12, img_ids=ids(16, 4), txt_ids=ids(5, 4), guidance=lambda: torch.ones(2)), randn(2, 16, 4), 6, flow,
    ),
    Stock(
        "ChromaTransformer2DModel",
        FLUX | {"approximator_num_channels": 8, "approximator_hidden_dim": 16, "approximator_layers": 1},
        text(5, 12, **FLUX_IDS), randn(2, 16, 4), 6, flow,
    ),
    Stock(
        "AuraFlowTransformer2DModel",
        {"sample_size": 8, "patch_size": 2, "in_channels": 4, "num_mmdit_layers": 3, "num_single_dit_layers": 3,
         "attention_head_dim": 8, "num_attention_heads": 2, "joint_attention_dim": 12, "caption_projection_dim": 16,
         "out_channels": 4, "pos_embed_max_size": 16},
        text(5, 12), randn(2, 4, 8, 8), 6, flow,
    ),
    Stock(
        "WanTransformer3DModel",
        {"patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4,
         "out_channels": 4, "text_dim": 12, "freq_dim": 16, "ffn_dim": 24, "num_layers": 6, "rope_max_seq_len": 16},
        text(5, 12), randn(2, 4, 2, 8, 8), 6, whole,
    ),
    Stock(
        "SanaTransformer2DModel",
        {"in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 6,
         "num_cross_attention_heads": 2, "cross_attention_head_dim": 8, "cross_attention_dim": 16,
         "caption_channels": 12, "sample_size": 8},
        text(5, 12), randn(2, 4, 8, 8), 6,
    ),
    Stock(
        "CogVideoXTransformer3DModel",
        {"num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 4, "out_channels": 4,
         "time_embed_dim": 8, "text_embed_dim": 12, "num_layers": 6, "sample_width": 8, "sample_height": 8,
         "sample_frames": 9, "patch_size": 2, "max_text_seq_length": 5},
        text(5, 12), randn(2, 3, 4, 8, 8), 6, whole,
    ),
    Stock(
        "HunyuanVideoTransformer3DModel",
        {"in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 10, "num_layers": 3,
         "num_single_layers": 3, "num_refiner_layers": 1, "patch_size": 1, "patch_size_t": 1, "guidance_embeds": True,
         "text_embed_dim": 12, "pooled_projection_dim": 6, "rope_axes_dim": (2, 4, 4)},
        text(5, 12, encoder_attention_mask=lambda: torch.ones(2, 5), pooled_projections=randn(2, 6),
             guidance=lambda: torch.full((2,), 6000.0)),
        randn(2, 4, 2, 4, 4), 6,
    ),
    Stock(
        "QwenImageTransformer2DModel",
        {"patch_size": 2, "in_channels": 16, "out_channels": 4, "num_layers": 6, "attention_head_dim": 16,
         "num_attention_heads": 2, "joint_attention_dim": 12, "axes_dims_rope": (8, 4, 4)},
        text(5, 12, encoder_hidden_states_mask=lambda: torch.ones(2, 5).long(),
             img_shapes=lambda: [[(1, 4, 4)]] * 2),
        randn(2, 16, 16), 6, flow,
    ),
    Stock(
        "StableAudioDiTModel",
        {"sample_size": 4, "in_channels": 4, "num_layers": 6, "attention_head_dim": 8, "num_attention_heads": 2,
         "num_key_value_attention_heads": 2, "out_channels": 4, "cross_attention_dim": 12, "time_proj_dim": 8,
         "global_states_input_dim": 8, "cross_attention_input_dim": 12},
        text(5, 12, global_hidden_states=randn(2, 1, 8),
             rotary_embedding=lambda: (torch.ones(5, 4), torch.zeros(5, 4))),
        randn(2, 4, 4), 6, lambda level: torch.full((1,), level / 1000),
    ),
    Stock(
        "ZImageTransformer2DModel",
        {"in_channels": 4, "dim": 32, "n_layers": 6, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2,
         "cap_feat_dim": 12, "axes_dims": [8, 4, 4], "axes_lens": [64, 16, 16]},
        lambda: {"cap_feats": [torch.randn(5, 12), torch.randn(3, 12)]},
        lambda: [torch.randn(4, 1, 8, 8), torch.randn(4, 1, 8, 8)], 6, rising, ("x", "t"),
    ),
    Stock(
        "Lumina2Transformer2DModel",
        {"sample_size": 8, "patch_size": 2, "in_channels": 4, "out_channels": 4, "hidden_size": 32, "num_layers": 6,
         "num_refiner_layers": 1, "num_attention_heads": 2, "num_kv_heads": 2, "multiple_of": 4, "cap_feat_dim": 12,
         "axes_dim_rope": (8, 4, 4), "axes_lens": (64, 16, 16)},
        text(5, 12, encoder_attention_mask=lambda: torch.ones(2, 5).bool()), randn(2, 4, 8, 8), 6, rising,
    ),
    Stock(
        "LTXVideoTransformer3DModel",
        {"in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 8,
         "cross_attention_dim": 16, "num_layers": 6, "caption_channels": 12},
        text(5, 12, encoder_attention_mask=lambda: torch.ones(2, 5), num_frames=lambda: 2, height=lambda: 4,
             width=lambda: 4),
        randn(2, 32, 4), 6,
    ),
    Stock(
        "MochiTransformer3DModel",
        {"patch_size": 2, "num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 6, "in_channels": 4,
         "pooled_projection_dim": 16, "text_embed_dim": 16, "time_embed_dim": 4, "max_sequence_length": 8},
        text(5, 16, encoder_attention_mask=lambda: torch.ones(2, 5).bool()), randn(2, 4, 2, 8, 8), 6,
        lambda level: torch.full((2,), 1000 - level),
    ),
    Stock(
        "UniDiffuserModel",
        {"text_dim": 12, "clip_img_dim": 10, "num_text_tokens": 5, "num_attention_heads": 2, "attention_head_dim": 16,
         "in_channels": 4, "out_channels": 4, "num_layers": 6, "sample_size": 8, "patch_size": 2,
         "activation_fn": "gelu", "use_data_type_embedding": True},
        lambda: {"image_embeds": torch.randn(2, 1, 10), "prompt_embeds": torch.randn(2, 5, 12), "timestep_text": 0},
        randn(2, 4, 8, 8), 7, whole, ("latent_image_embeds", "timestep_img"), skips=True, options={},
    ),
]  # fmt: skip
