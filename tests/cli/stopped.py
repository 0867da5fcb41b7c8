"""Ctrl-C in the moment in which video number n + 1 would be written.

The signal is real; only the moment is arranged, since no clock may decide it.
"""

import signal

import pytest

from skipdit.cli import outputs


def interrupt(patch: pytest.MonkeyPatch, *, after: int) -> None:
    written, write = [], outputs.write_video

    def write_video(frames, path, *, fps):
        if len(written) == after:
            patch.undo()
            signal.raise_signal(signal.SIGINT)
        write(frames, path, fps=fps)
        written.append(path)

    patch.setattr(outputs, "write_video", write_video)
