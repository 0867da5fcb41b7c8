"""One way to ask any pipeline: subjects (class ids or prompts) and noise in, pictures or clips out.

    subjects [B], generators [B]  ->  pictures [B, C, H, W] or clips [B, F, C, H, W] in [0, 1]

A sample is a function of its subject, its noise and the settings, whatever else is in the batch. LattePipeline pads
prompts to the longest of a batch and attends to the padding; so each prompt has a call of its own.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import singledispatch
from itertools import groupby

import torch
from diffusers import DiffusionPipeline, LattePipeline
from torch import Tensor

from skipdit.data.text import MAX_TOKENS, longest, plain
from skipdit.models.checks import check_at_least_one, check_frames
from skipdit.pipelines.class_conditional import Channels, ClassConditionalPipeline
from skipdit.pipelines.class_to_image import ClassToImagePipeline
from skipdit.pipelines.class_to_video import ClassToVideoPipeline
from skipdit.randomness import generator

OF_SUBJECTS = 1  # behind (seed, i), where NumPy pads the key of the noise with 0
OnCall = Callable[[], None] | None
Subjects = Sequence[int] | Sequence[str] | Sequence[None]


@dataclass(frozen=True)
class Settings:
    """What all samples of a run share; None is the model's own. Each pipeline takes what it has a use for."""

    steps: int = 50
    guidance_scale: float = 1.5
    guidance_channels: Channels = "all"
    height: int | None = None
    width: int | None = None
    num_frames: int | None = None
    negative_prompt: str = ""
    decode_chunk_size: int = 14
    original_size: tuple[int, int] | None = None


@singledispatch
def draw(
    pipeline: DiffusionPipeline,
    subjects: Subjects,
    generators: Sequence[torch.Generator],
    settings: Settings,
    on_step: OnCall = None,
) -> Tensor:
    """Samples in [0, 1] on the CPU, [B, C, H, W] or [B, F, C, H, W]; `on_step` is called after each step of a call.

    Subjects are class ids, prompts, or None each for a model that is told nothing.
    Raises: ValueError for what the pipeline refuses, or a pipeline that is none of ours.
    """
    raise foreign(pipeline)


@draw.register
def draw_images(pipeline: ClassToImagePipeline, subjects, generators, settings, on_step=None) -> Tensor:
    return pipeline(list(subjects), **shared(settings, generators, on_step)).images.cpu()


@draw.register
def draw_videos(pipeline: ClassToVideoPipeline, subjects, generators, settings, on_step=None) -> Tensor:
    told = {"num_videos": len(subjects)} if subjects[0] is None else {"class_labels": list(subjects)}
    return pipeline(
        **told, **shared(settings, generators, on_step), num_frames=settings.num_frames,
        decode_chunk_size=settings.decode_chunk_size,
    ).frames.cpu()  # fmt: skip


def shared(settings: Settings, generators, on_step) -> dict:
    """The arguments of pipelines of classes."""
    return {
        "guidance_scale": settings.guidance_scale,
        "guidance_channels": settings.guidance_channels,
        "num_inference_steps": settings.steps,
        "height": settings.height,
        "width": settings.width,
        "generator": list(generators),
        "output_type": "pt",
        "on_step": on_step and (lambda state: on_step()),
    }


@draw.register(LattePipeline)
def draw_texts(pipeline: DiffusionPipeline, subjects, generators, settings, on_step=None) -> Tensor:
    samples = []
    for prompt, group in groupby(zip(subjects, generators, strict=True), key=lambda pair: pair[0]):
        noise = [generator for _, generator in group]
        samples.append(draw_text(pipeline, prompt, noise, settings, on_step))
    return torch.cat(samples)


@singledispatch
def draw_text(
    pipeline: DiffusionPipeline, prompt: str | Sequence[str], noise: list[torch.Generator], settings: Settings,
    on_step: OnCall,
) -> Tensor:  # fmt: skip
    """Samples of one prompt, or of one each, as one batch; each from noise of its own."""
    raise foreign(pipeline)


