"""Pictures: every pixel of every image is there, unchanged, and a file is whole or absent."""

import math
import os

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

from skipdit.evaluation import (
    contact_sheet,
    difference,
    difference_label,
    grid,
    labelled_clips,
    labelled_rows,
    save_png,
    to_uint8,
)
from skipdit.evaluation.pictures import PAPER


def uniform(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def enlarged(image, scale):
    """One image [C, H, W] as the uint8 [H * scale, W * scale, 3] that a picture should hold."""
    pixels = np.kron(to_uint8(image[None])[0], np.ones((scale, scale, 1), dtype=np.uint8))
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3))


def places(picture, image, scale):
    """Where (row, column) the enlarged image occurs in a picture, pixel for pixel."""
    pixels, wanted = np.asarray(picture), enlarged(image, scale)
    corners = sliding_window_view(pixels, wanted.shape)[:, :, 0, 0, 0, :]
    corners = np.argwhere((corners == wanted[0, 0]).all(axis=-1))
    height, width, _ = wanted.shape
    return [(y, x) for y, x in corners.tolist() if np.array_equal(pixels[y : y + height, x : x + width], wanted)]


def only_place(picture, image, scale):
    (place,) = places(picture, image, scale)
    return place


def test_every_8_bit_value_is_its_own_rounding():
    values = torch.arange(256).view(1, 1, 16, 16)
    assert np.array_equal(to_uint8(values / 255), values.permute(0, 2, 3, 1).numpy())


@pytest.mark.parametrize(
    ("value", "pixel"),
    [(-1.0, 0), (0.0, 0), (0.49 / 255, 0), (0.51 / 255, 1), (0.5, 128), (254.49 / 255, 254), (254.51 / 255, 255),
     (1.0, 255), (2.0, 255), (math.inf, 255), (-math.inf, 0)],
)  # fmt: skip
def test_rounding_is_to_nearest_half_up_and_clamped(value, pixel):
    assert to_uint8(torch.full((1, 1, 1, 1), value)).item() == pixel


def test_rounding_is_the_published_one():
    y = 2.4 * uniform(4, 3, 64, 64).double() - 1.2
    published = (127.5 * y + 128).clamp(0, 255).permute(0, 2, 3, 1).to(torch.uint8).numpy()
    assert np.array_equal(to_uint8((y + 1) / 2), published)


def test_pixels_are_channels_last_uint8():
    pixels = to_uint8(uniform(2, 3, 4, 5).requires_grad_())
    assert (pixels.shape, pixels.dtype) == ((2, 4, 5, 3), np.uint8)


@pytest.mark.parametrize(
    ("bad", "why"), [(torch.tensor([[[[0.5, math.nan]]]]), "1 of 2"), (torch.ones(1, 1, 2, 2).byte(), "dtype")]
)
def test_what_has_no_pixel_is_refused(bad, why):
    with pytest.raises(ValueError, match=why):
        to_uint8(bad)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("columns", "scale"), [(3, 1), (3, 2), (7, 1), (9, 3), (1, 1)])
def test_a_grid_holds_every_image_in_reading_order(channels, columns, scale):
    images = uniform(7, channels, 6, 5)
    found = [only_place(grid(images, columns=columns, scale=scale), image, scale) for image in images]
    assert found == sorted(found)
    assert len({y for y, _ in found}) == math.ceil(7 / columns)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("scale", [1, 2, 5])
@pytest.mark.parametrize("title", [None, "A title\nand a subtitle"])
@pytest.mark.parametrize("captions", [None, ["T-shirt/top", "Ankle boot", "", "electroencephalography"]])
def test_rows_hold_every_image_unchanged_in_a_regular_table(channels, scale, title, captions):
    rows = {label: uniform(4, channels, 7, 9, seed=seed) for seed, label in enumerate(["full", "N = 2\n1.56x"])}
    picture = labelled_rows(rows, scale=scale, title=title, captions=captions)
    table = np.array([[only_place(picture, image, scale) for image in images] for images in rows.values()])
    assert (np.diff(table[..., 0], axis=1) == 0).all()
    assert (np.diff(table[..., 0], axis=0) >= 7 * scale).all()
    assert (np.diff(table[..., 1], axis=0) == 0).all()
    assert len(set(np.diff(table[0, :, 1]))) == 1


