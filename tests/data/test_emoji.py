"""Captioned emoji: drawings and names are joined, captions are those that HunyuanDiTPipeline would be given."""

import sys
import tarfile
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, HunyuanDiTPipeline

from skipdit import data
from skipdit.data.emoji import (
    EXAMPLES,
    FLUENT,
    FOLDER,
    NOTO,
    STYLES,
    EncodedCaptions,
    byte_t5,
    caption,
    cleaned,
    emoji,
    fetch,
    held_out,
)
from skipdit.data.text import minilm
from skipdit.models.hunyuan import HunyuanDiT
from tests.data.tiny_emoji import NAMES, ONLY_FLAT, PACKAGES, colour, entry, write_packages

BERT, T5 = ("encoder_hidden_states", "text_embedding_mask"), ("encoder_hidden_states_t5", "text_embedding_mask_t5")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_packages(tmp_path_factory.mktemp("emoji"))


@pytest.fixture(scope="module")
def drawings(folder):
    return data.load("emoji", folder=folder)


@pytest.fixture(scope="module")
def pipeline():
    tokenizer, text_encoder = minilm()
    tokenizer_2, text_encoder_2 = byte_t5()
    return HunyuanDiTPipeline(
        vae=None, text_encoder=text_encoder, tokenizer=tokenizer, transformer=None, scheduler=DDPMScheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False, text_encoder_2=text_encoder_2,
        tokenizer_2=tokenizer_2,
    )  # fmt: skip


def both(folder) -> dict[tuple[str, str], torch.Tensor]:
    """The drawings of both splits by name and style."""
    splits = [emoji(folder, split=split) for split in ("train", "test")]
    return {(n, s): image for part in splits for n, s, image in zip(part.names, part.styles, part.images, strict=True)}


def test_every_name_has_its_drawing_in_both_styles(folder):
    found = both(folder)
    assert len(found) == 2 * len(NAMES) - 1
    assert {style for name, style in found if name == ONLY_FLAT.lower()} == {"flat"}
    for (name, style), image in found.items():
        index = next(i for i, whole in enumerate(NAMES) if cleaned(entry(i, whole)) == name)
        assert image.shape == (3, 64, 64)
        assert tuple(image[:, 32, 32].tolist()) == colour(index, style)
        assert (image[:, :8] == 255).all()  # on white


def test_no_skin_tone_and_no_component_is_among_them(folder):
    assert not [image for image in both(folder).values() if image[:, 32, 32].tolist() == [9, 9, 9]]


def test_a_name_is_held_out_with_both_drawings(folder):
    train, test = (emoji(folder, split=split) for split in ("train", "test"))
    assert set(test.names) == {"lotus"}
    assert sorted(test.styles) == ["3d", "flat"]
    assert not set(train.names) & set(test.names)


def test_one_name_of_twenty_is_held_out():
    assert sum(held_out(str(number)) for number in range(20_000)) == pytest.approx(1_000, abs=5 * 31)


def test_samples_are_float_images_in_minus_one_to_one(drawings):
    x_0 = drawings.x_0(torch.arange(len(drawings)))
    assert (x_0.shape, x_0.dtype) == ((2 * len(drawings.images), 3, 64, 64), torch.float32)
    assert x_0.max() == 1
    assert torch.equal(x_0[::2], x_0[1::2])
    assert torch.equal(((x_0[::2] + 1) * 127.5).round().byte(), drawings.images)


def test_half_of_the_captions_tell_the_style(drawings):
    for drawing, (name, style) in enumerate(zip(drawings.names, drawings.styles, strict=True)):
        assert drawings.captions(torch.tensor([2 * drawing, 2 * drawing + 1])) == [caption(name), caption(name, style)]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("red apple", "a red apple"), ("octopus", "an octopus"), ("hourglass", "an hourglass"),
        ("crossed swords", "crossed swords"), ("umbrella with rain drops", "an umbrella with rain drops"),
        ("unicorn face", "a unicorn face"), ("euro banknote", "a euro banknote"), ("eyes", "eyes"),
        ("drum with drumsticks", "a drum with drumsticks"), ("dress", "a dress"), ("compass", "a compass"),
    ],
)  # fmt: skip
def test_a_caption_is_a_name_with_its_article(name, said):
    assert caption(name) == said
    assert caption(name, "3d") == f"{said}, 3d"


