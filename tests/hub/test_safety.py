"""What strangers' files may try, and what may be wrong with them: each its own error, when loading and converting."""

import io
import json
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from skipdit.hub import CheckpointError, load_original, load_pipeline
from skipdit.hub.convert import convert
from skipdit.hub.errors import (
    DamagedCheckpointError,
    EmptyCheckpointError,
    EscapingNameError,
    MismatchError,
    MissingSkipsError,
    NotFiniteError,
    UnsafeCheckpointError,
    WrongShapeError,
)
from skipdit.hub.folders import check_components, shard_names
from skipdit.hub.load import load_model, load_vae
from skipdit.hub.original import check_finite
from tests.hub.published import tiny_hunyuan
from tests.pipelines.tiny import tiny, tiny_latte, tiny_vae

Use = Callable[[Path], object]


def load(path: Path) -> object:
    return load_original(path, num_heads=2)


def convert_beside(path: Path) -> object:
    return convert(path, path.with_name("converted"), layout="diffusers", overrides={"num_heads": 2})


USES = pytest.mark.parametrize("use", [load, convert_beside], ids=["load", "convert"])


def weights(**changes) -> dict[str, Tensor]:
    """Of a tiny DiT, with some tensors replaced, or left out where the change is None."""
    state = tiny().state_dict() | {name.replace("__", "."): tensor for name, tensor in changes.items()}
    return {name: tensor for name, tensor in state.items() if tensor is not None}


def refused(use: Use, file: Path, error: type[CheckpointError], match: str) -> None:
    """With this very error, in one line, and nothing is left beside the file."""
    before = sorted(file.parent.iterdir())
    with pytest.raises(error, match=match) as raised:
        use(file)
    assert type(raised.value) is error
    assert "\n" not in str(raised.value)
    assert sorted(file.parent.iterdir()) == before


# Code.


