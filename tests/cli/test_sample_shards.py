"""`skipdit sample --shard I/N`: N processes draw into one folder what one would; random classes; TensorFloat-32."""

import csv
import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from skipdit.cli import INTERRUPTED
from skipdit.cli.outputs import Output
from skipdit.cli.records import check_goes_on, open_run
from tests.cli.conftest import contents
from tests.cli.stopped import interrupt
from tests.pipelines.tiny import tiny_latte

# Shards of 4 in batches of 2, as the 8 of one process: equal shapes, and so equal bits.
EIGHT = "--steps 3 --num-images 8 --batch-size 2 --class-order random"


@pytest.fixture(scope="session")
def latte(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "latte"
    tiny_latte(sample_size=16, num_classes=5).save_pretrained(folder)
    return folder


def drawn(folder: str, suffix: str) -> dict[str, bytes]:
    return {path.partition("/")[2]: held for path, held in contents().items()
            if path.startswith(f"{folder}/") and path.endswith(suffix)}  # fmt: skip


def test_shards_draw_together_the_images_of_one_process(skipdit, model):
    skipdit(f"sample {model} {EIGHT} --out alone")
    said = skipdit(f"sample {model} {EIGHT} --shard 1/2 --out images")
    assert "images: 4 of 8 images (shard 1/2), 3 ddpm steps in" in said.out
    assert "when all shards have ended, the same command without --shard finishes images" in said.out
    assert drawn("images", ".png").keys() == {f"{index:06d}.png" for index in (1, 3, 5, 7)}
    said = skipdit(f"sample {model} {EIGHT} --shard 0/2 --out images")
    assert (said.code, "drawing 4 images" in said.err) == (0, True)
    assert drawn("images", ".png") == drawn("alone", ".png")


def test_a_shard_writes_no_manifest_and_the_last_run_writes_that_of_one_process(skipdit, latte):
    line = f"sample {latte} {EIGHT} --format webp"
    skipdit(f"{line} --out alone")
    for shard in ("0/2", "1/2"):
        assert skipdit(f"{line} --shard {shard} --out clips").code == 0
        assert "clips/manifest.csv" not in contents()
    said = skipdit(f"{line} --out clips")
    assert (said.code, "drawing 0 videos" in said.err) == (0, True)
    held = contents()
    assert held["clips/manifest.csv"] == held["alone/manifest.csv"]
    assert drawn("clips", ".webp") == drawn("alone", ".webp")
    assert len(list(csv.reader(io.StringIO(held["clips/manifest.csv"].decode())))) == 9


def test_a_file_is_made_by_the_last_run_alone_which_draws_what_a_shard_left_out(skipdit, model):
    skipdit(f"sample {model} {EIGHT} --out alone.npz")
    for shard in ("0/4", "3/4", "2/4"):
        assert skipdit(f"sample {model} {EIGHT} --shard {shard} --out images.npz").code == 0
    assert "images.npz" not in contents()
    assert len(drawn("images.npz.parts", ".png")) == 6
    said = skipdit(f"sample {model} {EIGHT} --out images.npz")
    assert "drawing 2 images" in said.err
    assert np.array_equal(np.load("images.npz")["arr_0"], np.load("alone.npz")["arr_0"])
    assert not [path for path in contents() if ".parts" in path]


def test_a_shard_leaves_alone_what_another_is_writing(skipdit, model):
    skipdit(f"sample {model} {EIGHT} --shard 0/2 --out images")
    half = f"images/.000003.{'0' * 32}.png"
    with open(half, "wb") as file:
        file.write(b"half")
    skipdit(f"sample {model} {EIGHT} --shard 1/2 --out images")
    assert half in contents()
    skipdit(f"sample {model} {EIGHT} --out images")
    assert half not in contents(), "the last run has the folder for itself"


def test_an_interrupted_shard_goes_on_beside_the_others(skipdit, latte):
    line = f"sample {latte} {EIGHT} --format webp"
    skipdit(f"{line} --out alone")
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, after=2)
        said = skipdit(f"{line} --shard 0/2 --out clips")
    assert (said.code, said.complaint) == (
        INTERRUPTED, "interrupted; 2 of 4 videos are in clips, and the same command draws the rest",
    )  # fmt: skip
    skipdit(f"{line} --shard 1/2 --out clips")
    said = skipdit(f"{line} --shard 0/2 --out clips")
    assert (said.code, "drawing 2 videos" in said.err) == (0, True)
    assert drawn("clips", ".webp") == drawn("alone", ".webp")


@pytest.mark.slow
def test_two_shards_at_once_do_not_disturb_each_other(skipdit, model):
    script = "import sys; from skipdit.cli import main; sys.exit(main(sys.argv[1:]))"
    line = ["sample", str(model), *EIGHT.split(), "--out", "images"]
    both = [subprocess.Popen([sys.executable, "-c", script, *line, "--shard", shard]) for shard in ("0/2", "1/2")]
    assert [process.wait() for process in both] == [0, 0]
    skipdit(f"sample {model} {EIGHT} --out alone")
    assert drawn("images", ".png") == drawn("alone", ".png")


