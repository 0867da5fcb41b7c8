"""A pipeline that somebody else wrote, drawn uncached, cached by `attach`, and by the controls at equal FLOPs.

FLOPs are those of a whole draw, text encoders and autoencoder included, counted as it runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from torch import Tensor
from tqdm import tqdm

from skipdit.attributes import load_attribute
from skipdit.caching import Plan, SkipCacheConfig
from skipdit.caching.attachment import Attachment, attach
from skipdit.caching.layouts import LAYOUTS
from skipdit.evaluation.compare import Result, Way, caching, frames, plan_done, stepping
from skipdit.evaluation.cost import count_flops, measure_side_by_side
from skipdit.evaluation.fidelity import fidelity
from skipdit.randomness import generator

DENOISERS = ("transformer", "unet", "model")  # where pipelines keep them
CONVERTED = ("HunyuanDiT2DModel", "LatteTransformer3DModel")  # `load_pipeline` makes ours of them


@dataclass(frozen=True)
class Foreign:
    """A pipeline, its attached denoiser, and the arguments of its call but steps, noise and guidance."""

    pipeline: DiffusionPipeline
    attachment: Attachment
    arguments: Mapping[str, Any]


def is_foreign(source: str) -> bool:
    """Whether a source is "module:function", or the folder of a pipeline whose denoiser is none of ours."""
    if ":" in source and not Path(source).exists():
        return True
    index = Path(source) / "model_index.json"
    return index.is_file() and any(f'"{name}"' in index.read_text() for name in LAYOUTS if name not in CONVERTED)


def load_foreign(source: str) -> Foreign:
    """A pipeline from a folder, or from a function that returns it, alone or with the arguments of its call.

    Raises: ValueError for what is no pipeline, or has no denoiser that `attach` knows.
    """
    if ":" in source and not Path(source).exists():
        found = load_attribute("model", source)()
    else:
        found = DiffusionPipeline.from_pretrained(source)
    pipeline, arguments = found if isinstance(found, tuple) else (found, {})
    if not isinstance(pipeline, DiffusionPipeline):
        raise ValueError(f"{source} gives a {type(pipeline).__name__}: return a pipeline of diffusers")
    modules = [getattr(pipeline, name, None) for name in DENOISERS]
    known = [each for each in modules if type(each).__name__ in LAYOUTS]
    if not known:
        named = ", ".join(type(each).__name__ for each in modules if each is not None)
        raise ValueError(f"{source} has no denoiser that attach knows ({named}): attach it in Python, by its layers")
    return Foreign(pipeline, attach(known[0]), arguments)


def draw_foreign(
    foreign: Foreign, way: Way, given: Mapping[str, Any], *, number: int, seed: int
) -> tuple[Tensor, dict]:
    """Samples [B, C, H, W] or [B, F, C, H, W] in [0, 1], and what the cache did; sample i starts from (seed, i)."""
    noise = [generator(seed, index) for index in range(number)]
    arguments = dict(foreign.arguments) | given | {"num_inference_steps": way.steps, "output_type": "np"}
    with caching(foreign.attachment, way.cache), stepping(foreign.pipeline, way.scheduler), torch.no_grad():
        output = foreign.pipeline(**arguments, generator=noise if number > 1 else noise[0])[0]
        stats = foreign.attachment.cache_stats() if way.cache else {}
    return torch.from_numpy(np.asarray(output)).movedim(-1, -3).float(), stats


def check_call(foreign: Foreign, given: Mapping[str, Any]) -> None:
    """Raise ValueError for an argument that the pipeline's call does not take."""
    takes = signature(type(foreign.pipeline).__call__).parameters
    for name in given:
        if name not in takes:
            raise ValueError(f"{type(foreign.pipeline).__name__} takes no {name}: leave it out")


def compare_foreign(
    foreign: Foreign, cache: SkipCacheConfig, given: Mapping[str, Any], *, steps: int, number: int, seed: int,
    repeats: int, warmup: int,
) -> dict[str, Result]:  # fmt: skip
    """The uncached run, the cache as asked for and with the other forecasts, and the controls, in turns."""
    check_call(foreign, given)
    if steps < 4:
        raise ValueError(f"steps is {steps}: a comparison needs at least 4")
    foreign.attachment.bypassed(cache)
    foreign.pipeline.set_progress_bar_config(disable=True)
    others = [replace(cache, forecast=name, order=None) for name in ("hold", "taylor")]
    ways = {"uncached": Way(steps)}
    ways |= {f"branch {each.branch}, {each.forecast}": Way(steps, each) for each in dict.fromkeys([cache, *others])}
    drawn: dict[str, tuple[Tensor, dict]] = {}

    def draw(name: str) -> None:
        drawn[name] = draw_foreign(foreign, ways[name], given, number=number, seed=seed)

    flops = {name: count_flops(lambda name=name: draw(name)) for name in list(ways)}
    asked = list(ways)[1]
    computed = plan_of_stats(drawn[asked][1], steps)
    short = count_flops(lambda: draw_foreign(foreign, Way(2), given, number=number, seed=seed))
    step = (flops["uncached"] - short) / (steps - 2)  # without text encoders and autoencoder
    ways |= controls_of(computed, steps, saved=(flops["uncached"] - flops[asked]) / step)
    flops |= {name: count_flops(lambda name=name: draw(name)) for name in ways if name not in flops}
    with tqdm(total=len(ways) * (repeats + warmup), desc="drawing", unit="run") as bar:

        def candidate(name: str) -> None:
            draw(name)
            bar.update()

        runs = {name: (lambda name=name: candidate(name)) for name in ways}
        seconds = measure_side_by_side(runs, repeats=repeats, warmup=warmup, device=foreign.pipeline.device)
    reference = drawn["uncached"][0]
    return {
        name: Result(
            plan=plan_of_stats(drawn[name][1], way.steps),
            flops=flops[name],
            predicted_speedup=flops["uncached"] / flops[name],
            latency=seconds[name],
            measured_speedup=seconds["uncached"].fastest / seconds[name].fastest,
            bytes_remembered=sum(stats.bytes_remembered for stats in drawn[name][1].values()),
            fidelity=None if name == "uncached" else fidelity(frames(drawn[name][0]), frames(reference)),
            images=drawn[name][0],
        )
        for name, way in ways.items()
    }


def controls_of(computed: Plan, steps: int, *, saved: float) -> dict[str, Way]:
    """Fewer steps for at most the same FLOPs, and everything forecast with as many computed steps.

    `saved` is how many steps the cache saves, by FLOPs.
    """
    fewer = max(2, int(steps - saved))
    spread = tuple(sorted({round(i * steps / computed.full) for i in range(computed.full)}))
    bare = SkipCacheConfig(steps=spread, branch=0, forecast="taylor")
    return {f"{fewer} steps": Way(fewer), "branch 0, taylor, spread": Way(steps, bare)}


def plan_of_stats(stats: Mapping[str, Any], steps: int) -> Plan:
    """The plan of a run that is over; without a cache each step computes."""
    return plan_done(stats) if stats else Plan([True] * steps)
