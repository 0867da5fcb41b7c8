"""`skipdit sample MODEL`: images or videos of classes or of text, as single files or one of all."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from skipdit.cli.flags import Cache, Offload, check_positive, check_seed, left_out, parse, place, spare_memory

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from skipdit.caching import Plan, SkipCacheConfig
    from skipdit.cli.outputs import Output
    from skipdit.cli.wanted import Wanted
    from skipdit.pipelines.draw import Settings

Format = Literal["mp4", "mkv", "webp", "gif", "frames"]
COUNTS = ("steps", "batch_size", "num_images", "num_per_prompt", "frames", "decode_chunk_size")


@dataclass(frozen=True)
class Sample:
    """Draw images or videos. An interrupted run goes on with the same command: nothing is drawn twice or left out.

    A model of classes takes --classes, one of text --prompt or --prompts-file; a flag of no use to it is an error.
    """

    model: tyro.conf.Positional[str]
    """an embedded or published model (`skipdit models`; downloaded where missing), a model or pipeline folder, or a
    checkpoint file"""
    out: Path = Path("out/samples.png")
    """a folder: single files;
    .png: a grid of images, or a sheet with a row for each video;
    .mp4, .mkv, .webp, .gif: the video, or a grid of all, playing together;
    .npz: images as uint8 [N, H, W, 3] under arr_0, for the ADM evaluator"""
    classes: Annotated[tuple[int, ...], left_out("ID [ID ...]", "(default: all)")] = ()
    """class ids, repeated until there are enough samples"""
    num_images: Annotated[int | None, left_out("N", "(default: one for each class)", aliases=("--num-samples",))] = None
    """how many images, or videos, of classes"""
    prompt: Annotated[tuple[str, ...], left_out("TEXT [TEXT ...]")] = ()
    """what to draw, for a model of text"""
    prompts_file: Annotated[Path | None, left_out("FILE")] = None
    """.txt: a prompt a line, but for blank lines and those that begin with #;
    .csv: the column `caption`"""
    negative_prompt: Annotated[str | None, left_out("TEXT", "(default: none, of HunyuanDiT the published)")] = None
    """what to keep away from; LattePipeline cuts it to as many tokens as the prompt has"""
    num_per_prompt: Annotated[int | None, left_out("K", "(default: 1, in the layout of VBench 5)")] = None
    """images or videos of each prompt"""
    layout: Annotated[Literal["plain", "vbench"] | None, left_out("{plain,vbench}", "(default: plain)")] = None
    """names in a folder: 000003-PROMPT.mp4, or PROMPT-0.mp4 to PROMPT-4.mp4 with repeated prompts once"""
    seed: int = 0
    """sample i of classes starts from noise of (seed, i), copy k of prompt p from (seed, p, k), whatever the batch"""
    steps: Annotated[int | None, left_out("N", "(default: 50, of a published model as published)")] = None
    """published: 250 for models of classes, 50 for videos of text, 100 for images of text"""
    scheduler: Annotated[str | None, left_out("NAME", "(default: ddpm, for videos of text ddim-leading)")] = None
    """ddpm, ddim, ddim-leading, dpm++ (also dpmms), dpm++-sde, unipc, euler, euler-a, heun"""
    beta_end: Annotated[float | None, left_out("B", "(default: 0.018, up to version 1.1 0.03)")] = None
    """where the noise of HunyuanDiT ends (the published command says 0.02)"""
    guidance_scale: Annotated[float | None, left_out("SCALE", "(default: 1.5, videos 4, images of text 6)")] = None
    """classifier-free guidance, off at 1; that of a published model is its own: 7 for videos of classes, 7.5 of text"""
    guidance_channels: Annotated[str | None, left_out("N", "(default: all, of a published model as published)")] = None
    """how many noise channels are guided (the published DiT: 3); a model of text guides all"""
    size: Annotated[tuple[int, int] | None, left_out("H W", "(default: the model's)")] = None
    """height and width in pixels"""
    frames: Annotated[int | None, left_out("N", "(default: the model's)")] = None
    """of each video, at most the model's"""
    fps: Annotated[float | None, left_out("RATE", "(default: 8)")] = None
    """frames a second of a video file"""
    format: Annotated[Format | None, left_out("{mp4,mkv,webp,gif,frames}", "(default: mp4)")] = None
    """of videos in a folder; mkv, webp and frames (a folder of PNGs each) are lossless, mp4 and mkv need PyAV"""
    vae: Annotated[str | None, left_out("FOLDER")] = None
    """an autoencoder, for a model of latents"""
    base: Annotated[str | None, left_out("FOLDER")] = None
    """a pipeline of the same kind (Latte-1, HunyuanDiT) that lends its text encoders and autoencoder"""
    lora: Annotated[str | None, left_out("PATH")] = None
    """an adapter for HunyuanDiT: a folder that PEFT wrote, or a .safetensors file"""
    lora_scale: float = 1.0
    """how strong the adapter is; 1 is as it was trained"""
    decode_chunk_size: Annotated[int | None, left_out("N", "(default: 14)")] = None
    """frames that the autoencoder decodes at once"""
    vae_slicing: bool = False
    """decode frame by frame"""
    vae_tiling: bool = False
    """decode large frames in tiles, blended at their seams"""
    batch_size: int = 16
    """samples at once; those of a batch have one prompt"""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: str = "cpu"
    offload: Offload = "none"
    """keep models off the accelerator until it needs them: as a whole (model), or layer by layer (group; sequential,
    which takes least memory and most time)"""
    compile: bool = False
    """compile head, trunk and tail with torch.compile"""
    cache: Cache = field(default_factory=Cache)


