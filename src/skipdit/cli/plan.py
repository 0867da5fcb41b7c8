"""`skipdit plan`: what a schedule does over a run and what it costs, before anything runs. Needs no weights.

Without a cache flag it is the plan of `skipdit sample` without one: every step computes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import tyro

from skipdit.cli.flags import Cache, left_out, parse

if TYPE_CHECKING:
    from skipdit.caching import Plan as Planned
    from skipdit.caching import SkipCacheConfig
    from skipdit.models.base import LongSkipModel

ATTACHED_STEPS = 50  # of a class of diffusers, where nothing says how many


@dataclass(frozen=True)
class Plan:
    """Print a schedule as #.#., its counts, its cost in layers and FLOPs and the speed-up to expect."""

    tuned: Annotated[str | None, tyro.conf.Positional, left_out("PLAN")] = None
    """a folder that `skipdit tune` wrote: print its steps and what was measured, instead of a schedule"""
    model: Annotated[str, tyro.conf.arg(metavar="NAME|FOLDER")] = "DiT-XL/2"
    """DiT-XL/2, Latte-XL/2 (XL, L, B or S over 2, 4 or 8) or LatteT2V, each with as many skips as there is room for;
    HunyuanDiT (version 1.2);
    a class of diffusers that can be attached, as FluxTransformer2DModel, of its default size;
    an embedded or published model (`skipdit models`), which is not downloaded for it;
    a model or pipeline folder"""
    steps: Annotated[
        int | None, left_out("N", "(default: 250, videos of text 50, images of text 100; of a published model its own)")
    ] = None
    scheduler: Annotated[
        str | None, left_out("NAME", "(default: ddpm, videos of text ddim-leading; of a published model its own)")
    ] = None
    """ddpm, ddim, ddim-leading, dpm++, dpm++-sde, unipc, euler, euler-a, heun"""
    cache: Cache = field(default_factory=Cache)


def command(arguments: Sequence[str]) -> None:
    plan(parse(Plan, "plan", arguments))


def plan(config: Plan) -> None:
    from skipdit.caching.layouts import LAYOUTS
    from skipdit.evaluation.price import price

    if config.tuned is not None:
        print(describe_plan(config.tuned))
        return
    if config.steps is not None and config.steps < 1:
        raise ValueError(f"steps is {config.steps}: a run has at least one step")
    if config.model in LAYOUTS:
        plan_attached(config)
        return
    model = model_on_meta(config.model)
    cache, planned = scheduled(config, model)
    cost = price(model, cache)
    print(wrapped(str(planned)))
    if cache is not None:
        print(f"fresh layers       {round(cost.cached_layers * model.depth)} of {model.depth} in a cached step")
    if not planned.is_known:
        print(f"FLOPs              {cost.cached_flops / cost.full_flops:.1%} of a full step in a cached one")
        print("not priced: this schedule looks at features, so that only a run shows its plan (cache_stats, bench)")
        return
    print(f"full / cached      {planned.full} / {planned.cached} of {len(planned)} steps")
    print(f"layers run         {cost.layers(planned):.1%}")
    print(f"FLOPs              {cost.flops(planned) / (len(planned) * cost.full_flops):.1%}")
    print(f"predicted speed-up {cost.speedup(planned):.2f}x")
    if cache is None:
        print("uncached, as `skipdit sample` draws without --cache: give --cache for the published setting")


