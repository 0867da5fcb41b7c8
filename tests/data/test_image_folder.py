"""A folder of images: classes by folder, any kind of file, broken ones counted, named and skipped."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from skipdit.data import Crop, digest, image_folder
from skipdit.data.image_folder import centre_crop, pixels_of
from tests.data.pictures import SHAPES, write_pictures

CROP = Crop(16)


def decode(path, crop):
    with Image.open(path) as image:
        return pixels_of(image, crop)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures"), each=5)


def test_classes_are_the_first_folders_in_the_order_of_their_names(folder):
    dataset = image_folder(folder, CROP)
    assert dataset.class_names == SHAPES
    assert dataset.labels.tolist() == [label for label in range(4) for _ in range(5)]
    assert dataset.gives == {"in_channels": 3, "height": 16, "width": 16, "num_classes": 4}


def test_images_may_lie_deeper_and_hidden_ones_do_not_count(tmp_path):
    write_pictures(tmp_path, each=2)
    (tmp_path / "circle" / "more" / "still").mkdir(parents=True)
    (tmp_path / "circle" / "000.png").rename(tmp_path / "circle" / "more" / "still" / "UPPER.PNG")
    (tmp_path / "circle" / ".hidden.png").write_bytes(b"no image")
    (tmp_path / "notes.txt").write_text("no image either")
    dataset = image_folder(tmp_path, CROP)
    assert dataset.source.names[:2] == ("circle/001.png", "circle/more/still/UPPER.PNG")
    assert torch.bincount(dataset.labels).tolist() == [2, 2, 2, 2]


def test_samples_are_the_pixels_in_minus_one_to_one(folder):
    dataset = image_folder(folder, Crop(28))
    pixels = np.asarray(Image.open(folder / dataset.source.names[7]), dtype=np.float32)
    expected = torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1
    assert torch.equal(dataset.x_0(torch.tensor([7]))[0], expected)


def test_images_read_at_each_step_are_those_that_are_kept(folder):
    kept = image_folder(folder, replace(CROP, flip=True))
    indices = torch.tensor([3, 19, 20, 39])
    assert torch.equal(replace(kept, kept=None).x_0(indices), kept.x_0(indices))


def test_a_flip_doubles_the_set_by_mirrored_images_of_the_same_class(folder):
    plain, both = image_folder(folder, CROP), image_folder(folder, replace(CROP, flip=True))
    indices, kept = torch.arange(20), torch.zeros(20, dtype=torch.bool)
    assert len(both) == 2 * len(plain)
    assert torch.equal(both.x_0(indices), plain.x_0(indices))
    assert torch.equal(both.x_0(indices + 20), plain.x_0(indices).flip(-1))
    assert torch.equal(both.conditions(indices + 20, dropped=kept)["class_labels"], plain.labels)


def test_dropped_labels_are_the_null_class(folder):
    dataset = image_folder(folder, CROP)
    labels = dataset.conditions(torch.tensor([0, 19]), dropped=torch.tensor([True, False]))["class_labels"]
    assert labels.tolist() == [4, 3]


# Kinds of files.


def half_red(mode: str) -> Image.Image:
    """The left half red, the right half white, as a mode has them."""
    rgb = Image.new("RGB", (32, 32), "white")
    rgb.paste("red", (0, 0, 16, 32))
    if mode == "LAB":
        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        return ImageCms.profileToProfile(rgb, srgb, lab, outputMode="LAB")
    return rgb.convert(mode)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("RGB", "png"), ("RGBA", "png"), ("P", "png"), ("P", "gif"), ("CMYK", "tif"), ("LAB", "tif"), ("RGBA", "webp"),
     ("RGB", "bmp"), ("YCbCr", "tif")],
)  # fmt: skip
def test_every_colour_mode_is_read_in_its_colours(tmp_path, mode, suffix):
    half_red(mode).save(path := tmp_path / f"image.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    pixels = decode(path, Crop(32)).float()
    red, white = pixels[:, :, 4].mean(1), pixels[:, :, 28].mean(1)
    assert red.tolist() == pytest.approx([255, 0, 0], abs=8)
    assert white.tolist() == pytest.approx([255] * 3, abs=8)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "I;16", "I", "F"])
def test_every_grey_mode_is_read_at_its_brightness(tmp_path, mode):
    bright = {"1": 1, "I;16": 51400, "I": 51400, "F": 200 / 255}.get(mode, 200)
    if mode in ("1", "LA"):
        image = Image.new(mode, (8, 8), bright if mode == "1" else (bright, 255))
    else:
        kind = {"L": np.uint8, "I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        image = Image.fromarray(np.full((8, 8), bright, kind))
    assert image.mode == mode
    image.save(path := tmp_path / "image.tif")
    expected = 255 if mode == "1" else 200
    assert decode(path, Crop(8, channels=1)).unique().tolist() == [expected]
    assert decode(path, Crop(8, channels=3)).unique().tolist() == [expected]


def test_sixteen_bits_of_a_png_are_rounded_not_cut_off(tmp_path):
    ramp = np.linspace(0, 65535, 64).round().astype(np.uint16).reshape(8, 8)
    Image.fromarray(ramp).save(path := tmp_path / "ramp.png")
    expected = torch.from_numpy(np.rint(ramp / 257.0))
    assert torch.equal(decode(path, Crop(8, channels=1))[0].double(), expected)


def test_what_is_transparent_is_white(tmp_path):
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 255))
    image.paste((0, 0, 0, 0), (4, 0, 8, 8))
    image.save(path := tmp_path / "image.png")
    pixels = decode(path, Crop(8))
    assert pixels[:, :, :4].amin((1, 2)).tolist() == [255, 0, 0]
    assert (pixels[:, :, 4:] == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_its_exif_says(tmp_path, orientation):
    upright = np.zeros((16, 16), np.uint8)
    upright[:8, :8], upright[:8, 8:], upright[8:, :8] = 255, 170, 85  # every corner differs
    turns = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.T, 6: np.rot90(upright),
        7: np.rot90(upright, 2).T, 8: np.rot90(upright, 3),
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(turns[orientation])).save(path := tmp_path / "image.png", exif=exif)
    assert np.array_equal(decode(path, Crop(16, channels=1))[0].numpy(), upright)


@pytest.mark.parametrize("shape", [(40, 16), (16, 40), (333, 100), (7, 9), (64, 64)])
def test_a_crop_covers_the_centre_at_any_shape(shape):
    ramp = np.linspace(0, 255, shape[0])[None].repeat(shape[1], 0).astype(np.uint8)
    square = np.asarray(centre_crop(Image.fromarray(ramp), 16), dtype=float)
    assert square.shape == (16, 16)
    assert square.mean() == pytest.approx(127.5, abs=4)
    shown = min(1, shape[1] / shape[0])  # the share of the width that is left
    assert square[:, -1].mean() - square[:, 0].mean() == pytest.approx(255 * shown * 15 / 16, abs=17)


# What is broken.


def cut_short(folder, name):
    path = folder / name
    path.write_bytes(path.read_bytes()[:60])


def test_broken_files_are_named_and_skipped(tmp_path):
    write_pictures(tmp_path, each=5)
    cut_short(tmp_path, "cross/002.png")
    (tmp_path / "square" / "note.png").write_text("no image")
    with pytest.warns(UserWarning, match=r"2 of 21 files in .* cannot be read \(cross/002.png, square/note.png\)"):
        dataset = image_folder(tmp_path, replace(CROP, max_broken=0.1))
    assert dataset.broken == ("cross/002.png", "square/note.png")
    assert torch.bincount(dataset.labels).tolist() == [5, 4, 5, 5]


def test_too_many_broken_files_stop_the_run(tmp_path):
    write_pictures(tmp_path, each=5)
    cut_short(tmp_path, "cross/002.png")
    with pytest.raises(ValueError, match=r"1 of 20 files .*cross/002.png\), more than the share 0.04: mend or remove"):
        image_folder(tmp_path, replace(CROP, max_broken=0.04))


def test_a_file_that_goes_missing_during_a_run_is_named(tmp_path):
    dataset = replace(image_folder(write_pictures(tmp_path, each=2), CROP), kept=None)
    (tmp_path / "cross" / "001.png").unlink()
    with pytest.raises(OSError, match=r"cross/001.png can no longer be read: put it back"):
        dataset.x_0(torch.tensor([3]))


def test_folders_that_cannot_be_trained_on_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is no folder"):
        image_folder(tmp_path / "nowhere", CROP)
    with pytest.raises(ValueError, match="has no image: put images in it, a folder for each class"):
        image_folder(tmp_path, CROP)
    write_pictures(tmp_path, each=1)
    (tmp_path / "loose.png").write_bytes((tmp_path / "cross" / "000.png").read_bytes())
    with pytest.raises(ValueError, match="loose.png lies in no folder of a class"):
        image_folder(tmp_path, CROP)
    (tmp_path / "more").mkdir()
    (tmp_path / "loose.png").rename(tmp_path / "more" / "only.png")
    for shape in SHAPES:
        (tmp_path / shape / "000.png").unlink()
    with pytest.raises(ValueError, match="has one class, more: put images of two classes or more"):
        image_folder(tmp_path, CROP)


def test_a_class_without_a_readable_image_is_refused(tmp_path):
    write_pictures(tmp_path, each=1)
    cut_short(tmp_path, "cross/000.png")
    with (
        pytest.warns(UserWarning, match="1 of 4 files"),
        pytest.raises(ValueError, match="class cross of .* has no image that can be read"),
    ):
        image_folder(tmp_path, replace(CROP, max_broken=1))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"size": 0}, "crop.size is 0"), ({"channels": 4}, "crop.channels is 4"), ({"max_broken": 2}, "max_broken is 2")],
)
def test_a_crop_out_of_bounds_is_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        replace(CROP, **wrong)


# The same data.


def test_a_moved_folder_is_the_same_data_and_a_changed_one_is_not(tmp_path):
    first = digest(image_folder(write_pictures(tmp_path / "a", each=2), CROP))
    moved = (tmp_path / "a").rename(tmp_path / "b")
    assert digest(image_folder(moved, CROP)) == first
    assert digest(image_folder(moved, replace(CROP, flip=True))) != first
    (moved / "cross" / "001.png").rename(moved / "cross" / "new.png")
    assert digest(image_folder(moved, CROP)) != first