@draw_text.register
@torch.no_grad()
def draw_clips_of_text(pipeline: LattePipeline, prompt, noise, settings, on_step) -> Tensor:
    """Clips [B, F, C, H, W]."""
    guides = settings.guidance_scale > 1
    text, negative = encode_alike(pipeline, prompt, len(noise), settings)
    config, scale = pipeline.transformer.config, pipeline.vae_scale_factor
    latents = pipeline(
        prompt_embeds=text,
        negative_prompt_embeds=negative if guides else None,
        negative_prompt=None,
        mask_feature=False,  # the text is cut to its tokens already
        guidance_scale=settings.guidance_scale,
        num_inference_steps=settings.steps,
        video_length=settings.num_frames or config.video_length,
        height=settings.height or config.sample_size * scale,
        width=settings.width or config.sample_size * scale,
        generator=noise,
        output_type="latent",
        callback_on_step_end=on_step and told_of_steps(on_step),
    ).frames
    # Clip by clip: the pipeline's own chunks would hold frames of two.
    clips = [pipeline.decode_latents(clip, clip.shape[2], settings.decode_chunk_size) for clip in latents.split(1)]
    pipeline.maybe_free_model_hooks()
    return pipeline.video_processor.postprocess_video(torch.cat(clips), output_type="pt").cpu()


def encode_alike(
    pipeline: LattePipeline, prompt: str | Sequence[str], copies: int, settings: Settings
) -> tuple[Tensor, Tensor | None]:
    """States [B, T, D] of one prompt, or of as many as there are copies, and of what to keep away from.

    Raises: ValueError for prompts of several lengths, since the model would attend to padding.
    """
    guides, prompts = settings.guidance_scale > 1, [prompt] * copies if isinstance(prompt, str) else list(prompt)
    encoded = {
        each: pipeline.encode_prompt(each, guides, negative_prompt=settings.negative_prompt)
        for each in dict.fromkeys(prompts)
    }
    lengths = sorted({text.shape[1] for text, _ in encoded.values()})
    if len(lengths) > 1:
        raise ValueError(f"prompts of one batch have {lengths[0]} to {lengths[-1]} tokens: give prompts of one length")
    texts, negatives = zip(*(encoded[each] for each in prompts))
    return torch.cat(texts), torch.cat(negatives) if guides else None


def told_of_steps(on_step: Callable[[], None]) -> Callable:
    """A callback as diffusers' pipelines take it."""

    def callback(pipeline: DiffusionPipeline, step: int, timestep: Tensor, tensors: dict) -> dict:
        on_step()
        return tensors

    return callback


@singledispatch
def check(pipeline: DiffusionPipeline, subjects: Subjects, settings: Settings) -> None:
    """Raise ValueError, before anything is drawn, for what `draw` would refuse, leave out or cut off."""
    raise foreign(pipeline)


def foreign(pipeline: DiffusionPipeline) -> ValueError:
    kind = type(pipeline).__name__
    remedy = "import skipdit.pipelines.text_to_image first" if kind == "HunyuanDiTPipeline" else "call it yourself"
    return ValueError(f"{kind} is no pipeline that this draws with: {remedy}")


@check.register
def check_classes(pipeline: ClassConditionalPipeline, subjects, settings) -> None:
    if subjects[0] is not None:
        pipeline.check_labels(list(subjects))
    pipeline.check_guidance(settings.guidance_scale, settings.guidance_channels)
    pipeline.check_output("pt")
    pipeline.latent_size(settings.height, settings.width)


@check.register
def check_videos(pipeline: ClassToVideoPipeline, subjects, settings) -> None:
    check_classes(pipeline, subjects, settings)
    check_clip(settings, longest_clip=pipeline.transformer.config.num_frames)


@check.register
def check_texts(pipeline: LattePipeline, subjects, settings) -> None:
    check_text_guidance(settings)
    check_clip(settings, longest_clip=pipeline.transformer.config.video_length)
    check_text_size(pipeline, settings, multiple_of=8)
    check_text_latents(pipeline)
    check_lengths(lambda prompt: longest([prompt], pipeline.tokenizer), told(subjects, settings), at_most=MAX_TOKENS)


def told(prompts: Sequence[str], settings: Settings) -> dict[str, Sequence[str]]:
    return {"prompt": prompts, "negative_prompt": [settings.negative_prompt]}


