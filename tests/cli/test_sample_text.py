"""`skipdit sample` with a model of text: prompts and their files, names, and what goes on where it stopped."""

import csv
import io
import json

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, LattePipeline

from skipdit.cli import INTERRUPTED, main
from skipdit.cli.wanted import of_prompts, prompts_of, vbench_names
from skipdit.data.text import minilm
from skipdit.evaluation import to_uint8
from skipdit.files import safe_name
from skipdit.hub import load_pipeline
from skipdit.pipelines.draw import Settings, draw
from skipdit.randomness import generator
from skipdit.videos import read_video
from tests.cli.conftest import Said, contents
from tests.cli.stopped import interrupt
from tests.pipelines.tiny import tiny_latte_t2v, tiny_temporal_vae

FRAMES = 3
PROMPTS = ["a dog runs", "A cat, asleep.", "the digit eight moving up"]
LONG = "night and day " * 22
NASTY = ["../../etc/passwd", "a/b", "", "🐕 a dog", LONG, "a dog", "A dog", "con", "-", ".", "what?\n", "a" * 260]


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    """A model of 3 grey frames of 16 x 16 that reads MiniLM's states."""
    folder = tmp_path_factory.mktemp("models") / "text"
    tiny_latte_t2v(sample_size=16, caption_channels=384, video_length=FRAMES).save_pretrained(folder)
    return folder


@pytest.fixture
def sample(skipdit, text, capfd):
    """`skipdit sample MODEL --steps 2`, with arguments that may hold spaces."""

    def call(*arguments: str) -> Said:
        capfd.readouterr()
        return Said(main(["sample", str(text), "--steps", "2", *map(str, arguments)]), *capfd.readouterr())

    return call


@pytest.fixture
def interrupted_after():
    """Arranges a Ctrl-C after so many videos."""
    with pytest.MonkeyPatch.context() as patch:
        yield lambda number: interrupt(patch, after=number)


def rows(folder: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(contents()[f"{folder}/manifest.csv"].decode(), newline="")))


def videos(folder: str = "clips") -> dict[str, bytes]:
    """The single WebPs of a folder by name."""
    return {path.removeprefix(f"{folder}/"): held for path, held in contents().items()
            if path.startswith(f"{folder}/") and path.endswith(".webp")}  # fmt: skip


# What is drawn.


def test_a_folder_holds_what_the_pipeline_draws(sample, text):
    said = sample("--prompt", *PROMPTS, "--negative-prompt", "blurred", "--seed", 3, "--num-per-prompt", 2,
                  "--guidance-scale", 3, "--format", "webp", "--out", "clips")  # fmt: skip
    assert (said.code, "clips: 6 videos (.webp), 2 ddim-leading steps in" in said.out) == (0, True)
    pipe = load_pipeline(str(text))
    pipe.set_progress_bar_config(disable=True)
    for index, prompt in enumerate(PROMPTS):
        noise = [generator(3, index, copy) for copy in range(2)]
        drawn = draw(pipe, [prompt] * 2, noise, Settings(2, 3.0, negative_prompt="blurred"))
        for copy, suffix in enumerate(["", "-1"]):
            frames, fps = read_video(f"clips/{index:06d}-{safe_name(prompt)}{suffix}.webp")
            assert np.array_equal(frames, to_uint8(drawn[copy]))
            assert fps == 8


def test_the_manifest_says_what_each_file_is(sample):
    sample("--prompt", *NASTY, "--num-per-prompt", 2, "--scheduler", "ddim", "--cache", "N2-700-50", "--out", "clips")
    listed = rows("clips")
    assert [row["prompt"] for row in listed] == [prompt for prompt in NASTY for _ in range(2)]
    assert [row["noise"] for row in listed] == [f"0 {index} {copy}" for index in range(len(NASTY)) for copy in range(2)]
    shared = {"plan": "#.", "steps": "2", "scheduler": "ddim", "guidance_scale": "4.0"}
    assert all(row.items() >= shared.items() for row in listed)
    files = {f"clips/{row['file']}" for row in listed}
    assert files | {"clips/run.json", "clips/manifest.csv"} == contents().keys(), "nothing outside the folder"
    assert len(files) == 2 * len(NASTY)
    assert json.loads(contents()["clips/run.json"])["prompts"] == NASTY


