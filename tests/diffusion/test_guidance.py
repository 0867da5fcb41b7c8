"""Classifier-free guidance touches the channels it names and no other."""

import pytest
import torch

from skipdit.diffusion import guided

COND, UNCOND = torch.randn(2, 3, 8, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("channels", "count"), [(None, 4), (4, 4), (3, 3), (1, 1)])
def test_named_channels_are_guided_and_the_rest_is_conditional(channels, count):
    out = guided(COND, UNCOND, scale=4.0, eps_channels=4, channels=channels)
    assert torch.equal(out[:, :count], (UNCOND + 4.0 * (COND - UNCOND))[:, :count])
    assert torch.equal(out[:, count:], COND[:, count:])


def test_scale_zero_is_unconditional_and_scale_one_conditional():
    assert torch.equal(guided(COND, UNCOND, scale=0.0, eps_channels=8), UNCOND)
    # u + (c - u) rounds twice.
    torch.testing.assert_close(guided(COND, UNCOND, scale=1.0, eps_channels=8), COND, rtol=0, atol=1e-6)


def test_guidance_between_equals_changes_nothing():
    assert torch.equal(guided(COND, COND, scale=7.5, eps_channels=4), COND)


@pytest.mark.parametrize(("eps_channels", "channels"), [(4, 0), (4, -1), (4, 5), (9, None), (9, 4), (0, None)])
def test_impossible_channel_counts_are_refused(eps_channels, channels):
    with pytest.raises(ValueError, match="1 <= channels <= eps_channels"):
        guided(COND, UNCOND, scale=2.0, eps_channels=eps_channels, channels=channels)


def test_halves_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="cond has shape"):
        guided(COND, UNCOND[:1], scale=2.0, eps_channels=4)
