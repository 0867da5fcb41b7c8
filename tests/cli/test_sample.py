"""`skipdit sample`: the images of the pipeline, in three forms; no image twice, none left out, whatever stops it."""

import json
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import skipdit.evaluation
from skipdit.cli import INTERRUPTED
from skipdit.evaluation import grid
from skipdit.hub import load_pipeline
from skipdit.randomness import generator
from tests.cli.conftest import contents
from tests.pipelines.tiny import tiny, tiny_vae
from tests.training.tiny import full_disk

SHORT = "--steps 4 --num-images 7 --batch-size 3 "


def pixels(folder) -> np.ndarray:
    """The single PNGs of a folder in order, [N, H, W] or [N, H, W, C]."""
    return np.stack([np.array(Image.open(path)) for path in sorted(folder.glob("*.png"))])


def names(number: int) -> set[str]:
    return {f"{index:06d}.png" for index in range(number)}


@pytest.fixture
def interrupted_after():
    """Ctrl-C in the moment in which image number n + 1 would be written.

    The signal is real; only the moment is arranged, since no clock may decide it.
    """
    with pytest.MonkeyPatch.context() as patch:

        def arrange(number: int) -> None:
            written, write = [], skipdit.evaluation.save_png

            def save_png(image, path):
                if len(written) == number:
                    patch.undo()
                    signal.raise_signal(signal.SIGINT)
                write(image, path)
                written.append(path)

            patch.setattr(skipdit.evaluation, "save_png", save_png)

        yield arrange


# What is drawn.


def test_a_folder_holds_what_the_pipeline_draws(skipdit, model, tmp_path):
    said = skipdit(f"sample {model} {SHORT} --seed 3 --classes 4 0 --guidance-scale 2.5 --out images")
    assert said.code == 0
    assert "7 PNGs, 4 ddpm steps in" in said.out
    assert contents().keys() == {f"images/{name}" for name in names(7) | {"run.json"}}
    pipe = load_pipeline(str(model))
    pipe.set_progress_bar_config(disable=True)
    drawn = []
    for first, last in ((0, 3), (3, 6), (6, 7)):
        labels = [(4, 0)[index % 2] for index in range(first, last)]
        noise = [generator(3, index) for index in range(first, last)]
        drawn += pipe(labels, num_inference_steps=4, guidance_scale=2.5, generator=noise).images
    assert np.array_equal(pixels(tmp_path / "here" / "images"), np.stack(drawn))


