"""`skipdit sample` with a model of videos: files, names and the manifest; and no flag that takes no effect."""

import csv
import io
import json
import signal
import subprocess
import sys
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

from skipdit.cli import INTERRUPTED, outputs, records
from skipdit.cli.flags import place
from skipdit.cli.records import open_run
from skipdit.cli.sample import Format
from skipdit.evaluation import contact_sheet, grid, to_uint8
from skipdit.hub import load_pipeline
from skipdit.pipelines.draw import Settings, draw
from skipdit.randomness import generator
from skipdit.videos import read_video
from tests.cli.conftest import contents
from tests.cli.stopped import interrupt
from tests.models.subject import memories
from tests.pipelines.tiny import pipeline, tiny, tiny_latte, tiny_vae
from tests.training.tiny import full_disk

SHORT = "--steps 3 --num-images 5 --batch-size 2 "
LOSSLESS = SHORT + "--format webp "
FRAMES = 4


@pytest.fixture(scope="session")
def latte(tmp_path_factory):
    """A model of 4 grey frames of 16 x 16 and 5 classes."""
    folder = tmp_path_factory.mktemp("models") / "latte"
    tiny_latte(sample_size=16, num_classes=5, num_frames=FRAMES).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def free(tmp_path_factory):
    """The same without classes."""
    folder = tmp_path_factory.mktemp("models") / "free"
    tiny_latte(sample_size=16, num_classes=0, num_frames=FRAMES).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def latents(tmp_path_factory):
    """A model of latents of 8 x 8, and the folder of their autoencoder."""
    folder = tmp_path_factory.mktemp("models") / "latents"
    tiny_latte(sample_size=8, in_channels=4, num_classes=5, num_frames=FRAMES).save_pretrained(folder / "model")
    torch.manual_seed(0)
    tiny_vae().save_pretrained(folder / "vae")
    return folder


@pytest.fixture
def interrupted_after():
    """Arranges a Ctrl-C after so many videos."""
    with pytest.MonkeyPatch.context() as patch:
        yield lambda number: interrupt(patch, after=number)


def names(number: int, suffix: str = ".webp") -> set[str]:
    return {f"{index:06d}-class{index % 5:03d}{suffix}" for index in range(number)}


def clips(folder) -> np.ndarray:
    """The single WebPs of a folder in order, [N, F, H, W, 3]."""
    return np.stack([read_video(path)[0] for path in sorted(folder.glob("*.webp"))])


def rows(folder) -> list[dict[str, str]]:
    """The manifest, which names nothing that is not there."""
    listed = list(csv.DictReader(io.StringIO((folder / "manifest.csv").read_text(encoding="utf-8"))))
    assert all((folder / row["file"]).exists() for row in listed)
    return listed


# What is drawn.


def test_a_folder_holds_what_the_pipeline_draws(skipdit, latte, tmp_path):
    said = skipdit(f"sample {latte} {LOSSLESS} --seed 3 --classes 4 0 --guidance-scale 2.5 --out clips")
    assert (said.code, "clips: 5 videos (.webp), 3 ddpm steps in" in said.out) == (0, True)
    files = {f"{index:06d}-class{(4, 0)[index % 2]:03d}.webp" for index in range(5)}
    assert contents().keys() == {f"clips/{name}" for name in files | {"run.json", "manifest.csv"}}
    pipe = load_pipeline(str(latte))
    pipe.set_progress_bar_config(disable=True)
    for index, path in enumerate(sorted((tmp_path / "here" / "clips").glob("*.webp"))):
        first = index // 2 * 2
        batch = range(first, min(first + 2, 5))
        noise = [generator(3, index) for index in batch]
        drawn = draw(pipe, [(4, 0)[index % 2] for index in batch], noise, Settings(3, 2.5))[index - first]
        frames, fps = read_video(path)
        assert np.array_equal(frames, np.repeat(to_uint8(drawn), 3, axis=-1))
        assert fps == 8


