"""Trains the reader of moving digits and reads held-out real clips with it: weights/clip-reader.

Every digit of the clips in measured.json is one that neither the reader nor any model has seen.
"""

import argparse
import json
import time
from datetime import date
from pathlib import Path

import torch

from skipdit.cli.bench import machine
from skipdit.data.moving_digits import moving_digits
from skipdit.evaluation.reading import (
    STEPS,
    UNREAD,
    ClipReader,
    Readings,
    agreement,
    read,
    save_reader,
    shuffled,
    softened,
    train_reader,
)
from skipdit.files import write_text
from skipdit.randomness import generator

FOLDER = Path(__file__).parents[1] / "weights" / "clip-reader"
HELD_OUT = 2_000  # clips, of 500 digits


def measured(reader: ClipReader) -> dict[str, dict[str, float]]:
    """Accuracies on held-out clips, on softened ones, and on clips that do not move as their labels say."""
    test, indices, draw = moving_digits(split="test"), torch.arange(HELD_OUT), generator(0, 0)
    clips, labels = test.x_0(indices), test.class_ids(indices)
    variants = {
        "as they are": clips, "blurred and noisy": softened(clips, draw), "still": clips[:, :1].expand_as(clips),
        "reversed": clips.flip(1), "frames shuffled": shuffled(clips, draw),
    }  # fmt: skip
    readings = {name: read(reader, variant) for name, variant in variants.items()}
    return {name: agreement(reading, labels) | unread(reading) for name, reading in readings.items()}


def unread(readings: Readings) -> dict[str, float]:
    """The shares of clips without a majority."""
    nothing = {"no digit": readings.digit == UNREAD, "no direction": readings.direction == UNREAD}
    return {name: found.double().mean().item() for name, found in nothing.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    wall, cpu = time.perf_counter(), time.process_time()
    reader = train_reader(moving_digits(), steps=arguments.steps, seed=arguments.seed)
    seconds = {"wall": round(time.perf_counter() - wall, 1), "processor": round(time.process_time() - cpu, 1)}
    save_reader(reader, FOLDER)
    record = {
        "settings": vars(arguments), "machine": machine(), "date": date.today().isoformat(), "seconds": seconds,
        "parameters": sum(p.numel() for p in reader.parameters()), "clips": HELD_OUT, "held_out": measured(reader),
    }  # fmt: skip
    text = json.dumps(record, indent=2) + "\n"
    write_text(FOLDER / "measured.json", text)
    print(text, end="")


if __name__ == "__main__":
    main()
