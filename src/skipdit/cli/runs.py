"""A run of `skipdit sample`: prepared, so that nothing is left to refuse; drawn, from where it stopped; finished.

    Sample  ->  one Run, or one for each file of a folder of prompts  ->  samples that are missing  ->  what --out names

A run may be a shard, that is every N-th sample: N processes draw into one folder, and none of them counts on what the
others have written. What is made of all samples (manifest, grid, .npz, video) is made by a run that is no shard.
"""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from tqdm import tqdm

from skipdit.caching import Plan, SkipCacheConfig
from skipdit.cli import outputs, records, tasks, wanted
from skipdit.cli.download import announce
from skipdit.cli.flags import check_place, place, shard_of, spare_memory
from skipdit.cli.outputs import Output
from skipdit.cli.wanted import Wanted
from skipdit.evaluation.compare import Way, plan_of
from skipdit.files import lock_folder
from skipdit.hub import load_pipeline, parts
from skipdit.hub.load import files_of, find_plan, published_scheduler
from skipdit.hub.lora import load_lora
from skipdit.hub.records import Seen, snapshot
from skipdit.hub.sketch import sketch
from skipdit.pipelines.draw import Settings, draw
from skipdit.randomness import generator
from skipdit.tuning.plans import PLAN, SCHEDULER, SavedPlan

SOURCE = ("scheduler", "vae", "base", "beta_end", "weights")  # flags that say what is loaded, beside MODEL
UNKNOWN = ("negative_prompt",)  # to a pipeline without weights: the usual one is the tokenizer's
Asked = list[tuple[Any, list[str]]]  # each config with its prompts


@dataclass(frozen=True)
class Run:
    """What is drawn, with what and to where: all of it checked, none of it begun.

    The runs of one command share a pipeline.
    """

    config: Any
    pipeline: DiffusionPipeline
    samples: list[Wanted]
    settings: Settings
    output: Output
    cache: SkipCacheConfig | None
    plan: Plan
    prompts: list[str]
    files: Mapping[str, Seen] = field(default_factory=dict)  # of the model and its parts, as they lie there

    @property
    def record(self) -> dict[str, Any]:
        """The settings as they are resolved, for run.json."""
        resolved = {
            "layout": (self.config.layout or "plain") if self.prompts else None,
            "prompts": self.prompts or None,
            "format": self.output.suffix,
            "fps": self.output.fps,
            "cache": self.cache and self.cache.to_dict(),
            "plan": str(self.plan),
            "files": {path: asdict(file) for path, file in self.files.items()},
        }
        return asdict(self.config) | asdict(self.settings) | resolved

    @property
    def share(self) -> list[Wanted]:
        """The samples that this process draws: all, or every N-th."""
        if self.config.shard is None:
            return self.samples
        index, number = shard_of(self.config.shard)
        return self.samples[index::number]

    @property
    def columns(self) -> dict[str, Any]:
        """What a manifest says of each sample."""
        config = self.config
        return {
            "plan": self.plan, "steps": config.steps, "scheduler": config.scheduler,
            "guidance_scale": self.settings.guidance_scale,
        }  # fmt: skip


def prepared(config: Any) -> list[Run]:
    """Load the model for the runs that are not finished; none where all are, which is said.

    Raises before downloading if the settings alone rule a run out, else before drawing.
    """
    plan = None if config.plan is None else plan_for(config)
    config = tasks.with_recipe(config if plan is None else replace(config, steps=plan.steps))
    check_place(device=config.device, offload=config.offload)
    asked = [(each, wanted.read_prompts(each)) for each in wanted.one_a_file(config)]
    source = {name: getattr(config, name) for name in SOURCE}
    sketched = checked_sketch(config, with_plan(sketch(config.model, **source), plan), asked, plan)
    finished = [has_nothing_to_draw(run) for run in sketched]
    for run, done in zip(sketched, finished):
        if done:
            print(f"{run.config.out}: finished already; remove it to draw it anew")
    asked = [each for each, done in zip(asked, finished) if not done]
    if not asked:
        return []
    announce(parts.absent(config.model, vae=config.vae, base=config.base))
    pipeline = with_plan(load_pipeline(config.model, **source), plan)
    runs = [replace(run, files=sketched[0].files) for run in runs_of(pipeline, asked, plan)]
    if plan is not None:
        plan.warn_of_another(pipeline, guidance_scale=runs[0].settings.guidance_scale)
    equip(runs[0].pipeline, config)
    return runs


def plan_for(config: Any) -> SavedPlan:
    """The plan that is asked for; ValueError beside a flag that it decides."""
    given = [name for name in ("scheduler", "steps") if getattr(config, name) is not None]
    given += ["cache"] * (config.cache != type(config.cache)())
    if given:
        raise ValueError(f"{given[0]} is given beside plan {config.plan!r}, which decides it: leave it out")
    return find_plan(config.plan, config.model)


def with_plan(pipeline: DiffusionPipeline, plan: SavedPlan | None) -> DiffusionPipeline:
    """The pipeline with the scheduler of a plan; the cache is turned on with all others."""
    if plan is not None:
        plan.step_by(pipeline)
    return pipeline