@pytest.mark.parametrize(
    ("name", "short", "kept"),
    [
        ("BLACK SCISSORS", "scissors", "scissors"),
        ("BLACK CAT", "black_cat", "black cat"),
        ("WHITE HEAVY CHECK MARK", "white_check_mark", "white check mark"),
        ("RESCUE WORKER’S HELMET", "helmet_with_white_cross", "rescue worker's helmet"),
        ("Japan Flag", "jp", "japan flag"),
    ],
)
def test_a_name_is_cleaned_of_how_it_is_printed(name, short, kept):
    assert cleaned({"name": name, "short_names": [short]}) == kept


def test_conditions_are_what_the_pipeline_makes_of_the_captions(drawings, pipeline):
    indices = torch.arange(0, 12, 3)
    conditions = drawings.conditions(indices, dropped=torch.zeros(4, dtype=torch.bool))
    check_states(conditions, pipeline, drawings.captions(indices))


def test_dropped_captions_are_the_empty_prompt_of_the_pipeline(drawings, pipeline):
    conditions = drawings.conditions(torch.arange(2), dropped=torch.tensor([True, False]))
    check_states(conditions, pipeline, ["", drawings.captions(torch.tensor([1]))[0]])


def check_states(conditions, pipeline, captions):
    """States are kept in float16; those of the BERT's padding are of no account, those of the T5's are."""
    for which, (states, mask) in enumerate((BERT, T5)):
        for row, text in enumerate(captions):
            with torch.no_grad():
                expected, _, tokens, _ = pipeline.encode_prompt(
                    text, do_classifier_free_guidance=False, text_encoder_index=which
                )
            assert torch.equal(conditions[mask][row], tokens[0])
            counted = tokens[0].bool() if which == 0 else slice(None)
            torch.testing.assert_close(conditions[states][row, counted], expected[0, counted], rtol=1e-3, atol=1e-3)
            assert (conditions[states][row, ~tokens[0].bool()] == 0).all() or which == 1


def test_conditions_are_all_that_a_model_of_these_sizes_takes(drawings):
    gives = drawings.gives
    model = HunyuanDiT(
        num_attention_heads=2, attention_head_dim=8, hidden_size=16, num_layers=2, in_channels=gives["in_channels"],
        sample_size=gives["height"], patch_size=16, cross_attention_dim=gives["cross_attention_dim"],
        cross_attention_dim_t5=gives["cross_attention_dim_t5"], pooled_projection_dim=16,
        use_style_cond_and_image_meta_size=False,
    )  # fmt: skip
    indices = torch.arange(3)
    conditions = drawings.conditions(indices, dropped=indices == 1)
    said = model(drawings.x_0(indices), torch.tensor([1, 500, 999]), **conditions).sample
    assert said.shape == (3, 6, 64, 64)


def test_every_token_lies_at_a_position_of_the_texts_own(drawings):
    indices = torch.arange(len(drawings))
    conditions = drawings.conditions(indices, dropped=torch.zeros(len(indices), dtype=torch.bool))
    mask = torch.cat([conditions["text_embedding_mask"], conditions["text_embedding_mask_t5"]], dim=1).bool()
    own = torch.zeros(mask.shape[1], dtype=torch.bool)
    for positions in drawings.states.own_text:
        own[list(positions)] = True
        assert mask[:, positions.stop - 1].any()
    assert not mask[:, ~own].any()


def test_a_token_outside_the_texts_own_positions_is_refused():
    mask = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 1]])
    with pytest.raises(ValueError, match="a token of caption 1 is at 3, where padding is expected"):
        EncodedCaptions({"a": 0, "b": 1}, torch.zeros(2, 3, 8), torch.ones(2, 3), torch.zeros(2, 4, 8), mask)


