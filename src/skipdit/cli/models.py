"""`skipdit models`: the published models and the embedded ones; `skipdit models NAME`: all that is known of one."""

import json
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from skipdit.cli.flags import parse

if TYPE_CHECKING:
    from skipdit.hub.registry import Numbers, Published

WIDTH = 120  # columns of a terminal
LABEL = 12  # of a line about one model
READINGS = ("digits-measured.json", "digits-measured-older.json")  # the second is of models that were since replaced
READ = ("direction", "digit", "both")
EMOJI = "emoji-hunyuan"  # the one of emoji-measured.json
SUBJECTS = {  # a few of what each task draws
    "class-to-image": "--classes 207 360",
    "text-to-video": '--prompt "a dog"',
    "text-to-image": '--prompt "a dog"',
}


@dataclass(frozen=True)
class Models:
    """List the published models and the embedded ones; with NAME, one of them: recipe, numbers and commands."""

    name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[NAME]", help_behavior_hint="")] = None
    """the model to describe"""


def command(arguments: Sequence[str]) -> None:
    config = parse(Models, "models", arguments)
    for line in listing() if config.name is None else description(config.name):
        print(line)


# The table.


def listing() -> Iterator[str]:
    from skipdit.hub.load import EMBEDDED
    from skipdit.hub.plans import in_words
    from skipdit.hub.registry import REGISTRY

    tasks, rows = [model.task for model in REGISTRY.values()], []
    for model in REGISTRY.values():
        size = in_words(model.size)
        rows.append((f"  {model.name}", size, model.licence, model.source.page, whereabouts(model)))
    for name in EMBEDDED:
        tasks.append(embedded_task(name))
        rows.append((f"  {name}", in_words(embedded_size(name)), "as skipdit", "in the package", "yes"))
    head, *lines = table(("task, name", "size", "licence", "where", "here"), rows, right=("size",))
    yield head
    for task in dict.fromkeys(tasks):
        yield task
        yield from (line for line, its in zip(lines, tasks) if its == task)
    yield ""
    yield "`skipdit models NAME` tells more of one, `skipdit download NAME` fetches it with what it needs."


def whereabouts(model: "Published") -> str:
    """yes or no by its record; a file of another size than there has changed, one of another time is not hashed."""
    from skipdit.hub.failures import RecordError
    from skipdit.hub.records import kept

    try:
        record = kept(model)
    except RecordError:
        return "unreadable record"
    if record is None:
        return "no"
    if record.resized:
        return "changed"
    return "yes, unchecked" if record.doubtful else "yes"


def embedded_task(name: str) -> str:
    from skipdit.hub.architectures import TASKS
    from skipdit.hub.load import MODELS, checked_class, model_folder

    return TASKS[checked_class(MODELS, model_folder(name))]


