"""How near the embedded models come to their own runs at half, a third and a quarter of the calls, tuned and not.

Tunes a plan for each, on noise of seed 1, and holds it out on noise of seed 0 and other classes or prompts, beside
every control (skipdit.tuning.held_out). Writes weights/plans/NAME-2x and so on, docs/tuning.png, and the section in
weights/README.md from all reports that lie there.
"""

import argparse
import json
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
from emoji import KNOWN, UNSEEN  # the script beside this one

from skipdit.cli.bench import machine
from skipdit.data.emoji import caption as emoji_caption
from skipdit.data.moving_digits import DIGITS, DIRECTIONS, caption
from skipdit.data.text import plain
from skipdit.evaluation.section import write_section
from skipdit.files import read_object, write_text
from skipdit.hub import EMBEDDED, load_pipeline
from skipdit.pipelines.draw import Settings
from skipdit.tuning import Task, pipeline_draw, read_plan, samples_of, split_subjects, write_plan
from skipdit.tuning.held_out import mean_and_error, psnr_of_samples
from skipdit.tuning.plans import REPORT
from skipdit.tuning.report import write_report
from skipdit.tuning.task import calibrate, tune_calls

WEIGHTS = Path(__file__).parents[1] / "weights"
BF16 = WEIGHTS / "tune-bf16.json"
STEPS, BUDGETS = 50, (2, 3, 4)
PICTURE, PICTURED = WEIGHTS.parent / "docs" / "tuning.png", ("fashion-skip", 4)
SHOWN = (
    "tuned",
    "DPM++ even in log-SNR",
    "even, noise forecast",
    "last steps, noise forecast",
    "branch 0, taylor",
    "branch 1, hold",
    "branch 1, taylor",
)


def subjects(name: str, pipeline: Any) -> Sequence[int] | Sequence[str]:
    """Classes, or prompts of one length, which a batch of LattePipeline must have."""
    if name.startswith("emoji"):
        return [emoji_caption(thing, "3d") for pair in zip(KNOWN, UNSEEN) for thing in pair]
    if name.startswith("captioned"):
        prompts = [caption(digit, way) for way in range(len(DIRECTIONS)) for digit in range(len(DIGITS))]
        lengths = [len(ids) for ids in pipeline.tokenizer(plain(prompts)).input_ids]
        usual = max(lengths, key=lengths.count)
        return [prompt for prompt, length in zip(prompts, lengths) if length == usual]
    return range(pipeline.transformer.config.num_classes)


def task_of(name: str, *, samples: int, held_out: int) -> Task:
    pipeline = load_pipeline(name, scheduler="ddim")
    pipeline.set_progress_bar_config(disable=True)
    scale = 2.0 if name.startswith("fashion") else 3.0
    fitted, tested = split_subjects(subjects(name, pipeline))
    return Task(
        pipeline.scheduler, STEPS, pipeline_draw(pipeline, Settings(STEPS, scale)), samples_of(fitted, samples, seed=1),
        samples_of(tested, held_out, seed=0), pipeline.transformer, scale,
    )  # fmt: skip