def test_a_grid_is_made_of_the_images(skipdit, model, tmp_path):
    said = skipdit(f"sample {model} {SHORT} --out out/grid.png")
    skipdit(f"sample {model} {SHORT} --out images")
    assert "out/grid.png: a grid of 7" in said.out
    images = torch.from_numpy(pixels(tmp_path / "here" / "images"))[:, None] / 255
    expected = grid(images, columns=7, scale=64 // 12)
    assert np.array_equal(np.array(Image.open("out/grid.png")), np.array(expected))
    assert {path for path in contents() if path.startswith("out")} == {"out/grid.png", "out/grid.json"}


@pytest.mark.parametrize("channels", [1, 3])
def test_an_npz_is_what_the_adm_evaluator_reads(skipdit, tmp_path, channels):
    tiny(in_channels=channels, sample_size=(8, 12)).save_pretrained(tmp_path / "model")
    said = skipdit(f"sample {tmp_path / 'model'} {SHORT} --out samples.npz")
    skipdit(f"sample {tmp_path / 'model'} {SHORT} --out images")
    assert "samples.npz: arr_0 of 7 images" in said.out
    with np.load("samples.npz", allow_pickle=False) as archive:
        assert archive.files == ["arr_0"]
        images = archive["arr_0"]
    assert (images.shape, images.dtype) == ((7, 8, 12, 3), np.uint8)
    singles = pixels(tmp_path / "here" / "images")
    assert np.array_equal(images, singles if channels == 3 else np.repeat(singles[..., None], 3, axis=-1))
    assert {path for path in contents() if path.startswith("samples")} == {"samples.npz", "samples.json"}


def test_the_run_is_written_beside_its_images(skipdit, model):
    said = skipdit(f"sample {model} {SHORT} --scheduler ddim --cache.interval 2 --cache.branch 1 --out grid.png")
    run = json.loads(contents()["grid.json"])
    expected = {"seed": 0, "steps": 4, "scheduler": "ddim", "num_images": 7, "model": str(model), "plan": "#.#."}
    assert run.items() >= expected.items()
    assert run["cache"]["interval"] == 2
    assert "plan #.#.: 2 full, 2 cached" in said.out


def test_one_is_not_said_in_the_plural(skipdit, model):
    said = skipdit(f"sample {model} --steps 2 --num-images 1 --out image")
    assert ("drawing 1 image: " in said.err, "image: 1 PNG, 2 " in said.out) == (True, True)
    assert "s.npz: arr_0 of 1 image, " in skipdit(f"sample {model} --steps 2 --num-images 1 --out s.npz").out


def test_help_promises_no_bits_in_other_batches_and_says_what_published_flags_do(skipdit, capfd):
    with pytest.raises(SystemExit):
        skipdit("sample --help")
    text = " ".join(capfd.readouterr().out.replace("│", " ").split())
    assert "in any batch it is the same sample, up to rounding" in text
    assert "--deepcache -N N turn it on too" in text


def test_without_words_there_is_one_image_for_each_class(skipdit, model):
    skipdit(f"sample {model} --steps 2 --out images")
    assert contents().keys() == {f"images/{name}" for name in names(5) | {"run.json"}}


def test_an_image_depends_on_the_seed_and_its_number_not_on_the_batch(skipdit, model, tmp_path):
    for out, flags in (("a", "--batch-size 7"), ("b", "--batch-size 2"), ("c", "--batch-size 7 --seed 1")):
        assert skipdit(f"sample {model} --steps 4 --num-images 7 {flags} --out {out}").code == 0
    a, b, c = (pixels(tmp_path / "here" / out).astype(int) for out in "abc")
    assert abs(a - b).max() <= 1  # another batch size may round otherwise
    assert abs(a - c).max() > 100


def test_a_cache_that_always_computes_draws_the_same_and_another_does_not(skipdit, model, tmp_path):
    for out, flags in (("plain", ""), ("always", "--cache.interval 1"), ("half", "--cache.interval 2")):
        assert skipdit(f"sample {model} {SHORT} {flags} --out {out}").code == 0
    plain, always, half = (pixels(tmp_path / "here" / out) for out in ("plain", "always", "half"))
    assert np.array_equal(plain, always)
    assert not np.array_equal(plain, half)


@pytest.mark.parametrize(
    "flags",
    [
        "--cache.preset class-to-image --cache.branch 1", "--cache", "--cache.threshold 0.1 --cache.max-cached 2",
        "--cache.window 100 800 --cache.interval 3",
        "--cache.steps 0,2", "--cache.forecast taylor --cache.order 2", "--cache.forecast residual --cache.branch 0",
        "--dtype bfloat16", "--dtype float16", "--scheduler dpm++", "--scheduler euler", "--guidance-scale 1",
        "--guidance-channels 1",
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Skip-Cache never fired")
def test_every_flag_draws(skipdit, model, flags):
    said = skipdit(f"sample {model} --steps 4 --num-images 2 {flags} --out images")
    assert said.code == 0, said.err
    assert contents().keys() == {f"images/{name}" for name in names(2) | {"run.json"}}


def test_latents_are_decoded_by_the_vae_of_a_folder(skipdit, tmp_path):
    torch.manual_seed(0)
    tiny(in_channels=4).save_pretrained(tmp_path / "model")
    tiny_vae().save_pretrained(tmp_path / "vae")
    said = skipdit(f"sample {tmp_path / 'model'} {SHORT} --vae {tmp_path / 'vae'} --out images")
    assert said.code == 0
    assert pixels(tmp_path / "here" / "images").shape == (7, 16, 16, 3)


def test_latents_without_a_vae_are_refused_before_a_step_is_taken(skipdit, tmp_path):
    tiny(in_channels=4).save_pretrained(tmp_path / "model")
    said = skipdit(f"sample {tmp_path / 'model'} {SHORT} --out images")
    assert "draws 4 channels, which are no picture: give the vae" in said.complaint
    assert said.code == 2
    assert contents() == {}


def test_guidance_without_a_null_class_is_refused_before_a_step_is_taken(skipdit, tmp_path):
    tiny(class_dropout_prob=0).save_pretrained(tmp_path / "model")
    said = skipdit(f"sample {tmp_path / 'model'} {SHORT} --out images")
    assert "this model has no null class, so take 1" in said.complaint
    assert said.code == 2
    assert contents() == {}
    assert skipdit(f"sample {tmp_path / 'model'} {SHORT} --guidance-scale 1 --out images").code == 0


def test_progress_is_all_that_goes_to_stderr(skipdit, model):
    said = skipdit(f"sample {model} {SHORT} --dtype bfloat16 --cache.interval 2 --out grid.png")
    lines = [line for line in said.err.replace("\r", "\n").splitlines() if line]
    assert lines
    assert all(line.startswith("drawing 7 images: ") for line in lines)


@pytest.mark.slow
def test_compiled_rooms_draw_the_same_up_to_rounding(skipdit, model, tmp_path):
    for out, flags in (("plain", ""), ("compiled", "--compile")):
        assert skipdit(f"sample {model} {SHORT} --cache.interval 2 {flags} --out {out}").code == 0
    plain, compiled = (pixels(tmp_path / "here" / out).astype(int) for out in ("plain", "compiled"))
    assert abs(plain - compiled).max() <= 2


# Interrupted.


@pytest.mark.parametrize("number", [0, 2, 3, 6])
def test_an_interrupted_run_goes_on_without_drawing_an_image_again(skipdit, model, tmp_path, interrupted_after, number):
    skipdit(f"sample {model} {SHORT} --out through")
    interrupted_after(number)
    said = skipdit(f"sample {model} {SHORT} --out images")
    folder = tmp_path / "here" / "images"
    assert said.code == INTERRUPTED
    assert said.complaint == (
        f"interrupted; {number} of 7 images are in images, and the same command draws the rest"
    )
    assert {path.name for path in folder.iterdir()} == names(number) | {"run.json"}
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}
    said = skipdit(f"sample {model} {SHORT} --out images")
    assert (said.code, f"drawing {7 - number} image" in said.err) == (0, True)
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in before} == before
    through, images = (pixels(tmp_path / "here" / out).astype(int) for out in ("through", "images"))
    # The rest is cut into batches anew: equal bits where the batches are the same, else up to rounding.
    assert abs(through - images).max() <= (number % 3 > 0)


@pytest.mark.parametrize("out", ["grid.png", "samples.npz"])
def test_an_interrupted_file_is_absent_and_then_the_same_as_uninterrupted(skipdit, model, interrupted_after, out):
    skipdit(f"sample {model} {SHORT} --out through/{out}")
    interrupted_after(3)
    assert skipdit(f"sample {model} {SHORT} --out {out}").code == INTERRUPTED
    assert {path for path in contents() if "through" not in path} == {
        f"{out}.parts/{name}" for name in names(3) | {"run.json"}
    }
    assert skipdit(f"sample {model} {SHORT} --out {out}").code == 0
    left = contents()
    stem = out.split(".")[0]
    assert {path for path in left if "through" not in path} == {out, f"{stem}.json"}
    if out.endswith("png"):
        assert left[out] == left[f"through/{out}"]
    else:
        assert np.array_equal(np.load(out)["arr_0"], np.load(f"through/{out}")["arr_0"])


def test_a_run_may_go_on_with_more_images_in_other_batches(skipdit, model, tmp_path):
    skipdit(f"sample {model} --classes 0 1 2 --steps 4 --num-images 3 --out images")
    before = contents()
    said = skipdit(f"sample {model} --classes 0 1 2 --steps 4 --num-images 7 --batch-size 2 --out images")
    assert (said.code, "drawing 4 images" in said.err) == (0, True)
    after = contents()
    assert after.keys() == {f"images/{name}" for name in names(7) | {"run.json"}}
    assert {path: after[path] for path in before if path.endswith("png")} == {
        path: content for path, content in before.items() if path.endswith("png")
    }
    assert json.loads(after["images/run.json"])["num_images"] == 7


def test_a_finished_folder_is_not_drawn_again(skipdit, model, tmp_path):
    skipdit(f"sample {model} {SHORT} --out images")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "here" / "images").iterdir()}
    assert skipdit(f"sample {model} {SHORT} --out images").code == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_run_of_an_earlier_version_goes_on_unless_told_what_it_knew_no_name_for(skipdit, model):
    skipdit(f"sample {model} {SHORT} --out images")
    record = json.loads(contents()["images/run.json"])
    earlier = {name: value for name, value in record.items() if name not in ("class_order", "tf32", "weights")}
    Path("images/run.json").write_text(json.dumps(earlier))
    assert "(class_order)" in skipdit(f"sample {model} {SHORT} --class-order random --out images").complaint
    assert skipdit(f"sample {model} {SHORT} --out images").code == 0


