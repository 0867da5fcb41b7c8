"""A saved pipeline folder loads with `DiffusionPipeline`, whichever pipeline it holds, where skipdit was imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, LattePipeline
from diffusers.utils.torch_utils import get_device
from safetensors import safe_open
from torch import Tensor

import skipdit
from skipdit import HunyuanDiT, SkipCacheConfig
from skipdit.pipelines import ClassToImagePipeline, PixelAutoencoder
from tests.pipelines.tiny import (
    hunyuan_pipeline,
    pipeline,
    text_encoders,
    tiny,
    tiny_latte,
    tiny_latte_t2v,
    tiny_stock_hunyuan,
    tiny_temporal_vae,
    tiny_vae,
    video_pipeline,
)

CLASSES = {"class_labels": [1, 3], "guidance_scale": 1.5}
VIDEO = {"video_length": 3, "height": 8, "width": 8, "clean_caption": False, "mask_feature": False}
IMAGE = {"height": 32, "width": 32, "use_resolution_binning": False}


def text_to_video(folder: Path) -> LattePipeline:
    """diffusers' own around our transformer, with an autoencoder and a scheduler of ours."""
    text = text_encoders(folder)
    return LattePipeline(
        tokenizer=text["tokenizer_2"], text_encoder=text["text_encoder_2"], vae=PixelAutoencoder(latent_channels=1),
        transformer=tiny_latte_t2v(caption_channels=8), scheduler=DDIMScheduler(),
    )  # fmt: skip


def text_to_image(folder: Path) -> DiffusionPipeline:
    return hunyuan_pipeline(folder, HunyuanDiT.from_diffusers(tiny_stock_hunyuan()))


FOLDERS = {  # pipeline, and what it is asked for
    "images": (lambda _: pipeline(), CLASSES),
    "images of an autoencoder": (lambda _: pipeline(tiny(in_channels=4), scheduler="ddpm", vae=tiny_vae()), CLASSES),
    "images of pixels": (lambda _: pipeline(vae=PixelAutoencoder(latent_channels=1)), CLASSES),
    "videos": (lambda _: video_pipeline(tiny_latte(in_channels=4), vae=tiny_temporal_vae()), CLASSES),
    "text to video": (text_to_video, {"prompt": "a red apple", **VIDEO}),
    "text to image": (text_to_image, {"prompt": "a red apple", **IMAGE}),
}
CHILD = """
import sys
import skipdit
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained(sys.argv[1])

import json
import torch
from safetensors.torch import save_file
from tests.pipelines.test_folders import both_ways
save_file(both_ways(pipe, json.loads(sys.argv[2])), sys.argv[3])
"""


def drawn(pipe: DiffusionPipeline, asked: dict) -> Tensor:
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    return pipe(**asked, num_inference_steps=4, generator=generator, output_type="pt", return_dict=False)[0]


def both_ways(pipe: DiffusionPipeline, asked: dict) -> dict[str, Tensor]:
    """What a pipeline draws without a cache and with one."""
    uncached = drawn(pipe, asked)
    pipe.transformer.enable_cache(SkipCacheConfig(interval=2))
    return {"uncached": uncached.contiguous(), "cached": drawn(pipe, asked).contiguous()}


def python(code: str, *arguments: str) -> str:
    """The output of a process of its own, which imports nothing but what it says."""
    command = [sys.executable, "-c", code, *arguments]
    root = Path(__file__).parents[2]
    run = subprocess.run(
        command, cwd=root, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_draws_in_a_new_process_what_its_pipeline_draws(tmp_path, name):
    make, asked = FOLDERS[name]
    pipe = make(tmp_path)
    pipe.save_pretrained(tmp_path / "saved")
    python(CHILD, str(tmp_path / "saved"), json.dumps(asked), str(tmp_path / "drawn"))
    expected = both_ways(pipe, asked)
    with safe_open(tmp_path / "drawn", "pt") as file:
        assert all(torch.equal(file.get_tensor(way), expected[way]) for way in ("uncached", "cached"))
    assert expected["uncached"].std() > 0.01
    assert not torch.equal(expected["uncached"], expected["cached"])


def test_a_scheduler_of_ours_loads_in_a_pipeline_that_is_not_ours(tmp_path):
    pipe = text_to_video(tmp_path)
    pipe.scheduler = pipeline(scheduler="ddim").scheduler
    pipe.save_pretrained(tmp_path / "saved")
    code = "import sys, skipdit, diffusers; print(diffusers.DiffusionPipeline.from_pretrained(sys.argv[1]).scheduler)"
    assert python(code, str(tmp_path / "saved")).startswith("DDIM {")


def test_diffusers_loaded_before_knows_the_pipelines_too():
    code = "from diffusers import DiffusionPipeline; import skipdit, diffusers; print(diffusers.ClassToImagePipeline)"
    assert python(code) == str(ClassToImagePipeline)


def test_diffusers_has_no_pipelines_of_these_names_itself():
    code = "import diffusers; print([name for name in ('ClassToImagePipeline', 'ClassToVideoPipeline') "
    assert python(code + "if name in dir(diffusers)])") == "[]"


def test_importing_the_package_imports_no_pipeline_of_diffusers():
    code = "import sys, skipdit; print([name for name in sys.modules if name.startswith('diffusers.pipelines.')])"
    assert python(code) == "[]"


# What `from_pretrained` of diffusers takes beside the folder.


@pytest.fixture
def saved(tmp_path):
    pipeline(tiny(in_channels=4), vae=tiny_vae()).save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def loaded(folder: Path, **options) -> ClassToImagePipeline:
    pipe = DiffusionPipeline.from_pretrained(folder, **options)
    assert type(pipe) is ClassToImagePipeline
    return pipe


def test_the_type_of_the_weights_is_that_asked_for(saved):
    pipe = loaded(saved, torch_dtype=torch.bfloat16)
    assert pipe.transformer.dtype == pipe.vae.dtype == torch.bfloat16
    assert drawn(pipe, CLASSES).isfinite().all()


def test_a_variant_is_loaded_from_its_own_files(tmp_path):
    pipe = pipeline(tiny(in_channels=4), vae=tiny_vae())
    pipe.save_pretrained(tmp_path)
    first = next(pipe.transformer.parameters())
    with torch.no_grad():
        first.fill_(2)
    pipe.save_pretrained(tmp_path, variant="fp16")
    filled = {variant: next(loaded(tmp_path, variant=variant).transformer.parameters()) for variant in (None, "fp16")}
    assert (filled["fp16"] == 2).all()
    assert not (filled[None] == 2).any()


def test_weights_that_are_pickled_alone_are_refused_where_safetensors_are_asked_for(tmp_path):
    pipeline().save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(OSError, match="safetensors"):
        loaded(tmp_path, use_safetensors=True)


def test_parts_go_to_the_device_that_is_asked_for(saved):
    pipe = loaded(saved, device_map=get_device())
    assert pipe.hf_device_map == get_device()
    assert pipe.transformer.device.type == pipe.vae.device.type == get_device()


def test_a_part_that_is_given_takes_the_place_of_the_saved_one(saved):
    model = tiny(in_channels=4, seed=1)
    assert loaded(saved, transformer=model).transformer is model


def test_the_package_itself_names_what_a_folder_needs():
    assert skipdit.pipelines.ClassToImagePipeline is ClassToImagePipeline
    with pytest.raises(AttributeError, match="'skipdit.pipelines' has no attribute 'TextPipeline'"):
        skipdit.pipelines.TextPipeline  # noqa: B018
