"""Any depth, any number of skips, any shape, any cut: head, trunk and tail are the forward pass."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skipdit import DiT
from tests.models.subject import randomised, sample


@st.composite
def houses(draw) -> tuple[DiT, int]:
    depth = draw(st.integers(1, 7))
    model = DiT(
        depth=depth,
        num_skips=draw(st.integers(0, depth // 2)),
        fuse=draw(st.sampled_from(["replace", "residual"])),
        patch_size=draw(st.sampled_from([1, 2])),
        in_channels=draw(st.integers(1, 4)),
        hidden_size=8,
        num_heads=draw(st.sampled_from([1, 2, 4])),
        mlp_ratio=draw(st.sampled_from([1.0, 4.0])),
        sample_size=4,
        num_classes=3,
        class_dropout_prob=draw(st.sampled_from([0, 0.1])),
    )
    return randomised(model, seed=depth), draw(st.integers(0, depth // 2))


@given(house=houses(), batch=st.integers(1, 3), height=st.integers(1, 3), width=st.integers(1, 3))
@settings(max_examples=40)
@torch.no_grad()
def test_every_cut_composes_to_forward(house, batch, height, width):
    model, cut = house
    patch, channels = model.config.patch_size, model.config.in_channels
    inputs = {
        "hidden_states": torch.randn(batch, channels, height * patch, width * patch),
        "timestep": torch.rand(batch) * 999,
        "class_labels": torch.randint(0, 3, (batch,)),
    }
    whole = sample(model, inputs)
    assert whole.shape == (batch, 2 * channels, height * patch, width * patch)
    assert torch.equal(model.compose(**inputs, cut=cut), whole)
