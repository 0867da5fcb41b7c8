"""Images with captions: metadata.jsonl or metadata.csv, files that are missing, lines that are none."""

import json

import pytest
import torch

from skipdit.data import Crop, captioned_folder, image_folder
from skipdit.data.captions import read_captions
from tests.data.pictures import SHAPES, write_pictures


def write_captions(folder, *, extra=()):
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    rows = [{"file_name": name, "text": f"a {name.split('/')[0]}"} for name in names]
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in [*rows, *extra]) + "\n")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_captions(write_pictures(tmp_path_factory.mktemp("pictures"), each=2))


def test_each_image_has_its_caption_and_dropped_ones_the_empty_one(folder):
    dataset = captioned_folder(folder, Crop(16, flip=True))
    assert dataset.captions == tuple(f"a {shape}" for shape in SHAPES for _ in range(2))
    indices = torch.tensor([0, 7, 8, 15])
    assert torch.equal(dataset.x_0(indices), image_folder(folder, Crop(16, flip=True)).x_0(indices))
    given = dataset.conditions(indices, dropped=torch.tensor([False, False, False, True]))
    expected = dataset.states.of(["a circle", "a triangle", "a circle", ""])
    assert all(torch.equal(given[name], expected[name]) for name in expected)


def test_a_table_of_commas_is_read_too(tmp_path):
    (tmp_path / "metadata.csv").write_text('file_name,caption\n1.png,"a cat, sleeping"\n2.png,a dog\n')
    assert read_captions(tmp_path) == [("1.png", "a cat, sleeping"), ("2.png", "a dog")]


def test_captions_without_files_count_as_broken(tmp_path):
    write_captions(write_pictures(tmp_path, each=1), extra=[{"file_name": "lost.png", "text": "a ghost"}])
    with pytest.raises(ValueError, match=r"1 of 5 files in .* cannot be read \(lost.png\), more than the share 0.01"):
        captioned_folder(tmp_path, Crop(16))
    with pytest.warns(UserWarning, match="1 of 5 files"):
        assert "a ghost" not in captioned_folder(tmp_path, Crop(16, max_broken=0.5)).captions


@pytest.mark.parametrize("line", ['{"file_name": "a.png"}', '{"text": "a cat"}', "a.png a cat", "3", '{"text": 1}'])
def test_a_line_that_is_none_is_named(tmp_path, line):
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a cat"}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"metadata.jsonl line 2 lacks file_name or text: write both"):
        read_captions(tmp_path)


def test_no_captions_at_all_are_refused(tmp_path):
    with pytest.raises(ValueError, match="has no captions: write metadata.jsonl"):
        read_captions(tmp_path)
    (tmp_path / "metadata.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="metadata.jsonl is empty"):
        read_captions(tmp_path)
