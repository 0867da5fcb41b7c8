"""Training: data -> noised -> model -> loss -> optimizer -> EMA -> report, one step a yield.

    t,  x_t = add_noise(x_0, noise, t),  loss(model(x_t, t, condition)),  condition -> none with probability p
"""

import csv
import io
import json
import math
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from skipdit import data
from skipdit.data import Dataset
from skipdit.diffusion import Losses, Process
from skipdit.files import lock_folder, read_object, whole_folder, write_text
from skipdit.models.base import LongSkipModel
from skipdit.randomness import generator
from skipdit.training import checkpoint
from skipdit.training.batches import batch_indices
from skipdit.training.beginning import SKIPS, begin_from
from skipdit.training.config import TrainConfig
from skipdit.training.ema import EMA
from skipdit.training.optimizer import Optimizer, make_optimizer
from skipdit.training.processes import Processes, joined
from skipdit.training.spectral import begin_capped, cap_norms
from skipdit.training.stale import drawn_age, stale_seam

JUMP = 0.02  # of the largest learning rate; less is not felt
LOSS_COLUMNS = ("step", "loss", "mse", "vlb", "grad_norm", "learning_rate")


ALONE = Processes()


class Report(NamedTuple):
    """What one step did: the step's number (from 1), its mean losses, the norm of the gradient before clipping."""

    step: int
    loss: Tensor
    mse: Tensor
    vlb: Tensor
    grad_norm: Tensor
    learning_rate: float


@dataclass
class Run:
    """What a run carries from step to step."""

    config: TrainConfig
    model: LongSkipModel
    ema: EMA
    optimizer: Optimizer
    dataset: Dataset
    process: Process
    data: str
    fresh: list[str]  # what a pretrained model did not bring
    processes: Processes
    step: int = 0
    pending: list[Report] = field(default_factory=list)  # of steps since the last row of loss.csv


def start(config: TrainConfig, dataset: Dataset | None = None, processes: Processes = ALONE) -> Run:
    """A run at its newest checkpoint, or at step 0 where there is none; on `dataset` in the place of the config's."""
    dataset = data.load(config.dataset, folder=config.data_folder, crop=config.crop) if dataset is None else dataset
    check_fits(config, dataset)
    torch.manual_seed(config.seed)
    found = checkpoint.checkpoints(config.out)
    model, fresh = begin_model(config, dataset, resumed=bool(found))
    check_stale(config, model, processes)
    model = model.to(config.device).train()
    if config.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    if config.device == "cpu" and config.precision == "bf16":
        config.model.write_out(model, dataset)  # as our own attention does there (docs/decisions/0006)
    optimizer, ema = make_optimizer(model, config), EMA(model, decay=config.ema_decay)
    run = Run(config, model, ema, optimizer, dataset, config.process, data.digest(dataset), fresh, processes)
    if found:
        resume(run, found[-1])
    return run


def begin_model(config: TrainConfig, dataset: Dataset, *, resumed: bool) -> tuple[LongSkipModel, list[str]]:
    """The model before the first step, and what is drawn anew in a pretrained one. A resumed one is loaded later."""
    model = config.model.build()
    if config.init is None:
        config.model.fit(model, dataset)
    fresh = begin_from(model, config.init) if config.init is not None and not resumed else []
    if config.spectral_cap is not None:
        begin_capped(model, config.spectral_cap, anew=any("skips" in part for part in fresh))
    return model, fresh


def check_stale(config: TrainConfig, model: LongSkipModel, processes: Processes) -> None:
    """ValueError for stale steps that the model or the processes cannot take."""
    if config.stale_prob and processes.count > 1:
        raise ValueError(f"stale_prob is {config.stale_prob} in {processes.count} processes: take one")
    most = (model.depth - 1) // 2
    if config.stale_prob and config.stale_branch > most:
        raise ValueError(f"stale_branch is {config.stale_branch}: a model of {model.depth} layers takes 1 to {most}")


def resume(run: Run, path: Path) -> None:
    """Put a run to where a checkpoint was written; ValueError where that was on other data."""
    state = checkpoint.load(
        path, model=run.model, ema=run.ema, optimizer=run.optimizer, check_beside=check_pending
    )  # fmt: skip
    if state.get("data", run.data) != run.data:  # earlier versions did not say
        raise ValueError(f"{run.config.dataset} is not what {path} was trained on: take that, or another --out")
    run.step = state["step"]
    run.pending = [Report(step, *map(torch.tensor, terms), rate) for step, *terms, rate in state.get("pending", ())]


