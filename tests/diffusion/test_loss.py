"""The loss: each term against torch.distributions, and each gradient where it belongs."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from skipdit.diffusion import (
    Gaussian,
    NoiseSchedule,
    learned_log_variance,
    learned_range_loss,
    mse_loss,
    posterior,
    training_target,
)
from skipdit.diffusion.loss import NUM_BINS, bin_log_likelihood, kl
from skipdit.diffusion.prediction import to_v, to_x_0

SCHEDULE = NoiseSchedule.linear()
T = torch.tensor([0, 1, 500, 999])


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def a_batch():
    x_0 = (normal(4, 2, 3, 3) * 0.3).clamp(-1, 1)
    return {"x_0": x_0, "noise": normal(4, 2, 3, 3, seed=1), "t": T, "schedule": SCHEDULE}


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_a_perfect_prediction_costs_nothing_but_the_data_term(prediction):
    batch = a_batch()
    said = training_target(**batch, prediction=prediction)
    losses = learned_range_loss(torch.cat([said, -torch.ones_like(said)], 1), **batch, prediction=prediction)
    assert torch.equal(losses.mse, torch.zeros(4).double())
    torch.testing.assert_close(losses.vlb[1:], torch.zeros(3).double(), rtol=0, atol=1e-12)
    # At t = 0 the mean is x_0 itself: each bin holds P(|z| < half a bin).
    std = torch.sqrt(SCHEDULE.betas[1] * SCHEDULE.betas[0] / (1 - SCHEDULE.alpha_bar[1]))
    mass = torch.erf(1 / 255 / std / math.sqrt(2))
    torch.testing.assert_close(losses.vlb[0], -mass.log2(), rtol=1e-9, atol=0)


def test_loss_is_the_sum_of_its_closed_forms():
    batch, output = a_batch(), normal(4, 4, 3, 3, seed=2)
    eps, v = output.chunk(2, dim=1)
    losses = learned_range_loss(output, **batch)

    x_t, said_x_0 = SCHEDULE.add_noise(batch["x_0"], batch["noise"], T), None
    signal, sigma = SCHEDULE.levels(T, like=x_t)
    said_x_0 = (x_t - sigma * eps) / signal
    q = posterior(batch["x_0"], x_t, T, schedule=SCHEDULE)
    p = Gaussian(posterior(said_x_0, x_t, T, schedule=SCHEDULE).mean, learned_log_variance(v, T, schedule=SCHEDULE))
    bits = kl_divergence(as_normal(q), as_normal(p)).flatten(1).mean(1) / math.log(2)
    bits[0] = -bin_log_likelihood(batch["x_0"], p)[0].mean() / math.log(2)

    torch.testing.assert_close(losses.mse, (eps - batch["noise"]).square().flatten(1).mean(1), rtol=1e-12, atol=0)
    torch.testing.assert_close(losses.vlb, bits, rtol=1e-8, atol=0)
    assert torch.equal(losses.total, losses.mse + losses.vlb)


def as_normal(gaussian):
    return Normal(gaussian.mean, (0.5 * gaussian.log_variance).exp().expand_as(gaussian.mean))


def test_kl_equals_torch_distributions():
    q, p = Gaussian(normal(100), normal(100, seed=1)), Gaussian(normal(100, seed=2), normal(100, seed=3))
    torch.testing.assert_close(kl(q, p), kl_divergence(as_normal(q), as_normal(p)), rtol=1e-10, atol=1e-12)
    assert torch.equal(kl(q, q), torch.zeros(100).double())


@pytest.mark.parametrize("mean", [-3.0, -1.0, 0.0, 0.3, 0.999, 5.0])
@pytest.mark.parametrize("log_variance", [-9.0, -2.0, 1.0])
def test_bins_hold_all_the_mass(mean, log_variance):
    bins = torch.linspace(-1, 1, NUM_BINS, dtype=torch.float64)
    p = Gaussian(torch.full_like(bins, mean), torch.full_like(bins, log_variance))
    # 256 bins are floored at 1e-12 each.
    torch.testing.assert_close(bin_log_likelihood(bins, p).exp().sum().item(), 1.0, rtol=0, atol=3e-10)


def test_a_bin_holds_the_difference_of_two_cdfs():
    bins = torch.linspace(-1, 1, NUM_BINS, dtype=torch.float64)[1:-1]
    p = Gaussian(torch.full_like(bins, 0.2), torch.full_like(bins, -2.0))
    mass = as_normal(p).cdf(bins + 1 / 255) - as_normal(p).cdf(bins - 1 / 255)
    torch.testing.assert_close(bin_log_likelihood(bins, p).exp(), mass, rtol=1e-9, atol=0)


def test_both_tails_are_equally_exact_in_float32():
    bins = torch.linspace(-1, 1, NUM_BINS)
    left, right = (Gaussian(torch.full_like(bins, mean), torch.full_like(bins, -4.0)) for mean in (-0.5, 0.5))
    # bins are not exactly symmetric in float32: 6e-8, seen through up to 11 standard deviations of 0.135.
    torch.testing.assert_close(
        bin_log_likelihood(bins, left), bin_log_likelihood(bins.flip(0), right), rtol=1e-3, atol=1e-4
    )


def test_the_bound_teaches_the_variance_only():
    output = normal(4, 4, 3, 3, seed=2).requires_grad_()
    learned_range_loss(output, **a_batch()).vlb.sum().backward()
    assert torch.equal(output.grad[:, :2], torch.zeros_like(output.grad[:, :2]))
    assert (output.grad[:, 2:] != 0).flatten(1).any(1).all()


def test_the_square_error_teaches_the_prediction_only():
    output = normal(4, 4, 3, 3, seed=2).requires_grad_()
    learned_range_loss(output, **a_batch()).mse.sum().backward()
    assert torch.equal(output.grad[:, 2:], torch.zeros_like(output.grad[:, 2:]))
    assert (output.grad[:, :2] != 0).all()


def test_the_loss_of_a_sample_does_not_depend_on_its_batch():
    batch, output = a_batch(), normal(4, 4, 3, 3, seed=2)
    together = learned_range_loss(output, **batch)
    for i in range(4):
        one = {**batch, **{name: batch[name][i : i + 1] for name in ("x_0", "noise", "t")}}
        for joint, alone in zip(together, learned_range_loss(output[i : i + 1], **one), strict=True):
            torch.testing.assert_close(joint[i : i + 1], alone, rtol=1e-12, atol=0)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_plain_loss_is_the_square_error_of_the_target(prediction):
    batch, output = a_batch(), normal(4, 2, 3, 3, seed=2)
    losses = mse_loss(output, **batch, prediction=prediction)
    target = training_target(**batch, prediction=prediction)
    torch.testing.assert_close(losses.mse, (output - target).square().flatten(1).mean(1), rtol=1e-12, atol=0)
    assert torch.equal(losses.total, losses.mse)
    assert torch.equal(losses.vlb, torch.zeros(4).double())


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_without_an_effective_cap_every_prediction_costs_the_error_of_its_v(prediction):
    batch, output = a_batch(), normal(4, 2, 3, 3, seed=2)
    x_t = SCHEDULE.add_noise(batch["x_0"], batch["noise"], T)
    v = to_v(output, x_t, T, schedule=SCHEDULE, prediction=prediction)
    by_hand = (v - training_target(**batch, prediction="v_prediction")).square().flatten(1).mean(1)
    for loss, said in ((mse_loss, output), (learned_range_loss, torch.cat([output, output], 1))):
        found = loss(said, **batch, prediction=prediction, v_weight_cap=math.inf).mse
        torch.testing.assert_close(found, by_hand, rtol=1e-6, atol=0)  # a rounding of 1 - alpha_bar at t = 0


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_a_cap_bounds_the_weight_of_the_clean_samples_error(prediction):
    batch, output = a_batch(), normal(4, 2, 3, 3, seed=2)
    x_t = SCHEDULE.add_noise(batch["x_0"], batch["noise"], T)
    error = to_x_0(output, x_t, T, schedule=SCHEDULE, prediction=prediction) - batch["x_0"]
    by_hand = error.square().flatten(1).mean(1) * torch.minimum(1 / (1 - SCHEDULE.alpha_bar[T]), torch.tensor(25.0))
    found = mse_loss(output, **batch, prediction=prediction, v_weight_cap=25).mse
    torch.testing.assert_close(found, by_hand, rtol=1e-6, atol=0)


def test_half_precision_is_raised_to_float32():
    batch = {name: x.bfloat16() if torch.is_tensor(x) and x.is_floating_point() else x for name, x in a_batch().items()}
    losses = learned_range_loss(normal(4, 4, 3, 3, seed=2).bfloat16(), **batch)
    assert all(loss.dtype == torch.float32 and loss.shape == (4,) and loss.isfinite().all() for loss in losses)


def test_each_loss_refuses_the_output_of_the_other():
    batch = a_batch()
    with pytest.raises(ValueError, match="mse_loss"):
        learned_range_loss(normal(4, 2, 3, 3), **batch)
    with pytest.raises(ValueError, match="learned_range_loss"):
        mse_loss(normal(4, 4, 3, 3), **batch)