def test_the_manifest_says_what_each_file_is(skipdit, latte, tmp_path):
    skipdit(f"sample {latte} {LOSSLESS} --seed 7 --scheduler ddim --cache.interval 2 --out clips")
    listed = rows(tmp_path / "here" / "clips")
    shared = {"plan": "#.#", "steps": "3", "scheduler": "ddim", "guidance_scale": "4.0"}
    assert listed == [
        {"file": f"00000{i}-class00{i}.webp", "index": str(i), "noise": f"7 {i}", "class": str(i)} | shared
        for i in range(5)
    ]


@pytest.mark.parametrize("flags", ["", "--cache N2-700-50", "--cache=N2-700-50", "--cache.published N2-700-50"])
def test_the_published_spelling_of_a_cache_is_read(skipdit, latte, flags):
    said = skipdit(f"sample {latte} --steps 12 --num-images 1 {flags} --out clips")
    run = json.loads(contents()["clips/run.json"])
    if not flags:
        assert (run["cache"], run["plan"]) == (None, "#" * 12)
    else:
        assert run["cache"].items() >= {"interval": 2, "window": [50, 700], "branch": 1}.items()
        assert run["plan"] == "#####.#.#.#."
        assert f"plan {run['plan']}: 8 full, 4 cached" in said.out


def test_other_flags_change_the_published_spelling(skipdit, latte):
    skipdit(
        f"sample {latte} --steps 3 --num-images 1 --cache N2-700-50 --cache.branch 0 --cache.interval 3 --out clips"
    )
    assert json.loads(contents()["clips/run.json"])["cache"].items() >= {"interval": 3, "branch": 0}.items()


def test_an_mp4_has_its_frames_and_their_rate(skipdit, latte, tmp_path):
    skipdit(f"sample {latte} --steps 3 --num-images 1 --frames 3 --size 16 24 --fps 12.5 --out clips")
    frames, fps = read_video(tmp_path / "here" / "clips" / "000000-class000.mp4")
    assert (frames.shape, fps) == ((3, 16, 24, 3), 12.5)


@pytest.mark.parametrize("kind", [kind for kind in get_args(Format) if kind not in ("mp4", "gif")])
def test_lossless_formats_hold_the_same_pixels(skipdit, latte, tmp_path, kind):
    for format in {"webp", kind}:
        assert skipdit(f"sample {latte} {SHORT} --format {format} --out {format}").code == 0
    expected = clips(tmp_path / "here" / "webp")
    found = sorted(path for path in (tmp_path / "here" / kind).iterdir() if "class" in path.name)
    assert np.array_equal(np.stack([read_video(path)[0] for path in found]), expected)
    assert {path.name for path in found} == names(5, outputs.FORMATS[kind])


def test_every_format_has_a_suffix():
    assert get_args(Format) == tuple(outputs.FORMATS)


def test_a_png_is_a_sheet_with_a_row_for_each_video(skipdit, latte, tmp_path):
    said = skipdit(f"sample {latte} {SHORT} --out sheet.png")
    skipdit(f"sample {latte} {LOSSLESS} --out clips")
    assert "sheet.png: a contact sheet of 5 videos" in said.out
    single = torch.from_numpy(clips(tmp_path / "here" / "clips")).movedim(-1, -3) / 255
    assert np.array_equal(np.array(Image.open("sheet.png")), np.array(contact_sheet(single, scale=4)))
    assert {path for path in contents() if path.startswith("sheet")} == {"sheet.png", "sheet.json"}


