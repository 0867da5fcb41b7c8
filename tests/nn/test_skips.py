"""Linear(LayerNorm(concat[stream, skip])), the norm in float32."""

import pytest
import torch
import torch.nn.functional as F

from skipdit.nn.skips import SkipLinear, SkipNorm, fuse_skip


def test_the_stream_comes_first_and_the_skip_second():
    norm, linear = SkipNorm(4), SkipLinear(4, fuse="replace")
    stream, skip = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    by_hand = linear.linear(F.layer_norm(torch.cat([stream, skip], -1), (8,), norm.weight, norm.bias, 1e-6))
    assert torch.equal(fuse_skip(stream, skip, norm, linear, fuse="replace"), by_hand)
    assert torch.equal(fuse_skip(stream, skip, norm, linear, fuse="residual"), stream + by_hand)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_norm_is_computed_in_float32(dtype):
    norm = SkipNorm(8)
    torch.nn.init.normal_(norm.weight)
    hidden_states = (100 + torch.randn(5, 16)).to(dtype)
    wide = F.layer_norm(hidden_states.float(), (16,), norm.weight, norm.bias, 1e-6)
    assert torch.equal(norm(hidden_states), wide.to(dtype))
    narrow = norm.to(dtype)
    expected = F.layer_norm(hidden_states.float(), (16,), narrow.weight.float(), narrow.bias.float(), 1e-6)
    assert torch.equal(narrow(hidden_states), expected.to(dtype))


def test_a_residual_skip_starts_at_zero_and_a_replacing_one_does_not():
    assert not SkipLinear(4, fuse="residual").linear.weight.any()
    assert not SkipLinear(4, fuse="residual").linear.bias.any()
    assert SkipLinear(4, fuse="replace").linear.weight.all()