def measure(name: str, budgets: Sequence[int], *, samples: int, held_out: int) -> None:
    calibrated = calibrate(task_of(name, samples=samples, held_out=held_out), minutes=None, on_best=print)
    for budget in budgets:
        began = time.perf_counter()
        tuned = tune_calls(calibrated, STEPS // budget)
        about = {"machine": machine(), "date": date.today().isoformat(), "samples": samples}
        about["seconds"] = round(time.perf_counter() - began, 1)
        write_plan(WEIGHTS / "plans" / f"{name}-{budget}x", tuned.way, tuned.report | about)
        if (name, budget) == PICTURED:
            write_report(PICTURE, tuned.report, tuned.pictures)
        print(name, budget, *tuned.report["words"], sep="\n  ", flush=True)


def recorded() -> dict[str, dict[str, Any]]:
    """The reports beside the plans, by model and budget."""
    folders = {name: sorted((WEIGHTS / "plans").glob(f"{name}-*x")) for name in EMBEDDED}
    return {
        name: {path.name.rpartition("-")[2]: read_object(path / REPORT, remedy="measure it again") for path in found}
        for name, found in folders.items()
        if found
    }


def measure_bf16(name: str, budgets: Sequence[int], *, held_out: int) -> dict[str, Any]:
    """The plans of a model that computes in bfloat16, and its own run, against its own run in float32."""
    task = task_of(name, samples=4, held_out=held_out)
    own = task.draw(task.scheduler, STEPS, task.held_out)
    task.model.to(torch.bfloat16)
    schedulers = {"every step": task.scheduler}
    schedulers |= {f"{budget}x": read_plan(WEIGHTS / "plans" / f"{name}-{budget}x").scheduler for budget in budgets}
    drawn = {way: task.draw(scheduler, STEPS, task.held_out) for way, scheduler in schedulers.items()}
    return {
        way: dict(zip(("psnr", "error"), mean_and_error(psnr_of_samples(pictures, own))))
        for way, pictures in drawn.items()
    } | {"machine": machine(), "date": date.today().isoformat()}  # fmt: skip


def bf16_line(name: str, measured: dict[str, Any]) -> str:
    said = [
        f"{way} {row['psnr']:.1f} +- {row['error']:.1f}"
        for way, row in measured.items()
        if way not in ("machine", "date")
    ]
    return f"In bfloat16 (`{name}`, against its own float32 run, {measured['date']}): {', '.join(said)} dB."


def table(record: dict[str, Any]) -> str:
    """A line for each model and budget: the plan, the fewer steps, the other controls, and by how much it wins."""
    titles = ("model", "calls", "tuned", "fewer steps", *SHOWN[1:], "better than the best control by")
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for name, reports in record.items():
        for report in reports.values():
            rows, best = report["held_out"], report["best_control"]
            cells = [
                f"{rows[way]['psnr']:.1f}" if way in rows else "-"
                for way in ("tuned", f"{report['calls']} steps", *SHOWN[1:])
            ]
            gain = f"{rows[best]['gain']:.1f} +- {rows[best]['gain_error']:.1f} ({best})"
            lines.append(f"| {name} | {report['calls']} | {' | '.join(cells)} | {gain} |")
    return "\n".join(lines)


def caption_of(record: dict[str, Any]) -> str:
    first = next(iter(next(iter(record.values())).values()))
    where = "{platform} CPU, {threads} thread(s), torch {torch}".format(**first["machine"])
    return (
        f"PSNR in dB to the own {STEPS} DDIM steps, mean over {first['held_out_samples']} held-out samples, guidance"
        f" 2.0, of clips and emoji 3.0; {where}, {first['date']}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(EMBEDDED), choices=EMBEDDED)
    parser.add_argument("--budgets", nargs="+", type=int, default=list(BUDGETS))
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--held-out", type=int, default=16)
    parser.add_argument("--bf16", action="store_true", help="measure the plans of fashion-skip in bfloat16 instead")
    asked = parser.parse_args()
    if asked.bf16:
        asked.models, measured = [], measure_bf16("fashion-skip", asked.budgets, held_out=asked.held_out)
        write_text(BF16, json.dumps(measured, indent=1) + "\n")
    for name in asked.models:
        measure(name, asked.budgets, samples=asked.samples, held_out=asked.held_out)
    write_page()


def write_page() -> None:
    """The section of weights/README.md, from what is recorded."""
    record = recorded()
    parts = [caption_of(record), table(record)]
    if BF16.exists():
        parts.append(bf16_line("fashion-skip", read_object(BF16, remedy="remove it")))
    write_section(WEIGHTS / "README.md", "tuned", "\n\n".join(parts))
    print("\n\n".join(parts))


if __name__ == "__main__":
    main()