@pytest.mark.parametrize("suffix", outputs.VIDEO_FILES)
def test_a_video_file_is_the_one_video_or_all_playing_together(skipdit, latte, tmp_path, suffix):
    one = skipdit(f"sample {latte} --steps 3 --num-images 1 --fps 10 --out one{suffix}")
    all_of_them = skipdit(f"sample {latte} {SHORT} --fps 10 --out all{suffix}")
    assert f"one{suffix}: 1 video," in one.out
    assert f"all{suffix}: a grid of 5 videos," in all_of_them.out
    skipdit(f"sample {latte} {SHORT} --batch-size 1 --format webp --out clips")
    skipdit(f"sample {latte} {LOSSLESS} --out pairs")
    single, pairs = (torch.from_numpy(clips(tmp_path / "here" / out)) for out in ("clips", "pairs"))
    pages = [np.array(grid(frames.movedim(-1, -3) / 255, columns=5, scale=4)) for frames in pairs.unbind(1)]
    for stem, expected in (("one", single[0].numpy()), ("all", np.stack(pages))):
        frames, fps = read_video(f"{stem}{suffix}")
        assert fps == 10
        assert frames.shape == expected.shape if suffix != ".mp4" else len(frames) == FRAMES
        if suffix in (".mkv", ".webp"):
            assert np.array_equal(frames, expected)
    left = {path for path in contents() if path.startswith(("one", "all"))}
    assert left == {f"one{suffix}", "one.json", f"all{suffix}", "all.json"}


def test_without_words_there_is_one_video_for_each_class(skipdit, latte):
    skipdit(f"sample {latte} --steps 2 --out clips")
    assert contents().keys() == {f"clips/{name}" for name in names(5, ".mp4") | {"run.json", "manifest.csv"}}


def test_a_model_without_classes_draws_as_many_as_are_asked_for(skipdit, free, tmp_path):
    assert skipdit(f"sample {free} --steps 2 --out one").code == 0
    assert skipdit(f"sample {free} --steps 2 --num-samples 3 --out three").code == 0
    assert {path for path in contents() if path.endswith("mp4")} == {
        "one/000000.mp4", *(f"three/00000{index}.mp4" for index in range(3))
    }  # fmt: skip
    assert {(row["class"], row["guidance_scale"]) for row in rows(tmp_path / "here" / "three")} == {("", "1.0")}


def test_a_video_depends_on_the_seed_and_its_number_not_on_the_batch(skipdit, latte, tmp_path):
    for out, flags in (("a", "--batch-size 5"), ("b", "--batch-size 2"), ("c", "--batch-size 5 --seed 1")):
        skipdit(f"sample {latte} --steps 3 --num-images 5 --format webp {flags} --out {out}")
    a, b, c = (clips(tmp_path / "here" / out).astype(int) for out in "abc")
    assert abs(a - b).max() <= 1  # another batch size may round otherwise
    assert abs(a - c).max() > 100


@pytest.mark.parametrize("flags", ["", "--vae-slicing", "--vae-tiling", "--decode-chunk-size 3", "--size 12 20"])
def test_latents_are_decoded_by_the_vae_of_a_folder(skipdit, latents, tmp_path, flags):
    said = skipdit(f"sample {latents / 'model'} {LOSSLESS} --vae {latents / 'vae'} {flags} --out clips")
    assert said.code == 0, said.err
    assert clips(tmp_path / "here" / "clips").shape == (5, FRAMES, *((12, 20) if "size 12" in flags else (16, 16)), 3)


def test_guidance_that_is_left_out_is_the_usual_one_of_the_task(skipdit, model, latte):
    skipdit(f"sample {model} --steps 2 --num-images 1 --out images")
    skipdit(f"sample {latte} --steps 2 --num-images 1 --out clips")
    scales = [json.loads(contents()[f"{out}/run.json"])["guidance_scale"] for out in ("images", "clips")]
    assert scales == [1.5, 4.0]


def test_images_have_sizes_too(skipdit, tmp_path):
    tiny(sample_size=8, num_classes=2).save_pretrained(tmp_path / "model")
    skipdit(f"sample {tmp_path / 'model'} --steps 2 --size 6 12 --out images")
    assert Image.open("images/000001.png").size == (12, 6)


