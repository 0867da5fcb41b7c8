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
WIDE = 4  # times the widest step so far: no run goes so far in one
JOINED = "runs in turns bring new conditioning to each step, or one began before its first step"
IN_THREADS = "one conditioning is used in several threads"


class Kind(NamedTuple):
    """What must not change within a run."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    settings: tuple = ()


class CacheStats(NamedTuple):
    """What Skip-Cache did in a run: its plan ("#.#."), steps that computed and did not, and what it remembered at most.

    `bytes_remembered` counts the tensors that it keeps from one step to the next: features, the schedule's own, and
    what was computed once from constant inputs, as projected text. The inputs belong to the caller and do not count.
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
    structures: dict[int, Any] = field(default_factory=dict)  # what bypassed layers returned, in an attached model

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
    widest: float = 0.0  # step between timesteps

    plan: Plan = Plan()
    peak_bytes: int = 0
    first_call: int = 0
    last_call: int = 0
    lonely_runs: int = 0  # before this one: of one call each, at other timesteps

    @property
    def is_anonymous(self) -> bool:
        """Whether nothing but its thread tells the run from others."""
        return len(self.tokens) <= 1

    @property
    def is_left(self) -> bool:
        """Whether something that the run is known by has died."""
        return any(token() is None for token in self.tokens)

    def know_by(self, tokens: Sequence[Any]) -> None:
        """Keep weak references to the tokens. When one dies, the tensors go, unless the next call may bring others."""
        leave = WeakMethod(self.leave)
        self.tokens = tuple(WeakIdRef(token, lambda _: (method := leave()) and method()) for token in tokens)
        self.versions = count_writes(tokens)

    def is_known_by(self, tokens: Sequence[Any]) -> bool:
        return is_same(self.tokens, tokens) and self.versions == count_writes(tokens)

    def leave(self) -> None:
        if not self.is_joinable or self.tokens[0]() is None:
            self.forget()

    def forget(self) -> None:
        self.past, self.state, self.constants = [], {}, None

    def begins_anew(self, now: Now, kind: Kind) -> bool:
        """Whether a step belongs to another run: other inputs, or a step, a place or a timestep that does not follow.

        The first two timesteps give the direction; a run that nothing identifies falls. Second-order samplers repeat
        timesteps, but never the first. A step several times as wide as all before leads into another run.
        """
        if self.kind is None:
            return False
        if kind != self.kind or now.step is not None:
            return kind != self.kind or now.step != self.step + 1
        if None not in (now.place, self.place):
            so_far, step = self.place - self.first_place, now.place - self.place
            return abs(step) != 1 if so_far == 0 else step not in (0, 1 if so_far > 0 else -1)
        if None in (now.timestep, self.timestep):
            return False
        step, rounding = now.timestep - self.timestep, self.rounding(now.timestep)
        so_far = float("-inf") if self.is_anonymous or self.first is None else self.timestep - self.first
        turns = step * so_far < 0 and min(abs(step), abs(so_far)) > rounding
        return turns or now.timestep == self.first or abs(step) > WIDE * self.widest > WIDE * rounding

    def rounding(self, timestep: float) -> float:
        """How far two timesteps of the run may lie apart and be the same."""
        return ROUNDING * max(abs(timestep), abs(self.timestep or 0), abs(self.first or 0))

    def stands_at(self, now: Now) -> bool:
        """Whether a call is at the very step, place or timestep at which the run stands."""
        return now[:2] == (self.step if now.step is not None else None, self.timestep) and now.place == self.place

    def remember(self, computed: Computed, *, at_most: int) -> None:
        """Keep the `at_most` newest; one of the same timestep is replaced (second-order samplers ask twice)."""
        last = self.past[-1].timestep if self.past and computed.timestep is not None else None
        is_again = last is not None and abs(last - computed.timestep) <= self.rounding(computed.timestep)
        self.past = [*(self.past[:-1] if is_again else self.past), computed][-at_most:]

    def advance(self, now: Now, *, computes: bool) -> None:
        """Stand at a step that has been made, and count what is kept of it."""
        if not self.plan:
            self.first, self.first_place = now.timestep, now.place
        elif None not in (now.timestep, self.timestep):
            self.widest = max(self.widest, abs(now.timestep - self.timestep))
        self.step, self.timestep, self.place = now.step, now.timestep, now.place
        self.plan = Plan((*self.plan, computes))
        kept = tree_leaves((self.past, self.state, self.constants))
        distinct = {id(tensor): tensor.nbytes for tensor in kept if isinstance(tensor, Tensor)}
        self.peak_bytes = max(self.peak_bytes, sum(distinct.values()))


