"""What the embedded HunyuanDiT draws of names it knows and of names it never saw, cached and uncached.

Draws the same noise in every way, and puts below each sample the training drawing that is nearest to it:

    distance(x, y) = sqrt(mean (x - y)^2)        over all pixels and channels, in [0, 1]

beside how near held-out real drawings are to the training drawings. Needs the drawings (python -m skipdit.data.emoji).
Writes weights/emoji.png, weights/emoji-measured.json and the section in weights/README.md.
"""

import argparse
import json
from datetime import date
from pathlib import Path

import torch
from embedded import markdown  # the script beside this one
from torch import Tensor

from skipdit.caching import SkipCacheConfig
from skipdit.cli.bench import UNCACHED, as_json, machine, name_of
from skipdit.data.emoji import Emoji, caption, emoji
from skipdit.evaluation import labelled_rows, save_png
from skipdit.evaluation.compare import Result, Sampling, Way, compare
from skipdit.evaluation.section import write_section
from skipdit.files import write_text
from skipdit.hub import load_pipeline

WEIGHTS = Path(__file__).parents[1] / "weights"
KNOWN = ("red apple", "sunflower", "rocket", "cat face", "blue heart", "octopus", "soccer ball")
UNSEEN = ("turtle", "panda face", "croissant", "skateboard", "ambulance", "mosquito", "cherry blossom")
CACHES = [SkipCacheConfig(interval=n, forecast=forecast) for forecast in ("hold", "taylor") for n in (2, 3)]


def pixels(drawings: Emoji) -> Tensor:
    """Every drawing once, float32 [N, 3, 64, 64] in [0, 1]."""
    return drawings.images.float() / 255


def nearest(samples: Tensor, drawings: Tensor) -> tuple[Tensor, Tensor]:
    """For each sample [B, ...]: its distance from the nearest of the drawings [N, ...], and which that is."""
    apart = torch.cdist(samples.flatten(1), drawings.flatten(1)) / samples[0].numel() ** 0.5
    return apart.min(dim=1)


def check_split(train: Emoji, test: Emoji) -> None:
    """The names must be what they are called here."""
    wrong = [name for name in KNOWN if name not in train.names] + [name for name in UNSEEN if name not in test.names]
    if wrong:
        raise ValueError(f"{', '.join(wrong)}: known names must be of the training split, unseen ones of the other")


def distances(results: dict[str, Result], train: Tensor, test: Tensor) -> dict[str, float]:
    """Mean distance from the nearest training drawing: of uncached samples of both kinds of names, and of real ones."""
    near, _ = nearest(results[UNCACHED].images, train)
    real, _ = nearest(test, train)
    known, unseen = near.split([len(KNOWN), len(UNSEEN)])
    means = {"samples of known names": known, "samples of unseen names": unseen, "held-out real drawings": real}
    return {name: apart.mean().item() for name, apart in means.items()}


def section(results: dict[str, Result], near: dict[str, float], record: dict) -> str:
    how = "{images} images, {steps} DDIM steps, guidance {guidance}, seed {seed}".format(**record["settings"])
    where = "{platform} CPU, {threads} threads, torch {torch}".format(**record["machine"])
    said = ", ".join(f"{value:.3f} for {name}" for name, value in near.items())
    caption = f"{how}; {where}, {record['date']}."
    return f"{caption}\n\n{markdown(results)}\n\nMean distance from the nearest training drawing: {said}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=2)
    asked = parser.parse_args()
    train, test = emoji(), emoji(split="test")
    check_split(train, test)
    prompts = tuple(caption(name, "3d") for name in KNOWN + UNSEEN)
    pipeline = load_pipeline("emoji-hunyuan", scheduler="ddim")
    ways = {UNCACHED: Way(asked.steps)} | {name_of(cache): Way(asked.steps, cache) for cache in CACHES}
    results = compare(
        pipeline, ways, Sampling(prompts, asked.guidance, seed=asked.seed), repeats=asked.repeats, warmup=1
    )
    drawings = pixels(train)
    shown = {name: results[name].images for name in (UNCACHED, name_of(CACHES[0]), name_of(CACHES[3]))}
    title = f"Embedded HunyuanDiT: {len(KNOWN)} names it was trained on, then {len(UNSEEN)} it never saw"
    rows = {}
    for name, samples in shown.items():
        rows |= {name: samples, f"nearest training\ndrawing ({name})": drawings[nearest(samples, drawings)[1]]}
    save_png(labelled_rows(rows, scale=1, title=title, captions=KNOWN + UNSEEN), WEIGHTS / "emoji.png")
    settings = {"images": len(prompts), "steps": asked.steps, "guidance": asked.guidance, "seed": asked.seed}
    near = distances(results, drawings, pixels(test))
    record = {
        "settings": settings, "machine": machine(), "date": date.today().isoformat(),
        "results": {name: as_json(result) for name, result in results.items()}, "distance from training": near,
    }  # fmt: skip
    write_text(WEIGHTS / "emoji-measured.json", json.dumps(record, indent=2) + "\n")
    table = section(results, near, record)
    write_section(WEIGHTS / "README.md", "emoji measured", table)
    print(table)


if __name__ == "__main__":
    main()
