"""What one run remembers, and how a call finds its run.

A run is one denoising loop. Within it every pipeline hands the same conditioning objects to each call. So a run is
known by its tokens: its thread, its conditioning tensors and, where the timestep is a view into it, the scheduler's
table of timesteps. Other objects are another run, even if their values are equal. Without objects that last, the step
index of a cache context joins calls: each continues the last run of its name and thread that stands a step before.

A call takes its memory out of `Runs` and puts it back when it has succeeded. So a call that raised leaves nothing
behind, and no memory is in two calls at once.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
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


DOUBTS = {
    "shared": "two runs in turns share their conditioning",
    "joined": "runs in turns bring new conditioning to each step, or one began before its first step",
    "threads": "one run changes from thread to thread",
    "many": f"more than {MAX_RUNS} runs are under way",
}


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
    """One run: what it remembers, what it is known by, where it stands, and what it did."""

    past: list[Computed] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)  # the schedule's own
    constants: Any = None

    name: str = ""
    tokens: tuple[WeakIdRef, ...] = ()
    versions: tuple[int | None, ...] = ()
    is_joinable: bool = False  # by a step index; until a call shows that its objects last
    doubt: str = ""  # why the run may be two; then it computes every step

    kind: Kind | None = None
    step: int = -1
    place: int | None = None  # in the table of timesteps
    first_place: int | None = None
    timestep: float | None = None
    first: float | None = None

    plan: Plan = Plan()
    peak_bytes: int = 0
    first_call: int = 0
    last_call: int = 0
    lonely_runs: int = 0  # before this one: of one call each, at other timesteps

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
        """Keep weak references to the tokens; when one dies, `leave`."""
        leave = WeakMethod(self.leave)
        self.tokens = tuple(WeakIdRef(token, lambda _: (method := leave()) and method()) for token in tokens)
        self.versions = count_writes(tokens)

    def is_known_by(self, tokens: Sequence[Any]) -> bool:
        same = len(self.tokens) == len(tokens) and all(mine() is given for mine, given in zip(self.tokens, tokens))
        return same and self.versions == count_writes(tokens)

    def leave(self) -> None:
        """Drop the tensors, unless the next call may bring other objects."""
        if not self.is_joinable or self.tokens[0]() is None:
            self.forget()

    def forget(self) -> None:
        self.past, self.state, self.constants = [], {}, None

    def begins_anew(self, now: Now, kind: Kind) -> bool:
        """Whether a step belongs to another run: other inputs, or a step, a place or a timestep that does not follow.

        The first two timesteps give the direction; a run that nothing identifies falls. Second-order samplers repeat
        timesteps, but never the first.
        """
        if self.kind is None:
            return False
        if kind != self.kind or (now.step is not None and now.step != self.step + 1):
            return True
        if None not in (now.place, self.place) and not self.leads_to(now.place):
            return True
        if None in (now.timestep, self.timestep):
            return False
        rounding = ROUNDING * max(abs(now.timestep), abs(self.timestep), abs(self.first or 0))
        so_far = float("-inf") if self.is_anonymous or self.first is None else self.timestep - self.first
        turns = (now.timestep - self.timestep) * so_far < 0
        return turns and min(abs(now.timestep - self.timestep), abs(so_far)) > rounding or now.timestep == self.first

    def leads_to(self, place: int) -> bool:
        """Whether a place follows in the table: the next one in the run's direction, or the same, but for the first."""
        so_far, step = self.place - self.first_place, place - self.place
        return abs(step) == 1 if so_far == 0 else step in (0, 1 if so_far > 0 else -1)

    def remember(self, computed: Computed, *, at_most: int) -> None:
        """Keep the `at_most` newest; one of the same timestep is replaced (second-order samplers ask twice)."""
        if self.past and computed.timestep is not None and self.past[-1].timestep == computed.timestep:
            self.past.pop()
        self.past = [*self.past, computed][-at_most:]

    def count_bytes(self) -> None:
        held = tree_leaves((self.past, self.state, self.constants))
        distinct = {id(tensor): tensor.nbytes for tensor in held if isinstance(tensor, Tensor)}
        self.peak_bytes = max(self.peak_bytes, sum(distinct.values()))


def count_writes(tokens: Sequence[Any]) -> tuple[int | None, ...]:
    """How often each tensor was written to; inference tensors do not count it."""
    tensors = (token for token in tokens if isinstance(token, Tensor))
    return tuple(None if tensor.is_inference() else tensor._version for tensor in tensors)


