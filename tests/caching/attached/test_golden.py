"""What published models with long skips computed (tests/golden/attach), through `attach`.

UniDiffuser is diffusers' own class, and E2-TTS also that of f5-tts, where it is installed; the others are stand-ins.
"""

import importlib
import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from diffusers import UniDiffuserModel
from safetensors import safe_open
from torch import Tensor, nn

from skipdit import SkipCacheConfig
from skipdit.caching import attach, detach
from skipdit.caching.attachment import Attachment, fill_in
from tests.caching.attached.standins import HunYuanDiTPlain, MDTv2, TripoSGDiTModel, UDiT, UNetT, UViT
from tests.caching.attached.stock import tensors
from tests.models.subject import assert_equal

FOLDER = Path(__file__).parents[2] / "golden" / "attach"
CLASSES = {
    "uvit": UViT, "unidiffuser": UniDiffuserModel, "hunyuan3d": HunYuanDiTPlain, "triposg": TripoSGDiTModel,
    "e2tts": UNetT, "ezaudio": UDiT, "mdtv2": MDTv2,
}  # fmt: skip
PLAINS = sorted(file.stem for file in FOLDER.glob("*-plain*"))
CACHES = sorted(file.stem for file in FOLDER.glob("*-cache*"))
ONE_EACH = [name for name in CACHES if name.endswith("-b1")]
PLAN = "#..#..#..#.."
E2TTS = ["e2tts-cache-n3-b1", "e2tts-cache-n3-b2"]


class Golden:
    """One file: the published weights, the inputs of each step, and what came out."""

    def __init__(self, name: str):
        with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
            self.facts: dict[str, Any] = {key: json.loads(value) for key, value in file.metadata().items()}
            self.tensors: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        self.family = self.facts["kind"].split("-")[0]
        self.branch = self.facts["branch"]
        names = ("out.img", "out.clip", "out.text") if self.family == "unidiffuser" else ("out",)
        self.published = list(zip(*(self.tensors[name] for name in names)))
        self.given = {key[3:]: value for key, value in self.tensors.items() if key[:3] == "in." and key != "in.x"}
        self.table = torch.tensor(self.facts["timesteps"])

    def model(self, kind: type[nn.Module] | None = None) -> nn.Module:
        model = (kind or CLASSES[self.family])(**self.facts["config"]).eval()
        model.load_state_dict({key[2:]: value for key, value in self.tensors.items() if key[:2] == "w."})
        return model

    def inputs(self, step: int) -> dict[str, Any]:
        """How each model's own pipeline calls it; t is an entry of the table of timesteps."""
        x, t, given = self.tensors["in.x"][step], self.table[step], self.given
        of_all = t.expand(len(x))
        match self.family:
            case "uvit":
                return {"x": x, "timesteps": of_all} | given
            case "unidiffuser":
                moving = {"latent_image_embeds": x, "image_embeds": given["clip"], "timestep_img": t}
                return moving | {"prompt_embeds": given["text"], "timestep_text": 0, "data_type": 1}
            case "hunyuan3d":
                return {"x": x, "t": of_all, "contexts": {"main": given["context"]}}
            case "triposg":
                return {"hidden_states": x, "timestep": of_all, "encoder_hidden_states": given["context"]}
            case "e2tts":
                return {"x": x, "time": t, "cfg_infer": True} | given
            case "ezaudio":
                return {"x": x, "timesteps": t} | given
        return {"x": x, "t": of_all} | given

    @property
    def steps(self) -> range:
        return range(len(self.table))

    @torch.no_grad()
    def run(self, model: nn.Module, context: Callable[[int], Any] = lambda step: nullcontext()) -> list[list[Tensor]]:
        """The outputs of each step."""
        outputs = []
        for step in self.steps:
            with context(step):
                outputs.append(tensors(model(**self.inputs(step))))
        return outputs

    def distances(self, outputs: list[list[Tensor]]) -> list[float]:
        """The largest difference of each step from what is published."""
        pairs = zip(outputs, self.published, strict=True)
        return [max((a - b).abs().max().item() for a, b in zip(*pair, strict=True)) for pair in pairs]

    def cached(self, model: nn.Module, **changes: Any) -> Attachment:
        attached = attach(model)
        attached.enable_cache(SkipCacheConfig(**{"interval": 3, "branch": self.branch} | changes))
        return attached