def test_examples_are_ten_names_in_each_style(drawings):
    examples = drawings.examples()
    assert {len(value) for value in examples.values()} == {len(EXAMPLES) * len(STYLES)}
    assert examples["encoder_hidden_states"].shape[1:] == (77, 384)
    assert examples["encoder_hidden_states_t5"].shape[1:] == (256, 128)


def test_drawings_are_decoded_once_and_again_when_the_files_are_others(tmp_path):
    folder = write_packages(tmp_path)
    first = emoji(folder)
    assets = folder / PACKAGES["3d"] / "package" / "assets"
    (assets / "0000.webp").write_bytes(b"")  # is not read again
    assert torch.equal(emoji(folder).images, first.images)
    (assets / "0000.webp").unlink()
    assert len(emoji(folder).images) == len(first.images) - 1


@pytest.mark.parametrize(("style", "package"), [("flat", NOTO), ("3d", FLUENT)])
def test_a_missing_package_is_named_with_the_commands_that_bring_it(tmp_path, style, package):
    write_packages(tmp_path)
    (tmp_path / PACKAGES[style]).rename(tmp_path / "gone")
    said = f"lacks {package}@.*: run python -m skipdit.data.emoji, or .*npm pack {package}"
    with pytest.raises(FileNotFoundError, match=said):
        data.load("emoji", folder=tmp_path)


def test_damaged_names_are_named(tmp_path):
    path = write_packages(tmp_path) / PACKAGES["flat"] / "package" / "emoji.json"
    path.write_text("[{")
    with pytest.raises(OSError, match="emoji.json cannot be read .*: unpack emoji-datasource-google again"):
        emoji(tmp_path)


def test_a_missing_t5_is_named_with_the_command_that_trains_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no T5: run python -m skipdit.training.distil --out"):
        byte_t5(tmp_path)


def test_an_unknown_split_is_answered_with_the_names(folder):
    with pytest.raises(ValueError, match="split is 'validation': take one of train, test"):
        emoji(folder, split="validation")


@pytest.mark.skipif(sys.platform == "win32", reason="npm is a script of the test's own")
def test_fetching_brings_what_is_missing_and_nothing_else(tmp_path, monkeypatch):
    """npm is one that packs the packages in miniature, and writes down what it was asked for."""
    made, there, tools = (tmp_path / name for name in ("made", "there", "tools"))
    write_packages(made)
    archives = {}
    for package, name in ((NOTO, PACKAGES["flat"]), (FLUENT, PACKAGES["3d"])):
        archives[package] = f"{name}.tgz"
        with tarfile.open(made / f"{name}.tgz", "w:gz") as file:
            file.add(made / name / "package", "package")
    tools.mkdir()
    npm = tools / "npm"
    npm.write_text(
        f"#!{sys.executable}\nimport shutil, sys\nname = {archives!r}[sys.argv[2].rpartition('@')[0]]\n"
        f"shutil.copy({str(made)!r} + '/' + name, name)\n"
        f"open({str(tmp_path / 'asked')!r}, 'a').write(sys.argv[2] + ' ')\nprint(name)\n"
    )
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(tools))
    fetch(there)
    assert len(emoji(there).images) == len(emoji(made).images)
    fetch(there)
    assert sorted((tmp_path / "asked").read_text().split()) == [f"{FLUENT}@1.1.0", f"{NOTO}@16.0.0"]
    assert not list(Path(there).glob("*.tgz"))


@pytest.mark.skipif(not (FOLDER / "pictures.safetensors").exists(), reason="python -m skipdit.data.emoji")
def test_the_packages_hold_3758_drawings_of_named_things():
    train, test = emoji(), emoji(split="test")
    assert (len(train.images), len(test.images)) == (3_586, 172)
    assert set(EXAMPLES) <= set(train.names)
