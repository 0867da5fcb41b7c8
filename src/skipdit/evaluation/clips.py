"""Clips of moving digits drawn by any pipeline of one, by class or by caption, as a `ClipReader` takes them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from diffusers import DiffusionPipeline
from torch import Tensor
from tqdm import tqdm

from skipdit.caching import SkipCacheConfig
from skipdit.data.moving_digits import DIRECTIONS, PHRASINGS, caption
from skipdit.evaluation.compare import Way
from skipdit.models.base import LongSkipModel
from skipdit.pipelines.draw import Settings, Subjects, draw
from skipdit.randomness import generator

AT_ONCE = 20  # clips a call


def draw_clips(
    pipeline: DiffusionPipeline, subjects: Subjects, way: Way, *, guidance_scale: float, seed: int = 0
) -> Tensor:
    """A clip for each class id or prompt, [B, F, 1, H, W] in [-1, 1], clip i from the noise of (seed, i)."""
    pipeline.set_progress_bar_config(disable=True)
    settings = Settings(way.steps, guidance_scale)
    parts = [range(len(subjects))[start : start + AT_ONCE] for start in range(0, len(subjects), AT_ONCE)]
    with caching(pipeline.transformer, way.cache):
        drawn = [
            draw(pipeline, [subjects[i] for i in part], [generator(seed, i) for i in part], settings)
            for part in tqdm(parts, desc="drawing", unit="batch", leave=False)
        ]
    return torch.cat(drawn)[:, :, :1] * 2 - 1  # where there are three channels, they are the same gray


def captions(class_ids: Sequence[int]) -> list[str]:
    """A caption for each class id, the same for equal ones; over the 40 classes each phrasing occurs five times."""
    classes = [divmod(class_id, len(DIRECTIONS)) for class_id in class_ids]
    return [caption(digit, way, (digit + 2 * way) % len(PHRASINGS)) for digit, way in classes]


@contextmanager
def caching(model: LongSkipModel, cache: SkipCacheConfig | None) -> Iterator[None]:
    """With a cache on the model, off again afterwards, or without one."""
    if cache is None:
        yield
        return
    model.enable_cache(cache)
    try:
        yield
    finally:
        model.disable_cache()
