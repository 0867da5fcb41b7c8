"""Does training with stale deep features make a model better for its cache, and what does it cost uncached?

    twin     the embedded fashion-skip, trained on
    stale    the same, but in half of the steps head and tail see a deep feature that is 1 to 3 sampling steps old

Same images, noise, times and rates for both. Fidelity is the PSNR to the model's OWN uncached images, 50 steps of DDIM,
guidance 1.5, branch 1; the cost is the noise MSE of fresh passes on images that neither was trained on.

    python benchmarks/stale_training.py --data-folder /usr/share/datasets/fashion-mnist --out stale.json
"""

import argparse
import json
from dataclasses import replace
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tqdm import tqdm

from skipdit import SkipCacheConfig
from skipdit.cli.bench import machine
from skipdit.data.images import FASHION_CLASSES, ImageSet, read_idx
from skipdit.diffusion import Denoising
from skipdit.hub.sketch import model_of
from skipdit.models.base import LongSkipModel
from skipdit.pipelines import ClassToImagePipeline
from skipdit.pipelines.schedulers import make_scheduler
from skipdit.randomness import generator
from skipdit.training import Architecture, TrainConfig
from skipdit.training.loop import averaged, start, steps

PARENT, DRAWN, DRAW_STEPS = "fashion-skip", 60, 50
SHARED = (
    "sample_size", "patch_size", "in_channels", "hidden_size", "depth", "num_heads", "num_classes", "num_skips", "fuse",
)  # fmt: skip
CACHES = {
    f"{forecast}, N={interval}": {"interval": interval, "forecast": forecast}
    for forecast in ("hold", "taylor")
    for interval in (2, 3, 4)
}


def trained(config: TrainConfig, name: str) -> LongSkipModel:
    run = start(config)
    for _ in tqdm(steps(run), total=config.steps, desc=name):
        pass
    return averaged(run)


def drawn(model: LongSkipModel, cache: dict[str, Any] | None) -> torch.Tensor:
    """Images [N, 1, H, W] in [0, 1]."""
    pipe = ClassToImagePipeline(model, make_scheduler("ddim"))
    pipe.set_progress_bar_config(disable=True)
    if cache is not None:
        model.enable_cache(SkipCacheConfig(**cache))
    labels, seeds = [index % 10 for index in range(DRAWN)], [generator(9, index) for index in range(DRAWN)]
    told = {"guidance_scale": 1.5, "num_inference_steps": DRAW_STEPS, "generator": seeds, "output_type": "pt"}
    images = pipe(labels, **told).images
    if cache is not None:
        model.disable_cache()
    return images


def psnr(images: torch.Tensor, others: torch.Tensor) -> float:
    """The mean over images, in dB."""
    error = (images - others).square().mean((1, 2, 3)).clamp(min=1e-12)
    return (-10 * error.log10()).mean().item()


@torch.no_grad()
def fresh_error(model: LongSkipModel, test: ImageSet) -> float:
    """The noise MSE of 20 batches of test images."""
    process, losses = Denoising(), []
    for number in range(20):
        draw = generator(8, number)
        indices = torch.randint(len(test), (64,), generator=draw)
        x_0, t = test.x_0(indices), process.draw_t(64, draw)
        noise = torch.randn(x_0.shape, generator=draw)
        x_t = process.add_noise(x_0, noise, t)
        said = model(x_t, t, test.labels[indices]).sample
        losses.append(process.loss(said, x_0=x_0, noise=noise, x_t=x_t, t=t).mse.mean().item())
    return sum(losses) / len(losses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-folder", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=2e-4)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    parent = model_of(PARENT, None).config
    folder = arguments.data_folder
    test = ImageSet(
        read_idx(folder / "t10k-images-idx3-ubyte.gz")[:, None], read_idx(folder / "t10k-labels-idx1-ubyte.gz").long(),
        FASHION_CLASSES,
    )  # fmt: skip
    with TemporaryDirectory() as out:
        twin = TrainConfig(
            out=Path(out), dataset="fashion-mnist", data_folder=folder, init=PARENT, steps=arguments.steps,
            model=Architecture(**{name: parent[name] for name in SHARED}), batch_size=arguments.batch,
            learning_rate=arguments.rate, decay="cosine", betas=(0.9, 0.99), ema_decay=0.98, seed=1,
        )  # fmt: skip
        ways = {"twin": twin, "stale": replace(twin, stale_prob=0.5, stale_age=3, stale_stride=1000 // DRAW_STEPS)}
        models = {name: trained(config, name) for name, config in ways.items()}
    found: dict[str, dict[str, float]] = {}
    for name, model in models.items():
        uncached = drawn(model, None)
        found[name] = {"fresh noise MSE": fresh_error(model, test)}
        for title, cache in tqdm(CACHES.items(), desc=f"drawing with {name}"):
            found[name][title] = psnr(drawn(model, cache), uncached)
    for title in found["twin"]:
        print(f"{title:16} twin {found['twin'][title]:8.4f}   stale {found['stale'][title]:8.4f}")
    measured = {"date": str(date.today()), "machine": machine(), "steps": arguments.steps, "batch": arguments.batch}
    if arguments.out is not None:
        measured |= {"learning_rate": arguments.rate, "found": found}
        arguments.out.write_text(json.dumps(measured, indent=2) + "\n")


if __name__ == "__main__":
    main()
