"""The three tasks: what each can be asked for, and what a run of it is before the first step.

    class-to-image   DiT        class ids -> images
    class-to-video   Latte      class ids, or nothing -> videos
    text-to-video    LatteT2V   prompts -> videos

A flag that the model at hand has no use for is an error, and so is a value that it would refuse later.
"""

from dataclasses import fields
from typing import Any

from diffusers import DiffusionPipeline

from skipdit.cli.flags import guided_channels
from skipdit.models import DiT, Latte, LatteT2V
from skipdit.pipelines import PixelAutoencoder, draw

GUIDANCE_SCALES = {"class-to-image": 1.5, "class-to-video": 4.0, "text-to-video": 4.0}  # where nobody says
IMAGE, VIDEO, TEXT = GUIDANCE_SCALES
TASKS = {DiT: IMAGE, Latte: VIDEO, LatteT2V: TEXT}
UNITS = {IMAGE: "image", VIDEO: "video", TEXT: "video"}
USES: dict[str, tuple[tuple[str, ...], str]] = {  # flag -> the tasks that have a use for it, what to do for the others
    "classes": ((IMAGE, VIDEO), "give --prompt"),
    "num_images": ((IMAGE, VIDEO), "give --num-per-prompt"),
    "prompt": ((TEXT,), "give --classes"),
    "prompts_file": ((TEXT,), "give --classes"),
    "negative_prompt": ((TEXT,), "leave it out"),
    "num_per_prompt": ((TEXT,), "give --num-images"),
    "layout": ((TEXT,), "leave it out"),
    "frames": ((VIDEO, TEXT), "leave it out"),
    "fps": ((VIDEO, TEXT), "leave it out"),
    "format": ((VIDEO, TEXT), "leave it out"),
    "decode_chunk_size": ((VIDEO, TEXT), "leave it out"),
}


def task_of(pipeline: DiffusionPipeline) -> str:
    return TASKS[type(pipeline.transformer)]


def check_flags(config: Any, pipeline: DiffusionPipeline) -> str:
    """What is drawn, "image" or "video"; ValueError for the first flag of no use, or missing prompts."""
    task, left_out = task_of(pipeline), {field.name: field.default for field in fields(config)}
    for flag, (tasks, remedy) in USES.items():
        value = getattr(config, flag)
        if task not in tasks and value != left_out[flag]:
            raise ValueError(f"{flag} is {value!r}, for which a {task} model has no use: {remedy}")
    if task == TEXT and not config.prompt and config.prompts_file is None:
        raise ValueError("prompt is missing: a text-to-video model draws what --prompt or --prompts-file says")
    return UNITS[task]


def settings_of(config: Any, pipeline: DiffusionPipeline) -> draw.Settings:
    """What all samples share; the guidance scale is the task's usual one where it is left out."""
    height, width = config.size or (None, None)
    return draw.Settings(
        steps=config.steps,
        guidance_scale=usual_guidance(pipeline) if config.guidance_scale is None else config.guidance_scale,
        guidance_channels=guided_channels(config.guidance_channels),
        height=height,
        width=width,
        num_frames=config.frames,
        negative_prompt=config.negative_prompt or "",
        **{} if config.decode_chunk_size is None else {"decode_chunk_size": config.decode_chunk_size},
    )


def usual_guidance(pipeline: DiffusionPipeline) -> float:
    """None for videos without a null class, as those of an unconditional model."""
    task = task_of(pipeline)
    return 1.0 if task == VIDEO and pipeline.transformer.null_class is None else GUIDANCE_SCALES[task]


def check_run(config: Any, pipeline: DiffusionPipeline, subjects: draw.Subjects, settings: draw.Settings) -> None:
    """ValueError for what would stop the run after its first step, or take no effect."""
    draw.check(pipeline, subjects, settings)
    if config.decode_chunk_size is not None and isinstance(pipeline.vae, PixelAutoencoder | None):
        raise ValueError(f"decode_chunk_size is {config.decode_chunk_size}, but this model draws pixels: leave it out")
