"""The trained emoji model as a whole pipeline folder, with everything that it draws with.

    transformer (float16)   text_encoder: MiniLM (float16)   text_encoder_2: the T5 of bytes   vae: pixels as they are
    scheduler: 1000 linear betas, v prediction, the published DDPM spacing

    python -m skipdit.recipes.emoji_pipeline --model runs/emoji-hunyuan/model --out weights/emoji-hunyuan
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from diffusers import DiffusionPipeline
from torch import nn

from skipdit import HunyuanDiT
from skipdit.data.emoji import byte_t5
from skipdit.data.text import minilm
from skipdit.pipelines import PixelAutoencoder
from skipdit.pipelines.schedulers import make_scheduler
from skipdit.pipelines.text_to_image import HunyuanDiTPipeline


@dataclass(frozen=True)
class Assembly:
    """Write the pipeline folder of the embedded text-to-image model."""

    model: Path = Path("runs/emoji-hunyuan/model")
    """folder of the trained HunyuanDiT"""
    out: Path = Path("weights/emoji-hunyuan")


def emoji_pipeline(transformer: HunyuanDiT) -> DiffusionPipeline:
    """diffusers' HunyuanDiTPipeline around a model that was trained on the data set "emoji"."""
    tokenizer, text_encoder = minilm()
    tokenizer_2, text_encoder_2 = byte_t5()
    return HunyuanDiTPipeline(
        vae=PixelAutoencoder(latent_channels=transformer.config.in_channels),
        text_encoder=nn.Module.to(text_encoder, torch.float16),
        tokenizer=tokenizer,
        text_encoder_2=text_encoder_2,
        tokenizer_2=tokenizer_2,
        transformer=transformer,
        scheduler=make_scheduler("ddpm", prediction_type=transformer.config.prediction_type),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def main() -> None:
    asked = tyro.cli(Assembly, description=__doc__)
    transformer = HunyuanDiT.from_pretrained(asked.model, torch_dtype=torch.float16)
    emoji_pipeline(transformer).save_pretrained(asked.out)


if __name__ == "__main__":
    main()
