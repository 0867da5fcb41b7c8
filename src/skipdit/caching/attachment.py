"""Skip-Cache on a model that somebody else wrote: name its layers in running order.

    layers   0 .. k-1  |  k .. L-k-1  |  L-k .. L-1
              head          trunk          tail

The trunk lies between the last layer of the head and the first of the tail. On a cached step its layers do nothing:
each returns zeros of the structure that it last returned, one element expanded, and the last returns the forecast. The
model's own loop, its skips, concatenations and controls run as they are; no forward is rewritten.

A layer with a cache has a subclass of its class (as FSDP2 has it), which asks whether to run before its hooks do. So it
comes off in any order beside other hooks, and state dicts and names stay.
"""

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from skipdit.caching.config import SkipCacheConfig
from skipdit.caching.hook import Interface, SkipCacheHook, SkipCacheMixin, bind, find_other_cache, signature_of
from skipdit.caching.layouts import LAYOUTS, Layout
from skipdit.caching.memory import CacheStats
from skipdit.caching.reuse import RunSeam

CROSSES_BESIDE = {"RFD4ProteinaTransformer": "a second stream", "MotifVideoTransformer3DModel": "the embedded video"}


def attach(model: nn.Module, *, layers: Sequence[str] = (), layout: Layout | None = None, **interface) -> "Attachment":
    """Make a loaded model ready for Skip-Cache.

    Args:
        model: of a class in `skipdit.caching.layouts.LAYOUTS`, or any other with `layers` or `layout`.
        layers: the path of its list of layers, or of all in running order, as ("transformer_blocks",).
        layout: all that a row of `LAYOUTS` can say, where `layers` is not enough.
        interface: beside `layers`, which arguments of `forward` are what (`skipdit.caching.hook.Interface`).

    Raises:
        ValueError: for a class without a layout, paths that lead to no module, a model that is attached already or has
            Skip-Cache itself, or one whose layers do not return all that crosses the trunk.
    """
    if not isinstance(model, nn.Module) or hasattr(model, "_orig_mod"):  # of `torch.compile`
        raise ValueError(f"model is a {type(model).__name__}: give a pipeline's transformer, and compile it afterwards")
    if isinstance(model, SkipCacheMixin):
        raise ValueError(f"{type(model).__name__} has Skip-Cache itself: call model.enable_cache(SkipCacheConfig(...))")
    if hasattr(model, "skipdit_attachment"):
        raise ValueError("the model is attached already: use that object, or detach(model) first")
    name = type(model).__name__
    if name in CROSSES_BESIDE:
        raise ValueError(f"{name} cannot be cached: {CROSSES_BESIDE[name]} passes by its layers and is not returned")
    if layers and layout is not None:
        raise ValueError("layers and layout given: a layout names the layers itself")
    if layers:
        lists = (layers,) if isinstance(layers, str) else tuple(layers)
        return Attachment(model, Layout(lists, Interface(**interface), has_skips=True), is_known=False)
    if interface:
        raise ValueError(f"{', '.join(interface)} given without layers: name the lists of layers, too")
    if layout is None and name not in LAYOUTS:
        raise ValueError(f"{name} is unknown: name its layers in running order, as layers=({first_list(model)!r},)")
    return Attachment(model, layout or LAYOUTS[name], is_known=layout is None)


def detach(model: nn.Module) -> None:
    """Take the cache off, and give the model back as it was. Raises: ValueError where it is not attached."""
    if not hasattr(model, "skipdit_attachment"):
        raise ValueError(f"{type(model).__name__} is not attached: nothing to detach")
    model.skipdit_attachment.detach()


