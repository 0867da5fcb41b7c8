"""`skipdit demo`: the embedded Skip-DiT draws clothes from the same noise, uncached and with Skip-Cache."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from skipdit.cli.flags import check_positive, check_seed, parse
from skipdit.files import write_text

MODEL = "fashion-skip"
GAIN = 4.0  # of the difference row, so that it can be seen


@dataclass(frozen=True)
class Demo:
    """Write demo/class-to-image.png and run.json, and print what the cache saved and what it cost in quality."""

    out: Path = Path("demo")
    steps: int = 50
    interval: int = 3
    guidance_scale: float = 2.0
    seed: int = 0


def command(arguments: Sequence[str]) -> None:
    demo(parse(Demo, "demo", arguments))


def demo(config: Demo) -> None:
    from skipdit.caching import SkipCacheConfig
    from skipdit.cli.bench import UNCACHED, as_json, machine, name_of
    from skipdit.data.images import FASHION_CLASSES
    from skipdit.evaluation import difference, difference_label, labelled_rows, save_png
    from skipdit.evaluation.compare import Sampling, Way, compare, table
    from skipdit.hub import load_pipeline

    check_positive(config, "steps")
    check_seed(config.seed)
    pipeline = load_pipeline(MODEL, scheduler="ddim")
    caches = [SkipCacheConfig(interval=config.interval, forecast=forecast) for forecast in ("hold", "taylor")]
    ways = {UNCACHED: Way(config.steps)} | {name_of(cache): Way(config.steps, cache) for cache in caches}
    sampling = Sampling(tuple(range(len(FASHION_CLASSES))), config.guidance_scale, seed=config.seed)
    results = compare(pipeline, ways, sampling, repeats=3, warmup=1)
    reference = results[UNCACHED].images
    rows = {}
    for name, result in results.items():
        saved = "" if name == UNCACHED else f", {result.measured_speedup:.2f}x faster"
        rows[f"{name}\n{result.latency.median:.2f} s{saved}"] = result.images
        if result.fidelity:
            label = f"{difference_label(gain=GAIN)}\n{result.fidelity.psnr:.1f} dB, SSIM {result.fidelity.ssim:.3f}"
            rows[label + f"\n({name})"] = difference(result.images, reference, gain=GAIN)
    config.out.mkdir(parents=True, exist_ok=True)
    title = f"Skip-DiT on Fashion-MNIST, {config.steps} DDIM steps: one noise, three ways"
    save_png(labelled_rows(rows, scale=3, title=title, captions=FASHION_CLASSES), config.out / "class-to-image.png")
    record = {"settings": asdict(config), "machine": machine(), "results": {n: as_json(r) for n, r in results.items()}}
    write_text(config.out / "run.json", json.dumps(record, indent=2, default=str) + "\n")
    print(table(results))
    print(f"pictures: {config.out / 'class-to-image.png'}")
