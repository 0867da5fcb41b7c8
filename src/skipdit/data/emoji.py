"""Captioned drawings of emoji, 64 x 64 pixels on white: most things once in 3d (Fluent) and once flat (Noto).

    "RED APPLE" -> "a red apple" or "a red apple, 3d" -> states of a BERT [77, 384] and of a T5 [256, 128], with masks

The drawings come inside two npm packages and are joined with their names by code point; skin tones are left out.

    @lobehub/fluent-emoji-3d 1.1.0    Fluent 3D drawings, 256 x 256 (MIT)
    emoji-datasource-google 16.0.0    Noto drawings, 64 x 64 (Apache-2.0), and the names (MIT)

The BERT is MiniLM; the T5 reads bytes and is trained to say what MiniLM says (`skipdit.training.distil`).
"""

from __future__ import annotations

import json
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from uuid import uuid4

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from skipdit.data.text import encode, longest, minilm, no_progress_bar, plain
from skipdit.files import whole_folder

if TYPE_CHECKING:
    from transformers import ByT5Tokenizer, T5EncoderModel

FOLDER = Path.home() / ".cache" / "skipdit" / "emoji"
FLUENT, NOTO = "@lobehub/fluent-emoji-3d", "emoji-datasource-google"
STYLES = {"3d": FLUENT, "flat": NOTO}
VERSIONS = {FLUENT: "1.1.0", NOTO: "16.0.0"}
SIDE = 64  # pixels
SKIN_TONE = re.compile(r"1f3f[b-f]")
HELD_OUT = 20  # of so many names one is for the test split
TEXT_LENGTH, T5_LENGTH = 77, 256  # tokens, of HunyuanDiTPipeline.encode_prompt
PAINT = {"black", "white", "heavy"}  # what names of typefaces say of a filled, an outlined and a bold sign
BEFORE_OTHERS = re.compile(r",|:|\b(?:with|without|of|in|on|over|behind|for|holding|lifting|throwing)\b")
SINGULAR = re.compile(r"(?:ss|us|is|as|lens)$")
VOWEL_SOUND = re.compile(r"(?!uni|eu)[aeiou]|hour")
EXAMPLES = (
    "red apple", "slice of pizza", "sunflower", "cat face", "octopus", "rocket", "automobile", "soccer ball",
    "blue heart", "smiling face with sunglasses",
)  # fmt: skip


