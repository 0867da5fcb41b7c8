"""What lies beside the samples: run.json, by which a run goes on, and the manifest of a folder of videos or of prompts.

    manifest.csv    file, index, noise, class or prompt, plan, steps, scheduler, guidance_scale

Both are whole or absent, and the manifest names no file that is not there.
"""

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from skipdit.cli.outputs import RECORD, VIDEO_FILES, Output
from skipdit.cli.wanted import Wanted
from skipdit.files import write_text

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
}  # fmt: skip

LATER = {"class_order": "turn", "tf32": False}  # what earlier versions did, and had no name for in run.json


def open_run(output: Output, record: Mapping[str, Any], *, alone: bool = True) -> None:
    """Make the folder, with the settings in it, and rid it of the files that a killed process left half-written.

    Not so where others write there too, since what is half-written may be theirs: then it is left to a later run.
    A folder of frames that was left so is replaced by `whole_folder`, when its sample is drawn.
    Raises: as `check_goes_on`.
    """
    check_goes_on(output, record)
    output.folder.mkdir(parents=True, exist_ok=True)
    for entry in output.folder.iterdir():
        if alone and LEFT.fullmatch(entry.name) and entry.is_file():
            entry.unlink()
    write_where_new(output.folder / RECORD, as_text(record))


def as_text(record: Mapping[str, Any]) -> str:
    return json.dumps(record, indent=2, default=str) + "\n"


def check_goes_on(output: Output, record: Mapping[str, Any], *, unknown: Sequence[str] = ()) -> None:
    """ValueError where the folder holds samples of settings that do not go on with these, but for `unknown` ones."""
    if not holds_samples(output.folder):
        return
    held, asked = LATER | read_record(output.folder), json.loads(as_text(record))
    changed = [name for name, value in asked.items() if not goes_on(name, held.get(name), value)]
    if changed := [name for name in changed if name not in unknown]:
        raise ValueError(
            f"{output.folder} holds {output.unit}s of other settings ({', '.join(changed)}): "
            "take another --out, or remove it"
        )


def goes_on(name: str, held: Any, asked: Any) -> bool:
    """Whether a sample under the new setting is what it was under the old; prompts may be added at the end."""
    return name in FREE or (asked[: len(held)] if name == "prompts" and held else asked) == held


def holds_samples(folder: Path) -> bool:
    """Images, videos or folders of frames, but for those of a run in a folder of its own."""
    patterns = ("[0-9]*.png", *(f"[!.]*{suffix}" for suffix in VIDEO_FILES))
    frames = (first.parent for first in folder.glob("[!.]*/000000.png"))
    found = [next(folder.glob(pattern), None) for pattern in patterns]
    return any(found) or any(not (path / RECORD).exists() for path in frames)


def read_record(folder: Path) -> dict[str, Any]:
    record = folder / RECORD
    return json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}


def write_where_new(path: Path, text: str) -> None:
    if not path.exists() or path.read_bytes() != text.encode():
        write_text(path, text)


def write_manifest(output: Output, wanted: Sequence[Wanted], columns: Mapping[str, Any]) -> None:
    """A line for each sample that is there; none for images of classes, and none for the parts of a file."""
    of_text = isinstance(wanted[0].subject, str)
    if output.out != output.folder or (output.unit == "image" and not of_text):
        return
    subject, lines = "prompt" if of_text else "class", io.StringIO()
    table = csv.writer(lines, lineterminator="\n")
    table.writerow(["file", "index", "noise", subject, *columns])
    for sample in output.done(wanted):
        noise = " ".join(map(str, sample.key))
        table.writerow([output.path(sample).name, sample.index, noise, sample.subject, *columns.values()])
    write_where_new(output.folder / MANIFEST, lines.getvalue())
