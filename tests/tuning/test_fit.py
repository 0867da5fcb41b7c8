"""The fit is the least-squares optimum, and recording changes nothing."""

import numpy as np
import pytest
import torch

from skipdit.pipelines.schedulers import DDIM
from skipdit.tuning.fit import RIDGE, check_finite, fitter_for, per_sample_scale, solve_ridge, teacher_for
from skipdit.tuning.scheduler import even_steps
from tests.tuning.toy import STEPS, ideal, noise_of, toy_draw, toy_task


def test_the_coefficients_are_the_ridge_optimum_of_numpy():
    columns, target = list(torch.randn(4, 3, 1, 5, 5)), torch.randn(3, 1, 5, 5)
    matrix = np.stack([column.flatten().double().numpy() for column in columns], axis=1)
    norms = np.linalg.norm(matrix, axis=0)
    augmented = np.vstack([matrix / norms, np.sqrt(RIDGE) * np.eye(4)])
    expected = np.linalg.lstsq(augmented, np.concatenate([target.flatten().double().numpy(), np.zeros(4)]))[0] / norms
    np.testing.assert_allclose(solve_ridge(columns, target), expected, rtol=1e-9)


def test_no_coefficients_near_the_fitted_ones_are_better():
    columns, target = list(torch.randn(4, 3, 1, 5, 5).double()), torch.randn(3, 1, 5, 5).double()
    best = solve_ridge(columns, target, ridge=0.0)

    def error(weights):
        return (target - sum(w * column for w, column in zip(weights, columns))).norm().item()

    for k in range(4):
        for change in (-1e-3, 1e-3):
            assert error([w + change * (i == k) for i, w in enumerate(best)]) > error(best)


def test_a_column_of_zeros_gets_nothing():
    weights = solve_ridge([torch.ones(2, 3), torch.zeros(2, 3)], torch.full((2, 3), 2.0))
    assert weights == pytest.approx([2.0, 0.0], rel=1e-4)


def test_samples_count_by_their_share_of_error():
    """Ten times the error of one sample changes no share: the product of scale and error is the same."""
    error = torch.randn(3, 1, 4, 4)
    louder = error * torch.tensor([1.0, 10.0, 1.0]).reshape(3, 1, 1, 1)
    shares = [(per_sample_scale(each) * each).flatten(1).norm(dim=1) for each in (error, louder)]
    for share in shares:
        torch.testing.assert_close(share, share[:1].expand(3))


def test_a_teacher_draws_what_its_base_draws():
    task = toy_task()
    teacher = teacher_for(DDIM(clip_sample=False), STEPS)
    drawn = task.draw(teacher, STEPS, task.calibration)
    assert torch.equal(drawn, task.draw(DDIM(clip_sample=False), STEPS, task.calibration))
    assert torch.equal(teacher.rollout.states[0], noise_of(task.calibration))
    assert len(teacher.rollout.trajectory) == STEPS + 1


def test_a_corrected_run_ends_nearer_to_the_teacher_than_a_forecast_alone():
    task, teacher = toy_task(samples=8), teacher_for(DDIM(clip_sample=False), STEPS)
    task.draw(teacher, STEPS, task.calibration)
    fitter = fitter_for(teacher, even_steps(4, STEPS), teacher.rollout.trajectory)
    task.draw(fitter, STEPS, task.calibration)
    corrected = (fitter.rollout.end - teacher.rollout.end).norm()
    fitter._corrects = lambda i: False
    task.draw(fitter, STEPS, task.calibration)
    assert corrected < 0.8 * (fitter.rollout.end - teacher.rollout.end).norm()


def test_a_run_of_several_batches_is_no_rollout():
    teacher = teacher_for(DDIM(), STEPS)
    teacher.set_timesteps(STEPS)
    teacher.step(torch.zeros(1, 1), teacher.timesteps[0], torch.zeros(1, 1))
    with pytest.raises(ValueError, match="1 of 12 steps were taken: draw all samples in one batch"):
        _ = teacher.rollout


def test_nan_is_an_error_that_names_the_timestep():
    with pytest.raises(ValueError, match="output at timestep 999 has NaN or infinity: draw in float32"):
        check_finite(torch.tensor([1.0, float("nan")]), torch.tensor(999))


def test_the_toy_is_drawn_in_bounds():
    task = toy_task()
    pictures = toy_draw(ideal)(DDIM(clip_sample=False), STEPS, task.held_out)
    assert 0.1 < pictures.std() < 0.5
