"""Fidelity: closed forms, scikit-image, and honesty about infinity."""

import json
import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from skipdit.evaluation import Fidelity, fidelity, psnr, ssim


def uniform(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


IMAGES, REFERENCE = uniform(2, 5, 3, 28, 31)
NOISE = 2 * uniform(5, 3, 28, 31, seed=1) - 1


def noisy(amount):
    return (REFERENCE + amount * NOISE).clamp(0, 1)


@pytest.mark.parametrize("error", [1.0, 0.5, 0.1, 0.001])
def test_psnr_of_a_constant_error_has_a_closed_form(error):
    images = torch.full((2, 3, 8, 8), error, dtype=torch.float64)
    expected = torch.full((2,), -20 * math.log10(error), dtype=torch.float64)
    torch.testing.assert_close(psnr(images, torch.zeros_like(images)), expected, rtol=1e-7, atol=1e-12)


def test_psnr_is_of_each_image_on_its_own():
    images = torch.stack([noisy(0.1)[0], IMAGES[1], REFERENCE[2]])
    each = torch.cat([psnr(image[None], against[None]) for image, against in zip(images, REFERENCE, strict=False)])
    assert torch.equal(psnr(images, REFERENCE[:3]), each)


def test_psnr_is_that_of_scikit_image():
    pairs = zip(IMAGES.double().numpy(), REFERENCE.double().numpy(), strict=True)
    theirs = torch.tensor([peak_signal_noise_ratio(b, a, data_range=1) for a, b in pairs])
    torch.testing.assert_close(psnr(IMAGES, REFERENCE), theirs, rtol=1e-7, atol=0)


def test_identical_images_have_infinite_psnr_and_ssim_one():
    assert torch.equal(psnr(REFERENCE, REFERENCE), torch.full((5,), math.inf, dtype=torch.float64))
    torch.testing.assert_close(ssim(REFERENCE, REFERENCE), torch.ones(5, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(11, 11), (28, 28), (40, 17)])
def test_ssim_is_that_of_scikit_image(channels, size):
    images, reference = uniform(2, 3, channels, *size, seed=2)
    images = 0.7 * reference + 0.3 * images
    theirs = [
        structural_similarity(
            a.double().numpy(), b.double().numpy(), data_range=1, channel_axis=0,
            gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        )
        for a, b in zip(images, reference, strict=True)
    ]  # fmt: skip
    np.testing.assert_allclose(ssim(images, reference).numpy(), theirs, rtol=1e-10)


def test_ssim_of_flat_images_has_a_closed_form():
    a, b, c1 = 0.25, 0.75, 0.01**2
    found = ssim(torch.full((1, 1, 28, 28), a), torch.full((1, 1, 28, 28), b))
    assert found.item() == pytest.approx((2 * a * b + c1) / (a * a + b * b + c1), abs=1e-9)


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_more_noise_is_less_faithful_and_sides_may_be_swapped(measure):
    values = torch.stack([measure(noisy(amount), REFERENCE) for amount in (0.01, 0.05, 0.2, 0.8)])
    assert (values.diff(dim=0) < 0).all()
    torch.testing.assert_close(measure(REFERENCE, IMAGES), measure(IMAGES, REFERENCE), rtol=1e-12, atol=0)


def test_a_set_larger_than_one_call_is_measured_image_by_image():
    images, reference = uniform(2, 130, 1, 12, 12, seed=3)
    each = torch.cat([ssim(images[i : i + 1], reference[i : i + 1]) for i in range(130)])
    torch.testing.assert_close(ssim(images, reference), each, rtol=1e-9, atol=1e-12)


def test_half_precision_images_are_compared_exactly():
    half = REFERENCE.bfloat16()
    assert torch.equal(psnr(half, REFERENCE), psnr(half.double(), REFERENCE.double()))


def test_fidelity_is_the_mean_and_the_minimum_of_per_image_values():
    found, decibels, similarity = fidelity(IMAGES, REFERENCE), psnr(IMAGES, REFERENCE), ssim(IMAGES, REFERENCE)
    assert found == Fidelity(
        psnr=decibels.mean().item(), ssim=similarity.mean().item(),
        psnr_min=decibels.min().item(), ssim_min=similarity.min().item(), images=5, identical=0,
    )  # fmt: skip


def test_mean_psnr_is_not_psnr_of_the_mean_error():
    images = torch.stack([torch.full((1, 11, 11), 1.0), torch.full((1, 11, 11), 0.01)]).double()
    found = fidelity(images, torch.zeros_like(images)).psnr
    assert found == pytest.approx((0 + 40) / 2, abs=1e-5)
    assert found > -10 * math.log10((1 + 1e-4) / 2)


def test_one_identical_image_makes_the_mean_infinite_and_is_counted():
    found = fidelity(torch.cat([IMAGES[:4], REFERENCE[4:]]), REFERENCE)
    assert (found.psnr, found.identical) == (math.inf, 1)
    assert found.psnr_min == psnr(IMAGES, REFERENCE)[:4].min().item()


def test_infinity_survives_strict_json():
    read = json.loads(json.dumps(fidelity(REFERENCE, REFERENCE).as_dict(), allow_nan=False))
    assert (read["psnr"], read["psnr_min"], read["images"], read["identical"]) == ("inf", "inf", 5, 5)
    assert float(read["psnr"]) == math.inf
    assert Fidelity(**json.loads(json.dumps(fidelity(IMAGES, REFERENCE).as_dict()))) == fidelity(IMAGES, REFERENCE)


@pytest.mark.parametrize("measure", [psnr, ssim, fidelity])
def test_different_shapes_are_refused_by_name(measure):
    with pytest.raises(ValueError, match=r"\(5, 3, 28, 31\), the reference \(5, 1, 28, 31\)"):
        measure(IMAGES, REFERENCE[:, :1])
    with pytest.raises(ValueError, match="belong in the batch"):
        measure(IMAGES[0], REFERENCE[0])


@pytest.mark.parametrize("bad", [2 * IMAGES, IMAGES - 1, IMAGES * math.nan, (255 * IMAGES).byte()])
@pytest.mark.parametrize("measure", [psnr, ssim])
def test_values_outside_the_unit_range_are_refused(measure, bad):
    with pytest.raises(ValueError, match="images reach from"):
        measure(bad, REFERENCE)
    with pytest.raises(ValueError, match="the reference reach from"):
        measure(REFERENCE, bad)


@pytest.mark.parametrize("size", [(10, 28), (28, 10), (1, 1)])
def test_images_smaller_than_the_window_are_refused(size):
    with pytest.raises(ValueError, match="at least 11"):
        ssim(torch.zeros(1, 1, *size), torch.zeros(1, 1, *size))


def test_an_empty_set_has_no_mean():
    with pytest.raises(ValueError, match="at least 1"):
        fidelity(IMAGES[:0], REFERENCE[:0])
