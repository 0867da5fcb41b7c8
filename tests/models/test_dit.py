"""DiT: the published sizes, names and initialisation, and the contract of every model."""

import subprocess
import sys

import pytest
import torch
from diffusers.hooks import TaylorSeerCacheConfig

from skipdit import DiT, SkipCacheConfig
from skipdit.models.adaln import PATCH_SIZES, SIZES
from skipdit.nn.embeddings import sincos_2d
from tests.models.contract import CompiledWhereSomebodyLooks, Cuts, ModelContract, Reuses, UnknownToDiffusers
from tests.models.contract.cost import flops
from tests.models.contract.labels import Labelled
from tests.models.subject import TIMESTEPS, DiTSubject, assert_equal, in_context, randomised, sample

TINY = {"sample_size": 4, "hidden_size": 16, "num_heads": 2, "num_classes": 10, "depth": 6}


class TestDiT(DiTSubject, ModelContract, UnknownToDiffusers, CompiledWhereSomebodyLooks):
    """DiT and Skip-DiT are under the contract of every model."""


class TestResidualDiT(DiTSubject, Cuts, Reuses):
    """The laws of the rooms hold where the fused skip is added to the stream."""

    def build(self, **config) -> DiT:
        return super().build(fuse="residual", **config)


def published(size: str = "XL/2", **config) -> DiT:
    with torch.device("meta"):
        return DiT.from_size(size, **config)


