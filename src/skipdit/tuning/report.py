"""The report as one picture: decibels by calls, the plan as a strip, and six ways to draw the same noise."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from skipdit.evaluation.pictures import HAIRLINE, INK, MUTED, PAPER, labelled_rows, save_png
from skipdit.tuning.task import REFERENCE, TUNED

WIDTH, MARGIN, ROW = 900, 46, 26
SHOWN = 8  # samples
ACCENT = "#0b7285"
COLORS = {"#": ACCENT, ".": "#ffc078", "-": "#e9ecef"}


def write_report(path: Path, report: Mapping[str, Any], pictures: Mapping[str, Tensor]) -> None:
    parts = [chart(report), plan_strip(report["plan"]), comparison(report, pictures)]
    page = Image.new("RGB", (max(part.width for part in parts), sum(part.height for part in parts)), PAPER)
    top = 0
    for part in parts:
        page.paste(part, (0, top))
        top += part.height
    save_png(page, path)


def chart(report: Mapping[str, Any]) -> Image.Image:
    """Bars of held-out decibels, one a way, best first, with two standard errors and the calls that each makes."""
    rows = sorted(report["held_out"].items(), key=lambda item: -item[1]["psnr"])
    image = Image.new("RGB", (WIDTH, MARGIN + ROW * len(rows) + 10), PAPER)
    draw, font, small = ImageDraw.Draw(image), ImageFont.load_default(15), ImageFont.load_default(13)
    draw.text((12, 12), report["words"][0], fill=INK, font=font)
    low = min(row["psnr"] for _, row in rows) - 3
    high = max(row["psnr"] + 2 * row["error"] for _, row in rows)
    left, right = 190, WIDTH - 220
    for index, (name, row) in enumerate(rows):
        y, end = MARGIN + ROW * index, left + (right - left) * (row["psnr"] - low) / (high - low)
        draw.text((12, y + 3), name, fill=INK, font=small)
        draw.rectangle((left, y + 4, end, y + ROW - 6), fill=ACCENT if name == TUNED else HAIRLINE)
        reach = 2 * row["error"] * (right - left) / (high - low)
        draw.line((end - reach, y + ROW // 2 - 1, end + reach, y + ROW // 2 - 1), fill=INK)
        draw.text((right + 64, y + 3), f"{row['psnr']:.1f} dB, {row['calls']} calls", fill=MUTED, font=small)
    return image


def plan_strip(plan: str) -> Image.Image:
    """A cell a step: computed, cached or free."""
    cell = max(4, (WIDTH - 24) // len(plan))
    image = Image.new("RGB", (24 + cell * len(plan), 40), PAPER)
    draw = ImageDraw.Draw(image)
    for index, kind in enumerate(plan):
        draw.rectangle((12 + cell * index, 8, 12 + cell * (index + 1) - 2, 30), fill=COLORS[kind])
    return image


def comparison(report: Mapping[str, Any], pictures: Mapping[str, Tensor]) -> Image.Image:
    """The reference, the plan and the four best controls, the same noise in a column."""
    controls = [name for name in report["held_out"] if name != TUNED]
    controls.sort(key=lambda name: -report["held_out"][name]["psnr"])
    rows = {label(report, name): shown(pictures[name]) for name in (REFERENCE, TUNED, *controls[:4])}
    return labelled_rows(rows, scale=max(1, 56 // next(iter(rows.values())).shape[-1]))


def label(report: Mapping[str, Any], name: str) -> str:
    row = report["held_out"].get(name)
    said = f"{report['steps']} calls" if row is None else f"{row['calls']} calls, {row['psnr']:.1f} dB"
    return f"{name}\n{said}"


def shown(pictures: Tensor) -> Tensor:
    """Pictures [B, C, H, W] as they are, of clips the middle frame; the first few."""
    frames = pictures if pictures.ndim == 4 else pictures[:, pictures.shape[1] // 2]
    return frames[:SHOWN]
