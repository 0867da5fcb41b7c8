"""What is asked for, as a list: each sample with its number, what it shows, the noise it starts from and its name.

    model of       number     noise                        name of its file
    classes        i          (seed, i)                    000003, of a video 000003-class033
    text           prompt p   (seed, p, copy)              000003-a dog runs, further copies 000003-a dog runs-1
    text, vbench   prompt p   (seed, p, copy)              a dog runs-0, a dog runs-1 ... a dog runs-4

So a sample is the same in any batch, up to rounding, and more samples, copies or prompts at the end change none before
them.
"""

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from diffusers import DiffusionPipeline

from skipdit.files import distinct_names, ends_in_hash, safe_name
from skipdit.pipelines.draw import subjects_for

VBENCH_COPIES = 5
CAPTIONS = ("caption", "prompt")  # what objects of a .json have the text under
LONGEST_NAME = 240  # bytes; room for a suffix, or for the name aside of a folder, in the 255 of file systems

Layout = Literal["plain", "vbench"]


@dataclass(frozen=True)
class Wanted:
    """One sample: its number, its class id or prompt (None for a model without), its noise and its name."""

    index: int
    subject: int | str | None
    key: tuple[int, ...]
    name: str


def samples_of(config: Any, pipeline: DiffusionPipeline, prompts: Sequence[str], *, unit: str) -> list[Wanted]:
    """ValueError for classes of a model that has none."""
    order = config.seed if config.class_order == "random" else None
    subjects = subjects_for(pipeline, classes=config.classes, prompts=prompts, number=config.num_images, seed=order)
    if order is not None and subjects[0] is None:
        raise ValueError("class_order is 'random', but this model has no classes: leave it out")
    if prompts:
        return of_prompts(subjects, seed=config.seed, layout=config.layout or "plain", copies=config.num_per_prompt)
    return of_classes(subjects, seed=config.seed, unit=unit)


def of_classes(subjects: Sequence[int | None], *, seed: int, unit: str) -> list[Wanted]:
    """Images have always been named by their number alone."""
    return [
        Wanted(index, subject, (seed, index), f"{index:06d}" + ("" if unit == "image" else class_suffix(subject)))
        for index, subject in enumerate(subjects)
    ]


def class_suffix(class_id: int | None) -> str:
    return "" if class_id is None else f"-class{class_id:03d}"


def of_prompts(prompts: Sequence[str], *, seed: int, layout: Layout, copies: int | None) -> list[Wanted]:
    """`copies` of each prompt: 1 where they are left out, 5 in the layout of VBench.

    A prompt that is listed twice is drawn twice, from noise of its own. In the layout of VBench it is drawn once, since
    its files have the same names.
    """
    if layout == "vbench":
        return vbench(prompts, seed=seed, copies=VBENCH_COPIES if copies is None else copies)
    return [
        Wanted(index, prompt, (seed, index, copy), f"{index:06d}-{safe_name(prompt)}" + (f"-{copy}" if copy else ""))
        for index, prompt in enumerate(prompts)
        for copy in range(1 if copies is None else copies)
    ]


def vbench(prompts: Sequence[str], *, seed: int, copies: int) -> list[Wanted]:
    first = {prompt: index for index, prompt in reversed(list(enumerate(prompts)))}
    once = sorted((index, prompt) for prompt, index in first.items())
    return [
        Wanted(index, prompt, (seed, index, copy), f"{name}-{copy}")
        for (index, prompt), name in zip(once, vbench_names([prompt for _, prompt in once]), strict=True)
        for copy in range(copies)
    ]


def vbench_names(prompts: Sequence[str]) -> list[str]:
    """VBench finds videos by the exact prompt, so that a name is judged with the copy behind: "a dog." may end so.

    A prompt that ends as a name with a hash does is judged without, which gives it a hash: the copy would hide that it
    can be the name of another prompt.
    """
    judged = [prompt if ends_in_hash(prompt) else f"{prompt}-0" for prompt in prompts]
    names = distinct_names(judged, at_most=LONGEST_NAME)
    return [re.sub(r"-0(?=(-[0-9a-f]{12})?$)", "", name) for name in names]


