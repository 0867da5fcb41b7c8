"""The trained emoji model as a whole pipeline folder, with everything that it draws with.

transformer (float16)   text_encoder: MiniLM (float16)   text_encoder_2: the T5 of bytes   vae: pixels as they are
scheduler: DDPM at HunyuanDiT's published timesteps (leading, from 1), over the 1000 linear betas of the training
loss.csv: of the run, from beside the model

python -m skipdit.recipes.emoji_pipeline --model runs/emoji-hunyuan/model --out weights/emoji-hunyuan
"""

from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from diffusers import DiffusionPipeline
from torch import nn

from skipdit import HunyuanDiT
from skipdit.data.emoji import byte_t5
from skipdit.data.text import minilm
from skipdit.files import whole_folder
from skipdit.hub.publish import forget_origin
from skipdit.pipelines import PixelAutoencoder
from skipdit.pipelines.schedulers import HUNYUAN_V1_2, LINEAR, make_scheduler
from skipdit.pipelines.text_to_image import HunyuanDiTPipeline

PARTS = {
    "model_index.json", "transformer", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler", "vae",
    "loss.csv",
}  # fmt: skip


@dataclass(frozen=True)
class Assembly:
    """Write the pipeline folder of the embedded text-to-image model."""

    model: Path = Path("runs/emoji-hunyuan/model")
    """folder of the trained HunyuanDiT, loss.csv beside it"""
    out: Path = Path("weights/emoji-hunyuan")
    """what is there is replaced at the end"""


def emoji_pipeline(transformer: HunyuanDiT) -> DiffusionPipeline:
    """diffusers' HunyuanDiTPipeline around a model that was trained on the data sets "emoji" or "captions".

    Its scheduler is the one that `load_pipeline` builds for the folder when none is named.
    """
    noise = replace(HUNYUAN_V1_2, **LINEAR.betas)
    tokenizer, text_encoder = minilm()
    tokenizer_2, text_encoder_2 = byte_t5()
    return HunyuanDiTPipeline(
        vae=PixelAutoencoder(latent_channels=transformer.config.in_channels),
        text_encoder=nn.Module.to(text_encoder, torch.float16),
        tokenizer=tokenizer,
        text_encoder_2=text_encoder_2,
        tokenizer_2=tokenizer_2,
        transformer=transformer,
        scheduler=make_scheduler("ddpm", prediction_type=transformer.config.prediction_type, noise=noise),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def assemble(asked: Assembly) -> None:
    """Write the folder, whole or not at all; `out` may be where the parts themselves are read from."""
    check_out(asked.out)
    losses = (asked.model.parent / "loss.csv").read_bytes()
    pipeline = emoji_pipeline(HunyuanDiT.from_pretrained(asked.model, torch_dtype=torch.float16))
    for name in ("transformer", "text_encoder_2"):  # loaded weights may still be pages of their files
        setattr(pipeline, name, deepcopy(getattr(pipeline, name)))
    with whole_folder(asked.out) as partial:
        pipeline.save_pretrained(partial)
        for config in partial.glob("*/config.json"):
            forget_origin(config)
        (partial / "loss.csv").write_bytes(losses)


def check_out(out: Path) -> None:
    """All of `out` is replaced, so that it must hold nothing else."""
    if others := sorted(path.name for path in out.glob("*") if path.name not in PARTS):
        raise ValueError(f"out is {str(out)!r}, which holds {others[0]}, no part of a pipeline: take another folder")


def main() -> None:
    assemble(tyro.cli(Assembly, description=__doc__))


if __name__ == "__main__":
    main()