def is_same(known: Sequence[WeakIdRef], tokens: Sequence[Any]) -> bool:
    return len(known) == len(tokens) and all(each() is given for each, given in zip(known, tokens))


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
        self.last_step = -1  # of the runs that ended last
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
            last = mine[-1] if mine else Memory(name=name)
            known = next((run for run in mine if run.kind == kind and run.is_known_by(tokens)), None)
            joins = last.is_joinable and last.is_left and now.step and not last.begins_anew(now, kind)
            run = known or (last if joins else None)
            if run is not None:
                self.memories.remove(run)
            if run is None or run.begins_anew(now, kind):
                doubt = self._doubt(tokens, now, known, last)
                run = Memory(name=name, doubt=doubt, first_call=self.calls, is_joinable=now.step is not None)
                lonely = next((each for each in reversed(mine) if len(each.plan) == 1), None)
                run.lonely_runs = 0 if lonely is None else lonely.lonely_runs + (not lonely.stands_at(now))
                run.know_by(tokens)
                if last.is_left and last in self.memories:
                    self.memories.remove(last)
            elif run is known:
                run.is_joinable, run.doubt = False, run.doubt if run.doubt != JOINED else ""
            else:
                run.constants = None
                run.know_by(tokens)
            run.kind, run.last_call = kind, self.calls
            return run

    def _doubt(self, tokens: Sequence[Any], now: Now, known: Memory | None, last: Memory) -> str:
        """Why a run that begins may be a part of another; empty where it cannot be."""
        if known is not None and (known.stands_at(now) or now.step):
            return "two runs in turns share their conditioning"
        others = (run for run in self.memories if run.name == last.name and run.tokens[0]() is not tokens[0])
        if len(tokens) > 1 and any(is_same(run.tokens[1:], tokens[1:]) for run in others):
            return IN_THREADS
        began_before = last.is_joinable and last.is_left and len(last.plan) == 1 and now.step == 0
        return JOINED if now.step or began_before else ""

    def put(self, run: Memory) -> None:
        """Take a memory back after its call; the tensors of the least recently used are dropped."""
        with self.lock:
            self.memories = [*self.memories, run][-MAX_KNOWN:]
            for old in [run for run in self.memories if run.past][:-MAX_RUNS]:
                old.forget()
                old.doubt = f"more than {MAX_RUNS} runs are under way"

    def end(self, thread: object) -> dict[str, CacheStats]:
        """End the runs of a thread that were used after the last used run began.

        So a pipeline that is called in another one's callback ends alone.
        """
        with self.lock:
            mine = [run for run in self.memories if run.tokens[0]() is thread]
            ending = [run for run in mine if run.last_call >= mine[-1].first_call]
            self.memories = [run for run in self.memories if run not in ending and not run.is_left]
            self.last = named_stats(ending) or self.last
            self.last_step = max((run.step for run in ending), default=-1)
            return named_stats(ending)

    def stats(self) -> dict[str, CacheStats]:
        """Of the present runs by the name of their context, or of those that ended last."""
        with self.lock:
            present = [run for run in self.memories if run.is_joinable or not run.is_left]
            return named_stats(present or self.memories[-1:]) or self.last


def named_stats(runs: Sequence[Memory]) -> dict[str, CacheStats]:
    """By name, the run that began last first: "default", "default 2", ..."""
    stats: dict[str, CacheStats] = {}
    for run in sorted(runs, key=lambda run: -run.first_call):
        number = sum(name.partition(" ")[0] == run.name for name in stats) + 1
        name = run.name if number == 1 else f"{run.name} {number}"
        stats[name] = CacheStats(str(run.plan), run.plan.full, run.plan.cached, run.peak_bytes)
    return stats
