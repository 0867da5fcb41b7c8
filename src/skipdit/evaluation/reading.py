"""Which digit a clip shows and which way it moves, read by a network that has seen real moving digits alone.

    p(digit)     = mean_f softmax(frames(x[f]))                  each frame is read on its own, and has one vote
    p(direction) = softmax(motion(x) + S motion(x reversed))     S swaps up with down, and left with right

So a reversed clip has the opposite direction, exactly, and one that is its own reversal (a still one) has none: of two
opposite ways neither is likelier. What has no majority, p <= 1/2, is not read: UNREAD is wrong beside any label.

Training: real clips and real digits, warped, placed, blurred and noisy; where frames are shuffled, or are noise, every
answer is as likely as any other. No generated clip is in it.
"""

import math
from pathlib import Path
from typing import NamedTuple

import torch
from einops import rearrange
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from skipdit.data.moving_digits import DIGIT_SIZE, DIGITS, DIRECTIONS, MovingDigits, placed, shrunk
from skipdit.randomness import generator

UNREAD = -1
OPPOSITE = [1, 0, 3, 2]  # of up, down, left, right
FILE = "model.safetensors"
AT_ONCE = 100  # clips a forward pass

STEPS = 1500
CLIPS, EMPTY_CLIPS, SHUFFLED = 9, 1, 2  # a step: how many, of which noise alone, and of which with shuffled frames
FRAMES, EMPTY_FRAMES = 128, 8
RATE, WARMUP, WEIGHT_DECAY = 5e-3, 0.2, 0.05
TURN, STRETCH, SHEAR = math.radians(15), 0.12, 0.15  # of a digit, at the most
BLUR, NOISE = 0.8, 0.2  # standard deviations at the most: in pixels, and of values in [-1, 1]


class ClipReader(nn.Module):
    """Reads clips of any length and size; a 2-D network for frames, a 3-D network for motion."""

    def __init__(self):
        super().__init__()
        self.frames = nn.Sequential(
            convolution(nn.Conv2d, 1, 16, kernel=5, stride=2),
            convolution(nn.Conv2d, 16, 32),
            convolution(nn.Conv2d, 32, 64, stride=2),
            convolution(nn.Conv2d, 64, 64),
            convolution(nn.Conv2d, 64, 64),
            nn.AdaptiveMaxPool2d(1),  # wherever the digit is
            nn.Flatten(),
            nn.Linear(64, len(DIGITS)),
        )
        self.motion = nn.Sequential(
            nn.AvgPool3d((1, 2, 2)),
            convolution(nn.Conv3d, 1, 8, kernel=(3, 5, 5), stride=(1, 2, 2)),
            convolution(nn.Conv3d, 8, 16, kernel=(3, 3, 3), stride=2),
            convolution(nn.Conv3d, 16, 32, kernel=(3, 3, 3), stride=2),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
            nn.Linear(32, len(DIRECTIONS)),
        )

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of direction [B, 4] and of digit [B, 10], for clips [B, F, 1, H, W] in [-1, 1]."""
        return self.direction(clips), self.digit(clips)

    def direction(self, clips: Tensor) -> Tensor:
        """Logits [B, 4]."""
        forwards = rearrange(clips, "b f c h w -> b c f h w")
        return self.motion(forwards).float() + self.motion(forwards.flip(2)).float()[:, OPPOSITE]

    def digit(self, clips: Tensor) -> Tensor:
        """Log-probabilities [B, 10]: the log of the mean over frames."""
        frames = self.frames(rearrange(clips, "b f c h w -> (b f) c h w"))
        votes = rearrange(frames.float().log_softmax(-1), "(b f) d -> b f d", f=clips.shape[1])
        return votes.logsumexp(1) - math.log(clips.shape[1])


class Readings(NamedTuple):
    """Of each clip: indices into DIGITS and DIRECTIONS, int64 [B], or UNREAD; and the largest probabilities [B]."""

    digit: Tensor
    direction: Tensor
    digit_confidence: Tensor
    direction_confidence: Tensor


@torch.no_grad()
def read(reader: ClipReader, clips: Tensor) -> Readings:
    """What the reader sees in clips [B, F, 1, H, W] in [-1, 1].

    Raises: ValueError for another shape or values outside, no clips, or a reader that is not in eval mode.
    """
    check_clips(clips)
    if reader.training:
        raise ValueError("the reader is in training mode, in which a clip's reading depends on its batch: .eval() it")
    direction, digit = (torch.cat(parts) for parts in zip(*map(reader, clips.split(AT_ONCE)), strict=True))
    (digits, sure_digit), (directions, sure_direction) = majority(digit), majority(direction)
    return Readings(digits, directions, sure_digit, sure_direction)


def accuracy(reader: ClipReader, clips: Tensor, labels: Tensor) -> dict[str, float]:
    """The shares of clips that read as their class ids, int64 [B]: by "digit", by "direction" and by "both".

    Raises: ValueError as `read`, and for labels that are not one class id in 0..39 for each clip.
    """
    if labels.shape != clips.shape[:1]:
        raise ValueError(f"labels have shape {tuple(labels.shape)} for {len(clips)} clips: give one class id for each")
    if wrong := [label for label in labels.tolist() if not 0 <= label < len(DIGITS) * len(DIRECTIONS)]:
        raise ValueError(f"class id {wrong[0]} is out of range: it is 4 * digit + direction, 0 to 39")
    return agreement(read(reader, clips), labels)


def agreement(readings: Readings, labels: Tensor) -> dict[str, float]:
    """The shares of readings that agree with class ids [B]."""
    digit, direction = readings.digit == labels // len(DIRECTIONS), readings.direction == labels % len(DIRECTIONS)
    right = {"digit": digit, "direction": direction, "both": digit & direction}
    return {name: hits.double().mean().item() for name, hits in right.items()}


def train_reader(clips: MovingDigits, *, steps: int = STEPS, seed: int = 0) -> ClipReader:
    """A reader of clips that are made of the same digits, in eval mode: about a minute for 1,500 steps on one core.

    The same seed gives the same weights on the same machine. Raises: ValueError for fewer steps than 1.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}: it must be at least 1")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reader = ClipReader().train()
    optimizer = torch.optim.AdamW(reader.parameters(), weight_decay=WEIGHT_DECAY)
    for step in tqdm(range(steps), desc="training the reader", unit="step"):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        optimizer.zero_grad()
        loss_of(reader, clips, draw=generator(seed, step)).backward()
        optimizer.step()
    return reader.eval()


