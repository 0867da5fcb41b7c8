"""The diffusers coat of Skip-Cache: one hook at the root of a model, and the mixin that puts it there.

Before a call the hook finds the run and opens the seam; after it, it keeps what the call left. It stands around the
whole call and wraps no `forward`, so that it comes off in any order beside other hooks (offloading, accelerate). It has
a place in diffusers' registry for what it hears there: cache contexts, and the end of a pipeline.

This is the one module that imports private names of diffusers; `skipdit.pipelines` adds names to it (decision 0018).
"""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from inspect import Signature, signature
from typing import Any

import numpy as np
import torch
from diffusers.hooks import HookRegistry, ModelHook
from diffusers.hooks.group_offloading import _GROUP_OFFLOADING
from diffusers.hooks.hooks import CacheContext, HookFunctionReference, StateManager
from diffusers.models.cache_utils import CacheMixin
from torch import Tensor
from torch.utils._pytree import tree_leaves

from skipdit.caching.config import SkipCacheConfig
from skipdit.caching.memory import IN_THREADS, CacheStats, Kind, Memory, Runs
from skipdit.caching.reuse import RunSeam
from skipdit.caching.schedule import Now

HOOK_NAME = "skip_cache"
CACHES_OF_DIFFUSERS = ("_cache", "pyramid_attention_broadcast", "taylorseer")  # in names of their modules
DEFAULT_CONTEXT = CacheContext("default")
LONELY_RUNS = 2  # of one call each, in a row: conditioning is new at each step
VALUES = (type(None), bool, int, float, str, bytes, torch.dtype, torch.device, np.ndarray, np.generic)
REMEDY = "give each call of a run the same tensors, or open cache_context(name, step_index=i) with a name for each run"


class Contexts(threading.local, StateManager):
    """The cache context of each thread, as diffusers sets it."""

    def __init__(self) -> None:
        self._context = None

    @property
    def context(self) -> CacheContext:
        return self._context or DEFAULT_CONTEXT


@dataclass(frozen=True)
class Interface:
    """Which arguments of a model's `forward` are what.

    `constant` names what is the same at every step of a run, as text: a run is known by it. None: whatever is neither
    the sample nor the timestep nor in `changing`. `own_timesteps` pairs an input with its own timestep: unless that is
    0, the input is noise, and changes. `scale` and `ascends` make the timestep a noise level, which falls from 1000 to
    0: scale * t, or 1000 - scale * t.
    """

    sample: str = "hidden_states"
    timestep: str = "timestep"
    constant: tuple[str, ...] | None = None
    changing: tuple[str, ...] = ()
    own_timesteps: tuple[tuple[str, str], ...] = ()
    scale: float = 1.0
    ascends: bool = False

    def conditioning(self, inputs: dict[str, Any]) -> list[Any]:
        """Tensors and other objects, by which a run is known, and plain values, which must not change within it."""
        noise = [name for name, timestep in self.own_timesteps if not is_zero(inputs[timestep])]
        others = (self.sample, self.timestep, "return_dict", *self.changing, *noise)
        names = [name for name in inputs if name not in others] if self.constant is None else self.constant
        return tree_leaves([inputs.get(name) for name in names])

    def noise_level(self, timestep: Tensor | float) -> float:
        """The noise level that all samples share. Where each token has its own, the noisiest counts.

        Raises: ValueError where samples differ, or for what is no number.
        """
        try:
            values = timestep if isinstance(timestep, Tensor) else torch.as_tensor(timestep, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f"timestep is {timestep!r}: give a number, or one for each sample") from None
        if values.ndim > 1:
            values = values.amin(-1) if self.ascends else values.amax(-1)
        if len(distinct := set(values.reshape(-1).tolist())) != 1:
            remedy = "Skip-Cache takes one timestep a call"
            raise ValueError(f"timesteps differ within the batch ({sorted(distinct)}): {remedy}")
        level = self.scale * float(distinct.pop())
        return 1000 - level if self.ascends else level


