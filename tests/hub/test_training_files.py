"""Files of training runs: what lies beside the weights, what stands before their names, what the run says of itself."""

import argparse
from collections import Counter, defaultdict
from pathlib import PosixPath

import numpy as np
import pytest
import torch
from diffusers.training_utils import EMAModel
from torch.optim.swa_utils import AveragedModel

from skipdit.hub import CheckpointError, load_original
from skipdit.hub.convert import convert
from skipdit.hub.errors import MismatchError, UnsafeCheckpointError
from skipdit.hub.load import load_model
from skipdit.hub.sketch import sketch
from tests.hub.test_load_original import output, same_weights
from tests.pipelines.tiny import tiny


def file_of(checkpoint, path):
    torch.save(checkpoint, path)
    return path


# What lies beside the weights.

HARMLESS = {
    "numbers": {"loss": np.float64(0.1), "step": np.int64(3), "rng": np.arange(3), "flags": np.array([True])},
    "paths": {"args": argparse.Namespace(results_dir=PosixPath("a/b"))},
    "counts": {"history": defaultdict(list, loss=[0.1]), "seen": Counter("aab"), "kinds": defaultdict(int, a=1)},
}


@pytest.mark.parametrize("beside", HARMLESS)
def test_values_that_run_no_code_do_no_harm(tmp_path, beside):
    model = tiny()
    file = file_of({"ema": model.state_dict()} | HARMLESS[beside], tmp_path / "a.pt")
    assert same_weights(load_original(file, num_heads=2), model.state_dict())


def test_objects_in_an_array_are_refused(tmp_path):
    file = file_of({"ema": tiny().state_dict(), "x": np.array([print], dtype=object)}, tmp_path / "a.pt")
    with pytest.raises(UnsafeCheckpointError, match="no file of tensors"):
        load_original(file, num_heads=2)


def test_an_archive_that_inflates_is_refused(tmp_path):
    import zipfile

    file_of(tiny().state_dict(), tmp_path / "a.pt")
    with (
        zipfile.ZipFile(tmp_path / "a.pt") as whole,
        zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as b,
    ):
        for name in whole.namelist():
            b.writestr(name, whole.read(name))
    with pytest.raises(UnsafeCheckpointError, match="is compressed, which torch.save never does"):
        load_original(tmp_path / "b.pt", num_heads=2)


def test_tensors_of_mixed_dtypes_become_those_of_the_widest():
    model = tiny()
    mixed = {
        name: tensor.half() if name.startswith("blocks") else tensor for name, tensor in model.state_dict().items()
    }
    loaded = load_original(mixed, num_heads=2)
    assert {tensor.dtype for tensor in loaded.state_dict().values()} == {torch.float32}
    assert torch.equal(output(loaded), output(load_original({n: t.float() for n, t in mixed.items()}, num_heads=2)))
    brains = {
        name: tensor.bfloat16() if tensor.dtype == torch.half else tensor.half() for name, tensor in mixed.items()
    }
    assert load_original(brains, num_heads=2).dtype == torch.float32


# Which set of weights.


@pytest.mark.parametrize("ema", [{}, EMAModel(tiny().parameters()).state_dict()], ids=["empty", "EMAModel"])
def test_an_average_without_tensors_by_name_gives_way_to_the_model(tmp_path, ema):
    state = tiny().state_dict()
    file = file_of({"ema": ema, "model": state}, tmp_path / "a.pt")
    with pytest.warns(UserWarning, match="ema holds no tensors by name, so weights is 'model'"):
        assert same_weights(load_original(file, num_heads=2), state)
    assert same_weights(load_original(file, num_heads=2, weights="model"), state)
    with pytest.raises(CheckpointError, match=r"where tensors belong: take weights \(--weights\) model"):
        load_original(file, num_heads=2, weights="ema")


def lightning(**sets):
    return {"state_dict": {f"{name}.{key}": t for name, state in sets.items() for key, t in state.items()}, "epoch": 3}


