"""`skipdit bench MODEL`: what a cache saves and costs, in one run, beside the two controls at equal FLOPs.

Of videos, PSNR and SSIM are means over frames.
"""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from skipdit.cli.download import announce
from skipdit.cli.flags import (
    Cache,
    check_named,
    check_place,
    check_positive,
    check_seed,
    guided_channels,
    left_out,
    parse,
    place,
)
from skipdit.files import write_text

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from skipdit.caching import SkipCacheConfig
    from skipdit.evaluation.compare import Result, Sampling, Way

UNCACHED = "uncached"
SCHEDULER = "ddim"  # where no recipe says
PUBLISHED_CLASSES = 4  # all samples are one batch, which 1,000 of ImageNet cannot be


@dataclass(frozen=True)
class Bench:
    """Draw the same noise uncached, cached and by the controls, in turns; print a table and write it as JSON."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """an embedded or published model (`skipdit models`; downloaded where missing), a model or pipeline folder, or a
    checkpoint file; of models that others wrote a pipeline folder of diffusers, or module:function that returns a
    pipeline, alone or with the arguments of its call"""
    weights: Annotated[str | None, left_out("NAME", "(default: the averaged, where there are any)")] = None
    """which weights of a checkpoint file that has several: ema, model, module, state_dict and the like"""
    out: Path = Path("out/bench.json")
    """the table as a file, with the settings, the machine and the date"""
    classes: Annotated[
        tuple[int | str, ...], left_out("ID|NAME [ID|NAME ...]", "(default: all, of a published model the first 4)")
    ] = ()
    """class ids, or names (`skipdit models NAME` lists them), repeated until there are enough samples"""
    prompt: Annotated[tuple[str, ...], left_out("TEXT [TEXT ...]")] = ()
    """what to draw, for a model of text"""
    num_images: Annotated[int | None, left_out("N", "(default: one for each class or prompt)")] = None
    """how many images or videos"""
    seed: int = 0
    """sample i starts from noise of (seed, i), in every way alike"""
    steps: Annotated[int | None, left_out("N", "(default: 50, of a published model as published)")] = None
    scheduler: Annotated[str | None, left_out("NAME", "(default: ddim, of a published model as published)")] = None
    """ddpm, ddim, ddim-leading, dpm++, dpm++-sde, unipc, euler, euler-a, heun; with those that draw noise at each step
    (ddpm, dpm++-sde, euler-a) fewer steps draw other noise, so that PSNR and SSIM of that control say little"""
    plan: Annotated[str | None, left_out("PLAN")] = None
    """a folder that `skipdit tune` wrote, instead of a cache: it is held against every control of as many calls"""
    beta_end: Annotated[float | None, left_out("B", "(default: 0.018, up to version 1.1 0.03)")] = None
    """where the noise of HunyuanDiT ends (the published command says 0.02)"""
    guidance_scale: Annotated[float | None, left_out("SCALE", "(default: 1.5, videos 4, images of text 6)")] = None
    """classifier-free guidance, off at 1; that of a published model is its own: 7 for videos of classes, 7.5 of text"""
    guidance_channels: Annotated[str | None, left_out("N", "(default: all, of a published model as published)")] = None
    """how many noise channels are guided (the published DiT: 3); a model of text guides all"""
    vae: Annotated[str | None, left_out("NAME|FOLDER")] = None
    """an autoencoder for a model of latents: sd-vae-ft-mse, sd-vae-ft-ema or the like, or a folder"""
    base: Annotated[str | None, left_out("NAME|FOLDER")] = None
    """a pipeline that lends text encoders and autoencoder: latte-base, hunyuandit-v1.2 or the like, or a folder"""
    repeats: int = 3
    """timed runs of each way, in turns; the fastest counts"""
    warmup: int = 1
    """untimed runs of each way before the timed ones"""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: str = "cpu"
    compile: bool = False
    """compile head, trunk and tail with torch.compile"""
    cache: Cache = field(default_factory=Cache)
    """Skip-Cache; where none of these is given it has interval 2 and branch 1, or is as published with the model.
    --cache alone is --cache.preset model, and --cache N2-700-50 is --cache.published N2-700-50.
    The published --cache-step N, --cache-at-branch B and --deepcache -N N are --cache with that N or B."""


def command(arguments: Sequence[str]) -> None:
    bench(parse(Bench, "bench", arguments))


def bench(config: Bench) -> dict[str, "Result"]:
    """Measure; prints the table, writes the JSON and returns the results by name."""
    from skipdit.evaluation.compare import compare, table
    from skipdit.evaluation.foreign import is_foreign

    check(config)
    if is_foreign(config.model):
        return bench_foreign(config)
    config = resolved(config)
    pipeline = loaded(config)
    cache, sampling = asked(config, pipeline)
    place(pipeline, device=config.device, dtype=config.dtype)
    if config.compile:
        pipeline.transformer.compile()
    config.out.parent.mkdir(parents=True, exist_ok=True)  # what cannot be written is better known before than after
    ways = ways_of(config, pipeline, cache, sampling)
    results = compare(pipeline, ways, sampling, repeats=config.repeats, warmup=config.warmup)
    print(table(results))
    print(exact_lines(pipeline, config, sampling, results))
    write(config, cache, sampling, results)
    return results


def bench_foreign(config: Bench) -> dict[str, "Result"]:
    """The same table for a pipeline that somebody else wrote, its denoiser attached."""
    from skipdit.caching import SkipCacheConfig
    from skipdit.evaluation.compare import Sampling, table
    from skipdit.evaluation.foreign import compare_foreign, load_foreign

    useless = ("weights", "vae", "base", "plan", "beta_end", "guidance_channels", "scheduler")
    if given := [name for name in useless if getattr(config, name) is not None]:
        raise ValueError(f"{given[0]} is given for a pipeline of others: set it in the function that returns it")
    subjects = config.prompt or tuple(map(int, config.classes))
    number = config.num_images or max(1, len(subjects))
    subjects = [subjects[index % len(subjects)] for index in range(number)] if subjects else []
    call = {"prompt" if config.prompt else "class_labels": subjects} if subjects else {}
    call |= {} if config.guidance_scale is None else {"guidance_scale": config.guidance_scale}
    cache, steps = config.cache.config(None) or SkipCacheConfig(), config.steps or 50
    foreign = load_foreign(config.model)
    place(foreign.pipeline, device=config.device, dtype=config.dtype)
    if config.compile:
        foreign.attachment.model.compile()
    results = compare_foreign(
        foreign, cache, call, steps=steps, number=number, seed=config.seed, repeats=config.repeats,
        warmup=config.warmup,
    )  # fmt: skip
    print(table(results))
    config.out.parent.mkdir(parents=True, exist_ok=True)
    write(config, cache, Sampling(tuple(subjects), config.guidance_scale or 1.0, seed=config.seed), results)
    return results


def check(config: Bench) -> None:
    """What no model takes."""
    check_positive(config, "repeats", *(name for name in ("steps", "num_images") if getattr(config, name) is not None))
    check_seed(config.seed)
    check_named(config.out)
    check_place(device=config.device)


def resolved(config: Bench) -> Bench:
    """What is left out is as a published model was run, else as any; but for guidance, which only the model tells."""
    from skipdit.cli.tasks import with_recipe
    from skipdit.hub.registry import REGISTRY

    config, known = with_recipe(config), REGISTRY.get(config.model)
    classes = 0 if known is None else known.config.get("num_classes", 0)
    if not config.classes and not config.prompt and config.num_images is None:
        config = replace(config, classes=tuple(range(min(classes, PUBLISHED_CLASSES))))
    return replace(config, scheduler=SCHEDULER if config.scheduler is None else config.scheduler)


def loaded(config: Bench) -> "DiffusionPipeline":
    """The pipeline; what it would refuse without weights is refused before anything is downloaded, which is said."""
    from skipdit.cli.runs import SOURCE
    from skipdit.hub import load_pipeline, parts
    from skipdit.hub.sketch import sketch

    source = {name: getattr(config, name) for name in SOURCE}
    asked(config, sketch(config.model, **source))
    announce(parts.absent(config.model, vae=config.vae, base=config.base))
    return load_pipeline(config.model, **source)


def asked(config: Bench, pipeline: "DiffusionPipeline") -> "tuple[SkipCacheConfig, Sampling]":
    """The cache and the samples; ValueError for what the pipeline would refuse, or could not be compared."""
    from skipdit.caching import SkipCacheConfig
    from skipdit.cli.tasks import check_use, task_of
    from skipdit.evaluation.compare import Way, check_size, plan_of
    from skipdit.pipelines import draw

    check_use(config, pipeline, "beta_end")
    flags = config.cache.config(task_of(pipeline), depth=pipeline.transformer.depth)
    cache = flags or published_cache(config.model) or SkipCacheConfig()
    sampling = sampling_of(config, pipeline)
    settings = draw.Settings(config.steps, sampling.guidance_scale, sampling.guidance_channels)
    draw.check(pipeline, sampling.subjects, settings)
    check_size(pipeline)
    plan_of(pipeline, Way(config.steps, cache))
    return cache, sampling


def sampling_of(config: Bench, pipeline: "DiffusionPipeline") -> "Sampling":
    from skipdit.cli.tasks import usual_guidance, with_class_ids
    from skipdit.evaluation.compare import Sampling
    from skipdit.pipelines.draw import subjects_for

    classes = with_class_ids(config, pipeline).classes
    return Sampling(
        subjects=subjects_for(pipeline, classes=classes, prompts=config.prompt, number=config.num_images),
        guidance_scale=usual_guidance(pipeline) if config.guidance_scale is None else config.guidance_scale,
        guidance_channels=guided_channels(config.guidance_channels),
        seed=config.seed,
    )


def ways_of(
    config: Bench, pipeline: "DiffusionPipeline", cache: "SkipCacheConfig", sampling: "Sampling"
) -> dict[str, "Way"]:
    from skipdit.evaluation.compare import Way, controls

    cached = Way(config.steps, cache)
    ways = {UNCACHED: Way(config.steps)} | constants_once(pipeline, config.steps)
    if config.plan is not None:
        return ways | planned_ways(config, pipeline, sampling)
    fewer, *others = controls(pipeline, cached, sampling).items()
    return ways | forecasts(cached) | dict([fewer, *others]) | solvers(pipeline, config.steps, fewer[1].steps)


def solvers(pipeline: "DiffusionPipeline", steps: int, calls: int) -> dict[str, "Way"]:
    """Other solvers of the same ODE, and a forecast of every other step, with so many calls; none for a sampler that
    draws noise at each step, to whose samples they do not lead."""
    from skipdit.evaluation.compare import Way, timesteps_of
    from skipdit.tuning.held_out import controls_for
    from skipdit.tuning.scheduler import BASES

    if type(pipeline.scheduler).__name__ not in BASES or "sde" in str(pipeline.scheduler.config.get("algorithm_type")):
        return {}
    grid = timesteps_of(pipeline, steps)
    found = controls_for(pipeline.scheduler, grid, calls, None)
    found.pop(f"{calls} steps")  # which is there already
    return {f"{each.calls} of {name}": Way(each.steps, None, each.scheduler) for name, each in found.items()}


def planned_ways(config: Bench, pipeline: "DiffusionPipeline", sampling: "Sampling") -> dict[str, "Way"]:
    """A plan, and everything that makes as many calls."""
    from skipdit.evaluation.compare import Way, timesteps_of
    from skipdit.hub.load import find_plan
    from skipdit.tuning.held_out import controls_for
    from skipdit.tuning.scheduler import TunedScheduler

    plan = find_plan(config.plan, config.model)
    if plan.scheduler is None:
        raise ValueError(f"plan is {config.plan!r}, and this model has no tuned one: bench shows that solver anyway")
    plan.warn_of_another(pipeline, guidance_scale=sampling.guidance_scale)
    base, grid = pipeline.scheduler, timesteps_of(pipeline, config.steps)
    if isinstance(plan.scheduler, TunedScheduler):
        base, grid = plan.scheduler.base, plan.scheduler.grid
    found = controls_for(base, grid, plan.calls, pipeline.transformer)
    ways = {f"plan, {plan.calls} calls": Way(plan.steps, plan.cache, plan.scheduler)}
    return ways | {name: Way(each.steps, each.cache, each.scheduler) for name, each in found.items()}


def exact_lines(
    pipeline: "DiffusionPipeline", config: Bench, sampling: "Sampling", results: Mapping[str, "Result"]
) -> str:
    """How far each way lies from an accurate solution of the same ODE; nothing where that is not known."""
    from skipdit.evaluation.compare import Way, aligned, draw_way, timesteps_of
    from skipdit.tuning.fine import fine_solver, has_betas
    from skipdit.tuning.held_out import psnr_of_samples
    from skipdit.tuning.scheduler import BASES

    if type(pipeline.scheduler).__name__ not in BASES or not has_betas(pipeline.scheduler):
        return ""
    solver = fine_solver(pipeline.scheduler, timesteps_of(pipeline, config.steps))
    exact, _ = draw_way(pipeline, Way(config.steps, None, solver), sampling)
    rows = [(name, f"{psnr_of_samples(each.images, exact).mean():.1f}") for name, each in results.items()]
    return "\n" + aligned([("PSNR to an accurate solution", "dB"), *rows])


def published_cache(model: str) -> "SkipCacheConfig | None":
    """Of the published cached run of a name; None where there is none."""
    from skipdit.hub.registry import REGISTRY

    return REGISTRY[model].recipe.cache if model in REGISTRY else None


def constants_once(pipeline: "DiffusionPipeline", steps: int) -> dict[str, "Way"]:
    """Every step computed, but what a model makes of text once a run: exactly equal, and what it saves."""
    from skipdit.caching import SkipCacheConfig
    from skipdit.evaluation.compare import Way
    from skipdit.evaluation.price import price

    once = Way(steps, SkipCacheConfig(interval=1))
    return {"uncached, text once": once} if price(pipeline.transformer, once.cache).constant_flops else {}


def forecasts(cached: "Way") -> dict[str, "Way"]:
    """The cache as asked for, and the same plan with the other forecasts."""
    asked = cached.cache
    others = [replace(asked, forecast=name, order=None) for name in ("hold", "taylor")]
    return {name_of(cache): replace(cached, cache=cache) for cache in dict.fromkeys([asked, *others])}


def name_of(cache: "SkipCacheConfig") -> str:
    forecast = f"{cache.forecast} {cache.order}" if cache.order else cache.forecast
    when = f"N={cache.interval}" if cache.interval else f"change {cache.threshold}" if cache.threshold else "custom"
    when = when if cache.steps is None else f"{len(cache.steps)} given steps"
    return f"{when}, branch {cache.branch}, {forecast}"


def write(config: Bench, cache: "SkipCacheConfig", sampling: "Sampling", results: Mapping[str, "Result"]) -> None:
    """The table as JSON, with the settings, the machine and the date."""
    settings = asdict(config) | {"cache": cache.to_dict(), "guidance_scale": sampling.guidance_scale}
    rows = {name: as_json(result) for name, result in results.items()}
    document = {"settings": settings, "machine": machine(), "date": date.today().isoformat(), "results": rows}
    write_text(config.out, json.dumps(document, indent=2, default=str) + "\n")


def as_json(result: "Result") -> dict[str, Any]:
    return {
        "plan": str(result.plan),
        "full": result.plan.full,
        "cached": result.plan.cached,
        "flops": result.flops,
        "predicted_speedup": result.predicted_speedup,
        "seconds": asdict(result.latency),
        "measured_speedup": result.measured_speedup,
        "bytes_remembered": result.bytes_remembered,
        "fidelity": result.fidelity.as_dict() if result.fidelity else None,
    }


def machine() -> dict[str, Any]:
    import diffusers
    import torch

    return {
        "platform": platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
