"""What every model of the package shares: the three rooms of `nn`, as a diffusers model that can be cached."""

import inspect
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.utils import is_accelerate_available
from huggingface_hub import CommitInfo, HfApi
from torch import Tensor

from skipdit.caching.hook import SkipCacheMixin
from skipdit.models.fits import Size, check_config_fits
from skipdit.models.kept import options_for
from skipdit.models.places import read_dtype
from skipdit.nn.rooms import LongSkipTransformer, Rooms
from skipdit.nn.skips import fuse_skip

PLACE = (  # arguments of `from_pretrained` that say where a config lies
    "cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token",
)  # fmt: skip
OTHER_WORDS = {  # a setting as one model calls it, like its checkpoints or diffusers, and what the others call it
    "depth": ("num_layers",), "num_layers": ("depth",), "num_heads": ("num_attention_heads",),
    "num_attention_heads": ("num_heads",), "num_frames": ("video_length",), "video_length": ("num_frames",),
    "input_size": ("sample_size",), "learn_sigma": ("out_channels",), "out_channels": ("learn_sigma",),
}  # fmt: skip
LISTED = 8  # names of tensors in an error


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
    stock_names: ClassVar[tuple[str, ...]] = ()  # of diffusers' classes with the same tensors
    inert: ClassVar[Mapping[str, Any]] = {}  # settings of theirs, at the values that change nothing
    sample_axes = "BCHW"  # of inputs and outputs; F are frames
    channel_dim = 1
    _compiled_rooms: Rooms | None = None

    def __new__(cls, *arguments: Any, **settings: Any) -> "LongSkipModel":
        check_words(cls, settings)
        return super().__new__(cls)

    def __init__(self) -> None:
        super().__init__()
        self.gradient_checkpointing = False

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> Any:
        """diffusers' own, for folders of this class and of `stock_names`, in whatever files they keep their weights.

        Raises:
            ValueError: another class, or a setting that this one lacks, of which diffusers makes a model with random
                weights; or tensors that are missing, but for residual skips that are added.
        """
        source = pretrained_model_name_or_path
        for name in {"dtype", "torch_dtype"} & options.keys():  # diffusers makes float32 of a name
            options[name] = None if options[name] is None else read_dtype(options[name])
        if options.get("variant") is None and options.get("use_safetensors") is None:
            options |= options_for(Path(source, options.get("subfolder") or ""))
        config = cls.load_config(source, **{name: options[name] for name in PLACE if name in options})
        cls.check_config(config, str(source))
        if not options.get("ignore_mismatched_sizes"):
            known = inspect.signature(cls.__init__).parameters
            given = {name: value for name, value in options.items() if name in known}
            check_config_fits(cls, config | given, Path(source, options.get("subfolder") or ""))
        model, keys = super().from_pretrained(source, **options | {"output_loading_info": True})
        adds_skips = {"fuse", "num_skips"} & options.keys() and model.config.get("fuse") == "residual"
        added = "skip_" if adds_skips else ()  # which change nothing at first
        missing = sorted(key for key in keys.get("missing_keys", ()) if not key.startswith(added))
        for what, wrong in (("missing", missing), ("unexpected", sorted(keys.get("unexpected_keys", ())))):
            if wrong:
                names = ", ".join(wrong[:LISTED]) + ", ..." * (len(wrong) > LISTED)
                raise ValueError(f"{source} does not fit its config.json: {len(wrong)} {what}: {names}")
        return (model, keys) if options.get("output_loading_info") else model

    @classmethod
    def list_sizes(cls, config: Mapping[str, Any]) -> list[Size]:
        """Which settings the shapes of saved tensors tell, and what these would be by a config."""
        raise NotImplementedError

    @classmethod
    def check_config(cls, config: Mapping[str, Any], where: str) -> None:
        """ValueError for the config of another class, or one that sets what this class does not know."""
        if not isinstance(config, Mapping):
            raise ValueError(f"{where} has a config.json of a {type(config).__name__}: it must hold settings by name")
        names = [kind.__name__ for kind in cls.__mro__ if issubclass(kind, LongSkipModel)] + [*cls.stock_names]
        if (found := config.get("_class_name", cls.__name__)) not in names:
            remedy = "take that class, or rewrite a DiT of diffusers with `skipdit convert FOLDER OUT`"
            raise ValueError(f"{where} holds a {found}, not a {cls.__name__}: {remedy}")
        known = inspect.signature(cls.__init__).parameters
        settings = {name: value for name, value in config.items() if not name.startswith("_") and name not in known}
        if unknown := [name for name, value in settings.items() if (name, value) not in cls.inert.items()]:
            raise ValueError(f"{where} sets {', '.join(unknown)}, unknown to {cls.__name__}: take a class that has it")

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

    def cast_input(self, hidden_states: Tensor, first: torch.nn.Conv2d) -> Tensor:
        """Inputs in the dtype in which `first` computes; weights kept in one byte are cast when they are used."""
        kept = first.weight.dtype
        return hidden_states.to(self.dtype if kept.itemsize == 1 else kept)

    def check_samples(self, hidden_states: Tensor) -> None:
        """ValueError for inputs of other axes, or another number of channels, than the model has."""
        wanted = [f"C={self.config.in_channels}" if axis == "C" else axis for axis in self.sample_axes]
        shape = tuple(hidden_states.shape) if isinstance(hidden_states, Tensor) else ()
        if len(shape) != len(wanted) or shape[self.channel_dim] != self.config.in_channels:
            given = f"has shape {shape}" if shape else f"is a {type(hidden_states).__name__}"
            raise ValueError(f"hidden_states {given}: {type(self).__name__} takes a tensor [{', '.join(wanted)}]")

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


def check_words(kind: type, settings: Mapping[str, Any]) -> None:
    """TypeError for a setting under another model's name, before Python says that it does not know it."""
    known = inspect.signature(kind.__init__).parameters
    for name in settings.keys() - known.keys():
        if own := [other for other in OTHER_WORDS.get(name, ()) if other in known]:
            raise TypeError(f"{kind.__name__} has no {name}: it is called {own[0]} there")