def test_the_published_scheduler_is_what_the_records_say(sample):
    assert sample("--prompt", "a dog", "--format", "webp", "--out", "clips").code == 0
    assert json.loads(contents()["clips/run.json"])["scheduler"] == "ddim-leading"
    assert [row["scheduler"] for row in rows("clips")] == ["ddim-leading"]


def test_an_mp4_of_one_prompt_is_its_video(sample):
    said = sample("--prompt", PROMPTS[0], "--frames", 2, "--fps", 12, "--size", 8, 24, "--out", "dog.mp4")
    assert "dog.mp4: 1 video, 2 ddim-leading steps" in said.out
    frames, fps = read_video("dog.mp4")
    assert (frames.shape, fps) == ((2, 8, 24, 3), 12)
    assert contents().keys() == {"dog.mp4", "dog.json"}


@pytest.mark.parametrize("size", [1, 4])
def test_a_video_depends_on_its_prompt_and_noise_not_on_the_batch(sample, size):
    prompts = ["--prompt", PROMPTS[0], PROMPTS[0], PROMPTS[1], "--num-per-prompt", 3, "--format", "webp"]
    sample(*prompts, "--out", "clips")
    said = sample(*prompts, "--batch-size", size, "--out", "other")
    calls = {1: 18, 4: 6}[size]  # 9 batches of 2 steps, or 4 + 2 of the repeated prompt and 3 of the other
    assert f"| {calls}/{calls} [" in said.err.splitlines()[-1]
    one, other = (np.stack([read_video(f"{folder}/{name}")[0] for name in sorted(videos(folder))]).astype(int)
                  for folder in ("clips", "other"))  # fmt: skip
    assert abs(one - other).max() <= 1
    assert len({frames.tobytes() for frames in one}) == 9, "a repeated prompt has noise of its own"


def test_progress_is_all_that_goes_to_stderr(sample):
    said = sample("--prompt", *PROMPTS, "--out", "sheet.png")
    assert "sheet.png: a contact sheet of 3 videos" in said.out
    lines = [line for line in said.err.replace("\r", "\n").splitlines() if line]
    assert all(line.startswith("drawing 3 videos: ") for line in lines)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")
@pytest.mark.parametrize(
    "flags",
    ["--dtype bfloat16", "--dtype float16 --scheduler ddim-leading", "--scheduler heun", "--scheduler euler-a",
     "--scheduler dpm++-sde", "--guidance-scale 1", "--cache.preset text-to-video", "--cache.forecast taylor"],
)  # fmt: skip
def test_every_flag_draws(sample, flags):
    said = sample("--prompt", "a dog", "a cat", *flags.split(), "--steps", 4, "--format", "webp", "--out", "clips")
    assert said.code == 0, said.err
    assert len(videos()) == 2
    assert all(read_video(f"clips/{name}")[0].std() > 1 for name in videos())


def test_a_base_lends_its_text_encoder_and_autoencoder(sample, text, tmp_path):
    load_pipeline(str(text)).save_pretrained(tmp_path / "base")
    assert sample("--prompt", "a dog", "--base", tmp_path / "base", "--format", "webp", "--out", "lent").code == 0
    assert sample("--prompt", "a dog", "--format", "webp", "--out", "own").code == 0
    assert videos("lent") == videos("own")


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """A pipeline folder: a model of latents, and an autoencoder that sees several frames."""
    folder = tmp_path_factory.mktemp("models") / "base"
    torch.manual_seed(0)
    model = tiny_latte_t2v(in_channels=4, out_channels=8, caption_channels=384, video_length=FRAMES)
    LattePipeline(*minilm(), tiny_temporal_vae(), model, DDIMScheduler()).save_pretrained(folder)
    return folder


def test_frames_of_two_videos_are_decoded_apart(skipdit, base):
    for size in (1, 2):
        line = f"--steps 2 --prompt dog --num-per-prompt 2 --decode-chunk-size 2 --format webp --batch-size {size}"
        assert skipdit(f"sample {base} {line} --out {size}").code == 0
    one, two = (np.stack([read_video(f"{size}/{name}")[0] for name in sorted(videos("1"))]).astype(int)
                for size in "12")  # fmt: skip
    assert abs(one - two).max() <= 1


