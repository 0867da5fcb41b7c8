"""The page of a published model, README.md: what it is, how it is used, and what was measured of it.

    YAML     library, task, licence, base model, tags; every measured number as the record has it (model-index)
    text     the model, read off its config; a snippet that runs; a table of the record, with machine and date

Nothing is invented: what nobody gave or measured is not there.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from skipdit.hub.architectures import TASKS
from skipdit.hub.load import PIPELINES, TEXT_PIPELINES
from skipdit.models import DiT, HunyuanDiT, Latte, LatteT2V
from skipdit.models.base import LongSkipModel

Row = Mapping[str, Any]  # of one way to draw

PIPELINE_OF = {kind: pipeline.__name__ for kind, pipeline in PIPELINES.items()} | {
    kind: name for kind, (_, name) in TEXT_PIPELINES.items()
}
PIXELS = (1, 3)  # channels of a model that needs no autoencoder
PUBLISHED_VAE_SCALE = 8
CACHE = "enable_cache(SkipCacheConfig(interval=2))  # the middle layers in every second step"
PIPELINE_TAGS = {  # the hub has no task for videos of classes
    DiT: "unconditional-image-generation", LatteT2V: "text-to-video", HunyuanDiT: "text-to-image",
}  # fmt: skip
FIGURES = {  # of a row: the title of its column and how it is written there
    "predicted_speedup": ("predicted", "{:.2f}x"),
    "measured_speedup": ("measured", "{:.2f}x"),
    "seconds": ("seconds", "{:.2f}"),
    "psnr": ("PSNR dB", "{:.1f}"),
    "ssim": ("SSIM", "{:.4f}"),
}
MEANINGS = {
    "predicted_speedup": "Predicted is by FLOPs.",
    "psnr": "PSNR and SSIM are to what the same noise becomes uncached.",
}
STEPS = ("full", "cached")  # computed steps, and those that reuse
OF_A_RECORD = ("settings", "machine", "date", "models", "stochastic", "results")
NO_COLUMN = {"plan", *STEPS, "flops", "bytes_remembered"}
SETTINGS = (  # those that say how was drawn; the others may be paths of a machine
    "images", "clips", "num_images", "steps", "scheduler", "guidance", "guidance_scale", "seed", "dtype", "device",
)  # fmt: skip


@dataclass(frozen=True)
class Numbers:
    """What a benchmark measured of one model: a row for each way to draw, by name; `date` is "" where none is told.

    `beside` are numbers of the record that belong to no way, as those of real images.
    """

    rows: Mapping[str, Row]
    settings: Mapping[str, Any]
    machine: Mapping[str, Any]
    date: str
    beside: Mapping[str, Mapping[str, float]]


def read_numbers(path: Path | str, *, of: str | None = None) -> Numbers:
    """The record that `skipdit bench` or a script of benchmarks/ wrote; `of` names the model where it has several.

    Raises: ValueError for a file that is no such record, or a model that it does not have.
    """
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
        return numbers_in(record, rows_in(record, of, path))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"numbers is {str(path)!r}, which is no record of a benchmark ({type(error).__name__}: {error}): "
            "name the JSON file that `skipdit bench` wrote"
        ) from None


def numbers_in(record: Mapping[str, Any], rows: Mapping[str, Row]) -> Numbers:
    return Numbers(
        rows={way: dict(steps(row)) | dict(figures(row)) for way, row in rows.items()},
        settings={name: value for name, value in record.get("settings", {}).items() if name in SETTINGS},
        machine=record["machine"],
        date=record.get("date", ""),
        beside={name: value for name, value in record.items() if name not in OF_A_RECORD},
    )


def rows_in(record: Mapping[str, Any], of: str | None, path: Path | str) -> Mapping[str, Row]:
    if "models" in record:
        return record["models"][model_in(record["models"], of, path)]
    if of is not None:
        raise ValueError(f"numbers_of is {of!r}, but {path} is of one model: leave numbers_of out")
    return record["results"]


def model_in(models: Mapping[str, Any], of: str | None, path: Path | str) -> str:
    if of is None and len(models) == 1:
        return next(iter(models))
    if of not in models:
        raise ValueError(f"numbers_of is {of!r}, but {path} has {', '.join(models)}: name one of them")
    return of


def figures(row: Row) -> Iterator[tuple[str, float]]:
    """The numbers of a row by one name each, as they are; "inf" is the infinity that JSON lacks."""
    flat = {**row, **(row.get("fidelity") or {})}
    flat |= {"seconds": flat["seconds"]["median"]} if "seconds" in flat else {}
    own = {name for name in row if name not in NO_COLUMN} | FIGURES.keys()
    for name, value in flat.items():
        if name in own and (value == "inf" or (isinstance(value, int | float) and not isinstance(value, bool))):
            yield name, float(value)


def steps(row: Row) -> Iterator[tuple[str, int]]:
    return ((name, row[name]) for name in STEPS)


def card(
    model: LongSkipModel, repo_id: str, *, pipeline: str | None = None, vae_scale: int = 1,
    numbers: Numbers | None = None, licence: str | None = None, base_model: str | None = None,
) -> ModelCard:  # fmt: skip
    """The page of a model, of which only the settings and shapes count; it may be on meta.

    Args:
        pipeline: class name of the pipeline that is published with the model, None for a model alone.
        vae_scale: pixels to a latent, on each side, in that pipeline.
        licence: as the hub abbreviates it ("apache-2.0"); left out, the page names none.
        base_model: repository on the hub from whose weights these were made; for a model of text alone, the pipeline
            that lends its other parts.
    """
    task, name = TASKS[type(model)], repo_id.rpartition("/")[2]
    data = ModelCardData(
        library_name="diffusers", pipeline_tag=PIPELINE_TAGS.get(type(model)), license=licence, base_model=base_model,
        tags=["skip-dit", "skip-cache", task], model_name=name,
        eval_results=None if numbers is None else list(results(numbers, task)) or None,
    )  # fmt: skip
    parts = [
        f"# {name}",
        what(model, pipeline),
        f"## Use\n\n{use(model, repo_id, pipeline=pipeline, vae_scale=vae_scale, base_model=base_model)}",
        f"## Measured\n\n{'No numbers were measured for this page.' if numbers is None else measured(numbers)}",
    ]
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n")


def results(numbers: Numbers, task: str) -> Iterator[EvalResult]:
    """Every finite number as the hub's model-index has it, unrounded; what was drawn in one way is one data set."""
    name = f"samples of the model ({drawn_how(numbers)})" if numbers.settings else "samples of the model"
    for way, row in numbers.rows.items():
        for metric, value in row.items():
            if metric not in STEPS and math.isfinite(value):
                yield EvalResult(
                    task_type=task, dataset_type="samples", dataset_name=name, dataset_config=way,
                    metric_type=metric, metric_name=title(metric), metric_value=value,
                )  # fmt: skip


