"""Some of `python -m tests.random_commands`, and that it sees what it looks for."""

from pathlib import Path

import numpy as np

from skipdit.pipelines.schedulers import make_scheduler
from tests.random_commands import fault_in, run


def test_random_command_lines_succeed_or_say_why_in_one_line(tmp_path):
    ended, faults = run(30, seed=0, folder=tmp_path)
    assert not faults, "\n".join(faults)
    assert ended[0] >= 10, ended


def raised_by(use) -> Exception:
    try:
        use()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def test_errors_of_bugs_and_from_inside_are_told_from_ours():
    assert fault_in(raised_by(lambda: make_scheduler("best"))) is None
    assert fault_in(raised_by(Path("nothing").read_text)) is None
    assert "TypeError" in fault_in(raised_by(lambda: make_scheduler(3, noise=3, nothing=2)))
    assert "from inside" in fault_in(raised_by(lambda: np.zeros(2).reshape(3)))
