"""Video files, written whole or not at all, and read back.

    .mp4        H.264, 4:2:0      plays everywhere; lossy
    .mkv        FFV1              lossless
    .gif        up to 256 colours exact where a clip has no more of them, as grey ones; 50 frames a second at most
    .webp       animated          lossless
    no suffix   a folder of 000000.png, 000001.png ...; lossless; of any name with `write_frames`

Pillow keeps equal consecutive frames of a GIF or WebP as one that lasts longer, so that such files, and PNGs, which
have no clock, carry a note such as "16 frames at 8.0 fps", and reading repeats what lasts. PyAV is needed for .mp4
and .mkv alone.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from uuid import uuid4

import numpy as np
from PIL import ExifTags, Image, ImageSequence

from skipdit.files import whole_folder

SUFFIXES = (".mp4", ".mkv", ".gif", ".webp", "")  # "" is a folder of PNGs
LOSSLESS = (".mkv", ".webp", "")
SLOWEST, FASTEST = 0.1, 240.0  # frames a second
FASTEST_GIF = 50.0  # browsers show what should last 10 ms for 100
TICK = {".gif": 10, ".webp": 1}  # ms, in which a file counts how long a frame lasts
FRAME = re.compile(r"\d{6,}\.png")
NOTE = re.compile(r"(\d+) frames at (\S+) fps")


@dataclass(frozen=True)
class Encoding:
    """What FFmpeg is told; the names are its own."""

    codec: str
    pixels: str
    options: Mapping[str, str] = field(default_factory=dict)
    container: Mapping[str, str] = field(default_factory=dict)


BT709 = {"colorspace": "bt709", "color_primaries": "bt709", "color_trc": "bt709"}
H264 = Encoding("libx264", "yuv420p", {"crf": "17", **BT709}, {"movflags": "+faststart"})  # 17: no visible loss
FFV1 = Encoding("ffv1", "bgr0")


def write_video(frames: np.ndarray, path: Path | str, *, fps: float) -> None:
    """Write a clip in the format that the suffix of `path` names, whole or not at all; missing folders are made.

    Frames of an .mp4 with an odd height or width get one more line or column, a copy of the last, since 4:2:0 has one
    colour for 2 x 2 pixels. A .gif has one palette for the whole clip and no dithering: what stands still does not
    flicker. Frames last 1 / fps on average, in whole units of 10 ms (.gif) or 1 ms (.webp). A folder of PNGs that
    is there is replaced.
    Shapes: frames uint8 [F, H, W, C], C 1 or 3.
    Raises: ValueError for other frames; what `check_target` raises; OSError naming `path` where it cannot be written,
    which leaves what was there before.
    """
    path = Path(path)
    if path.suffix == "":
        return write_frames(frames, path, fps=fps)
    _check_frames(frames)
    check_target(path, fps=fps)
    with _whole_file(path) as aside:
        _write_file(frames, aside, fps=float(fps))


def write_frames(frames: np.ndarray, folder: Path | str, *, fps: float) -> None:
    """Write a clip as a folder of PNGs, whole or not at all, whatever dots its name has: "St. Bernard" or "see b.gif".

    Shapes: frames uint8 [F, H, W, C], C 1 or 3.
    Raises: ValueError for other frames; what `check_folder` raises; OSError naming `folder` where it cannot be written,
    which leaves what was there before.
    """
    folder = Path(folder)
    _check_frames(frames)
    check_folder(folder, fps=fps)
    exif = _exif(_note(frames, float(fps)))
    with whole_folder(folder) as aside:
        for index, frame in enumerate(frames):
            Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame).save(_png(aside, index), exif=exif)


def read_video(path: Path | str) -> tuple[np.ndarray, float]:
    """A clip and its frames a second: of ours as many frames as were written, of others those that are stored.

    A folder is one of frames, whatever its name. Without our note a GIF or WebP whose frames last differently has their
    mean rate. Transparency is dropped.
    Shapes: frames uint8 [F, H, W, 3], grey ones repeated.
    Raises: ValueError for an unknown suffix; OSError naming `path` where it cannot be read, is cut short or says
    nothing of its rate, and where PyAV is needed and missing.
    """
    path = Path(path)
    suffix = "" if path.is_dir() else path.suffix.lower()
    _check_suffix(path, suffix)
    with _named(path, "read as a video"):
        match suffix:
            case "":
                return _read_folder(path)
            case ".gif" | ".webp":
                return _read_animation(path)
            case _:
                return _decode(path)


def check_target(path: Path | str, *, fps: float) -> None:
    """Raise before the sampling what `write_video` would raise after it.

    Raises: ValueError for an unknown suffix or a rate that the format does not have; FileExistsError where `path`
    would replace anything but a file or a folder of frames; OSError where PyAV is needed and missing.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == "":
        return check_folder(path, fps=fps)
    _check_suffix(path, suffix)
    _check_rate(fps, FASTEST_GIF if suffix == ".gif" else FASTEST, kind=path.suffix)
    if path.exists() and not path.is_file():
        raise FileExistsError(f"{path} is there and is not a file: remove it, or take another path")


