"""Clips of moving digits drawn by any pipeline of one, by class or by caption, as a `ClipReader` takes them."""

from collections.abc import Sequence

import torch
from diffusers import DiffusionPipeline
from torch import Tensor
from tqdm import tqdm

from skipdit.data.moving_digits import DIRECTIONS, PHRASINGS, caption
from skipdit.evaluation.compare import Sampling, Way, draw_way
from skipdit.pipelines.draw import Subjects

AT_ONCE = 20  # clips a call


def draw_clips(
    pipeline: DiffusionPipeline, subjects: Subjects, way: Way, *, guidance_scale: float, seed: int = 0
) -> Tensor:
    """A clip for each class id or prompt, [B, F, 1, H, W] in [-1, 1], clip i from the noise of (seed, i)."""
    pipeline.set_progress_bar_config(disable=True)
    parts = range(0, len(subjects), AT_ONCE)
    drawn = [
        draw_way(
            pipeline, way, Sampling(subjects[start : start + AT_ONCE], guidance_scale, seed=seed), first=start
        )[0]
        for start in tqdm(parts, desc="drawing", unit="batch", leave=False)
    ]  # fmt: skip
    return torch.cat(drawn)[:, :, :1] * 2 - 1  # where there are three channels, they are the same gray


def captions(class_ids: Sequence[int]) -> list[str]:
    """A caption for each class id, the same for equal ones; over the 40 classes each phrasing occurs ten times."""
    classes = [divmod(class_id, len(DIRECTIONS)) for class_id in class_ids]
    return [caption(digit, way, (digit + 2 * way) % len(PHRASINGS)) for digit, way in classes]
