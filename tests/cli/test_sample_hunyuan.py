"""`skipdit sample` with a HunyuanDiT: a whole pipeline folder, two text encoders, images of prompts."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from skipdit import HunyuanDiT
from skipdit.cli import main
from skipdit.cli.sample import Sample
from skipdit.cli.tasks import PUBLISHED_NEGATIVE, settings_of, usual_negative
from skipdit.evaluation import to_uint8
from skipdit.files import safe_name
from skipdit.hub import load_pipeline
from skipdit.pipelines.draw import Settings, draw
from skipdit.randomness import generator
from tests.cli.conftest import Said, contents
from tests.pipelines.tiny import hunyuan_pipeline, tiny_stock_hunyuan

PROMPTS = ["a red apple", "一只小猫", "../cat"]


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """A whole pipeline of 64 x 64 pixels, as diffusers saves it."""
    place = tmp_path_factory.mktemp("hunyuan")
    pipe = hunyuan_pipeline(place, tiny_stock_hunyuan())
    pipe.save_pretrained(place / "pipe")
    return place / "pipe"


@pytest.fixture
def sample(skipdit, folder, capfd):
    """`skipdit sample FOLDER --steps 3`, with arguments that may hold spaces."""

    def call(*arguments: str) -> Said:
        capfd.readouterr()
        return Said(main(["sample", str(folder), "--steps", "3", *map(str, arguments)]), *capfd.readouterr())

    return call


def pictures(folder: str) -> dict[str, np.ndarray]:
    return {path.name: np.asarray(Image.open(path)) for path in sorted(Path(folder).glob("*.png"))}


def test_a_folder_holds_what_the_pipeline_draws(sample, folder):
    said = sample("--prompt", *PROMPTS, "--seed", 3, "--num-per-prompt", 2, "--out", "pictures")
    assert (said.code, "pictures: 6 PNGs, 3 ddpm steps in" in said.out) == (0, True)
    pipe = load_pipeline(str(folder))
    pipe.set_progress_bar_config(disable=True)
    found = pictures("pictures")
    assert len(found) == 6
    for index, prompt in enumerate(PROMPTS):
        drawn = draw(pipe, [prompt] * 2, [generator(3, index, copy) for copy in range(2)], Settings(3, 6.0))
        for copy, suffix in enumerate(["", "-1"]):
            picture = found[f"{index:06d}-{safe_name(prompt)}{suffix}.png"]
            assert np.array_equal(picture, to_uint8(drawn)[copy])


def test_a_drawn_image_is_that_of_the_pipeline_called_by_hand(folder):
    pipe = load_pipeline(str(folder), scheduler="ddim")
    pipe.set_progress_bar_config(disable=True)
    ours = draw(pipe, ["a red apple"], [generator(0)], Settings(3, 6.0, negative_prompt="blue"))
    theirs = pipe(
        "a red apple", negative_prompt="blue", guidance_scale=6.0, num_inference_steps=3, generator=[generator(0)],
        use_resolution_binning=False, output_type="pt",
    ).images  # fmt: skip
    assert torch.equal(ours, theirs)


def test_a_batch_of_prompts_leaves_each_as_it_is_alone(folder):
    pipe = load_pipeline(str(folder), scheduler="ddim")
    pipe.set_progress_bar_config(disable=True)
    prompts = ["a red apple", "a red apple", "a blue cat"]
    together = draw(pipe, prompts, [generator(i) for i in range(3)], Settings(3, 6.0))
    alone = [draw(pipe, [prompt], [generator(i)], Settings(3, 6.0))[0] for i, prompt in enumerate(prompts)]
    torch.testing.assert_close(together, torch.stack(alone), rtol=0, atol=1e-5)


def test_the_manifest_says_which_prompt_each_file_is_of(sample):
    said = sample("--prompt", *PROMPTS, "--cache", "--cache-step", 2, "--scheduler", "dpmms", "--out", "pictures")
    assert said.code == 0
    listed = list(csv.DictReader(io.StringIO(contents()["pictures/manifest.csv"].decode(), newline="")))
    assert [row["prompt"] for row in listed] == PROMPTS
    files = {f"pictures/{row['file']}" for row in listed}
    assert files | {"pictures/run.json", "pictures/manifest.csv"} == contents().keys()
    record = json.loads(contents()["pictures/run.json"])
    assert record["cache"] == {
        "interval": 2, "branch": 1, "window": [50, 700], "steps": None, "forecast": "hold", "order": None,
    }  # fmt: skip


def test_an_interrupted_list_of_prompts_goes_on(sample):
    sample("--prompt", PROMPTS[0], "--out", "pictures")
    first = contents()
    said = sample("--prompt", *PROMPTS, "--out", "pictures")
    assert said.code == 0
    assert "drawing 2 images" in said.err
    assert all(contents()[path] == held for path, held in first.items() if path.endswith(".png"))


def test_sides_that_differ_are_drawn(sample):
    assert sample("--prompt", "a cat", "--size", 32, 64, "--out", "pictures").code == 0
    assert [picture.shape for picture in pictures("pictures").values()] == [(32, 64, 3)]


def test_an_original_size_is_told_up_to_version_1_1_as_the_pipeline_tells_it(skipdit, tmp_path):
    stock = tiny_stock_hunyuan(use_style_cond_and_image_meta_size=True)
    hunyuan_pipeline(tmp_path, stock).save_pretrained(tmp_path / "pipe")
    line = f"sample {tmp_path / 'pipe'} --steps 2 --scheduler ddim --prompt cat"
    for out, flags in (("left", ""), ("usual", "--original-size 1024 1024"), ("small", "--original-size 96 640")):
        assert skipdit(f"{line} {flags} --out {out}").code == 0
    left, usual, small = (pictures(out)["000000-cat.png"] for out in ("left", "usual", "small"))
    assert np.array_equal(left, usual)
    assert not np.array_equal(left, small)
    pipe = load_pipeline(str(tmp_path / "pipe"), scheduler="ddim")
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(
        "cat", guidance_scale=6.0, num_inference_steps=2, generator=[generator(0, 0, 0)], original_size=(96, 640),
        use_resolution_binning=False, output_type="pt",
    ).images  # fmt: skip
    assert np.array_equal(small, to_uint8(theirs)[0])
    assert "original_size is (0, 8): both sides must be at least 1" in skipdit(f"{line} --original-size 0 8").complaint


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_draws_much_the_same_and_warns_of_no_timestep(folder, dtype, recwarn):
    pipe = load_pipeline(str(folder), scheduler="ddim")
    pipe.set_progress_bar_config(disable=True)
    wide = draw(pipe, ["a cat"], [generator(0)], Settings(3, 2.0))
    for part in (pipe.transformer, pipe.text_encoder, pipe.text_encoder_2, pipe.vae):
        torch.nn.Module.to(part, getattr(torch, dtype))
    narrow = draw(pipe, ["a cat"], [generator(0)], Settings(3, 2.0))
    torch.testing.assert_close(narrow, wide, rtol=0, atol=0.1)
    assert not [warning for warning in recwarn if "bfloat16" in str(warning.message)]


def test_the_published_negative_prompt_is_for_encoders_that_read_it(folder):
    pipe = load_pipeline(str(folder))
    assert usual_negative(pipe) == ""
    pipe.tokenizer.add_tokens(["错"])
    assert usual_negative(pipe) == PUBLISHED_NEGATIVE
    assert usual_negative(pipe).startswith("错误的眼睛")
    asked = Sample(model="", steps=2, guidance_channels="all", guidance_scale=1.0)
    assert settings_of(asked, pipe).negative_prompt == "", "without guidance there is nothing to keep away from"
    assert settings_of(replace(asked, guidance_scale=2.0), pipe).negative_prompt == PUBLISHED_NEGATIVE
    assert settings_of(replace(asked, guidance_scale=2.0, negative_prompt=""), pipe).negative_prompt == ""


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("--prompt cat --frames 3", "frames is 3, for which a text-to-image model has no use: leave it out"),
        ("--prompt cat --layout vbench", "layout is 'vbench', for which a text-to-image model has no use: "
         "leave it out"),
        ("--classes 3 --prompt cat", "classes is (3,), for which a text-to-image model has no use: give --prompt"),
        ("--prompt cat --size 40 64", "side 40 is not a multiple of 16 above 0: take one that is"),
        ("--prompt cat --original-size 512 512", "original_size is (512, 512), of which a model of version 1.2 is not "
         "told: leave it out"),
        ("--prompt cat --class-order random", "class_order is 'random', for which a text-to-image model has no use: "
         "leave it out"),
        ("--prompt cat --lora-scale 2", "lora_scale is 2.0 without --lora: name the adapter, or leave it out"),
        ("--prompt cat --cache.branch 4", "branch is 4: a model of 6 layers takes 0 to 2"),
        ("", "prompt is missing: a text-to-image model draws what --prompt or --prompts-file says"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(sample, arguments, complaint):
    said = sample(*arguments.split(), "--out", "pictures")
    assert (said.code, said.complaint) == (2, complaint)
    assert not contents()


def test_a_prompt_that_the_t5_would_cut_off_is_refused(sample):
    said = sample("--prompt", "a red apple " * 30, "--out", "pictures")
    assert said.code == 2
    assert "tokens, more than 256: shorten it" in said.complaint


def test_a_bench_shows_what_text_worked_out_once_saves_and_that_it_changes_nothing(skipdit, folder):
    said = skipdit(f"bench {folder} --prompt cat --steps 4 --repeats 1 --warmup 0 --guidance-scale 6 --out bench.json")
    assert said.code == 0
    results = json.loads(contents()["bench.json"])["results"]
    once, uncached = results["uncached, text once"], results["uncached"]
    assert once["plan"] == uncached["plan"] == "####"
    assert once["fidelity"]["psnr"] == "inf"
    assert once["flops"] < uncached["flops"]
    assert isinstance(load_pipeline(str(folder)).transformer, HunyuanDiT)