class Attachment:
    """A model and its layers, with Skip-Cache on or off."""

    def __init__(self, model: nn.Module, layout: Layout, *, is_known: bool):
        self.model, self.layout, self.is_known = model, layout, is_known
        try:
            self.layers = layout.layers(model)
        except AttributeError as error:
            raise ValueError(f"layers name {', '.join(layout.lists)}: {error}") from None
        self.depth = len(self.layers)
        self.parts = [(index, part) for index, layer in enumerate(self.layers) for part in layer]
        if len({id(part) for _, part in self.parts}) < max(1, len(self.parts)):
            raise ValueError(f"layers name {', '.join(layout.lists)}: none, or some twice; name each list once")
        known, interface = signature_of(type(model)).parameters, layout.interface
        named = [interface.sample, interface.timestep, *(interface.constant or ())]
        named += [] if is_known else interface.changing
        if unknown := [name for name in named if name not in known]:
            takes = ", ".join(list(known)[1:])
            raise ValueError(f"{type(model).__name__}.forward has no argument {unknown[0]!r}: it takes {takes}")
        self.hook: AttachedHook | None = None
        model.skipdit_attachment = self

    def bypassed(self, config: SkipCacheConfig) -> range:
        """The layers that a cached step does not run: the trunk, and what nobody reads of the head."""
        config.check_depth(self.depth)
        head = config.branch if config.reads_shallow else self.layout.count_head(self.model, config.branch)
        return range(head, self.depth - config.branch)

    def enable_cache(self, config: SkipCacheConfig) -> None:
        """Turn Skip-Cache on. Raises: ValueError where a cache is on already, or the branch leaves no trunk."""
        self._check_attached()
        if not isinstance(config, SkipCacheConfig):
            raise ValueError(f"config is a {type(config).__name__}: give a SkipCacheConfig")
        if self.hook is not None or getattr(self.model, "is_cache_enabled", False):
            raise ValueError("a cache is on already: call disable_cache() first")
        if (other := find_other_cache(self.model)) is not None:
            raise ValueError(f"a cache is on already ({other}): remove its hooks first")
        if self.layout.loose and (config.branch == 0 or config.reads_shallow):
            takes = f"{type(self.model).__name__} takes a branch of at least 1, and hold or taylor"
            raise ValueError(f"branch is {config.branch}, forecast {config.forecast}: {takes}")
        hook, kinds = AttachedHook(config, self), [bypassing(type(part)) for _, part in self.parts]
        hook.put_on(self.model)
        self.hook = hook
        for index, (layer, part) in enumerate(self.parts):
            ends = part is self.layers[layer][0], part is self.layers[layer][-1]
            part.skipdit_place = Place(hook, layer, index, *ends, type(part))
            part.__class__ = kinds[index]

    def disable_cache(self) -> None:
        """Turn it off; the model is then as it was before. Raises: RuntimeError while another thread is in a call."""
        hook = self._check_on()
        others = {each.ident for each in threading.enumerate()} - {threading.get_ident()}
        if hook.open_calls & others:
            raise RuntimeError("another thread is in a call of the model: turn the cache off when it has ended")
        for _, part in self.parts:
            part.__class__ = part.skipdit_place.kind
            del part.skipdit_place
        hook.take_off(self.model)
        self.hook = None

    def cache_context(self, name: str, **fields: Any) -> AbstractContextManager[None]:
        """Name the run of a call, and say where it stands (`step_index=`); diffusers' models have it themselves."""
        self._check_attached()
        return nullcontext() if self.hook is None else self.hook.open_context(name, **fields)

    def cache_stats(self) -> dict[str, CacheStats]:
        """What Skip-Cache did in the present runs, or in the last, by cache context (see `SkipCacheMixin`)."""
        return self._check_on().runs.stats()

    def detach(self) -> None:
        """Take the cache off, and give the model back as it was."""
        self._check_attached()
        if self.hook is not None:
            self.disable_cache()
        del self.model.skipdit_attachment

    def _check_attached(self) -> None:
        if getattr(self.model, "skipdit_attachment", None) is not self:
            raise ValueError("the model was detached: call attach(model) again")

    def _check_on(self) -> "AttachedHook":
        self._check_attached()
        if self.hook is None:
            raise ValueError("Skip-Cache is not on: call enable_cache(SkipCacheConfig(...)) first")
        return self.hook


class Call(threading.local):
    """What the layers of a call look at, in each thread."""

    is_open: bool = False
    seam: RunSeam | None = None
    next_part: int = 0