@dataclass(frozen=True)
class Emoji:
    """Drawings uint8 [N, 3, 64, 64] with their names and styles ("3d", "flat"), and the T5 that reads the captions.

    Sample i is drawing i // 2; its caption tells the style where i is odd.
    """

    images: Tensor
    names: tuple[str, ...]
    styles: tuple[str, ...]
    text_encoder_2: Path | None = None
    """folder of the T5, when not the one that the package carries"""

    def __len__(self) -> int:
        return 2 * len(self.images)

    @property
    def gives(self) -> dict[str, int]:
        """What a model of this data takes, by the names of its arguments."""
        return {
            "in_channels": 3, "height": SIDE, "width": SIDE,
            "cross_attention_dim": self.states.bert.shape[-1], "cross_attention_dim_t5": self.states.t5.shape[-1],
        }  # fmt: skip

    def x_0(self, indices: Tensor) -> Tensor:
        """Drawings in [-1, 1], float32 [B, 3, 64, 64]."""
        return self.images[indices // 2].float() / 127.5 - 1

    def captions(self, indices: Tensor) -> list[str]:
        """One caption a sample."""
        drawings, told = (indices // 2).tolist(), (indices % 2).tolist()
        return [
            caption(self.names[drawing], self.styles[drawing] if tell else None)
            for drawing, tell in zip(drawings, told, strict=True)
        ]

    @cached_property
    def states(self) -> EncodedCaptions:
        """Every caption of the set and of the previews, encoded once: a minute or two for all drawings."""
        captions = self.captions(torch.arange(len(self)))
        return encoded(["", *captions, *example_captions()], self.text_encoder_2)

    def conditions(self, indices: Tensor, *, dropped: Tensor) -> dict[str, Tensor]:
        """The states and masks of a HunyuanDiT's two texts; those of the empty prompt where `dropped`, bool [B]."""
        captions = self.captions(indices)
        return self.states.of(["" if drop else text for drop, text in zip(dropped.tolist(), captions, strict=True)])

    def examples(self) -> dict[str, Tensor]:
        """Conditions to draw previews for: ten names, a row for each style."""
        return self.states.of(example_captions())


def example_captions() -> list[str]:
    return [caption(name, style) for style in STYLES for name in EXAMPLES]


@dataclass(frozen=True)
class EncodedCaptions:
    """States of distinct captions: `rows` says which is whose.

    bert float16 [N, S, D] and its mask int64 [N, S], S tokens of the longest; t5 float16 [N, 256, D5] and its mask.
    What the BERT says of padding is left out, since a HunyuanDiT never sees it; of the T5's its pooler does.
    Raises: ValueError where a token lies outside `own_text`, since no sample would see its own there.
    """

    rows: dict[str, int]
    bert: Tensor
    bert_mask: Tensor
    t5: Tensor
    t5_mask: Tensor

    def __post_init__(self) -> None:
        _, own_t5 = self.own_text
        if len(outside := self.t5_mask[:, len(own_t5) :].nonzero()):
            row, position = outside[0].tolist()
            raise ValueError(
                f"a token of caption {row} is at {len(own_t5) + position}, where padding is expected: the longest has"
                f" {len(own_t5)} tokens, so pad captions at their end"
            )

    def of(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """What HunyuanDiT's forward takes, float32 states, for captions that are encoded here."""
        rows = torch.tensor([self.rows[text] for text in captions])
        padding = TEXT_LENGTH - self.bert.shape[1]
        states, mask = self.bert[rows].float(), self.bert_mask[rows]
        return {
            "encoder_hidden_states": functional.pad(states * mask[..., None], (0, 0, 0, padding)),
            "text_embedding_mask": functional.pad(mask, (0, padding)),
            "encoder_hidden_states_t5": self.t5[rows].float(),
            "text_embedding_mask_t5": self.t5_mask[rows],
        }

    def of_tokens(self) -> tuple[Tensor, Tensor]:
        """The states of all tokens that are no padding, [., D] of the BERT and [., D5] of the T5, float32."""
        return self.bert[self.bert_mask.bool()].float(), self.t5[self.t5_mask.bool()].float()

    @property
    def own_text(self) -> tuple[range, range]:
        """Positions of the two texts in a row that are no padding in some caption."""
        longest_t5 = int(self.t5_mask.sum(1).max())
        return range(self.bert.shape[1]), range(TEXT_LENGTH, TEXT_LENGTH + longest_t5)


def encoded(captions: Sequence[str], text_encoder_2: Path | None = None) -> EncodedCaptions:
    """The states of captions by MiniLM and by the T5 of a folder, the embedded one where none is given."""
    distinct = list(dict.fromkeys(captions))
    tokenizer, model = minilm()
    tokens = longest(distinct, tokenizer)
    bert, bert_mask = in_batches(distinct, lambda some: encode(some, tokenizer, model, length=tokens))
    tokenizer_2, model_2 = byte_t5(text_encoder_2)
    t5, t5_mask = in_batches(distinct, lambda some: encode_t5(some, tokenizer_2, model_2))
    return EncodedCaptions({text: row for row, text in enumerate(distinct)}, bert, bert_mask, t5, t5_mask)


def in_batches(
    texts: Sequence[str], encode_some: Callable[[Sequence[str]], tuple[Tensor, Tensor]], *, size: int = 64
) -> tuple[Tensor, Tensor]:
    """States as float16 and masks of many texts, some at a time."""
    parts = [encode_some(texts[first : first + size]) for first in range(0, len(texts), size)]
    return torch.cat([states.half() for states, _ in parts]), torch.cat([mask for _, mask in parts])


def byte_t5(folder: Path | None = None) -> tuple[ByT5Tokenizer, T5EncoderModel]:
    """The embedded T5 of bytes and its tokenizer, in evaluation mode; `folder` is that of another one.

    Raises OSError where transformers or the weights are missing.
    """
    folder = embedded_t5() if folder is None else folder
    try:
        from transformers import ByT5Tokenizer, T5EncoderModel
    except ImportError as error:
        raise OSError(f"a T5 cannot be read ({error}): pip install 'skipdit[text]'") from None
    if not (folder / "config.json").exists():
        raise FileNotFoundError(f"{folder} holds no T5: run python -m skipdit.training.distil --out {folder}")
    with no_progress_bar():
        return ByT5Tokenizer(), T5EncoderModel.from_pretrained(folder, local_files_only=True).eval()


def embedded_t5() -> Path:
    """Where the T5 of the embedded model lies: inside the installed package, or at the root of a checkout."""
    package, place = Path(__file__).parents[1], Path("weights") / "emoji-hunyuan" / "text_encoder_2"
    return package / place if (package / place).exists() else package.parents[1] / place


@torch.no_grad()
def encode_t5(
    captions: Sequence[str], tokenizer: ByT5Tokenizer, model: T5EncoderModel, *, length: int = T5_LENGTH
) -> tuple[Tensor, Tensor]:
    """States float32 [N, length, D] of captions padded to `length` bytes, padding too, and their mask int64."""
    padded = tokenizer(plain(captions), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return model(padded.input_ids, attention_mask=padded.attention_mask)[0].float(), padded.attention_mask


def caption(name: str, style: str | None = None) -> str:
    """ "red apple" -> "a red apple" or "a red apple, 3d"; what is more than one has no article."""
    described = name if is_plural(name) else f"{'an' if VOWEL_SOUND.match(name) else 'a'} {name}"
    return described if style is None else f"{described}, {style}"


def is_plural(name: str) -> bool:
    """Whether what comes before "with", "of" and the like ends in an s that is no singular's."""
    thing = BEFORE_OTHERS.split(name)[0].strip()
    return thing.endswith("s") and not SINGULAR.search(thing)


def cleaned(entry: dict) -> str:
    """The name of an entry of emoji.json in small letters, without black, white and heavy where they mean the print.

    They do where no short name has them: "BLACK SCISSORS" are scissors, but "BLACK CAT" is black.
    """
    words = " ".join(entry["name"].lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").split()).split(" ")
    short = set(re.split(r"[_-]", "_".join(entry["short_names"])))
    return " ".join(word for word in words if word not in PAINT - short)


def held_out(name: str) -> bool:
    """Whether a name belongs to the test split, with both of its drawings: one of 20, by a hash."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big") % HELD_OUT == 0


def emoji(
    folder: Path | None = None, *, split: Literal["train", "test"] = "train", text_encoder_2: Path | None = None
) -> Emoji:
    """The drawings of the two npm packages in `folder`, those of 5 % of the names apart as the test split.

    Raises: FileNotFoundError where a package is missing, with the commands that bring it.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split is {split!r}: take one of train, test")
    images, names, styles = drawings(FOLDER if folder is None else folder)
    kept = [index for index, name in enumerate(names) if held_out(name) == (split == "test")]
    return Emoji(images[kept], tuple(names[i] for i in kept), tuple(styles[i] for i in kept), text_encoder_2)


def drawings(folder: Path) -> tuple[Tensor, list[str], list[str]]:
    """All drawings uint8 [N, 3, 64, 64] with names and styles."""
    packages = {style: unpacked(folder, package) for style, package in STYLES.items()}
    found = [
        (path, cleaned(entry), style)
        for entry in entries(packages["flat"] / "emoji.json")
        for style in STYLES
        if (path := drawing(packages[style], entry, style))
    ]
    paths, names, styles = map(list, zip(*found, strict=True))
    return pictures(folder, paths), names, styles


def entries(path: Path) -> list[dict]:
    """What emoji.json says of every sign that is one by itself."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OSError(f"{path} cannot be read ({error}): unpack {NOTO} again") from None
    return [entry for entry in said if entry["category"] != "Component"]


def pictures(folder: Path, paths: list[Path]) -> Tensor:
    """The drawings of all files, decoded once, 20 s, and then kept in one file beside the packages."""
    kept, written = folder / "pictures.safetensors", json.dumps([str(path.relative_to(folder)) for path in paths])
    if kept.exists():
        with safe_open(kept, "pt") as file:
            if file.metadata()["paths"] == written:
                return file.get_tensor("images")
    images = torch.stack([picture(path) for path in tqdm(paths, desc="decoding", unit="drawing", leave=False)])
    aside = kept.with_name(f".{kept.name}.{uuid4().hex}")
    try:
        save_file({"images": images}, aside, metadata={"paths": written})
        aside.replace(kept)
    finally:
        aside.unlink(missing_ok=True)
    return images


def unpacked(folder: Path, package: str) -> Path:
    """Where the version of an npm package that is in use lies: FOLDER/NAME-VERSION/package."""
    found = folder / archive_name(package) / "package"
    if not found.exists():
        raise FileNotFoundError(
            f"{folder} lacks {pinned(package)}: run python -m skipdit.data.emoji, or there npm pack {pinned(package)}"
            " and unpack the .tgz into a folder of its name"
        )
    return found


def pinned(package: str) -> str:
    return f"{package}@{VERSIONS[package]}"


def archive_name(package: str) -> str:
    """What npm calls the archive of a package, without .tgz."""
    return f"{package.lstrip('@').replace('/', '-')}-{VERSIONS[package]}"


def drawing(package: Path, entry: dict, style: str) -> Path | None:
    """The file that an entry of emoji.json has in a package, if any."""
    pattern = "assets/{}.webp" if style == "3d" else "img/google/64/{}.png"
    codes = [code.lower() for code in (entry["unified"], entry["non_qualified"]) if code]
    paths = [package / pattern.format(code) for code in codes if not SKIN_TONE.search(code)]
    return next((path for path in paths if path.exists()), None)


def picture(path: Path) -> Tensor:
    """A drawing on white, uint8 [3, 64, 64]."""
    with Image.open(path) as file:
        drawn = file.convert("RGBA")
    white = Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn).convert("RGB")
    resized = white.resize((SIDE, SIDE), Image.Resampling.LANCZOS) if white.size != (SIDE, SIDE) else white
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous()


def fetch(folder: Path = FOLDER) -> None:
    """Bring and unpack the two npm packages, 87 MB, with npm; those that are there stay as they are."""
    for package in STYLES.values():
        if not (folder / archive_name(package) / "package").exists():
            bring(package, folder / archive_name(package))


def bring(package: str, folder: Path) -> None:
    """An npm package unpacked into a folder of its own, which is whole or absent."""
    with tempfile.TemporaryDirectory() as packed:
        subprocess.run(["npm", "pack", pinned(package), "--silent"], cwd=packed, check=True, stdout=subprocess.DEVNULL)
        with tarfile.open(Path(packed) / f"{archive_name(package)}.tgz") as file, whole_folder(folder) as partial:
            file.extractall(partial, filter="data")


if __name__ == "__main__":
    fetch()
