"""Pipeline folders laid out as the published ones, at tiny size: diffusers' own classes, weights and file names.

maxin-cn/Latte-1                     model_index.json, scheduler, text_encoder (in shards), tokenizer, transformer,
                                         vae, and beside these vae_temporal_decoder
maxin-cn/Latte-0                     transformer alone is read: LatteT2V of the published code, with its leftover
Tencent-Hunyuan/HunyuanDiT-*         the same, with a BERT and a T5; version 1.1 has styles and sizes
"""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    HunyuanDiTPipeline,
    LattePipeline,
    LatteTransformer3DModel,
)
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import T5Tokenizer

from tests.pipelines.tiny import (
    PUBLISHED_NOISE,
    VERSION_1_2,
    WORDS,
    drawn,
    eightfold_vae,
    text_encoders,
    tiny_stock_hunyuan,
    tiny_temporal_vae,
    tiny_vae,
)

WEIGHTS = "diffusion_pytorch_model.safetensors"
LATTE = {
    "num_attention_heads": 2, "attention_head_dim": 8, "cross_attention_dim": 16, "in_channels": 4, "out_channels": 8,
    "num_layers": 4, "sample_size": 8, "patch_size": 2, "caption_channels": 8, "video_length": 3,
    "attention_bias": True, "activation_fn": "gelu-approximate", "num_embeds_ada_norm": 1000,
    "norm_type": "ada_norm_single", "norm_elementwise_affine": False, "norm_eps": 1e-6,
}  # fmt: skip
OF_DIFFUSERS_0_24 = {  # settings that LatteT2V of the published code had besides
    "_class_name": "LatteT2V", "_diffusers_version": "0.24.0", "attention_type": "default",
    "double_self_attention": False, "norm_num_groups": 32, "num_vector_embeds": None, "only_cross_attention": False,
    "upcast_attention": False, "use_linear_projection": False,
}  # fmt: skip
LATTE_NOISE = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "clip_sample": False}
STYLED = {"use_style_cond_and_image_meta_size": True}
LEFTOVER = "caption_projection.y_embedding"
PIECES = [(piece, -float(rank)) for rank, piece in enumerate(["<pad>", "</s>", "<unk>", "▁", *"abcdeilprt"])]


def latte_1(path: Path, *, dtype: torch.dtype = torch.float32) -> Path:
    """All of Latte-1, its transformer by the name that diffusers gives the class, its weights kept in `dtype`."""
    text = text_encoders_of_latte(path.parent)
    kept_in(dtype, LattePipeline(
        vae=drawn(tiny_vae(), seed=2), transformer=stock_latte(), scheduler=DDIMScheduler(**LATTE_NOISE), **text
    )).save_pretrained(path)  # fmt: skip
    text["text_encoder"].save_pretrained(path / "text_encoder", max_shard_size="5KB")
    drawn(tiny_temporal_vae(), seed=5).save_pretrained(path / "vae_temporal_decoder")
    (path / "text_encoder" / "model.safetensors").unlink()
    return path


def text_encoders_of_latte(folder: Path) -> dict[str, Any]:
    encoder = text_encoders(folder)["text_encoder_2"]
    return {"text_encoder": encoder, "tokenizer": T5Tokenizer(vocab=PIECES, model_max_length=120)}


def latte_0(path: Path) -> Path:
    """The transformer of Latte-0: the class and the settings of its code, and the buffer that diffusers dropped."""
    stock_latte(seed=1).save_pretrained(path / "transformer")
    edit(path / "transformer" / "config.json", **OF_DIFFUSERS_0_24)
    state = load_file(path / "transformer" / WEIGHTS)
    save_file(state | {LEFTOVER: torch.ones(120, 8)}, path / "transformer" / WEIGHTS, metadata={"format": "pt"})
    return path


def stock_latte(*, seed: int = 0) -> LatteTransformer3DModel:
    return drawn(LatteTransformer3DModel(**LATTE), seed=seed)


def hunyuan(path: Path, version: str, *, dtype: torch.dtype = torch.float32) -> Path:
    """All of HunyuanDiT 1.1 or 1.2 ("1.1", "1.2", or either with "-distilled"), its weights kept in `dtype`."""
    settings, noise = {"1.1": (STYLED, 0.03), "1.2": (VERSION_1_2, 0.018)}[version[:3]]
    kept_in(dtype, HunyuanDiTPipeline(
        vae=eightfold_vae(), scheduler=DDPMScheduler(**PUBLISHED_NOISE | {"beta_end": noise}),
        transformer=tiny_stock_hunyuan(seed=len(version), **settings), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False, **text_encoders(path.parent),
    )).save_pretrained(path)  # fmt: skip
    tokenizer = path / "tokenizer"
    (tokenizer / "tokenizer.json").unlink()
    (tokenizer / "vocab.txt").write_text("\n".join(WORDS))
    return path


def kept_in(dtype: torch.dtype, pipe: DiffusionPipeline) -> DiffusionPipeline:
    for part in modules(pipe):
        part.to(dtype)
    return pipe


def modules(pipe: DiffusionPipeline) -> list[nn.Module]:
    return [part for part in pipe.components.values() if isinstance(part, nn.Module)]


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def files_of(folder: Path) -> dict[str, bytes]:
    """A folder as a server of the hub holds it."""
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def module_dtypes(pipe: DiffusionPipeline) -> set[torch.dtype]:
    return {tensor.dtype for part in modules(pipe) for tensor in part.parameters()}
