"""What an architecture may be: each check raises a ValueError that names the value, the bound and the remedy."""

from operator import index
from typing import Any

from torch import Tensor

from skipdit.nn.skips import FUSES

MOST_PATCHES = 512 * 512  # 8,192 x 8,192 pixels, by an autoencoder and patches of 2
MOST_FRAMES = 10_000
MOST_LAYERS = 1000  # many more than any transformer has, and few enough to be built in seconds


def check_skips(*, depth: int, num_skips: int, fuse: str) -> None:
    check_at_least_one(depth=depth)
    if depth > MOST_LAYERS:
        raise ValueError(f"depth is {depth}: it must be at most {MOST_LAYERS}")
    if not 0 <= num_skips <= depth // 2:
        raise ValueError(f"num_skips is {num_skips}: depth {depth} has room for 0 to {depth // 2} skips")
    if fuse not in FUSES:
        raise ValueError(f"fuse is {fuse!r}: take one of {', '.join(FUSES)}")


PREDICTION_TYPES = ("epsilon", "sample", "v_prediction", "flow_prediction")  # diffusers' names


def check_prediction_type(prediction_type: str) -> None:
    if prediction_type not in PREDICTION_TYPES:
        raise ValueError(f"prediction_type is {prediction_type!r}: take one of {', '.join(PREDICTION_TYPES)}")


ACTIVATIONS = ("gelu", "gelu-approximate", "geglu", "geglu-approximate", "swiglu", "linear-silu")  # of FeedForward


def check_activation(activation_fn: str) -> None:
    if activation_fn not in ACTIVATIONS:
        raise ValueError(f"activation_fn is {activation_fn!r}: take one of {', '.join(ACTIVATIONS)}")


def check_width(*, hidden_size: int, num_heads: int) -> None:
    check_at_least_one(num_heads=num_heads)
    if hidden_size % num_heads or hidden_size % 4:
        raise ValueError(f"hidden_size is {hidden_size}: it must be a multiple of num_heads ({num_heads}) and of 4")


def check_at_least_one(**counts: int) -> None:
    for name, count in counts.items():
        if read_whole(name, count) < 1:
            raise ValueError(f"{name} is {count}: it must be at least 1")


def read_whole(name: str, value: Any) -> int:
    """A whole number of any kind as an int; ValueError for anything else."""
    try:
        return index(None if isinstance(value, bool) else value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {show_short(value)}: give a whole number") from None


def show_short(value: Any) -> str:
    """A value on one line of an error."""
    line = " ".join(repr(value).split())
    return line if len(line) <= 60 else f"{line[:57]}..."


def check_tensors(**values: Any) -> None:
    for name, value in values.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{name} is {show_short(value)}: give a tensor")


def check_image(height: int, width: int, patch_size: int) -> None:
    if height % patch_size or width % patch_size:
        raise ValueError(f"image is {height} x {width}: both sides must be multiples of the patch size {patch_size}")


def check_grid(height: int, width: int, patch_size: int) -> None:
    """Sides of whole patches, few enough that their positions are worked out in seconds."""
    check_image(height, width, patch_size)
    if (patches := (height // patch_size) * (width // patch_size)) > MOST_PATCHES:
        raise ValueError(f"sample_size has {patches} patches: it must have at most {MOST_PATCHES}")


def check_length(**frames: int) -> None:
    check_at_least_one(**frames)
    for name, count in frames.items():
        if count > MOST_FRAMES:
            raise ValueError(f"{name} is {count}: it must be at most {MOST_FRAMES}")


def check_ratio(mlp_ratio: float) -> None:
    if not mlp_ratio > 0:
        raise ValueError(f"mlp_ratio is {mlp_ratio}: it must be above 0")


def check_frames(frames: int, *, at_most: int, num_images: int) -> None:
    """A video of at least one frame, as long as the temporal positions at the most, with stills after it."""
    frames, num_images = read_whole("num_frames", frames), read_whole("num_images", num_images)
    if num_images < 0:
        raise ValueError(f"num_images is {num_images}: it must be at least 0")
    if not 1 <= frames <= at_most:
        stills = f" (after the last {num_images} stills)" if num_images else ""
        raise ValueError(f"video has {frames} frames{stills}: this model has temporal positions for 1 to {at_most}")