def check_folder(folder: Path | str, *, fps: float) -> None:
    """Raise before the sampling what `write_frames` would raise after it.

    Raises: ValueError for a rate out of range; FileExistsError where `folder` would replace anything but frames.
    """
    folder = Path(folder)
    _check_rate(fps, FASTEST, kind="a folder of PNGs")
    if folder.exists() and not _holds_frames_alone(folder):
        raise FileExistsError(f"{folder} is there and is not a folder of frames: remove it, or take another path")


def _write_file(frames: np.ndarray, path: Path, *, fps: float) -> None:
    match path.suffix:
        case ".mp4":
            _encode(_even(frames), path, H264, fps=fps)
        case ".mkv":
            _encode(frames, path, FFV1, fps=fps)
        case ".gif":
            _write_gif(frames, path, fps=fps)
        case ".webp":
            _write_webp(frames, path, fps=fps)


def _encode(frames: np.ndarray, path: Path, encoding: Encoding, *, fps: float) -> None:
    """The path is made absolute, since FFmpeg reads "a: b.mp4" as a protocol."""
    av = _pyav()
    rate = Fraction(fps).limit_denominator(1001)  # 23.976... is 24000/1001
    with av.open(str(path.absolute()), "w", options=dict(encoding.container)) as container:
        stream = container.add_stream(encoding.codec, rate=rate, options=dict(encoding.options))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = encoding.pixels
        for frame in _rgb(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            container.mux(stream.encode(picture.reformat(format=encoding.pixels, dst_colorspace="ITU709")))
        container.mux(stream.encode(None))


def _decode(path: Path) -> tuple[np.ndarray, float]:
    av = _pyav()
    with av.open(str(path.absolute())) as container:
        if not container.streams.video:
            raise OSError("it has no video stream")
        stream = container.streams.video[0]
        decoded = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(stream)]
        fps = float(stream.average_rate)
        promised = (container.duration or 0) / av.time_base if len(container.streams) == 1 else 0
    if not decoded or decoded[-1][0] + 1.5 / fps < promised:  # Matroska that is cut short ends without an error
        raise OSError(f"it ends after {len(decoded)} frames, before its {promised:g} s: make it again")
    return np.stack([frame for _, frame in decoded]), fps


def _write_gif(frames: np.ndarray, path: Path, *, fps: float) -> None:
    indices, palette = _indexed(_rgb(frames))
    images = [Image.fromarray(index) for index in indices]
    for image in images:
        image.putpalette(palette)
    _save_animation(images, path, fps=fps, comment=_note(frames, fps), interlace=0)


def _write_webp(frames: np.ndarray, path: Path, *, fps: float) -> None:
    images = [Image.fromarray(frame) for frame in _rgb(frames)]
    _save_animation(images, path, fps=fps, exif=_exif(_note(frames, fps)), lossless=True)


def _save_animation(images: list[Image.Image], path: Path, *, fps: float, **options: object) -> None:
    first, *others = images
    tick = TICK[path.suffix]
    ends = np.round(np.arange(len(images) + 1) * 1000 / fps / tick).astype(int)
    durations = (np.diff(ends) * tick).tolist()
    first.save(path, save_all=True, append_images=others, duration=durations, loop=0, **options)


def _indexed(frames: np.ndarray) -> tuple[np.ndarray, bytes]:
    """Indices uint8 [F, H, W] into one palette: of the clip's own colours where 256 are enough, else the nearest."""
    packed = frames.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)
    used = np.zeros(1 << 24, dtype=bool)
    used[packed] = True
    colours = np.flatnonzero(used)
    if len(colours) > 256:
        return _quantized(frames)
    index = np.zeros(1 << 24, dtype=np.uint8)
    index[colours] = np.arange(len(colours))
    palette = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], axis=-1)
    return index[packed], palette.astype(np.uint8).tobytes()


def _quantized(frames: np.ndarray) -> tuple[np.ndarray, bytes]:
    """All frames as one tall image, so that they share a palette."""
    tall = Image.fromarray(frames.reshape(-1, *frames.shape[2:])).quantize(256, kmeans=1)
    return np.asarray(tall).reshape(frames.shape[:3]), bytes(tall.getpalette())