@pytest.mark.parametrize(("size", "scale"), [(28, 3), (256, 1)])
def test_labels_title_and_captions_leave_ink_where_they_belong(size, scale):
    image = uniform(1, 3, size, size)
    picture = labelled_rows({"label": image}, scale=scale, title="title", captions=["caption"])
    y, x = only_place(picture, image[0], scale)
    pixels, paper = np.asarray(picture), np.array(Image.new("RGB", (1, 1), PAPER))[0, 0]
    label, title = pixels[y : y + size * scale, : x - 1], pixels[: y - 1]
    caption, edges = pixels[y + size * scale + 1 :], [pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]
    assert all((part != paper).any() for part in (label, title, caption))
    assert all((edge == paper).all() for edge in edges)


def test_gray_and_colour_rows_share_a_picture_and_a_picture_is_reproducible():
    rows = {"gray": uniform(2, 1, 6, 6), "colour": uniform(2, 3, 6, 6, seed=1)}
    picture = labelled_rows(rows, scale=2)
    assert all(places(picture, image, 2) for images in rows.values() for image in images)
    assert picture.tobytes() == labelled_rows(rows, scale=2).tobytes()


@pytest.mark.parametrize(
    ("rows", "options", "why"),
    [
        ({}, {}, "at least one"),
        ({"a": torch.zeros(2, 1, 4, 4), "b": torch.zeros(3, 1, 4, 4)}, {}, r"'b': \(3, 1, 4, 4\)"),
        ({"a": torch.zeros(2, 1, 4, 4), "b": torch.zeros(2, 1, 4, 5)}, {}, "same B, H and W"),
        ({"a": torch.zeros(2, 4, 4, 4)}, {}, "C 1 or 3"),
        ({"a": torch.zeros(1, 4, 4)}, {}, "C 1 or 3"),
        ({"a": torch.zeros(0, 1, 4, 4)}, {}, "B >= 1"),
        ({"a": torch.zeros(2, 1, 4, 4)}, {"captions": ["one"]}, "1 captions for 2 columns"),
        ({"a": torch.zeros(2, 1, 4, 4)}, {"captions": []}, "0 captions for 2 columns"),
        ({"a": torch.zeros(2, 1, 4, 4)}, {"scale": 0}, "scale is 0"),
        ({"3\u00d7": torch.zeros(2, 1, 4, 4)}, {}, "built-in font lacks"),
    ],
)
def test_rows_that_make_no_table_are_refused(rows, options, why):
    with pytest.raises(ValueError, match=why):
        labelled_rows(rows, **{"scale": 1, **options})


@pytest.mark.parametrize("options", [{}, {"title": "A title\nand more", "captions": ["one", "", "three words here"]}])
def test_frame_f_of_clips_is_the_page_of_their_frames_f(options):
    rows = {"full\n1.2 s": uniform(3, 5, 3, 6, 7), "gray": uniform(3, 5, 1, 6, 7, seed=1)}
    pages = labelled_clips(rows, scale=2, **options)
    assert pages.dtype == np.uint8
    assert len(pages) == 5
    for frame, page in enumerate(pages):
        images = {label: clips[:, frame] for label, clips in rows.items()}
        assert np.array_equal(page, np.asarray(labelled_rows(images, scale=2, **options)))


