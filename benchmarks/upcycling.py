"""How does a run go on from a vanilla model: as it is, with residual skips, or with replacing ones (as published)?

    vanilla        the embedded fashion-dit, trained on
    residual       4 skips that begin at zero: the same function at step 0
    replace        4 skips in the place of the stream, drawn anew
    replace, staged    the same; the skips alone in the first quarter of the steps, at ten times the rate

One seed: every run sees the same images, noise and times at the same steps, so that differences are of the models.

    python benchmarks/upcycling.py --data-folder /usr/share/datasets/fashion-mnist --out upcycling.json
"""

import argparse
import json
from dataclasses import replace
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tqdm import tqdm

from skipdit.cli.bench import machine
from skipdit.hub.sketch import model_of
from skipdit.training import Architecture, TrainConfig
from skipdit.training.loop import start, steps

SKIPS, WINDOW = 4, 50
PARENT = "fashion-dit"
SHARED = ("sample_size", "patch_size", "in_channels", "hidden_size", "depth", "num_heads", "num_classes")


def runs(arguments: argparse.Namespace, out: Path) -> dict[str, TrainConfig]:
    parent = model_of(PARENT, None).config
    vanilla = Architecture(**{name: parent[name] for name in SHARED})
    residual = replace(vanilla, num_skips=SKIPS, fuse="residual")
    published = replace(vanilla, num_skips=SKIPS, fuse="replace")
    first = {"skips_only": arguments.steps // 4, "skips_only_rate": 10 * arguments.rate}
    models: dict[str, tuple[Architecture, dict[str, Any]]] = {
        "vanilla": (vanilla, {}), "residual": (residual, {}), "replace": (published, {}),
        "replace, staged": (published, first),
    }  # fmt: skip
    return {
        name: TrainConfig(
            out=out / name, model=model, dataset="fashion-mnist", data_folder=arguments.data_folder, init=PARENT,
            steps=arguments.steps, batch_size=arguments.batch, learning_rate=arguments.rate, betas=(0.9, 0.99),
            precision="bf16", seed=1, **more,
        )
        for name, (model, more) in models.items()
    }  # fmt: skip


def curve(config: TrainConfig, name: str) -> list[float]:
    """The mean noise MSE of every `WINDOW` steps, and of the first step before them."""
    taken = tqdm(steps(start(config)), total=config.steps, desc=name)
    losses = [report.mse.item() for report in taken]
    windows = [losses[first : first + WINDOW] for first in range(0, len(losses), WINDOW)]
    return [losses[0], *(sum(window) / len(window) for window in windows)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-folder", type=Path)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        curves = {name: curve(config, name) for name, config in runs(arguments, Path(folder)).items()}
    for name, means in curves.items():
        print(f"{name:16}", f"step 0 {means[0]:.4f}", *(f"{mean:.4f}" for mean in means[1:]))
    measured = {"date": str(date.today()), "machine": machine(), "steps": arguments.steps, "batch": arguments.batch}
    measured |= {"learning_rate": arguments.rate, "window": WINDOW, "curves": curves}
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(measured, indent=2) + "\n")


if __name__ == "__main__":
    main()
