"""Latte: the published sizes, names and initialisation, and the contract of every model and of every video model."""

from collections.abc import Sequence

import pytest
import torch
from diffusers.hooks import TaylorSeerCacheConfig
from torch import Tensor, nn

from skipdit import Latte
from skipdit.models.adaln import PATCH_SIZES, SIZES
from skipdit.nn.embeddings import sincos_1d, sincos_2d
from tests.models.contract import Cuts, ModelContract, Reuses, UnknownToDiffusers
from tests.models.contract.labels import Labelled
from tests.models.contract.videos import Videos
from tests.models.subject import TIMESTEPS, Inputs, LatteSubject, assert_equal, in_context, sample

TINY = {"sample_size": 4, "hidden_size": 16, "num_heads": 2, "num_frames": 3, "depth": 6}


class TestLatte(LatteSubject, ModelContract, UnknownToDiffusers):
    """Latte and its skip model are under the contract of every model."""


class TestResidualLatte(LatteSubject, Cuts, Reuses):
    """The laws of the rooms hold where the fused skip is added to the stream."""

    def build(self, **config) -> Latte:
        return super().build(fuse="residual", **config)


class TestVideo(LatteSubject, Videos):
    """The laws of frames and stills."""

    frame_dim = 1
    length = "num_frames"

    def temporal_layers(self, model: Latte) -> Sequence[nn.Module]:
        return list(model.blocks[1::2])

    def temporal_table(self, model: Latte) -> Tensor:
        return model.temp_embed

    def with_stills(self, clip: Inputs, stills: Tensor) -> Inputs:
        pictures = torch.cat([clip["hidden_states"], stills], dim=1)
        labels = torch.tensor([[1, 2], [3, 10]])
        return clip | {"hidden_states": pictures, "num_images": 2, "image_labels": labels}

    def with_other_condition(self, joint: Inputs, still: int) -> Inputs:
        labels = joint["image_labels"].clone()
        labels[:, still] = 5
        return joint | {"image_labels": labels}

    def sample_alone(self, model: Latte, joint: Inputs, still: int) -> Tensor:
        with torch.no_grad():
            model.temp_embed.zero_()
            for temporal in self.temporal_layers(model):
                nn.init.zeros_(temporal.adaLN_modulation[1].weight)  # shuts the gates
                nn.init.zeros_(temporal.adaLN_modulation[1].bias)
        picture = joint["hidden_states"][:, 3 + still : 4 + still]
        labels = joint["image_labels"][:, still]
        return sample(model, {"hidden_states": picture, "timestep": joint["timestep"], "class_labels": labels})


def published(size: str = "XL/2", **config) -> Latte:
    with torch.device("meta"):
        return Latte.from_size(size, **config)


