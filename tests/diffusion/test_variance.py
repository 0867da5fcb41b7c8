"""One step back: the posterior in closed form, and the range that a learned variance can take."""

import pytest
import torch

from skipdit.diffusion import (
    NoiseSchedule,
    learned_log_variance,
    posterior,
    respace,
    reverse,
    split_output,
    training_target,
)
from skipdit.diffusion.variance import log_beta_tilde

FULL = NoiseSchedule.linear()
SPACED = FULL.respaced(respace(1000, 20))


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("schedule", [FULL, SPACED], ids=["full", "respaced"])
def test_posterior_is_bayes_rule(schedule):
    t = torch.arange(1, len(schedule))
    x_0, x_t = normal(2, len(t), 1)
    prev, alpha = schedule.alpha_bar_prev[t, None], 1 - schedule.betas[t, None]
    # Product of N(x_prev; sqrt(prev) x_0, 1 - prev) and N(x_t; sqrt(alpha) x_prev, beta) in x_prev: precisions add.
    precision = 1 / (1 - prev) + alpha / (1 - alpha)
    mean = (prev.sqrt() * x_0 / (1 - prev) + alpha.sqrt() * x_t / (1 - alpha)) / precision
    q = posterior(x_0, x_t, t, schedule=schedule)
    torch.testing.assert_close(q.mean, mean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(q.log_variance, -precision.log(), rtol=1e-9, atol=0)


def test_posterior_of_the_first_step_is_the_data():
    x_0, x_t = normal(2, 3, 4)
    torch.testing.assert_close(posterior(x_0, x_t, torch.zeros(3).long(), schedule=FULL).mean, x_0, rtol=0, atol=1e-12)


@pytest.mark.parametrize("schedule", [FULL, SPACED], ids=["full", "respaced"])
def test_learned_variance_ranges_from_beta_tilde_to_beta(schedule):
    t, one = torch.arange(len(schedule)), torch.ones(len(schedule), 1).double()
    lower, middle, upper = (learned_log_variance(v * one, t, schedule=schedule)[:, 0] for v in (-1, 0, 1))
    assert torch.equal(upper, schedule.betas.log())
    assert torch.equal(lower, log_beta_tilde(schedule))
    torch.testing.assert_close(middle, (upper + lower) / 2, rtol=1e-14, atol=0)


@pytest.mark.parametrize("schedule", [FULL, SPACED], ids=["full", "respaced"])
def test_beta_tilde_of_the_first_step_is_that_of_the_second(schedule):
    prev, now, betas = schedule.alpha_bar_prev, schedule.alpha_bar, schedule.betas
    expected = ((1 - prev) / (1 - now) * betas)[1:].log()
    torch.testing.assert_close(log_beta_tilde(schedule), torch.cat([expected[:1], expected]), rtol=1e-12, atol=0)


def test_a_chain_of_one_step_has_a_finite_variance():
    alone = FULL.respaced([999])
    assert torch.equal(log_beta_tilde(alone), alone.betas.log())


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_reverse_of_a_perfect_model_is_the_posterior(prediction):
    x_0, noise = normal(2, 3, 2, 4)
    t = torch.tensor([0, 7, 19])
    x_t = SPACED.add_noise(x_0, noise, t)
    output = training_target(x_0, noise, t, schedule=SPACED, prediction=prediction)
    q = posterior(x_0, x_t, t, schedule=SPACED)
    p = reverse(output, x_t, t, schedule=SPACED, variance="fixed_small", prediction=prediction)
    torch.testing.assert_close(p.mean, q.mean, rtol=0, atol=1e-12)
    assert torch.equal(p.log_variance, q.log_variance)


def test_both_variances_share_one_mean():
    x_t, output, t = normal(3, 2, 4), normal(3, 4, 4, seed=1), torch.tensor([1, 2, 3])
    learned, fixed = (
        reverse(output, x_t, t, schedule=SPACED, variance=kind) for kind in ("learned_range", "fixed_small")
    )
    assert torch.equal(learned.mean, fixed.mean)
    assert learned.log_variance.shape == x_t.shape


def test_output_splits_into_prediction_and_variance():
    x_t, output = normal(3, 2, 4), normal(3, 4, 4)
    said, v = split_output(output, x_t)
    assert torch.equal(torch.cat([said, v], dim=1), output)
    assert split_output(x_t, x_t)[1] is None


@pytest.mark.parametrize("shape", [(3, 3, 4), (3, 5, 4), (3, 4, 5), (1, 4, 4), (3, 4, 4, 1)])
def test_outputs_of_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="model output has shape"):
        split_output(normal(*shape), normal(3, 2, 4))


def test_reverse_refuses_a_missing_or_unknown_variance():
    x_t, t = normal(3, 2, 4), torch.tensor([1, 2, 3])
    with pytest.raises(ValueError, match="'learned_range' needs 4"):
        reverse(x_t, x_t, t, schedule=SPACED)
    with pytest.raises(ValueError, match="'learned'"):
        reverse(x_t, x_t, t, schedule=SPACED, variance="learned")