def check_clip(settings: Settings, *, longest_clip: int) -> None:
    frames = longest_clip if settings.num_frames is None else settings.num_frames
    check_frames(frames, at_most=longest_clip, num_images=0)
    check_at_least_one(decode_chunk_size=settings.decode_chunk_size)


def check_text_guidance(settings: Settings) -> None:
    """diffusers' text pipelines guide above 1 alone, and all channels."""
    if settings.guidance_scale < 1:
        raise ValueError(f"guidance_scale is {settings.guidance_scale}: a model of text takes 1 (off) or more")
    if settings.guidance_channels != "all":
        channels = settings.guidance_channels
        raise ValueError(f"guidance_channels is {channels}, for which a model of text has no use: leave it out")
    if settings.negative_prompt and settings.guidance_scale == 1:
        prompt = settings.negative_prompt
        raise ValueError(f"negative_prompt is {prompt!r} at guidance_scale 1, which is none: raise it")


def check_text_size(pipeline: DiffusionPipeline, settings: Settings, *, multiple_of: int) -> None:
    """A pipeline takes multiples of a number alone (HunyuanDiTPipeline cuts sides down), the model whole patches."""
    model, scale = pipeline.transformer.config, pipeline.vae_scale_factor
    unit = math.lcm(multiple_of, scale * model.patch_size)
    for side in (settings.height, settings.width):
        side = model.sample_size * scale if side is None else side
        if side < 1 or side % unit:
            raise ValueError(f"side {side} is not a multiple of {unit} above 0: take one that is")


def check_text_latents(pipeline: DiffusionPipeline) -> None:
    drawn, taken = pipeline.transformer.config.in_channels, pipeline.vae.config.latent_channels
    if drawn != taken:
        raise ValueError(f"the model draws {drawn} channels, its vae takes {taken}: give the vae of its latents")


def check_lengths(count: Callable[[str], int], texts: dict[str, Sequence[str]], *, at_most: int) -> None:
    """The pipelines would cut longer ones off; `count` says how many tokens a pipeline makes of a prompt."""
    for name, prompts in texts.items():
        for prompt in dict.fromkeys(prompts):
            if (tokens := count(prompt)) > at_most:
                start = prompt[:30]
                raise ValueError(f"{name} '{start}...' has {tokens} tokens, more than {at_most}: shorten it")


def subjects_for(
    pipeline: DiffusionPipeline,
    *,
    classes: Sequence[int],
    prompts: Sequence[str],
    number: int | None,
    seed: int | None = None,
) -> Subjects:
    """As many subjects as asked for, those named in turn: all classes where a model has some and none is named.

    With a seed they are drawn at random instead, subject i by (seed, i) alone.
    Raises: ValueError for prompts that a model of classes cannot read, and the other way round.
    """
    num_classes = pipeline.transformer.config.get("num_classes")  # None: a model of text
    if prompts and num_classes is not None:
        raise ValueError(f"prompts are given ({len(prompts)}) to a model of {num_classes} classes: give class ids")
    if classes and not num_classes:
        raise ValueError(f"classes are {list(classes)}, but this model has none: leave them out")
    if num_classes is None and not prompts:
        raise ValueError("prompts are missing for a model of text: give at least one")
    named = prompts or classes or range(num_classes) or (None,)
    positions = range(len(named) if number is None else number)
    if seed is None:
        return tuple(named[index % len(named)] for index in positions)
    return tuple(named[at_random(len(named), seed, index)] for index in positions)


def at_random(number: int, seed: int, index: int) -> int:
    """One of `number`, by a stream that is not the one of the noise of (seed, index)."""
    return int(torch.randint(number, (), generator=generator(seed, index, OF_SUBJECTS)))


def text_tokens(pipeline: DiffusionPipeline, prompts: Subjects) -> int | None:
    """Tokens of a prompt as the model sees them, the mean over prompts; None where that does not depend on them.

    So it is without text, and for HunyuanDiT, which is given all its tokens, a learned one in the place of padding.
    """
    if not isinstance(pipeline, LattePipeline):
        return None
    lengths = [min(len(ids), MAX_TOKENS) for ids in pipeline.tokenizer(plain(prompts)).input_ids]
    return round(sum(lengths) / len(lengths))
