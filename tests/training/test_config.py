"""A run as data: recipes are valid, and what cannot be is refused before anything is written."""

import json
from copy import deepcopy
from dataclasses import asdict, replace

import pytest
import torch

from skipdit import DiT
from skipdit.data import CaptionedDigits, MovingDigits
from skipdit.evaluation.price import settings
from skipdit.recipes import RECIPES
from skipdit.training import Architecture, LatteT2VArchitecture
from tests.training.tiny import tiny_run


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps is 0: it must be at least 1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"log_every": 0}, "log_every is 0"),
        ({"checkpoint_every": -4}, "checkpoint_every is -4"),
        ({"keep_checkpoints": 0}, "keep_checkpoints is 0"),
        ({"preview_steps": 0}, "preview_steps is 0"),
        ({"preview_steps": 1001}, "preview_steps is 1001: the chain has 1000"),
        ({"preview_every": -1}, "preview_every -1: neither may be negative"),
        ({"seed": -1}, "seed is -1"),
        ({"warmup_steps": 10}, r"warmup_steps is 10: it must be below steps \(10\)"),
        ({"warmup_steps": -1}, "warmup_steps is -1"),
        ({"log_every": 3}, r"checkpoint_every is 4: it must be a multiple of log_every \(3\)"),
        ({"ema_decay": 1.0}, r"ema_decay is 1\.0: it must be in \[0, 1\)"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"clip_grad_norm": 0.0}, "clip_grad_norm is 0.0: it must be above 0, or None"),
        ({"clip_grad_norm": -1.0}, "clip_grad_norm is -1.0"),
        ({"v_weight_cap": 0.0}, "v_weight_cap is 0.0: it must be above 0, or None"),
        ({"decay": "trapezoid"}, "decay is trapezoid and cooldown None: a trapezoid needs one"),
        ({"decay": "cosine", "cooldown": 0.5}, "decay is cosine and cooldown 0.5: .*no other decay has one"),
        ({"decay": "trapezoid", "cooldown": 1.5}, "cooldown is 1.5: it must be above 0 and at most 1"),
        ({"model": {"class_dropout_prob": 1.0}}, r"class_dropout_prob is 1\.0: it must be in \[0, 1\)"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_made(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        tiny_run(tmp_path, **changes)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_json_and_its_model_can_be_built(name, tmp_path):
    config = RECIPES[name](tmp_path)
    assert json.loads(json.dumps(asdict(config), default=str))["out"] == str(tmp_path)
    with torch.device("meta"):
        assert config.model.build().num_skips == config.model.num_skips
    assert RECIPES[name].__doc__


def test_the_two_embedded_models_differ_in_their_skips_alone(tmp_path):
    vanilla, skip = RECIPES["fashion-dit"](tmp_path), RECIPES["fashion-skip"](tmp_path)
    assert (vanilla.model.num_skips, skip.model.num_skips) == (0, skip.model.depth // 2)
    assert replace(skip, model=replace(skip.model, num_skips=0)) == vanilla


def test_an_architecture_is_the_arguments_of_the_model():
    architecture = Architecture(depth=4, num_skips=1, fuse="residual")
    assert settings(architecture.build()) == settings(DiT(**asdict(architecture)))


def captions(*, padding: float) -> CaptionedDigits:
    """Ten captions of 2 to 4 tokens, whose channels differ in mean and spread, padded to 6 with one value."""
    rng = torch.Generator().manual_seed(0)
    states = 3 + torch.randn(10, 6, 8, generator=rng) * torch.linspace(0.5, 5, 8)
    mask = (torch.arange(6) < torch.randint(2, 5, (10, 1), generator=rng)).long()
    digits = MovingDigits(torch.zeros(1, 28, 28, dtype=torch.uint8), torch.zeros(1, dtype=torch.long), num_frames=2)
    return CaptionedDigits(digits, states.where(mask[..., None].bool(), padding), mask, torch.zeros(6, 8))


def test_a_fitted_text_to_video_model_sees_tokens_as_if_standardised_and_no_padding():
    architecture = LatteT2VArchitecture(
        patch_size=16, num_layers=2, num_attention_heads=2, attention_head_dim=8, caption_channels=8
    )
    fresh, dataset = architecture.build(), captions(padding=100)
    fitted, again = deepcopy(fresh), deepcopy(fresh)
    architecture.fit(fitted, dataset)
    tokens = dataset.states[dataset.mask.bool()]
    expected = fresh.caption_projection.linear_1((tokens - tokens.mean(dim=0)) / tokens.std(dim=0))
    torch.testing.assert_close(fitted.caption_projection.linear_1(tokens), expected, rtol=1e-4, atol=1e-4)
    architecture.fit(again, captions(padding=-7))
    same, changed = again.state_dict(), fresh.state_dict()
    assert all(torch.equal(value, same[name]) for name, value in fitted.state_dict().items())
    assert {name for name, value in fitted.state_dict().items() if not torch.equal(value, changed[name])} == {
        "caption_projection.linear_1.weight", "caption_projection.linear_1.bias"
    }  # fmt: skip
