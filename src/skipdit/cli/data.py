"""`skipdit data check FOLDER`: what `skipdit train --data FOLDER` would use, and what is broken there."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from skipdit.cli.flags import check_positive, left_out, parse

if TYPE_CHECKING:
    from torch import Tensor

BAR, TABLE_ROWS = 30, 20  # letters of the longest bar; classes or sizes that are listed
SHEET_COLUMNS, SHEET_CLASSES = 10, 20


@dataclass(frozen=True)
class Check:
    """Decode every image of a folder and say what training would use of it."""

    folder: tyro.conf.Positional[Path]
    """a folder that has a folder of images for each class"""
    image_size: int = 64
    """height and width to which images are cropped"""
    out: Annotated[Path | None, left_out("FILE.png", "(default: FOLDER.png)")] = None
    """the contact sheet: ten images of each class, a row for each"""


def command(arguments: Sequence[str]) -> None:
    task, *rest = arguments or ["--help"]
    if task in ("-h", "--help"):
        print(__doc__)
    elif task == "check":
        check(parse(Check, "data check", rest))
    else:
        raise ValueError(f"unknown task {task!r}: take check, as in `skipdit data check FOLDER`")


def check(config: Check) -> None:
    """Print the classes, sizes and broken files of a folder, and draw its contact sheet."""
    check_positive(config, "image_size")
    from skipdit.data.image_folder import Crop, Files, class_of, decode_all, image_names, read_header
    from skipdit.evaluation import grid, save_png

    names = image_names(config.folder)
    files, numbers = Files(config.folder, tuple(names)), range(len(names))
    images = dict(zip(names, decode_all(files, numbers, Crop(config.image_size))))
    good = [name for name in names if images[name] is not None]
    headers = [header for number in numbers if (header := read_header(files, number)) is not None]
    print(f"{len(good)} of {len(names)} images can be read")
    print(histogram("class", Counter(class_of(name) or "(in no folder of a class)" for name in good)))
    print(histogram("size", Counter(f"{header.width} x {header.height}" for header in headers)))
    print(histogram("mode", Counter(header.mode for header in headers)))
    for name in names:
        if images[name] is None:
            print(f"broken: {name}")
    if good:
        out = config.out or Path(f"{config.folder.resolve().name}.png")
        save_png(grid(rows_of({name: images[name] for name in good}), columns=SHEET_COLUMNS), out)
        print(f"{out}: a row for each class, in the order above")


def histogram(title: str, counts: Counter[str]) -> str:
    """A bar for each value, the most frequent sizes or all classes by name."""
    most, width = max(counts.values(), default=1), max(map(len, counts), default=0)
    shown = sorted(counts.items()) if title == "class" else counts.most_common()
    rows = [f"  {name:{width}} {count:7,} {'#' * max(1, BAR * count // most)}" for name, count in shown[:TABLE_ROWS]]
    more = [f"  and {len(shown) - TABLE_ROWS} more"] * (len(shown) > TABLE_ROWS)
    return "\n".join([f"{title}:", *rows, *more])


def rows_of(images: "dict[str, Tensor]") -> "Tensor":
    """Ten images of each class [N, 3, S, S] in [0, 1], white where a class has fewer."""
    import torch

    from skipdit.data.image_folder import class_of

    rows: dict[str, list[Tensor]] = {}
    for name, image in images.items():
        rows.setdefault(class_of(name), []).append(image)
    blank = [torch.full_like(next(iter(images.values())), 255)] * SHEET_COLUMNS
    tiles = [(rows[name] + blank)[:SHEET_COLUMNS] for name in sorted(rows)[:SHEET_CLASSES]]
    return torch.stack([image for row in tiles for image in row]) / 255