class TestPublished:
    @pytest.mark.parametrize(
        ("size", "config", "parameters", "keys"),
        [
            ("XL/2", {}, 675_129_632, 292),
            ("XL/2", {"sample_size": 64}, 676_014_368, 292),
            ("XL/2", {"num_skips": 14}, 712_369_184, 348),
            ("L/2", {}, 458_102_816, 252),
            ("B/2", {}, 130_512_416, 132),
            ("S/2", {}, 32_963_360, 132),
        ],
    )
    def test_parameter_and_key_counts(self, size, config, parameters, keys):
        model = published(size, **config)
        assert sum(parameter.numel() for parameter in model.parameters()) == parameters
        assert len(model.state_dict()) == keys

    def test_key_names_and_shapes(self):
        assert {name: tuple(value.shape) for name, value in published(num_skips=14).state_dict().items()} == {
            "pos_embed": (1, 256, 1152),
            **linear("x_embedder.proj", 1152, 4, 2, 2),
            **linear("t_embedder.mlp.0", 1152, 256),
            **linear("t_embedder.mlp.2", 1152, 1152),
            "y_embedder.embedding_table.weight": (1001, 1152),
            **{name: shape for index in range(28) for name, shape in block(f"blocks.{index}").items()},
            **linear("final_layer.linear", 32, 1152),
            **linear("final_layer.adaLN_modulation.1", 2304, 1152),
            **{name: shape for j in range(14) for name, shape in skip(j).items()},
        }

    @pytest.mark.parametrize("patch", PATCH_SIZES)
    @pytest.mark.parametrize("letter", SIZES)
    def test_every_size_over_every_patch(self, letter, patch):
        model = published(f"{letter}/{patch}")
        depth, hidden_size, heads = SIZES[letter]
        assert model.pos_embed.shape == (1, (32 // patch) ** 2, hidden_size)
        assert len(model.blocks) == depth
        assert model.blocks[0].attn.num_heads == heads
        assert model.final_layer.linear.out_features == 8 * patch**2

    @pytest.mark.parametrize("size", ["XL", "XL/3", "M/2", "", "xl/2"])
    def test_an_unknown_size_is_refused(self, size):
        with pytest.raises(ValueError, match=rf"unknown size '{size}'.*XL, L, B, S.*XL/2"):
            DiT.from_size(size)


def linear(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def skip(j: int, width: int = 1152) -> dict[str, tuple[int, ...]]:
    return linear(f"skip_norms.{j}", 2 * width) | linear(f"skip_linears.{j}.linear", width, 2 * width)


def block(name: str, width: int = 1152) -> dict[str, tuple[int, ...]]:
    return {
        **linear(f"{name}.attn.qkv", 3 * width, width),
        **linear(f"{name}.attn.proj", width, width),
        **linear(f"{name}.mlp.fc1", 4 * width, width),
        **linear(f"{name}.mlp.fc2", width, 4 * width),
        **linear(f"{name}.adaLN_modulation.1", 6 * width, width),
    }


class TestInitialisation:
    def test_a_fresh_model_says_zero(self):
        for num_skips in (0, 3):
            model = DiT(num_skips=num_skips, **TINY).eval()
            assert not sample(model, DiTSubject().inputs(500)).any()

    def test_gates_and_output_are_zero_biases_too_and_linears_are_xavier(self):
        model = DiT(num_skips=1, **TINY | {"hidden_size": 256, "depth": 2})
        zeros = [*(layer.adaLN_modulation[1] for layer in model.blocks)]
        zeros += [model.final_layer.adaLN_modulation[1], model.final_layer.linear]
        assert not any(parameter.any() for module in zeros for parameter in module.parameters())
        for layer in model.blocks:
            for xavier in (layer.attn.qkv, layer.attn.proj, layer.mlp.fc1, layer.mlp.fc2):
                assert_uniform(xavier.weight, (6 / (xavier.in_features + xavier.out_features)) ** 0.5)
                assert not xavier.bias.any()
        assert_uniform(model.x_embedder.proj.weight, (6 / (256 + 4 * 2 * 2)) ** 0.5)
        assert not model.x_embedder.proj.bias.any()

    def test_embeddings_are_normal_and_positions_fixed(self):
        model = DiT(**TINY | {"hidden_size": 64, "num_classes": 1000})
        for normal in (model.y_embedder.embedding_table, model.t_embedder.mlp[0], model.t_embedder.mlp[2]):
            assert normal.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert torch.equal(model.pos_embed[0], sincos_2d(2, 2, 64))
        assert not model.pos_embed.requires_grad

    def test_replacing_skips_keep_the_default_of_pytorch(self):
        """Published class-to-image: weight and bias uniform within 1 / sqrt(2 D), norms one and zero."""
        model = DiT(num_skips=3, **TINY | {"hidden_size": 64})
        for norm, skip in zip(model.skip_norms, model.skip_linears, strict=True):
            assert_uniform(skip.linear.weight, 128**-0.5)
            assert 0 < skip.linear.bias.abs().max() <= 128**-0.5
            assert torch.equal(norm.weight, torch.ones(128))
            assert not norm.bias.any()

    def test_residual_skips_leave_a_pretrained_vanilla_model_as_it_is(self):
        vanilla = randomised(DiT(**TINY))
        skip = DiT(**TINY, num_skips=3, fuse="residual").eval()
        missing, unexpected = skip.load_state_dict(vanilla.state_dict(), strict=False)
        assert not unexpected
        assert {name.split(".")[0] for name in missing} == {"skip_norms", "skip_linears"}
        subject = DiTSubject()
        assert_equal(subject.run(skip), subject.run(vanilla))


def assert_uniform(weight: torch.Tensor, bound: float) -> None:
    assert weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)


class TestInputs(DiTSubject, Labelled):
    def test_another_grid_than_the_one_made_for_has_its_own_positions(self):
        """The size at construction is only the table that is stored."""
        square, tall = self.build(), self.build(sample_size=(8, 4))
        upright, small = self.inputs(500, tall=True), self.inputs(500)
        turned = upright | {"hidden_states": upright["hidden_states"].mT.contiguous()}
        for inputs in (upright, small, turned):
            assert torch.equal(sample(square, inputs), sample(tall, inputs))

    def test_width_and_height_are_told_apart(self):
        model, inputs = self.build(), self.inputs(500, tall=True)
        turned = inputs | {"hidden_states": inputs["hidden_states"].mT.contiguous()}
        assert sample(model, turned).shape[-2:] == (4, 8)
        assert not torch.allclose(sample(model, turned), sample(model, inputs).mT)

    @pytest.mark.parametrize(("out_channels", "channels"), [(None, 8), (4, 4)])
    def test_the_variance_is_there_where_it_is_learned(self, out_channels, channels):
        model = self.build(out_channels=out_channels)
        assert model.config.out_channels == channels
        assert sample(model, self.inputs(500)).shape == (2, channels, 4, 4)

    def test_without_class_dropout_there_is_no_null_class(self):
        guided, unguided = self.build(), self.build(class_dropout_prob=0)
        assert (guided.null_class, unguided.null_class) == (10, None)
        assert guided.y_embedder.embedding_table.num_embeddings == 11
        assert unguided.y_embedder.embedding_table.num_embeddings == 10
        with pytest.raises(ValueError, match=r"class_labels hold \[10\]: a model of 10 classes takes 0 to 9"):
            sample(unguided, self.inputs(500) | {"class_labels": torch.tensor([10, 9])})
        with pytest.raises(
            ValueError, match=r"class_labels hold \[-1, 1000\]: a model of 10 classes takes 0 to 10 .*own"
        ):
            sample(guided, self.inputs(500) | {"class_labels": torch.tensor([1000, -1])})

    def test_class_and_timestep_are_felt(self):
        model, inputs = self.build(), self.inputs(500)
        other_class = inputs | {"class_labels": (inputs["class_labels"] + 1) % 11}
        other_time = inputs | {"timestep": inputs["timestep"] + 1}
        for changed in (other_class, other_time):
            assert not torch.allclose(sample(model, changed), sample(model, inputs))

    @pytest.mark.parametrize("config", [{"sample_size": (8, 4)}, {"num_skips": 1, "fuse": "residual"}])
    def test_saving_and_loading_is_exact(self, config, tmp_path):
        model = self.build(**config)
        model.save_pretrained(tmp_path)
        loaded = DiT.from_pretrained(tmp_path)
        for tall in (False, True):
            assert torch.equal(sample(loaded, self.inputs(5, tall=tall)), sample(model, self.inputs(5, tall=tall)))
        assert not loaded.pos_embed.requires_grad
        half = DiT.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
        assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}


class TestBadArchitecture:
    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ({"depth": 0}, "depth is 0"),
            ({"num_skips": -1}, "num_skips is -1: depth 6 has room for 0 to 3"),
            ({"num_skips": 4}, "num_skips is 4: depth 6 has room for 0 to 3"),
            ({"depth": 7, "num_skips": 4}, "num_skips is 4: depth 7 has room for 0 to 3"),
            ({"fuse": "mean"}, "fuse is 'mean': take one of replace, residual"),
            ({"hidden_size": 18, "num_heads": 4}, "hidden_size is 18.*num_heads"),
            ({"hidden_size": 6, "num_heads": 2}, "hidden_size is 6.*of 4"),
            ({"sample_size": 5}, "image is 5 x 5.*patch size 2"),
            ({"sample_size": (4, 3)}, "image is 4 x 3.*patch size 2"),
        ],
    )
    def test_a_setting_out_of_bounds_names_value_and_bound(self, config, message):
        with pytest.raises(ValueError, match=message):
            DiT(**TINY | config)

    @pytest.mark.parametrize(
        "config",
        [{"num_heads": 0}, {"patch_size": 0}, {"sample_size": 0}, {"num_classes": 0}, {"class_dropout_prob": 1.5}],
    )
    def test_a_count_of_nothing_is_refused_before_anything_is_built(self, config):
        with pytest.raises(ValueError, match=f"is {next(iter(config.values()))}: it must be"):
            DiT(**TINY | config)

    def test_an_image_that_is_not_made_of_patches_is_refused(self):
        inputs = DiTSubject().inputs(500) | {"hidden_states": torch.randn(2, 4, 4, 5)}
        with pytest.raises(ValueError, match="image is 4 x 5: both sides must be multiples of the patch size 2"):
            sample(DiT(**TINY).eval(), inputs)


