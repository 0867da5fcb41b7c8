"""The command `skipdit`: one verb a file.

Results go to stdout, progress to stderr. Exit code 0 is success, 2 a usage that cannot be, 1 a failure on the way and
130 an interruption; each says so in one line, and --debug shows the traceback.
"""

import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

VERBS = {
    "sample": "draw images or videos with an embedded or published model, a folder or a checkpoint file",
    "plan": "print a Skip-Cache schedule and what it saves, before anything runs",
    "bench": "measure a cache: seconds, FLOPs, PSNR and SSIM, beside its two controls",
    "tune": "find the best sampler for a model and a number of calls, with proof on other noise",
    "evaluate": "compare two sets of images: FD and KID by an offline network, precision, recall, PSNR, SSIM",
    "train": "train a model by a recipe or on images of yours; stopped runs go on",
    "data": "check a folder before training: classes, sizes, broken files, a contact sheet; encode its latents",
    "demo": "draw with and without the cache, and show both",
    "models": "list the published models and the embedded ones, with size, licence and where they lie",
    "download": "fetch a published model and what it needs, resumed, checked and whole",
    "convert": "rewrite a checkpoint: original file <-> diffusers folder, EMA or raw, with long skips added",
}
DEBUG = "--debug"
USAGE, FAILURE, INTERRUPTED = 2, 1, 130
SHOW_OTHER_WARNING = warnings.showwarning


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = DEBUG in arguments
    verb, *rest = [argument for argument in arguments if argument != DEBUG] or ["--help"]
    try:
        with warnings.catch_warnings():
            warnings.showwarning = show_warning
            run(verb, rest)
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, BrokenPipeError) and has_no_reader():
            return FAILURE
        if debug:
            raise
        print(f"skipdit: {explanation(error)}", file=sys.stderr)
        return exit_code(error)
    return 0


def show_warning(message: Warning | str, category: type[Warning], filename: str, *where: Any, **more: Any) -> None:
    """Warnings of ours as a line of the command, without a path of Python; others as ever."""
    if Path(filename).is_relative_to(Path(__file__).parents[1]):
        print(f"skipdit: {message}", file=sys.stderr)
    else:
        SHOW_OTHER_WARNING(message, category, filename, *where, **more)


def has_no_reader() -> bool:
    """Whether whoever reads stdout has read enough, as `head` does; then nothing more goes there."""
    try:
        print(flush=True)  # what was lost is not tried again by itself
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def run(verb: str, arguments: Sequence[str]) -> None:
    if verb in ("-h", "--help"):
        print(usage())
    elif verb == "--version":
        print(importlib.import_module("skipdit").__version__)
    elif verb in VERBS:
        importlib.import_module(f"skipdit.cli.{verb}").command(arguments)
    else:
        raise ValueError(f"unknown command {verb!r}: take one of {', '.join(VERBS)}")


def usage() -> str:
    lines = "\n".join(f"  {verb:10}{caption}" for verb, caption in VERBS.items())
    return f"usage: skipdit COMMAND [--help] [--debug]\n\n{lines}\n\nskipdit COMMAND --help shows its flags."


def explanation(error: BaseException) -> str:
    """One line for any error."""
    if isinstance(error, KeyboardInterrupt):
        return str(error) or "interrupted"
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def exit_code(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    return USAGE if isinstance(error, ValueError) else FAILURE
