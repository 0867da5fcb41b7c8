"""What a run begins with: a pretrained model's function, to the last bit where skips are added as residuals."""

import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from skipdit.hub.load import load_model
from skipdit.recipes.yours import yours
from skipdit.training import train
from skipdit.training.beginning import SKIPS
from skipdit.training.loop import learning_rate, loss_of, noised_batch, start, steps
from tests.data.pictures import write_pictures


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures"), each=5)


def lent_run(folder, out, init="fashion-dit", **changes):
    """Six steps on pictures from the weights of an embedded model."""
    begin = {name: changes.pop(name) for name in ("upcycle", "fuse") if name in changes}
    short = {"steps": 6, "batch_size": 4, "precision": "fp32", "log_every": 1, "checkpoint_every": 2}
    short["preview_every"] = 0
    return replace(yours(str(folder), out, init=init, **begin), **short | changes)


def first_output(run):
    """What the model says in the first forward pass of the training loop."""
    said = []

    def listen(**inputs):
        said.append(run.model(**inputs)[0])
        return said

    loss_of(run, lambda return_dict, **inputs: listen(**inputs))
    return said[0].detach()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_residual_skips_change_no_bit_of_the_first_forward_pass_of_training(tmp_path, folder, precision):
    run = start(lent_run(folder, tmp_path, upcycle=4, precision=precision))
    inputs, _ = noised_batch(run)
    null = torch.full_like(inputs["class_labels"], run.model.null_class)
    pretrained = load_model("fashion-dit")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        ours = run.model(**inputs | {"class_labels": null})[0]
        theirs = pretrained(**inputs | {"class_labels": torch.full_like(null, pretrained.null_class)})[0]
    assert torch.equal(ours, theirs)


def test_with_as_many_classes_the_first_step_says_what_the_pretrained_model_says(tmp_path, folder):
    for number in range(6):
        shutil.copytree(folder / "cross", tmp_path / "ten" / f"class{number}")
    shutil.copytree(folder, tmp_path / "ten", dirs_exist_ok=True)
    run = start(lent_run(tmp_path / "ten", tmp_path / "run", upcycle=4))
    assert run.fresh == ["4 skips (fuse residual)"]
    with torch.no_grad():
        theirs = load_model("fashion-dit")(**noised_batch(run)[0])[0]
    assert torch.equal(first_output(run), theirs)


def test_replacing_skips_are_another_function(tmp_path, folder):
    run = start(lent_run(folder, tmp_path, upcycle=4, fuse="replace"))
    vanilla = start(lent_run(folder, tmp_path / "vanilla"))
    assert not torch.allclose(first_output(run), first_output(vanilla), atol=0.1)


def test_weights_of_a_trained_skip_model_are_taken_whole(tmp_path, folder):
    run, pretrained = start(lent_run(folder, tmp_path, init="fashion-skip")), load_model("fashion-skip").state_dict()
    own = run.model.state_dict()
    assert run.fresh == ["the table of its 4 classes"]
    assert all(torch.equal(own[name], pretrained[name]) for name in own if "embedding_table" not in name)


def test_the_average_begins_with_the_pretrained_weights(tmp_path, folder):
    run = start(lent_run(folder, tmp_path, upcycle=4))
    assert all(torch.equal(run.ema.weights[name], p) for name, p in run.model.named_parameters() if p.requires_grad)


def test_a_resumed_run_takes_its_checkpoint_and_not_the_pretrained_weights(tmp_path, folder):
    through = train(lent_run(folder, tmp_path / "through", upcycle=4)).state_dict()
    train(lent_run(folder, tmp_path / "grown", upcycle=4, steps=4))
    grown = train(lent_run(folder, tmp_path / "grown", upcycle=4)).state_dict()
    assert all(torch.equal(through[name], grown[name]) for name in through)


# Skips first, then all.


def test_only_the_skips_learn_at_first_and_then_everything(tmp_path, folder):
    run = start(lent_run(folder, tmp_path, upcycle=4, skips_only=3, skips_only_rate=1e-2, learning_rate=1e-3))
    before = {name: p.clone() for name, p in run.model.named_parameters() if p.requires_grad}
    taken = steps(run)
    for number in range(1, 5):
        report = next(taken)
        assert report.learning_rate == (1e-2 if number <= 3 else 1e-3)
        now = dict(run.model.named_parameters())
        changed = {name for name, weight in before.items() if not torch.equal(now[name], weight)}
        assert any(SKIPS in name for name in changed)
        assert all(SKIPS in name for name in changed) == (number <= 3)
        averaged = {name for name, weight in run.ema.weights.items() if not torch.equal(weight, before[name])}
        assert all(SKIPS in name for name in averaged) == (number <= 3)


def test_a_run_that_stops_among_the_skips_first_steps_resumes_exactly(tmp_path, folder):
    class Stop(Exception):
        pass

    def stop(report):
        if report.step == 3:
            raise Stop

    staged = {"upcycle": 4, "skips_only": 4, "skips_only_rate": 1e-2}
    train(lent_run(folder, tmp_path / "through", **staged))
    with pytest.raises(Stop):
        train(lent_run(folder, tmp_path / "stopped", **staged), on_step=stop)
    train(lent_run(folder, tmp_path / "stopped", **staged))
    through, stopped = (
        load_file(tmp_path / name / "checkpoint-00000006" / "model.safetensors") for name in ("through", "stopped")
    )
    assert all(torch.equal(through[name], stopped[name]) for name in through)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"skips_only": 2}, "skips_only is 2: it takes a model with skips"),
        ({"skips_only": 6, "upcycle": 4}, r"skips_only is 6: it takes 0 to steps - 1 \(5\)"),
        ({"skips_only_rate": 0.1, "upcycle": 4}, "skips_only_rate is 0.1: it takes a rate above 0"),
    ],
)
def test_stages_that_cannot_be_are_refused(tmp_path, folder, changes, said):
    with pytest.raises(ValueError, match=said):
        lent_run(folder, tmp_path, **changes)


def test_the_rate_of_the_first_stage_is_its_own(tmp_path, folder):
    config = lent_run(folder, tmp_path, upcycle=4, skips_only=2, skips_only_rate=0.5, learning_rate=0.1)
    assert [learning_rate(step, config) for step in range(3)] == [0.5, 0.5, 0.1]
