"""Tiny real models whose samples stay in bounds, and pipelines around them."""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLTemporalDecoder,
    DDPMScheduler,
    HunyuanDiT2DControlNetModel,
    HunyuanDiT2DModel,
    HunyuanDiTPipeline,
)
from torch import nn
from transformers import BertConfig, BertModel, BertTokenizer, ByT5Tokenizer, T5Config, T5EncoderModel

from skipdit import DiT, Latte, LatteT2V
from skipdit.pipelines import ClassToImagePipeline, ClassToVideoPipeline
from skipdit.pipelines.schedulers import make_scheduler
from skipdit.randomness import generator

SETTINGS = {
    "sample_size": 8, "patch_size": 2, "in_channels": 1, "hidden_size": 16, "depth": 4, "num_heads": 2,
    "num_classes": 10, "num_skips": 2,
}  # fmt: skip


def drawn(model: nn.Module, *, seed: int) -> nn.Module:
    """The model with every weight drawn, so that no gate is shut and no class without effect; in eval mode."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.15, generator=rng)
    return model.eval()


def tiny(*, seed: int = 0, **settings) -> DiT:
    return drawn(DiT(**SETTINGS | settings), seed=seed)


def tiny_latte(*, seed: int = 0, **settings) -> Latte:
    return drawn(Latte(**SETTINGS | {"num_frames": 3} | settings), seed=seed)


def tiny_latte_t2v(*, seed: int = 0, **settings) -> LatteT2V:
    """Gray pixels, 8 x 8."""
    sizes = {
        "sample_size": 8, "in_channels": 1, "out_channels": 2, "num_attention_heads": 2, "attention_head_dim": 8,
        "cross_attention_dim": 16, "caption_channels": 12, "video_length": 3, "num_layers": 4, "num_skips": 2,
    }  # fmt: skip
    return drawn(LatteT2V(**sizes | settings), seed=seed)


def tiny_vae(*, latent_channels: int = 4) -> AutoencoderKL:
    """An autoencoder that halves each side."""
    return AutoencoderKL(
        block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2, layers_per_block=1,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, latent_channels=latent_channels,
        scaling_factor=0.5,
    ).eval()  # fmt: skip


def tiny_temporal_vae() -> AutoencoderKLTemporalDecoder:
    """An autoencoder of 4 channels that halves each side and sees several frames."""
    return AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        layers_per_block=1,
        scaling_factor=0.5,
    ).eval()


def pipeline(model: DiT | None = None, *, scheduler: str = "ddim", vae: AutoencoderKL | None = None):
    model = tiny() if model is None else model
    learned = model.config.out_channels == 2 * model.config.in_channels
    pipe = ClassToImagePipeline(model, make_scheduler(scheduler, learned_variance=learned), vae)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def video_pipeline(model: Latte | None = None, *, scheduler: str = "ddim", vae: nn.Module | None = None):
    model = tiny_latte() if model is None else model
    learned = model.config.out_channels == 2 * model.config.in_channels
    pipe = ClassToVideoPipeline(model, make_scheduler(scheduler, learned_variance=learned), vae)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeds(*numbers: int) -> list[torch.Generator]:
    """A generator for each image or video."""
    return [generator(number) for number in numbers]


def latents_of(pipe: ClassToImagePipeline, labels=(1, 2, 3), *, steps: int = 6, **settings) -> torch.Tensor:
    """x_0 [B, C, H, W] of a short run with a generator for each image."""
    settings = {"generator": seeds(*range(len(labels))), "guidance_scale": 1.5} | settings
    return pipe(list(labels), num_inference_steps=steps, output_type="latent", **settings).images


def videos_of(pipe: ClassToVideoPipeline, labels=(1, 2, 3), *, steps: int = 4, **settings) -> torch.Tensor:
    """x_0 [B, F, C, H, W], or another output type, of a short run with a generator for each video."""
    settings = {"generator": seeds(*range(len(labels))), "guidance_scale": 1.5, "output_type": "latent"} | settings
    return pipe(list(labels), num_inference_steps=steps, **settings).frames


def free_videos_of(pipe: ClassToVideoPipeline, count: int = 2, *, steps: int = 4, **settings) -> torch.Tensor:
    """The same of an unconditional model."""
    settings = {"generator": seeds(*range(count)), "output_type": "latent"} | settings
    return pipe(num_videos=count, num_inference_steps=steps, **settings).frames


VERSION_1_2 = {"use_style_cond_and_image_meta_size": False}
HUNYUAN_SIZES = {
    "num_attention_heads": 2, "attention_head_dim": 8, "hidden_size": 16, "mlp_ratio": 2.0, "sample_size": 8,
    "in_channels": 4, "patch_size": 2, "num_layers": 6, "cross_attention_dim": 12, "cross_attention_dim_t5": 8,
    "pooled_projection_dim": 10, "text_len": 77, "text_len_t5": 256,
}  # fmt: skip
PUBLISHED_NOISE = {
    "beta_start": 0.00085, "beta_end": 0.018, "beta_schedule": "scaled_linear", "prediction_type": "v_prediction",
    "steps_offset": 1, "clip_sample": False, "timestep_spacing": "leading",
}  # fmt: skip
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "blue", "apple", "cat")


def tiny_stock_hunyuan(*, seed: int = 0, **settings) -> HunyuanDiT2DModel:
    return drawn(HunyuanDiT2DModel(**HUNYUAN_SIZES | VERSION_1_2 | settings), seed=seed)


def tiny_controlnet(*, seed: int = 1, **settings) -> HunyuanDiT2DControlNetModel:
    shared = {name: value for name, value in HUNYUAN_SIZES.items() if name != "num_layers"}
    layers = HUNYUAN_SIZES["num_layers"]
    return drawn(
        HunyuanDiT2DControlNetModel(**shared | VERSION_1_2 | settings, transformer_num_layers=layers), seed=seed
    )


def eightfold_vae() -> AutoencoderKL:
    """An autoencoder whose latents are an eighth of each side, as HunyuanDiTPipeline takes for granted."""
    return drawn(AutoencoderKL(
        block_out_channels=(8,) * 4, down_block_types=("DownEncoderBlock2D",) * 4, layers_per_block=1,
        up_block_types=("UpDecoderBlock2D",) * 4, norm_num_groups=4, latent_channels=4, scaling_factor=0.5,
    ), seed=2)  # fmt: skip


def text_encoders(folder: Path) -> dict[str, Any]:
    """A tiny BERT that knows ten words and a tiny T5 that reads bytes, with their tokenizers."""
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    bert = BertConfig(
        vocab_size=len(WORDS), hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=77,
    )  # fmt: skip
    t5 = T5Config(vocab_size=384, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2, feed_forward_proj="gated-gelu")
    return {
        "text_encoder": drawn(BertModel(bert), seed=3),
        "tokenizer": BertTokenizer(str(folder / "vocab.txt"), model_max_length=77),
        "text_encoder_2": drawn(T5EncoderModel(t5), seed=4),
        "tokenizer_2": ByT5Tokenizer(),
    }


def hunyuan_pipeline(folder: Path, transformer: nn.Module, *, scheduler=None) -> HunyuanDiTPipeline:
    """The whole of diffusers' pipeline with tiny parts of its published kinds; `folder` is for a vocabulary."""
    pipe = HunyuanDiTPipeline(
        **text_encoders(folder), vae=eightfold_vae(), transformer=transformer,
        scheduler=DDPMScheduler(**PUBLISHED_NOISE) if scheduler is None else scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe
