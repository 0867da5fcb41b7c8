"""The models under contract, tiny and real, and the words in which the laws about them are written."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from skipdit import DiT, HunyuanDiT, Latte, LatteT2V, SkipCacheConfig
from skipdit.caching.hook import skip_cache_hook
from skipdit.caching.memory import Memory
from skipdit.models.base import LongSkipModel

TIMESTEPS = (900, 800, 700, 600, 500)
Inputs = dict[str, Tensor]


class Subject(ABC):
    """What a model brings to the contract. A new model is one class of three methods."""

    rounding = 1e-9  # that a float64 model is allowed

    @abstractmethod
    def build(self, *, depth: int = 6, num_skips: int = 3) -> LongSkipModel:
        """A tiny model in eval mode, the same at every call, none of whose weights is zero (`randomised`)."""

    @abstractmethod
    def inputs(self, timestep: float, *, batch: int = 2, tall: bool = False, seed: int = 0) -> Inputs:
        """Keyword arguments of one call: fresh noise, and the conditions of a run, the same objects at each timestep.

        `tall` asks for a larger image; `seed` for other noise and other conditions.
        """

    @abstractmethod
    def layers(self, model: LongSkipModel) -> Sequence[nn.Module]:
        """One module for each layer, called once when the layer runs."""

    @pytest.fixture
    def model(self) -> LongSkipModel:
        return self.build()

    def cached(self, config: SkipCacheConfig, **architecture) -> LongSkipModel:
        model = self.build(**architecture)
        model.enable_cache(config)
        return model

    def run(self, model: LongSkipModel, timesteps: Sequence[float] = TIMESTEPS, **like) -> list[Tensor]:
        """The outputs of a model at each timestep, each for noise of its own."""
        return [sample(model, self.inputs(timestep, **like)) for timestep in timesteps]


class DiTSubject(Subject):
    def build(self, *, depth: int = 6, num_skips: int = 3, **config) -> DiT:
        sizes = {"sample_size": 4, "hidden_size": 16, "num_heads": 2, "num_classes": 10}
        return randomised(DiT(depth=depth, num_skips=num_skips, **sizes | config))

    def inputs(self, timestep: float, *, batch: int = 2, tall: bool = False, seed: int = 0) -> Inputs:
        rng = torch.Generator().manual_seed(1000 * seed + int(timestep))
        return {
            "hidden_states": torch.randn(batch, 4, 8 if tall else 4, 4, generator=rng),
            "timestep": torch.full((batch,), timestep),
            "class_labels": class_labels(batch, seed),
        }

    def layers(self, model: DiT) -> Sequence[nn.Module]:
        return list(model.blocks)


class LatteSubject(Subject):
    def build(self, *, depth: int = 6, num_skips: int = 3, **config) -> Latte:
        sizes = {"sample_size": 4, "hidden_size": 16, "num_heads": 2, "num_frames": 3, "num_classes": 10}
        return randomised(Latte(depth=depth, num_skips=num_skips, **sizes | config))

    def inputs(self, timestep: float, *, batch: int = 2, tall: bool = False, seed: int = 0) -> Inputs:
        rng = torch.Generator().manual_seed(1000 * seed + int(timestep))
        return {
            "hidden_states": torch.randn(batch, 3, 4, 8 if tall else 4, 4, generator=rng),
            "timestep": torch.full((batch,), timestep),
            "class_labels": class_labels(batch, seed),
        }

    def layers(self, model: Latte) -> Sequence[nn.Module]:
        return list(model.blocks[0::2])


class LatteT2VSubject(Subject):
    def build(self, *, depth: int = 6, num_skips: int = 3, **config) -> LatteT2V:
        sizes = {
            "sample_size": 4, "num_attention_heads": 2, "attention_head_dim": 8, "cross_attention_dim": 16,
            "caption_channels": 12, "video_length": 3,
        }  # fmt: skip
        return randomised(LatteT2V(num_layers=depth, num_skips=num_skips, **sizes | config))

    def inputs(self, timestep: float, *, batch: int = 2, tall: bool = False, seed: int = 0) -> Inputs:
        rng = torch.Generator().manual_seed(1000 * seed + int(timestep))
        return {
            "hidden_states": torch.randn(batch, 4, 3, 8 if tall else 4, 4, generator=rng),
            "timestep": torch.full((batch,), timestep),
            **latte_text(batch, seed),
        }

    def layers(self, model: LatteT2V) -> Sequence[nn.Module]:
        return list(model.transformer_blocks)


class HunyuanDiTSubject(Subject):
    rounding = 1e-6  # its norms are in float32 whatever the model is (published)

    def build(self, *, depth: int = 6, num_skips: int = 3, **config) -> HunyuanDiT:
        return randomised(HunyuanDiT(num_layers=depth, num_skips=num_skips, **HUNYUAN_SIZES | config))

    def inputs(self, timestep: float, *, batch: int = 2, tall: bool = False, seed: int = 0) -> Inputs:
        rng = torch.Generator().manual_seed(1000 * seed + int(timestep))
        return {
            "hidden_states": torch.randn(batch, 4, 8 if tall else 4, 4, generator=rng),
            "timestep": torch.full((batch,), timestep),
            **hunyuan_text(batch, seed),
        }

    def layers(self, model: HunyuanDiT) -> Sequence[nn.Module]:
        return list(model.blocks)


HUNYUAN_SIZES = {
    "num_attention_heads": 2, "attention_head_dim": 8, "hidden_size": 16, "mlp_ratio": 4.0, "sample_size": 4,
    "cross_attention_dim": 12, "cross_attention_dim_t5": 8, "pooled_projection_dim": 10, "text_len": 5,
    "text_len_t5": 7, "use_style_cond_and_image_meta_size": False,
}  # fmt: skip


@cache
def class_labels(batch: int, seed: int) -> Tensor:
    """The same object for the same arguments, as a pipeline hands it to each step of a run."""
    return torch.randint(0, 11, (batch,), generator=torch.Generator().manual_seed(seed))


@cache
def latte_text(batch: int, seed: int) -> Inputs:
    """Text of which 3 of 5 tokens are real; the same objects for the same arguments."""
    return {
        "encoder_hidden_states": torch.randn(batch, 5, 12, generator=torch.Generator().manual_seed(seed)),
        "encoder_attention_mask": (torch.arange(5) < 3).expand(batch, 5).long(),
    }


@cache
def hunyuan_text(batch: int, seed: int = 0) -> Inputs:
    """Text of two encoders, 3 of 5 tokens and 4 of 7 of it real; the same objects for the same arguments."""
    rng = torch.Generator().manual_seed(seed)
    return {
        "encoder_hidden_states": torch.randn(batch, 5, 12, generator=rng),
        "text_embedding_mask": (torch.arange(5) < 3).expand(batch, 5).long(),
        "encoder_hidden_states_t5": torch.randn(batch, 7, 8, generator=rng),
        "text_embedding_mask_t5": (torch.arange(7) < 4).expand(batch, 7).long(),
    }


def randomised(model: nn.Module, *, seed: int = 0) -> nn.Module:
    """The model with every weight drawn anew, so that no gate is shut and no skip is idle; in eval mode."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.2, generator=rng)
    return model.eval()