def what(model: LongSkipModel, pipeline: str | None) -> str:
    """What the config and the shapes say."""
    kind, shape = type(model).__name__, model.example_inputs()["hidden_states"].shape[1:]
    fuse = model.config.get("fuse", "replace")  # HunyuanDiT knows no other
    skips = f"{model.num_skips}, fused by {fuse!r}" if model.num_skips else "none"
    rows = {
        "task": TASKS[type(model)],
        "class": f"`skipdit.{kind}`" + (f" in a `{pipeline}`" if pipeline else ""),
        "layers": model.depth,
        "long skips": skips,
        "parameters": f"{model.num_parameters():,}",
        "input": " x ".join(map(str, shape)),
        "predicts": model.config.prediction_type,
    }
    if isinstance(model, DiT | Latte):
        rows["classes"] = model.config.num_classes or "none"
    about = (
        f"A {kind} with long skips from layer i to layer {model.depth - 1} - i"
        if model.num_skips
        else f"A {kind} without long skips"
    )
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    paper = "[Skip-Cache](https://arxiv.org/abs/2411.17616)"
    faster = f"{paper} makes it faster: some steps reuse what its middle layers computed in an earlier one"
    return f"{about}. {faster}.\n\n| | |\n|---|---|\n{table}"


def use(model: LongSkipModel, repo_id: str, *, pipeline: str | None, vae_scale: int, base_model: str | None) -> str:
    """A snippet that loads, enables the cache and draws, as far as what is published suffices for it."""
    home = PIPELINE_OF[type(model)]
    if pipeline is not None:
        return python(of_pipeline(repo_id), draws(model, vae_scale))
    if isinstance(model, DiT | Latte) and model.config.in_channels in PIXELS:
        return python(of_pixels(model, repo_id), draws(model, 1))
    if isinstance(model, LatteT2V | HunyuanDiT) and base_model is not None:
        return python(of_text(model, repo_id, base_model), draws(model, PUBLISHED_VAE_SCALE))
    needs = "the autoencoder of its latents" if isinstance(model, DiT | Latte) else "text encoders and an autoencoder"
    return f"{python(alone(model, repo_id))}\n\nIt draws as the `transformer` of a `{home}`, with {needs}."


