"""How many images a second are trained on, by the plain published loop and by ours?

    plain    decode -> crop -> autoencoder -> model, loss, AdamW, EMA, in float32        at every step, online
    ours     latents read from a cache -> the loop of `skipdit train`, in bfloat16

The same model (DiT-S/2 with 6 skips on 16 x 16 latents of 128 x 128 images), batch and number of steps. The plain loop
is written here as the published one is described, and small. The autoencoder has the size of Stable Diffusion's and
random weights. Peak memory is that of the process, so that the plain loop runs first, in a process of its own.

    python benchmarks/training.py --steps 6 --out training.json
"""

import argparse
import json
import resource
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image

from skipdit.cli.bench import machine
from skipdit.data import Crop, image_folder, latents
from skipdit.data.latents import encode
from skipdit.diffusion import Denoising
from skipdit.models.adaln import published_size
from skipdit.training import Architecture, TrainConfig
from skipdit.training.loop import start, steps

SIDE, IMAGES, CLASSES, WARM = 128, 32, 4, 2
MODEL = Architecture(sample_size=SIDE // 8, in_channels=4, num_classes=CLASSES, num_skips=6, **published_size("S/2"))


def autoencoder() -> AutoencoderKL:
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    widths = (128, 256, 512, 512)
    return AutoencoderKL(block_out_channels=widths, layers_per_block=2, latent_channels=4, **blocks).eval()


def write_images(folder: Path) -> Path:
    draw = np.random.default_rng(0)
    for number in range(IMAGES):
        place = folder / f"class{number % CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{number}.jpg")
    return folder


def plain_steps(folder: Path, batch: int) -> Iterator[None]:
    """The published trainer of class-to-image, one step a yield."""
    paths = sorted(folder.rglob("*.jpg"))
    torch.manual_seed(0)
    vae, model = autoencoder(), MODEL.build().train()
    average, process = deepcopy(model), Denoising()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, weight_decay=0)
    draw = torch.Generator().manual_seed(0)
    while True:
        chosen = [paths[index] for index in torch.randint(len(paths), (batch,), generator=draw)]
        pixels = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in chosen])
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.no_grad():
            x_0 = vae.encode(images).latent_dist.sample() * 0.18215
        t, noise = process.draw_t(batch, draw), torch.randn(x_0.shape)
        labels = torch.tensor([int(path.parent.name[-1]) for path in chosen])
        x_t = process.add_noise(x_0, noise, t)
        loss = process.loss(model(x_t, t, labels).sample, x_0=x_0, noise=noise, x_t=x_t, t=t).total.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for kept, parameter in zip(average.parameters(), model.parameters()):
                kept.lerp_(parameter, 1e-4)
        yield


def measured(way: str, folder: str, batch: int, count: int) -> dict[str, float]:
    """Images a second after two warm steps, and the peak memory of this process in GiB."""
    if way == "plain":
        taken: Iterator[Any] = plain_steps(Path(folder) / "images", batch)
    else:
        config = TrainConfig(
            out=Path(folder) / "run", dataset="latents", data_folder=Path(folder) / "latents", model=MODEL,
            batch_size=batch, steps=10_000, preview_every=0, precision="bf16", ema_decay=0.9999, learning_rate=1e-4,
        )  # fmt: skip
        taken = steps(start(config))
    for _ in range(WARM):
        next(taken)
    since = time.perf_counter()
    for _ in range(count):
        next(taken)
    seconds = time.perf_counter() - since
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"images_a_second": batch * count / seconds, "peak_gib": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        images = image_folder(write_images(Path(folder) / "images"), Crop(SIDE))
        since = time.perf_counter()
        encode(images, Path(folder) / "latents", autoencoder(), batch_size=arguments.batch)
        encoding = IMAGES / (time.perf_counter() - since)
        assert len(latents.latents(Path(folder) / "latents")) == 4 * IMAGES
        found = {}
        for way in ("plain", "ours"):
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as apart:
                found[way] = apart.submit(measured, way, folder, arguments.batch, arguments.steps).result()
    for way, numbers in found.items():
        print(f"{way:6} {numbers['images_a_second']:6.2f} images/s, {numbers['peak_gib']:.2f} GiB")
    ratio = found["ours"]["images_a_second"] / found["plain"]["images_a_second"]
    print(f"ours is {ratio:.2f} times as fast; encoding once takes {encoding:.2f} images/s")
    if arguments.out is not None:
        result = {"date": str(date.today()), "machine": machine(), "batch": arguments.batch, "ratio": ratio, **found}
        arguments.out.write_text(json.dumps(result | {"encoding_images_a_second": encoding}, indent=2) + "\n")


if __name__ == "__main__":
    main()
