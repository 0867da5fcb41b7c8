"""Arguments of pipelines as people write them: taken where they mean something, else one line says what is."""

import json
from functools import cache

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from skipdit import load_pipeline
from skipdit.hub import CheckpointError
from skipdit.pipelines import ClassToImagePipeline
from skipdit.pipelines.schedulers import make_scheduler
from tests.hub.test_weight_files import warnings_shown
from tests.pipelines.tiny import latents_of, pipeline, seeds, tiny, video_pipeline

TEXT = ("captioned-digits-skip", "emoji-hunyuan")


@cache
def embedded(name: str):
    pipe = load_pipeline(name)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("labels", [np.array([3, 7]), torch.tensor([3, 7]), (np.int64(3), torch.tensor(7)), [3, 7]])
def test_class_ids_are_any_whole_numbers(labels):
    assert torch.equal(latents_of(pipeline(), labels, generator=seeds(1, 2)), latents_of(
        pipeline(), [3, 7], generator=seeds(1, 2)))  # fmt: skip


@pytest.mark.parametrize("label", [np.int64(3), torch.tensor(3), np.array(3)])
def test_one_number_is_one_class(label):
    expected = latents_of(pipeline(), [3], steps=1, generator=seeds(1))
    run = {"num_inference_steps": 1, "guidance_scale": 1.5, "output_type": "latent", "generator": seeds(1)}
    assert torch.equal(pipeline()(label, **run).images, expected)


@pytest.mark.parametrize(
    "labels",
    [
        3.5, [None], "7", ["7"], True, [True], -1, [11], [[1, 2]], {3}, {3: 4}, b"7", [], np.array([3.5]),
        torch.tensor([True]), torch.tensor([[1, 2]]), float("nan"), 10**30,
    ],
)  # fmt: skip
@pytest.mark.parametrize("pipe", [pipeline, video_pipeline])
def test_what_is_no_class_is_refused_in_one_line(pipe, labels):
    with pytest.raises(ValueError, match=r"^class[^\n]*: [^\n]*(give|take|name)[^\n]*$"):
        pipe()(labels, num_inference_steps=1)


SETTINGS = [
    ("num_inference_steps", (0, -1, 1.5, "2", None, True)),
    ("guidance_scale", ("4", float("nan"), [4], True)),
    ("height", (1.5, "8", True, -8)),
    ("generator", (3, [3])),
]
each_wrong_setting = pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in SETTINGS for value in values]
)


@each_wrong_setting
def test_a_setting_of_another_kind_is_refused_in_one_line(name, value):
    for pipe in (pipeline(), video_pipeline()):
        with pytest.raises(ValueError, match=r"^(image side|\w+) (is|-8 is) [^\n]*(give|must be|multiple)[^\n]*$"):
            pipe(3, **{"num_inference_steps": 1, name: value})


@pytest.mark.parametrize("model", TEXT)
@each_wrong_setting
def test_so_it_is_in_pipelines_of_text(model, name, value):
    with pytest.raises(ValueError, match=rf"^{name} is [^\n]*(give a|must be)[^\n]*$"):
        embedded(model)("a cat", **{"num_inference_steps": 1, name: value})


@pytest.mark.parametrize("model", TEXT)
@pytest.mark.parametrize("prompt", [3, [None], ["a cat", 3], [], np.array(["a cat"]), b"a cat", [["a cat"]]])
def test_what_is_no_text_is_refused_in_one_line(model, prompt):
    with pytest.raises(ValueError, match=r"^prompt is [^\n]*: give a text, or a list of texts$"):
        embedded(model)(prompt, num_inference_steps=1)


@pytest.mark.parametrize(("model", "shape"), [(TEXT[0], (1, 16, 3, 32, 32)), (TEXT[1], (1, 3, 64, 64))])
def test_sizes_that_are_left_out_are_the_models_own(model, shape):
    """diffusers draws clips at 512 x 512, and bins images to 1024 x 1024."""
    pictures = embedded(model)("a cat", num_inference_steps=1, output_type="pt", return_dict=False)[0]
    assert pictures.shape == shape


