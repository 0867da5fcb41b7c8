"""What the published modules computed (tests/golden), through the public API."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from skipdit import SkipCacheConfig
from skipdit.hub import load_original
from skipdit.models.base import LongSkipModel
from tests.models.subject import assert_equal

FOLDER = Path(__file__).parents[1] / "golden"
UNTOLD = ("num_heads", "num_attention_heads", "sample_size", "video_length")  # what no tensor tells
CONDITIONS = {
    "in.y": "class_labels", "in.text": "encoder_hidden_states", "in.clip": "encoder_hidden_states",
    "in.mask": "text_embedding_mask", "in.t5": "encoder_hidden_states_t5", "in.mask5": "text_embedding_mask_t5",
}  # fmt: skip

PLAINS = {"dit-plain": (4, 0), "dit-skip": (12, 6), "latte-plain": (14, 0), "latte-skip": (14, 7)}  # layers, skips
CACHES = {  # plan, and the published window in our words: it forgets at t <= stop, class-to-video at t < 50
    "dit-cache-n2": ("#." * 10, (20, 1000)),
    "latte-cache-n3": ("####" + "..#" * 8 + ".#", (49, 900)),
    "latte-t2v-cache-n2": ("#" * 9 + ".#" * 8, (50, 700)),
    "hunyuan-cache-n2": ("#" * 7 + ".#" * 6 + ".", (50, 700)),
}
ROTARY = {"hunyuan-cache-n2": ("given", "exact")}  # with the tables of the file, and with ours
MODELS = [(name, {"rotary": rotary} if rotary else {}) for name in CACHES for rotary in ROTARY.get(name, (None,))]


class Golden:
    """One file: the published weights, the inputs of each step, and what came out."""

    def __init__(self, name: str):
        with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
            self.facts: dict[str, Any] = {key: json.loads(value) for key, value in file.metadata().items()}
            self.tensors: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        self.timesteps: list[int] = self.facts["timesteps"]
        self.published = list(self.tensors["out"])

    def model(self, **settings: Any) -> LongSkipModel:
        weights = {key[2:]: value for key, value in self.tensors.items() if key.startswith("w.")}
        told = () if self.facts["kind"].startswith("hunyuan") else UNTOLD
        told += ("num_classes",) * ("y_embedder.embedding_table.weight" in weights)
        config = self.facts["config"]
        return load_original(weights, **{name: config[name] for name in told if name in config} | settings)

    def cache(self, window: tuple[int, int]) -> SkipCacheConfig:
        return SkipCacheConfig(interval=self.facts["interval"], branch=self.facts["branch"], window=window)

    @torch.no_grad()
    def outputs_of(self, model: LongSkipModel) -> list[Tensor]:
        conditions = {ours: self.tensors[key] for key, ours in CONDITIONS.items() if key in self.tensors}
        if "in.cos" in self.tensors:
            conditions["image_rotary_emb"] = (self.tensors["in.cos"], self.tensors["in.sin"])
        outputs = []
        for step, (x, t) in enumerate(zip(self.tensors["in.x"], self.timesteps, strict=True)):
            with model.cache_context("default", step_index=step):  # latte-cache-n3 has no conditions to be known by
                outputs.append(model(x, torch.full((len(x),), t), **conditions).sample)
        return outputs

    def distances(self, outputs: list[Tensor]) -> list[float]:
        """The largest difference of each step from what is published."""
        return [(ours - theirs).abs().max().item() for ours, theirs in zip(outputs, self.published, strict=True)]

    def assert_published(self, outputs: list[Tensor]) -> None:
        """To 3e-5, HunyuanDiT to 1e-5, videos to 1e-5 of the largest output; at t = 0 to 5e-6.

        An angle t f_k of the timestep's sinusoid inherits the last bit of exp() times t: 6e-5 rad at t = 999, by whose
        exp() and cos() a CPU has. On the one where this was written the video files and HunyuanDiT's agree to 2.4e-6
        everywhere; with f_k in float64, latte-plain differs by 3.7e-5.
        """
        is_video = self.tensors["out"].ndim == 6
        tolerance = 1e-5 if self.facts["kind"].startswith("hunyuan") else 3e-5
        if is_video:
            tolerance = 1e-5 * self.tensors["out"].abs().max().item()
        for ours, theirs, timestep in zip(outputs, self.published, self.timesteps, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=tolerance if timestep else 5e-6)


@pytest.mark.parametrize("name", PLAINS)
def test_the_model_is_the_published_one(name):
    golden = Golden(name)
    model = golden.model()
    assert (model.depth, model.num_skips) == PLAINS[name]
    assert golden.timesteps[-1] == 0
    golden.assert_published(golden.outputs_of(model))


@pytest.mark.parametrize(("name", "settings"), MODELS)
def test_the_cache_is_the_published_one(name, settings):
    golden, (plan, window) = Golden(name), CACHES[name]
    model = golden.model(**settings)
    model.enable_cache(golden.cache(window))
    outputs = golden.outputs_of(model)
    golden.assert_published(outputs)
    assert model.cache_stats()["default"].plan == plan
    assert_equal(golden.outputs_of(model), outputs)  # a second run is as the first


@pytest.mark.parametrize("name", CACHES)
def test_the_published_cache_is_felt_in_every_cached_step(name):
    """So that the files above would tell a cache from none."""
    golden, (plan, _) = Golden(name), CACHES[name]
    away = golden.distances(golden.outputs_of(golden.model()))
    assert min(distance for distance, mark in zip(away, plan, strict=True) if mark == ".") > 1e-3
    assert max(distance for distance, mark in zip(away, plan, strict=True) if mark == "#") < 3e-4


def test_the_class_to_image_cache_is_a_preset():
    golden, (_, window) = Golden("dit-cache-n2"), CACHES["dit-cache-n2"]
    assert golden.cache(window) == SkipCacheConfig.preset("class-to-image")
