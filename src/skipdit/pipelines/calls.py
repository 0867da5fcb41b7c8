"""Calls of diffusers' text pipelines: arguments by name, checked before they lead to an error from inside."""

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any

from skipdit.models.checks import check_at_least_one, show_short
from skipdit.pipelines.class_conditional import check_generators, check_scale

COUNTS = ("num_inference_steps", "num_images_per_prompt", "video_length", "decode_chunk_size")


def read_call(
    call: Callable, arguments: Sequence[Any], settings: Mapping[str, Any], *, own: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments of a call by name; those left out, or None, are the model's `own`.

    Raises: ValueError for a prompt, a count, a size, a scale or a generator that is none.
    """
    bound = signature(call).bind(*arguments, **settings).arguments
    given = own | {name: value for name, value in bound.items() if value is not None or name not in own}
    for name in ("prompt", "negative_prompt"):
        check_prompts(name, given.get(name))
    check_at_least_one(**{name: given[name] for name in COUNTS if name in given})
    check_at_least_one(**{name: given[name] for name in ("height", "width") if given.get(name) is not None})
    if "guidance_scale" in given:
        check_scale(given["guidance_scale"])
    check_generators(given.get("generator"))
    return given


def check_prompts(name: str, prompts: Any) -> None:
    listed = prompts if isinstance(prompts, list) else [] if prompts is None else [prompts]
    if (isinstance(prompts, list) and not prompts) or not all(isinstance(prompt, str) for prompt in listed):
        raise ValueError(f"{name} is {show_short(prompts)}: give a text, or a list of texts")
