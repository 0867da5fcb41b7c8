"""The diffusers coat of Skip-Cache: one hook at the root of a model, and the mixin that puts it there.

This is the one module that imports private names of diffusers; `skipdit.pipelines` adds names to it (decision 0018).
"""

import warnings
from functools import partial
from typing import Any, NamedTuple

import torch
from diffusers.hooks import HookRegistry, ModelHook
from diffusers.hooks.group_offloading import _GROUP_OFFLOADING
from diffusers.hooks.hooks import CacheContext, StateManager
from diffusers.models.cache_utils import CacheMixin
from torch import Tensor

from skipdit.caching.config import SkipCacheConfig
from skipdit.caching.reuse import Kind, Memory, Now, Reuse
from skipdit.caching.schedule import ExplicitSteps

HOOK_NAME = "skip_cache"
DEFAULT_CONTEXT = CacheContext("default")


class CacheStats(NamedTuple):
    """What Skip-Cache did in a run: its plan ("#.#."), steps that computed and did not, and what it remembered at most.

    `bytes_remembered` are those of the tensors that it keeps from one step to the next: of the steps that the forecast
    is made of the deep features, with "residual" the shallow ones too; and what was worked out once of inputs that do
    not change, as projected text. The inputs themselves, ControlNet's among them, are the caller's and not counted.
    """

    plan: str
    full: int
    cached: int
    bytes_remembered: int

    @classmethod
    def of(cls, memory: Memory) -> "CacheStats":
        once = 0 if memory.once is None else nbytes(memory.once.value)
        return cls(str(memory.plan), memory.plan.full, memory.plan.cached, memory.peak_bytes + once)


class Memories(StateManager):
    """One memory a named cache context, and one for pipelines that open none."""

    @property
    def context(self) -> CacheContext:
        return self._context or DEFAULT_CONTEXT

    def items(self) -> dict[str, Memory]:
        return self._state_cache


class SkipCacheHook(ModelHook):
    """Puts `Reuse` in the place of the model's `compose`, and holds the memories of the present run.

    Not in the place of `forward`: so hooks that others have put around it (offloading, accelerate) run as they did.
    """

    _is_stateful = True

    def __init__(self, config: SkipCacheConfig):
        super().__init__()
        self.config = config
        self.reuse = Reuse(config.schedule, config.forecaster, config.branch)
        self.memories = Memories(Memory)
        self.last_run: dict[str, CacheStats] = {}

    def initialize_hook(self, module: torch.nn.Module) -> torch.nn.Module:
        module.compose = partial(self.compose, module)
        return module

    def deinitalize_hook(self, module: torch.nn.Module) -> torch.nn.Module:  # sic: diffusers' name
        del module.compose
        return module

    def compose(self, module: Any, **inputs: Any) -> Tensor:
        """Head, trunk or its forecast, and tail, as the schedule says."""
        check_inference(module)
        self.check_steps(self.memories.context)
        if not self.memories.get_state().computed:
            check_groups(module)
        hidden_states = inputs["hidden_states"]
        kind = Kind(hidden_states.shape, hidden_states.dtype, hidden_states.device)
        return self.reuse(module.rooms, self.memories.get_state(), self.now(inputs["timestep"]), kind, inputs)

    def now(self, timestep: Tensor | float) -> Now:
        """The step and timestep as far as they cost no wait: from the context, or from a tensor on the CPU.

        A tensor on an accelerator is read only if the schedule or the forecaster needs its value.
        """
        context = self.memories.context
        timestep = timestep if context.timestep is None else context.timestep
        if isinstance(timestep, Tensor) and timestep.device.type != "cpu" and not self.reuse.reads_timestep:
            return Now(context.step_index, None)
        return Now(context.step_index, one_timestep(timestep))

    def check_steps(self, context: CacheContext) -> None:
        schedule = self.reuse.schedule
        if context.num_inference_steps is not None and isinstance(schedule, ExplicitSteps):
            schedule.check_run(context.num_inference_steps)

    def stats(self) -> dict[str, CacheStats]:
        present = {name: CacheStats.of(memory) for name, memory in self.memories.items().items() if memory.computed}
        return present or self.last_run

    def reset_state(self, module: torch.nn.Module) -> torch.nn.Module:
        """End the run: keep its numbers, drop its tensors, and say so if the cache never fired."""
        ended = {name: CacheStats.of(memory) for name, memory in self.memories.items().items() if memory.computed}
        self.memories.reset()
        self.last_run = ended or self.last_run
        for stats in ended.values():
            warn_if_idle(stats, self.config)
            warn_of_steps_outside(stats, self.config)
        return module