def one_a_file(config: Any) -> list[Any]:
    """A config for each file where prompts_file is a folder, with a folder of its own in `out`; else the config.

    Raises: ValueError for a folder without files of prompts, or with names that cannot be those of folders of samples.
    """
    folder = config.prompts_file
    if folder is None or not folder.is_dir():
        return [config]
    if config.out.suffix:
        raise ValueError(f"out is {str(config.out)!r}, but each file of {folder} gets a folder there: take a folder")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in READERS and path.name[0] != ".")
    if not files:
        raise ValueError(f"prompts_file is {str(folder)!r}: the folder has no {', '.join(READERS)} file, give one")
    names = [path.stem.casefold() for path in files]
    for path, name in zip(files, names, strict=True):
        if "." in name or names.count(name) > 1:
            raise ValueError(f"prompts_file {str(path)!r} needs a name without further dots, and of its own: rename it")
    return [replace(config, prompts_file=path, out=config.out / path.stem) for path in files]


def read_prompts(config: Any) -> list[str]:
    """The prompts of a command line or of the file that it names; none for a model of classes.

    Raises: ValueError for both at once, a file that is missing or holds no prompt, or text that is none.
    """
    if config.prompts_file is None:
        prompts = list(config.prompt)
    elif config.prompt:
        raise ValueError(f"prompts_file is {str(config.prompts_file)!r} beside --prompt: give one of them")
    else:
        prompts = prompts_of(config.prompts_file)
    for prompt in [*prompts, config.negative_prompt or ""]:
        check_text(prompt)
    return prompts


def prompts_of(path: Path) -> list[str]:
    """Of a .txt each line that is neither blank nor begins with "#", of a .csv what its column `caption` holds.

    Of a .json its list: texts, or objects with the text as `caption` or `prompt`.
    """
    read = READERS.get(path.suffix.lower())
    if read is None:
        raise ValueError(f"prompts_file is {str(path)!r}: it must end in .txt (a prompt a line), .csv or .json")
    prompts = [prompt.strip() for prompt in read(path) if prompt.strip()]
    if not prompts:
        raise ValueError(f"prompts_file is {str(path)!r}: it holds no prompt, give at least one")
    return prompts


def lines(path: Path) -> list[str]:
    return [line for line in read_text(path).replace("\r", "\n").split("\n") if not line.startswith("#")]


def captions(path: Path) -> list[str]:
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    try:
        rows = list(reader)
    except csv.Error as error:
        raise ValueError(f"prompts_file is {str(path)!r}: line {reader.line_num} is no CSV ({error})") from None
    if "caption" not in (reader.fieldnames or []):
        columns = ", ".join(reader.fieldnames or []) or "none"
        raise ValueError(f"prompts_file is {str(path)!r}: its columns are {columns}; name that of prompts `caption`")
    return [row["caption"] or "" for row in rows]


def texts(path: Path) -> list[str]:
    try:
        listed = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"prompts_file is {str(path)!r}: it is no JSON ({error})") from None
    if not isinstance(listed, list):
        raise ValueError(f"prompts_file is {str(path)!r}: it holds a {type(listed).__name__}, a list is needed")
    return [text_of(item, f"item {index} of prompts_file {str(path)!r}") for index, item in enumerate(listed)]


def text_of(item: Any, where: str) -> str:
    held = [item.get(name) for name in CAPTIONS if name in item] if isinstance(item, dict) else [item]
    if len(held) != 1 or not isinstance(held[0], str):
        raise ValueError(f"{where} is no prompt: it must be a text, or an object with one as {' or '.join(CAPTIONS)}")
    return held[0]


READERS = {".txt": lines, ".csv": captions, ".json": texts}


def read_text(path: Path) -> str:
    """UTF-8, with or without the mark that Windows puts before it."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return file.read()
    except OSError as error:
        raise ValueError(f"prompts_file is {str(path)!r}: it cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ValueError(f"prompts_file is {str(path)!r}: it is not UTF-8, save it so") from None


def check_text(prompt: str) -> None:
    """A command line may hold bytes that are no UTF-8, which no text encoder reads."""
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise ValueError(f"prompt {prompt!r} is not UTF-8: write it so") from None
