"""Does a cached run take the time that its FLOPs say, and is the uncached pass as fast as diffusers' DiT?

    efficiency = measured speed-up / predicted speed-up                                 target >= 0.95
    ratio      = seconds of diffusers' DiTTransformer2DModel / seconds of ours          target >= 1

B/2 size on 256 tokens, batch 2 (one image and its null class), random weights; candidates run in turns.
"""

import argparse
import json
from pathlib import Path

import torch
from diffusers import DiTTransformer2DModel

from skipdit import DiT, SkipCacheConfig
from skipdit.caching import plan
from skipdit.cli.bench import machine
from skipdit.diffusion import respace
from skipdit.evaluation import Latency, measure_side_by_side
from skipdit.evaluation.price import price

RUN_STEPS = 12  # of the cached runs; divisible by every interval
CACHES = {
    "N=2, branch 1": SkipCacheConfig(interval=2),
    "N=3, branch 1": SkipCacheConfig(interval=3),
    "N=2, branch 4": SkipCacheConfig(interval=2, branch=4),
    "N=3, branch 1, taylor": SkipCacheConfig(interval=3, forecast="taylor"),
}


def run(model: DiT, inputs: dict[str, torch.Tensor], cache: SkipCacheConfig | None) -> None:
    """A run of RUN_STEPS calls, as a pipeline makes them."""
    if cache is not None:
        model.enable_cache(cache)
    for t in respace(1000, RUN_STEPS):
        model(**inputs, timestep=torch.full((len(inputs["hidden_states"]),), t))
    if cache is not None:
        model.disable_cache()


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("out/speed.json"))
    arguments = parser.parse_args()
    torch.manual_seed(0)
    ours = DiT.from_size("B/2", num_skips=6).eval()
    vanilla = DiT.from_size("B/2").eval()
    theirs = DiTTransformer2DModel(
        num_attention_heads=12, attention_head_dim=64, num_layers=12, sample_size=32, norm_eps=1e-6
    ).eval()
    inputs = {"hidden_states": torch.randn(2, 4, 32, 32), "class_labels": torch.tensor([1, 1000])}
    timestep = torch.tensor([500, 500])

    models = {"ours": vanilla, "diffusers": theirs}
    passes = {name: (lambda model=model: model(**inputs, timestep=timestep)) for name, model in models.items()}
    uncached = measure_side_by_side(passes, repeats=4 * arguments.repeats, warmup=2, device="cpu")
    runs = {"uncached": lambda: run(ours, inputs, None)}
    runs |= {name: (lambda cache=cache: run(ours, inputs, cache)) for name, cache in CACHES.items()}
    seconds = measure_side_by_side(runs, repeats=arguments.repeats, warmup=1, device="cpu")
    report(uncached, seconds, ours, arguments.out)


def report(uncached: dict[str, Latency], seconds: dict[str, Latency], model: DiT, out: Path) -> None:
    ratio = uncached["diffusers"].median / uncached["ours"].median
    print(f"uncached pass   ours {uncached['ours'].median:.3f} s, diffusers {uncached['diffusers'].median:.3f} s")
    print(f"                ratio {ratio:.2f}\n")
    rows = {"diffusers / ours": ratio}
    for name, cache in CACHES.items():
        planned = plan(cache.schedule, respace(1000, RUN_STEPS))
        predicted = price(model, branch=cache.branch, batch=2).speedup(planned)
        measured = seconds["uncached"].median / seconds[name].median
        rows[name] = {"predicted": predicted, "measured": measured, "efficiency": measured / predicted}
        print(f"{name:22} predicted {predicted:.2f}x  measured {measured:.2f}x  efficiency {measured / predicted:.2f}")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"machine": machine(), "results": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
