"""Does a cached run take the time that its FLOPs say, and is the uncached pass as fast as diffusers' model?

    efficiency = measured speed-up / predicted speed-up                                 target >= 0.95
    ratio      = seconds of diffusers' model / seconds of ours, uncached                target >= 1

Random weights, batch 2 (a sample and its null class); candidates run in turns:

    DiT-B/2 with 6 skips        256 tokens
    Latte, 6 layers of 384      8 frames of 64 tokens, 3 skips
    LatteT2V, 6 layers of 384   8 frames of 64 tokens, 120 text tokens, 3 skips
    HunyuanDiT, 8 of 384        256 tokens, 77 + 256 text tokens, 3 skips
"""

import argparse
import json
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
from diffusers import DiTTransformer2DModel, HunyuanDiT2DModel, LatteTransformer3DModel

from skipdit import DiT, HunyuanDiT, Latte, LatteT2V, SkipCacheConfig
from skipdit.caching import plan
from skipdit.cli.bench import machine
from skipdit.diffusion import respace
from skipdit.evaluation import Latency, measure_side_by_side
from skipdit.evaluation.price import price
from skipdit.models.base import LongSkipModel
from skipdit.nn.embeddings import rotary_tables

RUN_STEPS = 12  # of the cached runs; divisible by every interval
BRANCHES = {DiT: (1, 4), Latte: (1,), LatteT2V: (1,), HunyuanDiT: (1,)}


def latte(**config) -> Latte:
    return Latte(sample_size=16, hidden_size=384, depth=6, num_heads=6, num_frames=8, num_classes=101, **config)


T2V = {
    "sample_size": 16, "num_attention_heads": 6, "attention_head_dim": 64, "cross_attention_dim": 384,
    "num_layers": 6, "video_length": 8, "caption_channels": 512, "patch_size": 2, "in_channels": 4, "out_channels": 8,
    "attention_bias": True, "activation_fn": "gelu-approximate", "norm_type": "ada_norm_single",
    "norm_elementwise_affine": False, "norm_eps": 1e-6, "num_embeds_ada_norm": 1000,
}  # fmt: skip
HUNYUAN = {
    "num_attention_heads": 6, "attention_head_dim": 64, "hidden_size": 384, "num_layers": 8, "mlp_ratio": 4.3637,
    "in_channels": 4, "patch_size": 2, "sample_size": 32, "cross_attention_dim": 256, "cross_attention_dim_t5": 512,
    "pooled_projection_dim": 256, "use_style_cond_and_image_meta_size": False,
}  # fmt: skip
MODELS: dict[str, Callable[[], LongSkipModel]] = {
    "DiT": lambda: DiT.from_size("B/2", num_skips=6),
    "Latte": lambda: latte(num_skips=3),
    "LatteT2V": lambda: LatteT2V(**T2V, num_skips=3),
    "HunyuanDiT": lambda: HunyuanDiT(**HUNYUAN),
}
VANILLA: dict[str, tuple[Callable[[], torch.nn.Module], Callable[[], torch.nn.Module]]] = {  # ours, diffusers'
    "DiT": (
        lambda: DiT.from_size("B/2"),
        lambda: DiTTransformer2DModel(
            num_attention_heads=12, attention_head_dim=64, num_layers=12, sample_size=32, norm_eps=1e-6
        ),
    ),
    "LatteT2V": (lambda: LatteT2V(**T2V), lambda: LatteTransformer3DModel(**T2V)),
    "HunyuanDiT": (lambda: HunyuanDiT(**HUNYUAN, rotary="given"), lambda: HunyuanDiT2DModel(**HUNYUAN)),
}


def caches(model: LongSkipModel) -> dict[str, SkipCacheConfig]:
    once = {"N=1, constants once": SkipCacheConfig(1)} if price(model, SkipCacheConfig(1)).constant_flops else {}
    return once | {
        f"N={interval}, branch {branch}, {forecast}": SkipCacheConfig(interval, branch, forecast=forecast)
        for branch in BRANCHES[type(model)]
        for interval, forecast in ((2, "hold"), (3, "hold"), (3, "taylor"))
    }


def run(model: LongSkipModel, inputs: dict[str, torch.Tensor], cache: SkipCacheConfig | None) -> None:
    """A run of RUN_STEPS calls, as a pipeline makes them."""
    if cache is not None:
        model.enable_cache(cache)
    for t in respace(1000, RUN_STEPS):
        model(**inputs | {"timestep": torch.full((2,), t)})
    if cache is not None:
        model.disable_cache()


def uncached_ratio(name: str, *, repeats: int) -> float:
    """diffusers' seconds over ours, for one pass of the vanilla model."""
    ours, theirs = (build().eval() for build in VANILLA[name])
    inputs = ours.example_inputs(2) | {"timestep": torch.tensor([500.0, 500.0])} | rotary(ours)
    passes = {"ours": lambda: ours(**inputs), "diffusers": lambda: theirs(**inputs)}
    seconds = measure_side_by_side(passes, repeats=4 * repeats, warmup=2, device="cpu")
    ratio = seconds["diffusers"].median / seconds["ours"].median
    print(f"{name:10} uncached pass   ours {seconds['ours'].median:.3f} s, diffusers {ratio:.2f} times that")
    return ratio


def rotary(model: LongSkipModel) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """The tables that HunyuanDiTPipeline gives a model."""
    if not isinstance(model, HunyuanDiT):
        return {}
    head_dim = model.config.attention_head_dim
    return {"image_rotary_emb": rotary_tables(*model.grid, head_dim, base=32, device=torch.device("cpu"))}


def cached_rows(name: str, *, repeats: int) -> dict[str, dict[str, float]]:
    """Predicted and measured speed-up of each cache, and their ratio."""
    model = MODELS[name]().eval()
    inputs, configs = model.example_inputs(2), caches(model)
    runs = {"uncached": lambda: run(model, inputs, None)}
    runs |= {label: (lambda cache=cache: run(model, inputs, cache)) for label, cache in configs.items()}
    seconds = measure_side_by_side(runs, repeats=repeats, warmup=1, device="cpu")
    step = seconds["uncached"].median / RUN_STEPS
    print(f"\n{name}: {1000 * step:.0f} ms a step")
    return {label: row(model, label, cache, seconds) for label, cache in configs.items()}


def row(model: LongSkipModel, label: str, cache: SkipCacheConfig, seconds: dict[str, Latency]) -> dict[str, float]:
    planned = plan(cache.schedule, respace(1000, RUN_STEPS))
    predicted = price(model, cache, batch=2).speedup(planned)
    measured = seconds["uncached"].median / seconds[label].median
    print(f"{label:22} predicted {predicted:.2f}x  measured {measured:.2f}x  efficiency {measured / predicted:.2f}")
    return {"predicted": predicted, "measured": measured, "efficiency": measured / predicted}


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--out", type=Path, default=Path("out/speed.json"))
    arguments = parser.parse_args()
    torch.manual_seed(0)
    results = {f"diffusers / ours, {name}": uncached_ratio(name, repeats=arguments.repeats) for name in VANILLA}
    results |= {name: cached_rows(name, repeats=arguments.repeats) for name in arguments.models}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    record = {"machine": machine(), "date": date.today().isoformat(), "results": results}
    arguments.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
