"""Videos: what is written is read back, frame for frame, and a file is whole or absent."""

import os
import sys
from fractions import Fraction
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from skipdit.videos import LOSSLESS, SUFFIXES, check_folder, check_target, read_video, write_frames, write_video
from tests.training.tiny import full_disk

SHAPES = [(16, 32, 32, 1), (16, 32, 32, 3), (5, 7, 9, 3), (3, 6, 33, 1), (1, 16, 16, 3), (2, 1, 1, 3)]
RATES = [8, 7.5, 24, 24000 / 1001, 30, 50, 0.1]


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def colourful(length=16, height=32, width=32):
    """Waves that move: more than 256 colours, and few sharp edges."""
    t, y, x = np.ogrid[:length, :height, :width]
    waves = (np.sin(x / 15 + t / 3) + 0 * y, np.cos(y / 14 + t / 5) + 0 * x, np.sin((x + y + t) / 16))
    return np.round(127 + 120 * np.stack(waves, axis=-1)).astype(np.uint8)


def rgb(frames):
    return np.broadcast_to(frames, (*frames.shape[:3], 3))


def error(found, frames):
    return np.abs(found.astype(int) - frames).mean()


@pytest.mark.parametrize("suffix", LOSSLESS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_lossless_format_gives_back_every_pixel(tmp_path, suffix, shape):
    frames, path = noise(*shape), tmp_path / f"clip{suffix}"
    write_video(frames, path, fps=8)
    found, fps = read_video(path)
    assert (fps, found.dtype) == (8, np.uint8)
    assert np.array_equal(found, rgb(frames))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("fps", RATES)
def test_every_format_keeps_the_number_of_frames_and_their_rate(tmp_path, suffix, fps):
    write_video(colourful(11), tmp_path / f"clip{suffix}", fps=fps)
    found, rate = read_video(tmp_path / f"clip{suffix}")
    assert found.shape == (11, 32, 32, 3)
    assert rate == pytest.approx(fps, rel=1e-9)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("length", [1, 2, 7])
def test_a_clip_that_stands_still_keeps_its_frames(tmp_path, suffix, length):
    write_video(np.repeat(noise(1, 8, 8, 1), length, axis=0), tmp_path / f"still{suffix}", fps=30)
    found, fps = read_video(tmp_path / f"still{suffix}")
    assert (len(found), fps) == (length, 30)


@given(
    suffix=st.sampled_from([".gif", ".webp"]),
    order=st.lists(st.integers(0, 2), min_size=1, max_size=12),
    fps=st.floats(0.1, 50),
    channels=st.sampled_from([1, 3]),
)
def test_frames_that_repeat_are_where_they_were(suffix, order, fps, channels):
    frames = noise(3, 5, 6, channels)[order]
    with TemporaryDirectory() as folder:
        write_video(frames, f"{folder}/clip{suffix}", fps=fps)
        found, rate = read_video(f"{folder}/clip{suffix}")
    assert rate == fps
    assert np.array_equal(found, rgb(frames))


def test_a_gif_of_at_most_256_colours_is_exact(tmp_path):
    greys = np.arange(2 * 256, dtype=np.uint8).reshape(2, 16, 16, 1)
    greys[1] = greys[1, ::-1]
    colours = noise(256, 3)[noise(4, 32, 32)]
    for frames in (greys, rgb(greys), colours):
        write_video(frames, tmp_path / "clip.gif", fps=8)
        assert np.array_equal(read_video(tmp_path / "clip.gif")[0], rgb(frames))


def test_a_gif_of_more_has_the_nearest_256_for_all_frames(tmp_path):
    frames, path = colourful(), tmp_path / "clip.gif"
    frames[:, 16:] = frames[0, 16:]
    write_video(frames, path, fps=8)
    found, _ = read_video(path)
    assert error(found, frames) < 6
    assert len(np.unique(found.reshape(-1, 3), axis=0)) <= 256
    assert (found[:, 16:] == found[0, 16:]).all()  # what stands still does not flicker
    write_video(found, path, fps=8)
    assert np.array_equal(read_video(path)[0], found)


@pytest.mark.parametrize("shape", [(16, 32, 32), (5, 63, 33), (1, 16, 16), (3, 120, 160)])
def test_an_mp4_is_h264_that_plays_anywhere(tmp_path, shape):
    import av

    frames, path = colourful(*shape), tmp_path / "clip.mp4"
    write_video(frames, path, fps=24000 / 1001)
    length, height, width = shape
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.frames, stream.average_rate) == (length, Fraction(24000, 1001))
        assert (stream.height, stream.width) == (height + height % 2, width + width % 2)
    assert 0 < path.read_bytes().find(b"moov") < path.read_bytes().find(b"mdat")  # plays before it is all there
    found, _ = read_video(path)
    assert error(found[:, :height, :width], frames) < 4
    assert error(found[:, -1], found[:, height - 1]) < 4
    assert error(found[:, :, -1], found[:, :, width - 1]) < 4


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (10, 200, 90)])
def test_an_mp4_keeps_colours_and_says_what_they_mean(tmp_path, colour):
    import av

    path = tmp_path / "clip.mp4"
    write_video(np.full((4, 16, 16, 3), colour, dtype=np.uint8), path, fps=8)
    assert np.abs(read_video(path)[0].astype(int) - colour).max() <= 2
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    assert (frame.colorspace, frame.color_range) == (1, 1)  # BT.709, limited range


