"""What stands in for the trunk's output, in closed form."""

import pytest
import torch

from skipdit.caching.forecast import Computed, find_forecaster, hold, lagrange_weights, residual, taylor


def past(*timesteps: float, dtype: torch.dtype = torch.float32) -> list[Computed]:
    return [Computed(t, torch.randn(2, 3).to(dtype), torch.randn(2, 3).to(dtype)) for t in timesteps]


def test_hold_is_the_last_deep_itself():
    steps = past(900, 800)
    assert hold(steps, 700, torch.randn(2, 3)) is steps[-1].deep


def test_residual_is_exact_where_the_trunk_adds_the_same():
    shallow = [torch.randn(2, 3, dtype=torch.float64) for _ in range(2)]
    added = torch.randn(2, 3, dtype=torch.float64)
    guess = residual([Computed(900, shallow[0], shallow[0] + added)], 800, shallow[1])
    torch.testing.assert_close(guess, shallow[1] + added)


def test_a_taylor_forecast_from_one_step_is_hold():
    for dtype in (torch.float32, torch.bfloat16):
        steps = past(900, dtype=dtype)
        assert torch.equal(taylor(steps, 800, steps[0].shallow), steps[0].deep)


def test_a_taylor_forecast_at_a_remembered_timestep_is_what_is_remembered():
    steps = past(900, 750, 720)
    assert torch.equal(taylor(steps, 720, steps[0].shallow), steps[-1].deep)
    assert torch.equal(taylor(steps, 900, steps[0].shallow), steps[0].deep)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_a_taylor_forecast_keeps_the_dtype_and_sums_wide(dtype):
    steps = past(900, 750, 720, dtype=dtype)
    weights = lagrange_weights([900, 750, 720], 650)
    exact = sum(weight * step.deep.double() for weight, step in zip(weights, steps, strict=True))
    guess = taylor(steps, 650, steps[0].shallow)
    assert guess.dtype == dtype
    torch.testing.assert_close(guess, exact.to(dtype), rtol=2 * torch.finfo(dtype).eps, atol=1e-5)


def test_a_taylor_forecast_leaves_what_it_read_as_it_was():
    steps = past(900, 800)
    before = [step.deep.clone() for step in steps]
    taylor(steps, 700, steps[0].shallow)
    assert all(torch.equal(step.deep, kept) for step, kept in zip(steps, before, strict=True))


def test_one_step_back_is_a_straight_line():
    assert lagrange_weights([900, 800], 700) == [-1, 2]
    assert lagrange_weights([900, 800, 700], 600) == pytest.approx([1, -3, 3])
    assert lagrange_weights([900, 850], 700) == pytest.approx([-3, 4])


def test_what_each_forecaster_needs():
    needs = {name: find_forecaster(name, order=2) for name in ("hold", "residual", "taylor")}
    assert [each.memory for each in needs.values()] == [1, 1, 3]
    assert [each.reads_shallow for each in needs.values()] == [False, True, False]
    assert [each.reads_timestep for each in needs.values()] == [False, False, True]


def test_another_name_is_refused():
    with pytest.raises(ValueError, match="unknown forecast 'spline': take one of hold, residual, taylor, or module"):
        find_forecaster("spline", order=1)
