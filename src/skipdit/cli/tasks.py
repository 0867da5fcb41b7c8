"""The four tasks: what each can be asked for, and what a run of it is before the first step.

    class-to-image   DiT          class ids -> images
    class-to-video   Latte        class ids, or nothing -> videos
    text-to-video    LatteT2V     prompts -> videos
    text-to-image    HunyuanDiT   prompts -> images

A flag that the model at hand has no use for is an error, and so is a value that it would refuse later.
"""

from dataclasses import fields, replace
from typing import Any

from diffusers import DiffusionPipeline

from skipdit.cli.flags import guided_channels
from skipdit.hub import registry
from skipdit.hub.architectures import TASKS
from skipdit.hub.load import checked_model
from skipdit.pipelines import PixelAutoencoder, draw

GUIDANCE_SCALES = {  # where nobody says
    "class-to-image": 1.5, "class-to-video": 4.0, "text-to-video": 4.0, "text-to-image": 6.0,
}  # fmt: skip
IMAGE, VIDEO, TEXT_VIDEO, TEXT_IMAGE = GUIDANCE_SCALES
CLASSES, TEXT, VIDEOS = (IMAGE, VIDEO), (TEXT_VIDEO, TEXT_IMAGE), (VIDEO, TEXT_VIDEO)
UNITS = {IMAGE: "image", VIDEO: "video", TEXT_VIDEO: "video", TEXT_IMAGE: "image"}
USES: dict[str, tuple[tuple[str, ...], str]] = {  # flag -> the tasks that have a use for it, what to do for the others
    "classes": (CLASSES, "give --prompt"),
    "class_order": (CLASSES, "leave it out"),
    "num_images": (CLASSES, "give --num-per-prompt"),
    "prompt": (TEXT, "give --classes"),
    "prompts_file": (TEXT, "give --classes"),
    "negative_prompt": (TEXT, "leave it out"),
    "num_per_prompt": (TEXT, "give --num-images"),
    "layout": ((TEXT_VIDEO,), "leave it out"),
    "frames": (VIDEOS, "leave it out"),
    "fps": (VIDEOS, "leave it out"),
    "format": (VIDEOS, "leave it out"),
    "decode_chunk_size": (VIDEOS, "leave it out"),
    "lora": ((TEXT_IMAGE,), "leave it out"),
    "lora_scale": ((TEXT_IMAGE,), "leave it out"),
    "beta_end": ((TEXT_IMAGE,), "leave it out"),
    "original_size": ((TEXT_IMAGE,), "leave it out"),
}
PUBLISHED_NEGATIVE = "错误的眼睛，糟糕的人脸，毁容，糟糕的艺术，变形，多余的肢体，模糊的颜色，模糊，重复，病态，残缺，"


def with_recipe(config: Any) -> Any:
    """What is left out is as a published model was run, else 50 steps that guide all channels.

    Raises: ValueError for a published part, which is no model.
    """
    usual: dict[str, Any] = {"steps": 50, "guidance_channels": "all"}
    if config.model in registry.REGISTRY:
        recipe = checked_model(registry.REGISTRY[config.model]).recipe
        usual |= {"steps": recipe.steps, "scheduler": recipe.scheduler, "guidance_scale": recipe.guidance_scale}
        if config.guidance_scale is None or config.guidance_scale > 1:  # else there is nothing to guide
            usual["guidance_channels"] = str(recipe.guidance_channels)
    return replace(config, **{name: value for name, value in usual.items() if getattr(config, name) is None})


def task_of(pipeline: DiffusionPipeline) -> str:
    return TASKS[type(pipeline.transformer)]


def check_flags(config: Any, pipeline: DiffusionPipeline) -> str:
    """What is drawn, "image" or "video"; ValueError for the first flag of no use, or missing prompts."""
    check_use(config, pipeline, *USES)
    task = task_of(pipeline)
    if task in TEXT and not config.prompt and config.prompts_file is None:
        raise ValueError(f"prompt is missing: a {task} model draws what --prompt or --prompts-file says")
    if config.lora is None and config.lora_scale != left_out(config)["lora_scale"]:
        raise ValueError(f"lora_scale is {config.lora_scale} without --lora: name the adapter, or leave it out")
    return UNITS[task]


def check_use(config: Any, pipeline: DiffusionPipeline, *flags: str) -> None:
    """ValueError for the first of these flags that is given and of no use to the model."""
    task, usual = task_of(pipeline), left_out(config)
    for flag in flags:
        (tasks, remedy), value = USES[flag], getattr(config, flag)
        if task not in tasks and value != usual[flag]:
            raise ValueError(f"{flag} is {value!r}, for which a {task} model has no use: {remedy}")


def left_out(config: Any) -> dict[str, Any]:
    """What each flag is where it is left out."""
    return {field.name: field.default for field in fields(config)}


def with_class_ids(config: Any, pipeline: DiffusionPipeline) -> Any:
    """The config with ids in the place of names of classes; ValueError for one that the model does not have."""
    if not config.classes or not pipeline.transformer.config.get("num_classes"):
        return config
    return replace(config, classes=tuple(pipeline.check_labels(config.classes)))


def settings_of(config: Any, pipeline: DiffusionPipeline) -> draw.Settings:
    """What all samples share; the guidance scale is the task's usual one where it is left out."""
    height, width = config.size or (None, None)
    scale = usual_guidance(pipeline) if config.guidance_scale is None else config.guidance_scale
    usual = usual_negative(pipeline) if scale > 1 else ""
    return draw.Settings(
        steps=config.steps,
        guidance_scale=scale,
        guidance_channels=guided_channels(config.guidance_channels),
        height=height,
        width=width,
        num_frames=config.frames,
        negative_prompt=usual if config.negative_prompt is None else config.negative_prompt,
        original_size=config.original_size,
        **{} if config.decode_chunk_size is None else {"decode_chunk_size": config.decode_chunk_size},
    )


def usual_guidance(pipeline: DiffusionPipeline) -> float:
    """None (1) for videos without a null class, as those of an unconditional model."""
    task = task_of(pipeline)
    return 1.0 if task == VIDEO and pipeline.transformer.null_class is None else GUIDANCE_SCALES[task]


def usual_negative(pipeline: DiffusionPipeline) -> str:
    """What HunyuanDiT keeps away from as published, in Chinese, where its BERT reads that; else nothing."""
    if task_of(pipeline) != TEXT_IMAGE or "错" not in pipeline.tokenizer.get_vocab():
        return ""
    return PUBLISHED_NEGATIVE


def check_run(config: Any, pipeline: DiffusionPipeline, subjects: draw.Subjects, settings: draw.Settings) -> None:
    """ValueError for what would stop the run after its first step, or take no effect."""
    draw.check(pipeline, subjects, settings)
    if config.decode_chunk_size is not None and isinstance(pipeline.vae, PixelAutoencoder | None):
        raise ValueError(f"decode_chunk_size is {config.decode_chunk_size}, but this model draws pixels: leave it out")