def save(run: Run) -> Path:
    """A checkpoint, with all that the next steps and rows of loss.csv depend on."""
    pending = [[float(value) if isinstance(value, Tensor) else value for value in report] for report in run.pending]
    return checkpoint.save(
        run.config.out, step=run.step, model=run.model, ema=run.ema, optimizer=run.optimizer,
        keep=run.config.keep_checkpoints, beside={"data": run.data, "pending": pending},
    )  # fmt: skip


def check_pending(state: dict[str, Any]) -> None:
    """ValueError for reports in a state.json that are not rows of as many numbers as a `Report` has."""
    rows = state.get("pending", [])
    if not isinstance(rows, list) or not all(isinstance(row, list) and is_report(row) for row in rows):
        raise ValueError(f"pending is {rows!r:.60}, not rows of {len(Report._fields)} numbers")


def is_report(row: list[Any]) -> bool:
    return len(row) == len(Report._fields) and all(isinstance(value, int | float) for value in row)


def check_fits(config: TrainConfig, dataset: Dataset) -> None:
    takes, gives = config.model.takes, dataset.gives
    if takes != gives:
        wrong = [name for name in gives if takes.get(name) != gives[name]] or [*takes.keys() - gives.keys()]
        raise ValueError(
            f"the model takes {in_words(takes)}; {config.dataset} has {in_words(gives)}: set {', '.join(wrong)} to the"
            " data's, or take another model"
        )


def in_words(sizes: dict[str, int]) -> str:
    return ", ".join(f"{name} {size}" for name, size in sizes.items())


def steps(run: Run) -> Iterator[Report]:
    """Take the remaining steps of a run, one a yield."""
    forward = None
    while run.step < run.config.steps:
        if forward is None or run.step == run.config.skips_only:
            forward = prepared(run)
        yield take_step(run, forward)


def prepared(run: Run) -> Callable[..., tuple[Tensor]]:
    """The forward pass of the present stage, shared among processes and compiled as configured."""
    choose_learners(run)
    shared = run.processes.wrap(run.model)
    return torch.compile(shared) if run.config.compile else shared


def take_step(run: Run, forward: Callable[..., tuple[Tensor]]) -> Report:
    """One step of the optimizer and the EMA. Everything drawn in it is a function of (seed, step)."""
    rate = learning_rate(run.step, run.config)
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    parts = run.config.accumulate
    terms = [backward(loss_of(run, forward, part=part), parts) for part in range(parts)]
    losses = run.processes.mean(torch.stack(terms).sum(0))
    norm = torch.nn.utils.clip_grad_norm_(run.model.parameters(), run.config.clip_grad_norm or math.inf)
    run.optimizer.step()
    if run.config.spectral_cap is not None:
        cap_norms(run.model, run.optimizer, share=run.config.spectral_cap)
    run.optimizer.zero_grad(set_to_none=True)
    run.ema.update(run.model, step=run.step)
    run.step += 1
    return Report(run.step, *losses, norm, rate)


def backward(losses: Losses, parts: int) -> Tensor:
    """Add the gradient of one of the `parts` of a batch; returns its share of the mean terms, [3]."""
    (losses.total.mean() / parts).backward()
    return torch.stack([term.detach().mean() for term in losses]) / parts


def choose_learners(run: Run) -> None:
    """Have nothing but the long skips learn in the first `skips_only` steps, and everything after them.

    Source: the two stages in which the published LatteT2V-skip was trained.
    """
    for name, parameter in run.model.named_parameters():
        if run.config.skips_only and name in run.ema.weights:
            parameter.requires_grad_(run.step >= run.config.skips_only or SKIPS in name)


def loss_of(run: Run, forward: Callable[..., tuple[Tensor]], *, part: int = 0) -> Losses:
    """The losses [B] of this process's rows of the next batch, with the variance's where the model learns it."""
    config = run.config
    inputs, targets = noised_batch(run, part=part)
    age = drawn_age(seed=config.seed, step=run.step, probability=config.stale_prob, most=config.stale_age)
    device = torch.device(config.device).type
    with torch.autocast(device, torch.bfloat16, enabled=config.precision == "bf16"):
        if age:
            by, cut = age * config.stale_stride, config.stale_branch
            seam = stale_seam(run.model, run.process, inputs, targets, cut=cut, by=by)
            output = run.model(**inputs, return_dict=False, seam=seam)[0]
        else:
            output = forward(**inputs, return_dict=False)[0]
    axis = run.model.channel_dim
    samples = {name: x.movedim(axis, 1) for name, x in targets.items() if name != "t"}
    samples["x_t"] = inputs["hidden_states"].movedim(axis, 1)
    return run.process.loss(output.movedim(axis, 1), t=targets["t"], **samples)


