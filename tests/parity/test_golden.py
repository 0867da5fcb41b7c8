"""What the published class-to-image modules computed (tests/golden), through the public API."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from skipdit import DiT, SkipCacheConfig
from skipdit.hub import load_original

FOLDER = Path(__file__).parents[1] / "golden"

# An angle t f_k of the timestep's sinusoid inherits the last bit of exp() times t: 6e-5 rad at t = 999, by whose exp()
# and cos() a CPU has. Five ways to write f_k differ from the file by 1.2e-5 to 2.4e-5 there, and by 1.2e-6 at t = 0.
TOLERANCE = 3e-5


class Golden:
    """One file: the published weights, the inputs of each step, and what came out."""

    def __init__(self, name: str):
        with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
            self.facts: dict[str, Any] = {key: json.loads(value) for key, value in file.metadata().items()}
            self.tensors: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118

    def model(self) -> DiT:
        weights = {key[2:]: value for key, value in self.tensors.items() if key.startswith("w.")}
        return load_original(weights, num_heads=self.facts["config"]["num_heads"]).eval()

    @torch.no_grad()
    def outputs_of(self, model: DiT) -> Tensor:
        labels = self.tensors["in.y"]
        steps = zip(self.tensors["in.x"], self.facts["timesteps"], strict=True)
        return torch.stack([model(x, torch.full(labels.shape, t), labels).sample for x, t in steps])


def assert_as_published(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=TOLERANCE)


@pytest.mark.parametrize(("name", "skips"), [("dit-plain", 0), ("dit-skip", 6)])
def test_the_model_is_the_published_one(name, skips):
    golden = Golden(name)
    model = golden.model()
    assert (model.config.num_skips, model.config.depth) == (skips, golden.facts["config"]["depth"])
    outputs = golden.outputs_of(model)
    assert_as_published(outputs, golden.tensors["out"])
    assert golden.facts["timesteps"][-1] == 0
    torch.testing.assert_close(outputs[-1], golden.tensors["out"][-1], rtol=1e-5, atol=5e-6)  # where no angle is large


def test_the_cache_is_the_published_one():
    golden = Golden("dit-cache-n2")
    model, facts = golden.model(), golden.facts
    config = SkipCacheConfig(interval=facts["interval"], branch=facts["branch"], window=(facts["stop"], 1000))
    assert config == SkipCacheConfig.preset("class-to-image")
    model.enable_cache(config)
    assert_as_published(golden.outputs_of(model), golden.tensors["out"])
    assert model.cache_stats()["default"].plan == "#." * 10
    assert_as_published(golden.outputs_of(model), golden.tensors["out"])  # a second run is as the first


def test_the_published_cache_is_felt_in_every_cached_step():
    """So that the file above would tell a cache from none."""
    golden = Golden("dit-cache-n2")
    away = (golden.outputs_of(golden.model()) - golden.tensors["out"]).flatten(1).abs().amax(1)
    assert (away[0::2] < TOLERANCE).all()
    assert (away[1::2] > 1e-3).all()
