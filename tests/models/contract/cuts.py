"""Skips nest like parentheses, so every symmetric cut is a room plan of the same house."""

import pytest
import torch
from torch import Tensor

from skipdit.models.base import LongSkipModel
from tests.models.subject import Inputs, Subject, assert_equal, in_dtype, recorded, sample

ARCHITECTURES = [(1, 0), (2, 1), (6, 0), (6, 2), (6, 3), (7, 1), (7, 3)]  # depth, num_skips


class Cuts(Subject):
    @pytest.mark.parametrize(("depth", "num_skips"), ARCHITECTURES)
    @torch.no_grad()
    def test_every_cut_composes_to_forward(self, depth, num_skips):
        model, inputs = self.build(depth=depth, num_skips=num_skips), self.inputs(500)
        cuts = [model.compose(**inputs, cut=cut) for cut in range(depth // 2 + 1)]
        assert_equal(cuts, [sample(model, inputs)] * len(cuts))

    @pytest.mark.parametrize(("depth", "num_skips"), ARCHITECTURES)
    def test_layer_i_feeds_layer_depth_minus_1_minus_i(self, depth, num_skips):
        model, inputs = self.build(depth=depth, num_skips=num_skips), self.inputs(500)
        assert torch.equal(sample(model, inputs), by_the_book(model, inputs))

    @torch.no_grad()
    def test_only_skips_of_the_head_cross_the_trunk(self, model):
        still_open = [len(model.head(cut, **self.inputs(500)).skips) for cut in range(4)]
        assert still_open == [0, 1, 2, 3]

    def test_other_image_sizes_than_the_one_made_for(self, model):
        small, tall = self.inputs(500), self.inputs(500, tall=True)
        assert sample(model, small).shape[-2:] == small["hidden_states"].shape[-2:]
        assert sample(model, tall).shape[-2:] == tall["hidden_states"].shape[-2:]

    def test_a_sample_does_not_depend_on_its_batch(self, model):
        model, inputs = model.double(), in_dtype(self.inputs(500, batch=3), torch.float64)
        alone = [sample(model, {name: value[i : i + 1] for name, value in inputs.items()}) for i in range(3)]
        torch.testing.assert_close(torch.cat(alone), sample(model, inputs), rtol=self.rounding, atol=self.rounding)

    def test_activation_checkpointing_runs_layers_again_and_changes_no_gradient(self, model):
        gradients, runs = [], []
        for toggle in (model.disable_gradient_checkpointing, model.enable_gradient_checkpointing):
            toggle()
            model.train().zero_grad()
            with recorded(self.layers(model)) as ran:
                model(**self.inputs(500)).sample.square().mean().backward()
            runs.append([ran.count(index) for index in range(6)])
            gradients.append([p.grad.clone() for p in model.parameters() if p.requires_grad])
        assert runs == [[1] * 6, [2] * 6]
        assert_equal(*gradients)
        assert all(gradient.abs().sum() > 0 for gradient in gradients[0])


@torch.no_grad()
def by_the_book(model: LongSkipModel, inputs: Inputs) -> Tensor:
    """The definition without a stack: layer i < m opens a skip; layer depth-1-i closes it."""
    stream, context = model.embed(**inputs)
    outputs: list[Tensor] = []
    for index in range(model.depth):
        partner = model.depth - 1 - index
        if partner < model.num_skips:
            stream = model.close(index, stream, outputs[partner], context)
        else:
            stream = model.layer(index, stream, context)
        outputs.append(stream)
    return model.unembed(stream, context)
