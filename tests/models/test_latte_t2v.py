"""LatteT2V: the published names and initialisation, and the contract of every model and of every video model."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from skipdit import LatteT2V
from skipdit.nn.embeddings import sincos_1d
from tests.models.contract import Cuts, ModelContract, Reuses
from tests.models.contract.videos import Videos
from tests.models.subject import Inputs, LatteT2VSubject, assert_equal, in_dtype, sample

TINY = {
    "sample_size": 4, "num_attention_heads": 2, "attention_head_dim": 8, "cross_attention_dim": 16,
    "caption_channels": 12, "video_length": 3, "num_layers": 6,
}  # fmt: skip


class TestLatteT2V(LatteT2VSubject, ModelContract):
    """LatteT2V and its skip model are under the contract of every model."""


class TestResidualLatteT2V(LatteT2VSubject, Cuts, Reuses):
    """The laws of the rooms hold where the fused skip is added to the stream."""

    def build(self, **config) -> LatteT2V:
        return super().build(fuse="residual", **config)


class TestVideo(LatteT2VSubject, Videos):
    """The laws of frames and stills."""

    frame_dim = 2
    length = "video_length"

    def temporal_layers(self, model: LatteT2V) -> Sequence[nn.Module]:
        return list(model.temporal_transformer_blocks)

    def temporal_table(self, model: LatteT2V) -> Tensor:
        return model.temp_pos_embed

    def with_stills(self, clip: Inputs, stills: Tensor) -> Inputs:
        text, mask = clip["encoder_hidden_states"], clip["encoder_attention_mask"]
        texts = torch.stack([text, text + 1, text - 1], dim=1)
        masks = torch.stack([mask, torch.ones_like(mask), mask], dim=1)
        pictures = torch.cat([clip["hidden_states"], stills], dim=2)
        return clip | {
            "hidden_states": pictures, "encoder_hidden_states": texts, "encoder_attention_mask": masks, "num_images": 2,
        }  # fmt: skip

    def with_other_condition(self, joint: Inputs, still: int) -> Inputs:
        texts = joint["encoder_hidden_states"].clone()
        texts[:, 1 + still] *= 2
        return joint | {"encoder_hidden_states": texts}

    def sample_alone(self, model: LatteT2V, joint: Inputs, still: int) -> Tensor:
        return sample(model, {
            "hidden_states": joint["hidden_states"][:, :, 3 + still : 4 + still],
            "timestep": joint["timestep"],
            "encoder_hidden_states": joint["encoder_hidden_states"][:, 1 + still],
            "encoder_attention_mask": joint["encoder_attention_mask"][:, 1 + still],
            "enable_temporal_attentions": False,
        })  # fmt: skip


def published(**config) -> LatteT2V:
    with torch.device("meta"):
        return LatteT2V(**config)


class TestPublished:
    @pytest.mark.parametrize(("num_skips", "parameters", "keys"), [(0, 1_057_246_880, 967), (14, 1_094_486_432, 1023)])
    def test_parameter_and_key_counts(self, num_skips, parameters, keys):
        """The published files have one key more, a buffer that nothing reads."""
        model = published(num_skips=num_skips)
        assert sum(parameter.numel() for parameter in model.parameters()) == parameters
        assert len(model.state_dict()) == keys

    def test_key_names_and_shapes(self):
        assert {name: tuple(value.shape) for name, value in published(num_skips=14).state_dict().items()} == {
            **linear("pos_embed.proj", 1152, 4, 2, 2),
            **linear("adaln_single.emb.timestep_embedder.linear_1", 1152, 256),
            **linear("adaln_single.emb.timestep_embedder.linear_2", 1152, 1152),
            **linear("adaln_single.linear", 6912, 1152),
            **linear("caption_projection.linear_1", 1152, 4096),
            **linear("caption_projection.linear_2", 1152, 1152),
            **{name: shape for i in range(28) for name, shape in block(f"transformer_blocks.{i}", "attn2").items()},
            **{name: shape for i in range(28) for name, shape in block(f"temporal_transformer_blocks.{i}").items()},
            "scale_shift_table": (2, 1152),
            **linear("proj_out", 32, 1152),
            **{name: shape for j in range(14) for name, shape in skip(j).items()},
        }

    def test_the_innermost_skip_is_number_0(self):
        """Published: layer 14 of 28 closes skip 0, fed by layer 13, and layer 27 skip 13, fed by layer 0."""
        model = LatteT2VSubject().build(depth=28, num_skips=14)
        closed: list[int] = []
        for index, module in enumerate(model.skip_linears):
            module.register_forward_pre_hook(lambda *_, index=index: closed.append(index))
        sample(model, LatteT2VSubject().inputs(500))
        assert closed == list(range(14))


def linear(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def skip(j: int, width: int = 1152) -> dict[str, tuple[int, ...]]:
    return linear(f"skip_norms.{j}", 2 * width) | linear(f"skip_linears.{j}.linear", width, 2 * width)


def block(name: str, *cross: str, width: int = 1152) -> dict[str, tuple[int, ...]]:
    projections = (f"{name}.{kind}.{to}" for kind in ("attn1", *cross) for to in ("to_q", "to_k", "to_v", "to_out.0"))
    return {
        f"{name}.scale_shift_table": (6, width),
        **{key: shape for projection in projections for key, shape in linear(projection, width, width).items()},
        **linear(f"{name}.ff.net.0.proj", 4 * width, width),
        **linear(f"{name}.ff.net.2", width, 4 * width),
    }


class TestInitialisation:
    def test_replacing_skips_keep_the_default_of_pytorch(self):
        """Published text-to-video: weight and bias uniform within 1 / sqrt(2 D), norms one and zero."""
        model = LatteT2V(num_skips=3, **TINY | {"attention_head_dim": 32, "cross_attention_dim": 64})
        for norm, fused in zip(model.skip_norms, model.skip_linears, strict=True):
            assert fused.linear.weight.abs().max() <= 128**-0.5
            assert fused.linear.weight.std().item() == pytest.approx((3 * 128) ** -0.5, rel=0.1)
            assert 0 < fused.linear.bias.abs().max() <= 128**-0.5
            assert torch.equal(norm.weight, torch.ones(128))
            assert not norm.bias.any()

    def test_temporal_positions_are_fixed_and_in_no_file(self):
        model = LatteT2V(**TINY)
        assert torch.equal(model.temp_pos_embed[0], sincos_1d(torch.arange(3), 16).float())
        assert {name for name, _ in model.named_buffers()} == {"pos_embed.pos_embed", "temp_pos_embed"}
        assert not {"pos_embed.pos_embed", "temp_pos_embed"} & model.state_dict().keys()

    def test_residual_skips_leave_a_pretrained_vanilla_model_as_it_is(self):
        subject = LatteT2VSubject()
        vanilla, skip = subject.build(num_skips=0), LatteT2V(num_skips=3, fuse="residual", **TINY).eval()
        missing, unexpected = skip.load_state_dict(vanilla.state_dict(), strict=False)
        assert not unexpected
        assert {name.split(".")[0] for name in missing} == {"skip_norms", "skip_linears"}
        assert_equal(subject.run(skip), subject.run(vanilla))


class TestInputs(LatteT2VSubject):
    def test_width_and_height_are_told_apart(self, model):
        inputs = self.inputs(500, tall=True)
        turned = inputs | {"hidden_states": inputs["hidden_states"].mT.contiguous()}
        assert sample(model, turned).shape[-2:] == (4, 8)
        assert not torch.allclose(sample(model, turned), sample(model, inputs).mT)

    @pytest.mark.parametrize(("out_channels", "channels"), [(None, 4), (4, 4), (8, 8)])
    def test_the_variance_is_there_where_it_is_learned(self, out_channels, channels):
        assert sample(self.build(out_channels=out_channels), self.inputs(500)).shape == (2, channels, 3, 4, 4)

    def test_text_and_timestep_are_felt(self, model):
        inputs = self.inputs(500)
        other_text = inputs | {"encoder_hidden_states": inputs["encoder_hidden_states"] + 1}
        other_time = inputs | {"timestep": inputs["timestep"] + 1}
        for changed in (other_text, other_time):
            assert not torch.allclose(sample(model, changed), sample(model, inputs))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_a_mask_and_its_bias_are_the_same(self, model, dtype):
        inputs = in_dtype(self.inputs(500), dtype)
        bias = (1 - inputs["encoder_attention_mask"][:, None].to(dtype)) * -10_000.0
        outputs = [sample(model.to(dtype), inputs | {"encoder_attention_mask": mask}) for mask in (None, bias)]
        assert torch.equal(outputs[1], sample(model, inputs))
        assert not torch.equal(*outputs)

    def test_padding_of_a_still_has_no_influence(self, model):
        inputs = self.inputs(500)
        mask = inputs["encoder_attention_mask"][:, None].expand(2, 2, 5)
        text = inputs["encoder_hidden_states"][:, None].expand(2, 2, 5, 12)
        padded = text + 10 * torch.randn(text.shape) * (1 - mask)[..., None]
        joint = inputs | {"num_images": 1, "encoder_attention_mask": mask}
        outputs = [sample(model, joint | {"encoder_hidden_states": states}) for states in (text, padded)]
        assert torch.equal(*outputs)

    def test_without_temporal_attention_frames_know_nothing_of_one_another(self, model):
        inputs = self.inputs(500) | {"enable_temporal_attentions": False}
        other = inputs["hidden_states"].clone()
        other[:, :, 1] += 1
        before, after = sample(model, inputs), sample(model, inputs | {"hidden_states": other})
        assert [torch.equal(a, b) for a, b in zip(before.unbind(2), after.unbind(2))] == [True, False, True]

    @pytest.mark.parametrize("config", [{}, {"num_skips": 1, "fuse": "residual"}, {"video_length": 5}])
    @pytest.mark.parametrize("low_cpu_mem_usage", [True, False])
    def test_saving_and_loading_is_exact(self, config, low_cpu_mem_usage, tmp_path):
        model = self.build(**config)
        model.save_pretrained(tmp_path)
        loaded = LatteT2V.from_pretrained(tmp_path, low_cpu_mem_usage=low_cpu_mem_usage)
        for tall in (False, True):
            assert torch.equal(sample(loaded, self.inputs(5, tall=tall)), sample(model, self.inputs(5, tall=tall)))
        half = LatteT2V.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
        assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}


class TestBadArchitecture:
    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ({"num_layers": 0}, "depth is 0: it must be at least 1"),
            ({"num_skips": -1}, "num_skips is -1: depth 6 has room for 0 to 3"),
            ({"num_skips": 4}, "num_skips is 4: depth 6 has room for 0 to 3"),
            ({"num_layers": 7, "num_skips": 4}, "num_skips is 4: depth 7 has room for 0 to 3"),
            ({"fuse": "mean"}, "fuse is 'mean': take one of replace, residual"),
            ({"norm_type": "layer_norm"}, "norm_type is 'layer_norm': Latte has 'ada_norm_single' alone"),
            (
                {"cross_attention_dim": 12},
                "cross_attention_dim is 12 and .* attention_head_dim 16: both must be the same",
            ),
            ({"cross_attention_dim": None}, "cross_attention_dim is None"),
            ({"attention_head_dim": 7, "cross_attention_dim": 14}, "attention_head_dim 14: .* a multiple of 4"),
            ({"sample_size": 5}, "image is 5 x 5.*patch size 2"),
            ({"video_length": 0}, "video_length is 0: it must be at least 1"),
            ({"caption_channels": 0}, "caption_channels is 0: it must be at least 1"),
            ({"num_attention_heads": 0}, "num_attention_heads is 0: it must be at least 1"),
            ({"attention_head_dim": 0}, "attention_head_dim is 0: it must be at least 1"),
            ({"sample_size": 0}, "sample_size is 0: it must be at least 1"),
            ({"patch_size": 0}, "patch_size is 0: it must be at least 1"),
            ({"in_channels": 0}, "in_channels is 0: it must be at least 1"),
        ],
    )
    def test_a_setting_out_of_bounds_names_value_and_bound(self, config, message):
        with pytest.raises(ValueError, match=message):
            LatteT2V(**TINY | config)


class TestBadInputs(LatteT2VSubject):
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                {"num_images": 1},
                r"encoder_hidden_states has shape \(2, 5, 12\): with 1 stills it must be \[B, 2, S, C\]",
            ),
            (
                {"encoder_hidden_states": torch.zeros(2, 2, 5, 12)},
                r"encoder_hidden_states has shape \(2, 2, 5, 12\): with 0 stills it must be \[B, S, C\]",
            ),
            (
                {"encoder_attention_mask": torch.ones(2, 1, 5, dtype=torch.long)},
                r"has shape \(2, 1, 5\) and dtype torch.int64: .* \(2, 5\), or a floating-point bias \(2, 1, 5\)",
            ),
            ({"encoder_attention_mask": torch.zeros(2, 3, 5)}, r"has shape \(2, 3, 5\) .* it must be \(2, 5\), or"),
            ({"encoder_attention_mask": torch.zeros(1, 1, 5)}, r"has shape \(1, 1, 5\) .* it must be \(2, 5\), or"),
            ({"encoder_attention_mask": torch.ones(2, 4)}, r"has shape \(2, 4\) .* it must be \(2, 5\), or"),
            ({"hidden_states": torch.randn(2, 4, 3, 4, 5)}, "image is 4 x 5: both sides.*patch size 2"),
        ],
    )
    def test_what_does_not_fit_the_model_is_named(self, model, change, message):
        with pytest.raises(ValueError, match=message):
            sample(model, self.inputs(500) | change)
