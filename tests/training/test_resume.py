"""Stopping anywhere and going on ends in the same bits; what a full disk or a kill leaves is whole."""

import csv
import json
import shutil
import signal
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from skipdit.data.images import digits
from skipdit.data.sets import DATASETS
from skipdit.files import lock_folder
from skipdit.training import checkpoint as checkpointing
from skipdit.training import checkpointed_step, train
from skipdit.training.loop import save, start, steps
from tests.training.tiny import full_disk, tiny_run

WEIGHTS = "diffusion_pytorch_model.safetensors"


class Stopped(Exception):
    pass


def stop_after(step):
    def on_step(report):
        if report.step == step:
            raise Stopped

    return on_step


def everything(folder):
    """All that a run leaves behind, with the optimizer's tensors by name."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    optimizers = {name: torch.load(path) for name, path in files.items() if path.suffix == ".pt"}
    tensors = {name: load_file(path) for name, path in files.items() if path.suffix == ".safetensors"}
    texts = {name: path.read_bytes() for name, path in files.items() if path.suffix in (".csv", ".json")}
    assert len(optimizers) + len(tensors) + len(texts) == len(files)
    texts.pop("config.json")  # names its own folder
    return texts, tensors, optimizers


def same(one, other) -> bool:
    """Equality of nested containers, bit for bit where there are tensors."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


# Bit for bit.


@pytest.mark.parametrize(
    ("settings", "at"),
    [({}, range(1, 11)), ({"precision": "bf16"}, (1, 5, 8)), ({"gradient_checkpointing": True}, (7,))],
    ids=["fp32", "bf16", "gradient checkpointing"],
)
def test_stopping_at_any_step_and_going_on_changes_no_bit(tmp_path, settings, at):
    train(tiny_run(tmp_path / "through", **settings))
    for step in at:
        config = tiny_run(tmp_path / f"stopped-{step}", **settings)
        with pytest.raises(Stopped):
            train(config, on_step=stop_after(step))
        assert checkpointed_step(config.out) == (step - 1) // 4 * 4
        train(config)
        assert same(everything(config.out), everything(tmp_path / "through")), f"stopped at step {step}"


def test_stopping_again_and_again_changes_no_bit(tmp_path):
    train(tiny_run(tmp_path / "through"))
    config = tiny_run(tmp_path / "stopped")
    for step in (3, 6, 5, 9):
        with pytest.raises(Stopped):
            train(config, on_step=stop_after(step))
    train(config)
    assert same(everything(config.out), everything(tmp_path / "through"))


def test_a_killed_process_goes_on_to_the_same_bits(tmp_path):
    train(tiny_run(tmp_path / "through"))
    config = tiny_run(tmp_path / "killed")
    program = (
        "import sys; from pathlib import Path; from skipdit.training import train;"
        "from tests.training.tiny import tiny_run;"
        "train(tiny_run(Path(sys.argv[1])), on_step=lambda report: print(report.step, flush=True))"
    )
    command = [sys.executable, "-c", program, config.out]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if int(line) == 6:
                process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert checkpointed_step(config.out) >= 4
    train(config)
    assert same(everything(config.out), everything(tmp_path / "through"))


def test_a_finished_run_takes_no_step_and_makes_its_model_again(tmp_path):
    config = tiny_run(tmp_path)
    train(config)
    before = everything(tmp_path)
    shutil.rmtree(tmp_path / "model")
    train(config, on_step=stop_after(11))
    assert same(everything(tmp_path), before)


# Checkpoints.


def test_a_checkpoint_holds_the_run_to_the_bit(tmp_path):
    config = tiny_run(tmp_path)
    run = start(config)
    reports = steps(run)
    for _ in range(3):
        next(reports)
    saved = save(run)
    assert sorted(path.name for path in saved.iterdir()) == [
        "ema.safetensors", "model.safetensors", "optimizer.pt", "state.json"
    ]  # fmt: skip
    again = start(config)
    assert again.step == 3
    assert same(dict(again.model.state_dict()), dict(run.model.state_dict()))
    assert same(again.ema.weights, run.ema.weights)
    assert same(again.optimizer.state_dict(), run.optimizer.state_dict())


@pytest.mark.parametrize("keep", [1, 2, 9])
def test_the_newest_checkpoints_are_kept(tmp_path, keep):
    train(tiny_run(tmp_path, keep_checkpoints=keep))
    kept = [path.name for path in checkpointing.checkpoints(tmp_path)]
    assert kept == ["checkpoint-00000004", "checkpoint-00000008", "checkpoint-00000010"][-keep:]


def test_where_there_is_no_run_no_step_is_checkpointed(tmp_path):
    assert checkpointed_step(tmp_path / "nowhere") == 0


# What stops the writing.


