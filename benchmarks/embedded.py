"""The measured tables of the embedded image models: every cache setting, by a deterministic and a stochastic sampler.

Draws the same noise in every way, for the Skip-DiT and for the vanilla DiT, each against its own uncached images, and
writes weights/measured.json and the tables in weights/README.md. Under DDIM each interval has two controls of at most
the same FLOPs. Under DDPM fewer steps draw other noise, so that only ways of the same steps can be compared.
"""

import argparse
import json
from collections.abc import Mapping
from datetime import date
from pathlib import Path

from skipdit.caching import SkipCacheConfig
from skipdit.cli.bench import UNCACHED, as_json, machine, name_of
from skipdit.evaluation.compare import Result, Sampling, Way, compare, controls
from skipdit.evaluation.section import write_section
from skipdit.hub import load_pipeline

WEIGHTS = Path(__file__).parents[1] / "weights"
MODELS = ("fashion-skip", "fashion-dit")
STEPS, IMAGES, GUIDANCE = 50, 20, 2.0
INTERVALS = (2, 3, 4)
STOCHASTIC_STEPS, WINDOW = 100, (20, 1000)  # of DDPM, with the published window
BRANCHES = (0, 1, 3)
QUALITIES = ("high", "balanced", "fast")


def ways(pipeline, sampling: Sampling) -> dict[str, Way]:
    """Uncached, then for each interval: hold, Taylor, fewer steps, branch 0 with Taylor."""
    found = {UNCACHED: Way(STEPS)}
    for interval in INTERVALS:
        for forecast in ("hold", "taylor"):
            cached = Way(STEPS, SkipCacheConfig(interval=interval, forecast=forecast))
            found[name_of(cached.cache)] = cached
        found |= {f"control of N={interval}: {name}": way for name, way in controls(pipeline, cached, sampling).items()}
    return found | {f"preset {name}": Way(STEPS, SkipCacheConfig.preset(name)) for name in QUALITIES}


def stochastic_ways() -> dict[str, Way]:
    """Uncached, then for each interval: hold at each branch, and Taylor at branch 1."""
    caches = [
        SkipCacheConfig(interval=interval, branch=branch, window=WINDOW, forecast=forecast)
        for interval in (2, 3)
        for forecast, branches in (("hold", BRANCHES), ("taylor", (1,)))
        for branch in branches
    ]
    return {UNCACHED: Way(STOCHASTIC_STEPS)} | {name_of(cache): Way(STOCHASTIC_STEPS, cache) for cache in caches}


def markdown(results: Mapping[str, Result]) -> str:
    titles = ("way", "full / cached", "predicted", "measured", "seconds", "PSNR dB", "SSIM")
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for name, result in results.items():
        quality = f"{result.fidelity.psnr:.1f} | {result.fidelity.ssim:.4f}" if result.fidelity else "- | -"
        lines.append(
            f"| {name} | {result.plan.full} / {result.plan.cached} | {result.predicted_speedup:.2f}x"
            f" | {result.measured_speedup:.2f}x | {result.latency.fastest:.2f} | {quality} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    sampling = Sampling(tuple(index % 10 for index in range(IMAGES)), GUIDANCE)
    tables, record = [], {"machine": machine(), "date": date.today().isoformat(), "models": {}, "stochastic": {}}
    where = "{platform} CPU, {threads} threads, torch {torch}".format(**record["machine"])
    captions = {
        "ddim": f"{IMAGES} images, {STEPS} DDIM steps, guidance {GUIDANCE}, seed 0; {where}, {record['date']}.",
        "ddpm": f"The same images by {STOCHASTIC_STEPS} DDPM steps with the window 20 to 1000, as published.",
    }
    for scheduler, caption in captions.items():
        tables.append(caption)
        for model in MODELS:
            pipeline = load_pipeline(model, scheduler=scheduler)
            found = ways(pipeline, sampling) if scheduler == "ddim" else stochastic_ways()
            results = compare(pipeline, found, sampling, repeats=arguments.repeats, warmup=0)
            tables.append(f"**{model}**\n\n{markdown(results)}")
            key = "models" if scheduler == "ddim" else "stochastic"
            record[key][model] = {name: as_json(result) for name, result in results.items()}
    table = "\n\n".join(tables)
    (WEIGHTS / "measured.json").write_text(json.dumps(record, indent=2) + "\n")
    write_section(WEIGHTS / "README.md", "measured", table)
    print(table)


if __name__ == "__main__":
    main()