def command(arguments: Sequence[str]) -> None:
    sample(parse(Sample, "sample", arguments))


def sample(config: Sample) -> None:
    """Draw what `config` says; prints where it went, the plan and the seconds."""
    from skipdit.cli.outputs import finish
    from skipdit.cli.records import open_run

    run = prepared(config)
    open_run(run.output, run.record)
    if config.compile:
        run.pipeline.transformer.compile()
    if run.cache is not None:
        run.pipeline.transformer.enable_cache(run.cache)
    seconds = draw_missing(run)
    made = finish(run.output, run.samples)
    print(f"{config.out}: {made}, {run.config.steps} {run.config.scheduler} steps in {seconds:.1f} s")
    if run.cache is not None:
        print(f"plan {run.plan}: {run.plan.full} full, {run.plan.cached} cached")


@dataclass(frozen=True)
class Run:
    """What is drawn, with what and to where: all of it checked, none of it begun."""

    config: Sample
    pipeline: "DiffusionPipeline"
    samples: list["Wanted"]
    settings: "Settings"
    output: "Output"
    cache: "SkipCacheConfig | None"
    plan: "Plan"
    prompts: list[str]

    @property
    def record(self) -> dict[str, Any]:
        """The settings as they are resolved, for run.json."""
        resolved = {
            "layout": (self.config.layout or "plain") if self.prompts else None,
            "prompts": self.prompts or None,
            "format": self.output.suffix,
            "fps": self.output.fps,
            "cache": self.cache and self.cache.to_dict(),
            "plan": str(self.plan),
        }
        return asdict(self.config) | asdict(self.settings) | resolved

    @property
    def columns(self) -> dict[str, Any]:
        """What a manifest says of each sample."""
        config = self.config
        return {
            "plan": self.plan, "steps": config.steps, "scheduler": config.scheduler,
            "guidance_scale": self.settings.guidance_scale,
        }  # fmt: skip


def prepared(config: Sample) -> Run:
    """Load the model and refuse what it cannot do, before anything is drawn or written."""
    from skipdit.cli import outputs, tasks, wanted
    from skipdit.evaluation.compare import Way, plan_of
    from skipdit.hub import load_pipeline
    from skipdit.hub.load import published_scheduler
    from skipdit.hub.lora import load_lora

    check(config)
    config = with_recipe(config)
    prompts = wanted.read_prompts(config)
    pipeline = load_pipeline(
        config.model, scheduler=config.scheduler, vae=config.vae, base=config.base, beta_end=config.beta_end
    )
    cache = config.cache.config(tasks.task_of(pipeline))
    config = replace(config, scheduler=config.scheduler or published_scheduler(pipeline.transformer))
    unit = tasks.check_flags(config, pipeline)
    if config.lora is not None:
        load_lora(pipeline.transformer, config.lora, scale=config.lora_scale)
    output = outputs.output_of(config, unit)
    samples = wanted.samples_of(config, pipeline, prompts, unit=unit)
    settings = tasks.settings_of(config, pipeline)
    tasks.check_run(config, pipeline, [sample.subject for sample in samples], settings)
    outputs.check_output(output, samples)
    spare_memory(pipeline, slicing=config.vae_slicing, tiling=config.vae_tiling)
    place(pipeline, device=config.device, dtype=config.dtype, offload=config.offload)
    pipeline.set_progress_bar_config(disable=True)
    return Run(config, pipeline, samples, settings, output, cache, plan_of(pipeline, Way(config.steps, cache)), prompts)


