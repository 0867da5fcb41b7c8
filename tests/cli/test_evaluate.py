"""`skipdit evaluate`: sets on a disk against one another."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from skipdit.evaluation.features import Lite0


@pytest.fixture
def network(tmp_path) -> Path:
    """Weights of the right names, at random: what is tested here is the way from files to numbers."""
    torch.manual_seed(0)
    torch.save(Lite0().state_dict(), tmp_path / "lite0.pth")
    return tmp_path / "lite0.pth"


def write_images(folder: str, images: np.ndarray) -> None:
    for index, pixels in enumerate(images):
        path = Path(folder) / f"class {index % 2}" / f"{index:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


def pictures(count: int, *, seed: int = 0, shape: tuple[int, ...] = (16, 16, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def test_a_folder_against_an_npz(skipdit, network):
    write_images("drawn", pictures(20))
    np.savez("real.npz", pictures(24, seed=1))
    said = skipdit(f"evaluate drawn --against real.npz --network {network} --side 32 --times 3 --out numbers.json")
    assert said.code == 0, said.err
    found = json.loads(Path("numbers.json").read_text())["results"]
    assert (found["images"], found["reference images"]) == (20, 24)
    assert found["FD-Lite0"]["value"] > 0
    assert found["FD-Lite0"]["error"] > 0
    assert {line.split("  ")[0] for line in said.out.splitlines()} == found.keys()
    again = skipdit(f"evaluate drawn --against real.npz --network {network} --side 32 --times 3")
    assert again.out == said.out


def test_a_set_against_itself_is_at_no_distance(skipdit, network):
    write_images("drawn", pictures(20))
    skipdit(f"evaluate drawn --against drawn --network {network} --side 32 --times 2 --out numbers.json")
    found = json.loads(Path("numbers.json").read_text())["results"]
    assert found["FD-Lite0"]["value"] == pytest.approx(0, abs=1e-6)
    assert (found["precision"], found["recall"]) == (1, 1)


def test_images_are_decoded_as_for_training(skipdit):
    """16 bits are rounded and not cut off, and EXIF turns are made."""
    Path("drawn").mkdir()
    Path("other").mkdir()
    grey = pictures(1, shape=(16, 20))[0]
    Image.fromarray(grey.astype(np.uint16) * 257).save("drawn/0.png")
    Image.fromarray(grey).save("other/0.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned to the left
    Image.fromarray(grey.T[::-1].copy()).save("drawn/1.png", exif=exif)
    Image.fromarray(grey).save("other/1.png")
    skipdit("evaluate drawn --against other --paired --out numbers.json")
    assert json.loads(Path("numbers.json").read_text())["results"]["identical"] == 2


def test_pairs_are_compared_image_by_image(skipdit):
    drawn = pictures(4)
    write_images("drawn", drawn)
    other = drawn.copy()
    other[1] = 255 - other[1]
    write_images("other", other)
    skipdit("evaluate drawn --against other --paired --out numbers.json")
    found = json.loads(Path("numbers.json").read_text())["results"]
    assert (found["images"], found["identical"]) == (4, 3)
    expected = -10 * np.log10((((drawn[1].astype(float) - other[1]) / 255) ** 2).mean())
    assert found["PSNR dB, worst"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("evaluate drawn --against few", "few has 3 images: a distance of sets needs at least 16"),
        ("evaluate drawn --against empty", "empty has no image: put images in it"),
        ("evaluate drawn --against missing", "missing is no folder and no .npz file"),
        ("evaluate drawn --against nothing.npz", r"nothing.npz: arr_0 is uint8 (0, 8, 8, 3), but must be uint8"),
        ("evaluate drawn --against text.npz", "text.npz holds no arr_0"),
        ("evaluate drawn --against small --paired", "image 0 is 16 x 16 and 8 x 8: give pairs of one size"),
        ("evaluate drawn --against few --paired", "drawn has 20 images and few 3: give pairs"),
        ("evaluate drawn --against broken", "broken/000.png cannot be read as an image"),
        ("evaluate drawn --against drawn --side 0", "side is 0: it must be at least 1"),
        ("evaluate drawn --against drawn --times 1", "times is 1: an error needs at least 2 parts"),
    ],
)
def test_what_cannot_be_compared_is_one_line(skipdit, network, line, message):
    write_images("drawn", pictures(20))
    write_images("few", pictures(3))
    write_images("small", pictures(20, shape=(8, 8, 3)))
    Path("empty").mkdir()
    Path("text.npz").write_text("no array")
    np.savez("nothing.npz", pictures(0, shape=(8, 8, 3)))
    write_images("broken", pictures(20))
    Path("broken/000.png").write_bytes(b"no picture")
    said = skipdit(line + ("" if "--paired" in line else f" --network {network}"))
    assert said.code == 2
    assert message in said.complaint
