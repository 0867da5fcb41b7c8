"""Flags that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import tyro

if TYPE_CHECKING:
    from skipdit.caching import SkipCacheConfig
    from skipdit.pipelines import ClassToImagePipeline

T = TypeVar("T")


@dataclass(frozen=True)
class Cache:
    """Skip-Cache; off while none of these is given."""

    preset: str | None = None
    """a published setting by its task (class-to-image), which the other flags change"""
    interval: int | None = None
    """compute the trunk every N-th step"""
    branch: int | None = None
    """fresh layers on each side, 0 to half the depth (1)"""
    window: tuple[float, float] | None = None
    """LO HI in timesteps: steps with t >= HI compute, as do all after the first t <= LO"""
    steps: str | None = None
    """the steps that compute, as 0,1,5,10; instead of interval and window"""
    forecast: str | None = None
    """what stands in for the trunk: hold, residual, taylor or module:attribute"""
    order: int | None = None
    """of the Taylor forecast, 1 or 2"""

    def config(self) -> SkipCacheConfig | None:
        """The settings as a config, or None where no flag was given."""
        from skipdit.caching import SkipCacheConfig

        given = {name: value for name, value in asdict(self).items() if value is not None}
        if "steps" in given:
            given["steps"] = step_list(given["steps"])
        preset = given.pop("preset", None)
        if preset is not None:
            return SkipCacheConfig.preset(preset, **given)
        return SkipCacheConfig(**given) if given else None


def step_list(text: str) -> tuple[int, ...]:
    """ "0,1,5" as numbers."""
    try:
        return tuple(int(step) for step in text.split(","))
    except ValueError:
        raise ValueError(f"steps are {text!r}: give numbers with commas between, as 0,1,5,10") from None


def guided_channels(text: str) -> int | str:
    if text != "all" and not text.isdigit():
        raise ValueError(f"guidance_channels is {text!r}: give a number of channels, or all")
    return text if text == "all" else int(text)


def check_positive(config: Any, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)}: it must be at least 1")


def check_seed(seed: int) -> None:
    if seed < 0:
        raise ValueError(f"seed is {seed}: it must be at least 0")


def place(pipeline: ClassToImagePipeline, *, device: str, dtype: str) -> None:
    """Move a pipeline's modules to a device and dtype, where they differ; ValueError for a device that is not there."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device is {device!r}: not to be had here ({str(error).splitlines()[0]}); take cpu") from None
    for module in filter(None, (pipeline.transformer, pipeline.vae)):
        # Not its own `to`, which warns of every dtype, whether it casts or not (diffusers 0.42).
        torch.nn.Module.to(module, device, getattr(torch, dtype))


def parse(kind: type[T], verb: str, arguments: Sequence[str]) -> T:
    """The arguments of a verb as its dataclass; prints help or a usage error and exits as asked."""
    return tyro.cli(kind, prog=f"skipdit {verb}", args=arguments)
