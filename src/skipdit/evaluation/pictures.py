"""Pictures of samples: what to look at before, and beside, any number.

    labelled_rows    title
                     label | image image image ...          one row a candidate, one column a seed or class
                     label | image image image ...
                             caption caption caption

Of clips, `labelled_clips` makes that page for every frame, and `contact_sheet` has one row a clip, one column a frame.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

PAPER, INK, MUTED, HAIRLINE = "#fcfcfa", "#1f2328", "#6e7781", "#d0d7de"
NO_GLYPH = "\uffff"  # drawn as the box that stands for every character the font lacks


def to_uint8(images: Tensor) -> np.ndarray:
    """Images as 8-bit pixels, rounded to nearest and clamped: floor(255 x + 1/2), channels last.

    With x = (y + 1) / 2 this is the published clamp(127.5 y + 128, 0, 255) of y in [-1, 1], truncated: the pixels
    that go under `arr_0` into the .npz of the ADM evaluator.
    Shapes: images [B, C, H, W] in [0, 1] (clamped if not) -> uint8 [B, H, W, C].
    Raises: ValueError for integers, or for NaN, which has no pixel.
    Source: the published sampling script of DiT (arXiv 2212.09748).
    """
    _check_values(images)
    pixels = (255 * images.detach().cpu().double() + 0.5).clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).numpy()


def difference(images: Tensor, reference: Tensor, *, gain: float) -> Tensor:
    """|images - reference| times `gain`, clipped to [0, 1]; label it with `difference_label`, so that the gain is said.

    Shapes: both [B, C, H, W]; so is the result.
    Raises: ValueError for different shapes, naming both, or a gain that is not positive.
    """
    if images.shape != reference.shape:
        raise ValueError(
            f"images have shape {tuple(images.shape)}, the reference {tuple(reference.shape)}; they must be the same."
        )
    if not gain > 0:
        raise ValueError(f"gain is {gain}; it must be positive.")
    return ((images - reference).abs() * gain).clamp(0, 1)


def difference_label(*, gain: float) -> str:
    """The words that a row of `difference` images is shown with."""
    return f"difference x {gain:g}"


def grid(images: Tensor, *, columns: int, scale: int = 1) -> Image.Image:
    """Images in reading order, `columns` to a line, on light paper.

    Shapes: images [B, C, H, W] in [0, 1], C 1 or 3; each pixel becomes scale x scale.
    Raises: ValueError for an empty batch, another C, or columns or scale below 1.
    """
    if columns < 1:
        raise ValueError(f"columns is {columns}; it must be at least 1.")
    tiles = _tiles(images, scale=scale)
    lines = [tiles[first : first + columns] for first in range(0, len(tiles), columns)]
    return _margin(_stack([_beside(line, gap=2) for line in lines], gap=2), 4)


def labelled_rows(
    rows: Mapping[str, Tensor], *, scale: int, title: str | None = None, captions: Sequence[str] | None = None
) -> Image.Image:
    """Rows of images on light paper, each with its label at the left, a title above and captions below the columns.

    A label or title may have several lines: the first is the name, the others are set small. Captions wrap, and widen
    the columns where a word is wider than an image; images are only ever enlarged, each pixel to scale x scale.
    Shapes: every row [B, C, H, W] in [0, 1] with the same B, H and W, C 1 or 3; `captions` has B entries.
    Raises: ValueError for no rows, rows that do not match, another number of captions, a scale below 1, or a
    character that Pillow's built-in font (Latin letters, digits, ASCII signs) does not have.
    """
    tiles = [_tiles(images, scale=scale) for images in rows.values()]
    _check_rows(rows, captions)
    size = _type_size(tiles[0][0])
    names = [_label(label, size=size) for label in rows]
    notes = [_caption(caption, size=size, width=tiles[0][0].width) for caption in captions or []]
    table = _table(names, tiles, notes, size=size)
    heading = [_label(title, size=round(1.35 * size))] if title else []
    return _margin(_stack([*heading, table], gap=size), round(1.5 * size))


def labelled_clips(
    rows: Mapping[str, Tensor], *, scale: int, title: str | None = None, captions: Sequence[str] | None = None
) -> np.ndarray:
    """Frame f is the page of `labelled_rows` for frame f of every clip: what `write_video` takes.

    Shapes: every row [B, F, C, H, W] in [0, 1] with the same B, F, H and W, C 1 or 3 -> uint8 [F, H', W', 3].
    Raises: ValueError for rows of other shapes, and as `labelled_rows` does.
    """
    pages = [labelled_rows(frames, scale=scale, title=title, captions=captions) for frames in _frame_by_frame(rows)]
    return np.stack([np.asarray(page) for page in pages])


def contact_sheet(clips: Tensor, *, scale: int, columns: int | None = None) -> Image.Image:
    """Clips as rows and frames as columns, from left to right; `columns` of the frames, evenly spaced, or all.

    The first and the last frame are always there, unless there is one column: the first frame.
    Shapes: clips [B, F, C, H, W] in [0, 1], C 1 or 3; each pixel becomes scale x scale.
    Raises: ValueError for another shape, more columns than frames or none, or a scale below 1.
    """
    _check_clips("clips", clips)
    length = clips.shape[1]
    columns = length if columns is None else columns
    if not 1 <= columns <= length:
        raise ValueError(f"columns is {columns}; it must be between 1 and {length}, the number of frames.")
    shown = torch.linspace(0, length - 1, columns, dtype=torch.float64).round().long()
    return grid(clips[:, shown].flatten(0, 1), columns=columns, scale=scale)


def save_png(image: Image.Image, path: Path | str) -> None:
    """Write a picture whole or not at all: aside in the same folder, then renamed over `path`.

    Raises: ValueError unless `path` ends in .png; OSError as the file system does, leaving what was there before.
    """
    path = Path(path)
    if path.suffix != ".png":
        raise ValueError(f"path is {str(path)!r}; it must end in .png, the format that is written.")
    aside = path.with_name(f".{path.stem}.{uuid4().hex}.png")
    try:
        image.save(aside)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _tiles(images: Tensor, *, scale: int) -> list[Image.Image]:
    """Each image enlarged, in RGB, inside a hairline, so that a white one does not dissolve into the paper."""
    _check_images(images, scale=scale)
    pixels = to_uint8(images).repeat(scale, axis=1).repeat(scale, axis=2)
    rgb = np.broadcast_to(pixels, (*pixels.shape[:3], 3))
    return [ImageOps.expand(Image.fromarray(np.ascontiguousarray(image)), border=1, fill=HAIRLINE) for image in rgb]


def _frame_by_frame(rows: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Rows of images [B, C, H, W], one mapping a frame."""
    _check_clip_rows(rows)
    length = next(iter(rows.values())).shape[1]
    return [{label: clips[:, frame] for label, clips in rows.items()} for frame in range(length)]