def noised_batch(run: Run, *, part: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The model's inputs of the next step (x_t, t and conditions), and what its output is held against.

    Everything is drawn for the whole batch, of which a process keeps its rows.
    """
    config, dataset, size = run.config, run.dataset, run.config.batch_size
    draw, rows = generator(config.seed, 1, run.step), run.processes.rows(size, part=part, parts=config.accumulate)
    indices = batch_indices(run.step, dataset_size=len(dataset), batch_size=size, seed=config.seed)[rows]
    x_0 = dataset.x_0(indices)
    t = run.process.draw_t(size, draw)[rows]
    noise = torch.randn((size, *x_0.shape[1:]), generator=draw)[rows]
    dropped = torch.rand(size, generator=draw)[rows] < config.model.dropout
    inputs = {"hidden_states": run.process.add_noise(x_0, noise, t), "timestep": run.process.timestep(t)}
    inputs |= dataset.conditions(indices, dropped=dropped)
    targets = {"x_0": x_0, "noise": noise, "t": t}
    return tuple({name: x.to(config.device) for name, x in group.items()} for group in (inputs, targets))


def learning_rate(step: int, config: TrainConfig) -> float:
    """The learning rate of step `step` (from 0): a linear warm-up, then what `decay` says.

    Before a trapezoid falls it does not depend on `steps`: until then a run can be told to end earlier or later, and
    takes the steps that it would have taken if told so from the start (Haegele et al. 2024, arXiv 2405.18392).
    """
    if step < config.skips_only and config.skips_only_rate is not None:
        return config.skips_only_rate
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / (config.steps - config.warmup_steps)
    remaining = {
        "constant": 1.0, "linear": 1 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2,
        "trapezoid": min(1.0, (1 - progress) / (config.cooldown or 1)),
    }  # fmt: skip
    return config.learning_rate * remaining[config.decay]


def warn_of_jump(config: TrainConfig, step: int) -> None:
    """Say where a run that goes on for more steps takes another learning rate than it would have without them."""
    path = config.out / "config.json"
    before = written(path, like=config)["steps"] if path.exists() else config.steps
    if not 0 < step <= before < config.steps:
        return
    old, new = learning_rate(step, replace(config, steps=before)), learning_rate(step, config)
    if abs(new - old) > JUMP * config.learning_rate:
        warnings.warn(
            f"steps grow from {before} to {config.steps} under decay {config.decay!r}: the learning rate goes from"
            f" {old:.1e} to {new:.1e} at step {step}; another --out gives the curve of a run of {config.steps} steps",
            stacklevel=2,
        )


def train(
    config: TrainConfig,
    *,
    dataset: Dataset | None = None,
    on_start: Callable[[Run], None] = lambda run: None,
    on_step: Callable[[Report], None] = lambda report: None,
    preview: Callable[[LongSkipModel, Dataset, Path], None] | None = None,
) -> LongSkipModel:
    """Run to the end, from the newest checkpoint of `config.out` if there is one; returns the model with EMA weights.

    A `dataset` takes the place of the one that the config names, whose name then stands for it.
    Writes config.json, loss.csv, checkpoints, previews/ and the trained model's folder model/. Ctrl-C and SIGTERM end
    the run after its present step, with a checkpoint; a kill loses the steps since the last one and nothing else.
    Resuming gives the same bits as running through, and may be for more steps; a learning rate that jumps then is
    warned of.

    Raises:
        FileNotFoundError: the dataset is not there.
        ValueError: the model does not fit the data, or `out` holds another run, or one on other data.
        OSError: another process trains in `out`, or a file of its checkpoint cannot be read.
        FloatingPointError: the loss is not finite.
        KeyboardInterrupt: the run was stopped; its checkpoint is written.
    """
    check_same_run(config)
    with (
        joined(device=config.device, batch_size=config.batch_size, parts=config.accumulate) as processes,
        lock_folder(config.out) if processes.is_first else nullcontext(),
    ):
        run = start(config, dataset, processes)
        on_start(run)
        take_all(run, on_step=on_step, preview=preview)
        model = averaged(run)
        if processes.is_first:
            export(model, config)
        return model


def take_all(
    run: Run, *, on_step: Callable[[Report], None], preview: Callable[[LongSkipModel, Dataset, Path], None] | None
) -> None:
    """Take every remaining step; the first process writes what each leaves behind."""
    config, is_first = run.config, run.processes.is_first
    if is_first:
        warn_of_jump(config, run.step)
        write_config(config)
        draw_preview(run, preview)  # which a kill may have prevented
    log = LossLog(config.out / "loss.csv" if is_first else None, keep_until=run.step, pending=run.pending)
    with signals_kept() as came:
        for report in steps(run):
            on_step(report)
            log.pending.append(report)
            stop = run.processes.any(bool(came), device=config.device)
            if report.step % config.log_every == 0 or report.step == config.steps:
                log.flush()
            if is_first and (report.step % config.checkpoint_every == 0 or report.step == config.steps or stop):
                save(run)
            if is_first:
                draw_preview(run, preview)
            if stop:
                raise KeyboardInterrupt


def draw_preview(run: Run, preview: Callable[[LongSkipModel, Dataset, Path], None] | None) -> None:
    """The preview of the present step, where it has one that is not there yet."""
    every, path = run.config.preview_every, run.config.out / "previews" / f"{run.step:08d}.png"
    due = every and run.step and (run.step % every == 0 or run.step == run.config.steps)
    if preview and due and not path.exists():
        preview(averaged(run), run.dataset, path)


@contextmanager
def signals_kept() -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM as numbers in a list, for the end of a step; the second one interrupts at once."""
    came: list[int] = []

    def keep(number: int, _: Any) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)

    if threading.current_thread() is not threading.main_thread():  # where Python sets no handlers
        yield came
        return
    before = {number: signal.signal(number, keep) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def averaged(run: Run) -> LongSkipModel:
    """A copy of the model with the EMA weights, in eval mode."""
    model = run.config.model.build().to(run.config.device)
    model.load_state_dict(run.model.state_dict())
    run.ema.copy_to(model)
    return model.eval()


def export(model: LongSkipModel, config: TrainConfig) -> None:
    """Write model/ (safetensors and config.json) whole or not at all."""
    averaged_copy = config.model.build()
    averaged_copy.load_state_dict(model.state_dict())
    # Not its own `to`, which warns of every dtype, whether it casts or not (diffusers 0.42).
    torch.nn.Module.to(averaged_copy, getattr(torch, config.export_dtype))
    with whole_folder(config.out / "model") as partial:
        averaged_copy.save_pretrained(partial)


def check_same_run(config: TrainConfig) -> None:
    """A folder that holds another run is an error, since its checkpoints would be continued."""
    path = config.out / "config.json"
    if path.exists() and (changed := differing(written(path, like=config), json.loads(as_json(config)))):
        raise ValueError(
            f"{config.out} holds a run with other settings ({', '.join(changed)}): take another --out, or its settings"
        )


def write_config(config: TrainConfig) -> None:
    config.out.mkdir(parents=True, exist_ok=True)
    write_text(config.out / "config.json", as_json(config) + "\n")


def as_json(config: TrainConfig) -> str:
    return json.dumps(asdict(config), indent=2, default=str)


def written(path: Path, *, like: TrainConfig) -> dict:
    """The settings in a config.json; a field that did not exist when it was written has its default."""
    remedy = "write the run's settings there again, or take another --out"
    old = read_object(path, remedy=remedy)
    if not isinstance(model := old.get("model", {}), dict):
        raise ValueError(f"{path} has {model!r} for a model: {remedy}")
    return defaults(like) | old | {"model": defaults(like.model) | model}


def defaults(settings: Any) -> dict:
    """The fields of a dataclass that have a default, as they are written."""
    given = {field.name: field.default for field in fields(settings) if field.default is not MISSING}
    return json.loads(json.dumps(given, default=str))


def differing(old: dict, new: dict) -> list[str]:
    """The settings that changed, but for those that may: where the run lies, and how long it is where it grows."""
    free = {"out"} | ({"steps"} if new["steps"] > old.get("steps", 0) else set())
    return [key for key in new if key not in free and old.get(key) != new[key]]


def whole_rows(path: Path, *, until: int) -> list[list[str]]:
    """The rows of loss.csv up to a step; what a full disk cut short is no row."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [row for row in list(csv.reader(file))[1:] if len(row) == len(LOSS_COLUMNS) and int(row[0]) <= until]


class LossLog:
    """loss.csv: one row a `flush`, the means over the steps since the last; rows after `keep_until` are dropped.

    Without a path nothing is written, and the losses are checked all the same.
    """

    def __init__(self, path: Path | None, *, keep_until: int, pending: list[Report]):
        self.path, self.pending = path, pending
        if path is not None:
            text = io.StringIO(newline="")
            csv.writer(text).writerows([LOSS_COLUMNS, *whole_rows(path, until=keep_until)])
            write_text(path, text.getvalue())

    def flush(self) -> None:
        last = self.pending[-1]
        means = [torch.stack([getattr(r, name) for r in self.pending]).mean().item() for name in LOSS_COLUMNS[1:5]]
        if not all(map(math.isfinite, means)):
            raise FloatingPointError(f"the loss is {means[0]} at step {last.step}: lower learning_rate, or take fp32")
        if self.path is not None:
            with self.path.open("a", newline="") as file:
                csv.writer(file).writerow([last.step, *(f"{mean:.6g}" for mean in means), f"{last.learning_rate:.6g}"])
        self.pending.clear()
