"""`skipdit tune MODEL --budget 4x`: the best sampler for a model and a number of calls, with proof on other noise."""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from skipdit.cli.bench import machine
from skipdit.cli.download import announce
from skipdit.cli.flags import check_place, check_positive, check_seed, left_out, parse, place

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from skipdit.tuning import Task, Tuned


STEP_KINDS = "# computes, . runs head and tail, - calls no model"
STOCHASTIC = ("ddpm", "dpm++-sde", "euler-a")


@dataclass(frozen=True)
class Tune:
    """Find which steps need a call of the model, correct the others, and hold the plan out against every control."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """an embedded or published model (`skipdit models`), a model or pipeline folder, or a checkpoint file"""
    budget: Annotated[str | None, left_out("4x")] = None
    """how many times fewer calls than --steps"""
    calls: Annotated[int | None, left_out("N")] = None
    """how many calls of the model"""
    quality: Annotated[str | None, left_out("45dB")] = None
    """the fewest calls that reach so many decibels to the reference"""
    reference: Literal["own", "fine"] = "own"
    """what to come near: the sampler's own run of all steps, or an accurate solution of the same ODE"""
    steps: int = 50
    """of the grid, and of the reference"""
    scheduler: Annotated[str, left_out("NAME", "(default: ddim)")] = "ddim"
    """ddim, ddim-leading or dpm++, whose steps are deterministic: some calls are left out; ddpm, dpm++-sde or euler-a,
    which draw noise at each step: a Skip-Cache of --budget by FLOPs is searched"""
    classes: Annotated[tuple[int, ...], left_out("ID [ID ...]", "(default: all)")] = ()
    prompt: Annotated[tuple[str, ...], left_out("TEXT [TEXT ...]")] = ()
    prompts_file: Annotated[Path | None, left_out("FILE")] = None
    """what to draw, for a model of text; every other class or prompt is held out"""
    guidance_scale: Annotated[float | None, left_out("SCALE", "(default: 1.5, videos 4, images of text 6)")] = None
    samples: int = 16
    """to fit on, at least 4"""
    held_out: int = 16
    """to test on, at least 16"""
    minutes: Annotated[float | None, left_out("M")] = None
    """end the search after so many"""
    seed: int = 0
    """of the noise that is held out; the fit has that of seed + 1"""
    out: Path = Path("out/plan")
    """a folder; what an earlier search found there is where this one begins"""
    weights: Annotated[str | None, left_out("NAME", "(default: the averaged, where there are any)")] = None
    vae: Annotated[str | None, left_out("NAME|FOLDER")] = None
    base: Annotated[str | None, left_out("NAME|FOLDER")] = None
    beta_end: Annotated[float | None, left_out("B")] = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: str = "cpu"


def command(arguments: Sequence[str]) -> None:
    tune(parse(Tune, "tune", arguments))


def tune(config: Tune) -> "Tuned":
    """Search, hold out, write the plan and its report; prints the table and what it means."""
    from tqdm import tqdm

    from skipdit.tuning import tune as search
    from skipdit.tuning.stochastic import tune_cache
    from skipdit.tuning.task import calls_asked

    check_positive(config, "steps")
    check_seed(config.seed)
    check_place(device=config.device)
    asked = {"calls": config.calls, "budget": number(config, "budget", "x"), "quality": number(config, "quality", "dB")}
    calls_asked(config.steps, **asked)
    if config.scheduler in STOCHASTIC and asked["budget"] is None:
        raise ValueError(f"scheduler is {config.scheduler}, which draws noise at each step: give --budget, by FLOPs")
    pipeline = loaded(config)
    config.out.mkdir(parents=True, exist_ok=True)
    with tqdm(desc="tuning", unit="call", file=sys.stderr) as bar:
        task = task_of(config, pipeline, on_call=bar.update)
        if config.scheduler in STOCHASTIC:
            tuned = tune_cache(task, budget=asked["budget"], on_best=bar.set_postfix_str, seed=config.seed)
        else:
            tuned = search(
                task, **asked, minutes=config.minutes, warm=found_before(config, task), on_best=bar.set_postfix_str
            )
    write(config, tuned)
    print(table(tuned.report))
    print("\n".join(["", *tuned.report["words"], f"{config.out}: the plan, report.json and report.png"]))
    return tuned


