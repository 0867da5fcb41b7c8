"""Tables of Hugging Face `datasets`: parquet and arrow files with images and labels."""

import pytest
import torch

datasets = pytest.importorskip("datasets")

from skipdit.data import Crop, image_folder  # noqa: E402
from skipdit.data.table import image_table, is_table  # noqa: E402
from skipdit.recipes.yours import yours  # noqa: E402
from tests.data.pictures import SHAPES, write_pictures  # noqa: E402


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures"), each=3)


@pytest.fixture(scope="module")
def table(pictures):
    return datasets.load_dataset("imagefolder", data_dir=str(pictures), split="train")


def test_a_parquet_file_gives_what_its_folder_of_images_gives(tmp_path, pictures, table):
    table.to_parquet(tmp_path / "pictures.parquet")
    ours, theirs = image_table(str(tmp_path / "pictures.parquet"), Crop(16)), image_folder(pictures, Crop(16))
    assert ours.class_names == theirs.class_names == SHAPES
    everything = torch.arange(12)
    assert torch.equal(ours.x_0(everything), theirs.x_0(everything))
    assert torch.equal(ours.labels, theirs.labels)


def test_labels_may_be_words(tmp_path, table):
    words = [SHAPES[label] for label in table["label"]]
    table.remove_columns("label").add_column("label", words).to_parquet(tmp_path / "words.parquet")
    dataset = image_table(str(tmp_path / "words.parquet"), Crop(16))
    assert dataset.class_names == SHAPES
    assert dataset.labels.tolist() == list(table["label"])


def test_a_run_is_made_for_a_folder_of_arrow_files(tmp_path, table):
    table.save_to_disk(tmp_path / "saved")
    assert is_table(str(tmp_path / "saved"))
    config = yours(str(tmp_path / "saved"), tmp_path / "run", size="S/4")
    assert (config.dataset, config.crop, config.model.num_classes) == ("table", Crop(28), 4)


def test_what_is_no_table_of_images_is_one_line(tmp_path, table):
    table.remove_columns("image").to_parquet(tmp_path / "none.parquet")
    with pytest.raises(ValueError, match="has the columns label: it needs one of Image features, or one called image"):
        image_table(str(tmp_path / "none.parquet"), Crop(16))
    (tmp_path / "broken.parquet").write_bytes(b"no table")
    with pytest.raises(OSError, match=r"broken.parquet cannot be read \(.*\): name a parquet or arrow file"):
        image_table(str(tmp_path / "broken.parquet"), Crop(16))