class Recorder:
    """Which layers ran, in each call; a layer counts where any part of it ran."""

    def __init__(self, model: nn.Module, attached: Attachment):
        self.calls: list[set[int]] = []
        model.register_forward_pre_hook(lambda *_: self.calls.append(set()))
        for layer, part in attached.parts:
            part.register_forward_hook(lambda *_, layer=layer: self.calls[-1].add(layer))


def assert_same(ours: Any, theirs: Any) -> None:
    """Bit for bit, whatever lists the tensors are in."""
    assert_equal(tensors(ours), tensors(theirs))


def head_of(golden: Golden, branch: int) -> int:
    """How many layers of the head the tail's skips lead back to."""
    unread = {"mdtv2": golden.facts["config"].get("decode_layer"), "e2tts": 1}
    return max(0, branch - unread.get(golden.family, 0))


@pytest.mark.parametrize("name", PLAINS)
def test_a_model_is_the_published_one(name):
    golden = Golden(name)
    assert max(golden.distances(golden.run(golden.model()))) < 2e-5


@pytest.mark.parametrize("name", CACHES)
def test_an_attached_cache_is_the_published_one(name):
    golden = Golden(name)
    model = golden.model()
    attached = golden.cached(model)
    outputs = golden.run(model)
    assert max(golden.distances(outputs)) < 2e-5
    assert attached.cache_stats()["default"].plan == PLAN
    assert_same(golden.run(model), outputs)  # a second run is as the first
    detach(model)
    assert_same(golden.run(model), golden.run(golden.model()))


@pytest.mark.parametrize("name", CACHES)
def test_the_published_cache_is_felt_in_every_cached_step(name):
    """So that the files would tell a cache from none."""
    golden = Golden(name)
    away = golden.distances(golden.run(golden.model()))
    assert min(distance for distance, mark in zip(away, PLAN, strict=True) if mark == ".") > 1e-3
    assert max(distance for distance, mark in zip(away, PLAN, strict=True) if mark == "#") < 2e-5


@pytest.mark.parametrize("name", ONE_EACH)
def test_a_cache_that_computes_each_step_changes_no_bit(name):
    golden = Golden(name)
    model, plain = golden.model(), golden.run(golden.model())
    golden.cached(model, interval=1)
    assert_same(golden.run(model), plain)


