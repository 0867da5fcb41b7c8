"""Does a cached run of a stock model of diffusers, attached, take the time that its FLOPs say?

    efficiency = measured speed-up / predicted speed-up                                 target >= 0.95

Random weights, batch 2; runs of 12 calls, uncached and cached, in turns. FLOPs are those of an uncached and of a cached
call, counted as they run.

    PixArt, 8 layers of 384                     256 tokens, 20 text tokens
    Flux, 3 double and 5 single layers of 384   256 tokens, 20 text tokens
    HunyuanDiT, 8 layers of 384, long skips     256 tokens
"""

import argparse
import json
from datetime import date
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import nn

from skipdit import SkipCacheConfig
from skipdit.caching import attach, plan
from skipdit.cli.bench import machine
from skipdit.evaluation.cost import count_flops, measure_side_by_side, predicted_speedup

RUN_STEPS = 12
SIZES = {"num_attention_heads": 6, "attention_head_dim": 64, "in_channels": 4, "sample_size": 32, "patch_size": 2}
FLUX = {
    "patch_size": 1, "in_channels": 16, "num_layers": 3, "num_single_layers": 5, "attention_head_dim": 64,
    "num_attention_heads": 6, "joint_attention_dim": 128, "pooled_projection_dim": 64, "axes_dims_rope": (16, 24, 24),
}  # fmt: skip
HUNYUAN = SIZES | {
    "hidden_size": 384, "num_layers": 8, "mlp_ratio": 4.3637, "cross_attention_dim": 256, "cross_attention_dim_t5": 512,
    "pooled_projection_dim": 256, "use_style_cond_and_image_meta_size": False,
}  # fmt: skip
PIXART = SIZES | {
    "num_layers": 8, "out_channels": 8, "cross_attention_dim": 384, "caption_channels": 128,
    "use_additional_conditions": False,
}  # fmt: skip
CACHES = {
    "N=2, branch 1, hold": SkipCacheConfig(interval=2),
    "N=3, branch 1, taylor": SkipCacheConfig(interval=3, forecast="taylor"),
}


def build(name: str) -> tuple[nn.Module, dict[str, Any], float]:
    """A model, the inputs of its calls, and the largest timestep."""
    rows = {"hidden_states": torch.randn(2, 4, 32, 32)}
    if name == "PixArt":
        model, scale = diffusers.PixArtTransformer2DModel(**PIXART), 999.0
        more = {"encoder_hidden_states": torch.randn(2, 20, 128), "added_cond_kwargs": {}}
    elif name == "Flux":
        model, scale = diffusers.FluxTransformer2DModel(**FLUX), 1.0
        rows = {"hidden_states": torch.randn(2, 256, 16), "img_ids": torch.zeros(256, 3), "txt_ids": torch.zeros(20, 3)}
        more = {"encoder_hidden_states": torch.randn(2, 20, 128), "pooled_projections": torch.randn(2, 64)}
    else:
        model, scale = diffusers.HunyuanDiT2DModel(**HUNYUAN), 999.0
        more = {
            "encoder_hidden_states": torch.randn(2, 77, 256), "text_embedding_mask": torch.ones(2, 77),
            "encoder_hidden_states_t5": torch.randn(2, 256, 512), "text_embedding_mask_t5": torch.ones(2, 256),
            "image_rotary_emb": (torch.ones(256, 64), torch.zeros(256, 64)),
        }  # fmt: skip
    return model.eval(), rows | more, scale


def rows_of(name: str, *, repeats: int) -> dict[str, dict[str, float]]:
    """Predicted and measured speed-up of each cache, and their ratio."""
    model, inputs, scale = build(name)
    attachment = attach(model)

    def call(step: int) -> None:
        model(**inputs, timestep=torch.full((2,), scale * (1 - step / RUN_STEPS)))

    def run(cache: SkipCacheConfig | None) -> None:
        if cache is not None:
            attachment.enable_cache(cache)
        for step in range(RUN_STEPS):
            call(step)
        if cache is not None:
            attachment.disable_cache()

    def flops(cache: SkipCacheConfig) -> list[int]:
        """Of a full call and of a cached one."""
        attachment.enable_cache(cache)
        counted = [count_flops(lambda step=step: call(step)) for step in (0, 1)]
        attachment.disable_cache()
        return counted

    runs = {"uncached": lambda: run(None)} | {label: (lambda c=cache: run(c)) for label, cache in CACHES.items()}
    seconds = measure_side_by_side(runs, repeats=repeats, warmup=1, device="cpu")
    print(f"\n{name}: {1000 * seconds['uncached'].median / RUN_STEPS:.0f} ms a step")
    results = {}
    for label, cache in CACHES.items():
        planned, (full, cached) = plan(cache.schedule, range(RUN_STEPS, 0, -1)), flops(cache)
        predicted = predicted_speedup(
            full_steps=planned.full, cached_steps=planned.cached, full_flops=full, cached_flops=cached
        )
        measured = seconds["uncached"].median / seconds[label].median
        print(f"{label:22} predicted {predicted:.2f}x  measured {measured:.2f}x  efficiency {measured / predicted:.2f}")
        results[label] = {"predicted": predicted, "measured": measured, "efficiency": measured / predicted}
    return results


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("out/attached.json"))
    arguments = parser.parse_args()
    torch.manual_seed(0)
    results = {name: rows_of(name, repeats=arguments.repeats) for name in ("PixArt", "Flux", "HunyuanDiT")}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    record = {"machine": machine(), "date": date.today().isoformat(), "results": results}
    arguments.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
