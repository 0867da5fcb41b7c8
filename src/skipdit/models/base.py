"""What every model of the package shares: the three rooms of `nn`, as a diffusers model that can be cached."""

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.utils import is_accelerate_available
from huggingface_hub import CommitInfo, HfApi
from torch import Tensor

from skipdit.caching.hook import SkipCacheMixin
from skipdit.nn.rooms import LongSkipTransformer, Rooms
from skipdit.nn.skips import fuse_skip


class PublishedWithCard:
    """diffusers' `push_to_hub`, but with the model card of `skipdit.hub` in the place of a nearly empty one."""

    def push_to_hub(
        self,
        repo_id: str,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        create_pr: bool = False,
        safe_serialization: bool = True,
        variant: str | None = None,
        subfolder: str | None = None,
        *,
        numbers: Path | str | None = None,
        numbers_of: str | None = None,
        licence: str | None = None,
        base_model: str | None = None,
    ) -> CommitInfo:
        """Upload with a model card: what it is, how to draw with it, and what was measured of it.

        Arguments behind the * and errors are those of `skipdit.hub.push_to_hub`, the others are diffusers' own.

        Args:
            repo_id: "you/name", or "name" alone in your account.
            private: of a new repository; left out, as the account makes them.
            safe_serialization, variant, subfolder: cannot be honoured, so that they are errors.
            numbers: JSON file that `skipdit bench` or a script of benchmarks/ wrote.
            numbers_of: which model of that file, where it has several.
            licence: as the hub abbreviates it, "apache-2.0".
            base_model: repository on the hub from whose weights these were made.
        """
        # By its name: that room is built upon this one, and no import leads back.
        publish = import_module("skipdit.hub.publish")
        publish.check_honoured(safe_serialization=safe_serialization, variant=variant, subfolder=subfolder)
        return publish.push_to_hub(
            self, repo_id, numbers=numbers, numbers_of=numbers_of, licence=licence, base_model=base_model,
            private=private, commit_message=commit_message, create_pr=create_pr, api=HfApi(token=token),
        )  # fmt: skip


class LongSkipModel(PublishedWithCard, LongSkipTransformer, SkipCacheMixin, ModelMixin, ConfigMixin):
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
        return self._compiled_rooms or Rooms(self.head, self.trunk, self.tail)

    def compile(self, **options: Any) -> None:
        """Compile head, trunk and tail apart, for full and cached steps alike; takes torch.compile's options."""
        rooms = (self.head, self.trunk, self.tail)
        self._compiled_rooms = Rooms(*(torch.compile(room, **options) for room in rooms))

    def enable_group_offload(self, *args: Any, **options: Any) -> None:
        """diffusers' group offloading. Raises: ImportError where accelerate, which it needs, is not installed."""
        if not is_accelerate_available():
            raise ImportError("group offloading needs accelerate, which is not installed: pip install accelerate")
        super().enable_group_offload(*args, **options)

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
