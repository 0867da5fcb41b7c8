"""The same noise through the same model in several ways, and how far each lands from the uncached samples.

The controls that every cached result is held against, at equal FLOPs: fewer steps of the same scheduler, and branch 0
(nothing fresh but the output head) with a Taylor forecast.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from diffusers import DiffusionPipeline
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor
from tqdm import tqdm

from skipdit.caching import CacheStats, Plan, SkipCacheConfig, plan
from skipdit.evaluation.cost import Latency, measure_side_by_side
from skipdit.evaluation.fidelity import WINDOW, Fidelity, fidelity
from skipdit.evaluation.price import Price, price
from skipdit.models.base import LongSkipModel
from skipdit.pipelines.draw import Settings, Subjects, draw, text_tokens
from skipdit.pipelines.schedulers import set_timesteps
from skipdit.randomness import generator


@dataclass(frozen=True)
class Way:
    """One way to draw: a number of steps, a cache or none, and a scheduler where it is not the pipeline's own."""

    steps: int
    cache: SkipCacheConfig | None = None
    scheduler: SchedulerMixin | None = None


@dataclass(frozen=True)
class Sampling:
    """What all ways share: class ids or prompts, guidance and the seed of the noise; sample i starts from (seed, i)."""

    subjects: Subjects
    guidance_scale: float
    guidance_channels: int | str = "all"
    seed: int = 0


@dataclass(frozen=True)
class Result:
    """What one way cost and what it drew, [B, C, H, W] or [B, F, C, H, W]; `fidelity`, over single frames, is None for
    the reference itself."""

    plan: Plan
    flops: int
    predicted_speedup: float
    latency: Latency
    measured_speedup: float
    bytes_remembered: int
    fidelity: Fidelity | None
    images: Tensor


def timesteps_of(pipeline: DiffusionPipeline, steps: int) -> list[float]:
    """The timesteps of a run, one for each call of the model."""
    return set_timesteps(pipeline.scheduler, steps)


def plan_of(pipeline: DiffusionPipeline, way: Way) -> Plan:
    with stepping(pipeline, way.scheduler):
        timesteps = timesteps_of(pipeline, way.steps)
    if way.cache is None:
        return Plan([True] * len(timesteps))
    way.cache.check_depth(pipeline.transformer.depth)
    return plan(way.cache.schedule, timesteps)


def price_of(pipeline: DiffusionPipeline, way: Way, sampling: Sampling) -> Price:
    batch = len(sampling.subjects) * (2 if sampling.guidance_scale != 1 else 1)
    tokens = text_tokens(pipeline, sampling.subjects)
    return price(pipeline.transformer, way.cache, batch=batch, text_tokens=tokens)


def check_size(pipeline: DiffusionPipeline) -> None:
    """Known before the drawing: SSIM needs images as large as its window."""
    scale = 1 if pipeline.vae is None else 2 ** (len(pipeline.vae.config.block_out_channels) - 1)
    smallest = min(pipeline.transformer.grid) * pipeline.transformer.config.patch_size * scale
    if smallest < WINDOW:
        raise ValueError(f"images have a side of {smallest} pixels: SSIM compares sides of at least {WINDOW}")


def draw_way(
    pipeline: DiffusionPipeline, way: Way, sampling: Sampling, *, first: int = 0
) -> tuple[Tensor, dict[str, CacheStats]]:
    """Samples in [0, 1] and what the cache did in the last run; the cache is off again after.

    Sample i starts from (seed, first + i), for those who draw in parts.
    """
    model, settings = pipeline.transformer, Settings(way.steps, sampling.guidance_scale, sampling.guidance_channels)
    noise = [generator(sampling.seed, first + index) for index in range(len(sampling.subjects))]
    with caching(model, way.cache), stepping(pipeline, way.scheduler):
        samples = draw(pipeline, sampling.subjects, noise, settings)
        stats = model.cache_stats() if way.cache else {}
    return samples, stats


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


@contextmanager
def stepping(pipeline: DiffusionPipeline, scheduler: SchedulerMixin | None) -> Iterator[None]:
    """With another scheduler in the pipeline, its own again afterwards."""
    own = pipeline.scheduler
    pipeline.scheduler = own if scheduler is None else scheduler
    try:
        yield
    finally:
        pipeline.scheduler = own


