"""The reader of moving digits: what it says of clips, and what it refuses to say of clips that show nothing."""

import json
import math
from functools import cache
from pathlib import Path

import pytest
import torch

from skipdit.data.moving_digits import MovingDigits, moving_digits
from skipdit.evaluation.reading import (
    OPPOSITE,
    UNREAD,
    ClipReader,
    accuracy,
    load_reader,
    majority,
    probabilities,
    read,
    save_reader,
    shuffled,
    softened,
    train_reader,
    warped,
)
from skipdit.randomness import generator

COMMITTED = Path(__file__).parents[2] / "weights" / "clip-reader"


@cache
def real() -> MovingDigits:
    return moving_digits()


@cache
def held_out(count: int = 300) -> tuple[torch.Tensor, torch.Tensor]:
    """Real clips of digits that no one has seen, and their class ids."""
    test, indices = moving_digits(split="test"), torch.arange(count)
    return test.x_0(indices), test.class_ids(indices)


@cache
def committed() -> ClipReader:
    return load_reader(COMMITTED)


@cache
def trained(seed: int = 0) -> ClipReader:
    return train_reader(real(), steps=2, seed=seed)


def equal(one: ClipReader, other: ClipReader) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


class TestAnyReader:
    @pytest.mark.parametrize(("frames", "size"), [(16, 32), (1, 32), (2, 20), (7, 29)])
    def test_clips_of_any_length_and_size_are_read(self, frames, size):
        clips = torch.rand(3, frames, 1, size, size) * 2 - 1
        direction, digit = trained()(clips)
        assert (direction.shape, digit.shape) == ((3, 4), (3, 10))
        readings = read(trained(), clips)
        assert [(part.shape, part.dtype) for part in readings] == [((3,), torch.int64)] * 2 + [
            ((3,), torch.float32)
        ] * 2

    def test_digits_are_log_probabilities_and_a_vote_of_the_frames(self):
        clips = held_out()[0][:4]
        each = torch.stack([trained().digit(clips[:, frame : frame + 1]).exp() for frame in range(16)])
        torch.testing.assert_close(each.sum(-1), torch.ones(16, 4))
        torch.testing.assert_close(trained().digit(clips).exp(), each.mean(0))

    def test_the_order_of_frames_does_not_change_the_digit(self):
        clips = held_out()[0][:8]
        mixed = shuffled(clips, generator(0))
        torch.testing.assert_close(trained().digit(mixed), trained().digit(clips), rtol=0, atol=1e-5)

    def test_reversed_clips_have_the_opposite_directions(self):
        clips = held_out()[0][:8]
        assert torch.equal(trained().direction(clips.flip(1)), trained().direction(clips)[:, OPPOSITE])

    def test_clips_that_are_their_own_reversal_have_no_direction(self):
        clips = held_out()[0][:8]
        for still in (clips[:, :1].expand_as(clips), torch.cat([clips, clips.flip(1)], 1)):
            direction = trained().direction(still)
            assert torch.equal(direction, direction[:, OPPOSITE])
            assert (read(trained(), still).direction == UNREAD).all()

    def test_a_clip_reads_the_same_in_any_company(self):
        clips, some = held_out()[0][:150], slice(98, 103)  # on both sides of what one forward pass takes
        together, alone = read(committed(), clips), read(committed(), clips[some])
        assert torch.equal(together.digit[some], alone.digit)
        assert torch.equal(together.direction[some], alone.direction)
        torch.testing.assert_close(together.digit_confidence[some], alone.digit_confidence)


def test_what_has_no_majority_is_not_read():
    probability = torch.tensor([[0.5, 0.5, 0, 0], [0.6, 0.4, 0, 0], [0.4, 0.3, 0.2, 0.1], [0, 0, 0, 1]])
    answer, confidence = majority(probability.log())
    assert answer.tolist() == [UNREAD, 0, UNREAD, 3]
    torch.testing.assert_close(confidence, torch.tensor([0.5, 0.6, 0.4, 1]))


class TestTraining:
    def test_the_same_seed_gives_the_same_reader(self):
        assert equal(train_reader(real(), steps=2, seed=0), trained())
        assert not equal(trained(seed=1), trained())

    def test_training_leaves_the_random_numbers_of_others_alone(self):
        state = torch.get_rng_state()
        train_reader(real(), steps=1)
        assert torch.equal(torch.get_rng_state(), state)

    def test_a_few_steps_learn_the_direction_of_one_digit(self):
        """Chance is 0.25, and what is not read counts as wrong."""
        one = real()
        one = MovingDigits(one.digits[:1], one.labels[:1])
        reader, indices = train_reader(one, steps=60), torch.arange(100)
        assert accuracy(reader, one.x_0(indices), one.class_ids(indices))["direction"] > 0.6

    @pytest.mark.parametrize("steps", [0, -3])
    def test_no_steps_are_refused(self, steps):
        with pytest.raises(ValueError, match=f"steps is {steps}: it must be at least 1"):
            train_reader(real(), steps=steps)

    def test_shuffling_keeps_every_frame(self):
        clips = torch.arange(2 * 16.0).view(2, 16, 1, 1, 1)
        mixed = shuffled(clips, generator(0))
        assert torch.equal(mixed.sort(1).values, clips)
        assert not torch.equal(mixed[0] + 16, mixed[1])

    def test_softening_stays_in_range_and_near(self):
        clips, _ = held_out()
        soft = softened(clips[:8], generator(0))
        assert soft.abs().max() <= 1
        assert 0 < (soft - clips[:8]).abs().mean() < 0.25
        assert torch.equal(soft, softened(clips[:8], generator(0)))

    def test_warping_keeps_the_ink_near_its_place(self):
        digits = real().digits[:200]
        warp = warped(digits, generator(0))
        assert warp.shape == digits.shape
        assert warp.min() >= 0
        assert warp.max() <= 255.01
        assert 0.7 < warp.sum() / digits.sum() < 1.3
        correlation = [
            torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1] for a, b in zip(warp, digits.float())
        ]
        assert 0.7 < torch.stack(correlation).mean() < 0.99

    def test_unknown_answers_are_all_as_likely(self):
        rows = probabilities(torch.tensor([3, 1, 2]), 4, 1)
        assert rows.tolist() == [[0.25] * 4, [0, 1, 0, 0], [0, 0, 1, 0]]


