"""Do the embedded video models draw the digit and the direction that they are asked for, with and without a cache?

A network that was trained on real moving digits (weights/clip-reader) reads the clips of each class, drawn from the
same noise in every way. Writes weights/digits-measured.json and the table in weights/README.md.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from skipdit.caching import SkipCacheConfig
from skipdit.cli.bench import UNCACHED, machine, name_of
from skipdit.data.moving_digits import CLASS_NAMES, moving_digits
from skipdit.evaluation.clips import captions, draw_clips
from skipdit.evaluation.compare import Way, plan_of
from skipdit.evaluation.reading import ClipReader, accuracy, load_reader
from skipdit.evaluation.section import write_section
from skipdit.files import write_text
from skipdit.hub import EMBEDDED, load_pipeline
from skipdit.pipelines.draw import Subjects

WEIGHTS = Path(__file__).parents[1] / "weights"
MODELS: dict[str, Callable[[Sequence[int]], Subjects]] = {  # and what each is told of class ids
    "moving-digits-skip": list,
    "moving-digits-latte": list,
    "captioned-digits-skip": captions,
    "captioned-digits-latte": captions,
}
RECORD = WEIGHTS / "digits-measured.json"
CACHES = [SkipCacheConfig(interval=2)]


def ways(steps: int) -> dict[str, Way]:
    """Uncached, then every cache."""
    return {UNCACHED: Way(steps)} | {name_of(cache): Way(steps, cache) for cache in CACHES}


def measure(
    pipeline: DiffusionPipeline, subjects: Subjects, reader: ClipReader, labels: Sequence[int], *,
    steps: int, guidance_scale: float, seed: int,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """For each way: what share of the clips shows the direction, the digit, and both, that were asked for."""
    rows = {}
    for name, way in ways(steps).items():
        computed = plan_of(pipeline, way)
        clips = draw_clips(pipeline, subjects, way, guidance_scale=guidance_scale, seed=seed)
        shares = accuracy(reader, clips, torch.tensor(labels))
        rows[name] = {"full": computed.full, "cached": computed.cached} | shares
    return rows


def measure_real(reader: ClipReader, clips: int) -> dict[str, float]:
    """The same shares of real clips of held-out digits: what a perfect model could expect."""
    test, indices = moving_digits(split="test"), torch.arange(clips)
    return accuracy(reader, test.x_0(indices), test.class_ids(indices))


def markdown(record: Mapping[str, Any]) -> str:
    """One table for all models; the real clips are its first row."""
    how = "{clips} clips a row, {steps} DDIM steps, guidance {guidance}, seed {seed}".format(**record["settings"])
    where = "{platform} CPU, torch {torch}".format(**record["machine"])
    caption = f"Percent of clips. {how}; {where}, {record['date']}."
    titles = ("model", "way", "full / cached", "direction", "digit", "both")
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    lines.append(line("real clips, held out", "-", "-", record["real"]))
    for model, rows in record["models"].items():
        lines += [line(f"`{model}`", way, f"{row['full']} / {row['cached']}", row) for way, row in rows.items()]
    return f"{caption}\n\n" + "\n".join(lines)


def line(model: str, way: str, steps: str, shares: Mapping[str, float]) -> str:
    percent = [f"{100 * shares[name]:.1f}" for name in ("direction", "digit", "both")]
    return f"| {' | '.join([model, way, steps, *percent])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=[name for name in MODELS if name in EMBEDDED], choices=MODELS)
    parser.add_argument("--per-class", type=int, default=5, help="clips of each of the 40 classes")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    reader = load_reader(WEIGHTS / "clip-reader")
    labels = [class_id for class_id in range(len(CLASS_NAMES)) for _ in range(asked.per_class)]
    settings = {"clips": len(labels), "steps": asked.steps, "guidance": asked.guidance, "seed": asked.seed}
    real = measure_real(reader, len(labels))
    for name in asked.models:
        rows = measure(
            load_pipeline(name, scheduler="ddim"), MODELS[name](labels), reader, labels,
            steps=asked.steps, guidance_scale=asked.guidance, seed=asked.seed,
        )  # fmt: skip
        record = {"settings": settings, "machine": machine(), "date": date.today().isoformat(), "real": real}
        record["models"] = measured_before(settings) | {name: rows}
        write_text(RECORD, json.dumps(record, indent=2) + "\n")
        write_section(WEIGHTS / "README.md", "digits measured", markdown(record))
    print(markdown(record))


def measured_before(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The models that the record holds under the same settings."""
    held = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    return held["models"] if held.get("settings") == settings else {}


if __name__ == "__main__":
    main()
