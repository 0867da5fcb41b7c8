"""`skipdit data check`: what would be used, what is broken, and a picture of it."""

from pathlib import Path

from PIL import Image

from tests.cli.conftest import contents
from tests.data.pictures import write_pictures


def test_a_folder_is_described_and_drawn(skipdit):
    write_pictures(Path("pictures"), each=12)
    Path("pictures/cross/003.png").write_bytes(b"no image")
    Image.new("L", (90, 40)).save("pictures/square/wide.png")
    said = skipdit("data check pictures --image-size 16 --out sheet.png")
    assert said.code == 0
    lines = [line.split() for line in said.out.splitlines()]
    assert lines[0] == ["48", "of", "49", "images", "can", "be", "read"]
    counts = {line[0]: int(line[1]) for line in lines if len(line) == 3 and line[2].startswith("#")}
    assert counts | {"circle": 12, "cross": 11, "square": 13, "triangle": 12, "RGB": 47, "L": 1} == counts
    assert ["28", "x", "28", "47", "#" * 30] in lines
    assert "broken: cross/003.png" in said.out
    assert Image.open("sheet.png").size == (8 + 10 * 18 + 9 * 2, 8 + 4 * 18 + 3 * 2)


def test_checking_changes_nothing_in_the_folder(skipdit):
    write_pictures(Path("pictures"), each=1)
    before = contents()
    assert skipdit("data check pictures").code == 0
    assert contents().keys() - before.keys() == {"pictures.png"}


def test_a_folder_without_images_and_an_unknown_task_are_one_line(skipdit):
    Path("empty").mkdir()
    assert skipdit("data check empty").complaint.startswith("empty has no image")
    assert skipdit("data chek empty").complaint.startswith("unknown task 'chek': take check")
