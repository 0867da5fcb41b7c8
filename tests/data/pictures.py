"""Folders of small drawings: a circle, a cross, a square and a triangle, of any size and colour, as a user has them."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SHAPES = ("circle", "cross", "square", "triangle")


def write_pictures(folder: Path, *, each: int = 50, side: int = 28) -> Path:
    """`each` PNGs in a folder of each shape; returns `folder`."""
    draw = np.random.default_rng(0)
    for shape in SHAPES:
        (folder / shape).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            picture(shape, draw, side).save(folder / shape / f"{number:03}.png")
    return folder


def picture(shape: str, draw: np.random.Generator, side: int) -> Image.Image:
    """One shape in one colour on another."""
    ground, ink = (tuple(map(int, draw.integers(*bounds, 3))) for bounds in ((180, 256), (0, 120)))
    image = Image.new("RGB", (side, side), ground)
    left, top = map(int, draw.integers(1, side // 4, 2))
    right, bottom = (side - 1 - int(room) for room in draw.integers(1, side // 4, 2))
    pen = ImageDraw.Draw(image)
    match shape:
        case "circle":
            pen.ellipse((left, top, right, bottom), fill=ink)
        case "square":
            pen.rectangle((left, top, right, bottom), fill=ink)
        case "triangle":
            pen.polygon([((left + right) // 2, top), (right, bottom), (left, bottom)], fill=ink)
        case "cross":
            pen.line((left, top, right, bottom), fill=ink, width=4)
            pen.line((left, bottom, right, top), fill=ink, width=4)
    return image