@pytest.mark.parametrize("file", ["model.safetensors", "ema.safetensors", "optimizer.pt"])
def test_a_full_disk_leaves_whole_checkpoints_alone_and_the_run_goes_on_after(tmp_path, file):
    train(tiny_run(tmp_path / "through"))
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "through" / "checkpoint-00000004").iterdir()}
    order = ["ema.safetensors", "model.safetensors", "optimizer.pt"]  # from small to large
    assert sorted(order, key=sizes.get) == order
    config = tiny_run(tmp_path / "full")
    with pytest.raises(Stopped):
        train(config, on_step=stop_after(5))
    with full_disk(after=sizes[file] - 1), pytest.raises(OSError, match="00000008 could not be written") as full:
        train(config)
    assert "\n" not in str(full.value)
    assert [path.name for path in checkpointing.checkpoints(config.out)] == ["checkpoint-00000004"]
    assert sorted(path.name for path in config.out.iterdir()) == ["checkpoint-00000004", "config.json", "loss.csv"]
    train(config)
    assert same(everything(config.out), everything(tmp_path / "through"))


def test_a_disk_that_is_full_at_the_export_leaves_no_half_model(tmp_path):
    train(tiny_run(tmp_path))
    size = (tmp_path / "model" / "diffusion_pytorch_model.safetensors").stat().st_size
    shutil.rmtree(tmp_path / "model")
    with full_disk(after=size - 1), pytest.raises(OSError, match="model could not be written"):
        train(tiny_run(tmp_path))
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".") or path.name == "model"]


def test_a_disk_that_is_full_at_the_start_loses_no_row_of_the_log(tmp_path):
    config = tiny_run(tmp_path)
    with pytest.raises(Stopped):
        train(config, on_step=stop_after(9))
    before = everything(tmp_path)
    with full_disk(after=10), pytest.raises(OSError, match="File too large"):
        train(config)
    assert same(everything(tmp_path), before)


def test_what_a_kill_left_of_a_checkpoint_is_no_checkpoint_and_in_nobodys_way(tmp_path):
    train(tiny_run(tmp_path / "through"))
    config = tiny_run(tmp_path / "killed")
    with pytest.raises(Stopped):
        train(config, on_step=stop_after(6))
    for name in (".partial-checkpoint-00000008", ".partial-model"):
        (config.out / name).mkdir()
        (config.out / name / "model.safetensors").write_bytes(b"half")
    assert checkpointed_step(config.out) == 4
    train(config)
    assert same(everything(config.out), everything(tmp_path / "through"))


def test_a_row_of_the_log_that_was_cut_short_is_dropped(tmp_path):
    train(tiny_run(tmp_path / "through"))
    config = tiny_run(tmp_path / "cut")
    with pytest.raises(Stopped):
        train(config, on_step=stop_after(6))
    with (config.out / "loss.csv").open("a") as file:
        file.write("3")  # of a step 3x, before the disk was full
    train(config)
    assert (config.out / "loss.csv").read_bytes() == (tmp_path / "through" / "loss.csv").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_with_a_checkpoint_of_the_present_step(tmp_path, number):
    train(tiny_run(tmp_path / "through"))
    config = tiny_run(tmp_path / "stopped")
    with pytest.raises(KeyboardInterrupt):
        train(config, on_step=lambda report: signal.raise_signal(number) if report.step == 5 else None)
    assert checkpointed_step(config.out) == 5
    train(config)
    shutil.rmtree(config.out / "checkpoint-00000005")
    assert same(everything(config.out), everything(tmp_path / "through"))


@pytest.mark.parametrize(
    ("decay", "cooldown", "steps", "message"),
    [
        ("cosine", None, 10, "steps grow from 10 to 20 under decay 'cosine': .* from 0.0e+00 to 5.9e-04 at step 10"),
        ("linear", None, 10, "steps grow from 10 to 20 under decay 'linear': .* from 0.0e+00 to 5.6e-04 at step 10"),
        ("trapezoid", 0.5, 10, "steps grow from 10 to 20 under decay 'trapezoid': .* to 1.0e-03 at step 10"),
        ("constant", None, 10, None),
        ("trapezoid", 0.5, 4, None),
        ("trapezoid", 0.5, 2, None),
    ],
)
def test_a_learning_rate_that_jumps_when_steps_grow_is_said_in_one_line(tmp_path, decay, cooldown, steps, message):
    """A trapezoid that has not begun to fall goes on as if it had been told so from the start."""
    config = tiny_run(tmp_path, decay=decay, cooldown=cooldown)
    with pytest.raises(Stopped) if steps < 10 else nullcontext():
        train(replace(config, checkpoint_every=2), on_step=stop_after(steps + 1) if steps < 10 else lambda report: None)
    with pytest.warns(UserWarning, match=message.replace("+", r"\+")) if message else nullcontext():
        train(replace(config, checkpoint_every=2, steps=20))


def test_a_run_may_go_on_to_more_steps(tmp_path):
    train(tiny_run(tmp_path / "through", decay="constant"))
    train(tiny_run(tmp_path / "grown", decay="constant", steps=6))
    train(tiny_run(tmp_path / "grown", decay="constant"))
    grown, through = (load_file(tmp_path / name / "model" / WEIGHTS) for name in ("grown", "through"))
    assert same(grown, through)


