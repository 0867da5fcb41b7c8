"""Images with labels in a data set of Hugging Face `datasets`: parquet or arrow files, or a name on the hub.

    table with columns image and label  ->  Images, as of a folder

A sample is known by its row, so that a streamed table, which has no rows, is none of these.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from skipdit.data.image_folder import Crop, Images, Source, decoded_images

if TYPE_CHECKING:
    from datasets import Dataset as Table

ON_HUB = "hf:"  # before a name on the hub, as hf:ylecun/mnist
SUFFIXES = (".parquet", ".arrow")
SPLIT = "train"


@dataclass(frozen=True)
class Rows:
    """The images of a column, by row."""

    table: "Table"
    column: str
    title: str

    def __len__(self) -> int:
        return len(self.table)

    def name(self, index: int) -> str:
        return f"{self.title} row {index}"

    def open(self, index: int) -> Image.Image:
        return self.table[index][self.column]


def is_table(path: str) -> bool:
    """Whether a name is one on the hub, a file of a table, or a folder of such files."""
    place = Path(path)
    files = place.glob("*") if place.is_dir() else [place]
    return path.startswith(ON_HUB) or any(file.suffix in SUFFIXES for file in files)


def image_table(path: str, crop: Crop) -> Images:
    """The images of a table, each decoded once. Raises: as `open_table`; ValueError as `image_folder`."""
    rows, labels, class_names = open_table(path)
    return decoded_images(rows, path, labels, class_names, crop, identity=[f"{path} {len(rows)}"])


def open_table(path: str) -> tuple[Source, list[int], Sequence[str]]:
    """The images of a table, their class ids, and the names of the classes; nothing is decoded.

    The classes are those of the feature, or the values of a column `label`, sorted.
    Raises: OSError where `datasets` is not installed or the table is not there; ValueError for one without images or
    labels, or with one class.
    """
    table = read_table(path)
    image = column_of(table, "Image", "image", path)
    label = column_of(table, "ClassLabel", "label", path)
    values = table[label][:]
    names = getattr(table.features[label], "names", None)
    if names is None:
        names = sorted(set(map(str, values)))
        values = [names.index(str(value)) for value in values]
    if len(names) < 2:
        raise ValueError(f"{path} has one class, {', '.join(names)}: take a table of two classes or more")
    return Rows(table, image, path), list(values), names


def column_of(table: "Table", kind: str, usual: str, path: str) -> str:
    """The first column of a kind of feature, or the one of the usual name."""
    found = [name for name, feature in table.features.items() if type(feature).__name__ == kind]
    if not found and usual not in table.features:
        columns = ", ".join(table.features)
        raise ValueError(f"{path} has the columns {columns}: it needs one of {kind} features, or one called {usual}")
    return found[0] if found else usual


def read_table(path: str) -> "Table":
    """The training split. Raises: OSError with the remedy."""
    try:
        from datasets import load_dataset
    except ImportError:
        raise OSError("tables are read by `datasets`, which is missing: pip install 'skipdit[tables]'") from None
    place = Path(path)
    try:
        if path.startswith(ON_HUB):
            return load_dataset(path.removeprefix(ON_HUB), split=SPLIT)
        files = sorted(place.glob("*")) if place.is_dir() else [place]
        named = [str(file) for file in files if file.suffix in SUFFIXES]
        kind = Path(named[0]).suffix[1:] if named else "parquet"
        return load_dataset(kind, data_files=named, split=SPLIT)
    except Exception as error:  # pyarrow, fsspec and the hub fail in many ways
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise OSError(f"{path} cannot be read ({reason}): name a parquet or arrow file, or hf:NAME") from None
