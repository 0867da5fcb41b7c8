"""`skipdit data check FOLDER`: what `skipdit train --data FOLDER` would use, and what is broken there.

`skipdit data encode FOLDER --vae NAME --out LATENTS`: its latents, for `skipdit train --data LATENTS`.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from skipdit.cli.flags import check_positive, left_out, parse

if TYPE_CHECKING:
    from torch import Tensor

    from skipdit.data import Images, Latents, Videos

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


@dataclass(frozen=True)
class Encode:
    """Write the latents of images, mirrored ones too. The same command goes on where it was stopped, and run several
    times at once it shares the work.
    """

    folder: tyro.conf.Positional[str]
    """a folder that has a folder of images or videos for each class, a .parquet or .arrow file, or hf:NAME"""
    vae: str
    """an autoencoder: sd-vae-ft-mse, sd-vae-ft-ema or the like, or a folder"""
    out: Path
    """the folder of the latents"""
    image_size: int = 256
    """height and width to which images are cropped"""
    flip: bool = True
    """encode the mirrored images too"""
    frames: Annotated[int | None, left_out("N", "(default: 16 of videos)")] = None
    """frames of a clip; it says that folders of images are videos, a frame each"""
    interval: Annotated[int | None, left_out("K", "(default: 3 of videos)")] = None
    """from one frame of a clip to the next, in frames of the video"""
    unlabelled: bool = False
    """the folders of videos are no classes"""
    batch_size: int = 16
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """in which the autoencoder computes"""


TASKS = {"check": Check, "encode": Encode}


def command(arguments: Sequence[str]) -> None:
    task, *rest = arguments or ["--help"]
    if task in ("-h", "--help"):
        print(f"usage: skipdit data check|encode FOLDER [settings]\n\n{__doc__}")
    elif task in TASKS:
        run = {"check": check, "encode": encode}[task]
        run(parse(TASKS[task], f"data {task}", rest))
    else:
        raise ValueError(f"unknown task {task!r}: take {' or '.join(TASKS)}, as in `skipdit data check FOLDER`")


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


def encode(config: Encode) -> None:
    """Write the latents, and say how fast they were made and how fast they are read."""
    check_positive(config, "image_size", "batch_size")
    import torch
    from tqdm import tqdm

    from skipdit.data import latents
    from skipdit.hub.load import load_vae, locate

    vae = torch.nn.Module.to(load_vae(locate(config.vae)), config.device, getattr(torch, config.dtype)).eval()
    images = images_of(config)
    with tqdm(total=len(images), desc="encoding", unit="image") as bar:
        made = latents.encode(images, config.out, vae, batch_size=config.batch_size, on_batch=bar.update)
    read = reading_rate(latents.latents(config.out), batch_size=config.batch_size)
    print(f"{config.out}: {len(images):,} latents, encoded at {made:,.0f} and read at {read:,.0f} images a second")


def images_of(config: Encode) -> "Images | Videos":
    """What is encoded: a table, videos, or images."""
    from skipdit.data import Clips, Crop, image_folder, image_table, video_folder
    from skipdit.data.table import is_table
    from skipdit.data.video_folder import has_videos

    how, folder = {"size": config.image_size, "flip": config.flip}, Path(config.folder)
    if is_table(config.folder):
        return image_table(config.folder, Crop(**how))
    if config.frames is None and not has_videos(folder):
        return image_folder(folder, Crop(**how))
    taken = {"frames": config.frames, "interval": config.interval}
    taken = {name: value for name, value in taken.items() if value is not None}
    return video_folder(folder, Clips(**how, **taken, labelled=not config.unlabelled))


def reading_rate(cache: "Latents", *, batch_size: int) -> float:
    """Samples a second that training reads, over about a second."""
    import torch

    read, since = 0, time.perf_counter()
    while time.perf_counter() - since < 1:
        cache.x_0(torch.randint(len(cache), (batch_size,)))
        read += batch_size
    return read / (time.perf_counter() - since)


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