def test_an_autoencoder_without_slicing_is_not_asked_for_it(skipdit, base):
    said = skipdit(f"sample {base} --steps 2 --prompt dog --vae-slicing --out clips")
    assert "this model has AutoencoderKLTemporalDecoder for a vae, without slicing" in said.complaint
    assert (said.code, contents()) == (2, {})


# Names.


def test_names_in_the_layout_of_vbench_are_the_exact_prompts():
    prompts = ["A 3D model of a 1800s victorian house.", "a dog, running", "Yoda playing guitar", "x" * 200]
    wanted = of_prompts(prompts, seed=0, layout="vbench", copies=None)
    assert [sample.name for sample in wanted] == [f"{prompt}-{copy}" for prompt in prompts for copy in range(5)]
    assert [sample.key for sample in wanted] == [(0, index, copy) for index in range(4) for copy in range(5)]


@pytest.mark.parametrize("layout", ["plain", "vbench"])
def test_nasty_prompts_have_names_of_their_own(layout):
    names = [sample.name for sample in of_prompts(NASTY, seed=0, layout=layout, copies=2)]
    assert len({name.casefold() for name in names}) == 2 * len(NASTY)
    assert all(f"{name}.webp" == safe_name(f"{name}.webp", at_most=255) for name in names)
    assert max(len(f".partial-{name}".encode()) for name in names) <= 255


def test_copies_of_one_prompt_share_the_name_before_the_copy():
    for prompt, name in zip(NASTY, vbench_names(NASTY), strict=True):
        copies = [sample.name for sample in of_prompts(NASTY, seed=0, layout="vbench", copies=12)
                  if sample.subject == prompt]  # fmt: skip
        assert copies == [f"{name}-{copy}" for copy in range(12)]


@pytest.mark.parametrize("first", ["a/b", "A dog", "con"])
def test_a_prompt_that_is_the_name_of_another_in_the_layout_of_vbench_has_a_name_of_its_own(first):
    (taken,) = vbench_names([first + "?"])
    for prompts in ([first + "?", taken], [taken, first + "?"], [taken.upper(), taken, first + "?"]):
        assert len({name.casefold() for name in vbench_names(prompts)}) == len(prompts)
    assert len(set(vbench_names(["a/b", "a_b-1dce9391479b"]))) == 2


@pytest.mark.parametrize("layout", ["plain", "vbench"])
def test_more_prompts_and_more_copies_change_nothing_before_them(layout):
    few = of_prompts(NASTY[:6], seed=0, layout=layout, copies=1)
    more = of_prompts([*NASTY, *NASTY], seed=0, layout=layout, copies=3)
    assert [sample for sample in more if sample.index < 6 and sample.key[2] == 0] == few


def test_a_repeated_prompt_is_drawn_again_but_in_the_layout_of_vbench():
    prompts = ["a", "b", "a"]
    again = of_prompts(prompts, seed=0, layout="plain", copies=None)
    assert [(s.name, s.key) for s in again] == [
        ("000000-a", (0, 0, 0)), ("000001-b", (0, 1, 0)), ("000002-a", (0, 2, 0))
    ]  # fmt: skip
    once = of_prompts(prompts, seed=0, layout="vbench", copies=1)
    assert [(s.name, s.key) for s in once] == [("a-0", (0, 0, 0)), ("b-0", (0, 1, 0))]


def test_vbench_draws_five_of_each_prompt(sample):
    said = sample("--prompt", "A dog.", "a/b", "A dog.", "--layout", "vbench", "--format", "webp", "--out", "clips")
    assert "clips: 10 videos (.webp)" in said.out
    assert videos().keys() >= {f"A dog.-{copy}.webp" for copy in range(5)}
    assert [row["index"] for row in rows("clips")] == ["0"] * 5 + ["1"] * 5


@pytest.mark.parametrize("layout", ["plain", "vbench"])
def test_folders_of_frames_are_named_by_prompts_with_dots(sample, layout):
    prompts = ["St. Bernard runs", "see clip.gif"]
    line = ["--prompt", *prompts, "--layout", layout, "--num-per-prompt", 1, "--format", "frames", "--out", "clips"]
    assert "clips: 2 videos (frames)" in sample(*line).out
    before = contents()
    for row, prompt in zip(rows("clips"), prompts, strict=True):
        assert prompt in row["file"]
        assert len(read_video(f"clips/{row['file']}")[0]) == FRAMES
    assert sample(*line).code == 0
    assert contents() == before


