"""The seam: the one place where a remembered tensor meets a model.

    deep = seam(shallow, compute)           in the place of          deep = compute()

A step that computes calls the trunk and remembers its output; another one forecasts it. Head and tail run as they are.
Where neither the schedule nor the forecast reads the shallow feature, both are done before the model is called. Then
the call is one graph for `torch.compile`, and of the head only the layers run whose skips are open.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from skipdit.caching.forecast import Computed, Forecaster
from skipdit.caching.memory import Kind, Memory
from skipdit.caching.schedule import Now, Schedule

__all__ = ["Kind", "Memory", "Now", "Reuse", "Seam"]


@dataclass(frozen=True)
class Reuse:
    """Skip-Cache as a value: when (schedule), what (forecaster) and where (cut)."""

    schedule: Schedule
    forecaster: Forecaster
    cut: int

    @property
    def reads_timestep(self) -> bool:
        return self.schedule.reads_timestep or self.forecaster.reads_timestep

    def begin(self, memory: Memory, now: Now) -> "Seam":
        """Begin a step of the run; `now` tells the step and the timestep as far as they are known."""
        step = memory.step + 1 if now.step is None else now.step
        seam = Seam(self, memory, Now(step, now.timestep, memory.timestep, memory.plan.since))
        if not seam.reads_shallow:
            seam.decide(None)
        return seam


class Seam:
    """One step of a run, handed to the model with its call.

    `deep` is None until it is forecast or computed; `constants` is what the model computes once from constant inputs.
    """

    def __init__(self, reuse: Reuse, memory: Memory, now: Now):
        self.reuse, self.memory, self.now = reuse, memory, now
        self.cut = reuse.cut
        self.reads_shallow = reuse.schedule.reads_shallow or reuse.forecaster.reads_shallow
        self.shallow: Tensor | None = None
        self.deep: Tensor | None = None
        # Inference tensors may be written to without a trace; then nothing that was made of them is kept.
        self.constants: Any = None if None in memory.versions else memory.constants

    def __call__(self, shallow: Tensor, compute: Callable[[], Tensor]) -> Tensor:
        """The deep feature of this step; `compute` runs the trunk."""
        if self.reads_shallow:
            self.decide(shallow)
        if self.deep is None:
            self.deep = compute()
        return self.deep

    @torch.compiler.disable  # Python looks at the feature: the graph ends here and goes on behind
    def decide(self, shallow: Tensor | None) -> None:
        """Ask the schedule, and if it says so, forecast."""
        memory, forecaster = self.memory, self.reuse.forecaster
        self.computes = bool(self.reuse.schedule(self.now, shallow, memory.state)) or not memory.past
        self.shallow = shallow if forecaster.reads_shallow else None
        if not self.computes:
            self.deep = forecaster.predict(memory.past, self.now.timestep, self.shallow)

    def finish(self) -> Memory:
        """The memory after this step."""
        memory, now, forecaster = self.memory, self.now, self.reuse.forecaster
        if self.computes:
            timestep = now.timestep if forecaster.reads_timestep else None
            memory.remember(Computed(timestep, self.shallow, self.deep), at_most=forecaster.memory)
        memory.constants = self.constants
        memory.count_bytes()
        memory.first = memory.first if memory.plan else now.timestep
        memory.step, memory.timestep = now.step, now.timestep
        memory.plan = memory.plan.then(self.computes)
        if self.reuse.schedule.ends_reuse(now.timestep):
            memory.past = []
        return memory