def test_grey_survives_an_mp4(tmp_path):
    frames = colourful()[..., :1]
    write_video(frames, tmp_path / "clip.mp4", fps=8)
    assert error(read_video(tmp_path / "clip.mp4")[0], frames) < 1


def test_a_folder_holds_numbered_pngs_and_a_shorter_clip_replaces_it(tmp_path):
    path = tmp_path / "out" / "clip"
    write_video(noise(3, 4, 4, 3), path, fps=8)
    write_video(noise(2, 4, 4, 1, seed=1), path, fps=8)
    assert sorted(os.listdir(path)) == ["000000.png", "000001.png"]
    assert os.listdir(path.parent) == ["clip"]
    with Image.open(path / "000001.png") as image:
        assert np.array_equal(np.asarray(image), noise(2, 4, 4, 1, seed=1)[1, :, :, 0])


@pytest.mark.parametrize("name", ["St. Bernard runs", "see clip.gif", "clip.mp4", "clip", "1.5", "x" * 241 + ".avi"])
def test_a_folder_of_frames_may_have_any_name(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "av", None)  # no name brings it in
    for frames in (noise(3, 4, 4, 3), noise(2, 4, 4, 3, seed=1)):
        check_folder(tmp_path / name, fps=60)
        write_frames(frames, tmp_path / name, fps=60)
        found, fps = read_video(tmp_path / name)
        assert (np.array_equal(found, frames), fps) == (True, 60)
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize(
    "name", ["a: b.mp4", "%03d.mkv", "CLIP.MP4", "x" * 250 + ".mp4", "new/folders/clip.webp", "日本.gif"]
)
def test_names_are_taken_as_they_are(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_video(noise(2, 8, 8, 1), name, fps=8)
    assert read_video(name)[0].shape == (2, 8, 8, 3)
    assert [file for _, _, files in os.walk(tmp_path) for file in files] == [os.path.basename(name)]


@pytest.mark.parametrize("suffix", [suffix for suffix in SUFFIXES if suffix])
@pytest.mark.parametrize("part", [0, 0.01, 0.5, 0.999])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, suffix, part):
    path = tmp_path / f"clip{suffix}"
    write_video(noise(8, 32, 32, 3), path, fps=8)
    before = path.read_bytes()
    with full_disk(after=int(part * len(before))), pytest.raises(OSError, match=f"clip{suffix} could not be written"):
        write_video(noise(9, 32, 32, 3, seed=1), path, fps=8)
    assert os.listdir(tmp_path) == [path.name]
    assert path.read_bytes() == before


def test_a_full_disk_leaves_the_old_folder_and_nothing_else(tmp_path):
    frames, path = noise(3, 32, 32, 3), tmp_path / "clip"
    write_video(frames, path, fps=8)
    with full_disk(after=1000), pytest.raises(OSError, match="clip could not be written"):
        write_video(noise(3, 32, 32, 3, seed=1), path, fps=8)
    assert os.listdir(tmp_path) == ["clip"]
    assert np.array_equal(read_video(path)[0], frames)


