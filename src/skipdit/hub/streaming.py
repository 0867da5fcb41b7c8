"""Checkpoints larger than memory: tensors that are made when they are written, one at a time.

    .safetensors   length of the header (8 bytes, little-endian) | header, JSON | the tensors' bytes
    .pt            zip, nothing compressed: data.pkl, which says what each tensor is | data/0 | data/1 | ...

Neither library writes tensor by tensor (safetensors takes them all at once, `torch.save` keeps each that it has made
until the end), but both formats are plain.
"""

import io
import json
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from skipdit.files import place_aside

ALIGNMENT = 64  # bytes, as torch aligns tensors in its archives, so that they can be mapped
WRITTEN_SUFFIXES = (".pt", ".pth", ".safetensors")
FORMAT_VERSION = "3"  # of torch's archives since 1.6
CODES = {  # dtype: its name in a safetensors header, and its storage in a pickle of torch
    torch.float64: ("F64", torch.DoubleStorage),
    torch.float32: ("F32", torch.FloatStorage),
    torch.float16: ("F16", torch.HalfStorage),
    torch.bfloat16: ("BF16", torch.BFloat16Storage),
}

Progress = Callable[[int, int], None]  # called with the bytes of each tensor that was written, and those of all


def unseen(nbytes: int, total: int) -> None:
    """The progress that nobody watches."""


class LazyTensor(NamedTuple):
    """A tensor that is made when it is asked for; `like` is on meta and has its shape and dtype."""

    like: Tensor
    make: Callable[[], Tensor]

    @classmethod
    def of(cls, tensor: Tensor) -> "LazyTensor":
        return cls(torch.empty_like(tensor, device="meta"), lambda: tensor)

    @classmethod
    def joined(cls, parts: list["LazyTensor"], join: Callable[[list[Tensor]], Tensor]) -> "LazyTensor":
        return cls(join([part.like for part in parts]), lambda: join([part.make() for part in parts]))

    @property
    def shape(self) -> torch.Size:
        return self.like.shape

    @property
    def nbytes(self) -> int:
        return self.like.nbytes

    def then(self, change: Callable[[Tensor], Tensor]) -> "LazyTensor":
        return LazyTensor(change(self.like), lambda: change(self.make()))


LazyState = Mapping[str, LazyTensor]


def lazily(state: Mapping[str, Tensor]) -> dict[str, LazyTensor]:
    return {name: LazyTensor.of(tensor) for name, tensor in state.items()}


def made(state: LazyState) -> dict[str, Tensor]:
    return {name: lazy.make() for name, lazy in state.items()}


def save(state: LazyState, path: Path, *, wrap: str | None = None, progress: Progress = unseen) -> None:
    """Write a new .safetensors, .pt or .pth file that is whole or absent; `wrap` puts the tensors of a .pt inside.

    Raises: ValueError for another suffix, or a dtype that no published checkpoint has; FileExistsError for a `path`
        that is there, or was made meanwhile.
    """
    check_dtypes(state)
    if path.suffix == ".safetensors" and wrap is None:
        with whole_file(path) as file:
            write_safetensors(state, file, progress)
    elif path.suffix in (".pt", ".pth"):
        with whole_file(path) as file:
            write_pt(state, file, wrap, progress)
    else:
        flat = "" if wrap is None else f", and wrapped as {wrap} in .pt or .pth alone"
        raise ValueError(f"{path} must end in .pt, .pth or .safetensors{flat}")


def check_dtypes(state: LazyState) -> None:
    for name, lazy in state.items():
        if lazy.like.dtype not in CODES:
            raise ValueError(f"{name} is {lazy.like.dtype}: give dtype, one of float32, float16, bfloat16")


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file aside to write into, in the same folder, renamed to `path` when it is whole, over no other."""
    with place_aside(path) as aside:
        with aside.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if os.path.lexists(path):
            raise FileExistsError(f"{path} was made meanwhile: remove it, or name another place to write to")
        aside.rename(path)


def write_safetensors(state: LazyState, file: BinaryIO, progress: Progress) -> None:
    """The widest dtypes come first, so that every tensor lies at a multiple of its item's size."""
    names = sorted(state, key=lambda name: (-state[name].like.itemsize, name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        start, end = end, end + state[name].nbytes
        code, _ = CODES[state[name].like.dtype]
        header[name] = {"dtype": code, "shape": list(state[name].shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in names:
        file.write(content(state[name]))
        progress(state[name].nbytes, end)


def write_pt(state: LazyState, file: BinaryIO, wrap: str | None, progress: Progress) -> None:
    total = sum(lazy.nbytes for lazy in state.values())
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickled(state, wrap))
        archive.writestr("archive/byteorder", "little")
        for key, lazy in enumerate(state.values()):
            with archive.open(aligned(f"archive/data/{key}", file.tell()), "w", force_zip64=True) as entry:
                entry.write(content(lazy))
            progress(lazy.nbytes, total)
        archive.writestr("archive/version", f"{FORMAT_VERSION}\n")


def aligned(name: str, offset: int) -> zipfile.ZipInfo:
    """An entry at `offset` whose content will begin at a multiple of 64; its padding is an extra field, as torch's."""
    entry = zipfile.ZipInfo(name)
    header = 30 + len(name) + 20 + 4  # fixed part, name, sizes of zip64, and the padding field's own head
    padding = -(offset + header) % ALIGNMENT
    entry.extra = b"FB" + padding.to_bytes(2, "little") + b"Z" * padding
    return entry


def content(lazy: LazyTensor) -> memoryview:
    """The bytes of a tensor, which is made here."""
    tensor = lazy.make()
    if (tensor.shape, tensor.dtype) != (lazy.shape, lazy.like.dtype):
        raise AssertionError(f"{tuple(tensor.shape)} {tensor.dtype} for {tuple(lazy.shape)} {lazy.like.dtype}")
    return memoryview(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())


class Storage(NamedTuple):
    """What a pickle of torch says of the memory of a tensor, in the place of the memory itself."""

    kind: type
    key: str
    size: int


class Stored:
    """Pickled in the place of a tensor; the call is that of the format, which torch's own readers allow."""

    def __init__(self, key: int, like: Tensor):
        self.key, self.like = key, like

    def __reduce__(self) -> tuple[Any, ...]:
        _, kind = CODES[self.like.dtype]
        storage = Storage(kind, str(self.key), self.like.numel())
        shape, stride = tuple(self.like.shape), torch.empty(self.like.shape, device="meta").stride()
        return torch._utils._rebuild_tensor_v2, (storage, 0, shape, stride, False, OrderedDict())


class TensorPickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> tuple[Any, ...] | None:
        return ("storage", value.kind, value.key, "cpu", value.size) if isinstance(value, Storage) else None


def pickled(state: LazyState, wrap: str | None) -> bytes:
    """data.pkl of an archive whose tensors come in the order of `state`."""
    stored = {name: Stored(key, lazy.like) for key, (name, lazy) in enumerate(state.items())}
    text = io.BytesIO()
    TensorPickler(text, protocol=2).dump(stored if wrap is None else {wrap: stored})
    return text.getvalue()
