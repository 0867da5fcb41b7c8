"""A latent cache: what an autoencoder makes of images or clips, written once and read at every step.

    encode    images -> mean and std of q(z | image), float16, mirrored images too; clips frame by frame
    train     x_0 = scaling_factor (mean + std eps)

    FOLDER/index.json  latents-00000.safetensors (mean, std [n, (F,) C, H, W])  latents-00001.safetensors ...

A shard is whole or absent, and a lock beside it tells who writes it: so encoding goes on after a kill, and several
processes with one FOLDER share the shards. The index says which autoencoder and which images they are of.
"""

import hashlib
import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from skipdit.data.image_folder import EXAMPLES, Images
from skipdit.data.video_folder import Videos
from skipdit.files import read_object, write_text
from skipdit.randomness import generator

INDEX = "index.json"
SHARD = 1024  # samples
DRAWS = 4  # of the posterior's noise for each image, as further samples
STREAM = 5  # of random numbers


@dataclass(frozen=True)
class Latents:
    """The samples of a latent cache, with class ids int64 [N] of its images or clips.

    `shape` is (C, H, W), or (F, C, H, W). Sample d N + i is draw d of image i, mirrored ones included. Two caches are
    the same by all but where they lie.
    """

    labels: Tensor
    class_names: tuple[str, ...]
    shape: tuple[int, ...]
    scaling_factor: float
    autoencoder: str
    images: str
    shard: int
    shards: tuple[Any, ...] = field(compare=False, repr=False)  # open safetensors files

    def __len__(self) -> int:
        return DRAWS * len(self.labels)

    @property
    def gives(self) -> dict[str, int]:
        """What a model of this data takes, by the names of its arguments."""
        names = ("num_frames", "in_channels", "height", "width")
        return dict(zip(names[-len(self.shape) :], self.shape)) | {"num_classes": len(self.class_names)}

    def x_0(self, indices: Tensor) -> Tensor:
        """Scaled draws of the posterior, float32 [B, C, H, W]."""
        means, stds = (self.read(name, indices) for name in ("mean", "std"))
        noise = torch.stack([torch.randn(self.shape, generator=generator(STREAM, index)) for index in indices.tolist()])
        return self.scaling_factor * (means + stds * noise)

    def read(self, name: str, indices: Tensor) -> Tensor:
        """The tensors "mean" or "std" of samples, float32 [B, C, H, W]."""
        rows = (indices % len(self.labels)).tolist()
        slices = [self.shards[row // self.shard].get_slice(name)[row % self.shard] for row in rows]
        return torch.stack(slices).float()

    def conditions(self, indices: Tensor, *, dropped: Tensor) -> dict[str, Tensor]:
        """Class labels int64 [B], those of `dropped` the null class; nothing without classes."""
        labels = self.labels[indices % len(self.labels)]
        return {"class_labels": labels.masked_fill(dropped, len(self.class_names))} if self.class_names else {}

    def examples(self) -> dict[str, Tensor]:
        """Conditions to draw previews for: the classes in turn, or nothing without any."""
        return {"class_labels": torch.arange(EXAMPLES) % len(self.class_names)} if self.class_names else {}


def encode(
    images: Images | Videos,
    folder: Path,
    vae: nn.Module,
    *,
    batch_size: int = 16,
    on_batch: Callable[[int], None] = lambda count: None,
) -> float:
    """Write the shards that no other process has written or is writing; returns the images encoded in a second.

    Args:
        images: those of a folder or a table, or clips; with `crop.flip` the mirrored ones are encoded as well.
        vae: an autoencoder of diffusers, where and in the dtype in which it shall compute.
        on_batch: called with the number of images after each batch.

    Raises: ValueError for a folder that holds latents of other images or of another autoencoder, for sides that the
    autoencoder cannot halve, or for one that shifts its latents.
    """
    begin(images, folder, vae)
    done, since = 0, time.perf_counter()
    for number, first in enumerate(range(0, len(images), SHARD)):
        path, rows = shard_path(folder, number), torch.arange(first, min(first + SHARD, len(images)))
        lock = FileLock(path.with_suffix(".lock"))
        with suppress(Timeout), lock.acquire(timeout=0):
            if not path.exists():
                write_shard(images, rows, path, vae, batch_size=batch_size, on_batch=on_batch)
                done += len(rows)
            Path(lock.lock_file).unlink(missing_ok=True)
    return done / (time.perf_counter() - since)


def begin(images: Images | Videos, folder: Path, vae: nn.Module) -> None:
    """Write the index, or hold it against the one that lies there."""
    check_halved(images.crop.size, vae)
    shape = posterior(vae, torch.zeros_like(images.x_0(torch.tensor([0]))))[0].shape[1:]
    labels = images.labels.repeat(1 + images.crop.flip)
    index = {
        "autoencoder": fingerprint(vae), "scaling_factor": vae.config.scaling_factor, "images": of_images(images),
        "shape": list(shape), "shard": SHARD, "class_names": list(images.class_names), "crop": asdict(images.crop),
        "labels": labels.tolist(),
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / INDEX
    if path.exists():
        held = read_object(path, remedy="encode into another folder")
        if wrong := [name for name in index if held.get(name) != index[name]]:
            raise ValueError(f"{folder} holds latents of another {', '.join(wrong)}: encode into another folder")
    else:
        write_text(path, json.dumps(index) + "\n")


def of_images(images: Images | Videos) -> str:
    """A hash of what images are, wherever they lie."""
    return hashlib.sha256("\n".join(images.identity).encode()).hexdigest()


def check_halved(side: int, vae: nn.Module) -> None:
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    if side % factor:
        raise ValueError(f"image_size is {side}: this autoencoder takes multiples of {factor}")
    if vae.config.get("shift_factor"):
        raise ValueError(f"the autoencoder shifts latents by {vae.config.shift_factor}: take one that does not")


def shard_path(folder: Path, number: int) -> Path:
    return folder / f"latents-{number:05}.safetensors"


def write_shard(
    images: Images | Videos,
    rows: Tensor,
    path: Path,
    vae: nn.Module,
    *,
    batch_size: int,
    on_batch: Callable[[int], None],
) -> None:
    """Encode samples and write them aside, then rename."""
    parts = []
    for batch in rows.split(batch_size):
        parts.append(posterior(vae, images.x_0(batch)))
        on_batch(len(batch))
    mean, std = (torch.cat(tensors).half().contiguous() for tensors in zip(*parts))
    aside = path.with_suffix(".partial")
    save_file({"mean": mean, "std": std}, aside)
    aside.replace(path)


@torch.no_grad()
def posterior(vae: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [B, (F,) C, h, w] of q(z | image), on the CPU.

    Shapes: images [B, (F,) 1 or 3, H, W] in [-1, 1].
    """
    parameter, flat = next(vae.parameters()), images.flatten(0, -4)
    said = vae.encode(flat.expand(-1, 3, -1, -1).to(parameter.device, parameter.dtype)).latent_dist
    return tuple(x.float().cpu().unflatten(0, images.shape[:-3]) for x in (said.mean, said.std))


def fingerprint(vae: nn.Module) -> str:
    """A hash of an autoencoder's weights, the same in every dtype of at least bfloat16's precision."""
    hashed = hashlib.sha256(str(vae.config.scaling_factor).encode())
    for name, tensor in sorted(vae.state_dict().items()):
        hashed.update(name.encode() + tensor.bfloat16().cpu().contiguous().view(torch.int16).numpy().tobytes())
    return hashed.hexdigest()


def latents(folder: Path) -> Latents:
    """The samples of a latent cache. Raises: ValueError for what is none, or one whose encoding has not ended."""
    index = read_object(folder / INDEX, remedy="name a folder that `skipdit data encode` wrote")
    count = -(-len(index["labels"]) // index["shard"])
    paths = [shard_path(folder, number) for number in range(count)]
    if missing := [path.name for path in paths if not path.exists()]:
        raise ValueError(f"{folder} lacks {len(missing)} of {count} shards ({missing[0]}): encode it to its end")
    return Latents(
        labels=torch.tensor(index["labels"]),
        class_names=tuple(index["class_names"]),
        shape=tuple(index["shape"]),
        scaling_factor=index["scaling_factor"],
        autoencoder=index["autoencoder"],
        images=index["images"],
        shard=index["shard"],
        shards=tuple(safe_open(path, "pt") for path in paths),
    )


def is_latents(folder: Path) -> bool:
    """Whether a folder is a latent cache."""
    return (folder / INDEX).is_file()


def check_autoencoder(cache: Latents, vae: nn.Module, *, name: str) -> None:
    """ValueError for latents of another autoencoder."""
    if cache.autoencoder != fingerprint(vae):
        raise ValueError(f"vae {name} is not the autoencoder that made these latents: name that one, or encode again")
