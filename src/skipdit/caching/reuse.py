"""The seam: the one place where a remembered tensor meets a model.

    deep = seam(shallow, compute)           in the place of          deep = compute()

A step that computes calls the trunk and remembers its output; another one forecasts it. Head and tail run as they are.
Where neither the schedule nor the forecast reads the shallow feature, both are done before the model is called. Then
the call is one graph for `torch.compile`, and of the head only the layers run whose skips are open.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from skipdit.caching.forecast import Computed, Forecaster
from skipdit.caching.memory import Kind, Memory, count_writes
from skipdit.caching.schedule import Guarded, Now

__all__ = ["Kind", "Memory", "Now", "RunSeam"]


class RunSeam:
    """One step of a run, handed to the model with its call (`skipdit.nn.rooms.Seam`).

    `deep` is None until it is forecast or computed; in a model that somebody else wrote it may be a structure of
    tensors, as (image, text). `constants` is what the model computes once from constant inputs.
    """

    def __init__(self, schedule: Guarded, forecaster: Forecaster, cut: int, memory: Memory, now: Now):
        self.schedule, self.forecaster, self.cut, self.memory = schedule, forecaster, cut, memory
        step = memory.step + 1 if now.step is None else now.step
        self.now = now._replace(step=step, previous=memory.timestep, since=memory.plan.since)
        self.reads_shallow = schedule.reads_shallow or forecaster.reads_shallow
        self.shallow: Tensor | None = None
        self.deep: Any = None
        # Inference tensors may be written to without a trace; then nothing that was made of them is kept.
        self.constants: Any = None if None in memory.versions else memory.constants
        if not self.reads_shallow:
            self.decide(None)

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
        memory = self.memory
        asked = self.schedule(self.now, shallow, memory.state)
        self.computes = asked or not memory.past or bool(memory.doubt)
        self.shallow = shallow if self.forecaster.reads_shallow else None
        if not self.computes:
            self.deep = forecast_leaves(self.forecaster, memory.past, self.now.timestep, self.shallow)

    def finish(self) -> Memory:
        """The memory after this step."""
        memory, now = self.memory, self.now
        if self.computes:
            timestep = now.timestep if self.forecaster.reads_timestep else None
            writes = count_writes(tree_leaves(self.deep))
            memory.remember(Computed(timestep, self.shallow, self.deep, writes), at_most=self.forecaster.memory)
        memory.constants = self.constants
        memory.advance(now, computes=self.computes)
        if self.schedule.ends_reuse(now.timestep):
            memory.past = []
        return memory


def forecast_leaves(
    forecaster: Forecaster, past: Sequence[Computed], timestep: float | None, shallow: Tensor | None
) -> Any:
    """The forecast of each tensor in the remembered structures; what is no tensor of numbers stays as it was last.

    Raises: ValueError where somebody wrote into a remembered tensor, or where a forecast is no tensor like it.
    """
    if any(step.writes != count_writes(tree_leaves(step.deep)) for step in past):
        raise ValueError("what Skip-Cache remembers was written into: clone outputs before you change them in place")
    leaves, (*_, structure) = zip(*(tree_flatten(step.deep) for step in past), strict=True)
    predicted = []
    for each in zip(*leaves, strict=True):
        predicted.append(each[-1])
        if isinstance(each[-1], Tensor) and each[-1].is_floating_point():
            known = [step._replace(deep=leaf) for step, leaf in zip(past, each)]
            predicted[-1] = forecaster.predict(known, timestep, shallow)
            check_forecast(predicted[-1], each[-1])
    return tree_unflatten(predicted, structure)


def check_forecast(forecast: Any, like: Tensor) -> None:
    wanted = (like.shape, like.dtype, like.device)
    given = (forecast.shape, forecast.dtype, forecast.device) if isinstance(forecast, Tensor) else type(forecast)
    if given != wanted:
        raise ValueError(f"forecast returned {given}: it must be a tensor like the remembered one, {wanted}")
