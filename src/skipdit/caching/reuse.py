"""The only place where a remembered tensor meets a model.

    full step     deep = trunk(head),  remember deep        cached step   deep = forecast(remembered)
    both          output = tail(deep, fresh skips)

A cached step runs head and tail, 2 k of L layers at cut k. What the head makes of inputs that do not change, as text,
it makes once a run: that is exact, and done at full steps too. What is remembered belongs to one run and lives in a
`Memory` that the caller holds; the model is given it and keeps nothing.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from skipdit.caching.forecast import Computed, Forecaster
from skipdit.caching.schedule import Plan, Schedule


class Rooms(Protocol):
    """A model as head, trunk and tail (`skipdit.nn.rooms.LongSkipTransformer`)."""

    constant_inputs: tuple[str, ...]

    def constants(self, **inputs: Any) -> Any: ...
    def head(self, cut: int, **inputs: Any) -> Any: ...
    def trunk(self, cut: int, stream: Tensor, context: Any) -> Tensor: ...
    def tail(self, cut: int, deep: Tensor, skips: Any, context: Any) -> Tensor: ...


class Kind(NamedTuple):
    """What must not change within a run."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device


class Now(NamedTuple):
    """Where a run stands: the step (None: one after the last) and the timestep (None: not known without waiting)."""

    step: int | None = None
    timestep: float | None = None


class Once(NamedTuple):
    """What a run works out of inputs that do not change, with these inputs and the versions that they had."""

    inputs: tuple[Any, ...]
    versions: tuple[Any, ...]
    value: Any

    def holds_for(self, inputs: tuple[Any, ...]) -> bool:
        """Whether these are the very same objects, with nothing written into them since."""
        same = all(mine is given for mine, given in zip(self.inputs, inputs, strict=True))
        return same and self.versions == tuple(map(version, inputs))


def version(value: Any) -> Any:
    """How often a tensor has been written to; of an inference tensor nobody counts it, so that none is as before."""
    if not isinstance(value, Tensor):
        return None
    return object() if value.is_inference() else value._version


@dataclass
class Memory:
    """What one run remembers: the last computed steps, where it stands, and what it has done so far."""

    past: list[Computed] = field(default_factory=list)
    once: Once | None = None
    kind: Kind | None = None
    step: int = -1
    first: float | None = None  # the run's first timestep
    timestep: float | None = None
    computed: list[bool] = field(default_factory=list)
    peak_bytes: int = 0

    @property
    def plan(self) -> Plan:
        return Plan(self.computed)

    def reset(self) -> None:
        self.__init__()

    def begins_anew(self, now: Now, kind: Kind) -> bool:
        """Whether a step belongs to another run: other inputs, a step that does not follow, a timestep that goes back.

        Timesteps descend within a run. Second-order samplers repeat one, but never the first.
        """
        if self.kind is None:
            return False
        known = None not in (now.timestep, self.timestep)
        goes_back = known and (now.timestep > self.timestep or now.timestep == self.first)
        return goes_back or kind != self.kind or (now.step is not None and now.step != self.step + 1)

    def with_constants(self, rooms: Rooms, inputs: dict[str, Any]) -> dict[str, Any]:
        """The inputs, and what a model works out of those that do not change, worked out anew only if they did."""
        if not rooms.constant_inputs:
            return inputs
        given = tuple(inputs.get(name) for name in rooms.constant_inputs)
        if self.once is None or not self.once.holds_for(given):
            named = dict(zip(rooms.constant_inputs, given, strict=True))
            value = rooms.constants(hidden_states=inputs["hidden_states"], **named)
            self.once = Once(given, tuple(map(version, given)), value)
        return inputs | {"constants": self.once.value}

    def remember(self, computed: Computed, *, at_most: int) -> None:
        """Keep the `at_most` newest; one of the same timestep is replaced (second-order samplers ask twice)."""
        if self.past and computed.timestep is not None and self.past[-1].timestep == computed.timestep:
            self.past.pop()
        self.past = [*self.past, computed][-at_most:]
        held = [tensor for step in self.past for tensor in (step.shallow, step.deep) if tensor is not None]
        self.peak_bytes = max(self.peak_bytes, sum(tensor.nbytes for tensor in held))


@dataclass(frozen=True)
class Reuse:
    """Skip-Cache as a value: when (schedule), what (forecaster) and where (cut)."""

    schedule: Schedule
    forecaster: Forecaster
    cut: int

    @property
    def reads_timestep(self) -> bool:
        return self.schedule.reads_timestep or self.forecaster.reads_timestep

    def __call__(self, rooms: Rooms, memory: Memory, now: Now, kind: Kind, inputs: dict[str, Any]) -> Tensor:
        """One forward pass of `rooms` on `inputs`, computed or forecast as the schedule says.

        `now.timestep` may be None where `reads_timestep` is False. A call that raises leaves the memory empty.
        """
        if memory.begins_anew(now, kind):
            memory.reset()
        try:
            sample = self._step(rooms, memory, now, inputs)
        except BaseException:
            memory.reset()
            raise
        memory.kind = kind
        return sample

    def _step(self, rooms: Rooms, memory: Memory, now: Now, inputs: dict[str, Any]) -> Tensor:
        step = memory.step + 1 if now.step is None else now.step
        computes = not memory.past or self.schedule(step, now.timestep, memory.timestep)
        shallow = rooms.head(self.cut, **memory.with_constants(rooms, inputs))
        if computes:
            deep = rooms.trunk(self.cut, shallow.stream, shallow.context)
            memory.remember(self._what_counts(now, shallow.stream, deep), at_most=self.forecaster.memory)
        else:
            deep = self.forecaster.predict(memory.past, now.timestep, shallow.stream)
        sample = rooms.tail(self.cut, deep, shallow.skips, shallow.context)
        memory.first = memory.first if memory.computed else now.timestep
        memory.step, memory.timestep = step, now.timestep
        memory.computed.append(computes)
        if self.schedule.ends_reuse(now.timestep):
            memory.past = []
        return sample

    def _what_counts(self, now: Now, shallow: Tensor, deep: Tensor) -> Computed:
        return Computed(
            now.timestep if self.forecaster.reads_timestep else None,
            shallow if self.forecaster.reads_shallow else None,
            deep,
        )