class AttachedHook(SkipCacheHook):
    """Lays the seam of each call where the layers find it."""

    def __init__(self, config: SkipCacheConfig, attachment: Attachment):
        super().__init__(config, attachment.layout.interface)
        self.attachment, self.call, self.open_calls = attachment, Call(), set()
        self.is_checked = attachment.is_known
        self.trunk = range(config.branch, attachment.depth - config.branch)
        self.bypassed = attachment.bypassed(config)

    def __reduce__(self) -> tuple:
        raise RuntimeError("a model with an attached cache cannot be copied: detach it first, and attach the copy")

    @torch.compiler.disable
    def before(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        outside = self.attachment.layout.uncached_with
        is_outside = outside and bind(module, args, kwargs)[outside] is not None
        self.lay(None if is_outside else self.open_seam(module, args, kwargs))
        self.open_calls.add(threading.get_ident())

    @torch.compiler.disable
    def after(self, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        seam = self.close()
        if output is None or seam is None:
            return
        if seam.deep is None:
            raise ValueError(f"layer {self.trunk.stop - 1} did not run: name only layers that run in each call")
        if not self.is_checked:
            self.check_crossing(module, args, kwargs, seam, output)
        memory = seam.finish()
        memory.structures = seam.structures
        self.runs.put(memory)

    def close(self) -> RunSeam | None:
        """The call of this thread is over."""
        seam, self.call.seam, self.call.is_open = self.call.seam, None, False
        self.open_calls.discard(threading.get_ident())
        return seam

    def lay(self, seam: RunSeam | None) -> None:
        """Lay a seam where the layers of this thread's call find it."""
        if seam is not None:
            is_new = seam.deep is None and not seam.reads_shallow
            seam.structures = {} if is_new else dict(seam.memory.structures)
        self.call.is_open, self.call.seam, self.call.next_part = True, seam, 0

    def check_crossing(self, module: nn.Module, args: tuple, kwargs: dict, seam: RunSeam, output: Any) -> None:
        """Repeat the call without its trunk, which must change no bit, else raise ValueError: something passes by."""
        self.call.seam, self.call.next_part = seam, 0
        again = module.forward(*args, **kwargs)
        self.call.seam, self.is_checked = None, True
        pairs = zip(tree_leaves(output), tree_leaves(again), strict=True)
        if not all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs):
            beside = "something that the layers change passes by them"
            raise ValueError(f"{type(module).__name__} cannot be cached: {beside}, and is not returned by the last one")

    def run_part(self, place: "Place", compute: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
        """A part of a layer, or what stands in for it."""
        seam, layer = self.call.seam, place.layer
        if seam is None:
            if not self.call.is_open:
                self.warn_once("Skip-Cache is on, but layers run in a method of the model: call model(...) to cache it")
            return compute(*args, **kwargs)
        if place.part < self.call.next_part:
            raise ValueError(f"layer {layer} runs after a later one: name the layers in running order")
        self.call.next_part = place.part + 1
        if seam.reads_shallow and seam.deep is None and place.is_first and layer == self.trunk.start:
            seam.decide(next(each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)))
        is_loose = self.attachment.layout.loose
        if is_loose and place.is_first and layer == self.trunk.stop:
            args = (join_loose(seam, *args),)
        is_end = place.is_last and layer == self.trunk[-1] and not is_loose
        if layer in self.bypassed and seam.deep is not None:
            return seam.deep if is_end else tree_map(fill_in, seam.structures[place.part])
        output = compute(*args, **kwargs)
        if layer in self.bypassed:
            seam.structures[place.part] = tree_map(empty_out, output)
        if is_end:
            if self.forecaster.reads_shallow and getattr(output, "shape", None) != seam.shallow.shape:
                raise ValueError(f"forecast {self.config.forecast} needs layers that return one tensor: take taylor")
            if odd := [each for each in tree_leaves(output) if not isinstance(each, Tensor | int | float | None)]:
                raise ValueError(f"layer {layer} returns a {type(odd[0]).__name__}: layers must return tensors")
            seam.deep = output
        return output


def join_loose(seam: RunSeam, joined: Tensor) -> Tensor:
    """The [stream, skip] that enters the tail: the stream is remembered where it was computed, else replaced."""
    stream, skip = joined.chunk(2, dim=-1)
    if seam.deep is None:
        seam.deep = stream.contiguous()  # a copy: the view would keep the skip, too
        return joined
    return torch.cat([seam.deep, skip], dim=-1)


class Place(NamedTuple):
    """Where a part stands: in which layer, which part of all, whether first or last of its layer; and its own class."""

    hook: AttachedHook
    layer: int
    part: int
    is_first: bool
    is_last: bool
    kind: type[nn.Module]


@dataclass(frozen=True)
class Blank:
    """A tensor whose values nobody reads."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device


def empty_out(value: Any) -> Any:
    return Blank(value.shape, value.dtype, value.device) if isinstance(value, Tensor) else value


def fill_in(value: Any) -> Any:
    """Zeros, one element expanded, in the place of a blank."""
    if not isinstance(value, Blank):
        return value
    return torch.zeros((), dtype=value.dtype, device=value.device).expand(value.shape)


class Bypassing:
    """What the class of a layer gains while a cache is on."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        hook = self.skipdit_place.hook
        try:
            return hook.run_part(self.skipdit_place, super().__call__, args, kwargs)
        except BaseException:  # PyTorch's hooks are told of errors, but not of Ctrl-C
            hook.close()
            raise


@cache
def bypassing(kind: type[nn.Module]) -> type[nn.Module]:
    return type(kind.__name__, (Bypassing, kind), {"__module__": kind.__module__, "__qualname__": kind.__qualname__})


def first_list(model: nn.Module) -> str:
    """The path of the longest list of modules, to be proposed."""
    lists = {name: len(each) for name, each in model.named_modules() if isinstance(each, nn.ModuleList)}
    return max(lists, key=lists.get, default="blocks")