class TestOtherCaches(DiTSubject):
    def test_a_cache_of_diffusers_that_finds_layers_is_passed_on(self):
        model = self.build()
        expected = self.run(model)
        identifiers = [r"blocks\.\d+\.attn"]
        model.enable_cache(TaylorSeerCacheConfig(2, disable_cache_before_step=1, cache_identifiers=identifiers))
        assert model.is_cache_enabled
        outputs = [in_context(model, "cond", self.inputs(timestep)) for timestep in TIMESTEPS]
        assert not all(torch.equal(ours, theirs) for ours, theirs in zip(outputs, expected, strict=True))
        with pytest.raises(ValueError, match="disable_cache"):
            model.enable_cache(SkipCacheConfig())
        model.disable_cache()
        assert_equal(self.run(model), expected)


class TestCost(DiTSubject):
    @pytest.mark.parametrize("branch", [0, 1, 2])
    def test_flops_of_a_cached_step_in_closed_form(self, branch):
        batch, tokens, width, patch = 2, 4, 16, 2 * 2 * 4
        layer = 24 * tokens * width**2 + 4 * tokens**2 * width + 12 * width**2  # linears, attention, modulation
        skip = 2 * tokens * 2 * width * width
        ends = 2 * tokens * width * patch + 2 * (256 + width) * width + 4 * width**2 + 2 * tokens * width * 2 * patch
        model = self.cached(SkipCacheConfig(interval=2, branch=branch))
        self.run(model, (900,))
        expected = batch * (ends + 2 * branch * layer + branch * skip)
        assert flops(lambda: self.run(model, (800,))) == expected

    def test_a_cached_step_of_the_published_model_costs_what_is_published(self):
        """118.4 G multiplications for DiT-XL/2, 127.9 G with skips, of which a step cached at branch 4 runs 28.6 %."""
        with torch.device("meta"):
            label = torch.ones(1, dtype=torch.long)
            inputs = {"hidden_states": torch.randn(1, 4, 32, 32), "timestep": torch.ones(1), "class_labels": label}
            vanilla, model = flops(lambda: published()(**inputs)), published(num_skips=14).eval()
            skip = flops(lambda: model(**inputs))
            model.enable_cache(SkipCacheConfig(interval=2, branch=4))
            calls = [inputs | {"timestep": entry.expand(1)} for entry in torch.arange(2)]  # places need no value
            sample(model, calls[0])
            cached = flops(lambda: sample(model, calls[1]))
        assert vanilla / 2e9 == pytest.approx(118.4, abs=0.4)
        assert skip / 2e9 == pytest.approx(127.9, abs=0.4)
        assert cached / skip == pytest.approx(0.286, abs=0.001)


def test_group_offloading_says_what_it_needs():
    """In a process that has no accelerate."""
    code = """
import sys
sys.modules["accelerate"] = sys.modules["peft"] = None
import torch
from skipdit import DiT
model = DiT(sample_size=8, hidden_size=16, depth=2, num_heads=2, num_classes=10)
try:
    model.enable_group_offload(torch.device("cpu"), offload_type="leaf_level")
except ImportError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install accelerate" in result.stdout
