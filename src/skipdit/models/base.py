"""What every model of the package shares: the three rooms of `nn`, as a diffusers model that can be cached."""

from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from torch import Tensor

from skipdit.caching.hook import SkipCacheMixin
from skipdit.nn.rooms import LongSkipTransformer, Rooms
from skipdit.nn.skips import fuse_skip


class LongSkipModel(LongSkipTransformer, SkipCacheMixin, ModelMixin, ConfigMixin):
    """A long-skip transformer that saves, loads, caches, offloads, compiles and checkpoints like a diffusers model."""

    _supports_gradient_checkpointing = True
    channel_dim = 1  # where inputs and outputs have their channels
    _compiled_rooms: Rooms | None = None

    def __init__(self) -> None:
        super().__init__()
        self.gradient_checkpointing = False

    @property
    def rooms(self) -> Rooms:
        """Head, trunk and tail as three callables, compiled ones after `compile()`."""
        return self._compiled_rooms or super().rooms

    def compile(self, **options: Any) -> None:
        """Compile head, trunk and tail apart, for full and cached steps alike; takes torch.compile's options."""
        head, trunk, tail, *constants = super().rooms
        self._compiled_rooms = Rooms(*(torch.compile(room, **options) for room in (head, trunk, tail)), *constants)

    def fuse(self, index: int, stream: Tensor, skip: Tensor) -> Tensor:
        return fuse_skip(stream, skip, self.skip_norms[index], self.skip_linears[index], fuse=self.config.fuse)

    def example_inputs(self, batch: int = 1) -> dict[str, Tensor]:
        """Keyword arguments of one call at the model's own size, all zeros, where the model is."""
        raise NotImplementedError

    def call_layer(self, layer: torch.nn.Module, *inputs: Tensor | None) -> Tensor:
        """Run one layer, under activation checkpointing where it is enabled and gradients flow."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(layer, *inputs)
        return layer(*inputs)

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        state.pop("_compiled_rooms", None)  # bound to this very model
        return state
