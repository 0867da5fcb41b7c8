"""How samples are written: each as a file of its own in a folder, of which the file that was asked for is then made.

    --out      of images                       of videos
    folder     000000.png ...                  000000-class003.mp4 ..., or folders of frames
    .png       a grid                          a contact sheet: a row a video, its frames from left to right
    .npz       arr_0, uint8 [N, H, W, 3]
    .mp4 ...                                   the video, or all of them in a grid, playing together

The folder of a file is OUT.parts: an interrupted run leaves it, and a finished one removes it.
"""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from skipdit import evaluation
from skipdit.cli.wanted import Wanted
from skipdit.evaluation import contact_sheet, grid, to_uint8
from skipdit.videos import check_folder, check_target, read_video, write_frames, write_video

FORMATS = {"mp4": ".mp4", "mkv": ".mkv", "webp": ".webp", "gif": ".gif", "frames": ""}
VIDEO_FILES = (".mp4", ".mkv", ".webp", ".gif")
FILES = {"image": (".png", ".npz"), "video": (".png", *VIDEO_FILES)}  # what --out may end in
PART = ".webp"  # lossless, and needs no PyAV
FPS = 8.0  # as published
RECORD = "run.json"
GRID_COLUMNS, SMALLEST_SIDE = 10, 64


@dataclass(frozen=True)
class Output:
    """Where samples go: `suffix` is that of a single one, "" for a folder of frames; `fps` is None for images."""

    out: Path
    unit: str
    suffix: str
    fps: float | None = None

    @property
    def folder(self) -> Path:
        return self.out if self.out.suffix == "" else self.out.with_suffix(self.out.suffix + ".parts")

    def path(self, sample: Wanted) -> Path:
        return self.folder / f"{sample.name}{self.suffix}"

    def done(self, wanted: Iterable[Wanted]) -> list[Wanted]:
        """Those that are there; each is whole."""
        return [sample for sample in wanted if self.path(sample).exists()]

    def write(self, sample: Wanted, pixels: Tensor) -> None:
        """An image [C, H, W] or a video [F, C, H, W] in [0, 1], whole or not at all."""
        if self.fps is None:
            evaluation.save_png(picture(pixels), self.path(sample))
        elif self.suffix == "":  # not that of the path: a prompt may end in ".gif"
            write_frames(to_uint8(pixels), self.path(sample), fps=self.fps)
        else:
            write_video(to_uint8(pixels), self.path(sample), fps=self.fps)


def picture(image: Tensor) -> Image.Image:
    """[C, H, W] in [0, 1], grey or in colour."""
    array = to_uint8(image[None])[0]
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def output_of(config: Any, unit: str) -> Output:
    """ValueError for a suffix that the unit does not have, or a flag that a file of this kind has no use for."""
    out = config.out.resolve() if config.out.is_symlink() else config.out
    suffix = config.out.suffix
    if suffix not in ("", *FILES[unit]):
        *others, last = FILES[unit]
        raise ValueError(f"out is {str(config.out)!r}: it must end in {', '.join(others)} or {last}, or be a folder")
    for flag, used in (("format", not suffix), ("layout", not suffix), ("fps", suffix != ".png")):
        if not used and (value := getattr(config, flag)) is not None:
            raise ValueError(f"{flag} is {value!r}, for which --out {config.out} has no use: leave it out")
    if unit == "image":
        return Output(out, unit, ".png")
    single = FORMATS[config.format or "mp4"] if not suffix else PART
    return Output(out, unit, single, FPS if config.fps is None else config.fps)


def check_output(output: Output, wanted: Iterable[Wanted]) -> None:
    """Raise before the drawing what the writing would raise after it."""
    if output.out != output.folder and output.out.is_dir():
        raise FileExistsError(f"{output.out} is a folder: remove it, or take another --out")
    if output.fps is None:
        return
    check = check_folder if output.suffix == "" else check_target
    for sample in wanted:
        check(output.path(sample), fps=output.fps)
    if output.out.suffix in VIDEO_FILES:
        check_target(output.out, fps=output.fps)


def finish(output: Output, wanted: list[Wanted]) -> str:
    """Make it of the single samples; returns what it is, in words.

    It is made in their folder, so that what a kill leaves of it is found and replaced, and renamed when it is whole.
    """
    number, out = len(wanted), output.out
    whole, record = output.folder / f".whole{out.suffix}", output.folder / ".whole.json"
    if out == output.folder:
        kind = f" ({output.suffix or 'frames'})"
        return counted(number, "PNG") if output.unit == "image" else counted(number, "video") + kind
    paths = [output.path(sample) for sample in wanted]
    match output.unit, out.suffix:
        case "image", ".png":
            made = write_grid(paths, whole)
        case "image", ".npz":
            made = write_npz(paths, whole)
        case "video", ".png":
            made = write_contact_sheet(paths, whole)
        case "video", _:
            made = write_one_video(paths, whole, fps=output.fps)
    shutil.copyfile(output.folder / RECORD, record)
    whole.replace(out)
    record.replace(out.with_suffix(".json"))
    shutil.rmtree(output.folder)
    return made


def counted(number: int, unit: str) -> str:
    return f"{number} {unit}" if number == 1 else f"{number} {unit}s"


def write_grid(paths: list[Path], out: Path) -> str:
    images = torch.stack([torch.from_numpy(np.atleast_3d(np.array(Image.open(path)))) for path in paths])
    evaluation.save_png(tiled(images.permute(0, 3, 1, 2) / 255), out)
    return f"a grid of {len(paths)}"


def tiled(images: Tensor) -> Image.Image:
    """Images [N, C, H, W] in [0, 1] in lines of ten, small ones enlarged."""
    return grid(images, columns=min(GRID_COLUMNS, len(images)), scale=enlarged(images))


def enlarged(images: Tensor) -> int:
    return max(1, SMALLEST_SIDE // images.shape[-2])


def write_npz(paths: list[Path], out: Path) -> str:
    """Stream PNGs into an .npz whose arr_0 is uint8 [N, H, W, 3], grey ones repeated, so that 50,000 need no memory."""
    import zipfile

    width, height = Image.open(paths[0]).size
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(paths), height, width, 3)}
    partial = out.with_name(f".{out.name}.partial")
    try:
        with zipfile.ZipFile(partial, "w") as archive, archive.open("arr_0.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array_header_1_0(file, header)
            for path in paths:
                file.write(np.asarray(Image.open(path).convert("RGB")).tobytes())
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    return f"arr_0 of {counted(len(paths), 'image')}"


def write_contact_sheet(paths: list[Path], out: Path) -> str:
    clips = read_clips(paths)
    evaluation.save_png(contact_sheet(clips, scale=enlarged(clips)), out)
    return f"a contact sheet of {counted(len(paths), 'video')}"


def write_one_video(paths: list[Path], out: Path, *, fps: float) -> str:
    if len(paths) == 1:
        write_video(read_video(paths[0])[0], out, fps=fps)
        return "1 video"
    pages = [np.asarray(tiled(frames)) for frames in read_clips(paths).unbind(1)]
    write_video(np.stack(pages), out, fps=fps)
    return f"a grid of {counted(len(paths), 'video')}"


def read_clips(paths: list[Path]) -> Tensor:
    """[N, F, 3, H, W] in [0, 1]."""
    clips = np.stack([read_video(path)[0] for path in paths])
    return torch.from_numpy(clips).movedim(-1, -3) / 255