def embedded_size(name: str) -> int:
    from skipdit.hub.load import embedded_folder

    return sum(path.stat().st_size for path in embedded_folder(name).rglob("*") if path.is_file())


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()) -> Iterator[str]:
    """Lines whose columns are as wide as their widest cell."""
    rows = [heads, *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    for row in rows:
        cells = [
            cell.rjust(width) if head in right else cell.ljust(width) for head, cell, width in zip(heads, row, widths)
        ]
        yield "  ".join(cells).rstrip()


# One model.


def description(name: str) -> Iterator[str]:
    from skipdit.hub.load import EMBEDDED
    from skipdit.hub.registry import published

    if name in EMBEDDED:
        return embedded(name)
    return entry(published(name, others=EMBEDDED))


def embedded(name: str) -> Iterator[str]:
    from skipdit.hub.load import embedded_folder, model_config, names_of_classes
    from skipdit.hub.plans import in_words

    yield name
    yield from lines(
        {
            "task": embedded_task(name),
            "size": in_words(embedded_size(name)),
            "where": f"in the package: {embedded_folder(name)}",
            "config": settings(model_config(name)),
            "classes": ", ".join(f"{number} {label}" for number, label in (names_of_classes(name) or {}).items()),
            "more": "weights/README.md: what it was trained on, how, and its numbers",
        }
    )
    if measured := measurements(name):
        yield from ("", "numbers (weights/README.md names the machine)")
        yield from (f"  {line}" for line in table(("", "fewer FLOPs", "PSNR, dB", "SSIM"), measured))
    if read := readings(name):
        yield from ("", "what a reader sees in its clips, in % of the samples (weights/README.md names the machine)")
        yield from (f"  {line}" for line in table(("", "direction", "digit", "both"), read))
    yield from ("", "commands")
    for way, flag in (("original", ""), ("cached", " --cache.interval 3")):
        yield from (f"  # {way}", folded(f"  {command_of_embedded(name, way)}{flag}"))


def measurements(name: str) -> list[tuple[str, ...]]:
    """What was measured of an embedded model, a row for each cached way to run it."""
    from skipdit.hub.load import embedded_folder

    rows = []
    for file in sorted(embedded_folder(name).parent.glob("*measured.json")):
        found = json.loads(file.read_text("utf-8"))
        ways = found["models"].get(name, {}) if "models" in found else {EMOJI: found["results"]}.get(name, {})
        measured = {way: values for way, values in ways.items() if isinstance(values, dict) and values.get("fidelity")}
        for way, values in measured.items():
            psnr, ssim = (values["fidelity"][key] for key in ("psnr", "ssim"))
            rows.append((way, f"{values['predicted_speedup']:.2f}x", f"{psnr:.1f}", f"{ssim:.3f}"))
    return rows


def readings(name: str) -> list[tuple[str, ...]]:
    """How often each way to run a model of digits drew what was asked for; by the newest record that has the model."""
    from skipdit.hub.load import embedded_folder

    records = (embedded_folder(name).parent / file for file in READINGS)
    found = (json.loads(record.read_text("utf-8"))["models"].get(name) for record in records if record.exists())
    ways = next(filter(None, found), {})
    return [(way, *(f"{100 * values[what]:.1f}" for what in READ)) for way, values in ways.items()]


def command_of_embedded(name: str, way: str) -> str:
    from skipdit.data.moving_digits import caption
    from skipdit.hub.load import names_of_classes

    suffix = "" if embedded_task(name).endswith("video") else ".png"
    label = next(iter((names_of_classes(name) or {}).values()), None)
    prompt = "a red apple" if suffix else caption(1, 3)
    subject = f'--prompt "{prompt}"' if label is None else f'--classes "{label}"'
    return f"skipdit sample {name} --scheduler ddim --steps 50 {subject} --out out/{way}{suffix}"


def entry(model: "Published") -> Iterator[str]:
    yield f"{model.name}: {model.title}"
    yield from lines(facts(model))
    if model.recipe is not None:
        yield from ("", "recipe of the paper")
        yield from lines(recipe(model))
    if model.numbers is not None:
        yield from ("", f"numbers ({model.numbers.source})")
        yield from numbers(model.numbers)
    if model.recipe is not None:
        yield from ("", "commands")
        yield from commands(model)


def facts(model: "Published") -> dict[str, str | None]:
    from skipdit.hub.plans import in_words

    about = {"published": "as its page says", "computed": "computed: 4 bytes for each parameter"}[model.size_from]
    return {
        "task": model.task,
        "size": f"{in_words(model.size)}, {about}",
        "licence": model.licence,
        "where": model.source.address,
        "files": ", ".join(model.source.files),
        "format": {"original": "checkpoint of the published code", "diffusers": "diffusers folder"}[model.format],
        "here": here(model),
        "architecture": model.arch,
        "config": settings(model.config),
        "needs": ", ".join(f"{part} ({role})" for role, part in model.parts.items()),
        "compare": ", ".join(relatives(model)),
        "note": model.note,
        "unverified": model.unverified,
    }


def lines(values: dict[str, str | None]) -> Iterator[str]:
    """A label and its text in each line, folded; what is empty is left out."""
    for label, text in values.items():
        if text:
            first, later = f"  {label.ljust(LABEL)}  ", " " * (LABEL + 4)
            yield from textwrap.wrap(
                text,
                WIDTH,
                initial_indent=first,
                subsequent_indent=later,
                break_on_hyphens=False,
                break_long_words=False,
            )


def here(model: "Published") -> str:
    """As in the table, with where or what to do."""
    from skipdit.hub.failures import RecordError
    from skipdit.hub.records import kept

    try:
        record = kept(model)
    except RecordError as error:
        return f"unreadable record: {error}"
    if record is None:
        return f"no: `skipdit download {model.name}`"
    where, found = record.root / model.source.path, whereabouts(model)
    return str(where) if found == "yes" else f"{found}: {where}; `skipdit download {model.name} --check` hashes it"


def settings(config: dict) -> str:
    return " ".join(f"{key}={value}" for key, value in config.items())


def relatives(model: "Published") -> list[str]:
    """The same without long skips, or with them."""
    from skipdit.hub.registry import REGISTRY

    with_skips = [f"{other.name} (with long skips)" for other in REGISTRY.values() if other.vanilla == model.name]
    return [f"{model.vanilla} (without long skips)"] * (model.vanilla is not None) + with_skips


def recipe(model: "Published") -> dict[str, str | None]:
    how = model.recipe
    guided = f", {how.guidance_channels} channels" if how.guidance_channels != "all" else ""
    frames = f"{how.frames} frames of " if how.frames else ""
    cache = how.cache and f"interval {how.cache.interval}, branch {how.cache.branch}, window {window(how.cache.window)}"
    return {
        "sampler": f"{how.scheduler}, {how.steps} steps",
        "guidance": "none" if how.guidance_scale == 1 else f"{how.guidance_scale:g}{guided}",
        "size": f"{frames}{how.size[0]} x {how.size[1]}",
        "cache": cache or "none is published",
    }


def window(bounds: tuple[float, float]) -> str:
    stop, start = bounds
    return f"t < {start:g} down to the first t <= {stop:g}"


def numbers(found: "Numbers") -> Iterator[str]:
    columns = [alike(column) for column in zip(*found.rows.values())]
    rows = [(way, *values) for way, values in zip(found.rows, zip(*columns))]
    for line in table(("", *found.columns), rows, right=found.columns):
        yield f"  {line}"


def alike(column: Sequence[float | None]) -> list[str]:
    """Numbers with as many decimals as the longest of them has, and - for None."""
    decimals = max((len(f"{value:g}".partition(".")[2]) for value in column if value is not None), default=0)
    return ["-" if value is None else f"{value:.{decimals}f}" for value in column]


def commands(model: "Published") -> Iterator[str]:
    """How to draw with it: as it was published, without long skips, and cached; each to a place of its own."""
    ways = {"original": model.vanilla} if model.vanilla else {}
    ways |= {"skip" if model.vanilla else "original": model.name}
    for way, name in ways.items():
        yield from (f"  # {way}", folded(f"  {command_of(name, way)}"))
    if model.recipe.cache is not None:
        yield from ("  # cached", folded(f"  {command_of(model.name, 'cached')} --cache"))


def folded(command: str) -> str:
    """Where it is too long for a line of the terminal, as two that a shell reads as one."""
    return command if len(command) <= WIDTH else command.replace(" --out ", " \\\n    --out ")


def command_of(name: str, way: str) -> str:
    from skipdit.hub.architectures import ARCHITECTURES
    from skipdit.hub.load import PUBLISHED
    from skipdit.hub.registry import published

    model = published(name)
    how = model.recipe
    usual, _ = PUBLISHED[ARCHITECTURES[model.arch].model]
    flags = [f"skipdit sample {name}"] + [f"--scheduler {how.scheduler}"] * (how.scheduler != usual)
    flags.append(f"--steps {how.steps}")
    if how.guidance_scale != 1:
        flags.append(f"--guidance-scale {how.guidance_scale:g}")
    if how.guidance_channels != "all":
        flags.append(f"--guidance-channels {how.guidance_channels}")
    flags.append(SUBJECTS.get(model.task) or ("--classes 0 1 2" if model.config["num_classes"] else "--num-images 3"))
    flags.append(f"--out out/{way}" if how.frames else f"--out out/{way}.png")
    return " ".join(flags)
