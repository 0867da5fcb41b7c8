"""Any uneven timesteps: a forecast of order p is exact on polynomials of degree p."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from skipdit.caching.forecast import Computed, lagrange_weights, taylor

timesteps = st.lists(st.integers(0, 999), min_size=1, max_size=4, unique=True).map(lambda t: sorted(t, reverse=True))


@given(points=timesteps, at=st.integers(0, 999))
def test_weights_sum_to_one(points, at):
    weights = lagrange_weights(points, at)
    assert sum(weights) == pytest.approx(1, abs=1e-12 * sum(map(abs, weights)))


@given(points=timesteps, at=st.integers(0, 999), data=st.data())
def test_a_forecast_of_order_p_is_exact_on_polynomials_of_degree_p(points, at, data):
    assume(at < points[-1])
    order = len(points) - 1
    degree = data.draw(st.integers(0, order))
    coefficients = data.draw(st.lists(st.floats(-1, 1), min_size=degree + 1, max_size=degree + 1))

    def polynomial(t: float) -> torch.Tensor:
        return torch.tensor([sum(c * (t / 1000) ** k for k, c in enumerate(coefficients))], dtype=torch.float64)

    guess = taylor([Computed(t, None, polynomial(t)) for t in points], at, torch.zeros(1))
    rounding = 1e-13 * sum(map(abs, lagrange_weights(points, at)))
    torch.testing.assert_close(guess, polynomial(at), rtol=0, atol=rounding)


@given(points=timesteps, data=st.data())
def test_a_forecast_at_a_remembered_timestep_is_the_value_there(points, data):
    index = data.draw(st.integers(0, len(points) - 1))
    past = [Computed(t, None, torch.randn(3, generator=torch.Generator().manual_seed(t))) for t in points]
    assert torch.equal(taylor(past, points[index], torch.zeros(3)), past[index].deep)