@torch.no_grad()
def sample(model: nn.Module, inputs: Inputs) -> Tensor:
    return model(**inputs).sample


@torch.no_grad()
def in_context(model: LongSkipModel, name: str, inputs: Inputs, **where) -> Tensor:
    with model.cache_context(name, **where):
        return model(**inputs).sample


def in_dtype(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    """The same call in another precision; timesteps keep theirs, as in every pipeline."""
    wide = {name: value.is_floating_point() and name != "timestep" for name, value in inputs.items()}
    return {name: cast(value, dtype) if wide[name] else value for name, value in inputs.items()}


@cache
def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Of one tensor always the same one."""
    return tensor.to(dtype)


def joined(*parts: Inputs) -> Inputs:
    """Several calls as one batch."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def memories(model: LongSkipModel) -> list[Memory]:
    """Of the runs that are under way, the last used at the end."""
    return skip_cache_hook(model).runs.memories


def tensors_remembered(model: LongSkipModel) -> list[Tensor]:
    past = [step for memory in memories(model) for step in memory.past]
    return [value for step in past for value in step if isinstance(value, Tensor)]


@contextmanager
def recorded(layers: Sequence[nn.Module]) -> Iterator[list[int]]:
    """The indices of the layers that run, in order."""
    ran: list[int] = []
    hooks = [
        layer.register_forward_pre_hook(lambda *_, index=index: ran.append(index)) for index, layer in enumerate(layers)
    ]
    yield ran
    for hook in hooks:
        hook.remove()


@contextmanager
def raising(layer: nn.Module, error: BaseException) -> Iterator[None]:
    def fail(*_):
        raise error

    hook = layer.register_forward_hook(fail)
    yield
    hook.remove()


def assert_equal(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> None:
    """Bit for bit, tensor by tensor; the message says which differ."""
    same = [a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(ours, theirs, strict=True)]
    assert all(same), f"tensors {[i for i, equal in enumerate(same) if not equal]} of {len(same)} differ"