class TestPublished:
    @pytest.mark.parametrize(
        ("size", "parameters", "keys"),
        [
            ("XL/2", 673_994_912, 292), ("XL/4", 673_939_712, 292), ("XL/8", 674_548_352, 292),
            ("L/2", 457_094_176, 252), ("L/4", 457_045_120, 252), ("L/8", 457_586_176, 252),
            ("B/2", 129_755_936, 132), ("B/4", 129_719_168, 132), ("B/8", 130_125_056, 132),
            ("S/2", 32_585_120, 132), ("S/4", 32_566_784, 132), ("S/8", 32_769_920, 132),
        ],
    )  # fmt: skip
    def test_parameter_and_key_counts(self, size, parameters, keys):
        assert counts(published(size)) == (parameters, keys)

    @pytest.mark.parametrize(("num_classes", "parameters", "keys"), [(0, 692_614_688, 320), (101, 692_732_192, 321)])
    def test_parameter_and_key_counts_of_the_skip_model(self, num_classes, parameters, keys):
        assert counts(published(num_skips=7, num_classes=num_classes)) == (parameters, keys)

    def test_key_names_and_shapes(self):
        model = published(num_skips=7, num_classes=101)
        assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == {
            "pos_embed": (1, 256, 1152),
            "temp_embed": (1, 16, 1152),
            **linear("x_embedder.proj", 1152, 4, 2, 2),
            **linear("t_embedder.mlp.0", 1152, 256),
            **linear("t_embedder.mlp.2", 1152, 1152),
            "y_embedder.embedding_table.weight": (102, 1152),
            **{name: shape for index in range(28) for name, shape in block(f"blocks.{index}").items()},
            **linear("final_layer.linear", 32, 1152),
            **linear("final_layer.adaLN_modulation.1", 2304, 1152),
            **{name: shape for j in range(7) for name, shape in skip(j).items()},
        }

    @pytest.mark.parametrize("patch", PATCH_SIZES)
    @pytest.mark.parametrize("letter", SIZES)
    def test_every_size_over_every_patch(self, letter, patch):
        model = published(f"{letter}/{patch}")
        blocks, hidden_size, heads = SIZES[letter]
        assert model.pos_embed.shape == (1, (32 // patch) ** 2, hidden_size)
        assert (len(model.blocks), model.depth) == (blocks, blocks // 2)
        assert model.blocks[0].attn.num_heads == heads
        assert model.final_layer.linear.out_features == 8 * patch**2

    @pytest.mark.parametrize("size", ["XL", "XL/3", "M/2", "", "xl/2"])
    def test_an_unknown_size_is_refused(self, size):
        with pytest.raises(ValueError, match=rf"unknown size '{size}'.*XL, L, B, S.*XL/2"):
            Latte.from_size(size)

    def test_the_innermost_skip_is_number_0(self):
        """Published: layer 7 of 14 closes skip 0, fed by layer 6, and layer 13 skip 6, fed by layer 0."""
        model = LatteSubject().build(depth=14, num_skips=7, num_classes=0)
        closed: list[int] = []
        for index, module in enumerate(model.skip_linears):
            module.register_forward_pre_hook(lambda *_, index=index: closed.append(index))
        sample(model, LatteSubject().inputs(500) | {"class_labels": None})
        assert closed == [0, 1, 2, 3, 4, 5, 6]


def counts(model: Latte) -> tuple[int, int]:
    return sum(parameter.numel() for parameter in model.parameters()), len(model.state_dict())


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
            model = Latte(num_skips=num_skips, num_classes=10, **TINY).eval()
            assert not sample(model, LatteSubject().inputs(500)).any()

    def test_gates_and_output_are_zero_in_spatial_and_temporal_blocks(self):
        model = Latte(num_skips=1, **TINY)
        zeros = [*(block.adaLN_modulation[1] for block in model.blocks)]
        zeros += [model.final_layer.adaLN_modulation[1], model.final_layer.linear]
        assert len(zeros) == 2 * 6 + 2
        assert not any(parameter.any() for module in zeros for parameter in module.parameters())

    def test_linears_are_xavier_those_of_replacing_skips_too(self):
        """Published class-to-video; class-to-image keeps PyTorch's default there."""
        model = Latte(num_skips=1, **TINY | {"hidden_size": 256, "depth": 2})
        linears = [layer for block in model.blocks for layer in (block.attn.qkv, block.attn.proj, block.mlp.fc1)]
        for xavier in (*linears, *(skip.linear for skip in model.skip_linears)):
            assert_uniform(xavier.weight, (6 / (xavier.in_features + xavier.out_features)) ** 0.5)
            assert not xavier.bias.any()
        for norm in model.skip_norms:
            assert torch.equal(norm.weight, torch.ones(512))
            assert not norm.bias.any()

    def test_embeddings_are_normal_and_positions_fixed(self):
        model = Latte(**TINY | {"hidden_size": 64, "num_classes": 1000})
        for normal in (model.y_embedder.embedding_table, model.t_embedder.mlp[0], model.t_embedder.mlp[2]):
            assert normal.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert torch.equal(model.pos_embed[0], sincos_2d(2, 2, 64))
        assert torch.equal(model.temp_embed[0], sincos_1d(torch.arange(3), 64).float())
        assert not model.pos_embed.requires_grad
        assert not model.temp_embed.requires_grad

    def test_residual_skips_leave_a_pretrained_vanilla_model_as_it_is(self):
        subject = LatteSubject()
        vanilla, skip = subject.build(num_skips=0), Latte(num_classes=10, num_skips=3, fuse="residual", **TINY).eval()
        missing, unexpected = skip.load_state_dict(vanilla.state_dict(), strict=False)
        assert not unexpected
        assert {name.split(".")[0] for name in missing} == {"skip_norms", "skip_linears"}
        assert_equal(subject.run(skip), subject.run(vanilla))


def assert_uniform(weight: Tensor, bound: float) -> None:
    assert weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)


class TestInputs(LatteSubject):
    def test_another_grid_than_the_one_made_for_has_its_own_positions(self):
        square, tall = self.build(), self.build(sample_size=(8, 4))
        upright, small = self.inputs(500, tall=True), self.inputs(500)
        turned = upright | {"hidden_states": upright["hidden_states"].mT.contiguous()}
        for inputs in (upright, small, turned):
            assert torch.equal(sample(square, inputs), sample(tall, inputs))

    @pytest.mark.parametrize(("out_channels", "channels"), [(None, 8), (4, 4)])
    def test_the_variance_is_there_where_it_is_learned(self, out_channels, channels):
        model = self.build(out_channels=out_channels)
        assert model.config.out_channels == channels
        assert sample(model, self.inputs(500)).shape == (2, 3, channels, 4, 4)

    def test_an_unconditional_model_has_no_table_of_classes(self):
        model = self.build(num_classes=0)
        assert model.null_class is None
        assert not [name for name in model.state_dict() if name.startswith("y_embedder")]
        assert sample(model, self.inputs(500) | {"class_labels": None}).shape == (2, 3, 8, 4, 4)

    def test_without_class_dropout_there_is_no_null_class(self):
        guided, unguided = self.build(), self.build(class_dropout_prob=0)
        assert (guided.null_class, unguided.null_class) == (10, None)
        assert guided.y_embedder.embedding_table.num_embeddings == 11
        assert unguided.y_embedder.embedding_table.num_embeddings == 10

    def test_class_and_timestep_are_felt(self):
        model, inputs = self.build(), self.inputs(500)
        other_class = inputs | {"class_labels": (inputs["class_labels"] + 1) % 11}
        other_time = inputs | {"timestep": inputs["timestep"] + 1}
        for changed in (other_class, other_time):
            assert not torch.allclose(sample(model, changed), sample(model, inputs))

    def test_unconditional_stills_need_no_labels(self):
        model = self.build(num_classes=0)
        inputs = self.inputs(500) | {"class_labels": None, "num_images": 1}
        assert sample(model, inputs).shape == (2, 3, 8, 4, 4)

    @pytest.mark.parametrize(
        "config",
        [{}, {"sample_size": (8, 4)}, {"num_skips": 1, "fuse": "residual"}, {"num_classes": 0}, {"num_frames": 5}],
    )
    def test_saving_and_loading_is_exact(self, config, tmp_path):
        model = self.build(**config)
        model.save_pretrained(tmp_path)
        loaded = Latte.from_pretrained(tmp_path)
        labels = {"class_labels": None} if config.get("num_classes") == 0 else {}
        for tall in (False, True):
            inputs = self.inputs(5, tall=tall) | labels
            assert torch.equal(sample(loaded, inputs), sample(model, inputs))
        assert [name for name, p in loaded.named_parameters() if not p.requires_grad] == ["pos_embed", "temp_embed"]
        half = Latte.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
        assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}

    def test_a_cache_of_diffusers_that_finds_layers_is_passed_on(self):
        model = self.build()
        expected = self.run(model)
        identifiers = [r"blocks\.\d+\.attn"]
        model.enable_cache(TaylorSeerCacheConfig(2, disable_cache_before_step=1, cache_identifiers=identifiers))
        outputs = [in_context(model, "cond", self.inputs(timestep)) for timestep in TIMESTEPS]
        assert not all(torch.equal(ours, theirs) for ours, theirs in zip(outputs, expected, strict=True))
        model.disable_cache()
        assert_equal(self.run(model), expected)


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
            ({"num_classes": -1}, "num_classes is -1: it must be at least 0, which is an unconditional model"),
            ({"num_frames": 0}, "num_frames is 0: it must be at least 1"),
            ({"num_heads": 0}, "num_heads is 0: it must be at least 1"),
            ({"patch_size": 0}, "patch_size is 0: it must be at least 1"),
            ({"sample_size": 0}, "height is 0: it must be at least 1"),
            ({"in_channels": 0}, "in_channels is 0: it must be at least 1"),
            ({"class_dropout_prob": 1.5}, r"class_dropout_prob is 1.5: it must be in \[0, 1\)"),
        ],
    )
    def test_a_setting_out_of_bounds_names_value_and_bound(self, config, message):
        with pytest.raises(ValueError, match=message):
            Latte(**TINY | config)


