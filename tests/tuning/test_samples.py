"""Samples of several prompts share a batch, and each is what it is alone."""

import pytest
import torch

from skipdit.data.moving_digits import caption
from skipdit.hub import load_pipeline
from skipdit.pipelines.draw import Settings, draw
from skipdit.tuning import Sample, pipeline_draw

STEPS = 2


@pytest.fixture(scope="module")
def pipe():
    made = load_pipeline("captioned-digits-skip", scheduler="ddim")
    made.set_progress_bar_config(disable=True)
    return made


def test_clips_of_two_prompts_are_what_they_are_alone(pipe):
    samples = [Sample(caption(6, 2), (0, 0)), Sample(caption(2, 2), (0, 1))]
    together = pipeline_draw(pipe, Settings(STEPS, 3.0))(pipe.scheduler, STEPS, samples)
    prompts, noise = [sample.subject for sample in samples], [sample.generator for sample in samples]
    torch.testing.assert_close(together, draw(pipe, prompts, noise, Settings(STEPS, 3.0)), rtol=1e-3, atol=1e-4)


def test_prompts_of_several_lengths_are_refused(pipe):
    samples = [Sample("eight", (0, 0)), Sample("the digit eight", (0, 1))]
    with pytest.raises(ValueError, match="prompts of one batch have 3 to 5 tokens: give prompts of one length"):
        pipeline_draw(pipe, Settings(STEPS, 3.0))(pipe.scheduler, STEPS, samples)


def test_a_pipeline_gets_its_scheduler_back(pipe):
    own, other = pipe.scheduler, load_pipeline("fashion-skip").scheduler
    samples = [Sample("eight", (0, 0)), Sample("the digit eight", (0, 1))]
    with pytest.raises(ValueError, match="give prompts of one length"):
        pipeline_draw(pipe, Settings(STEPS, 3.0))(other, STEPS, samples)
    assert pipe.scheduler is own
