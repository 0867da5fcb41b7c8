"""What lies beside the samples: run.json, by which a run goes on, and the manifest of a folder of videos or of prompts.

    manifest.csv    file, index, noise, class or prompt, plan, steps, scheduler, guidance_scale

Both are whole or absent, and the manifest names no file that is not there.
"""

import csv
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from skipdit.cli.outputs import RECORD, VIDEO_FILES, Output
from skipdit.cli.wanted import Wanted
from skipdit.files import read_object, write_text
from skipdit.hub.records import Seen, as_seen

MANIFEST = "manifest.csv"
UUID = "[0-9a-f]{32}"
LEFT = re.compile(  # what a killed `write_video`, `save_png` or `write_text` leaves
    rf"\.partial-{UUID}({'|'.join(map(re.escape, VIDEO_FILES))})"
    rf"|\.\d{{6,}}(-.*)?\.{UUID}\.png"
    rf"|\.({re.escape(RECORD)}|{re.escape(MANIFEST)})\.{UUID}"
)
FREE = {  # settings that may change between a run and its continuation: no sample that is there depends on them
    "out", "num_images", "num_per_prompt", "batch_size", "device", "compile", "offload", "vae_slicing",
    "prompt", "prompts_file",  # which `prompts` speaks for
    "shard",
    "files",  # which `other_files` judges
}  # fmt: skip
FILES = "files"
SOURCES = {"model", "vae", "base", "lora"}  # whose files these are
NUMBERS = ("num_images", "num_per_prompt", "prompts")  # free, but not in what is finished

LATER = {"class_order": "turn", "tf32": False}  # what earlier versions did, and had no name for in run.json


def open_run(output: Output, record: Mapping[str, Any], *, alone: bool = True) -> None:
    """Make the folder, with the settings in it, and rid it of the files that a killed process left half-written.

    Not so where others write there too, since what is half-written may be theirs: then it is left to a later run, and
    the settings are those of whoever came first. A folder of frames that was left so is replaced by `whole_folder`,
    when its sample is drawn.
    Raises: as `check_goes_on`.
    """
    check_goes_on(output, record, alone=alone)
    output.folder.mkdir(parents=True, exist_ok=True)
    if not alone:
        write_where_absent(output.folder / RECORD, as_text(record))
        return check_goes_on(output, record, alone=False)  # what is there now may be that of another shard
    for entry in left_behind(output.folder):
        entry.unlink()
    write_where_new(output.folder / RECORD, as_text(record))


def as_text(record: Mapping[str, Any]) -> str:
    return json.dumps(record, indent=2, default=str) + "\n"


def check_goes_on(
    output: Output, record: Mapping[str, Any], *, alone: bool = True, unknown: Sequence[str] = ()
) -> None:
    """ValueError where the folder holds samples of settings that do not go on with these, but for `unknown` ones.

    Where others write there too, their run.json is enough, since their samples may follow; and so is a finished file.
    """
    if not alone:
        check_unfinished(output, record)
    drawn, path = holds_samples(output.folder), output.folder / RECORD
    if not drawn and (alone or not path.exists()):
        return
    if changed := changes(read_record(path), record, unknown):
        holds = f"{output.folder} holds {output.unit}s" if drawn else f"{path} is that of a run"
        raise ValueError(f"{holds} of other settings ({', '.join(changed)}): take another --out, or remove it")


def check_unfinished(output: Output, record: Mapping[str, Any]) -> None:
    """ValueError where the file of all samples was made: no shard is left to draw."""
    path = output.out.with_suffix(".json")
    if output.out == output.folder or not (output.out.exists() and path.exists()):
        return
    if not changes(read_record(path), record):
        raise ValueError(f"{output.out} is finished, so no shard of it is left to draw: remove it to draw it anew")


def changes(held: Mapping[str, Any], record: Mapping[str, Any], unknown: Sequence[str] = ()) -> list[str]:
    """The settings, but for `unknown` ones, for which samples under `held` do not go on with `record`."""
    held, asked = {**LATER, **held}, json.loads(as_text(record))
    changed = [name for name, value in asked.items() if not goes_on(name, held.get(name), value)]
    changed = [name for name in changed if name not in unknown]
    if SOURCES & set(changed):
        return changed
    return changed + other_files(held.get(FILES), asked.get(FILES))


def goes_on(name: str, held: Any, asked: Any) -> bool:
    """Whether a sample under the new setting is what it was under the old; prompts may be added at the end."""
    return name in FREE or ((asked or [])[: len(held)] if name == "prompts" and held else asked) == held