class TestFiles:
    def test_a_saved_reader_is_loaded_as_it_was(self, tmp_path):
        save_reader(trained(), tmp_path / "new" / "folder")
        loaded = load_reader(tmp_path / "new" / "folder")
        assert equal(loaded, trained())
        assert not loaded.training

    def test_no_reader_is_no_file(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            load_reader(tmp_path)


class TestRefusals:
    @pytest.mark.parametrize("shape", [(16, 1, 32, 32), (2, 1, 16, 32, 32), (2, 16, 3, 32, 32), (0, 16, 1, 32, 32)])
    def test_other_shapes_are_named(self, shape):
        with pytest.raises(ValueError, match=rf"\({shape[0]}, .*must be \[B, F, 1, H, W\]"):
            read(trained(), torch.zeros(shape))

    @pytest.mark.parametrize("bad", [1.01, -2.0, math.nan])
    def test_values_outside_the_range_are_named(self, bad):
        clips = torch.zeros(1, 2, 1, 32, 32)
        clips[0, 1, 0, 3, 3] = bad
        with pytest.raises(ValueError, match=r"must be in \[-1, 1\]"):
            read(trained(), clips)

    def test_clips_just_outside_by_rounding_are_read(self):
        read(trained(), torch.full((1, 2, 1, 32, 32), 1 + 1e-6))

    def test_a_reader_in_training_mode_is_refused(self):
        with pytest.raises(ValueError, match="training mode"):
            read(ClipReader(), torch.zeros(1, 2, 1, 32, 32))

    def test_labels_that_are_not_one_class_id_each_are_refused(self):
        clips, labels = held_out()
        with pytest.raises(ValueError, match=r"shape \(3,\) for 2 clips"):
            accuracy(trained(), clips[:2], labels[:3])
        for wrong in (-1, 40):
            with pytest.raises(ValueError, match=f"class id {wrong} is out of range"):
                accuracy(trained(), clips[:1], torch.tensor([wrong]))


def test_accuracy_counts_digit_direction_and_both():
    """Against its own readings, with the direction of every second and the digit of every fourth made wrong."""
    clips, _ = held_out()
    readings = read(committed(), clips)
    known = (readings.digit != UNREAD).nonzero()[:40, 0]
    digit, direction = readings.digit[known].clone(), readings.direction[known].clone()
    direction[::2] = (direction[::2] + 1) % 4
    digit[::4] = (digit[::4] + 1) % 10
    assert accuracy(committed(), clips[known], 4 * digit + direction) == {"digit": 0.75, "direction": 0.5, "both": 0.5}


class TestTheCommittedReader:
    """On real clips of held-out digits. Its record is of 2,000 clips, whose first 300 are read here."""

    def test_its_record_says_that_it_can_be_trusted(self):
        recorded = json.loads((COMMITTED / "measured.json").read_text())["held_out"]
        assert recorded["as they are"]["direction"] >= 0.995
        assert recorded["as they are"]["digit"] >= 0.97
        assert recorded["blurred and noisy"]["digit"] >= 0.97
        assert recorded["frames shuffled"]["no direction"] >= 0.99

    def test_reads_real_clips(self):
        found = accuracy(committed(), *held_out())
        assert found["direction"] >= 0.995
        assert found["digit"] >= 0.95

    def test_reads_blurred_and_noisy_clips_nearly_as_well(self):
        clips, labels = held_out()
        found = accuracy(committed(), softened(clips, generator(1)), labels)
        assert found["direction"] >= 0.99
        assert found["digit"] >= 0.95

    def test_reads_reversed_clips_as_going_the_opposite_way(self):
        clips, labels = held_out()
        opposite = 4 * (labels // 4) + torch.tensor(OPPOSITE)[labels % 4]
        assert accuracy(committed(), clips.flip(1), labels)["direction"] <= 0.005
        assert accuracy(committed(), clips.flip(1), opposite)["direction"] >= 0.995

    def test_reads_no_direction_where_frames_are_shuffled(self):
        clips, labels = held_out()
        readings = read(committed(), shuffled(clips, generator(1)))
        assert (readings.direction == UNREAD).double().mean() >= 0.98
        assert (readings.direction == labels % 4).double().mean() <= 0.01

    @pytest.mark.parametrize("spread", [0, 0.3, 1])
    def test_reads_nothing_in_noise(self, spread):
        noise = (spread * torch.randn(50, 16, 1, 32, 32, generator=generator(2))).clamp(-1, 1)
        for level in (-1, 0):
            readings = read(committed(), (level + noise).clamp(-1, 1))
            assert (readings.digit == UNREAD).all()
            assert (readings.direction == UNREAD).all()

    def test_is_not_sure_of_a_digit_that_changes_midway(self):
        clips, labels = (part[:100] for part in held_out())
        changed = labels // 4 != labels.roll(1) // 4
        halves = torch.cat([clips[:, :8], clips.roll(1, 0)[:, 8:]], 1)
        assert read(committed(), halves[changed]).digit_confidence.median() < 0.55
        assert read(committed(), clips[changed]).digit_confidence.median() > 0.95
