"""However a folder keeps its weights, and whatever a checkpoint file is called: read alike by everything that reads."""

import logging
import re
from contextlib import contextmanager

import pytest
import torch

from skipdit import DiT
from skipdit.hub import CheckpointError, load_original, load_pipeline
from skipdit.hub.convert import convert
from skipdit.hub.errors import UnsafeCheckpointError
from skipdit.hub.load import load_model
from skipdit.hub.sketch import sketch
from tests.hub.test_load_original import same_weights
from tests.pipelines.published_folders import latte_1, modules
from tests.pipelines.tiny import tiny

KEPT = [
    {"safe_serialization": safe, "variant": variant, "max_shard_size": size}
    for safe in (True, False) for variant in (None, "fp16") for size in ("1GB", "5KB")
]  # fmt: skip


@pytest.mark.parametrize("kept", KEPT, ids=lambda kept: "-".join(map(str, kept.values())))
def test_a_folder_is_loaded_or_rewritten_however_it_keeps_its_weights(tmp_path, kept):
    model = tiny().half()
    model.save_pretrained(tmp_path / "model", **kept)
    convert(tmp_path / "model", tmp_path / "again", layout="diffusers")
    state = {name: tensor.float() for name, tensor in model.state_dict().items()}
    assert same_weights(load_model(str(tmp_path / "again")), state)
    if kept["safe_serialization"]:
        assert same_weights(load_model(str(tmp_path / "model")), state)
    else:
        with pytest.raises(UnsafeCheckpointError, match=re.escape(f"convert {tmp_path / 'model'} OUT`")):
            load_model(str(tmp_path / "model"))


@pytest.mark.parametrize("kept", KEPT, ids=lambda kept: "-".join(map(str, kept.values())))
def test_so_it_is_by_from_pretrained_itself(tmp_path, kept, caplog):
    model = tiny().half()
    model.save_pretrained(tmp_path / "transformer", **kept)
    with warnings_shown(caplog):
        for folder, where in ((tmp_path / "transformer", {}), (tmp_path, {"subfolder": "transformer"})):
            assert same_weights(DiT.from_pretrained(folder, **where).half(), model.state_dict())
    assert not caplog.records


@contextmanager
def warnings_shown(caplog):
    """diffusers' log, which does not reach the root by itself."""
    log = logging.getLogger("diffusers")
    log.addHandler(caplog.handler)
    yield
    log.removeHandler(caplog.handler)


@pytest.mark.parametrize("size", ["1GB", "20KB"])
def test_a_pipeline_is_loaded_from_the_files_of_its_one_variant(tmp_path, size):
    plain = load_pipeline(str(latte_1(tmp_path / "plain")))
    for name, part in plain.components.items():
        if isinstance(part, torch.nn.Module):
            part.save_pretrained(tmp_path / "fp16" / name, variant="fp16", max_shard_size=size)
    for file in (tmp_path / "plain").rglob("*"):
        copy = tmp_path / "fp16" / file.relative_to(tmp_path / "plain")
        if file.is_file() and not copy.exists() and "safetensors" not in file.name:
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(file.read_bytes())
    for ours, theirs in zip(modules(load_pipeline(str(tmp_path / "fp16"))), modules(plain), strict=True):
        assert all(map(torch.equal, ours.state_dict().values(), theirs.state_dict().values()))


def test_of_several_variants_none_is_guessed(tmp_path):
    for variant in ("fp16", "bf16"):
        tiny().save_pretrained(tmp_path, variant=variant)
    for use in (lambda: load_model(str(tmp_path)), lambda: convert(tmp_path, tmp_path / "out", layout="diffusers")):
        with pytest.raises(CheckpointError, match="has the variants bf16, fp16: leave one of them there"):
            use()
    with pytest.raises(ValueError, match="has the variants bf16, fp16: leave one of them there"):
        DiT.from_pretrained(tmp_path)
    assert same_weights(DiT.from_pretrained(tmp_path, variant="bf16"), tiny().state_dict())
    tiny(seed=1).save_pretrained(tmp_path)
    assert same_weights(load_model(str(tmp_path)), tiny(seed=1).state_dict())


@pytest.mark.parametrize("name", ["a.ckpt", "a.bin", "a.pth.tar", "a.pth"])
def test_a_checkpoint_is_read_under_each_of_its_usual_names(tmp_path, name):
    model = DiT.from_size("S/8", num_classes=10).half()
    torch.save({"model": model.state_dict()}, tmp_path / name)
    state = {key: tensor.float() for key, tensor in model.state_dict().items()}
    assert same_weights(load_original(tmp_path / name).float(), state)
    assert same_weights(load_model(str(tmp_path / name)), state)
    assert sketch(str(tmp_path / name)).transformer.depth == 12
    convert(tmp_path / name, tmp_path / "folder", layout="diffusers")
    assert same_weights(load_model(str(tmp_path / "folder")), state)


def test_what_is_no_file_is_told_where_it_belongs(tmp_path):
    with pytest.raises(OSError, match="is a folder: load_pipeline loads it"):
        load_original(tmp_path)
    with pytest.raises(OSError, match="fashion-dit does not exist: .* .load_pipeline takes models by name"):
        load_original("fashion-dit")