def test_a_preview_that_a_kill_prevented_is_drawn_when_the_run_goes_on(tmp_path):
    drawn, config = [], tiny_run(tmp_path, preview_every=4)

    def die(*_):
        raise Stopped

    with pytest.raises(Stopped):
        train(config, preview=die)
    train(config, preview=lambda model, data, path: drawn.append(path.stem))
    assert drawn == ["00000004", "00000008", "00000010"]


def test_two_runs_do_not_share_a_folder(tmp_path):
    config = tiny_run(tmp_path / "run")
    with lock_folder(config.out), pytest.raises(OSError, match="in use by another process: wait for its end, or take"):
        train(config)
    assert not config.out.exists()


@pytest.mark.parametrize("name", ["model.safetensors", "ema.safetensors", "optimizer.pt", "state.json"])
def test_a_damaged_file_is_named(tmp_path, name):
    train(tiny_run(tmp_path))
    file = tmp_path / "checkpoint-00000010" / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(OSError, match=f"{name} cannot be read .*: remove checkpoint-00000010, and the run goes on"):
        train(tiny_run(tmp_path))
    shutil.rmtree(file.parent)
    train(tiny_run(tmp_path))


@pytest.mark.parametrize(
    "state", ["{}", '{"step": "x"}', '{"step": -3}', '{"step": 10, "pending": 3}', '{"step": 10, "pending": [[1]]}']
)
def test_a_state_of_other_types_is_named(tmp_path, state):
    train(tiny_run(tmp_path))
    (tmp_path / "checkpoint-00000010" / "state.json").write_text(state)
    with pytest.raises(OSError, match=r"state.json cannot be read \((step|pending) is .*: remove checkpoint-00000010"):
        train(tiny_run(tmp_path))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"model": 5}'])
def test_damaged_settings_are_named(tmp_path, text):
    train(tiny_run(tmp_path))
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config.json .*: write the run's settings there again"):
        train(tiny_run(tmp_path))


# Another run.


def test_a_run_on_other_data_is_refused(tmp_path, monkeypatch):
    train(tiny_run(tmp_path, steps=8))
    other = digits()
    other = replace(other, images=255 - other.images)
    monkeypatch.setitem(DATASETS, "digits", lambda folder: other)
    with pytest.raises(ValueError, match="digits is not what .*checkpoint-00000008 was trained on"):
        train(tiny_run(tmp_path))


def test_a_copy_that_a_user_keeps_is_no_checkpoint(tmp_path):
    def keep(report):
        if report.step == 5:
            shutil.copytree(tmp_path / "checkpoint-00000004", tmp_path / "checkpoint-00000004-keep")

    train(tiny_run(tmp_path, keep_checkpoints=1), on_step=keep)
    assert sorted(path.name for path in tmp_path.glob("checkpoint*")) == [
        "checkpoint-00000004-keep",
        "checkpoint-00000010",
    ]
    assert checkpointed_step(tmp_path) == 10


@pytest.mark.parametrize("change", [{"steps": 9}, {"seed": 1}, {"model": {"num_skips": 0}}, {"learning_rate": 1e-4}])
def test_a_folder_of_another_run_is_refused_and_untouched(tmp_path, change):
    with pytest.raises(Stopped):
        train(tiny_run(tmp_path), on_step=stop_after(5))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    (name,) = change
    with pytest.raises(ValueError, match=rf"holds a run with other settings \({name}\): take another --out"):
        train(tiny_run(tmp_path, **change))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def forget(config, *names):
    """Take fields out of config.json (`model.` before those of the model): it is from before they existed."""
    path = config.out / "config.json"
    old = json.loads(path.read_text())
    for name in names:
        inside, _, field = name.rpartition(".")
        del (old[inside] if inside else old)[field]
    path.write_text(json.dumps(old))


def test_a_run_from_before_a_setting_existed_goes_on(tmp_path):
    config = tiny_run(tmp_path)
    with pytest.raises(Stopped):
        train(config, on_step=stop_after(5))
    forget(config, "optimizer", "betas", "model.prediction_type", "model.fuse")
    train(config)
    assert checkpointed_step(tmp_path) == 10


@pytest.mark.parametrize(
    ("forgotten", "change"),
    [("weight_decay", {"weight_decay": 0.1}), ("model.prediction_type", {"model": {"prediction_type": "sample"}})],
)
def test_a_setting_that_did_not_exist_was_its_default(tmp_path, forgotten, change):
    with pytest.raises(Stopped):
        train(tiny_run(tmp_path), on_step=stop_after(1))
    forget(tiny_run(tmp_path), forgotten)
    (name,) = change
    with pytest.raises(ValueError, match=rf"other settings \({name}\)"):
        train(tiny_run(tmp_path, **change))


def test_a_run_that_was_moved_goes_on(tmp_path):
    train(tiny_run(tmp_path / "through"))
    config = tiny_run(tmp_path / "here")
    with pytest.raises(Stopped):
        train(config, on_step=stop_after(6))
    moved = replace(config, out=config.out.rename(tmp_path / "there"))
    train(moved)
    assert same(everything(moved.out), everything(tmp_path / "through"))


def test_the_log_reads_as_csv(tmp_path):
    train(tiny_run(tmp_path))
    with (tmp_path / "loss.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [2, 4, 6, 8, 10]
