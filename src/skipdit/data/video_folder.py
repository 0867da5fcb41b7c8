"""A folder of videos of your own, as files or as folders of frames, in the layouts that Latte was trained on.

    ucf101   FOLDER/class/video.avi           a class for each first folder
    ffs      FOLDER/any/depth/video.mp4       no classes (labelled off)
    sky      FOLDER/video/part/000001.jpg     frames in the order of their numbers, no classes (labelled off)
    taichi   FOLDER/video/000001.png          the same

A video of T frames gives T // span samples, which begin at even distances, span = (frames - 1) * interval + 1. So a
sample is known by its index, where Latte draws its beginning at random.
"""

import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from skipdit.data.image_folder import KEPT_BYTES, SUFFIXES, UNREADABLE, Crop, class_of, pixels_of, report_broken

VIDEO_SUFFIXES = {".mp4", ".mkv", ".avi", ".mov", ".webm", ".m4v", ".mpg", ".mpeg"}
NUMBER = re.compile(r"\d+")
EXAMPLES = 8  # clips of a preview


@dataclass(frozen=True)
class Clips(Crop):
    """How videos become clips that a model takes."""

    frames: int = 16
    """of a clip"""
    interval: int = 3
    """from one frame of a clip to the next, in frames of the video"""
    labelled: bool = True
    """whether the first folders are classes"""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("frames", "interval"):
            if getattr(self, name) < 1:
                raise ValueError(f"crop.{name} is {getattr(self, name)}: it must be at least 1")

    @property
    def span(self) -> int:
        """Frames of the video from the first of a clip to its last."""
        return (self.frames - 1) * self.interval + 1


@dataclass(frozen=True)
class Videos:
    """Clips of videos with class ids int64 [N], or without classes; where they fit into memory they are `kept`.

    With `crop.flip` sample N + i is clip i mirrored. Two sets are the same by `identity`, labels, beginnings and crop.
    """

    identity: tuple[str, ...]
    labels: Tensor
    starts: Tensor
    class_names: tuple[str, ...]
    crop: Clips
    paths: tuple[Path, ...] = field(compare=False)  # of each clip's video
    kept: Tensor | None = field(default=None, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.labels) * (1 + self.crop.flip)

    @property
    def gives(self) -> dict[str, int]:
        """What a model of this data takes, by the names of its arguments."""
        crop = self.crop
        return {
            "num_frames": crop.frames, "in_channels": crop.channels, "height": crop.size, "width": crop.size,
            "num_classes": len(self.class_names),
        }  # fmt: skip

    def x_0(self, indices: Tensor) -> Tensor:
        """Clips in [-1, 1], float32 [B, F, C, S, S]. Raises: OSError for a file that changed since the run began."""
        plain = indices % len(self.labels)
        clips = self.kept[plain] if self.kept is not None else self.read(plain)
        mirrored = (indices >= len(self.labels)).reshape(-1, 1, 1, 1, 1)
        return torch.where(mirrored, clips.flip(-1), clips).float() / 127.5 - 1

    def read(self, plain: Tensor) -> Tensor:
        """Clips uint8 [B, F, C, S, S] from their videos."""
        clips = []
        for index, video in zip(plain.tolist(), decode_videos([self.paths[index] for index in plain], self.crop)):
            if video is None or len(video) < self.starts[index] + self.crop.span:
                raise OSError(f"{self.paths[index]} can no longer be read: put it back as it was, or begin a new run")
            clips.append(window(video, int(self.starts[index]), self.crop))
        return torch.stack(clips)

    def conditions(self, indices: Tensor, *, dropped: Tensor) -> dict[str, Tensor]:
        """Class labels int64 [B], those of `dropped` the null class; nothing without classes."""
        if not self.class_names:
            return {}
        return {"class_labels": self.labels[indices % len(self.labels)].masked_fill(dropped, len(self.class_names))}

    def examples(self) -> dict[str, Tensor]:
        """Conditions to draw previews for: the first classes, or nothing without any."""
        return {"class_labels": torch.arange(min(len(self.class_names), EXAMPLES))} if self.class_names else {}