def test_sizes_that_are_given_win():
    (clip,) = embedded(TEXT[0])(
        "a cat", height=16, width=24, video_length=2, num_inference_steps=1, output_type="pt", return_dict=False
    )
    assert clip.shape == (1, 2, 3, 16, 24)
    image = embedded(TEXT[1])("a cat", height=128, num_inference_steps=1, output_type="pt", return_dict=False)[0]
    assert image.shape == (1, 3, 128, 64)
    with pytest.raises(ValueError, match="side 32 is too small for this pipeline: take at least 64"):
        embedded(TEXT[1])("a cat", height=32, num_inference_steps=1)
    for model in TEXT:
        with pytest.raises(ValueError, match="side 33 is not a multiple of"):
            embedded(model)("a cat", height=33, num_inference_steps=1)


def test_a_pipeline_loads_in_a_dtype_by_name():
    for dtype in ("bf16", "bfloat16", "torch.bfloat16", torch.bfloat16):
        assert load_pipeline("fashion-skip", dtype=dtype).transformer.dtype == torch.bfloat16
    for dtype in ("nonsense", "int8", torch.int8, None, 16):
        with pytest.raises(ValueError, match=r"^dtype is [^\n]*: take one of float32, float16, bfloat16"):
            load_pipeline("fashion-skip", dtype=dtype)


def test_a_device_that_is_not_here_is_refused_in_one_line():
    for device in ("nonsense", "cuda:97"):
        with pytest.raises(ValueError, match=rf"^device is '{device}': not to be had here [^\n]*; take cpu$"):
            load_pipeline("fashion-skip", device=device)


# Names of classes.


def named(id2label):
    return ClassToImagePipeline(tiny(), make_scheduler("ddim"), id2label=id2label)


@pytest.mark.parametrize("names", [["cat", "dog, hound"], {0: "cat", 1: "dog, hound"}, {"0": "cat", "1": "dog, hound"}])
def test_classes_are_named_by_a_list_or_by_ids_of_either_kind(names, tmp_path):
    pipe = named(names)
    assert pipe.labels == {"cat": 0, "dog, hound": 1, "dog": 1, "hound": 1}
    assert pipe.check_labels(["Hound", "CAT", 1]) == [1, 0, 1]
    pipe.save_pretrained(tmp_path)
    assert load_pipeline(str(tmp_path)).labels == pipe.labels


def test_a_name_of_two_classes_is_asked_about():
    pipe = named({134: "crane, bird", 517: "crane"})
    assert pipe.labels == {"crane, bird": 134, "bird": 134}
    with pytest.raises(ValueError, match="class 'Crane' is the name of 134 and 517: give an id"):
        pipe("Crane")


@pytest.mark.parametrize("names", [3, "cat", {"a": "cat"}, {-1: "cat"}, {0: 3}, {0: None}, {0: " "}, [["cat"]]])
def test_a_table_that_is_none_is_refused_in_one_line(names, tmp_path):
    with pytest.raises(ValueError, match=r"^id2label (is|has) [^\n]*: give [^\n]*$"):
        named(names)
    named({0: "cat"}).save_pretrained(tmp_path)
    index = tmp_path / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"id2label": names}))
    with pytest.raises(CheckpointError, match=rf"^{index}: id2label (is|has) [^\n]*: give [^\n]*$"):
        load_pipeline(str(tmp_path))


def test_a_folder_with_names_loads_by_diffusers_without_a_warning(tmp_path, caplog):
    named({0: "cat"}).save_pretrained(tmp_path)
    with warnings_shown(caplog):
        assert DiffusionPipeline.from_pretrained(tmp_path).labels == {"cat": 0}
    assert not caplog.records