class SkipCacheMixin(CacheMixin):
    """`enable_cache(SkipCacheConfig(...))` for a model of three rooms; other configs go to diffusers.

    The model brings `depth`, `rooms`, and a `forward` that calls `compose` with the arguments of `embed` by name, among
    them `hidden_states` and `timestep`.
    """

    def enable_cache(self, config: Any) -> None:
        """Turn a cache on, Skip-Cache for a `SkipCacheConfig`.

        Raises:
            ValueError: a cache is on already, `branch` does not fit the depth, or diffusers' cache finds nothing here.
        """
        if not isinstance(config, SkipCacheConfig):
            before = inner_hooks(self)
            super().enable_cache(config)
            self._check_hooked(config, before)
            return
        if self.is_cache_enabled:
            raise ValueError(f"a cache is on already ({self._cache_config}): call disable_cache() first")
        config.check_depth(self.depth)
        if 2 * config.branch == self.depth and config.interval != 1:
            message = f"branch {config.branch} leaves no trunk in {self.depth} layers: nothing is saved, only forecast"
            warnings.warn(message, stacklevel=2)
        registry = HookRegistry.check_if_exists_or_initialize(self)
        registry.register_hook(SkipCacheHook(config), HOOK_NAME)
        self._cache_config = config

    def disable_cache(self) -> None:
        """Turn the cache off, whichever it is; the model is then as it was before."""
        if not isinstance(self._cache_config, SkipCacheConfig):
            super().disable_cache()
            return
        HookRegistry.check_if_exists_or_initialize(self).remove_hook(HOOK_NAME, recurse=False)
        self._cache_config = None

    def cache_stats(self) -> dict[str, CacheStats]:
        """What Skip-Cache did in the present run, or in the last one where none is under way, by cache context.

        Pipelines that open no context (DiT, Latte, HunyuanDiT) have one, "default". Empty before the first run.
        Raises: ValueError where Skip-Cache is not on.
        """
        return skip_cache_hook(self).stats()

    def _check_hooked(self, config: Any, before: int) -> None:
        """diffusers' caches look for layers by class and pass over what they do not know; that must not go unsaid."""
        if inner_hooks(self) == before:
            super().disable_cache()
            found_none = f"{type(config).__name__} found no layer to hook in {type(self).__name__}"
            raise ValueError(f"{found_none}: use SkipCacheConfig")

    def __getstate__(self) -> dict[str, Any]:
        # diffusers' hooks are closures over this very model: a copy carries the setting and makes its own.
        state = super().__getstate__()
        if isinstance(self._cache_config, SkipCacheConfig):
            check_alone(self)
            for bound in ("forward", "compose", "_diffusers_hook"):
                del state[bound]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        config = state.get("_cache_config")
        if isinstance(config, SkipCacheConfig):
            super().__setstate__(state | {"_cache_config": None})
            self.enable_cache(config)
        else:
            super().__setstate__(state)


def skip_cache_hook(model: CacheMixin) -> SkipCacheHook:
    if not isinstance(model._cache_config, SkipCacheConfig):
        raise ValueError("Skip-Cache is not on: call enable_cache(SkipCacheConfig(...)) first")
    return model._diffusers_hook.get_hook(HOOK_NAME)


def inner_hooks(model: torch.nn.Module) -> int:
    """How many of diffusers' hooks hang on modules inside the model."""
    inner = (module for name, module in model.named_modules() if name)
    return sum(len(module._diffusers_hook.hooks) for module in inner if hasattr(module, "_diffusers_hook"))


def check_inference(module: torch.nn.Module) -> None:
    if module.training or torch.is_grad_enabled():
        raise RuntimeError(
            f"Skip-Cache is on while training is {module.training} and gradients are"
            f" {'on' if torch.is_grad_enabled() else 'off'}: use model.eval() and torch.no_grad(), or disable_cache()"
        )


def check_groups(module: torch.nn.Module) -> None:
    """Weights that are offloaded in groups come when the first layer of a group runs, which a cached step may skip."""
    for inner in module.modules():
        registry = getattr(inner, "_diffusers_hook", None)
        offloading = registry and registry.get_hook(_GROUP_OFFLOADING)
        if offloading and offloading.group.onload_leader not in (None, offloading.group.offload_leader):
            raise RuntimeError(
                f"layers are offloaded in groups of {len(offloading.group.modules)}, of which a cached step runs some:"
                " use num_blocks_per_group=1 or offload_type='leaf_level'"
            )


def check_alone(module: torch.nn.Module) -> None:
    others = [name for name in module._diffusers_hook.hooks if name != HOOK_NAME]
    if others or hasattr(module, "_hf_hook"):
        names = ", ".join(others) or "accelerate's"
        raise RuntimeError(f"a model with a cache and other hooks ({names}) cannot be copied: remove one of them first")


def nbytes(value: Any) -> int:
    """Of a tensor, or of all in a tuple; of anything else 0."""
    if isinstance(value, tuple):
        return sum(map(nbytes, value))
    return value.nbytes if isinstance(value, Tensor) else 0


def one_timestep(timestep: Tensor | float) -> float:
    """The timestep that all samples share, as a number; ValueError where they differ."""
    values = set(timestep.reshape(-1).tolist()) if isinstance(timestep, Tensor) else {timestep}
    if len(values) != 1:
        raise ValueError(f"timesteps differ within the batch ({sorted(values)}): Skip-Cache takes one timestep a call")
    return float(values.pop())


def warn_if_idle(stats: CacheStats, config: SkipCacheConfig) -> None:
    if not stats.cached and stats.full > 1 and config.interval != 1:
        warnings.warn(
            f"Skip-Cache never fired: all {stats.full} steps computed the trunk under {config}; widen the window, or"
            " name fewer steps",
            stacklevel=2,
        )


def warn_of_steps_outside(stats: CacheStats, config: SkipCacheConfig) -> None:
    """Pipelines that open no context do not say how long a run is; only its end shows that a step was never reached."""
    if config.steps is not None and config.steps[-1] >= stats.full + stats.cached:
        last = stats.full + stats.cached - 1
        message = f"steps name step {config.steps[-1]}, but the run ended at step {last}: name fewer"
        warnings.warn(message, stacklevel=2)