def test_progress_counts_calls_and_is_all_that_goes_to_stderr(skipdit, latte):
    said = skipdit(f"sample {latte} {SHORT} --scheduler ddim --dtype bfloat16 --cache.interval 2 --out sheet.png")
    lines = [line for line in said.err.replace("\r", "\n").splitlines() if line]
    assert all(line.startswith("drawing 5 videos: ") for line in lines)
    assert "| 9/9 [" in lines[-1], "3 batches of 3 steps"


# Interrupted.


@pytest.mark.parametrize("number", [0, 2, 3])
def test_an_interrupted_run_goes_on_without_drawing_a_video_again(skipdit, latte, tmp_path, interrupted_after, number):
    skipdit(f"sample {latte} {LOSSLESS} --out through")
    interrupted_after(number)
    said = skipdit(f"sample {latte} {LOSSLESS} --out clips")
    folder = tmp_path / "here" / "clips"
    assert said.code == INTERRUPTED
    assert said.complaint == f"interrupted; {number} of 5 videos are in clips, and the same command draws the rest"
    assert {path.name for path in folder.iterdir()} == names(number) | {"run.json", "manifest.csv"}
    assert {row["file"] for row in rows(folder)} == names(number)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.glob("*.webp")}
    assert skipdit(f"sample {latte} {LOSSLESS} --out clips").code == 0
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in before} == before
    through = {path.split("/")[1]: content for path, content in contents().items() if path.startswith("through")}
    clips_ = {path.split("/")[1]: content for path, content in contents().items() if path.startswith("clips")}
    assert clips_["manifest.csv"] == through["manifest.csv"]
    if number % 2 == 0:  # else the rest is cut into other batches, which may round otherwise
        assert {name for name in names(5) if clips_[name] != through[name]} == set()


@pytest.mark.parametrize("out", ["sheet.png", "all.webp"])  # x264's bytes depend on more than its frames
def test_an_interrupted_file_is_absent_and_then_the_same_as_uninterrupted(skipdit, latte, interrupted_after, out):
    skipdit(f"sample {latte} {SHORT} --out through/{out}")
    interrupted_after(2)
    assert skipdit(f"sample {latte} {SHORT} --out {out}").code == INTERRUPTED
    assert {path for path in contents() if "through" not in path} == {
        f"{out}.parts/{name}" for name in names(2) | {"run.json"}
    }
    assert skipdit(f"sample {latte} {SHORT} --out {out}").code == 0
    assert contents()[out] == contents()[f"through/{out}"]
    assert {path for path in contents() if "through" not in path} == {out, f"{out.split('.')[0]}.json"}


def test_a_killed_run_leaves_whole_videos_and_goes_on(skipdit, latte, tmp_path):
    code = """
import os, signal, sys
from skipdit import cli, videos
replace = os.replace
def killed(source, target):
    if str(target).endswith("class003.webp"):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
videos.os.replace = killed
cli.main(sys.argv[1:])
"""
    line = f"sample {latte} {LOSSLESS} --out clips"
    killed = subprocess.run([sys.executable, "-c", code, *line.split()], capture_output=True, check=False)
    folder = tmp_path / "here" / "clips"
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    left = {path.name for path in folder.iterdir()}
    assert {name for name in left if not name.startswith(".")} == names(3) | {"run.json", "manifest.csv"}
    assert {row["file"] for row in rows(folder)} == names(2)
    assert all(len(read_video(path)[0]) == FRAMES for path in folder.glob("[!.]*.webp"))
    assert skipdit(line).code == 0
    assert {path.name for path in folder.iterdir()} == names(5) | {"run.json", "manifest.csv"}
    assert {row["file"] for row in rows(folder)} == names(5)