class Creates:
    """Unpickling this creates a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def zipped(checkpoint: object, file: Path) -> None:
    torch.save(checkpoint, file)


def legacy(checkpoint: object, file: Path) -> None:
    """As torch wrote before 1.6."""
    torch.save(checkpoint, file, _use_new_zipfile_serialization=False)


def bare(checkpoint: object, file: Path) -> None:
    file.write_bytes(pickle.dumps(checkpoint))


def bare_ascii(checkpoint: object, file: Path) -> None:
    """Protocol 0 has no mark at its beginning."""
    file.write_bytes(pickle.dumps(checkpoint, protocol=0))


def tarred(checkpoint: object, file: Path) -> None:
    """As torch wrote before 0.1.10."""
    content = pickle.dumps(checkpoint)
    with tarfile.open(file, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


FORMATS = {zipped: UnsafeCheckpointError, legacy: UnsafeCheckpointError, bare: UnsafeCheckpointError,
           tarred: UnsafeCheckpointError, bare_ascii: DamagedCheckpointError}  # fmt: skip


@USES
@pytest.mark.parametrize("write", FORMATS, ids=lambda write: write.__name__)
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
@pytest.mark.parametrize("place", ["alone", "beside the weights", "as a tensor"])
def test_code_is_refused_and_does_not_run(tmp_path, use, write, suffix, place):
    bait, file = tmp_path / "created", tmp_path / f"model{suffix}"
    code = Creates(bait)
    checkpoint = {"alone": code, "beside the weights": {"ema": {"x": 1}, "args": code}, "as a tensor": {"a.b": code}}
    write(checkpoint[place], file)
    error = DamagedCheckpointError if suffix == ".safetensors" else FORMATS[write]
    refused(use, file, error, "safetensors|download or copy it again")
    assert not bait.exists()


def test_the_bait_would_be_taken_by_an_unsafe_reader(tmp_path):
    zipped(Creates(tmp_path / "created"), tmp_path / "model.pt")
    torch.load(tmp_path / "model.pt", weights_only=False)
    assert (tmp_path / "created").exists()


@USES
def test_what_the_code_is_is_named(tmp_path, use):
    zipped(weights() | {"args": Creates(tmp_path / "created")}, tmp_path / "model.pt")
    refused(use, tmp_path / "model.pt", UnsafeCheckpointError, r"it calls for (posix|nt)\.mkdir, which is no tensor")


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_code_in_a_folder_is_refused(tmp_path, suffix):
    tiny().save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "diffusion_pytorch_model.safetensors").unlink()
    zipped(Creates(tmp_path / "created"), tmp_path / "model" / f"diffusion_pytorch_model{suffix}")
    with pytest.raises(CheckpointError):
        convert(tmp_path / "model", tmp_path / "converted", layout="diffusers")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


# Damage.


@USES
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.999])
def test_a_truncated_file_is_damaged(tmp_path, use, suffix, kept):
    file = tmp_path / f"model{suffix}"
    torch.save(weights(), file) if suffix == ".pt" else save_file(weights(), file)
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    refused(use, file, DamagedCheckpointError, "download or copy it again")


@USES
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("wrapper", [None, "ema"])
def test_an_empty_checkpoint_is_said_to_be_empty(tmp_path, use, suffix, wrapper):
    file = tmp_path / f"model{suffix}"
    if suffix == ".pt":
        torch.save({} if wrapper is None else {wrapper: {}}, file)
    else:
        save_file({}, file)
    refused(use, file, EmptyCheckpointError, "the checkpoint holds nothing where tensors belong")


@USES
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_weights_that_are_no_finite_numbers_are_named(tmp_path, use, value, dtype):
    state = {name: tensor.to(dtype) for name, tensor in weights().items()}
    state["blocks.2.mlp.fc1.weight"][3, 4:6] = value
    torch.save({"ema": state}, tmp_path / "model.pt")
    match = r"^blocks\.2\.mlp\.fc1\.weight has 2 of 1024 weights NaN or infinite: take another checkpoint"
    refused(use, tmp_path / "model.pt", NotFiniteError, match)


@pytest.mark.parametrize("layout", ["diffusers", "stock", "original"])
def test_a_tensor_that_is_cut_is_named_as_in_the_file(tmp_path, layout):
    state = tiny_hunyuan()
    state["blocks.1.attn1.Wqkv.bias"][-1] = torch.inf
    torch.save(state, tmp_path / "model.pt")
    out = tmp_path / ("out.pt" if layout == "original" else "out")
    with pytest.raises(NotFiniteError, match=r"^blocks\.1\.attn1\.Wqkv\.bias has 1 of 48"):
        convert(tmp_path / "model.pt", out, layout=layout, overrides={"sample_size": 4})
    assert not out.exists()


@pytest.mark.parametrize(
    "tensor",
    [torch.empty(0), torch.empty(3, device="meta"), torch.tensor([1, 2]), torch.tensor(3.0), torch.tensor([True]),
     torch.tensor([65504.0]).half(), torch.tensor([3e38]), torch.ones(3).to(torch.float8_e4m3fn)],
)  # fmt: skip
def test_finite_tensors_of_any_kind_pass(tensor):
    assert check_finite(tensor, name="a") is tensor


# What does not fit.


@USES
@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"blocks__1__attn__qkv__bias": torch.ones(5)}, WrongShapeError, r"1 of another shape: .*\(5,\) for \(48,\)"),
        ({"t_embedder__mlp__0__bias": None}, MismatchError, r"1 missing: t_embedder\.mlp\.0\.bias$"),
        ({"surplus": torch.ones(1)}, MismatchError, "1 unexpected: surplus$"),
        ({"skip_norms__1__bias": None}, MissingSkipsError, r"1 missing: skip_norms\.1\.bias$"),
        ({"sparse": torch.eye(2).to_sparse()}, MismatchError, "holds sparse where tensors belong"),
    ],
)
def test_what_does_not_fit_has_an_error_of_its_own(tmp_path, use, changes, error, match):
    torch.save(weights(**changes), tmp_path / "model.pt")
    refused(use, tmp_path / "model.pt", error, match)


def test_base_latte_is_no_skip_model_and_the_error_says_what_to_do(tmp_path):
    torch.save({"ema": tiny_latte(num_skips=0).state_dict()}, tmp_path / "model.pt")
    with pytest.raises(MissingSkipsError, match=r"fuse='residual' \(skipdit convert --upcycle 2\) gives it skips"):
        load_original(tmp_path / "model.pt", num_heads=2, num_skips=2)


def test_a_huge_shape_over_little_memory_is_refused_before_it_is_looked_at(tmp_path):
    huge = torch.ones(1).expand(10**12)
    torch.save(weights(blocks__1__attn__qkv__bias=huge), tmp_path / "model.pt")
    for use in (load, convert_beside):
        refused(use, tmp_path / "model.pt", UnsafeCheckpointError, "is 4,000,000,000,000 bytes made of 4, which")


# Names that lead elsewhere.

ESCAPES = ["../outside.safetensors", "/etc/outside.safetensors", "sub/../../outside.safetensors", "..", ".", "",
           "..\\outside.safetensors", "C:outside.safetensors", "a/b.safetensors"]  # fmt: skip


@pytest.mark.parametrize("name", ESCAPES)
def test_an_index_names_no_file_outside_its_folder(tmp_path, name):
    model = tiny()
    model.save_pretrained(tmp_path / "model")
    weights_file = tmp_path / "model" / "diffusion_pytorch_model.safetensors"
    weights_file.rename(tmp_path / "outside.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(model.state_dict(), name)}
    (tmp_path / "model" / f"{weights_file.name}.index.json").write_text(json.dumps(index))
    with pytest.raises(EscapingNameError, match="a bare name in its own folder is needed"):
        convert(tmp_path / "model", tmp_path / "converted", layout="diffusers")
    assert not (tmp_path / "converted").exists()
    for use in (load_model, load_pipeline):  # whatever diffusers makes of such a name
        with pytest.raises(EscapingNameError, match="a bare name in its own folder is needed"):
            use(str(tmp_path / "model"))


def test_nor_does_that_of_an_autoencoder(tmp_path):
    tiny_vae().save_pretrained(tmp_path / "vae")
    weights_file = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    weights_file.rename(tmp_path / "outside.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(tiny_vae().state_dict(), "../outside.safetensors")}
    (tmp_path / "vae" / f"{weights_file.name}.index.json").write_text(json.dumps(index))
    with pytest.raises(EscapingNameError, match=r"names '\.\./outside\.safetensors'"):
        load_vae(tmp_path / "vae")


@pytest.mark.parametrize(
    ("index", "error", "match"),
    [
        ("[1]", DamagedCheckpointError, "has no weight_map of file names"),
        ("{", DamagedCheckpointError, "cannot be read"),
        ('{"weight_map": {}}', DamagedCheckpointError, "has no weight_map"),
        ('{"weight_map": {"a": 1}}', DamagedCheckpointError, "has no weight_map"),
        ('{"weight_map": {"a": "b.safetensors"}}', DamagedCheckpointError, r"has no b\.safetensors, which .* names"),
        ('{"weight_map": {"a": "b.bin"}}', UnsafeCheckpointError, r"names 'b\.bin': \.safetensors files are needed"),
    ],
)
def test_an_index_that_is_none_is_an_error(tmp_path, index, error, match):
    (tmp_path / "diffusion_pytorch_model.safetensors.index.json").write_text(index)
    with pytest.raises(error, match=match):
        shard_names(tmp_path)


def test_a_folder_without_an_index_has_no_shards(tmp_path):
    assert shard_names(tmp_path) == []


WHOLE = {
    "_class_name": "HunyuanDiTPipeline", "_diffusers_version": "0.42.1", "feature_extractor": [None, None],
    "requires_safety_checker": False, "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "scheduler": ["diffusers", "DDPMScheduler"], "text_encoder": ["transformers", "BertModel"],
    "transformer": ["skipdit.models.hunyuan", "HunyuanDiT"],
}  # fmt: skip


def test_the_parts_of_a_published_pipeline_pass():
    check_components(WHOLE, Path("model_index.json"))


@pytest.mark.parametrize(
    ("part", "error"),
    [
        ({"../vae": ["diffusers", "AutoencoderKL"]}, EscapingNameError),
        ({"/vae": ["diffusers", "AutoencoderKL"]}, EscapingNameError),
        ({"vae": ["subprocess", "Popen"]}, UnsafeCheckpointError),
        ({"vae": ["my_code", "Model"]}, UnsafeCheckpointError),
        ({"vae": ["../my_code", "Model"]}, UnsafeCheckpointError),
        ({"vae": ["diffusers_of_mine", "Model"]}, UnsafeCheckpointError),
        ({"vae": [7, "Model"]}, UnsafeCheckpointError),
    ],
)
def test_parts_from_elsewhere_are_refused(part, error):
    with pytest.raises(error, match=r"model_index\.json"):
        check_components(WHOLE | part, Path("model_index.json"))
