"""Flags that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import tyro

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from torch import nn

    from skipdit.caching import SkipCacheConfig

T = TypeVar("T")
Offload = Literal["none", "model", "group", "sequential"]
TASK_AT_HAND = "model"  # as a preset: the one published for the task of the model at hand


def left_out(metavar: str, default: str = "", **more: Any) -> Any:
    """How help shows a flag that may be left out: what it takes, and its default in words or not at all."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=default, **more)


@dataclass(frozen=True)
class Cache:
    """Skip-Cache; off while none of these is given. --cache alone is --cache.preset model, and --cache N2-700-50 is
    --cache.published N2-700-50. The published --cache-step N, --cache-at-branch B and --deepcache -N N turn it on too.
    """

    preset: Annotated[str | None, left_out("TASK")] = None
    """a setting, which other flags change: published class-to-image, class-to-video, text-to-video, text-to-image, or
    model for that of the model at hand; by quality high, balanced, fast (for deterministic samplers)"""
    published: Annotated[str | None, left_out("N-START-STOP")] = None
    """the published spelling, which other flags change: N2-700-50 is interval 2 and window 50 700"""
    interval: Annotated[int | None, left_out("N", "(default: 2)")] = None
    """compute the trunk every N-th step"""
    branch: Annotated[int | None, left_out("K", "(default: 1)")] = None
    """fresh layers on each side, 0 to half the depth"""
    window: Annotated[tuple[float, float] | None, left_out("LO HI")] = None
    """in timesteps: steps with t >= HI compute, as do all after the first t <= LO"""
    steps: Annotated[str | None, left_out("I,J,...")] = None
    """the steps that compute, as 0,1,5,10; instead of interval and window"""
    forecast: Annotated[str | None, left_out("NAME", "(default: hold)")] = None
    """what stands in for the trunk: hold, residual, taylor or module:attribute"""
    order: Annotated[int | None, left_out("{1,2}", "(default: 1)")] = None
    """of the Taylor forecast"""
    retention: Annotated[int | None, left_out("N")] = None
    """compute the first N steps"""
    max_cached: Annotated[int | None, left_out("N")] = None
    """cache at most N steps in a row"""
    threshold: Annotated[float | None, left_out("X")] = None
    """compute once the shallow feature has changed by X, as 0.1, since the last computed step; instead of interval"""
    schedule: Annotated[str | None, left_out("MODULE:ATTRIBUTE")] = None
    """a schedule of yours, instead of interval, steps and threshold"""

    def config(self, task: str | None, *, depth: int | None = None) -> SkipCacheConfig | None:
        """The settings as a config, for a model of a task and so many layers; None where no flag was given.

        Raises: ValueError for --cache alone where nothing was published, which `task` None says.
        """
        from skipdit.caching import SkipCacheConfig

        given = {name: value for name, value in asdict(self).items() if value is not None}
        if given.get("preset") == TASK_AT_HAND:
            if task is None:
                remedy = "give --cache.interval 2, or --cache.preset fast"
                raise ValueError(f"no setting was published for this model: {remedy}")
            given["preset"] = task
        if "steps" in given:
            given["steps"] = step_list(given["steps"])
        preset, published = given.pop("preset", None), given.pop("published", None)
        if preset is not None and published is not None:
            raise ValueError(f"preset is {preset!r} beside published {published!r}: give one of them")
        if preset is not None:
            return SkipCacheConfig.preset(preset, depth=depth, **given)
        if published is not None:
            return SkipCacheConfig.published(published, **given)
        return SkipCacheConfig(**given) if given else None


def step_list(text: str) -> tuple[int, ...]:
    """ "0,1,5" as numbers."""
    try:
        return tuple(int(step) for step in text.split(","))
    except ValueError:
        raise ValueError(f"steps are {text!r}: give numbers with commas between, as 0,1,5,10") from None


def shard_of(text: str) -> tuple[int, int]:
    """ "0/4" as this process and how many there are."""
    index, slash, number = text.partition("/")
    if not (slash and index.isdecimal() and number.isdecimal() and int(index) < int(number)):
        raise ValueError(f"shard is {text!r}: give I/N with I from 0 to N - 1, as 0/4")
    return int(index), int(number)


def guided_channels(text: str) -> int | str:
    if text != "all" and not text.isdigit():
        raise ValueError(f"guidance_channels is {text!r}: give a number of channels, or all")
    return text if text == "all" else int(text)


def check_positive(config: Any, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)}: it must be at least 1")


def check_named(out: Path) -> None:
    if not out.name:
        raise ValueError(f"out is {str(out)!r}: name a file or a folder")


def check_seed(seed: int) -> None:
    if seed < 0:
        raise ValueError(f"seed is {seed}: it must be at least 0")