def _type_size(tile: Image.Image) -> int:
    return min(max(tile.height // 9, 14), 24)


def _label(label: str, *, size: int) -> Image.Image:
    """The first line in ink, the others small and muted."""
    first, *others = label.split("\n")
    small = [_text(line, size=round(0.86 * size), fill=MUTED) for line in others]
    return _stack([_text(first, size=size), *small], gap=2)


def _caption(caption: str, *, size: int, width: int) -> Image.Image:
    lines = _wrapped(caption, ImageFont.load_default(size - 1), width=width)
    return _stack([_text(line, size=size - 1, fill=MUTED) for line in lines], gap=1, align=0.5)


def _wrapped(text: str, font: ImageFont.FreeTypeFont, *, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        lines[-1:] = [longer] if lines[-1] == "" or font.getlength(longer) <= width else [lines[-1], word]
    return lines


def _text(text: str, *, size: int, fill: str = INK) -> Image.Image:
    """One line of text, as high as any other line of its size."""
    font = ImageFont.load_default(size)
    _check_glyphs(text, font)
    ascent, descent = font.getmetrics()
    image = _paper(max(1, round(font.getlength(text) + 0.5)), ascent + descent)
    ImageDraw.Draw(image).text((0, 0), text, font=font, fill=fill)
    return image


def _table(
    names: list[Image.Image], tiles: list[list[Image.Image]], notes: list[Image.Image], *, size: int
) -> Image.Image:
    """Names at the left edge, tiles and notes in columns of one width; names stand in the middle of their row."""
    name_width = max(name.width for name in names) + size // 2
    cell_width = max(cell.width for cell in [*tiles[0], *notes])
    lines = [([name, *cells], 0.5) for name, cells in zip(names, tiles, strict=True)]
    if notes:
        lines.append(([_paper(0, 0), *notes], 0))
    gap = max(6, size // 2)
    return _stack([_line(*line, name_width=name_width, cell_width=cell_width, gap=gap) for line in lines], gap=gap)


def _line(cells: list[Image.Image], align: float, *, name_width: int, cell_width: int, gap: int) -> Image.Image:
    name, *others = cells
    sized = [_widened(name, name_width, align=0), *[_widened(cell, cell_width, align=0.5) for cell in others]]
    return _beside(sized, gap=gap, align=align)


def _widened(image: Image.Image, width: int, *, align: float) -> Image.Image:
    return _stack([image, _paper(width, 0)], gap=0, align=align)


def _beside(images: list[Image.Image], *, gap: int, align: float = 0) -> Image.Image:
    """Images from left to right; `align` 0 hangs them from one line, 0.5 centres them on it."""
    return _turned(_stack([_turned(image) for image in images], gap=gap, align=align))


def _stack(images: list[Image.Image], *, gap: int, align: float = 0) -> Image.Image:
    """Images from top to bottom; `align` 0 sets them at the left edge, 0.5 in the middle."""
    width = max(image.width for image in images)
    page = _paper(width, sum(image.height for image in images) + gap * (len(images) - 1))
    top = 0
    for image in images:
        page.paste(image, (int(align * (width - image.width)), top))
        top += image.height + gap
    return page


def _turned(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.TRANSPOSE)


def _margin(image: Image.Image, width: int) -> Image.Image:
    return ImageOps.expand(image, border=width, fill=PAPER)


def _paper(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), PAPER)


def _check_rows(rows: Mapping[str, Tensor], captions: Sequence[str] | None) -> None:
    shapes = {label: tuple(images.shape) for label, images in rows.items()}
    if len({(batch, height, width) for batch, _, height, width in shapes.values()}) != 1:
        raise ValueError(f"rows have shapes {shapes}; there must be at least one, all with the same B, H and W.")
    columns = next(iter(shapes.values()))[0]
    if captions is not None and len(captions) != columns:
        raise ValueError(f"there are {len(captions)} captions for {columns} columns; give one each.")


def _check_clip_rows(rows: Mapping[str, Tensor]) -> None:
    for label, clips in rows.items():
        _check_clips(repr(label), clips)
    lengths = {label: clips.shape[1] for label, clips in rows.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"rows have {lengths} frames; there must be at least one row, all with the same F.")


def _check_clips(name: str, clips: Tensor) -> None:
    if clips.ndim != 5 or clips.shape[1] == 0:
        raise ValueError(f"{name} has shape {tuple(clips.shape)}; it must be [B, F, C, H, W] with F >= 1.")


def _check_values(images: Tensor) -> None:
    if not images.is_floating_point():
        raise ValueError(f"images have dtype {images.dtype}; they must be floats in [0, 1]: divide 8-bit ones by 255.")
    if images.isnan().any():
        raise ValueError(f"{int(images.isnan().sum())} of {images.numel()} values are NaN; look for where they began.")


def _check_images(images: Tensor, *, scale: int) -> None:
    if images.ndim != 4 or images.shape[1] not in (1, 3) or len(images) == 0:
        raise ValueError(f"images have shape {tuple(images.shape)}; it must be [B, C, H, W] with B >= 1 and C 1 or 3.")
    if scale < 1:
        raise ValueError(f"scale is {scale}; it must be at least 1.")


def _check_glyphs(text: str, font: ImageFont.FreeTypeFont) -> None:
    box = bytes(font.getmask(NO_GLYPH))
    missing = [character for character in sorted(set(text)) if bytes(font.getmask(character)) == box]
    if missing:
        raise ValueError(f"{text!r} has {missing}, which Pillow's built-in font lacks; write it without.")