@pytest.mark.parametrize("suffix", [suffix for suffix in SUFFIXES if suffix])
@pytest.mark.parametrize("part", [0, 0.05, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_a_file_cut_short_is_an_error_that_names_it(tmp_path, suffix, part):
    path = tmp_path / f"clip{suffix}"
    write_video(noise(8, 32, 32, 3), path, fps=8)
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(OSError, match=f"clip{suffix} could not be read as a video"):
        read_video(path)


def test_a_gif_without_its_last_frames_is_an_error(tmp_path):
    write_video(noise(8, 4, 4, 1), tmp_path / "long.gif", fps=8)
    with Image.open(tmp_path / "long.gif") as image:
        image.save(tmp_path / "short.gif", save_all=False, comment=image.info["comment"], duration=130)
    with pytest.raises(OSError, match="it lasts 130 ms where 8 frames at 8 fps were written"):
        read_video(tmp_path / "short.gif")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_missing_file_is_an_error_that_names_it(tmp_path, suffix):
    with pytest.raises(OSError, match=f"nowhere{suffix} could not be read as a video .*No such file"):
        read_video(tmp_path / f"nowhere{suffix}")


def test_a_missing_frame_is_an_error(tmp_path):
    write_video(noise(3, 4, 4, 1), tmp_path / "clip", fps=8)
    os.remove(tmp_path / "clip" / "000002.png")
    with pytest.raises(OSError, match=r"No such file.*000002\.png"):
        read_video(tmp_path / "clip")


def test_what_others_made_is_read_as_it_is_stored(tmp_path):
    frames = noise(3, 8, 8)
    first, *others = [Image.fromarray(frame) for frame in frames]
    for name in ("clip.gif", "clip.webp"):
        first.save(tmp_path / name, save_all=True, append_images=others, duration=[100, 200, 100], lossless=True)
        found, fps = read_video(tmp_path / name)
        assert fps == 7.5
        assert np.array_equal(found, rgb(frames[..., None]))


def test_what_others_made_without_a_rate_is_an_error(tmp_path):
    for name in ("clip.gif", "clip.webp", "000000.png"):
        Image.new("L", (4, 4)).save(tmp_path / name)
    for path, why in ((tmp_path / "clip.gif", "how long"), (tmp_path / "clip.webp", "how long"), (tmp_path, "no note")):
        with pytest.raises(OSError, match=f"could not be read as a video .*{why}"):
            read_video(path)


@pytest.mark.parametrize("suffix", [".avi", ".png", ".mp44", ".5"])
def test_an_unknown_suffix_is_refused_with_the_known_ones(tmp_path, suffix):
    with pytest.raises(ValueError, match=r"end in \.mp4, \.mkv, \.gif, \.webp, or have no suffix for a folder"):
        write_video(noise(1, 4, 4, 1), tmp_path / f"clip{suffix}", fps=8)
    with pytest.raises(ValueError, match="have no suffix"):
        read_video(tmp_path / f"clip{suffix}")


@pytest.mark.parametrize(
    ("frames", "why"),
    [
        (noise(2, 4, 4, 3) / 255, "dtype float64"),
        (noise(4, 4, 3), r"shape \(4, 4, 3\)"),
        (noise(2, 3, 4, 4), "C 1 or 3"),
        (noise(0, 4, 4, 3), "none 0"),
    ],
)
def test_frames_that_make_no_clip_are_refused(tmp_path, frames, why):
    with pytest.raises(ValueError, match=why):
        write_video(frames, tmp_path / "clip.webp", fps=8)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("suffix", "fps", "bounds"),
    [(".gif", 60, "0.1 and 50 for .gif"), (".mp4", 0, "0.1 and 240 for .mp4"), ("", float("nan"), "a folder of PNGs")],
)
def test_a_rate_that_the_format_does_not_have_is_refused(suffix, fps, bounds):
    with pytest.raises(ValueError, match=f"fps is {fps}; it must be between .*{bounds}"):
        check_target(f"clip{suffix}", fps=fps)


def test_a_folder_of_other_things_is_not_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("ten years")
    with pytest.raises(FileExistsError, match="is not a folder of frames: remove it, or take another path"):
        write_video(noise(1, 4, 4, 1), tmp_path, fps=8)
    assert (tmp_path / "thesis.txt").read_text() == "ten years"


def test_a_file_is_not_replaced_by_a_folder_nor_a_folder_by_a_file(tmp_path):
    (tmp_path / "clip").write_bytes(b"old")
    (tmp_path / "clip.mp4").mkdir()
    for name, kind in (("clip", "a folder of frames"), ("clip.mp4", "a file")):
        with pytest.raises(FileExistsError, match=f"{name} is there and is not {kind}"):
            write_video(noise(1, 4, 4, 1), tmp_path / name, fps=8)


def test_without_pyav_its_formats_say_what_to_install_and_the_others_work(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    for suffix in SUFFIXES:
        if suffix in (".mp4", ".mkv"):
            with pytest.raises(OSError, match=r"pip install 'skipdit\[video\]'"):
                write_video(noise(1, 4, 4, 1), tmp_path / f"clip{suffix}", fps=8)
            with pytest.raises(OSError, match=r"pip install 'skipdit\[video\]'"):
                read_video(tmp_path / f"clip{suffix}")
        else:
            write_video(noise(1, 4, 4, 1), tmp_path / f"clip{suffix}", fps=8)
            assert len(read_video(tmp_path / f"clip{suffix}")[0]) == 1