def cuts() -> list[tuple[str, int]]:
    layers = {name: len(attach(Golden(name).model()).layers) for name in ONE_EACH}
    return [(name, branch) for name, depth in layers.items() for branch in range(1, (depth - 1) // 2 + 1)]


CUTS = cuts()


@pytest.mark.parametrize(("name", "branch"), CUTS)
def test_a_cached_step_runs_the_tail_and_what_it_reads_of_the_head(name, branch):
    golden = Golden(name)
    model = golden.model()
    attached = golden.cached(model, branch=branch)
    recorder, depth = Recorder(model, attached), attached.depth
    golden.run(model)
    few = {*range(head_of(golden, branch)), *range(depth - branch, depth)}
    assert recorder.calls == [set(range(depth)) if mark == "#" else few for mark in PLAN]


@pytest.mark.parametrize("name", [name for name in ONE_EACH if name != E2TTS[0]])
@pytest.mark.parametrize("settings", [{"forecast": "residual"}, {"interval": None, "threshold": 1e6}])
def test_who_reads_the_shallow_feature_has_the_head_run(name, settings):
    golden = Golden(name)
    model = golden.model()
    attached = golden.cached(model, **settings)
    recorder = Recorder(model, attached)
    golden.run(model)
    plan = attached.cache_stats()["default"].plan
    assert plan.count(".") >= 8
    everything, few = set(range(attached.depth)), {0, attached.depth - 1}
    assert recorder.calls == [everything if mark == "#" else few for mark in plan]


@pytest.mark.parametrize(
    "settings", [{"forecast": "residual"}, {"interval": None, "threshold": 1.0}, {"branch": 0}, {"branch": 3}]
)
def test_layers_without_a_forward_take_no_setting_that_reads_what_enters_the_trunk(settings):
    golden = Golden(E2TTS[0])
    with pytest.raises(ValueError, match="branch is"):
        golden.cached(golden.model(), **settings)


@pytest.mark.parametrize("name", ONE_EACH)
def test_a_taylor_forecast_goes_on_from_the_computed_steps(name):
    """At a step that computes it is the model; in between it differs from what is held."""
    golden = Golden(name)
    model, plain = golden.model(), golden.run(golden.model())
    golden.cached(model, forecast="taylor")
    outputs = golden.run(model)
    for step, mark in enumerate(PLAN):
        if mark == "#":
            assert_same(outputs[step], plain[step])
    away = golden.distances(outputs)
    assert max(away[:4]) < 2e-5  # after one computed step there is no slope
    assert min(away[step] for step, mark in enumerate(PLAN) if mark == "." and step > 3) > 1e-3


@pytest.mark.parametrize(("name", "branch"), CUTS)
def test_nobody_reads_what_stands_in_for_a_layer(name, branch, monkeypatch):
    """Zeros stand for what bypassed layers of trunk and head return; poison in their place changes no bit."""
    golden = Golden(name)
    model = golden.model()
    golden.cached(model, branch=branch)
    outputs = golden.run(model)
    monkeypatch.setattr("skipdit.caching.attachment.fill_in", lambda value: fill_in(value) + float("nan"))
    assert_same(golden.run(model), outputs)
    assert not any(tensor.isnan().any() for step in outputs for tensor in step)


@pytest.mark.parametrize(("name", "branch"), CUTS)
def test_each_layer_of_the_head_that_runs_is_read(name, branch):
    """Poison in what a layer of the head returns reaches the output of a cached step."""
    golden = Golden(name)
    model = golden.model()
    attached = golden.cached(model, branch=branch)
    for layer in range(head_of(golden, branch)):
        is_cached = [False]
        poison = attached.layers[layer][-1].register_forward_hook(
            lambda _, __, output, is_cached=is_cached: output + float("nan") if is_cached[0] else output
        )
        with torch.no_grad():
            model(**golden.inputs(0))
            is_cached[0] = True
            (first, *_) = tensors(model(**golden.inputs(1)))
        assert first.isnan().any()
        poison.remove()


@pytest.mark.parametrize("name", ONE_EACH)
def test_a_window_means_the_same_noise_for_each_model(name):
    """Whether time falls from 1000 or rises to 1."""
    golden = Golden(name)
    model = golden.model()
    attached = golden.cached(model, window=(260, 700))
    golden.run(model)
    assert attached.cache_stats()["default"].plan == "####..#..###"


@pytest.mark.parametrize("name", CACHES)
def test_the_trunk_is_remembered_once(name):
    golden = Golden(name)
    model = golden.model()
    attached = golden.cached(model)
    golden.run(model)
    (past,) = attached.hook.runs.memories[-1].past
    assert past.deep.untyped_storage().nbytes() == past.deep.nbytes
    assert attached.cache_stats()["default"].bytes_remembered == past.deep.nbytes


# What tells the calls of a step apart.


def other_conditions(golden: Golden) -> dict[str, Any]:
    """Those of a second run: same shapes, other values."""
    return {name: value.flip(0) for name, value in golden.given.items()}


@pytest.mark.parametrize("name", ONE_EACH)
def test_calls_in_turn_with_other_conditions_are_runs_of_their_own(name):
    """As where the guidance of U-ViT calls with classes, then without."""
    golden, second = Golden(name), Golden(name)
    second.given = other_conditions(golden)
    model = golden.model()
    attached = golden.cached(model)
    alone = golden.run(model), second.run(model)
    in_turns = [], []
    with torch.no_grad():
        for step in golden.steps:
            for outputs, each in zip(in_turns, (golden, second)):
                outputs.append(tensors(model(**each.inputs(step))))
    assert_same(in_turns, alone)
    assert {each.plan for each in attached.cache_stats().values()} == {PLAN}


@torch.no_grad()
def test_the_calls_of_unidiffusers_pipeline_are_runs_of_their_own():
    """Text to image: with the prompt at text time 0, and with new noise for text at 1000."""
    golden = Golden("unidiffuser-cache-n3-b1")
    texts = [torch.randn(golden.given["text"].shape, generator=torch.Generator().manual_seed(i)) for i in golden.steps]

    def uncond(step: int) -> dict[str, Any]:
        return golden.inputs(step) | {"prompt_embeds": texts[step].clone(), "timestep_text": 1000}

    model = golden.model()
    golden.cached(model)
    with_prompt = golden.run(model)
    golden.table = golden.table.clone()
    without = [tensors(model(**uncond(step))) for step in golden.steps]
    golden.table = golden.table.clone()
    detach(model)
    attached = golden.cached(model)
    in_turns = [[tensors(model(**inputs(step))) for inputs in (golden.inputs, uncond)] for step in golden.steps]
    assert_same(in_turns, [list(pair) for pair in zip(with_prompt, without)])
    assert {each.plan for each in attached.cache_stats().values()} == {PLAN}


@torch.no_grad()
def test_unidiffusers_joint_call_is_cached_and_its_text_call_never():
    """Image and text move together; the call with noise for the image stands at one image time."""
    golden = Golden("unidiffuser-cache-n3-b1")
    model = golden.model()
    attached = golden.cached(model)
    for step in golden.steps:
        inputs = golden.inputs(step) | {"prompt_embeds": torch.randn(golden.given["text"].shape)}
        model(**inputs | {"timestep_text": golden.table[step]})
        model(**inputs | {"timestep_img": 1000, "timestep_text": golden.table[step]})
    plans = [each.plan for each in attached.cache_stats().values()]
    assert PLAN in plans
    assert {plan for plan in plans if plan != PLAN} == {"#"}


def test_a_model_without_conditions_is_told_its_steps():
    golden = Golden("uvit-plain-uncond")
    golden.branch = 1
    model = golden.model()
    attached = golden.cached(model)

    def context(step: int) -> Any:
        return attached.cache_context("default", step_index=step)

    outputs = golden.run(model, context)
    assert attached.cache_stats()["default"].plan == "#.."
    assert_same(golden.run(model, context), outputs)
    attached.disable_cache()
    assert_same(golden.run(model, context), golden.run(model))  # without a cache the context says nothing


@torch.inference_mode()
def test_hunyuan3d_is_known_by_its_contexts():
    """Its pipeline calls in inference mode, with more keywords, which the model passes over."""
    golden = Golden("hunyuan3d-cache-n3-b1")
    golden.given = {"context": golden.given["context"].clone()}  # an inference tensor
    model = golden.model()
    attached = golden.cached(model)
    outputs = [
        tensors(model(**golden.inputs(step), guidance=torch.ones(2), guidance_cond=None)) for step in golden.steps
    ]
    assert max(golden.distances(outputs)) < 2e-5
    assert attached.cache_stats()["default"].plan == PLAN


@torch.no_grad()
def test_a_method_that_passes_by_the_call_is_told_of_once():
    """As where guidance is a method, which calls `forward` of itself; nothing hears of that."""
    golden = Golden("mdtv2-cache-n3-b1")
    model, plain = golden.model(), golden.run(golden.model())
    attached = golden.cached(model)
    with pytest.warns(UserWarning, match="layers run in a method of the model") as told:
        outputs = [tensors(model.forward(**golden.inputs(step))) for step in golden.steps]
    assert_same(outputs, plain)
    assert len(told) == 1
    golden.run(model)
    assert attached.cache_stats()["default"].plan == PLAN


# The published class of E2-TTS.


@pytest.fixture
def published_unet(monkeypatch) -> type[nn.Module]:
    """`UNetT` of f5-tts, installed with --no-deps: what its package imports and the class does not use is empty."""
    pytest.importorskip("x_transformers")
    if (found := find_spec("f5_tts")) is None:
        pytest.skip("f5-tts is not installed")
    empty = {"torchaudio": (), "librosa": (), "librosa.filters": ("mel",), "rjieba": ()}
    empty |= {"pypinyin": ("Style", "lazy_pinyin"), "f5_tts.model": ()}
    for name, attributes in empty.items():
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        vars(module).update(dict.fromkeys(attributes))
        monkeypatch.setitem(sys.modules, name, module)
    module.__path__ = [str(Path(folder) / "model") for folder in found.submodule_search_locations]
    return importlib.import_module("f5_tts.model.backbones.unett").UNetT


@pytest.mark.parametrize("name", E2TTS)
def test_the_published_class_of_e2_tts_attaches(name, published_unet):
    golden = Golden(name)
    model = golden.model(published_unet)
    attached = golden.cached(model)
    recorder = Recorder(model, attached)
    outputs = golden.run(model)
    assert max(golden.distances(outputs)) < 2e-5
    few = {*range(head_of(golden, golden.branch)), *range(6 - golden.branch, 6)}
    assert recorder.calls == [set(range(6)) if mark == "#" else few for mark in PLAN]
    detach(model)
    assert_same(golden.run(model), golden.run(golden.model(published_unet)))