def other_files(held: Mapping[str, Any] | None, asked: Mapping[str, Any] | None) -> list[str]:
    """Files of the model and its parts that are not what they were, in words; earlier versions wrote none down."""
    if held is None or asked is None:
        return []
    before, now = ({path: file["sha256"] for path, file in files.items()} for files in (held, asked))
    replaced = [path for path in before.keys() & now.keys() if before[path] != now[path]]
    whats = {"was replaced": replaced, "is gone": before.keys() - now.keys(), "is new": now.keys() - before.keys()}
    return [f"{path} {what}" for what, paths in whats.items() for path in sorted(paths)]


def recorded_files(output: Output) -> dict[str, Seen]:
    """The files of the model and its parts, as they were when the samples of an output were drawn."""
    held: dict[str, Seen] = {}
    for path in (output.folder / RECORD, output.out.with_suffix(".json")):
        held |= {name: as_seen(file) for name, file in (read_record(path).get(FILES) or {}).items()}
    return held


def is_finished(output: Output, wanted: Sequence[Wanted], record: Mapping[str, Any]) -> bool:
    """Whether all that these settings ask for is there, drawn under the same ones."""
    whole = output.out != output.folder
    path = output.out.with_suffix(".json") if whole else output.folder / RECORD
    if not path.exists() or not (output.out.exists() if whole else holds_all(output, wanted)):
        return False
    held, asked = read_record(path), json.loads(as_text(record))
    return not changes(held, record) and all(held.get(name) == asked.get(name) for name in NUMBERS)


def holds_all(output: Output, wanted: Sequence[Wanted]) -> bool:
    """Whether a folder holds every sample and the manifest, and nothing that a kill left there."""
    listed = not has_manifest(output, wanted) or (output.folder / MANIFEST).exists()
    return listed and len(output.done(wanted)) == len(wanted) and not left_behind(output.folder)


def left_behind(folder: Path) -> list[Path]:
    return [entry for entry in folder.iterdir() if LEFT.fullmatch(entry.name) and entry.is_file()]


def holds_samples(folder: Path) -> bool:
    """Images, videos or folders of frames, but for those of a run in a folder of its own."""
    patterns = ("[0-9]*.png", *(f"[!.]*{suffix}" for suffix in VIDEO_FILES))
    frames = (first.parent for first in folder.glob("[!.]*/000000.png"))
    found = [next(folder.glob(pattern), None) for pattern in patterns]
    return any(found) or any(not (path / RECORD).exists() for path in frames)


def read_record(path: Path) -> dict[str, Any]:
    """The settings of a run, {} where there are none; ValueError for a file that no run wrote."""
    if not path.exists():
        return {}
    remedy = "take another --out, or remove it"
    record = read_object(path, remedy=remedy)
    for name, kind in ((FILES, dict), ("prompts", list)):
        if not isinstance(record.get(name), kind | None):
            raise ValueError(f"{path} has {record[name]!r:.60} for {name}: {remedy}")
    for name, file in (record.get(FILES) or {}).items():
        try:
            as_seen(file)
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"{path} has {file!r:.60} for the file {name}: {remedy}") from None
    return record


def write_where_absent(path: Path, text: str) -> None:
    """Of processes that call it at once one writes, whole: a link, unlike a renamed file, replaces nothing."""
    if path.exists():
        return
    aside = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        aside.write_text(text, encoding="utf-8", newline="")
        with suppress(FileExistsError):
            os.link(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def write_where_new(path: Path, text: str) -> None:
    if not path.exists() or path.read_bytes() != text.encode():
        write_text(path, text)


def write_manifest(output: Output, wanted: Sequence[Wanted], columns: Mapping[str, Any]) -> None:
    """A line for each sample that is there; none for images of classes, and none for the parts of a file."""
    if not has_manifest(output, wanted):
        return
    subject, lines = "prompt" if isinstance(wanted[0].subject, str) else "class", io.StringIO()
    table = csv.writer(lines, lineterminator="\n")
    table.writerow(["file", "index", "noise", subject, *columns])
    for sample in output.done(wanted):
        noise = " ".join(map(str, sample.key))
        table.writerow([output.path(sample).name, sample.index, noise, sample.subject, *columns.values()])
    write_where_new(output.folder / MANIFEST, lines.getvalue())


def has_manifest(output: Output, wanted: Sequence[Wanted]) -> bool:
    return output.out == output.folder and (output.unit == "video" or isinstance(wanted[0].subject, str))