def number(config: Tune, name: str, unit: str) -> float | None:
    """ "4x" and "45dB" as numbers; the unit may be left out."""
    text = getattr(config, name)
    try:
        return None if text is None else float(text.lower().removesuffix(unit.lower()))
    except ValueError:
        raise ValueError(f"{name} is {text!r}: give a number, as 4{unit}") from None


def loaded(config: Tune) -> "DiffusionPipeline":
    from skipdit.hub import load_pipeline, parts

    announce(parts.absent(config.model, vae=config.vae, base=config.base))
    source = {name: getattr(config, name) for name in ("scheduler", "vae", "base", "beta_end", "weights")}
    pipeline = load_pipeline(config.model, **source)
    place(pipeline, device=config.device, dtype=config.dtype)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def task_of(config: Tune, pipeline: "DiffusionPipeline", *, on_call: Any) -> "Task":
    from skipdit.cli.tasks import usual_guidance
    from skipdit.cli.wanted import read_prompts
    from skipdit.pipelines import draw
    from skipdit.tuning import Task, pipeline_draw, samples_of, split_subjects

    prompts = read_prompts(Asked(config.prompt, config.prompts_file))
    scale = usual_guidance(pipeline) if config.guidance_scale is None else config.guidance_scale
    settings = draw.Settings(config.steps, scale)
    subjects = draw.subjects_for(pipeline, classes=config.classes, prompts=prompts, number=None)
    draw.check(pipeline, subjects, settings)
    fitted, held_out = split_subjects(subjects)
    return Task(
        scheduler=pipeline.scheduler, steps=config.steps, draw=pipeline_draw(pipeline, settings, on_call=on_call),
        calibration=samples_of(fitted, config.samples, seed=config.seed + 1),
        held_out=samples_of(held_out, config.held_out, seed=config.seed),
        model=pipeline.transformer, guidance_scale=scale, reference=config.reference,
    )  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """What `read_prompts` reads of a command line."""

    prompt: tuple[str, ...]
    prompts_file: Path | None
    negative_prompt: None = None


def found_before(config: Tune, task: "Task") -> list[tuple[int, ...]]:
    """The best steps that an earlier search of the same model, grid and reference left in --out."""
    from skipdit.files import read_object
    from skipdit.tuning.fingerprint import fingerprint
    from skipdit.tuning.plans import REPORT

    path = config.out / REPORT
    before = read_object(path, remedy="remove it, or take another --out") if path.exists() else {}
    same = {"steps": task.steps, "reference": task.reference, "model": fingerprint(task.model)}
    if not before or any(before.get(name) != value for name, value in same.items()):
        return []
    ranked = sorted(before["searched"], key=lambda each: -each["decibels"])
    return [tuple(each["computed"]) for each in ranked[:2] if "computed" in each]


def write(config: Tune, tuned: "Tuned") -> None:
    from skipdit.tuning import write_plan
    from skipdit.tuning.report import write_report

    settings = asdict(replace(config, out=Path()))
    about = {"settings": settings, "machine": machine(), "date": date.today().isoformat()}
    write_plan(config.out, tuned.way, tuned.report | about)
    write_report(config.out / "report.png", tuned.report, tuned.pictures)


def table(report: dict[str, Any]) -> str:
    from skipdit.evaluation.compare import aligned

    header = ("held out", "calls", "cached", "PSNR dB", "s.e.", "worst", "tuned is better by", "dB to exact")
    rows = [
        (
            name, str(row["calls"]), str(row["cached"]), f"{row['psnr']:.1f}", f"{row['error']:.1f}",
            f"{row['worst']:.1f}", "" if name == "tuned" else f"{row['gain']:+.1f} +- {row['gain_error']:.1f}",
            "-" if row["to_exact"] is None else f"{row['to_exact']:.1f}",
        )
        for name, row in report["held_out"].items()
    ]  # fmt: skip
    return f"{aligned([header, *rows])}\n\nplan {report['plan']}   {STEP_KINDS}"
