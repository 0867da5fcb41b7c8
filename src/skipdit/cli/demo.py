"""`skipdit demo`: the embedded skip models draw from the same noise, uncached and with Skip-Cache, side by side."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from skipdit.cli.flags import check_positive, check_seed, parse
from skipdit.files import write_text

if TYPE_CHECKING:
    from torch import Tensor

    from skipdit.evaluation.compare import Result

GAIN = 4.0  # of the difference rows, so that they can be seen
FPS, SUFFIXES = 8.0, (".mp4", ".gif")
ROUNDS = 3  # in which every way is drawn once; the fastest counts


@dataclass(frozen=True)
class Demo:
    """Write pictures and animations and run.json; print what the cache saved and what it cost in quality."""

    out: Path = Path("demo")
    steps: int = 40
    interval: int = 3
    seed: int = 0


@dataclass(frozen=True)
class Part:
    """One task: its model, what is drawn and the words under the columns."""

    model: str
    title: str
    subjects: tuple[int, ...] | tuple[str, ...]
    captions: tuple[str, ...]
    guidance_scale: float


def parts() -> dict[str, Part]:
    from skipdit.data.images import FASHION_CLASSES
    from skipdit.data.moving_digits import CLASS_NAMES, caption

    clothes = tuple(range(len(FASHION_CLASSES)))
    classes = (2, 13, 31, 39)  # zero left, three down, seven right, nine right
    prompts = (caption(6, 2),)  # each prompt is a call of its own
    things = ("a red apple", "a blue heart")
    return {
        "class-to-image": Part("fashion-skip", "Skip-DiT on Fashion-MNIST", clothes, FASHION_CLASSES, 2.0),
        "class-to-video": Part(
            "moving-digits-skip", "Latte with long skips on moving digits", classes,
            tuple(CLASS_NAMES[index] for index in classes), 3.0,
        ),
        "text-to-video": Part(
            "captioned-digits-skip", "LatteT2V with long skips, in diffusers' LattePipeline", prompts, prompts, 3.0
        ),
        "text-to-image": Part(
            "emoji-hunyuan", "HunyuanDiT on emoji, in diffusers' HunyuanDiTPipeline", things, things, 3.0
        ),
    }  # fmt: skip


def command(arguments: Sequence[str]) -> None:
    demo(parse(Demo, "demo", arguments))


def demo(config: Demo) -> None:
    from skipdit.cli.bench import as_json, machine
    from skipdit.evaluation.compare import table
    from skipdit.videos import check_target

    check_positive(config, "steps")
    check_seed(config.seed)
    for suffix in SUFFIXES:  # a missing PyAV is better known before than after
        check_target(config.out / f"demo{suffix}", fps=FPS)
    config.out.mkdir(parents=True, exist_ok=True)
    record = {"settings": asdict(config), "machine": machine(), "parts": {}}
    for name, part in parts().items():
        results = draw(part, config)
        path = show(results, part, config, name)
        print(f"{name}: {path}\n\n{table(results)}\n")
        record["parts"][name] = {way: as_json(result) for way, result in results.items()}
    write_text(config.out / "run.json", json.dumps(record, indent=2, default=str) + "\n")


def draw(part: Part, config: Demo) -> "dict[str, Result]":
    """The same noise uncached, with the published Skip-Cache and with a Taylor forecast."""
    from skipdit.caching import SkipCacheConfig
    from skipdit.cli.bench import UNCACHED, name_of
    from skipdit.evaluation.compare import Sampling, Way, compare
    from skipdit.hub import load_pipeline

    pipeline = load_pipeline(part.model, scheduler="ddim")
    caches = [SkipCacheConfig(interval=config.interval, forecast=forecast) for forecast in ("hold", "taylor")]
    ways = {UNCACHED: Way(config.steps)} | {name_of(cache): Way(config.steps, cache) for cache in caches}
    sampling = Sampling(part.subjects, part.guidance_scale, seed=config.seed)
    return compare(pipeline, ways, sampling, repeats=ROUNDS, warmup=0)


def show(results: "Mapping[str, Result]", part: Part, config: Demo, name: str) -> Path:
    """A picture of images, an animation of clips; returns where it is."""
    from skipdit.evaluation import labelled_clips, labelled_rows, save_png
    from skipdit.videos import write_video

    title, rows = f"{part.title}, {config.steps} DDIM steps: one noise, three ways", labelled(results)
    if next(iter(rows.values())).ndim == 4:
        path = config.out / f"{name}.png"
        save_png(labelled_rows(rows, scale=3, title=title, captions=part.captions), path)
        return path
    page = labelled_clips(rows, scale=4, title=title, captions=part.captions)
    for suffix in SUFFIXES:
        write_video(page, config.out / f"{name}{suffix}", fps=FPS)
    return config.out / f"{name}.gif"


def labelled(results: "Mapping[str, Result]") -> "dict[str, Tensor]":
    """Each way's samples by its name and speed, and below each cached one its distance from the first."""
    from skipdit.evaluation import difference, difference_label

    first, rows = next(iter(results.values())), {}
    reference = first.images
    for name, result in results.items():
        measured = f"{result.measured_speedup:.2f}x faster" if result.measured_speedup > 1 else "slower: a busy machine"
        saved = f", {measured} (by FLOPs {result.predicted_speedup:.2f}x)" if result.fidelity else ""
        rows[f"{name}\n{result.latency.fastest:.2f} s{saved}"] = result.images
        if result.fidelity:
            label = f"{difference_label(gain=GAIN)}\n{result.fidelity.psnr:.1f} dB, SSIM {result.fidelity.ssim:.3f}"
            rows[label + f"\n({name})"] = difference(result.images, reference, gain=GAIN)
    return rows