# Files of prompts.


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_text_file_has_a_prompt_a_line(tmp_path, encoding, end):
    lines = ["# a comment", "a dog", "", "  ", "über den wolken ", "# another", "no # comment", "a\u2028b"]
    (tmp_path / "prompts.txt").write_bytes(end.join(lines).encode(encoding))
    assert prompts_of(tmp_path / "prompts.txt") == ["a dog", "über den wolken", "no # comment", "a\u2028b"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_table_has_a_column_of_captions(tmp_path, encoding):
    table = 'caption,id\r\n"a dog, running",1\r\n#1 fan,2\r\n,3\r\n"two\nlines",4\r\n'
    (tmp_path / "prompts.CSV").write_bytes(table.encode(encoding))
    assert prompts_of(tmp_path / "prompts.CSV") == ["a dog, running", "#1 fan", "two\nlines"]


@pytest.mark.parametrize(
    ("name", "held", "message"),
    [
        ("prompts.txt", None, "it cannot be read (No such file or directory)"),
        ("prompts.txt", b"\n# nothing\n", "it holds no prompt, give at least one"),
        ("prompts.txt", "über".encode("latin-1"), "it is not UTF-8, save it so"),
        ("prompts.csv", b"prompt;id\na dog;1\n", "its columns are prompt;id; name that of prompts `caption`"),
        ("prompts.csv", b"", "its columns are none"),
        ("prompts.csv", b"caption\n\n", "it holds no prompt, give at least one"),
        ("prompts.json", b"[]", "it holds no prompt, give at least one"),
        ("prompts.json", b'["a dog"', "it is no JSON (Expecting ',' delimiter"),
        ("prompts.json", b'{"caption": "a dog"}', "it holds a dict, a list is needed"),
        ("prompts.yaml", b"- a dog", "it must end in .txt (a prompt a line), .csv or .json"),
    ],
)
def test_a_file_without_prompts_is_answered_in_one_line(sample, tmp_path, name, held, message):
    if held is not None:
        (tmp_path / name).write_bytes(held)
    said = sample("--prompts-file", tmp_path / name, "--out", "clips")
    assert f"prompts_file is {str(tmp_path / name)!r}: {message}" in said.complaint
    assert (said.code, said.err.count("\n"), contents()) == (2, 1, {})


def test_a_list_in_json_has_texts_or_objects_with_one(tmp_path):
    (tmp_path / "prompts.json").write_text('["a dog ", {"caption": "a cat", "id": 3}, {"prompt": "\\u732b"}, "#1 fan"]')
    assert prompts_of(tmp_path / "prompts.json") == ["a dog", "a cat", "猫", "#1 fan"]


@pytest.mark.parametrize("item", ["3", "{}", '{"caption": null}', '{"caption": "a", "prompt": "b"}', '["a"]'])
def test_an_item_of_json_that_is_no_prompt_is_named(tmp_path, item):
    (tmp_path / "prompts.json").write_text(f'["a dog", {item}]')
    with pytest.raises(ValueError, match=r"item 1 of prompts_file .* is no prompt: .* as caption or prompt"):
        prompts_of(tmp_path / "prompts.json")


def test_a_folder_of_files_is_what_one_command_a_file_draws(sample, tmp_path):
    folder, rest = tmp_path / "prompts", ["--layout", "vbench", "--num-per-prompt", 2, "--format", "webp"]
    folder.mkdir()
    (folder / "colour.txt").write_text("a red dog\na cat\n")
    (folder / "scene.json").write_text('["a cat"]')
    (folder / "notes.md").write_text("no prompts")
    said = sample("--prompts-file", folder, *rest, "--out", "all")
    assert said.code == 0, said.err
    assert "all/colour: 4 videos (.webp)" in said.out
    for file in ("colour.txt", "scene.json"):
        sample("--prompts-file", folder / file, *rest, "--out", f"one/{file.partition('.')[0]}")
    held = contents()
    drawn = [path.removeprefix("all/") for path in held if path.startswith("all/") and not path.endswith("run.json")]
    assert {"colour/a red dog-1.webp", "scene/a cat-0.webp", "scene/manifest.csv"} <= set(drawn)
    assert len(drawn) == len([path for path in held if path.startswith("one/") and not path.endswith("run.json")])
    for path in drawn:
        assert held[f"all/{path}"] == held[f"one/{path}"]


def test_an_interrupted_folder_of_files_goes_on(sample, tmp_path, interrupted_after):
    folder = tmp_path / "prompts"
    folder.mkdir()
    for name in "ab":
        (folder / f"{name}.txt").write_text(f"{name} dog\n{name} cat\n")
    line = ["--prompts-file", folder, "--format", "webp", "--batch-size", 1]
    interrupted_after(3)
    said = sample(*line, "--out", "clips")
    assert (said.code, said.complaint) == (
        INTERRUPTED, "interrupted; 1 of 2 videos are in clips/b, and the same command draws the rest",
    )  # fmt: skip
    kept = {path: held for path, held in contents().items() if path.endswith(".webp")}
    assert sample(*line, "--out", "clips").code == 0
    assert contents().items() >= kept.items()
    assert len(videos("clips")) == 4


@pytest.mark.parametrize(
    ("names", "out", "message"),
    [
        (["a.md"], "clips", "the folder has no .txt, .csv, .json file, give one"),
        (["a.txt", "A.csv"], "clips", "needs a name without further dots, and of its own: rename it"),
        (["v1.2.txt"], "clips", "needs a name without further dots, and of its own: rename it"),
        (["a.txt"], "clips.png", "out is 'clips.png', but each file of"),
    ],
)
def test_a_folder_that_cannot_be_drawn_is_answered_in_one_line(sample, tmp_path, names, out, message):
    (tmp_path / "prompts").mkdir()
    for name in names:
        (tmp_path / "prompts" / name).write_text("caption\na dog\n")
    said = sample("--prompts-file", tmp_path / "prompts", "--out", out)
    assert message in said.complaint
    assert (said.code, said.err.count("\n"), contents()) == (2, 1, {})


# Interrupted.


@pytest.mark.parametrize("number", [0, 2, 5])
def test_an_interrupted_list_goes_on_and_is_the_same_as_uninterrupted(sample, tmp_path, interrupted_after, number):
    (tmp_path / "prompts.csv").write_text("caption\n" + "\n".join(["a dog", "a cat", "a dog"]))
    line = ["--prompts-file", tmp_path / "prompts.csv", "--num-per-prompt", 2, "--batch-size", 1, "--format", "webp"]
    sample(*line, "--out", "through")
    interrupted_after(number)
    said = sample(*line, "--out", "clips")
    assert said.code == INTERRUPTED
    assert said.complaint == f"interrupted; {number} of 6 videos are in clips, and the same command draws the rest"
    assert {row["file"] for row in rows("clips")} == videos().keys()
    kept = videos()
    assert len(kept) == number
    assert sample(*line, "--out", "clips").code == 0
    assert videos().items() >= kept.items()
    assert videos() == videos("through")
    assert rows("clips") == rows("through")


@pytest.mark.parametrize("layout", ["plain", "vbench"])
def test_a_longer_list_and_more_copies_go_on(sample, layout):
    rest = ["--format", "webp", "--layout", layout, "--batch-size", 1]
    sample("--prompt", *PROMPTS[:2], "--num-per-prompt", 1, *rest, "--out", "clips")
    kept = videos()
    said = sample("--prompt", *PROMPTS, "--num-per-prompt", 2, *rest, "--out", "clips")
    assert (said.code, "drawing 4 videos" in said.err) == (0, True)
    assert videos().items() >= kept.items()
    sample("--prompt", *PROMPTS, "--num-per-prompt", 2, *rest, "--out", "through")
    assert videos() == videos("through")
    assert len(rows("clips")) == 6


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (["--prompt", "a cat", "a dog"], "prompts"), (["--prompt", "a dog"], "prompts"),
        (["--prompt", "a dog", "a cat", "--negative-prompt", "bad"], "negative_prompt"),
        (["--prompt", "a dog", "a cat", "--layout", "vbench"], "layout"),
        (["--prompt", "a dog", "a cat", "--format", "gif"], "format"),
    ],
)  # fmt: skip
def test_another_list_is_refused_and_leaves_the_folder_untouched(sample, change, named):
    sample("--prompt", "a dog", "a cat", "--out", "clips")
    before = contents()
    said = sample(*change, "--out", "clips")
    assert f"clips holds videos of other settings ({named}): take another --out, or remove it" in said.complaint
    assert (said.code, contents()) == (2, before)


