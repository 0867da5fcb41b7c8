"""A transformer with nested long skips, cut into three rooms.

Layer i < m opens a skip; layer depth-1-i closes it. Skips nest like parentheses, so any symmetric cut k splits the
network into head, trunk and tail, and only k open skips pass from head to tail beside the trunk:

    inputs -> embed -> [ 0 .. k-1 ] -> [ k .. L-k-1 ] -> deep -> [ L-k .. L-1 ] -> unembed
                           \\______________ skips _______________/

forward = tail . trunk . head for every k (arXiv 2411.17616, section 3).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn


class Shallow(NamedTuple):
    """What the head hands on: the stream, the skips still open and whatever the layers are conditioned on."""

    stream: Tensor
    skips: list[Tensor]
    context: Any


class Rooms(NamedTuple):
    """The three callables of a model."""

    head: Callable[..., Shallow]
    trunk: Callable[..., Tensor]
    tail: Callable[..., Tensor]


class Seam(Protocol):
    """What a caller puts in the place of the one call that runs the trunk: `deep = seam(shallow, compute)`.

    `cut` says where the trunk begins. `deep` is not None where the result is known before the call; the head then runs
    only for the skips that it opens. `constants` is what the model made of its constant inputs; None: not made yet.
    """

    cut: int
    deep: Tensor | None
    constants: Any

    def __call__(self, shallow: Tensor, compute: Callable[[], Tensor]) -> Tensor: ...


class LongSkipTransformer(nn.Module):
    """The one loop over layers, for vanilla (num_skips = 0), skip and cached models alike.

    A subclass sets `depth` and `num_skips` and writes `embed`, `layer`, `fuse` and `unembed`; in the place of `fuse` it
    may override `close`, where a layer merges its skip itself, as in HunyuanDiT. `constant_inputs` names the inputs
    that are the same at every step of a run, as classes and text: a run is known by them. What a subclass computes from
    them alone it may write as `constants`, which a run then computes once.
    """

    depth: int
    num_skips: int
    constant_inputs: tuple[str, ...] = ()

    @property
    def rooms(self) -> Rooms:
        return Rooms(self.head, self.trunk, self.tail)

    def constants(self, hidden_states: Tensor, **constant: Any) -> Any:
        """What `embed` computes from the constant inputs and the shape of `hidden_states` alone; None: nothing.

        `embed` takes it as `constants`, and does the work itself where it is not given any.
        """
        return None

    def embed(self, **inputs: Any) -> tuple[Tensor, Any]:
        """Model inputs -> the stream that enters layer 0, and the context of every layer."""
        raise NotImplementedError

    def layer(self, index: int, stream: Tensor, context: Any) -> Tensor:
        raise NotImplementedError

    def fuse(self, index: int, stream: Tensor, skip: Tensor) -> Tensor:
        """Close skip `index` (0 is the innermost): the stream before a deep layer, merged with its shallow partner."""
        raise NotImplementedError

    def close(self, index: int, stream: Tensor, skip: Tensor, context: Any) -> Tensor:
        """Run layer `index`, which closes a skip: on the stream merged with what its shallow partner gave."""
        return self.layer(index, self.fuse(index - (self.depth - self.num_skips), stream, skip), context)

    def unembed(self, stream: Tensor, context: Any) -> Tensor:
        """The stream that leaves the last layer -> the model's output."""
        raise NotImplementedError

    def run(self, layers: range, stream: Tensor, context: Any, skips: Sequence[Tensor] = ()) -> tuple[Tensor, list]:
        """Run `layers`, opening and closing skips as they come; returns the stream and the skips left open."""
        skips = list(skips)
        for index in layers:
            if index >= self.depth - self.num_skips:
                stream = self.close(index, stream, skips.pop(), context)
            else:
                stream = self.layer(index, stream, context)
            if index < self.num_skips:
                skips.append(stream)
        return stream, skips

    def head(self, cut: int, **inputs: Any) -> Shallow:
        """Inputs -> embed -> layers 0 .. cut-1."""
        stream, context = self.embed(**inputs)
        return Shallow(*self.run(range(cut), stream, context), context)

    def trunk(self, cut: int, stream: Tensor, context: Any) -> Tensor:
        """Layers cut .. depth-cut-1, which open and close all their own skips: shallow stream -> deep."""
        return self.run(range(cut, self.depth - cut), stream, context)[0]

    def tail(self, cut: int, deep: Tensor, skips: Sequence[Tensor], context: Any) -> Tensor:
        """Deep and the head's skips -> layers depth-cut .. depth-1 -> unembed -> output."""
        return self.unembed(self.run(range(self.depth - cut, self.depth), deep, context, skips)[0], context)

    def compose(self, *, cut: int = 0, seam: Seam | None = None, **inputs: Any) -> Tensor:
        """The whole forward pass, room by room; every cut gives the same. A seam brings its own cut."""
        rooms = self.rooms
        if seam is not None:
            cut, inputs = seam.cut, self.with_constants(seam, inputs)
        is_known = seam is not None and seam.deep is not None
        shallow = rooms.head(min(cut, self.num_skips) if is_known else cut, **inputs)

        def compute() -> Tensor:
            return rooms.trunk(cut, shallow.stream, shallow.context)

        deep = compute() if seam is None else seam(shallow.stream, compute)
        return rooms.tail(cut, deep, shallow.skips, shallow.context)

    def with_constants(self, seam: Seam, inputs: dict[str, Any]) -> dict[str, Any]:
        """The inputs and the constants of the run. A graph of the whole model makes its constants itself."""
        if torch.compiler.is_compiling():
            return inputs
        if seam.constants is None:
            constant = {name: inputs.get(name) for name in self.constant_inputs}
            seam.constants = self.constants(inputs["hidden_states"], **constant)
        return inputs if seam.constants is None else inputs | {"constants": seam.constants}