def controls(pipeline: DiffusionPipeline, way: Way, sampling: Sampling) -> dict[str, Way]:
    """What costs at most the same FLOPs as a cached way: fewer steps, and branch 0 with a Taylor forecast."""
    planned = plan_of(pipeline, way)
    planned = planned if planned.is_known else plan_done(draw_way(pipeline, way, sampling)[1])
    budget = price_of(pipeline, way, sampling).flops(planned)
    bare = Way(way.steps, SkipCacheConfig(interval=1, branch=0))
    cost = price_of(pipeline, bare, sampling)
    calls = len(timesteps_of(pipeline, way.steps))
    fewer = max(2, int(way.steps * (budget / cost.full_flops) / calls))
    idle = cost.flops(Plan([False] * calls))
    computed = int((budget - idle) // (cost.full_flops - cost.cached_flops))
    spread = tuple(sorted({round(i * calls / max(1, computed)) for i in range(max(1, computed))}))
    return {
        f"{fewer} steps": Way(fewer),
        "branch 0, taylor 1": Way(way.steps, SkipCacheConfig(steps=spread, branch=0, forecast="taylor")),
    }


def compare(
    pipeline: DiffusionPipeline, ways: Mapping[str, Way], sampling: Sampling, *, repeats: int, warmup: int
) -> dict[str, Result]:
    """Draw the same noise in every way, in turns; the first way is the reference of speed and fidelity.

    Raises: ValueError for ways that do not fit the model.
    """
    check_size(pipeline)
    plans = {name: plan_of(pipeline, way) for name, way in ways.items()}
    prices = {name: price_of(pipeline, way, sampling) for name, way in ways.items()}
    drawn: dict[str, tuple[Tensor, dict[str, CacheStats]]] = {}
    pipeline.set_progress_bar_config(disable=True)
    with tqdm(total=len(ways) * (repeats + warmup), desc="drawing", unit="run") as bar:

        def candidate(name: str) -> None:
            bar.set_postfix_str(name)
            drawn[name] = draw_way(pipeline, ways[name], sampling)
            bar.update()

        latencies = measure_side_by_side(
            {name: (lambda name=name: candidate(name)) for name in ways},
            repeats=repeats, warmup=warmup, device=pipeline.device,
        )  # fmt: skip
    first = next(iter(ways))
    plans |= {name: plan_done(drawn[name][1]) for name, planned in plans.items() if not planned.is_known}
    return {
        name: Result(
            plan=plans[name],
            flops=prices[name].flops(plans[name]),
            predicted_speedup=prices[first].flops(plans[first]) / prices[name].flops(plans[name]),
            latency=latencies[name],
            measured_speedup=latencies[first].fastest / latencies[name].fastest,
            bytes_remembered=sum(stats.bytes_remembered for stats in drawn[name][1].values()),
            fidelity=None if name == first else fidelity(frames(drawn[name][0]), frames(drawn[first][0])),
            images=drawn[name][0],
        )
        for name in ways
    }


def plan_done(stats: Mapping[str, CacheStats]) -> Plan:
    """The plan of a run that is over."""
    return Plan(step == "#" for step in next(iter(stats.values())).plan)


def frames(samples: Tensor) -> Tensor:
    """Images as they are, clips as their frames: [N, C, H, W]."""
    return samples.flatten(0, -4)


def table(results: Mapping[str, Result]) -> str:
    """Results as aligned text, one way a line, and below them the plans in full."""
    header = ("", "full", "cached", "GFLOPs", "predicted", "seconds", "measured", "kB held", "PSNR dB", "SSIM")
    rows = [
        (
            name,
            str(result.plan.full),
            str(result.plan.cached),
            f"{result.flops / 1e9:.1f}",
            f"{result.predicted_speedup:.2f}x",
            f"{result.latency.fastest:.2f}",
            f"{result.measured_speedup:.2f}x",
            f"{result.bytes_remembered / 1e3:.0f}",
            f"{result.fidelity.psnr:.1f}" if result.fidelity else "-",
            f"{result.fidelity.ssim:.4f}" if result.fidelity else "-",
        )
        for name, result in results.items()
    ]
    plans = [(name, str(result.plan)) for name, result in results.items()]
    return f"{aligned([header, *rows])}\n\n{aligned([('plan', '# computes the trunk, . does not'), *plans])}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as text: the first column to the left, numbers to the right; of two columns both to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    align = [str.ljust, *([str.rjust] if len(widths) > 2 else [str.ljust]) * (len(widths) - 1)]
    return "\n".join(
        "  ".join(place(cell, width) for place, cell, width in zip(align, row, widths, strict=True)).rstrip()
        for row in rows
    )