def test_what_a_trainer_puts_before_every_name_is_taken_off():
    state = tiny().state_dict()
    for prefix in ("model", "net", "module.net", "ema", "diffusion.model"):
        assert same_weights(load_original(lightning(**{prefix: state}), num_heads=2), state)


def test_sets_by_prefix_are_chosen_as_those_by_name():
    raw, average = tiny().state_dict(), {name: tensor + 1 for name, tensor in tiny().state_dict().items()}
    both = lightning(model=raw, ema=average)
    assert same_weights(load_original(both, num_heads=2), average)
    assert same_weights(load_original(both, num_heads=2, weights="model"), raw)
    with_vae = lightning(model=raw, vae={"conv": torch.ones(1)})
    with pytest.raises(MismatchError, match=r"begin with model\., vae\.: take weights \(--weights\) model"):
        load_original(with_vae, num_heads=2)
    assert same_weights(load_original(with_vae, num_heads=2, weights="model"), raw)


class EMAPyTorch(torch.nn.Module):
    """What ema_pytorch's `EMA` keeps: two models and two counters."""

    def __init__(self, model, average):
        super().__init__()
        self.online_model, self.ema_model = model, average
        self.register_buffer("initted", torch.tensor(True))
        self.register_buffer("step", torch.tensor(3))


def averages(raw, average):
    """Files by what made them, with the name of the other weights in each."""
    averaged = AveragedModel(average)
    averaged.update_parameters(average)
    kept = EMAPyTorch(raw, average).state_dict()
    raw, average = raw.state_dict(), average.state_dict()
    return {
        "AveragedModel": (averaged.state_dict(), None),
        "AveragedModel in a dict": ({"ema": averaged.state_dict(), "model": raw}, "model"),
        "AveragedModel of Lightning": (lightning(ema=averaged.state_dict(), model=raw), "model"),
        "ema_pytorch": (kept, "online_model"),
        "ema_pytorch without the model": (
            {name: tensor for name, tensor in kept.items() if not name.startswith("online")}, None
        ),
        "ema_pytorch in a dict": ({"ema": kept, "step": 3}, "online_model"),
        "net and net_ema": (lightning(net=raw, net_ema=average), "net"),
        "model_ema": ({"model": raw, "model_ema": average}, "model"),
        "model_ema by prefix": (lightning(model=raw, model_ema=average), "model"),
    }  # fmt: skip


def test_averages_are_read_whatever_kept_them(tmp_path):
    raw, average = tiny(), tiny(seed=1)
    for name, (checkpoint, other) in averages(raw, average).items():
        file = file_of(checkpoint, tmp_path / f"{name}.pt")
        assert same_weights(load_original(file, num_heads=2), average.state_dict()), name
        if other is not None:
            assert same_weights(load_original(file, num_heads=2, weights=other), raw.state_dict()), name
        convert(file, tmp_path / name, layout="diffusers", overrides={"num_heads": 2})
        assert same_weights(load_model(str(tmp_path / name)), average.state_dict()), name


def test_an_average_under_shortened_names_gives_way_to_the_model():
    """LitEma of latent diffusion leaves the dots out, so that no name can be told."""
    raw = tiny().state_dict()
    shortened = {name.replace(".", ""): tensor for name, tensor in raw.items()} | {"decay": torch.tensor(0.9)}
    checkpoint = lightning(model=raw, model_ema=shortened)
    with pytest.warns(UserWarning, match="model_ema has names that no model has, so weights is 'model': say so"):
        assert same_weights(load_original(checkpoint, num_heads=2), raw)
    assert same_weights(load_original(checkpoint, num_heads=2, weights="model"), raw)


# What the run says of itself.


def uses(file, **overrides):
    """Every way to read a file."""
    yield lambda: load_original(file, **overrides)
    yield lambda: convert(file, file.with_name("out"), layout="diffusers", overrides=overrides)
    if not overrides:
        yield lambda: load_model(str(file))
        yield lambda: sketch(str(file))