def checked_sketch(
    config: Any, pipeline: DiffusionPipeline, asked: Asked, plan: SavedPlan | None
) -> list[Run]:
    """Ask a pipeline without weights all that the whole one is asked, and whether its samples go on with others."""
    runs = runs_of(pipeline, asked, plan)
    named = [name for name in (config.model, config.vae, config.base, config.lora) if name is not None]
    before = {path: file for run in runs for path, file in records.recorded_files(run.output).items()}
    written = plan is not None and plan.scheduler is not None
    planned_by = [Path(plan.name) / PLAN, Path(plan.name) / SCHEDULER] if written else []
    files = snapshot([*planned_by, *(file for name in named for file in files_of(name))], before)
    runs = [replace(run, files=files) for run in runs]
    for run in runs:
        records.check_goes_on(run.output, run.record, alone=run.config.shard is None, unknown=UNKNOWN)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch, of weights that are copied to none
        add_lora(config, pipeline)
    return runs


def has_nothing_to_draw(run: Run) -> bool:
    return run.config.shard is None and records.is_finished(run.output, run.samples, run.record)


def equip(pipeline: DiffusionPipeline, config: Any) -> None:
    add_lora(config, pipeline)
    place(pipeline, device=config.device, dtype=config.dtype, offload=config.offload)
    if config.tf32:
        torch.set_float32_matmul_precision("high")
    pipeline.set_progress_bar_config(disable=True)


def add_lora(config: Any, pipeline: DiffusionPipeline) -> None:
    if config.lora is not None:
        load_lora(pipeline.transformer, config.lora, scale=config.lora_scale)


def runs_of(pipeline: DiffusionPipeline, asked: Asked, plan: SavedPlan | None = None) -> list[Run]:
    usual = published_scheduler(pipeline.transformer) if plan is None else "tuned"
    return [
        run_of(replace(each, scheduler=each.scheduler or usual), pipeline, prompts, plan) for each, prompts in asked
    ]


def run_of(config: Any, pipeline: DiffusionPipeline, prompts: list[str], plan: SavedPlan | None) -> Run:
    """ValueError for what the model cannot do."""
    flags = config.cache.config(tasks.task_of(pipeline), depth=pipeline.transformer.depth)
    cache = flags if plan is None else plan.cache
    unit = tasks.check_flags(config, pipeline)
    config = tasks.with_class_ids(config, pipeline)
    output = outputs.output_of(config, unit)
    samples = wanted.samples_of(config, pipeline, prompts, unit=unit)
    settings = tasks.settings_of(config, pipeline)
    tasks.check_run(config, pipeline, [sample.subject for sample in samples], settings)
    spare_memory(pipeline, slicing=config.vae_slicing, tiling=config.vae_tiling)
    outputs.check_output(output, samples)
    return Run(config, pipeline, samples, settings, output, cache, plan_of(pipeline, Way(config.steps, cache)), prompts)


@contextmanager
def lock_folders(runs: Sequence[Run]) -> Iterator[None]:
    """Hold the folders of runs, but for those that others draw shards into; OSError where another process does."""
    with ExitStack() as stack:
        for run in runs:
            if run.config.shard is None:
                stack.enter_context(lock_folder(run.output.folder))
        yield


def begin(run: Run) -> None:
    """Make the folder; what a killed process left there half-written may be that of another shard."""
    records.open_run(run.output, run.record, alone=run.config.shard is None)


def draw_missing(run: Run) -> float:
    """Draw the samples that are not there yet; returns the seconds."""
    missing = [sample for sample in run.share if not run.output.path(sample).exists()]
    batches, unit = list(batches_of(missing, run.config.batch_size)), run.output.unit
    start = time.perf_counter()
    try:
        write_manifest(run)
        desc = f"drawing {outputs.counted(len(missing), unit)}"
        with tqdm(total=len(batches) * len(run.plan), desc=desc, unit="step") as bar:
            draw_batches(run, batches, on_step=bar.update)
        write_manifest(run)
    except (KeyboardInterrupt, OSError, torch.OutOfMemoryError) as stop:
        with suppress(OSError):
            write_manifest(run)
        done = f"{len(run.output.done(run.share))} of {len(run.share)} {unit}s are in {run.output.folder}"
        raise type(stop)(f"{str(stop) or 'interrupted'}; {done}, and the same command draws the rest") from stop
    return time.perf_counter() - start


def draw_batches(run: Run, batches: Sequence[Sequence[Wanted]], *, on_step: Callable[[], Any]) -> None:
    """List what is there when it is more than a tenth more than was listed, since a manifest is written as a whole."""
    there = listed = len(run.share) - sum(map(len, batches))
    for batch in batches:
        draw_batch(run, batch, on_step=on_step)
        there += len(batch)
        if 10 * (there - listed) > listed:
            write_manifest(run)
            listed = there


def write_manifest(run: Run) -> None:
    if run.config.shard is None:
        records.write_manifest(run.output, run.samples, run.columns)


def batches_of(samples: Sequence[Wanted], size: int) -> Iterator[list[Wanted]]:
    """At most `size` samples each, and of one prompt where there are prompts."""
    for _, group in groupby(samples, key=lambda sample: sample.subject if isinstance(sample.subject, str) else None):
        alike = list(group)
        yield from (alike[first : first + size] for first in range(0, len(alike), size))


def draw_batch(run: Run, batch: Sequence[Wanted], *, on_step: Callable[[], Any]) -> None:
    noise = [generator(*sample.key) for sample in batch]
    drawn = draw(run.pipeline, [sample.subject for sample in batch], noise, run.settings, on_step)
    for sample, pixels in zip(batch, drawn, strict=True):
        run.output.write(sample, pixels)


def finish(run: Run) -> str:
    """Make of the samples what was asked for, unless they are a shard of it; returns what there is, in words."""
    if run.config.shard is None:
        return outputs.finish(run.output, run.samples)
    return f"{len(run.share)} of {len(run.samples)} {run.output.unit}s (shard {run.config.shard})"