class SkipCacheHook(ModelHook):
    """Hands each call of a model the seam of its run. A copy of it has the same settings and no memory."""

    _is_stateful = True

    def __init__(self, config: SkipCacheConfig, interface: Interface):
        super().__init__()
        self.config, self.forecaster, self.interface = config, config.forecaster, interface
        self.contexts, self.runs, self.warnings = Contexts(), Runs(), set()

    def __reduce__(self) -> tuple:
        return type(self), (self.config, self.interface), {"handles": self.handles}

    def put_on(self, model: torch.nn.Module) -> None:
        registry = HookRegistry.check_if_exists_or_initialize(model)
        registry.hooks[HOOK_NAME] = self
        # First, where it is nobody's successor: no other hook is taken off through the one behind it.
        registry._hook_order.insert(0, HOOK_NAME)
        registry._fn_refs.insert(0, HookFunctionReference())
        before = model.register_forward_pre_hook(self.before, with_kwargs=True, prepend=True)
        self.handles = before, model.register_forward_hook(self.after, with_kwargs=True, always_call=True)
        if isinstance(model, CacheMixin):
            model._cache_config = self.config
        else:  # what pipelines call at their end
            model._reset_stateful_cache = partial(self.reset_state, model)

    def take_off(self, model: torch.nn.Module) -> None:
        registry = model._diffusers_hook
        index = registry._hook_order.index(HOOK_NAME)
        del registry.hooks[HOOK_NAME], registry._hook_order[index], registry._fn_refs[index]
        for handle in self.handles:
            handle.remove()
        if isinstance(model, CacheMixin):
            model._cache_config = None
        else:
            del model._reset_stateful_cache

    @contextmanager
    def open_context(self, name: str, **fields: Any) -> Iterator[None]:
        """What `cache_context` of diffusers does, for a model that has none."""
        self.contexts.set_context(CacheContext(name, **fields))
        try:
            yield
        finally:
            self.contexts.set_context(None)

    @torch.compiler.disable
    def before(self, module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """Hand the call its seam."""
        return args, kwargs | {"seam": self.open_seam(module, args, kwargs)}

    @torch.compiler.disable
    def after(self, module: torch.nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        """Keep what the call left in its seam, unless it raised."""
        if output is not None:
            self.runs.put(kwargs["seam"].finish())

    def open_seam(self, module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> RunSeam:
        """The seam of a call's run."""
        check_inference(module)
        schedule, context = self.config.schedule, self.contexts.context
        if context.num_inference_steps is not None:
            schedule.check_run(context.num_inference_steps)
        inputs = bind(module, args, kwargs)
        given = inputs[self.interface.timestep]
        timestep = given if context.timestep is None else context.timestep
        table, place = table_of(given)
        conditioning = self.interface.conditioning(inputs)
        costs_a_wait = isinstance(timestep, Tensor) and timestep.device.type != "cpu"
        is_needed = schedule.reads_timestep or self.forecaster.reads_timestep
        is_read = not costs_a_wait or is_needed or (place is None and context.step_index is None)
        now = Now(context.step_index, self.interface.noise_level(timestep) if is_read else None, place=place)
        kind = kind_of(module, inputs, self.interface, [each for each in conditioning if isinstance(each, VALUES)])
        objects = [each for each in conditioning if not isinstance(each, VALUES)]
        run = self.runs.take(context.name, [threading.current_thread(), *table, *objects], now, kind)
        if not run.plan:
            check_groups(module)
        self.warn_of(run, now, type(module).__name__)
        return RunSeam(schedule, self.forecaster, self.config.branch, run, now)

    def reset_state(self, module: torch.nn.Module) -> torch.nn.Module:
        """A pipeline ends: drop the tensors of its runs, and say so if the cache never fired."""
        ending = self.runs.end(threading.current_thread()).values()
        full, cached = sum(stats.full for stats in ending), sum(stats.cached for stats in ending)
        if not cached and full > 1 and self.config.interval != 1:
            never = f"Skip-Cache never fired: all {full} steps computed the trunk"
            warn(f"{never}; widen the window, name fewer steps, or {REMEDY}")
        last = self.runs.last_step
        if ending and self.config.steps is not None and self.config.steps[-1] > last:
            warn(f"steps name step {self.config.steps[-1]}, but the run ended at step {last}: name fewer")
        return module

    def warn_of(self, run: Memory, now: Now, model: str) -> None:
        """Say once why a run is not cached, or not told from another."""
        message = ""
        if run.doubt and (run.plan or run.doubt == IN_THREADS):
            message = f"{run.doubt}, so that every step computes: {REMEDY}"
        elif run.lonely_runs >= LONELY_RUNS:
            message = f"each call brings other conditioning tensors, so that nothing is cached: {REMEDY}"
        elif run.is_anonymous and now.step is None and run.past:
            below = "a run that begins below the timestep where another was broken off cannot be told from it"
            message = f"this run has no conditioning, and {below}: open cache_context(name, step_index=i)"
        if message:
            self.warn_once(f"Skip-Cache of {model}: {message}")

    def warn_once(self, message: str) -> None:
        if message not in self.warnings:
            self.warnings.add(message)
            warn(message)


class SkipCacheMixin(CacheMixin):
    """`enable_cache(SkipCacheConfig(...))` for a model of three rooms; other configs go to diffusers.

    The model brings `depth`, `constant_inputs` and a `forward` that takes `hidden_states`, `timestep` and `seam`.
    """

    def enable_cache(self, config: Any) -> None:
        """Turn a cache on, Skip-Cache for a `SkipCacheConfig`. It acts on calls of the model, not of its `forward`.

        Raises:
            ValueError: a cache is on already, `branch` does not fit the depth, or diffusers' cache finds nothing here.
        """
        if not isinstance(config, SkipCacheConfig):
            before = count_inner_hooks(self)
            super().enable_cache(config)
            if count_inner_hooks(self) == before:  # diffusers passes over layers of classes that it does not know
                super().disable_cache()
                found_none = f"{type(config).__name__} found no layer to hook in {type(self).__name__}"
                raise ValueError(f"{found_none}: use SkipCacheConfig")
            return
        if self.is_cache_enabled:
            raise ValueError(f"a cache is on already ({self._cache_config}): call disable_cache() first")
        config.check_depth(self.depth)
        SkipCacheHook(config, Interface(constant=self.constant_inputs)).put_on(self)

    def disable_cache(self) -> None:
        """Turn the cache off, whichever it is; the model is then as it was before."""
        if not isinstance(self._cache_config, SkipCacheConfig):
            super().disable_cache()
            return
        skip_cache_hook(self).take_off(self)

    def cache_stats(self) -> dict[str, CacheStats]:
        """What Skip-Cache did in the present runs, or in the last where none is under way, by cache context.

        Pipelines that open no context (DiT, Latte, HunyuanDiT) have "default"; where several runs are under way, the
        later ones come first: "default", "default 2". Empty before the first run.
        Raises: ValueError where Skip-Cache is not on.
        """
        return skip_cache_hook(self).runs.stats()

    def __getstate__(self) -> dict[str, Any]:
        if isinstance(self._cache_config, SkipCacheConfig):
            check_alone(self)
        return super().__getstate__()


def skip_cache_hook(model: CacheMixin) -> SkipCacheHook:
    if not isinstance(model._cache_config, SkipCacheConfig):
        raise ValueError("Skip-Cache is not on: call enable_cache(SkipCacheConfig(...)) first")
    return model._diffusers_hook.get_hook(HOOK_NAME)


def warn(message: str) -> None:
    warnings.warn(message, stacklevel=2)


def is_zero(timestep: Any) -> bool:
    """Of a number; a tensor is a step of the loop, which falls to 0 only at its end."""
    return not isinstance(timestep, Tensor) and timestep == 0


@cache
def signature_of(model: type) -> Signature:
    return signature(model.forward)


def bind(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call by their names, with defaults. Raises: TypeError where `forward` would."""
    bound = signature_of(type(module)).bind(module, *args, **kwargs)
    bound.apply_defaults()
    return dict(list(bound.arguments.items())[1:])


def find_other_cache(model: torch.nn.Module) -> str | None:
    """The name of a cache of diffusers on a module inside the model, however it was put there."""
    registries = [getattr(inner, "_diffusers_hook", None) for inner in model.modules()]
    hooks = [hook for each in registries if each is not None for hook in each.hooks.values()]
    others = [hook for hook in hooks if not isinstance(hook, SkipCacheHook)]
    found = [type(hook) for hook in others if any(word in type(hook).__module__ for word in CACHES_OF_DIFFUSERS)]
    return found[0].__name__ if found else None


def table_of(timestep: Any) -> tuple[list, int | None]:
    """The table where the timestep is a view of one entry, as a storage, and the place of the entry in it."""
    if not isinstance(timestep, Tensor) or (timestep.numel() > 1 and any(timestep.stride())):
        return [], None
    table = timestep.untyped_storage()
    return ([table], timestep.storage_offset()) if table.nbytes() > timestep.itemsize else ([], None)


def kind_of(module: torch.nn.Module, inputs: dict[str, Any], interface: Interface, values: list[Any]) -> Kind:
    first, *others = (each for each in tree_leaves(inputs[interface.sample]) if isinstance(each, Tensor))
    settings = [(name, value) for name, value in inputs.items() if isinstance(value, bool | int)]
    left_out = (interface.timestep, "return_dict", *interface.changing)
    settings = [(name, value) for name, value in settings if name not in left_out]
    settings += [("weights", next(module.parameters()).dtype), *(("shape", each.shape) for each in others)]
    settings += [("value", each.tobytes() if isinstance(each, np.ndarray) else str(each)) for each in values]
    return Kind(first.shape, first.dtype, first.device, tuple(settings))


def count_inner_hooks(model: torch.nn.Module) -> int:
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
    """Other hooks are closures over the very model that they hang on, so that a copy would run on its weights."""
    others = [name for name in module._diffusers_hook.hooks if name != HOOK_NAME]
    if others or hasattr(module, "_hf_hook"):
        names = ", ".join(others) or "accelerate's"
        raise RuntimeError(f"a model with a cache and other hooks ({names}) cannot be copied: remove one of them first")
