"""Folders of videos: files and frames, with classes and without, clips at even distances, broken ones skipped."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from skipdit.data import Clips, digest, video_folder
from skipdit.data.video_folder import starts_of
from skipdit.videos import write_video

CROP = Clips(16, channels=1, frames=4, interval=2)


def shades(length, first=0):
    """A clip uint8 [F, 16, 16, 1] whose frame i is as bright as 4 (first + i)."""
    return np.broadcast_to((4 * (first + np.arange(length))).astype(np.uint8)[:, None, None, None], (length, 16, 16, 1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """As ucf101: two classes; one video has room for one clip of a span of 7, the others for two."""
    root = tmp_path_factory.mktemp("videos")
    for name, length in (("run/a.mkv", 16), ("run/b.mkv", 7), ("jump/c.mkv", 20)):
        (root / name).parent.mkdir(exist_ok=True)
        write_video(shades(length), root / name, fps=8)
    return root


def brightness(clips):
    return ((clips + 1) * 127.5 / 4).mean((2, 3, 4)).round().int().tolist()


def test_clips_begin_at_even_distances_and_take_every_so_many_frames(folder):
    dataset = video_folder(folder, CROP)
    assert dataset.class_names == ("jump", "run")
    assert dataset.labels.tolist() == [0, 0, 1, 1, 1]
    expected = [[start, start + 2, start + 4, start + 6] for start in (0, 13, 0, 9, 0)]
    assert brightness(dataset.x_0(torch.arange(5))) == expected
    assert dataset.gives == {"num_frames": 4, "in_channels": 1, "height": 16, "width": 16, "num_classes": 2}


@pytest.mark.parametrize(("length", "starts"), [(6, []), (7, [0]), (13, [0]), (14, [0, 7]), (22, [0, 7, 15])])
def test_a_video_gives_as_many_clips_as_fit_into_it(length, starts):
    assert starts_of(length, CROP) == starts


def test_clips_that_are_read_at_each_step_are_those_that_are_kept(folder):
    kept = video_folder(folder, replace(CROP, flip=True))
    indices = torch.tensor([1, 4, 6, 9])
    assert torch.equal(replace(kept, kept=None).x_0(indices), kept.x_0(indices))


def test_folders_of_frames_are_videos_in_the_order_of_their_numbers(tmp_path):
    """As sky and taichi, without classes."""
    for video in ("one/part", "two"):
        (tmp_path / video).mkdir(parents=True)
        for number in range(8):
            Image.fromarray(np.full((16, 16), 4 * number, np.uint8)).save(tmp_path / video / f"frame{number + 5}.png")
    dataset = video_folder(tmp_path, replace(CROP, labelled=False))
    assert brightness(dataset.x_0(torch.arange(2))) == [[0, 2, 4, 6]] * 2  # frame5, frame7, frame9, frame11
    assert dataset.conditions(torch.arange(2), dropped=torch.zeros(2, dtype=torch.bool)) == {}
    assert dataset.gives["num_classes"] == 0


def test_broken_and_short_videos_are_named_and_skipped(folder, tmp_path):
    write_video(shades(6), folder / "run" / "short.mkv", fps=8)
    (folder / "run" / "torn.mp4").write_bytes(b"no video")
    with pytest.warns(UserWarning, match=r"2 of 5 files in .* \(run/short.mkv, run/torn.mp4\)"):
        dataset = video_folder(folder, replace(CROP, max_broken=0.5))
    assert len(dataset) == 5
    with pytest.raises(ValueError, match="more than the share 0.01"):
        video_folder(folder, CROP)
    for name in ("short.mkv", "torn.mp4"):
        (folder / "run" / name).unlink()


def test_what_cannot_be_trained_on_is_refused(tmp_path, folder):
    with pytest.raises(ValueError, match="has no video: put videos in it"):
        video_folder(tmp_path, CROP)
    write_video(shades(8), tmp_path / "loose.mkv", fps=8)
    with pytest.raises(ValueError, match="has videos in no folder of a class.*turn crop.labelled off"):
        video_folder(tmp_path, CROP)
    with pytest.raises(ValueError, match="crop.interval is 0"):
        replace(CROP, interval=0)


def test_the_same_videos_are_the_same_data(folder):
    assert digest(video_folder(folder, CROP)) == digest(video_folder(folder, CROP))
    assert digest(video_folder(folder, CROP)) != digest(video_folder(folder, replace(CROP, interval=1)))
