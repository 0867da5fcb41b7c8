"""The npm packages of the emoji in miniature: every sign is a square of its own colour, flat and in 3d."""

import json
from pathlib import Path

from PIL import Image

NAMES = (
    "RED APPLE", "BLACK SCISSORS", "BLACK CAT", "CROSSED SWORDS", "OCTOPUS", "UMBRELLA WITH RAIN DROPS",
    "BREAD", "HOURGLASS", "SMILING FACE WITH HEART-SHAPED EYES", "CÔTE D’IVOIRE FLAG", "UNICORN FACE", "LOTUS",
)  # fmt: skip
SHORT = {"BLACK SCISSORS": "scissors"}
ONLY_FLAT = "HOURGLASS"
PACKAGES = {"flat": "emoji-datasource-google-16.0.0", "3d": "lobehub-fluent-emoji-3d-1.1.0"}


def colour(index: int, style: str) -> tuple[int, int, int]:
    return (20 * index, 255 - 20 * index, 200 if style == "3d" else 50)


def write_packages(folder: Path) -> Path:
    """Both packages, unpacked as `npm pack` and tar leave them."""
    flat, solid = (folder / PACKAGES[style] / "package" for style in ("flat", "3d"))
    for place in (flat / "img" / "google" / "64", solid / "assets"):
        place.mkdir(parents=True)
    entries = [entry(index, name) for index, name in enumerate(NAMES)]
    entries.append(entry(0xFB, "EMOJI MODIFIER FITZPATRICK TYPE-1-2", unified="1F3FB", category="Component"))
    (flat / "emoji.json").write_text(json.dumps(entries), encoding="utf-8")
    for index, name in enumerate(NAMES):
        square(64, colour(index, "flat")).save(flat / "img" / "google" / "64" / f"{index:04x}-fe0f.png")
        if name != ONLY_FLAT:  # the other package has names without the variation selector
            square(256, colour(index, "3d")).save(solid / "assets" / f"{index:04x}.webp", lossless=True)
    square(64, (9, 9, 9)).save(flat / "img" / "google" / "64" / "1f3fb.png")
    square(64, (9, 9, 9)).save(flat / "img" / "google" / "64" / "0000-1f3fb.png")
    return folder


def entry(index: int, name: str, *, unified: str | None = None, category: str = "Objects") -> dict:
    return {
        "name": name, "unified": unified or f"{index:04X}-FE0F", "non_qualified": f"{index:04X}",
        "short_names": [SHORT.get(name, name.lower().replace(" ", "_"))], "category": category,
    }  # fmt: skip


def square(side: int, fill: tuple[int, int, int]) -> Image.Image:
    """A square of half the side in the middle; what is around it is clear, and black under that."""
    drawn = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    drawn.paste((*fill, 255), (side // 4, side // 4, 3 * side // 4, 3 * side // 4))
    return drawn
