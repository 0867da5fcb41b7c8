"""What one run remembers, and how a call finds its run.

A run is one denoising loop. Within it every pipeline hands the same conditioning objects to each call. So a run is
known by its tokens: its thread, its conditioning tensors and, where the timestep is a view of one, the scheduler's
table of timesteps. Other objects are another run, even if their values are equal. A context with a step index needs no
conditioning that lasts: a call then continues the one run of its name and thread that stands a step before.

A call takes its memory out of `Runs` and puts it back when it has succeeded. So a call that raised leaves nothing
behind, and no memory is in two calls at once.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple
from weakref import WeakMethod

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdRef

from skipdit.caching.forecast import Computed
from skipdit.caching.schedule import Now, Plan

MAX_RUNS = 8  # that keep tensors; MAX_KNOWN are told apart
MAX_KNOWN = 64
ROUNDING = 6e-4  # KDPM2 interpolates timesteps: those that should repeat rise by up to 0.0005 of the largest


class Kind(NamedTuple):
    """What must not change within a run."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    settings: tuple = ()


class CacheStats(NamedTuple):
    """What Skip-Cache did in a run: its plan ("#.#."), steps that computed and did not, and what it remembered at most.

    `bytes_remembered` counts the tensors that it keeps from one step to the next: the deep features that the forecast
    needs (with "residual" the shallow ones too), the schedule's own, and what was computed once from constant inputs,
    as projected text. The inputs themselves, ControlNet's among them, belong to the caller and are not counted.
    """

    plan: str
    full: int
    cached: int
    bytes_remembered: int


@dataclass(eq=False)
class Memory:
    """One run: what it remembers, what it is known by, where it stands and what it has done."""

    past: list[Computed] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)  # the schedule's own
    constants: Any = None

    name: str = ""
    tokens: tuple[WeakIdRef, ...] = ()
    versions: tuple[int | None, ...] = ()
    follows_index: bool = False  # no call has continued the run by its tokens yet, only by its step index

    kind: Kind | None = None
    step: int = -1
    first: float | None = None  # timestep of the run
    timestep: float | None = None

    plan: Plan = Plan()
    peak_bytes: int = 0
    begun: int = 0  # number of the run's first call, and of its last
    used: int = 0
    strangers: int = 0  # runs before this one that were left after one call, each at another timestep
    evicted: bool = False

    @property
    def stats(self) -> CacheStats:
        return CacheStats(str(self.plan), self.plan.full, self.plan.cached, self.peak_bytes)

    @property
    def is_anonymous(self) -> bool:
        """Whether nothing but its thread tells the run from others."""
        return len(self.tokens) <= 1

    @property
    def is_left(self) -> bool:
        """Whether something that the run is known by has died."""
        return any(token() is None for token in self.tokens)

    def know_by(self, tokens: Sequence[Any]) -> None:
        """Keep weak references to the tokens; when one dies, forget."""
        forget = WeakMethod(self.when_left)
        self.tokens = tuple(WeakIdRef(token, lambda _: (method := forget()) and method()) for token in tokens)
        self.versions = versions(tokens)

    def is_known_by(self, tokens: Sequence[Any]) -> bool:
        same = len(self.tokens) == len(tokens) and all(mine() is given for mine, given in zip(self.tokens, tokens))
        return same and self.versions == versions(tokens)

    def when_left(self) -> None:
        if not self.follows_index:
            self.forget()

    def forget(self) -> None:
        self.past, self.state, self.constants = [], {}, None

    def begins_anew(self, now: Now, kind: Kind) -> bool:
        """Whether a step belongs to another run: other inputs, a step that does not follow, a timestep that goes back.

        The first two timesteps give the direction; a run that nothing identifies falls. Second-order samplers repeat
        timesteps, but never the first.
        """
        if self.kind is None:
            return False
        if kind != self.kind or (now.step is not None and now.step != self.step + 1):
            return True
        if None in (now.timestep, self.timestep):
            return False
        rounding = ROUNDING * max(abs(now.timestep), abs(self.timestep), abs(self.first or 0))
        so_far = -1 if self.is_anonymous or self.first is None else self.timestep - self.first
        rises, rose = now.timestep - self.timestep > rounding, so_far > rounding
        falls, fell = self.timestep - now.timestep > rounding, so_far < -rounding
        return (rises and fell) or (falls and rose) or now.timestep == self.first

    def remember(self, computed: Computed, *, at_most: int) -> None:
        """Keep the `at_most` newest; one of the same timestep is replaced (second-order samplers ask twice)."""
        if self.past and computed.timestep is not None and self.past[-1].timestep == computed.timestep:
            self.past.pop()
        self.past = [*self.past, computed][-at_most:]

    def count_bytes(self) -> None:
        held = tree_leaves((self.past, self.state, self.constants))
        distinct = {id(tensor): tensor.nbytes for tensor in held if isinstance(tensor, Tensor)}
        self.peak_bytes = max(self.peak_bytes, sum(distinct.values()))