def test_a_shard_of_other_settings_is_refused(skipdit, model):
    skipdit(f"sample {model} {EIGHT} --shard 0/2 --out images")
    said = skipdit(f"sample {model} {EIGHT} --shard 1/2 --seed 1 --out images")
    assert (said.code, "images holds images of other settings (seed)" in said.complaint) == (2, True)


def test_of_shards_that_begin_together_those_of_other_settings_than_the_first_are_refused(tmp_path):
    output = Output(tmp_path / "images", "image", ".png")
    open_run(output, {"seed": 1, "shard": "0/2"}, alone=False)
    with pytest.raises(ValueError, match=r"run\.json is that of a run of other settings \(seed\): take another --out"):
        open_run(output, {"seed": 2, "shard": "1/2"}, alone=False)
    open_run(output, {"seed": 1, "shard": "1/2"}, alone=False)
    assert {path: json.loads(held) for path, held in contents(output.folder).items()} == {
        "run.json": {"seed": 1, "shard": "0/2"}
    }
    open_run(output, {"seed": 2}, alone=True)
    assert json.loads(contents(output.folder)["run.json"]) == {"seed": 2}, "one that is alone has nobody to go on with"


def test_a_run_that_comes_first_between_a_look_and_the_writing_is_found(tmp_path, monkeypatch):
    output, link = Output(tmp_path / "images", "image", ".png"), os.link

    def second(aside, path):
        monkeypatch.undo()
        open_run(output, {"seed": 1}, alone=False)
        link(aside, path)

    monkeypatch.setattr(os, "link", second)
    with pytest.raises(ValueError, match=r"other settings \(seed\)"):
        open_run(output, {"seed": 2}, alone=False)
    assert {path: json.loads(held) for path, held in contents(output.folder).items()} == {"run.json": {"seed": 1}}


def test_a_shard_of_a_finished_file_is_refused_and_draws_nothing(skipdit, model):
    line = f"sample {model} {EIGHT} --out grid.png"
    skipdit(line)
    before = contents()
    said = skipdit(f"{line} --shard 1/2")
    assert said.complaint == "grid.png is finished, so no shard of it is left to draw: remove it to draw it anew"
    assert (said.code, contents()) == (2, before)
    assert skipdit(f"{line} --shard 1/2 --seed 1").code == 0, "which is of another file"


def test_a_finished_file_is_of_other_settings_where_one_that_is_not_known_yet_differs(tmp_path):
    output = Output(tmp_path / "grid.png", "image", ".png")
    for name, held in (("grid.png", "an image"), ("grid.json", json.dumps({"negative_prompt": "bad"}))):
        (tmp_path / name).write_text(held)
    check_goes_on(output, {"negative_prompt": "worse"}, alone=False, unknown=["negative_prompt"])
    with pytest.raises(ValueError, match="is finished"):
        check_goes_on(output, {"negative_prompt": "bad"}, alone=False, unknown=["negative_prompt"])


def test_more_shards_than_samples_leave_some_with_none(skipdit, model):
    said = skipdit(f"sample {model} --steps 2 --num-images 2 --shard 3/4 --out images")
    assert (said.code, "0 of 2 images (shard 3/4)" in said.out) == (0, True)


@pytest.mark.parametrize("shard", ["2/2", "1", "a/b", "1/0", "-1/2", "0/2/4"])
def test_a_shard_that_is_none_is_answered_in_one_line(skipdit, model, shard):
    said = skipdit(f"sample {model} --shard={shard} --out images")
    assert said.complaint == f"shard is {shard!r}: give I/N with I from 0 to N - 1, as 0/4"
    assert (said.code, contents()) == (2, {})


# Classes at random.


def classes(folder: str) -> list[int]:
    return [int(row["class"]) for row in csv.DictReader(io.StringIO(contents()[f"{folder}/manifest.csv"].decode()))]


def test_a_random_class_is_decided_by_the_seed_and_the_number_alone(skipdit, latte):
    line = f"sample {latte} --steps 1 --guidance-scale 1 --class-order random --format webp"
    for out, flags in (
        ("few", "--num-images 6"), ("more", "--num-images 20 --batch-size 3"), ("seed", "--num-images 20 --seed 1"),
        ("named", "--num-images 20 --classes 4 2"),
    ):  # fmt: skip
        assert skipdit(f"{line} {flags} --out {out}").code == 0
    more = classes("more")
    assert more[:6] == classes("few")
    assert more != classes("seed")
    assert set(more) == set(range(5))
    assert classes("named") != [4, 2] * 10
    assert set(classes("named")) == {4, 2}
    assert json.loads(contents()["more/run.json"])["class_order"] == "random"


def test_a_random_order_of_no_classes_is_refused(skipdit, tmp_path):
    tiny_latte(num_classes=0).save_pretrained(tmp_path / "free")
    said = skipdit(f"sample {tmp_path / 'free'} --class-order random --out clips")
    assert said.complaint == "class_order is 'random', but this model has no classes: leave it out"
    assert (said.code, contents()) == (2, {})


# On an accelerator.


@pytest.mark.parametrize("flags", ["", "--device mps", "--device cuda --dtype bfloat16"])
def test_tf32_is_refused_where_it_changes_nothing(skipdit, model, flags):
    said = skipdit(f"sample {model} --tf32 {flags} --out images")
    assert "it is for float32 on cuda, leave it out" in said.complaint
    assert (said.code, contents()) == (2, {})