@pytest.mark.parametrize(
    ("rows", "options", "why"),
    [
        ({}, {}, "at least one row"),
        ({"a": torch.zeros(2, 3, 1, 4, 4), "b": torch.zeros(2, 4, 1, 4, 4)}, {}, r"{'a': 3, 'b': 4} frames"),
        ({"a": torch.zeros(2, 3, 1, 4, 4), "b": torch.zeros(1, 3, 1, 4, 4)}, {}, "same B, H and W"),
        ({"a": torch.zeros(2, 3, 4, 4)}, {}, r"'a' has shape \(2, 3, 4, 4\)"),
        ({"a": torch.zeros(2, 0, 3, 4, 4)}, {}, "F >= 1"),
        ({"a": torch.zeros(2, 3, 4, 4, 4)}, {}, "C 1 or 3"),
        ({"a": torch.zeros(2, 3, 1, 4, 4)}, {"captions": ["one"]}, "1 captions for 2 columns"),
    ],
)
def test_clips_that_make_no_table_are_refused(rows, options, why):
    with pytest.raises(ValueError, match=why):
        labelled_clips(rows, scale=1, **options)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_contact_sheet_has_a_row_a_clip_and_a_column_a_frame(channels):
    clips = uniform(3, 4, channels, 6, 5)
    sheet = contact_sheet(clips, scale=2)
    table = np.array([[only_place(sheet, image, 2) for image in clip] for clip in clips])
    assert (table == table[:1, :, :] * [0, 1] + table[:, :1, :] * [1, 0]).all()
    assert (np.diff(table[:, 0, 0]) > 0).all()
    assert (np.diff(table[0, :, 1]) > 0).all()


@pytest.mark.parametrize(
    ("columns", "shown"), [(1, [0]), (2, [0, 8]), (3, [0, 4, 8]), (5, [0, 2, 4, 6, 8]), (9, [*range(9)])]
)
def test_a_contact_sheet_shows_frames_evenly_spaced(columns, shown):
    clips = uniform(2, 9, 1, 4, 4)
    wanted = grid(clips[:, shown].flatten(0, 1), columns=columns)
    assert contact_sheet(clips, scale=1, columns=columns).tobytes() == wanted.tobytes()


@pytest.mark.parametrize(
    ("clips", "columns", "why"),
    [
        (torch.zeros(2, 3, 1, 4, 4), 0, "columns is 0; it must be between 1 and 3"),
        (torch.zeros(2, 3, 1, 4, 4), 4, "columns is 4; it must be between 1 and 3"),
        (torch.zeros(3, 1, 4, 4), None, r"clips has shape \(3, 1, 4, 4\)"),
        (torch.zeros(0, 3, 1, 4, 4), None, "B >= 1"),
    ],
)
def test_clips_that_make_no_sheet_are_refused(clips, columns, why):
    with pytest.raises(ValueError, match=why):
        contact_sheet(clips, scale=1, columns=columns)


def test_a_grid_without_columns_is_refused():
    with pytest.raises(ValueError, match="columns is 0"):
        grid(torch.zeros(1, 1, 4, 4), columns=0)


def test_difference_is_absolute_amplified_and_clipped():
    images, reference = torch.tensor([0.5, 0.5, 1.0, 0.25]), torch.tensor([0.5, 0.625, 0.0, 0.125])
    found = difference(images.view(1, 1, 2, 2), reference.view(1, 1, 2, 2), gain=4)
    assert torch.equal(found.flatten(), torch.tensor([0.0, 0.5, 1.0, 0.5]))


@pytest.mark.parametrize(
    ("gain", "label"), [(4, "difference x 4"), (2.5, "difference x 2.5"), (10.0, "difference x 10")]
)
def test_the_label_of_a_difference_says_its_gain(gain, label):
    assert difference_label(gain=gain) == label


def test_differences_that_mean_nothing_are_refused():
    images = torch.zeros(1, 1, 4, 4)
    with pytest.raises(ValueError, match=r"\(1, 1, 4, 4\), the reference \(1, 1, 4, 3\)"):
        difference(images, images[..., :3], gain=1)
    with pytest.raises(ValueError, match="gain is 0"):
        difference(images, images, gain=0)


def test_a_png_holds_the_picture_and_replaces_the_old_one(tmp_path):
    picture, path = grid(uniform(4, 3, 6, 6), columns=2), tmp_path / "samples.png"
    path.write_bytes(b"old")
    save_png(picture, path)
    assert np.array_equal(np.asarray(Image.open(path)), np.asarray(picture))
    assert os.listdir(tmp_path) == ["samples.png"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "samples.png"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="cannot write mode F"):
        save_png(Image.new("F", (4, 4)), path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["samples.png"]


def test_a_name_that_does_not_say_png_is_refused(tmp_path):
    with pytest.raises(ValueError, match="end in .png"):
        save_png(Image.new("L", (4, 4)), tmp_path / "samples.jpg")
