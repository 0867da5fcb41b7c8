"""Labelled image sets: shapes, ranges, and what is said where the files are not."""

import gzip
import struct

import numpy as np
import pytest
import torch

from skipdit import data
from skipdit.data.images import FASHION_CLASSES, FASHION_MNIST_FOLDER, ImageSet

IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"


def write_idx(folder, *, number: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Fashion-MNIST in miniature, as IDX files: big-endian magic and sizes, then bytes."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (number, 28, 28), np.uint8), rng.integers(0, 10, number, np.uint8)
    with gzip.open(folder / IMAGES, "wb") as file:
        file.write(struct.pack(">4I", 0x803, number, 28, 28) + images.tobytes())
    with gzip.open(folder / LABELS, "wb") as file:
        file.write(struct.pack(">2I", 0x801, number) + labels.tobytes())
    return images, labels


def test_the_digits_are_all_there():
    digits = data.load("digits")
    assert len(digits) == 1797
    assert (digits.images.shape, digits.images.dtype) == ((1797, 1, 8, 8), torch.uint8)
    assert (digits.labels.shape, digits.labels.dtype) == ((1797,), torch.int64)
    assert digits.class_names == tuple("0123456789")
    assert digits.labels.unique().tolist() == list(range(10))


def test_the_17_grey_levels_of_the_digits_are_spread_over_a_byte():
    from sklearn.datasets import load_digits

    images = data.load("digits").images
    assert images.unique().tolist() == [round(level * 255 / 16) for level in range(17)]
    assert np.array_equal(np.rint(images[:, 0].numpy() / 255 * 16), load_digits().images)


def test_a_batch_is_in_minus_one_to_one():
    images = torch.tensor([0, 255, 51], dtype=torch.uint8).view(3, 1, 1, 1)
    pixels, labels = ImageSet(images, torch.tensor([4, 5, 6]), ()).batch(torch.tensor([2, 0, 1]))
    assert pixels.flatten().tolist() == pytest.approx([-0.6, -1.0, 1.0])
    assert (pixels.dtype, labels.tolist()) == (torch.float32, [6, 4, 5])


def test_fashion_mnist_is_read_from_its_idx_files(tmp_path):
    images, labels = write_idx(tmp_path)
    fashion = data.load("fashion-mnist", folder=tmp_path)
    assert np.array_equal(fashion.images[:, 0].numpy(), images)
    assert fashion.labels.tolist() == labels.tolist()
    assert fashion.class_names == FASHION_CLASSES
    assert fashion.images.is_contiguous()


@pytest.mark.skipif(not FASHION_MNIST_FOLDER.exists(), reason="apt-get install dataset-fashion-mnist")
def test_fashion_mnist_of_debian_is_balanced():
    fashion = data.load("fashion-mnist")
    assert fashion.images.shape == (60_000, 1, 28, 28)
    assert fashion.labels.bincount().tolist() == [6_000] * 10


@pytest.mark.parametrize("missing", [IMAGES, LABELS])
def test_a_missing_file_is_named_with_the_remedy(tmp_path, missing):
    write_idx(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(FileNotFoundError, match=f"{missing} does not exist: apt-get install dataset-fashion-mnist"):
        data.load("fashion-mnist", folder=tmp_path)


@pytest.mark.parametrize("content", [b"", b"no gzip", gzip.compress(b"short", mtime=0), b"half"])
def test_a_damaged_file_is_named(tmp_path, content):
    write_idx(tmp_path)
    whole = (tmp_path / IMAGES).read_bytes()
    (tmp_path / IMAGES).write_bytes(whole[: len(whole) // 2] if content == b"half" else content)
    with pytest.raises(OSError, match=f"{IMAGES} cannot be read .*: install or copy it again"):
        data.load("fashion-mnist", folder=tmp_path)


def test_the_digits_have_no_folder(tmp_path):
    with pytest.raises(ValueError, match="the digits come inside scikit-learn; leave the folder out"):
        data.load("digits", folder=tmp_path)


def test_an_unknown_set_is_answered_with_the_names():
    with pytest.raises(ValueError, match="unknown dataset 'mnist': take one of fashion-mnist, digits"):
        data.load("mnist")


def test_dropped_images_have_the_null_class():
    digits, indices = data.load("digits"), torch.arange(6)
    labels = digits.conditions(indices, dropped=indices >= 4)["class_labels"]
    assert labels.tolist() == [0, 1, 2, 3, 10, 10]
    assert torch.equal(digits.x_0(indices), digits.batch(indices)[0])