def test_the_manifest_is_written_again_when_a_tenth_is_new_and_at_the_end(skipdit, latte, monkeypatch):
    listed, write = [], records.write_text

    def write_text(path, text):
        write(path, text)
        if path.name == "manifest.csv":
            listed.append(text.count("\n") - 1)

    monkeypatch.setattr(records, "write_text", write_text)
    line = f"sample {latte} --steps 1 --guidance-scale 1 --format webp --batch-size 1 --out clips"
    skipdit(f"{line} --num-images 15")
    assert listed == [*range(11), 12, 14, 15]
    skipdit(f"{line} --num-images 16")
    assert listed[14:] == [16]


LEFT = [f".{name.format('0f' * 16)}" for name in ("partial-{}.webp", "000003.{}.png", "manifest.csv.{}", "run.json.{}")]
OTHERS = [".partial-notes", ".partial-cafe.mp4", ".000003.x.png", "0f" * 16, ".run.json.bak", f".thesis.{'0f' * 16}"]


def test_what_a_killed_run_left_is_removed_and_nothing_of_others(tmp_path):
    for name in (*LEFT, *OTHERS):
        (tmp_path / name).write_text(name)
    for folder in (".partial-download", f".partial-{'0f' * 16}.gif"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "000000.png").write_text(folder)
    open_run(outputs.Output(tmp_path, "video", ".webp", 8.0), {})
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {*OTHERS, ".partial-download", f".partial-{'0f' * 16}.gif", "run.json"}
    assert (tmp_path / ".partial-download" / "000000.png").exists()


def test_a_folder_of_frames_that_was_left_half_written_is_replaced(skipdit, latte, tmp_path):
    clips = tmp_path / "here" / "clips"
    for name in (".partial-000000-class000", ".partial-download"):
        (clips / name).mkdir(parents=True)
        (clips / name / "000000.png").write_bytes(b"half")
    assert skipdit(f"sample {latte} --steps 1 --num-images 1 --format frames --out clips").code == 0
    assert {path.name for path in clips.iterdir()} == {
        "000000-class000", ".partial-download", "run.json", "manifest.csv"
    }  # fmt: skip
    assert len(read_video(clips / "000000-class000")[0]) == FRAMES


def test_a_disk_that_fills_up_says_how_many_are_done(skipdit, latte, tmp_path):
    skipdit(f"sample {latte} {SHORT} --format mkv --out through")
    smallest = min(path.stat().st_size for path in (tmp_path / "here" / "through").glob("*.mkv"))
    with full_disk(after=smallest - 1):
        said = skipdit(f"sample {latte} {SHORT} --format mkv --out clips")
    assert "0 of 5 videos are in clips, and the same command draws the rest" in said.complaint
    assert said.code == 1
    assert not [path for path in contents() if path.startswith("clips") and path.endswith("mkv")]


def test_a_run_may_go_on_with_more_videos_in_other_batches(skipdit, latte, tmp_path):
    skipdit(f"sample {latte} --steps 3 --num-images 2 --format webp --out clips")
    before = {path: content for path, content in contents().items() if path.endswith("webp")}
    said = skipdit(f"sample {latte} {LOSSLESS} --out clips")
    assert (said.code, "drawing 3 videos" in said.err) == (0, True)
    assert contents().items() >= before.items()
    assert {row["file"] for row in rows(tmp_path / "here" / "clips")} == names(5)


def test_a_finished_folder_is_not_touched_and_a_lost_file_is_drawn_again(skipdit, latte, tmp_path):
    folder = tmp_path / "here" / "clips"
    skipdit(f"sample {latte} {LOSSLESS} --out clips")
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    contents_before = contents()
    assert skipdit(f"sample {latte} {LOSSLESS} --out clips").code == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    (folder / "000004-class004.webp").unlink()
    assert skipdit(f"sample {latte} {LOSSLESS} --out clips").code == 0
    assert contents() == contents_before