def with_recipe(config: Sample) -> Sample:
    """What is left out is as a published model was run, else 50 steps that guide all channels.

    Says how much is downloaded first.
    """
    from skipdit.hub import registry
    from skipdit.hub.load import checked_model

    usual: dict[str, Any] = {"steps": 50, "guidance_channels": "all"}
    if config.model in registry.REGISTRY:
        recipe = checked_model(registry.REGISTRY[config.model]).recipe
        say_what_is_missing(config.model)
        usual |= {"steps": recipe.steps, "scheduler": recipe.scheduler, "guidance_scale": recipe.guidance_scale}
        if config.guidance_scale is None or config.guidance_scale > 1:  # else there is nothing to guide
            usual["guidance_channels"] = str(recipe.guidance_channels)
    return replace(config, **{name: value for name, value in usual.items() if getattr(config, name) is None})


def say_what_is_missing(model: str) -> None:
    from skipdit.hub.download import in_words, missing

    if sizes := missing(model):
        listed = ", ".join(f"{name} {in_words(size)}" for name, size in sizes.items())
        print(f"to download: {listed}; {in_words(sum(sizes.values()))} in all", file=sys.stderr)


def check(config: Sample) -> None:
    check_positive(config, *(name for name in COUNTS if getattr(config, name) is not None))
    check_seed(config.seed)
    config.cache.config("class-to-image")  # what no task takes is better known before the model is loaded


def draw_missing(run: Run) -> float:
    """Draw the samples that are not there yet; returns the seconds."""
    import torch
    from tqdm import tqdm

    missing = [sample for sample in run.samples if not run.output.path(sample).exists()]
    batches, unit = list(batches_of(missing, run.config.batch_size)), run.output.unit
    begin = time.perf_counter()
    try:
        write_manifest(run)
        with tqdm(total=len(batches) * len(run.plan), desc=f"drawing {len(missing)} {unit}s", unit="step") as bar:
            for batch in batches:
                draw_batch(run, batch, on_step=bar.update)
                write_manifest(run)
    except (KeyboardInterrupt, OSError, torch.OutOfMemoryError) as stop:
        with suppress(OSError):
            write_manifest(run)
        done = f"{len(run.output.done(run.samples))} of {len(run.samples)} {unit}s are in {run.output.folder}"
        raise type(stop)(f"{str(stop) or 'interrupted'}; {done}, and the same command draws the rest") from stop
    return time.perf_counter() - begin


def write_manifest(run: Run) -> None:
    from skipdit.cli.records import write_manifest

    write_manifest(run.output, run.samples, run.columns)


def batches_of(samples: Sequence["Wanted"], size: int) -> Iterator[list["Wanted"]]:
    """At most `size` samples each, and of one prompt where there are prompts."""
    for _, group in groupby(samples, key=lambda sample: sample.subject if isinstance(sample.subject, str) else None):
        alike = list(group)
        yield from (alike[first : first + size] for first in range(0, len(alike), size))


def draw_batch(run: Run, batch: Sequence["Wanted"], *, on_step: Callable[[], Any]) -> None:
    from skipdit.pipelines.draw import draw
    from skipdit.randomness import generator

    noise = [generator(*sample.key) for sample in batch]
    drawn = draw(run.pipeline, [sample.subject for sample in batch], noise, run.settings, on_step)
    for sample, pixels in zip(batch, drawn, strict=True):
        run.output.write(sample, pixels)