def versions(tokens: Sequence[Any]) -> tuple[int | None, ...]:
    """How often each tensor was written to; inference tensors do not count it."""
    tensors = (token for token in tokens if isinstance(token, Tensor))
    return tuple(None if tensor.is_inference() else tensor._version for tensor in tensors)


class Runs:
    """The runs on one model, the last used at the end."""

    def __init__(self) -> None:
        self.memories: list[Memory] = []
        self.last: dict[str, CacheStats] = {}
        self.calls = count(1)
        self.lock = threading.RLock()

    def take(self, name: str, tokens: Sequence[Any], now: Now, kind: Kind) -> Memory:
        """The memory of the run that a call belongs to, a new one where the call begins a run.

        Args:
            tokens: the thread's, then the table of timesteps and the conditioning tensors as far as there are any.
            now: the step where a context gives it, the timestep where it is read.
        """
        with self.lock:
            mine = [run for run in self.memories if run.name == name and run.tokens[0]() is tokens[0]]
            run = self._find(mine, tokens, now, kind)
            if run is not None:
                self.memories.remove(run)
            if run is None or run.begins_anew(now, kind):
                run, before = Memory(name=name, follows_index=now.step is not None), run
                run.begun = next(self.calls)
                if before is None and mine and len(mine[-1].plan) == 1:
                    run.strangers = mine[-1].strangers + (now.timestep is None or now.timestep != mine[-1].timestep)
            elif run.is_known_by(tokens):
                run.follows_index = run.follows_index and run.is_anonymous
            if not run.is_known_by(tokens):
                run.constants = None
                run.know_by(tokens)
            run.kind, run.used = kind, next(self.calls)
            return run

    def _find(self, mine: Sequence[Memory], tokens: Sequence[Any], now: Now, kind: Kind) -> Memory | None:
        """The run that is known by the tokens; else, by a step index, the one run without tokens that it continues."""
        known = [run for run in mine if run.is_known_by(tokens)]
        if known and not (known[-1].is_anonymous and now.step is not None):
            return known[-1]
        waiting = [run for run in mine if run.follows_index and (run.is_anonymous or run.is_left)]
        fitting = [run for run in waiting if now.step and run.step + 1 == now.step and run.kind == kind]
        if len(fitting) > 1:  # nobody can tell which
            self.memories = [run for run in self.memories if run not in fitting]
        return fitting[0] if len(fitting) == 1 else None

    def put(self, run: Memory) -> None:
        """Take a memory back after its call; the tensors of the least recently used are dropped."""
        with self.lock:
            self.memories = [*self.memories, run][-MAX_KNOWN:]
            for old in [run for run in self.memories if run.past][:-MAX_RUNS]:
                old.evicted = True
                old.forget()

    def end(self, thread: object) -> dict[str, CacheStats]:
        """End the runs of a thread that were used since the last used one began: one inside another ends alone."""
        with self.lock:
            mine = [run for run in self.memories if run.tokens[0]() is thread]
            ended = [run for run in mine if run.used >= mine[-1].begun]
            self.memories = [run for run in self.memories if run not in ended and not run.is_left]
            self.last = named_stats(ended) or self.last
            return named_stats(ended)

    def stats(self) -> dict[str, CacheStats]:
        """Of the present runs by the name of their context, or of those that ended last."""
        with self.lock:
            present = [run for run in self.memories if not run.is_left] or self.memories[-1:]
            return named_stats(present) or self.last


def named_stats(runs: Sequence[Memory]) -> dict[str, CacheStats]:
    """By name, the run that began last first: "default", "default 2", ..."""
    stats: dict[str, CacheStats] = {}
    for run in sorted(runs, key=lambda run: -run.begun):
        number = sum(name.partition(" ")[0] == run.name for name in stats) + 1
        stats[run.name if number == 1 else f"{run.name} {number}"] = run.stats
    return stats