@pytest.mark.parametrize(
    "change",
    ["--seed 1", "--frames 3", "--fps 9", "--format gif", "--guidance-scale 2", "--size 8 8", "--classes 1",
     "--cache.interval 2"],
)  # fmt: skip
def test_a_folder_of_other_settings_is_refused_and_untouched(skipdit, latte, interrupted_after, change):
    interrupted_after(2)
    skipdit(f"sample {latte} {LOSSLESS} --out clips")
    before = contents()
    said = skipdit(f"sample {latte} {LOSSLESS} {change} --out clips")
    assert "clips holds videos of other settings (" in said.complaint
    assert said.code == 2
    assert contents() == before


@pytest.mark.parametrize("format", ["webp", "frames"])
def test_a_folder_of_videos_takes_no_images_and_the_other_way_round(skipdit, latte, model, format):
    skipdit(f"sample {latte} --steps 2 --num-images 1 --format {format} --out clips")
    skipdit(f"sample {model} --steps 2 --num-images 1 --out images")
    assert "clips holds images of other settings" in skipdit(f"sample {model} --steps 2 --out clips").complaint
    assert "images holds videos of other settings" in skipdit(f"sample {latte} --steps 2 --out images").complaint


# What takes no effect, or cannot be.

VIDEO = {
    "--prompt dog": "prompt is ('dog',), for which a class-to-video model has no use: give --classes",
    "--prompts-file {file}": "for which a class-to-video model has no use: give --classes",
    "--negative-prompt bad": "negative_prompt is 'bad', for which a class-to-video model has no use",
    "--num-per-prompt 2": "num_per_prompt is 2, for which a class-to-video model has no use: give --num-images",
    "--layout vbench": "layout is 'vbench', for which a class-to-video model has no use",
    "--base {file}": "Latte takes no text; give its vae alone",
    "--classes 6": "class id 6 is out of range: take 0 to 5 (5 is the null class)",
    "--frames 5": "video has 5 frames: this model has temporal positions for 1 to 4",
    "--frames 0": "frames is 0: it must be at least 1",
    "--decode-chunk-size 0": "decode_chunk_size is 0: it must be at least 1",
    "--decode-chunk-size 2": "decode_chunk_size is 2, but this model draws pixels: leave it out",
    "--vae-slicing": "vae_slicing is on, but this model has no vae: leave it out",
    "--vae-tiling": "vae_tiling is on, but this model has no vae: leave it out",
    "--size 16 15": "image side 15 is not a multiple of 2",
    "--fps 0": "fps is 0.0; it must be between 0.1 and 240 for .mp4",
    "--fps 60 --format gif": "fps is 60.0; it must be between 0.1 and 50 for .gif",
    "--out x.npz": "out is 'x.npz': it must end in .png, .mp4, .mkv, .webp or .gif, or be a folder",
    "--out x.avi": "out is 'x.avi': it must end in .png, .mp4, .mkv, .webp or .gif, or be a folder",
    "--out x.png --fps 8": "fps is 8.0, for which --out x.png has no use: leave it out",
    "--out x.mp4 --format gif": "format is 'gif', for which --out x.mp4 has no use: leave it out",
    "--offload model": "offload is 'model' on device 'cpu': give --device an accelerator",
    "--offload group": "offload is 'group' on device 'cpu': give --device an accelerator",
    "--cache N2-700": "cache is 'N2-700': give N<interval>-<start>-<stop> in timesteps, as N2-700-50",
    "--cache=N0-700-50": "interval is 0: it must be an integer of at least 1",
    "--cache N2-50-700": "window is (700, 50): give (stop, start) in timesteps, stop <= start",
    "--cache N2-700-50 --cache.preset class-to-video": "preset is 'class-to-video' beside published 'N2-700-50'",
    "--cache N2-700-50 --cache.steps 0,1": "beside steps is (0, 1): give one of them",
}