def video_folder(folder: Path, crop: Clips) -> Videos:
    """The videos below `folder`, each decoded once, so that no broken file stops the run later.

    A video that is shorter than a clip counts as broken.
    Raises: FileNotFoundError for a missing folder; ValueError for one without videos, for one class, or for a larger
    share of broken videos than `crop.max_broken`.
    """
    names = video_names(folder)
    class_names = video_classes(folder, names) if crop.labelled else ()
    lengths, clips = [], []
    for video in decode_videos([folder / name for name in names], crop):
        starts = [] if video is None else starts_of(len(video), crop)
        lengths.append(starts)
        clips += [window(video, start, crop) for start in starts]
    broken = tuple(name for name, starts in zip(names, lengths) if not starts)
    report_broken(str(folder), broken, total=len(names), at_most=crop.max_broken)
    of_clip = [(name, start) for name, starts in zip(names, lengths) for start in starts]
    number = {name: index for index, name in enumerate(class_names)}
    keep = len(clips) * clips[0].numel() <= KEPT_BYTES
    return Videos(
        identity=tuple(f"{name} {weight(folder / name)}" for name in names),
        labels=torch.tensor([number.get(class_of(name), 0) for name, _ in of_clip]),
        starts=torch.tensor([start for _, start in of_clip]),
        class_names=class_names,
        crop=crop,
        paths=tuple(folder / name for name, _ in of_clip),
        kept=torch.stack(clips) if keep else None,
    )


def video_names(folder: Path) -> list[str]:
    """The videos below a folder by their paths from there, sorted: files, or folders that hold frames."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder: name one of videos")
    found = [path for path in folder.rglob("*") if not path.name.startswith(".")]
    videos = {path for path in found if path.suffix.lower() in VIDEO_SUFFIXES}
    videos |= {path.parent for path in found if path.suffix.lower() in SUFFIXES and path.parent != folder}
    if not videos:
        suffixes = ", ".join(sorted(suffix[1:] for suffix in VIDEO_SUFFIXES))
        raise ValueError(f"{folder} has no video: put videos in it ({suffixes}), or folders of frames")
    return sorted(path.relative_to(folder).as_posix() for path in videos)


def video_classes(folder: Path, names: Sequence[str]) -> tuple[str, ...]:
    """The first folders, sorted. Raises: ValueError for fewer than two, or for videos outside of them."""
    classes = sorted({class_of(name) for name in names})
    if len(classes) < 2 or "" in classes:
        said = "has videos in no folder of a class" if "" in classes else f"has one class, {classes[0]}"
        raise ValueError(f"{folder} {said}: put each video in the folder of its class, or turn crop.labelled off")
    return tuple(classes)


def weight(path: Path) -> int:
    """Bytes of a file, or of the files in a folder."""
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.iterdir()))


def starts_of(length: int, crop: Clips) -> list[int]:
    """Where the clips of a video begin; none where it is shorter than one."""
    count = length // crop.span
    room = length - crop.span
    return [0] if count == 1 else [index * room // (count - 1) for index in range(count)]


def window(video: Tensor, start: int, crop: Clips) -> Tensor:
    """The clip [F, C, S, S] of a video [T, C, S, S]."""
    return video[start : start + crop.span : crop.interval].clone()


def decode_videos(paths: Sequence[Path], crop: Clips) -> Iterator[Tensor | None]:
    """Videos uint8 [T, C, S, S], cropped, in the order of `paths`, decoded on all cores; None for a broken one."""

    def decoded(path: Path) -> Tensor | None:
        try:
            return torch.stack([pixels_of(frame, crop) for frame in frames_of(path)])
        except (*UNREADABLE, RuntimeError):  # stacking no frame is a RuntimeError
            return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(decoded, paths)


def frames_of(path: Path) -> Iterator[Image.Image]:
    """The frames of a video file, or the images of a folder in the order of the last number in their names."""
    if path.is_dir():
        names = [file for file in path.iterdir() if file.suffix.lower() in SUFFIXES]
        for name in sorted(names, key=frame_number):
            with Image.open(name) as image:
                yield image
        return
    try:
        import av
    except ImportError:
        raise ModuleNotFoundError("videos need PyAV: pip install 'skipdit[video]'") from None
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            yield Image.fromarray(np.ascontiguousarray(frame.to_ndarray(format="rgb24")))


def frame_number(path: Path) -> tuple[int, str]:
    numbers = NUMBER.findall(path.stem)
    return (int(numbers[-1]) if numbers else 0, path.name)


def has_videos(folder: Path) -> bool:
    """Whether a folder has a video file at any depth."""
    return any(path.suffix.lower() in VIDEO_SUFFIXES for path in folder.rglob("*"))