def published(tmp_path, args, **config):
    from skipdit import DiT

    model = DiT.from_size("S/8", **{"num_classes": 10} | config)
    return file_of({"ema": model.half().state_dict(), "args": argparse.Namespace(**args)}, tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            {"model": "SiT-XL/2", "path_type": "Linear", "prediction": "velocity"},
            "SiT-XL/2, path_type Linear.*velocity",
        ),
        ({"prediction": "velocity"}, "trained on prediction velocity: samplers here take epsilon"),
        ({"num_classes": 100}, "own args say num_classes 100, its tensors"),
        ({"num_classes": 10, "image_size": 512}, "own args say image_size 512, its tensors 32 or 256"),
        ({"num_classes": 10, "learn_sigma": False}, "own args say learn_sigma False, its tensors True"),
    ],
)
def test_what_the_run_was_told_must_agree_with_its_tensors(tmp_path, args, message):
    for use in uses(published(tmp_path, args)):
        with pytest.raises(CheckpointError, match=message):
            use()


@pytest.mark.parametrize(
    "beside",
    [
        {"args": {"objective": "pred_v"}},
        {"args": {"parameterization": "v"}},
        {"args": {"pred_type": "flow"}},
        {"args": {"loss_type": "flow_matching"}},
        {"args": {"prediction": "epsilon", "loss_type": "flow_matching"}},
        {"args": {"transport": {"path_type": "Linear", "prediction": "velocity"}}},
        {"args": argparse.Namespace(transport=argparse.Namespace(prediction="velocity"))},
        {"args": argparse.Namespace(), "hyper_parameters": {"path_type": "Linear"}},
    ],
)
def test_an_objective_is_found_wherever_it_is_said_and_gives_way_to_ours(beside):
    checkpoint = {"model": tiny().state_dict()} | beside
    with pytest.raises(MismatchError, match="trained on .* or give prediction_type"):
        load_original(checkpoint, num_heads=2)
    model = load_original(checkpoint, num_heads=2, prediction_type="v_prediction")
    assert model.config.prediction_type == "v_prediction"


@pytest.mark.parametrize(("said", "meant"), [({"objective": "pred_x0"}, "sample"), ({"loss_type": "l2"}, "epsilon")])
def test_words_of_ours_and_norms_are_taken(said, meant):
    args = argparse.Namespace(**said)
    args.itself = args
    model = load_original({"model": tiny().state_dict(), "args": args}, num_heads=2)
    assert model.config.prediction_type == meant


@pytest.mark.parametrize("number", [str, np.int64])
def test_numbers_of_any_type_are_compared(tmp_path, number):
    for args in ({"num_classes": number(100)}, {"num_classes": number(10), "image_size": number(512)}):
        with pytest.raises(MismatchError, match="own args say"):
            load_original(published(tmp_path, args))
    args = {"num_classes": number(10), "image_size": number(512)}
    file = published(tmp_path, args)
    assert load_original(file, sample_size=(16, 64)).null_class == 10


def test_what_only_the_run_knows_is_taken_from_it(tmp_path):
    args = {"model": "DiT-S/8", "num_classes": 7, "image_size": 256, "learn_sigma": True, "predict_xstart": True}
    for dropout in (0, 0.1):
        model = load_original(published(tmp_path, args, num_classes=7, class_dropout_prob=dropout))
        assert (model.config.num_classes, model.null_class) == (7, 7 if dropout else None)
        assert model.config.prediction_type == "sample"
    assert load_original(tmp_path / "a.pt", prediction_type="epsilon").config.prediction_type == "epsilon"


def test_a_table_of_which_nobody_says_what_its_last_row_is_is_asked_about(tmp_path):
    for rows in (7, 10, 101, 1000):
        file = published(tmp_path, {}, num_classes=rows, class_dropout_prob=0)
        for use in uses(file):
            with pytest.raises(ValueError, match=f"num_classes={rows} or num_classes={rows - 1}"):
                use()
        assert load_original(file, num_classes=rows).null_class is None
        assert load_original(file, num_classes=rows - 1).null_class == rows - 1