class TestBadInputs(LatteSubject, Labelled):
    @pytest.mark.parametrize(
        ("config", "change", "message"),
        [
            ({}, {"class_labels": None}, "class_labels are missing .* of 10 classes: give them"),
            ({"num_classes": 0}, {}, "class_labels are given .* of 0 classes: leave them out"),
            ({}, {"num_images": 1}, "image_labels are missing for 1 stills and a model of 10 classes: give them"),
            ({}, {"image_labels": torch.tensor([[1], [2]])}, "image_labels are given for 0 stills .*: leave them out"),
            (
                {"num_classes": 0},
                {"class_labels": None, "num_images": 1, "image_labels": torch.tensor([[1], [2]])},
                "image_labels are given for 1 stills and a model of 0 classes: leave them out",
            ),
            (
                {},
                {"num_images": 2, "image_labels": torch.tensor([[1], [2]])},
                r"image_labels have shape \(2, 1\): 2 stills need \[B, 2\]",
            ),
            ({}, {"hidden_states": torch.randn(2, 3, 4, 4, 5)}, "image is 4 x 5: both sides.*patch size 2"),
        ],
    )
    def test_what_does_not_fit_the_model_is_named(self, config, change, message):
        with pytest.raises(ValueError, match=message):
            sample(self.build(**config), self.inputs(500) | change)