def check_tf32(*, device: str, dtype: str) -> None:
    if device.partition(":")[0] != "cuda" or dtype != "float32":
        raise ValueError(f"tf32 is on with device {device} and dtype {dtype}: it is for float32 on cuda, leave it out")


def place(pipeline: DiffusionPipeline, *, device: str, dtype: str, offload: Offload = "none") -> None:
    """Give a pipeline's modules a dtype and a device, where they differ, or have them come to the device when needed.

    Offloading keeps them in the CPU's memory: each as a whole ("model") or layer by layer ("group"; "sequential", which
    is accelerate's, needs less memory and more time). Raises: as `check_place`.
    """
    import torch

    check_place(device=device, offload=offload)
    for module in modules(pipeline):
        # Not its own `to`, which warns of every dtype, whether it casts or not (diffusers 0.42).
        torch.nn.Module.to(module, device if offload == "none" else "cpu", getattr(torch, dtype))
    if offload != "none":
        bring_when_needed(pipeline, torch.device(device), offload)


def modules(pipeline: DiffusionPipeline) -> list[nn.Module]:
    """Those of a pipeline that has them: transformer, vae, text_encoder."""
    from torch import nn

    return [component for component in pipeline.components.values() if isinstance(component, nn.Module)]


def check_place(*, device: str, offload: Offload = "none") -> None:
    """ValueError for a device that is not there, or that spares no other by offloading."""
    import torch

    from skipdit.models.places import check_device

    check_device(device)
    if offload != "none" and torch.device(device).type == "cpu":
        raise ValueError(f"offload is {offload!r} on device {device!r}: give --device an accelerator")


def bring_when_needed(pipeline: DiffusionPipeline, device: Any, offload: Offload) -> None:
    match offload:
        case "model":
            pipeline.enable_model_cpu_offload(device=device)
        case "sequential":
            pipeline.enable_sequential_cpu_offload(device=device)
        case "group":
            pipeline.enable_group_offload(device, offload_type="leaf_level")


def spare_memory(pipeline: DiffusionPipeline, *, slicing: bool, tiling: bool) -> None:
    """Have the VAE decode frame by frame, or in tiles; ValueError where there is none, or one that cannot."""
    for way in ["slicing"] * slicing + ["tiling"] * tiling:
        try:
            getattr(pipeline.vae, f"enable_{way}")()
        except (AttributeError, NotImplementedError):  # how diffusers' VAEs say that they cannot
            kind = "no vae" if pipeline.vae is None else f"{type(pipeline.vae).__name__} for a vae, without {way}"
            raise ValueError(f"vae_{way} is on, but this model has {kind}: leave it out") from None


def parse(kind: type[T], verb: str, arguments: Sequence[str]) -> T:
    """The arguments of a verb as its dataclass; prints help or a usage error and exits as asked."""
    known = {field.name for field in fields(kind)}
    for flag in (argument.partition("=")[0] for argument in arguments):
        if flag in GUIDANCE_ELSEWHERE and "guidance_scale" in known:
            raise ValueError(f"unknown flag {flag}: did you mean --guidance-scale?")
    if "cache" in known:
        arguments = spelled_out(arguments)
    return tyro.cli(kind, prog=f"skipdit {verb}", args=arguments)


GUIDANCE_ELSEWHERE = ("--cfg", "--cfg-scale", "--cfg_scale", "--guidance")  # what other programs call it
PUBLISHED_FLAGS = {"--cache-step": "--cache.interval", "--cache-at-branch": "--cache.branch", "-N": "--cache.interval"}


def spelled_out(arguments: Sequence[str]) -> list[str]:
    """The published spellings of Skip-Cache as ours.

    --cache N2-700-50 (also behind "=")            --cache.published N2-700-50
    --cache --cache-step N --cache-at-branch B     --cache.preset model --cache.interval N --cache.branch B
    --deepcache N, --deepcache -N N                --cache.preset model --cache.interval N
    --cache-step N and the like by themselves      with the published window, too
    """
    spelled, published = [], {argument.partition("=")[0] for argument in arguments}
    for argument, following in zip(arguments, [*arguments[1:], "-"]):
        name, equals, value = argument.partition("=")
        alone = not equals and following.startswith("-")
        if name in ("--cache", "--deepcache") and alone:
            spelled += ["--cache.preset", TASK_AT_HAND]
        elif name == "--cache":
            spelled.append(f"--cache.published{equals}{value}")
        elif name == "--deepcache":
            spelled += ["--cache.preset", TASK_AT_HAND, f"--cache.interval{equals}{value}"]
        else:
            spelled.append(PUBLISHED_FLAGS.get(name, name) + equals + value)
    named = {argument.partition("=")[0] for argument in spelled}
    if published & set(PUBLISHED_FLAGS) and not named & {"--cache.preset", "--cache.published"}:
        spelled += ["--cache.preset", TASK_AT_HAND]
    return spelled