class Runs:
    """The runs on one model, the last used at the end."""

    def __init__(self) -> None:
        self.memories: list[Memory] = []
        self.last: dict[str, CacheStats] = {}
        self.calls = 0
        self.lock = threading.RLock()

    def take(self, name: str, tokens: Sequence[Any], now: Now, kind: Kind) -> Memory:
        """The memory of the run that a call belongs to, a new one where the call begins a run.

        Args:
            tokens: the thread, then the table of timesteps and the conditioning tensors as far as there are any.
            now: the step where a context gives it, the place in the table, the timestep where it is read.
        """
        with self.lock:
            self.calls += 1
            mine = [run for run in self.memories if run.name == name and run.tokens[0]() is tokens[0]]
            run = next((run for run in mine if run.kind == kind and run.is_known_by(tokens)), None)
            lasts = run is not None and not (run.is_anonymous and now.step is not None)
            if not lasts:
                run = mine[-1] if mine and is_joined(mine[-1], now, kind) else None
            if run is not None:
                self.memories.remove(run)
            if run is None or run.begins_anew(now, kind):
                run = self._begin(name, tokens, now, before=run, last=mine[-1] if mine else None)
            elif lasts:
                run.is_joinable, run.doubt = False, run.doubt if run.doubt != DOUBTS["joined"] else ""
            elif not run.is_known_by(tokens):
                run.constants = None
                run.know_by(tokens)
            run.kind, run.last_call = kind, self.calls
            return run

    def _begin(self, name: str, tokens: Sequence[Any], now: Now, *, before: Memory | None, last: Memory | None):
        """A new run, with a doubt where it may be a part of another."""
        run = Memory(name=name, first_call=self.calls, is_joinable=now.step is not None)
        run.know_by(tokens)
        follows_loose = last is not None and last.is_joinable and last.is_left and len(last.plan) == 1
        if before is not None and (stands_where(before, now) or now.step):
            run.doubt = DOUBTS["shared"]
        elif any(is_elsewhere(other, run, now) for other in self.memories):
            run.doubt = DOUBTS["threads"]
        elif now.step or (follows_loose and now.step == 0):
            run.doubt = DOUBTS["joined"]
        if last is not None and len(last.plan) == 1:
            run.lonely_runs = last.lonely_runs + (not stands_where(last, now))
            if last.is_left:
                last.forget()
        return run

    def put(self, run: Memory) -> None:
        """Take a memory back after its call; the tensors of the least recently used are dropped."""
        with self.lock:
            self.memories = [*self.memories, run][-MAX_KNOWN:]
            for old in [run for run in self.memories if run.past][:-MAX_RUNS]:
                old.forget()
                old.doubt = DOUBTS["many"]

    def end(self, thread: object) -> dict[str, CacheStats]:
        """End the runs of a thread that were used since the last used one began: one inside another ends alone."""
        with self.lock:
            mine = [run for run in self.memories if run.tokens[0]() is thread]
            last = mine[-1] if mine else None
            beside = [run for run in mine if run.name != last.name and run.last_call + 1 == last.first_call]
            ending = [run for run in mine if run.last_call >= last.first_call] + beside
            self.memories = [run for run in self.memories if run not in ending and not run.is_left]
            self.last = named_stats(ending) or self.last
            return named_stats(ending)

    def stats(self) -> dict[str, CacheStats]:
        """Of the present runs by the name of their context, or of those that ended last."""
        with self.lock:
            present = [run for run in self.memories if not run.is_left] or self.memories[-1:]
            return named_stats(present) or self.last


def is_joined(last: Memory, now: Now, kind: Kind) -> bool:
    """Whether a step index joins a call with other objects to the last run of its name and thread."""
    loose = last.is_joinable and (last.is_anonymous or last.is_left)
    return bool(now.step) and loose and last.step + 1 == now.step and last.kind == kind


def stands_where(run: Memory, now: Now) -> bool:
    """Whether a call is at the very step, place or timestep at which the run stands."""
    there = (run.step if now.step is not None else None, run.place, run.timestep)
    return there == (now.step, now.place, now.timestep)


def is_elsewhere(other: Memory, run: Memory, now: Now) -> bool:
    """Whether another thread has a run of the same objects that did not begin where this call is."""
    theirs, mine = ([token() for token in each.tokens[1:]] for each in (other, run))
    same = len(mine) == len(theirs) > 0 and all(a is b for a, b in zip(theirs, mine)) and other.name == run.name
    begins = now.timestep == other.first if now.place is None else now.place == other.first_place
    return same and other.tokens[0]() is not run.tokens[0]() and not begins


def named_stats(runs: Sequence[Memory]) -> dict[str, CacheStats]:
    """By name, the run that began last first: "default", "default 2", ..."""
    stats: dict[str, CacheStats] = {}
    for run in sorted(runs, key=lambda run: -run.first_call):
        number = sum(name.partition(" ")[0] == run.name for name in stats) + 1
        stats[run.name if number == 1 else f"{run.name} {number}"] = run.stats
    return stats
