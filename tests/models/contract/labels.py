"""Class ids in any form, and what is none; for models of classes."""

import numpy as np
import pytest
import torch

from tests.models.subject import Subject, sample


class Labelled(Subject):
    @pytest.mark.parametrize("labels", [[3, 7], (3, 7), np.array([3, 7]), torch.tensor([3, 7], dtype=torch.uint8)])
    def test_class_ids_come_as_any_whole_numbers(self, model, labels):
        expected = sample(model, self.inputs(500) | {"class_labels": torch.tensor([3, 7])})
        assert torch.equal(sample(model, self.inputs(500) | {"class_labels": labels}), expected)

    @pytest.mark.parametrize("label", [3, np.int64(3), torch.tensor(3), [3]])
    def test_one_class_id_stands_for_all_samples(self, model, label):
        expected = sample(model, self.inputs(500) | {"class_labels": torch.tensor([3, 3])})
        assert torch.equal(sample(model, self.inputs(500) | {"class_labels": label}), expected)

    @pytest.mark.parametrize(
        "labels",
        [
            3.5, "7", True, [None], [True], [3, 3.5], [[1, 2]], [1, 2, 3], {3}, 10**30, np.array([3.0]), [-1, 2], [11],
            torch.tensor([3.0]), torch.tensor([True]), torch.tensor([[1, 2]]),
        ],
    )  # fmt: skip
    def test_what_is_no_class_id_is_refused_in_one_line(self, model, labels):
        with pytest.raises(ValueError, match=r"^class_labels .*(give whole|samples take|takes 0 to 10)[^\n]*$"):
            sample(model, self.inputs(500) | {"class_labels": labels})
