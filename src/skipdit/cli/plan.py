"""`skipdit plan`: what a schedule does over a run and what it costs, before anything runs. Needs no weights."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from skipdit.cli.flags import Cache, parse


@dataclass(frozen=True)
class Plan:
    """Print a schedule as #.#., its counts, its cost in layers and FLOPs and the speed-up to expect."""

    model: str = "XL/2"
    """a DiT size (XL/2, B/4, ...) with depth // 2 skips, an embedded model or a model folder"""
    steps: int = 250
    scheduler: str = "ddpm"
    """ddpm, ddim, dpm++, dpm++-sde, unipc, euler, euler-a, heun"""
    cache: Cache = field(default_factory=Cache)


def command(arguments: Sequence[str]) -> None:
    plan(parse(Plan, "plan", arguments))


def plan(config: Plan) -> None:
    from skipdit import caching
    from skipdit.evaluation.price import price
    from skipdit.pipelines.schedulers import make_scheduler, set_timesteps

    cache = config.cache.config() or caching.SkipCacheConfig()
    if config.steps < 1:
        raise ValueError(f"steps is {config.steps}: a run has at least one step")
    timesteps = set_timesteps(make_scheduler(config.scheduler), config.steps)
    settings = model_settings(config.model)
    cache.check_depth(settings["depth"])
    planned = caching.plan(cache.schedule, timesteps)
    cost = price(settings, branch=cache.branch)
    print(wrapped(str(planned)))
    print(f"full / cached      {planned.full} / {planned.cached} of {len(planned)} steps")
    print(f"fresh layers       {2 * cache.branch} of {settings['depth']} in a cached step")
    print(f"layers run         {cost.layers(planned):.1%}")
    print(f"FLOPs              {cost.flops(planned) / (len(planned) * cost.full_flops):.1%}")
    print(f"predicted speed-up {cost.speedup(planned):.2f}x")


def model_settings(name: str) -> dict:
    """The arguments of a model, from a size or from the config of a folder."""
    from skipdit.hub.load import model_config
    from skipdit.models.adaln import published_size

    if "/" in name and name.split("/")[0] in ("XL", "L", "B", "S"):
        size = published_size(name)
        return size | {"num_skips": size["depth"] // 2}
    return model_config(name)


def wrapped(text: str, *, width: int = 100) -> str:
    return "\n".join(text[first : first + width] for first in range(0, len(text), width))
