"""What the pages on training take a user to have: pictures, videos, latents and their autoencoder."""

from pathlib import Path

import numpy as np

from skipdit import DiT
from skipdit.data import Crop, image_folder
from skipdit.data.latents import encode
from skipdit.videos import write_video
from tests.data.pictures import SHAPES, write_pictures
from tests.data.test_latents import autoencoder


def own(folder: Path, *, model: bool = False) -> Path:
    """Write all of it into `folder`; returns it."""
    pictures = write_pictures(folder / "pictures")
    draw = np.random.default_rng(0)
    for name in ("run/a.mkv", "jump/b.mkv"):
        (folder / "videos" / name).parent.mkdir(parents=True)
        clip = draw.integers(0, 256, (8, 16, 16, 3)).astype(np.uint8)
        write_video(clip, folder / "videos" / name, fps=8)
    vae = autoencoder()
    vae.save_pretrained(folder / "vae")
    if model:
        encode(image_folder(pictures, Crop(16)), folder / "latents", vae)
        names = dict(enumerate(SHAPES))
        size = {"sample_size": 28, "patch_size": 4, "in_channels": 3, "hidden_size": 24, "depth": 4, "num_heads": 2}
        trained = DiT(**size, num_classes=4, num_skips=2, id2label=names)
        trained.save_pretrained(folder / "runs" / "mine" / "model")
    return folder
