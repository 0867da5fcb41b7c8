"""Stale steps: what the tail sees is the trunk's word of a noisier time, and head and tail alone learn from it."""

from dataclasses import replace

import pytest
import torch

from skipdit.diffusion import NoiseSchedule
from skipdit.training import train
from skipdit.training.loop import loss_of, noised_batch, start, steps
from skipdit.training.stale import drawn_age, stale_seam
from tests.models.subject import randomised
from tests.training.test_video import video_run
from tests.training.tiny import tiny_run

DEEP = {"depth": 4, "num_skips": 2}


def test_ages_are_drawn_at_their_rate_and_evenly():
    ages = [drawn_age(seed=0, step=step, probability=0.4, most=3) for step in range(3000)]
    counts = torch.bincount(torch.tensor(ages), minlength=4).tolist()
    assert counts == pytest.approx([1800, 400, 400, 400], abs=90)
    assert not any(drawn_age(seed=0, step=step, probability=0, most=3) for step in range(50))


def test_a_stale_step_is_the_cached_step_of_sampling(tmp_path):
    """By hand: the deep feature of x_t', then head and tail of x_t."""
    run = start(tiny_run(tmp_path, model=DEEP))
    model = randomised(run.model)
    inputs, targets = noised_batch(run)
    seam = stale_seam(model, run.process, inputs, targets, cut=1, by=40)
    with torch.no_grad():
        said = model(**inputs, seam=seam).sample
        t = (targets["t"] + 40).clamp(max=999)
        x_t = NoiseSchedule.linear().add_noise(targets["x_0"], targets["noise"], t)
        earlier = model.head(1, hidden_states=x_t, timestep=t, class_labels=inputs["class_labels"])
        deep = model.trunk(1, earlier.stream, earlier.context)
        now = model.head(1, **inputs)
        expected = model.tail(1, deep, now.skips, now.context)
    assert torch.equal(said, expected)
    assert not torch.allclose(said, model(**inputs).sample, atol=1e-3)


def test_age_zero_is_the_fresh_step(tmp_path):
    run = start(tiny_run(tmp_path, model=DEEP))
    inputs, targets = noised_batch(run)
    seam = stale_seam(run.model, run.process, inputs, targets, cut=1, by=0)
    assert torch.equal(run.model(**inputs, seam=seam).sample, run.model(**inputs).sample)


def test_head_and_tail_alone_learn_in_a_stale_step(tmp_path):
    run = start(tiny_run(tmp_path, model=DEEP, stale_prob=0.999))
    randomised(run.model)
    loss_of(run, run.model).total.mean().backward()
    blocks = {name: p for name, p in run.model.named_parameters() if name.startswith("blocks")}
    learning = {name.split(".")[1] for name, p in blocks.items() if p.grad is not None}
    assert learning == {"0", "3"}
    assert run.model.skip_linears[1].linear.weight.grad is not None  # of the outer skip, which the tail closes
    assert run.model.skip_linears[0].linear.weight.grad is None


@pytest.mark.parametrize("dataset", ["moving-digits", "captioned-digits"])
def test_clips_have_stale_steps_too(tmp_path, dataset):
    config = video_run(tmp_path, dataset)
    name = "depth" if dataset == "moving-digits" else "num_layers"
    run = start(replace(config, model=replace(config.model, **{name: 4}), stale_prob=0.999))
    assert next(steps(run)).loss.isfinite()


def test_a_run_with_stale_steps_learns_and_resumes_exactly(tmp_path):
    class Stop(Exception):
        pass

    def stop(report):
        if report.step == 6:
            raise Stop

    settings = {"model": DEEP, "stale_prob": 0.5, "spectral_cap": 0.5}
    through = train(tiny_run(tmp_path / "through", **settings)).state_dict()
    with pytest.raises(Stop):
        train(tiny_run(tmp_path / "stopped", **settings), on_step=stop)
    stopped = train(tiny_run(tmp_path / "stopped", **settings)).state_dict()
    assert all(torch.equal(through[name], stopped[name]) for name in through)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stale_prob": 1.0}, r"stale_prob is 1.0: it must be in \[0, 1\)"),
        ({"stale_age": 0}, "stale_age is 0"),
        ({"stale_branch": 0}, "stale_branch is 0"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, changes, said):
    with pytest.raises(ValueError, match=said):
        tiny_run(tmp_path, **changes)


def test_a_branch_without_a_trunk_is_refused(tmp_path):
    with pytest.raises(ValueError, match="stale_branch is 2: a model of 4 layers takes 1 to 1"):
        start(tiny_run(tmp_path, model=DEEP, stale_prob=0.5, stale_branch=2))