@pytest.mark.parametrize("flags", VIDEO)
def test_a_flag_that_a_model_of_videos_cannot_take_is_answered_in_one_line(skipdit, latte, tmp_path, flags):
    (tmp_path / "prompts.txt").write_text("a dog")
    out = "" if "--out" in flags else "--out clips"
    said = skipdit(f"sample {latte} --steps 3 {flags.format(file=tmp_path / 'prompts.txt')} {out}")
    assert VIDEO[flags] in said.complaint
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert contents() == {}


IMAGE = {
    "--prompt dog": "prompt is ('dog',), for which a class-to-image model has no use: give --classes",
    "--frames 3": "frames is 3, for which a class-to-image model has no use: leave it out",
    "--fps 8": "fps is 8.0, for which a class-to-image model has no use: leave it out",
    "--format mp4": "format is 'mp4', for which a class-to-image model has no use: leave it out",
    "--decode-chunk-size 4": "decode_chunk_size is 4, for which a class-to-image model has no use: leave it out",
    "--size 12 10": "image side 10 is not a multiple of 4",
    "--out x.mp4": "out is 'x.mp4': it must end in .png or .npz, or be a folder",
}


@pytest.mark.parametrize("flags", IMAGE)
def test_a_flag_that_a_model_of_images_cannot_take_is_answered_in_one_line(skipdit, model, flags):
    said = skipdit(f"sample {model} --steps 3 {flags}")
    assert IMAGE[flags] in said.complaint
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert contents() == {}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--classes 1", "classes are [1], but this model has none: leave them out"),
        ("--guidance-scale 2", "guidance_scale is 2.0: this model has no classes, so take 1"),
    ],
)
def test_a_model_without_classes_takes_none(skipdit, free, flags, message):
    said = skipdit(f"sample {free} --steps 3 {flags} --out clips")
    assert message in said.complaint
    assert (said.code, contents()) == (2, {})


@pytest.mark.parametrize("out", ["clips", "x.mkv"])
def test_a_missing_pyav_is_known_before_a_step_is_taken(skipdit, latte, monkeypatch, out):
    monkeypatch.setitem(sys.modules, "av", None)
    said = skipdit(f"sample {latte} {SHORT} --out {out}")
    assert "need PyAV: pip install 'skipdit[video]', or take .gif or .webp" in said.complaint
    assert (said.code, said.err.count("\n"), contents()) == (1, 1, {})
    assert skipdit(f"sample {latte} {SHORT} --out sheet.png").code == 0


@pytest.mark.parametrize("out", ["x.mp4", "x.png"])
def test_a_folder_in_the_place_of_a_file_is_known_before_a_step_is_taken(skipdit, latte, tmp_path, out):
    (tmp_path / "here" / out).mkdir()
    said = skipdit(f"sample {latte} {SHORT} --out {out}")
    assert f"{out} is a folder: remove it" in said.complaint
    assert (said.code, said.err.count("\n"), contents()) == (1, 1, {})


# Memory: an accelerator is not to be had here, but its hooks run on a CPU as well.


@pytest.mark.parametrize("offload", ["model", "group"])
def test_offloading_changes_no_pixel_and_leaves_the_cache_alone(offload):
    from skipdit import SkipCacheConfig
    from skipdit.cli import flags

    def drawn(**how):
        pipe = pipeline(tiny(in_channels=4), vae=tiny_vae())
        if how:
            flags.bring_when_needed(pipe, torch.device("cpu"), **how)
        pipe.transformer.enable_cache(SkipCacheConfig(interval=2))
        images = draw(pipe, [1, 2], [generator(0), generator(1)], Settings(4))
        assert not memories(pipe.transformer)
        assert pipe.transformer.cache_stats()["default"].plan == "#.#."
        return images

    torch.manual_seed(0)
    expected = drawn()
    torch.manual_seed(0)
    assert torch.equal(drawn(offload=offload), expected)


def test_a_device_that_is_not_there_is_refused_before_offloading():
    with pytest.raises(ValueError, match="device is 'nowhere': not to be had here"):
        place(pipeline(), device="nowhere", dtype="float32", offload="model")