# What takes no effect, or cannot be.

TEXT = {
    "--prompt dog --classes 1": "classes is (1,), for which a text-to-video model has no use: give --prompt",
    "--prompt dog --num-images 3": "num_images is 3, for which a text-to-video model has no use: give --num-per-prompt",
    "--prompt dog --num-samples 3": "num_images is 3, for which a text-to-video model has no use",
    "--prompt dog --guidance-channels 1": "guidance_channels is 1, for which a model of text has no use",
    "--prompt dog --prompts-file x.txt": "prompts_file is 'x.txt' beside --prompt: give one of them",
    "--prompt dog --num-per-prompt 0": "num_per_prompt is 0: it must be at least 1",
    "--prompt dog --guidance-scale 0.5": "guidance_scale is 0.5: a model of text takes 1 (off) or more",
    "--prompt dog --guidance-scale 1 --negative-prompt bad": "negative_prompt is 'bad' at guidance_scale 1",
    "--prompt dog --frames 4": "video has 4 frames: this model has temporal positions for 1 to 3",
    "--prompt dog --size 16 12": "side 12 is not a multiple of 8 above 0: take one that is",
    "--prompt dog --size 0 8": "side 0 is not a multiple of 8 above 0",
    "--prompt dog --decode-chunk-size 2": "decode_chunk_size is 2, but this model draws pixels: leave it out",
    "--prompt dog --vae-tiling": "vae_tiling is on, but this model has PixelAutoencoder for a vae, without tiling",
    "--prompt dog --layout vbench --out x.mp4": "layout is 'vbench', for which --out x.mp4 has no use: leave it out",
    "--prompt dog --out x.npz": "out is 'x.npz': it must end in .png, .mp4, .mkv, .webp or .gif, or be a folder",
    "--prompt dog --base nowhere": "base is 'nowhere': name the folder of a text pipeline",
    "": "prompt is missing: a text-to-video model draws what --prompt or --prompts-file says",
}


