"""The whole way in about a minute: train on digits from scratch, draw, and let a classifier of real digits read."""

from dataclasses import replace

import pytest
import torch
from sklearn.svm import SVC

from skipdit import SkipCacheConfig, data
from skipdit.pipelines import ClassToImagePipeline
from skipdit.pipelines.schedulers import make_scheduler
from skipdit.randomness import generator
from skipdit.recipes import digits
from skipdit.training import train

SAMPLES, TRAINED_ON = 200, 1200  # the classifier is checked on the other 597 digits
WAYS = {"uncached": None, "cached, N=2": SkipCacheConfig(interval=2)}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return train(replace(digits(tmp_path_factory.mktemp("digits")), preview_every=0))


@pytest.fixture(scope="module")
def classifier() -> SVC:
    real = data.load("digits")
    pixels, labels = real.batch(torch.arange(len(real)))
    pixels, labels = pixels.flatten(1).numpy(), labels.numpy()
    fitted = SVC().fit(pixels[:TRAINED_ON], labels[:TRAINED_ON])
    assert fitted.score(pixels[TRAINED_ON:], labels[TRAINED_ON:]) > 0.95
    return fitted


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_the_requested_class_is_drawn(model, classifier, way):
    """Chance is 0.1."""
    pipeline = ClassToImagePipeline(model, make_scheduler("ddim"))
    pipeline.set_progress_bar_config(disable=True)
    wanted = [index % 10 for index in range(SAMPLES)]
    if WAYS[way] is not None:
        model.enable_cache(WAYS[way])
    noise = [generator(0, index) for index in range(SAMPLES)]
    images = pipeline(wanted, guidance_scale=3.0, num_inference_steps=20, generator=noise, output_type="pt").images
    if WAYS[way] is not None:
        assert model.cache_stats()["default"].cached == 10
        model.disable_cache()
    assert classifier.score((2 * images - 1).flatten(1).numpy(), wanted) >= 0.9