@pytest.mark.parametrize("change", ["--seed 1", "--steps 5", "--cache.interval 2", "--classes 1", "--scheduler ddim"])
def test_a_folder_of_other_settings_is_refused_and_untouched(skipdit, model, interrupted_after, change):
    interrupted_after(2)
    skipdit(f"sample {model} {SHORT} --out images")
    before = contents()
    said = skipdit(f"sample {model} {SHORT} {change} --out images")
    refused = r"images holds images of other settings \(.+\): take another --out, or remove it"
    assert re.fullmatch(refused, said.complaint)
    assert said.code == 2
    assert contents() == before


# What cannot be written.


def test_a_disk_that_fills_up_loses_no_image(skipdit, large_model, tmp_path):
    skipdit(f"sample {large_model} {SHORT} --out through")
    smallest = min(path.stat().st_size for path in (tmp_path / "here" / "through").glob("*.png"))
    with full_disk(after=smallest - 1):
        said = skipdit(f"sample {large_model} {SHORT} --out images")
    assert "File too large" in said.complaint
    assert "0 of 7 images are in images, and the same command draws the rest" in said.complaint
    assert said.code == 1
    assert {path for path in contents() if "through" not in path} == {"images/run.json"}
    assert skipdit(f"sample {large_model} {SHORT} --out images").code == 0
    assert np.array_equal(pixels(tmp_path / "here" / "through"), pixels(tmp_path / "here" / "images"))