def of_pipeline(repo_id: str) -> str:
    return f"""
from diffusers import DiffusionPipeline

from skipdit import SkipCacheConfig

pipeline = DiffusionPipeline.from_pretrained("{repo_id}")
pipeline.transformer.{CACHE}"""


def of_pixels(model: LongSkipModel, repo_id: str) -> str:
    kind, home = type(model).__name__, PIPELINE_OF[type(model)]
    sampler = "euler" if model.config.prediction_type == "flow_prediction" else "ddim"
    return f"""
from skipdit import {kind}, SkipCacheConfig
from skipdit.pipelines import {home}
from skipdit.pipelines.schedulers import make_scheduler

model = {kind}.from_pretrained("{repo_id}")
model.{CACHE}
pipeline = {home}(model, make_scheduler("{sampler}", prediction_type="{model.config.prediction_type}"))"""


def of_text(model: LongSkipModel, repo_id: str, base_model: str) -> str:
    home = PIPELINE_OF[type(model)]
    return f"""
from diffusers import {home}
{alone(model, repo_id)}
pipeline = {home}.from_pretrained("{base_model}", transformer=model)"""


def alone(model: LongSkipModel, repo_id: str) -> str:
    kind = type(model).__name__
    return f"""
from skipdit import {kind}, SkipCacheConfig

model = {kind}.from_pretrained("{repo_id}")
model.{CACHE}"""


def draws(model: LongSkipModel, vae_scale: int) -> str:
    """The line that draws; diffusers' own pipelines ask for the size where it is not the one they take for granted."""
    if isinstance(model, DiT):
        return "image = pipeline([0]).images[0]"
    if isinstance(model, Latte):
        return f"frames = pipeline({'[0]' if model.config.num_classes else ''}).frames[0]"
    if isinstance(model, HunyuanDiT):
        return 'image = pipeline("a red apple", use_resolution_binning=False).images[0]'
    height, width = (side * model.config.patch_size * vae_scale for side in model.grid)
    size = f"video_length={model.config.video_length}, height={height}, width={width}"
    return f'frames = pipeline("a red apple", {size}, output_type="pil").frames[0]'


def python(*parts: str) -> str:
    return "\n".join(["```python", *(part.strip() for part in parts), "```"])


def measured(numbers: Numbers) -> str:
    """The record as a table, with what it says of settings, machine and date."""
    caption = "; ".join(filter(None, [drawn_how(numbers), on(numbers.machine), numbers.date or "date not recorded"]))
    columns = list(dict.fromkeys(metric for row in numbers.rows.values() for metric in row if metric not in STEPS))
    columns.sort(key=lambda metric: [*FIGURES, metric].index(metric))
    titles = ["way", "full / cached", *map(title, columns)]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for way, row in numbers.rows.items():
        cells = [written(metric, row[metric]) if metric in row else "-" for metric in columns]
        lines.append(f"| {' | '.join([way, '{full} / {cached}'.format(**row), *cells])} |")
    beside = [
        f"{name[:1].upper()}{name[1:]}: " + ", ".join(f"{key} {value:.4g}" for key, value in values.items()) + "."
        for name, values in numbers.beside.items()
    ]
    meaning = [meaning for metric, meaning in MEANINGS.items() if metric in columns]
    return "\n\n".join([f"{caption}.", "\n".join(lines), *([" ".join(meaning)] if meaning else []), *beside])


def title(metric: str) -> str:
    return FIGURES[metric][0] if metric in FIGURES else metric


def written(metric: str, value: float) -> str:
    return FIGURES[metric][1].format(value) if metric in FIGURES else f"{value:.4g}"


def drawn_how(numbers: Numbers) -> str:
    told = {name.replace("_", " "): value for name, value in numbers.settings.items() if value is not None}
    return ", ".join(f"{name} {value}" for name, value in told.items())


def on(machine: Mapping[str, Any]) -> str:
    """The machine of a record in words."""
    device = machine["accelerator"] or "{platform} CPU, threads: {threads}".format(**machine)
    return f"{device}, torch {machine['torch']}"