def plan_attached(config: Plan) -> None:
    """The plan for a class of diffusers, over even noise levels; its price is the weights of the layers that run."""
    import diffusers
    import torch

    from skipdit.caching import attach
    from skipdit.caching import plan as plan_of

    cache = config.cache.config(None)
    if cache is None:
        raise ValueError(f"no cache is given for {config.model}: give --cache.interval 2, or --cache.preset fast")
    if config.scheduler is not None:
        raise ValueError(f"scheduler is {config.scheduler!r} beside a class of diffusers, whose noise levels are even")
    kind = getattr(diffusers, config.model, None)
    try:
        with torch.device("meta"):
            attachment = attach(kind())
    except (TypeError, ValueError):
        raise ValueError(f"{config.model} has no default size: attach a model, and see its cache_stats") from None
    steps, bypassed = config.steps or ATTACHED_STEPS, attachment.bypassed(cache)
    planned = plan_of(cache.schedule, [1000 - 1000 * step / steps for step in range(steps)])
    weights = [sum(p.numel() for part in layer for p in part.parameters()) for layer in attachment.layers]
    fresh = 1 - sum(weights[index] for index in bypassed) / sum(weights)
    print(wrapped(str(planned)))
    print(f"fresh layers       {attachment.depth - len(bypassed)} of {attachment.depth} in a cached step")
    print(f"weights of layers  {fresh:.1%} in a cached step")
    if planned.is_known:
        print(f"full / cached      {planned.full} / {planned.cached} of {len(planned)} steps")
        print(f"weights of layers  {planned.cost(fresh):.1%} over the run, so that a speed-up of about "
              f"{1 / planned.cost(fresh):.2f}x is to be expected")  # fmt: skip


def describe_plan(name: str) -> str:
    """A tuned plan in words: its steps, its calls, and how it did on noise that it was not fitted to."""
    from pathlib import Path

    from skipdit.cli.tune import table
    from skipdit.files import read_object
    from skipdit.hub.load import find_plan
    from skipdit.tuning.plans import REMEDY, REPORT

    plan = find_plan(name)
    report = read_object(Path(plan.name) / REPORT, remedy=REMEDY)
    guidance = "" if plan.guidance_scale is None else f", guidance {plan.guidance_scale:g}"
    lead = [f"calls              {plan.calls} of {plan.steps} steps{guidance}"]
    lead += [f"speed-up by calls  {plan.steps / plan.calls:.2f}x"] if plan.cache is None else []
    return "\n".join([*lead, "", table(report), "", *report["words"]])


def scheduled(config: Plan, model: "LongSkipModel") -> "tuple[SkipCacheConfig | None, Planned]":
    """The cache that is asked for, or none, and which steps of the run compute."""
    from skipdit import caching
    from skipdit.hub.architectures import TASKS

    cache, timesteps = config.cache.config(TASKS[type(model)], depth=model.depth), timesteps_of(config, model)
    if cache is None:
        return None, caching.Plan([True] * len(timesteps))
    cache.check_depth(model.depth)
    return cache, caching.plan(cache.schedule, timesteps)


def timesteps_of(config: Plan, model: "LongSkipModel") -> list[float]:
    """Those of the run that is asked for: its scheduler and steps are the published ones where they are left out."""
    from skipdit.hub.load import PUBLISHED, is_pipeline, locate, published_scheduler, scheduler_for
    from skipdit.hub.registry import REGISTRY
    from skipdit.pipelines.schedulers import set_timesteps

    if (known := REGISTRY.get(config.model)) is not None:
        usual, steps, folder = known.recipe.scheduler, known.recipe.steps, None
    else:
        usual, steps = published_scheduler(model), PUBLISHED[type(model)][1]
        folder = locate(config.model) if is_pipeline(locate(config.model)) else None
    scheduler = scheduler_for(model, config.scheduler or usual, folder=folder)
    return set_timesteps(scheduler, steps if config.steps is None else config.steps)


def model_on_meta(name: str) -> "LongSkipModel":
    """A model without weights: a published one with all its skips, or what a folder's config says."""
    import torch

    from skipdit.hub.load import empty_model
    from skipdit.models import DiT, HunyuanDiT, Latte, LatteT2V
    from skipdit.models.adaln import SIZES, published_size

    family, _, size = name.rpartition("-")
    with torch.device("meta"):
        if name == "LatteT2V":
            return LatteT2V(num_skips=14)
        if name == "HunyuanDiT":
            return HunyuanDiT(use_style_cond_and_image_meta_size=False)
        if family in ("", "DiT", "Latte") and size.partition("/")[0] in SIZES:
            kind = Latte if family == "Latte" else DiT
            depth = published_size(size)["depth"] // kind.blocks_per_layer
            return kind.from_size(size, num_skips=depth // 2)
        return empty_model(name)


def wrapped(text: str, *, width: int = 100) -> str:
    return "\n".join(text[first : first + width] for first in range(0, len(text), width))