@pytest.mark.parametrize("out", ["grid.png", "samples.npz"])
def test_a_disk_that_is_full_at_the_end_keeps_the_images_and_no_half_file(skipdit, large_model, tmp_path, out):
    skipdit(f"sample {large_model} {SHORT} --out through")
    largest = max(path.stat().st_size for path in (tmp_path / "here" / "through").glob("*.png"))
    with full_disk(after=largest):
        said = skipdit(f"sample {large_model} {SHORT} --out {out}")
    assert "File too large" in said.complaint
    assert said.code == 1
    kept = {path for path in contents() if "through" not in path}
    assert kept == {f"{out}.parts/{name}" for name in names(7) | {"run.json"}}
    said = skipdit(f"sample {large_model} {SHORT} --out {out}")
    assert (said.code, "drawing 0 images" in said.err) == (0, True)


def test_a_disk_that_is_full_from_the_start_leaves_no_half_record(skipdit, model):
    with full_disk(after=100):
        said = skipdit(f"sample {model} {SHORT} --out images")
    assert "File too large" in said.complaint
    assert said.code == 1
    assert contents() == {}


@pytest.mark.parametrize("out", ["file/images", "file/grid.png", "file/samples.npz"])
def test_a_place_that_cannot_be_written_is_known_before_a_step_is_taken(skipdit, model, tmp_path, out):
    (tmp_path / "here" / "file").write_text("no folder")
    said = skipdit(f"sample {model} {SHORT} --out {out}")
    assert "Not a directory" in said.complaint
    assert (said.code, said.err.count("\n")) == (1, 1)
    assert contents() == {"file": b"no folder"}


def test_a_warning_is_a_line_of_the_command(skipdit, model):
    """Without a path of Python: the last line that is not progress."""
    said = skipdit(f"sample {model} --steps 3 --num-images 1 --cache.window 0 0 --out images")
    lines = [line for line in said.err.splitlines() if "never fired" in line]
    assert len(lines) == 1
    assert lines[0].rpartition("\r")[2].startswith("skipdit: Skip-Cache never fired: all 3 steps")
    assert ".py" not in said.err