def _read_animation(path: Path) -> tuple[np.ndarray, float]:
    with Image.open(path, formats=[path.suffix[1:].upper()]) as image:
        noted = _noted(image)
        stored = [(_pixels(frame), frame.info.get("duration", 0)) for frame in ImageSequence.Iterator(image)]
    frames = np.stack([frame for frame, _ in stored])
    ends = np.cumsum([duration for _, duration in stored])  # ms; 0 for a lone WebP
    if noted is None:
        return frames, _mean_rate(ends)
    number, fps = noted
    _check_length(ends[-1], number, fps)
    middles = (np.arange(number) + 0.5) * 1000 / fps
    return frames[np.searchsorted(ends[:-1], middles)], fps


def _mean_rate(ends: np.ndarray) -> float:
    if ends[-1] == 0:
        raise OSError("it does not say how long its frames last")
    return 1000 * len(ends) / float(ends[-1])


def _check_length(milliseconds: float, number: int, fps: float) -> None:
    if milliseconds and abs(milliseconds - 1000 * number / fps) > max(TICK.values()):
        raise OSError(
            f"it lasts {milliseconds} ms where {number} frames at {fps:g} fps were written: "
            "it was cut short or edited, write it again"
        )


def _read_folder(path: Path) -> tuple[np.ndarray, float]:
    with Image.open(_png(path, 0)) as first:
        noted = _noted(first)
    if noted is None:
        raise OSError("000000.png has no note of the rate: only folders that write_video made are read")
    number, fps = noted
    return np.stack([_pixels(Image.open(_png(path, index))) for index in range(number)]), fps


def _png(folder: Path, index: int) -> Path:
    return folder / f"{index:06d}.png"


def _pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"))


def _note(frames: np.ndarray, fps: float) -> str:
    return f"{len(frames)} frames at {fps!r} fps"


def _noted(image: Image.Image) -> tuple[int, float] | None:
    """The number of frames and their rate from the comment of a GIF or the Exif description of a WebP or PNG."""
    if image.format == "GIF":
        text = image.info.get("comment", b"").decode(errors="replace")
    else:
        text = str(image.getexif().get(ExifTags.Base.ImageDescription))
    found = NOTE.fullmatch(text)
    return (int(found[1]), float(found[2])) if found else None


def _exif(note: str) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = note
    return exif


def _rgb(frames: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.broadcast_to(frames, (*frames.shape[:3], 3)))


def _even(frames: np.ndarray) -> np.ndarray:
    _, height, width, _ = frames.shape
    return np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _pyav() -> ModuleType:
    try:
        import av
    except ImportError as error:
        raise OSError("files .mp4 and .mkv need PyAV: pip install 'skipdit[video]', or take .gif or .webp") from error
    return av


@contextmanager
def _whole_file(path: Path) -> Iterator[Path]:
    """A file aside in the same folder, renamed to `path` at the end."""
    aside = path.with_name(f".partial-{uuid4().hex}{path.suffix.lower()}")
    try:
        with _named(path, "written"):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield aside
            os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def _named(path: Path, done: str) -> Iterator[None]:
    """Whatever fails inside is an OSError that names the file, since the libraries have many names for it."""
    try:
        yield
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise OSError(f"{path} could not be {done} ({reason})") from error


def _check_frames(frames: np.ndarray) -> None:
    if frames.dtype != np.uint8:
        raise ValueError(f"frames have dtype {frames.dtype}; it must be uint8: to_uint8 makes it of floats in [0, 1].")
    if frames.ndim != 4 or frames.shape[-1] not in (1, 3) or 0 in frames.shape:
        raise ValueError(f"frames have shape {tuple(frames.shape)}; it must be [F, H, W, C], none 0 and C 1 or 3.")


def _check_suffix(path: Path, suffix: str) -> None:
    if suffix not in SUFFIXES:
        kinds = ", ".join(suffix for suffix in SUFFIXES if suffix)
        raise ValueError(f"path is {str(path)!r}; it must end in {kinds}, or have no suffix for a folder of PNGs.")
    if suffix in (".mp4", ".mkv"):
        _pyav()


def _check_rate(fps: float, fastest: float, *, kind: str) -> None:
    if not SLOWEST <= fps <= fastest:
        raise ValueError(f"fps is {fps}; it must be between {SLOWEST:g} and {fastest:g} for {kind}.")


def _holds_frames_alone(path: Path) -> bool:
    return path.is_dir() and all(FRAME.fullmatch(entry.name) for entry in path.iterdir())
