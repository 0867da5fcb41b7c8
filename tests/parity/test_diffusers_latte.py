"""Vanilla LatteT2V is diffusers' LatteTransformer3DModel, bit for bit, and lives where that lives."""

import logging

import pytest
import torch
from diffusers import LatteTransformer3DModel, PyramidAttentionBroadcastConfig
from diffusers.hooks import TaylorSeerCacheConfig
from torch import Tensor, nn

from skipdit import LatteT2V
from skipdit.hub.load import load_model, model_config
from tests.models.subject import TIMESTEPS, Inputs, assert_equal, in_context, joined, randomised, sample

CONFIG = {
    "num_attention_heads": 2, "attention_head_dim": 8, "cross_attention_dim": 16, "in_channels": 4, "out_channels": 8,
    "num_layers": 3, "sample_size": 8, "patch_size": 2, "caption_channels": 12, "video_length": 3,
    "attention_bias": True, "activation_fn": "gelu-approximate", "num_embeds_ada_norm": 1000,
    "norm_type": "ada_norm_single", "norm_elementwise_affine": False, "norm_eps": 1e-6,
}  # fmt: skip


def both(*, frames: int = 3, **config) -> tuple[LatteT2V, LatteTransformer3DModel]:
    """Our model and theirs, with the same weights; theirs takes `frames` and no other number."""
    ours = randomised(LatteT2V(**CONFIG | config))
    theirs = LatteTransformer3DModel(**CONFIG | config | {"video_length": frames})
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs.eval()


def inputs(timestep: float = 500, *, batch: int = 2, frames: int = 3, height: int = 8, width: int = 8) -> Inputs:
    rng = torch.Generator().manual_seed(int(timestep))
    return {
        "hidden_states": torch.randn(batch, 4, frames, height, width, generator=rng),
        "timestep": torch.full((batch,), timestep),
        "encoder_hidden_states": torch.randn(batch, 5, 12, generator=torch.Generator().manual_seed(1)),
    }


class TestForward:
    @pytest.mark.parametrize("timestep", [0, 1, 500, 999])
    @pytest.mark.parametrize("batch", [1, 2])
    def test_equals_theirs(self, timestep, batch):
        ours, theirs = both()
        step = inputs(timestep, batch=batch)
        assert torch.equal(sample(ours, step), sample(theirs, step))

    @pytest.mark.parametrize(("height", "width"), [(4, 4), (8, 4), (4, 8), (16, 12)])
    def test_equals_theirs_at_other_sizes(self, height, width):
        ours, theirs = both()
        step = inputs(height=height, width=width)
        assert torch.equal(sample(ours, step), sample(theirs, step))

    @pytest.mark.parametrize("sample_size", [64, 128])
    def test_equals_theirs_where_positions_are_scaled(self, sample_size):
        """At 128 diffusers divides coordinates by two."""
        ours, theirs = both(sample_size=sample_size)
        assert torch.equal(ours.pos_embed.pos_embed, theirs.pos_embed.pos_embed)
        assert torch.equal(sample(ours, inputs()), sample(theirs, inputs()))

    def test_equals_theirs_without_temporal_attention(self):
        ours, theirs = both()
        alone = inputs() | {"enable_temporal_attentions": False}
        assert torch.equal(sample(ours, alone), sample(theirs, alone))
        assert not torch.equal(sample(ours, alone), sample(ours, inputs()))

    @pytest.mark.parametrize("temporal", [True, False])
    def test_one_frame_has_no_temporal_position(self, temporal):
        """Theirs takes one frame where it was built for one; ours at any length."""
        ours, theirs = both(frames=1)
        step = inputs(frames=1) | {"enable_temporal_attentions": temporal}
        assert torch.equal(sample(ours, step), sample(theirs, step))

    @pytest.mark.parametrize("checkpointing", [False, True])
    def test_gradients_equal_theirs(self, checkpointing):
        gradients = []
        for model in both():
            model.train()
            if checkpointing:
                model.enable_gradient_checkpointing()
            model(**inputs()).sample.square().mean().backward()
            gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
        ours, theirs = gradients
        assert ours.keys() == theirs.keys()
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)  # sums of the same terms in another order