def learning_rate(step: int, steps: int) -> float:
    """A linear warm-up, below a cosine from RATE to zero."""
    return RATE * min((step + 1) / (WARMUP * steps), (1 + math.cos(math.pi * step / steps)) / 2)


def loss_of(reader: ClipReader, clips: MovingDigits, *, draw: torch.Generator) -> Tensor:
    """Cross entropies of digit and direction over one drawn batch."""
    moving, directions = moving_batch(clips, draw)
    frames, digits = frame_batch(clips, draw)
    with torch.autocast("cpu", torch.bfloat16):
        direction, digit = reader.direction(moving), reader.digit(frames)
    return functional.cross_entropy(direction, directions) + functional.cross_entropy(digit, digits)


def moving_batch(clips: MovingDigits, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Clips [B, F, 1, H, W] and the probabilities of their directions [B, 4], some of which are unknown."""
    indices = torch.randint(len(clips), (CLIPS,), generator=draw)
    x_0, unknown = clips.x_0(indices), EMPTY_CLIPS + SHUFFLED
    x_0[:EMPTY_CLIPS] = noise(x_0[:EMPTY_CLIPS].shape, draw)
    x_0[EMPTY_CLIPS:unknown] = shuffled(x_0[EMPTY_CLIPS:unknown], draw)
    return softened(x_0, draw), probabilities(clips.class_ids(indices) % len(DIRECTIONS), len(DIRECTIONS), unknown)


def frame_batch(clips: MovingDigits, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Clips of one frame [B, 1, 1, H, W] and the probabilities of their digits [B, 10], some of which are unknown."""
    chosen = torch.randint(len(clips.digits), (FRAMES,), generator=draw)
    digits = shrunk(warped(clips.digits[chosen], draw))
    corners = torch.rand(FRAMES, 1, 2, generator=draw) * (clips.size - DIGIT_SIZE)
    frames = rearrange(placed(digits, corners, size=clips.size), "b f h w -> b f 1 h w") * 2 - 1
    frames[:EMPTY_FRAMES] = noise(frames[:EMPTY_FRAMES].shape, draw)
    return softened(frames, draw), probabilities(clips.labels[chosen], len(DIGITS), EMPTY_FRAMES)


def probabilities(labels: Tensor, classes: int, unknown: int) -> Tensor:
    """1 for the label of each, [B, classes]; the first `unknown` may be of any class."""
    one_hot = functional.one_hot(labels, classes).float()
    one_hot[:unknown] = 1 / classes
    return one_hot


def noise(shape: torch.Size, draw: torch.Generator) -> Tensor:
    """Normal noise of a gray level and a spread that each clip has of its own, [B, F, 1, H, W] in [-1, 1]."""
    level, spread = torch.rand(2, shape[0], 1, 1, 1, 1, generator=draw)
    return (2 * level - 1 + spread * torch.randn(shape, generator=draw)).clamp(-1, 1)


def shuffled(clips: Tensor, draw: torch.Generator) -> Tensor:
    """Clips [B, F, ...] with the frames of each in a random order of its own."""
    orders = torch.rand(clips.shape[:2], generator=draw).argsort(1)
    return clips[torch.arange(len(clips))[:, None], orders]


def warped(digits: Tensor, draw: torch.Generator) -> Tensor:
    """Digits [B, h, w] turned, stretched and sheared a little, each in its own way, float32 with the same range."""
    turn, stretch, shear = (torch.rand(3, len(digits), generator=draw) * 2 - 1) * torch.tensor(
        [[TURN], [STRETCH], [SHEAR]]
    )
    zoom, none = turn.cos() / (1 + stretch), torch.zeros_like(turn)
    rows = torch.stack([zoom, shear - turn.sin(), none, turn.sin(), zoom, none], -1)
    pictures = rearrange(digits.float(), "b h w -> b 1 h w")
    grid = functional.affine_grid(rearrange(rows, "b (r c) -> b r c", r=2), pictures.shape, align_corners=False)
    return functional.grid_sample(pictures, grid, align_corners=False)[:, 0]


def softened(clips: Tensor, draw: torch.Generator) -> Tensor:
    """Clips [B, F, 1, H, W] in [-1, 1] with a little blur, the same for all, and a little noise, each its own."""
    sigma = BLUR * torch.rand((), generator=draw) + 1e-3
    window = (-(torch.arange(-2, 3) ** 2) / (2 * sigma**2)).softmax(0)
    frames = functional.pad(rearrange(clips, "b f c h w -> (b f) c h w"), (2, 2, 2, 2), value=-1.0)
    blurred = functional.conv2d(frames, (window[:, None] * window)[None, None]).view_as(clips)
    spread = NOISE * torch.rand(len(clips), 1, 1, 1, 1, generator=draw)
    return (blurred + spread * torch.randn(clips.shape, generator=draw)).clamp(-1, 1)


def save_reader(reader: ClipReader, folder: Path) -> None:
    """Write model.safetensors into a folder, which is made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_bytes(save(reader.state_dict()))  # save_file's are for their owner alone


def load_reader(folder: Path) -> ClipReader:
    """The reader that `save_reader` wrote, in eval mode. Raises: FileNotFoundError where there is none."""
    reader = ClipReader()
    reader.load_state_dict(load_file(folder / FILE))
    return reader.eval()


def convolution(kind: type[nn.Module], inside: int, outside: int, *, kernel=3, stride=1) -> nn.Sequential:
    """A convolution that keeps the size but for its stride, batch norm and ReLU."""
    padding = tuple(k // 2 for k in kernel) if isinstance(kernel, tuple) else kernel // 2
    norm = {nn.Conv2d: nn.BatchNorm2d, nn.Conv3d: nn.BatchNorm3d}[kind]
    return nn.Sequential(
        kind(inside, outside, kernel, stride=stride, padding=padding, bias=False), norm(outside), nn.ReLU()
    )


def majority(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The class of each that is likelier than all others together, or UNREAD, and its probability; both [B]."""
    confidence, answer = logits.softmax(-1).max(-1)
    return torch.where(confidence > 0.5, answer, UNREAD), confidence


def check_clips(clips: Tensor) -> None:
    if clips.ndim != 5 or clips.shape[2] != 1 or 0 in clips.shape:
        raise ValueError(f"clips have shape {tuple(clips.shape)}: they must be [B, F, 1, H, W], none of them 0")
    if not (clips.abs() <= 1 + 1e-4).all():  # false for NaN too; placing digits rounds
        raise ValueError(
            f"values of clips reach from {clips.min().item():g} to {clips.max().item():g}: they must be in [-1, 1]"
        )
