"""`skipdit sample MODEL`: images or videos of classes or of text, as single files or one of all."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from skipdit.cli.flags import (
    Cache,
    Offload,
    check_named,
    check_positive,
    check_seed,
    check_tf32,
    left_out,
    parse,
    shard_of,
)

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
    weights: Annotated[str | None, left_out("NAME", "(default: the averaged, where there are any)")] = None
    """which weights of a checkpoint file that has several: ema, model, module, state_dict and the like"""
    out: Path = Path("out/samples.png")
    """a folder: single files;
    .png: a grid of images, or a sheet with a row for each video;
    .mp4, .mkv, .webp, .gif: the video, or a grid of all, playing together;
    .npz: images as uint8 [N, H, W, 3] under arr_0, for the ADM evaluator"""
    classes: Annotated[tuple[int | str, ...], left_out("ID|NAME [ID|NAME ...]", "(default: all)")] = ()
    """class ids, or names (`skipdit models NAME` lists them), repeated until there are enough samples"""
    class_order: Literal["turn", "random"] = "turn"
    """one class after another, or for sample i one at random that (seed, i) alone decides"""
    num_images: Annotated[int | None, left_out("N", "(default: one for each class)", aliases=("--num-samples",))] = None
    """how many images, or videos, of classes"""
    prompt: Annotated[tuple[str, ...], left_out("TEXT [TEXT ...]")] = ()
    """what to draw, for a model of text"""
    prompts_file: Annotated[Path | None, left_out("FILE|FOLDER")] = None
    """.txt: a prompt a line, but for blank lines and those that begin with #;
    .csv: the column `caption`;
    .json: a list of texts, or of objects with a text as `caption` or `prompt`;
    a folder of such files: each to a folder of its name in that of --out"""
    negative_prompt: Annotated[str | None, left_out("TEXT", "(default: none, of HunyuanDiT the published)")] = None
    """what to keep away from; LattePipeline cuts it to as many tokens as the prompt has"""
    num_per_prompt: Annotated[int | None, left_out("K", "(default: 1, in the layout of VBench 5)")] = None
    """images or videos of each prompt"""
    layout: Annotated[Literal["plain", "vbench"] | None, left_out("{plain,vbench}", "(default: plain)")] = None
    """names in a folder: 000003-PROMPT.mp4, or PROMPT-0.mp4 to PROMPT-4.mp4 with repeated prompts once"""
    seed: int = 0
    """sample i of classes starts from noise of (seed, i), copy k of prompt p from (seed, p, k): in any batch it is the
    same sample, up to rounding"""
    steps: Annotated[int | None, left_out("N", "(default: 50, of a published model as published)")] = None
    """`skipdit models NAME` shows the published number"""
    scheduler: Annotated[str | None, left_out("NAME", "(default: ddpm, for videos of text ddim-leading)")] = None
    """ddpm, ddim, ddim-leading, dpm++ (also dpmms), dpm++-sde, unipc, euler, euler-a, heun"""
    plan: Annotated[str | None, left_out("PLAN")] = None
    """a folder that `skipdit tune` wrote, or high, balanced or fast: it brings scheduler, steps and cache"""
    beta_end: Annotated[float | None, left_out("B", "(default: 0.018, up to version 1.1 0.03)")] = None
    """where the noise of HunyuanDiT ends (the published command says 0.02)"""
    guidance_scale: Annotated[float | None, left_out("SCALE", "(default: 1.5, videos 4, images of text 6)")] = None
    """classifier-free guidance, off at 1; that of a published model is its own: 7 for videos of classes, 7.5 of text"""
    guidance_channels: Annotated[str | None, left_out("N", "(default: all, of a published model as published)")] = None
    """how many noise channels are guided (the published DiT: 3); a model of text guides all"""
    size: Annotated[tuple[int, int] | None, left_out("H W", "(default: the model's)")] = None
    """height and width in pixels"""
    original_size: Annotated[tuple[int, int] | None, left_out("H W", "(default: 1024 1024)")] = None
    """what HunyuanDiT up to version 1.1 is told of the picture's size before it was scaled"""
    frames: Annotated[int | None, left_out("N", "(default: the model's)")] = None
    """of each video, at most the model's"""
    fps: Annotated[float | None, left_out("RATE", "(default: 8)")] = None
    """frames a second of a video file"""
    format: Annotated[Format | None, left_out("{mp4,mkv,webp,gif,frames}", "(default: mp4)")] = None
    """of videos in a folder; mkv, webp and frames (a folder of PNGs each) are lossless, mp4 and mkv need PyAV"""
    vae: Annotated[str | None, left_out("NAME|FOLDER")] = None
    """an autoencoder for a model of latents: sd-vae-ft-mse, sd-vae-ft-ema or the like, or a folder"""
    base: Annotated[str | None, left_out("NAME|FOLDER")] = None
    """a pipeline that lends text encoders and autoencoder: latte-base, hunyuandit-v1.2 or the like, or a folder"""
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
    shard: Annotated[str | None, left_out("I/N")] = None
    """draw every N-th sample from number I on, as one of N processes with the same --out;
    when all have ended, the command without --shard draws what is missing and makes manifest, grid, .npz or video"""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    tf32: bool = False
    """multiply float32 matrices in TensorFloat-32, on cuda alone: faster, with 10 bits of mantissa for their 23"""
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
    check(config)
    from skipdit.cli.runs import begin, draw_missing, finish, lock_folders, prepared

    runs = prepared(config)
    if not runs:
        return
    pipeline, cache, plan = runs[0].pipeline, runs[0].cache, runs[0].plan
    with lock_folders(runs):
        for run in runs:
            begin(run)
        if config.compile:
            pipeline.transformer.compile()
        if cache is not None:
            pipeline.transformer.enable_cache(cache)
        for run in runs:
            seconds, steps = draw_missing(run), f"{run.config.steps} {run.config.scheduler} steps"
            print(f"{run.config.out}: {finish(run)}, {steps} in {seconds:.1f} s")
    if config.shard is not None:
        print(f"when all shards have ended, the same command without --shard finishes {config.out}")
    if cache is not None:
        done = pipeline.transformer.cache_stats().values()  # of the last call; an adaptive plan is known by now
        text = str(plan) if plan.is_known else " ".join(stats.plan for stats in done) or str(plan)
        print(f"plan {text}: {text.count('#')} full, {text.count('.')} cached")


def check(config: Sample) -> None:
    """What no model takes."""
    check_positive(config, *(name for name in COUNTS if getattr(config, name) is not None))
    check_seed(config.seed)
    check_named(config.out)
    if config.shard is not None:
        shard_of(config.shard)
    if config.tf32:
        check_tf32(device=config.device, dtype=config.dtype)