class TestText:
    """Theirs passes a mask on as if it were a bias; ours makes the bias of it, or takes the bias."""

    MASK = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])

    def masked(self, **changes: Tensor) -> Inputs:
        return inputs() | {"encoder_attention_mask": self.MASK} | changes

    def test_a_mask_equals_the_bias_that_theirs_takes(self):
        ours, theirs = both()
        bias = ((1 - self.MASK) * -10_000.0)[:, None].repeat_interleave(3, dim=0)
        expected = sample(theirs, inputs() | {"encoder_attention_mask": bias})
        for given in (self.MASK, bias[::3]):  # ours repeats it for the frames
            assert torch.equal(sample(ours, self.masked(encoder_attention_mask=given)), expected)

    @pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float32])
    def test_padding_has_no_influence(self, dtype):
        model, text = both()[0], inputs()["encoder_hidden_states"]
        padded = text + 10 * torch.randn(text.shape) * (1 - self.MASK)[..., None]
        mask = self.MASK.to(dtype)
        outputs = [
            sample(model, self.masked(encoder_hidden_states=states, encoder_attention_mask=mask))
            for states in (text, padded)
        ]
        assert torch.equal(*outputs)
        assert not torch.equal(sample(model, inputs()), outputs[0])

    def test_a_masked_text_is_a_shorter_text(self):
        model, whole = both()[0], inputs()
        short, long = (
            {name: value[row : row + 1] for name, value in (whole | {"encoder_attention_mask": self.MASK}).items()}
            for row in (0, 1)
        )
        cut = short | {"encoder_hidden_states": short["encoder_hidden_states"][:, :3], "encoder_attention_mask": None}
        for masked, plain in ((short, cut), (long, long | {"encoder_attention_mask": None})):
            torch.testing.assert_close(sample(model, masked), sample(model, plain), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(sample(model, joined(short, long)), sample(model, self.masked()))


class TestFolders:
    @pytest.fixture(params=["1GB", "20KB"], ids=["whole", "sharded"])
    def folder(self, request, tmp_path):
        both()[1].save_pretrained(tmp_path, max_shard_size=request.param)
        assert (tmp_path / "diffusion_pytorch_model.safetensors.index.json").exists() == (request.param == "20KB")
        return tmp_path

    @pytest.fixture
    def said(self, caplog):
        """What diffusers logs, warnings and worse."""
        logging.getLogger("diffusers").addHandler(caplog.handler)
        yield caplog
        logging.getLogger("diffusers").removeHandler(caplog.handler)

    @pytest.mark.parametrize("low_cpu_mem_usage", [True, False])
    def test_a_folder_of_theirs_is_loaded_without_a_word(self, folder, said, low_cpu_mem_usage):
        loaded = LatteT2V.from_pretrained(folder, low_cpu_mem_usage=low_cpu_mem_usage)
        assert (type(loaded), loaded.num_skips) == (LatteT2V, 0)
        for step in (inputs(), inputs(height=4)):
            assert torch.equal(sample(loaded, step), sample(both()[1], step))
        assert not said.messages

    def test_a_folder_of_theirs_is_a_model_by_its_name(self, folder):
        assert torch.equal(sample(load_model(str(folder)), inputs()), sample(both()[1], inputs()))
        assert LatteT2V(**model_config(str(folder))).config.items() >= CONFIG.items()

    def test_a_folder_of_ours_is_loaded_by_theirs(self, tmp_path, said):
        both()[0].save_pretrained(tmp_path)
        loaded = LatteTransformer3DModel.from_pretrained(tmp_path)
        assert torch.equal(sample(loaded, inputs()), sample(both()[0], inputs()))
        assert ["num_skips" in message for message in said.messages] == [True]

    def test_a_skip_model_starts_from_a_folder_of_theirs(self, folder):
        """Residual skips start at zero, so that the vanilla model is where training begins."""
        model = LatteT2V.from_pretrained(folder, num_skips=1, fuse="residual", low_cpu_mem_usage=False)
        assert model.num_skips == 1
        assert torch.equal(sample(model, inputs()), sample(both()[1], inputs()))


def broadcast(now: list[float]) -> PyramidAttentionBroadcastConfig:
    return PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2, temporal_attention_block_skip_range=3,
        cross_attention_block_skip_range=4, current_timestep_callback=lambda: now[-1],
    )  # fmt: skip


def taylor(_: list[float]) -> TaylorSeerCacheConfig:
    identifiers = [r"transformer_blocks\.\d+\.attn\d", r"transformer_blocks\.\d+\.ff"]
    return TaylorSeerCacheConfig(2, disable_cache_before_step=1, cache_identifiers=identifiers)


@pytest.mark.parametrize("cache", [broadcast, taylor])
def test_a_cache_of_diffusers_does_here_what_it_does_there(cache):
    outputs = [cached_run(model, cache) for model in both()]
    assert_equal(*outputs)
    uncached = [sample(both()[0], inputs(timestep)) for timestep in TIMESTEPS]
    assert not all(torch.equal(ours, plain) for ours, plain in zip(outputs[0], uncached, strict=True))


def cached_run(model: nn.Module, cache) -> list[Tensor]:
    now: list[float] = []
    model.enable_cache(cache(now))
    outputs = []
    for timestep in TIMESTEPS:
        now.append(timestep)
        outputs.append(in_context(model, "cond", inputs(timestep)))
    return outputs
