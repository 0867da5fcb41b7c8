"""The spectral cap: norms hold after any step, of weights and of their average, and resuming is exact."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from skipdit.training import HunyuanDiTArchitecture, train
from skipdit.training.loop import start, steps
from skipdit.training.spectral import FUSE, fuse_weights
from tests.training.test_beginning import lent_run
from tests.training.tiny import tiny_run

SHARE = 0.3
DEEP = {"depth": 4, "num_skips": 2}


def norms(weight):
    """The spectral norms of W_x and W_s, by SVD."""
    stream, skip = weight.detach().double().chunk(2, dim=1)
    return torch.linalg.matrix_norm(stream, 2).item(), torch.linalg.matrix_norm(skip, 2).item()


def assert_capped(weights):
    for weight in weights:
        stream, skip = norms(weight)
        assert stream <= (1 - SHARE) * 1.002
        assert skip <= SHARE * 1.002


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_norms_hold_after_every_step_of_weights_and_average(tmp_path, optimizer):
    run = start(
        tiny_run(tmp_path, model=DEEP, spectral_cap=SHARE, optimizer=optimizer, learning_rate=0.05, steps=30)
    )
    assert len(fuse_weights(run.model)) == 2
    assert_capped(fuse_weights(run.model))
    reached = 0
    for _ in steps(run):
        assert_capped(fuse_weights(run.model))
        assert_capped([weight for name, weight in run.ema.weights.items() if FUSE.search(name)])
        reached += any(norms(weight)[1] > 0.98 * SHARE for weight in fuse_weights(run.model))
    assert reached > 20, "at this rate the cap is what holds the norms"


def test_smaller_norms_are_left_alone(tmp_path):
    run = start(tiny_run(tmp_path, model=DEEP, spectral_cap=0.5))
    with torch.no_grad():
        for weight in fuse_weights(run.model):
            weight.mul_(0.01)
    before = [norms(weight) for weight in fuse_weights(run.model)]
    next(steps(run))
    for weight, (stream, skip) in zip(fuse_weights(run.model), before, strict=True):
        assert norms(weight)[0] == pytest.approx(stream, abs=0.02)
        assert norms(weight)[1] == pytest.approx(skip, abs=0.02)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_resumed_run_is_exact(tmp_path, optimizer):
    class Stop(Exception):
        pass

    def stop(report):
        if report.step == 6:
            raise Stop

    capped = {"model": DEEP, "spectral_cap": SHARE, "optimizer": optimizer, "learning_rate": 0.05}
    train(tiny_run(tmp_path / "through", **capped))
    with pytest.raises(Stop):
        train(tiny_run(tmp_path / "stopped", **capped), on_step=stop)
    train(tiny_run(tmp_path / "stopped", **capped))
    through, stopped = (load_file(tmp_path / name / "checkpoint-00000010" / "model.safetensors") for name in
                        ("through", "stopped"))  # fmt: skip
    assert all(torch.equal(through[name], stopped[name]) for name in through)


def test_added_skips_begin_as_the_mean_of_stream_and_skip(tmp_path):
    from tests.data.pictures import write_pictures

    config = lent_run(write_pictures(tmp_path / "pictures", each=2), tmp_path / "run", upcycle=4, fuse="replace")
    run = start(replace(config, spectral_cap=SHARE))
    identity = torch.eye(128)
    for linear in run.model.skip_linears:
        torch.testing.assert_close(linear.linear.weight, torch.cat([0.7 * identity, 0.3 * identity], 1))
        assert not linear.linear.bias.any()


def test_a_hunyuan_dit_has_fuses_too():
    model = HunyuanDiTArchitecture(num_layers=4, num_skips=1, attention_head_dim=16, num_attention_heads=2).build()
    assert [tuple(weight.shape) for weight in fuse_weights(model)] == [(32, 64)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"spectral_cap": 1.0}, "spectral_cap is 1.0: it must be above 0 and below 1"),
        ({"spectral_cap": 0.5, "model": {"num_skips": 0}}, "takes a model with skips of fuse 'replace'"),
        ({"spectral_cap": 0.5, "model": {"fuse": "residual"}}, "takes a model with skips of fuse 'replace'"),
    ],
)
def test_a_cap_without_effect_is_refused(tmp_path, changes, said):
    with pytest.raises(ValueError, match=said):
        tiny_run(tmp_path, **changes)
