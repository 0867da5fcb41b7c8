"""Several processes take the steps of one: same losses, same checkpoints, and a death leaves the last good one."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from skipdit.training import train
from skipdit.training.loop import noised_batch, start
from skipdit.training.processes import Processes, joined
from tests.training.tiny import tiny_run

ROOT = Path(__file__).parents[2]
STAGED = {"skips_only": 4, "skips_only_rate": 1e-2, "accumulate": 2}
ROUNDING = 2e-5  # of losses and weights: gloo adds in another order than one process


def launched(out: Path, settings: dict, *, dies_at: int = 0) -> subprocess.Popen:
    """Two gloo processes by torchrun, begun."""
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    worker = ["-m", "tests.training.worker", str(out), json.dumps(settings), str(dies_at)]
    places = os.pathsep.join([str(ROOT), *sys.path])
    environment = os.environ | {"PYTHONPATH": places, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(run + worker, env=environment, stderr=subprocess.PIPE, text=True)


def two_processes(out: Path, settings: dict, **more) -> int:
    process = launched(out, settings, **more)
    process.communicate(timeout=300)
    return process.returncode


def losses(out: Path) -> list[list[float]]:
    with (out / "loss.csv").open(newline="") as file:
        return [list(map(float, row)) for row in list(csv.reader(file))[1:]]


def weights(out: Path, step: int = 10, name: str = "ema") -> dict[str, torch.Tensor]:
    return load_file(out / f"checkpoint-{step:08d}" / f"{name}.safetensors")


def assert_same(ours: Path, theirs: Path) -> None:
    for row, other in zip(losses(ours), losses(theirs), strict=True):
        assert row == pytest.approx(other, rel=1e-4)
    for name in ("model", "ema"):
        for key, tensor in weights(ours, name=name).items():
            torch.testing.assert_close(tensor, weights(theirs, name=name)[key], rtol=0, atol=ROUNDING)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "run"
    train(tiny_run(out))
    return out


def test_two_processes_take_the_steps_of_one(tmp_path, alone):
    assert two_processes(tmp_path / "two", {}) == 0
    assert_same(tmp_path / "two", alone)
    assert {path.name for path in (tmp_path / "two").iterdir()} == {path.name for path in alone.iterdir()}


def test_a_killed_process_leaves_the_last_good_checkpoint_and_one_process_goes_on(tmp_path, alone):
    assert two_processes(tmp_path / "killed", {}, dies_at=6) != 0
    assert [path.name for path in sorted((tmp_path / "killed").glob("checkpoint-*"))] == ["checkpoint-00000004"]
    assert not (tmp_path / "killed" / "model").exists()
    train(tiny_run(tmp_path / "killed"))
    assert_same(tmp_path / "killed", alone)


@pytest.mark.slow
def test_stages_and_parts_are_shared_too(tmp_path):
    train(tiny_run(tmp_path / "one", **STAGED))
    assert two_processes(tmp_path / "two", STAGED) == 0
    assert_same(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
def test_sigterm_ends_all_processes_with_a_checkpoint(tmp_path):
    process = launched(tmp_path / "run", {"steps": 100_000, "checkpoint_every": 100_000, "log_every": 1})
    while not (tmp_path / "run" / "loss.csv").exists() or len(losses(tmp_path / "run")) < 3:
        assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    (saved,) = (tmp_path / "run").glob("checkpoint-*")
    assert int(saved.name[-8:]) == len(losses(tmp_path / "run"))


# In this process.


def test_a_batch_in_parts_is_the_same_step(tmp_path, alone):
    train(tiny_run(tmp_path / "parts", accumulate=4))
    assert_same(tmp_path / "parts", alone)


@pytest.mark.parametrize(("count", "parts"), [(1, 1), (2, 1), (1, 4), (2, 2), (4, 2)])
def test_the_rows_of_all_processes_and_parts_are_the_batch(tmp_path, count, parts):
    whole = noised_batch(start(tiny_run(tmp_path)))
    config = tiny_run(tmp_path, accumulate=parts)
    shares = [
        noised_batch(start(config, processes=Processes(rank, count)), part=part)
        for rank in range(count)
        for part in range(parts)
    ]
    for group in (0, 1):
        for name, tensor in whole[group].items():
            assert torch.equal(torch.cat([share[group][name] for share in shares]), tensor), name


def test_a_batch_that_cannot_be_shared_out_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="batch_size is 8: it must be a multiple of 3"):
        train(tiny_run(tmp_path / "run", accumulate=3))
    assert not (tmp_path / "run").exists()
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ValueError, match="for 3 processes of 1 parts"), joined(device="cpu", batch_size=8, parts=1):
        pass
