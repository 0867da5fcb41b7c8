"""Distances of sets: equality with other implementations on fixed features, determinism, order under corruption."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torchmetrics.image.kid import maximum_mean_discrepancy

from skipdit.evaluation.distances import (
    estimate_floor,
    frechet_distance,
    kernel_distance,
    precision_recall,
    resample,
)


def features(count: int, width: int = 24, *, shift: float = 0.0, scale: float = 1.0, seed: int = 0) -> torch.Tensor:
    mix = torch.randn(width, width, generator=torch.Generator().manual_seed(99))
    return shift + scale * torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) @ mix


SETS = [  # two of each
    (features(300), features(200, shift=0.3, scale=1.2, seed=1)),  # more images than features
    (features(18), features(20, shift=0.3, seed=1)),  # fewer
    (features(18), features(400, seed=1)),
]


@pytest.mark.parametrize("sets", SETS)
def test_frechet_distance_is_the_formula_with_a_root_of_a_matrix(sets):
    a, b = (each.double().numpy() for each in sets)
    of_a, of_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(of_a @ of_b + 1e-12 * np.eye(len(of_a))).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(of_a + of_b - 2 * root)
    assert frechet_distance(*sets) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("sets", [(SETS[0][0][:100], SETS[0][1][:100])])
def test_kernel_distance_is_that_of_torchmetrics(sets):
    a, b = (each.double() for each in sets)
    kernel = [(x @ y.T / x.shape[1] + 1) ** 3 for x, y in ((a, a), (a, b), (b, b))]
    assert kernel_distance(*sets) == pytest.approx(maximum_mean_discrepancy(*kernel).item(), rel=1e-9)


@pytest.mark.parametrize("metric", [frechet_distance, kernel_distance])
def test_a_distance_is_symmetric_the_same_again_and_grows_with_corruption(metric):
    real, same = features(400), features(400, seed=1)
    assert metric(real, same) == metric(real, same)
    assert metric(real, same) == pytest.approx(metric(same, real), rel=1e-9)
    noise = torch.randn(400, 24, generator=torch.Generator().manual_seed(5))
    corrupted = [metric(real, same + sigma * noise) for sigma in (0.0, 4.0, 8.0, 16.0)]
    shifted = [metric(real, same + shift) for shift in (0.0, 4.0, 8.0, 16.0)]
    assert corrupted == sorted(corrupted)
    assert shifted == sorted(shifted)
    assert metric(real, real) < metric(real, same + 4)


def test_a_shift_alone_has_the_distance_of_its_square():
    real = features(100)
    assert frechet_distance(real, real + 0.5) == pytest.approx(24 * 0.25, rel=1e-6)


def test_kernel_distance_of_one_distribution_is_about_0_and_frechet_distance_has_a_floor():
    real = features(600)
    estimate = resample(kernel_distance, real, features(600, seed=1))
    assert abs(estimate.value) < 3 * estimate.error
    assert estimate_floor(frechet_distance, real) > 0


def test_the_error_of_a_distance_is_about_the_spread_over_new_sets():
    drawn = [kernel_distance(features(80, seed=2 * i), features(80, shift=0.4, seed=2 * i + 1)) for i in range(60)]
    spread = torch.tensor(drawn).std().item()
    estimates = [
        resample(kernel_distance, features(80, seed=2 * i), features(80, shift=0.4, seed=2 * i + 1)) for i in range(8)
    ]
    assert 0.5 * spread < np.mean([each.error for each in estimates]) < 2 * spread


def test_precision_is_lost_by_images_from_elsewhere_and_recall_by_modes_that_are_missing():
    real = torch.cat([features(100), features(100, shift=40.0, seed=1)])
    assert precision_recall(real, real) == (1, 1)
    precision, recall = precision_recall(real, features(200, seed=2))
    assert precision > 0.5
    assert recall < 0.55
    precision, recall = precision_recall(real, torch.cat([real, features(200, shift=-90.0, seed=3)]))
    assert (precision, recall) == (0.5, 1)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (features(7), features(100), "a set has 7 images: .* at least 8"),
        (features(100), features(100, width=12), "features have 24 and 12 channels"),
        (features(100), features(100) * float("nan"), "not finite"),
    ],
)
def test_sets_that_have_no_distance_are_refused(a, b, message):
    for metric in (frechet_distance, kernel_distance, precision_recall):
        with pytest.raises(ValueError, match=message):
            metric(a, b)