@pytest.mark.parametrize("flags", TEXT)
def test_a_flag_that_a_model_of_text_cannot_take_is_answered_in_one_line(skipdit, text, flags):
    said = skipdit(f"sample {text} --steps 3 --out clips {flags}")
    assert TEXT[flags] in said.complaint
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert contents() == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", "dog " * 119], "has 121 tokens, more than 120: shorten it"),
        (["--prompt", "dog", "--negative-prompt", "dog " * 119], "negative_prompt 'dog dog"),
        (["--prompt", "dog \udcff"], "is not UTF-8: write it so"),
    ],
)
def test_text_that_would_be_cut_off_or_cannot_be_read_is_refused(sample, arguments, message):
    said = sample(*arguments, "--out", "clips")
    assert message in said.complaint
    assert (said.code, said.err.count("\n"), contents()) == (2, 1, {})


def test_a_model_whose_own_size_the_pipeline_refuses_is_told_to_take_another(skipdit, tmp_path):
    tiny_latte_t2v(sample_size=12, caption_channels=384).save_pretrained(tmp_path / "text")
    said = skipdit(f"sample {tmp_path / 'text'} --steps 2 --prompt dog --out clips")
    assert "side 12 is not a multiple of 8" in said.complaint
    assert skipdit(f"sample {tmp_path / 'text'} --steps 2 --prompt dog --size 8 16 --out clips").code == 0


@pytest.mark.parametrize("offload", ["model", "group"])
def test_offloading_changes_no_pixel(text, offload):
    from skipdit.cli import flags

    drawn = []
    for how in (None, offload):
        pipe = load_pipeline(str(text))
        pipe.set_progress_bar_config(disable=True)
        if how:
            flags.bring_when_needed(pipe, torch.device("cpu"), how)
        drawn.append(draw(pipe, ["a dog"], [generator(0)], Settings(2)))
    assert torch.equal(*drawn)
