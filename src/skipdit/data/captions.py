"""Images with captions of your own: `metadata.jsonl` or `metadata.csv` beside them, as Hugging Face's ImageFolder.

    {"file_name": "shapes/1.png", "text": "a red circle"}        also "caption" in the place of "text"

The texts are encoded once by MiniLM and by the T5 of bytes that the embedded HunyuanDiT reads with.
"""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import Tensor

from skipdit.data.emoji import EncodedCaptions, encoded
from skipdit.data.image_folder import Crop, Files, Images, decoded_images

METADATA = ("metadata.jsonl", "metadata.csv")
TEXTS = ("text", "caption")  # the columns that may hold one
EXAMPLES = 20  # captions of a preview


@dataclass(frozen=True)
class Captioned:
    """Images with one caption each; with `crop.flip` sample N + i is image i mirrored, under the same caption."""

    images: Images
    captions: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def gives(self) -> dict[str, int]:
        """What a model of this data takes, by the names of its arguments."""
        pixels = {name: size for name, size in self.images.gives.items() if name != "num_classes"}
        widths = {"cross_attention_dim": self.states.bert.shape[-1], "cross_attention_dim_t5": self.states.t5.shape[-1]}
        return pixels | widths

    @cached_property
    def states(self) -> EncodedCaptions:
        """Every caption, encoded once."""
        return encoded(["", *self.captions])

    def x_0(self, indices: Tensor) -> Tensor:
        """Images in [-1, 1], float32 [B, C, S, S]."""
        return self.images.x_0(indices)

    def conditions(self, indices: Tensor, *, dropped: Tensor) -> dict[str, Tensor]:
        """The states and masks of a HunyuanDiT's two texts; those of the empty prompt where `dropped`, bool [B]."""
        which = (indices % len(self.captions)).tolist()
        return self.states.of(["" if drop else self.captions[index] for index, drop in zip(which, dropped.tolist())])

    def examples(self) -> dict[str, Tensor]:
        """The first captions."""
        return self.states.of(list(dict.fromkeys(self.captions))[:EXAMPLES])


def captioned_folder(folder: Path, crop: Crop) -> Captioned:
    """The images that the metadata of a folder names. Raises: ValueError as `read_captions` and `image_folder`."""
    pairs = read_captions(folder)
    names, texts = zip(*pairs)
    sizes = [f"{name} {(folder / name).stat().st_size if (folder / name).exists() else 0}" for name in names]
    files = Files(folder, names)
    images = decoded_images(files, str(folder), [0] * len(names), ("image",), crop, identity=sizes)
    return Captioned(images, tuple(texts[index] for index in images.which.tolist()))


def metadata_of(folder: Path) -> Path | None:
    """The file of captions in a folder, if it has one."""
    return next((folder / name for name in METADATA if (folder / name).is_file()), None)


def read_captions(folder: Path) -> list[tuple[str, str]]:
    """File names and captions. Raises: ValueError, naming the line, for one that lacks either, or for none at all."""
    path = metadata_of(folder)
    if path is None:
        raise ValueError(f"{folder} has no captions: write {METADATA[0]}, a line of file_name and text for each image")
    pairs = []
    for number, row in rows_of(path):
        text = next((row[name] for name in TEXTS if isinstance(row.get(name), str) and row[name].strip()), None)
        if not isinstance(row.get("file_name"), str) or text is None:
            raise ValueError(f"{path} line {number} lacks file_name or text: write both")
        pairs.append((row["file_name"], text))
    if not pairs:
        raise ValueError(f"{path} is empty: write a line of file_name and text for each image")
    return pairs


def rows_of(path: Path) -> Iterator[tuple[int, dict]]:
    """The rows of a file with their line numbers; what is no row comes as an empty one."""
    with path.open(newline="", encoding="utf-8") as file:
        if path.suffix == ".csv":
            yield from enumerate(csv.DictReader(file), 2)
            return
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    row = json.loads(line)
                except ValueError:
                    row = {}
                yield number, row if isinstance(row, dict) else {}
