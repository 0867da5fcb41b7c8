"""Text-to-image trains by the same loop: the embedded recipe in miniature, on emoji of plain squares."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.models.attention_processor import HunyuanAttnProcessor2_0
from safetensors.torch import load_file
from torch import Tensor

from skipdit import HunyuanDiT, data
from skipdit.cli.train import sheet
from skipdit.data.emoji import EXAMPLES, STYLES
from skipdit.models.written_out import WrittenOutRotaryAttention, write_out_attention
from skipdit.nn.blocks import statistics
from skipdit.recipes import RECIPES
from skipdit.training import HunyuanDiTArchitecture, TrainConfig, train
from skipdit.training.loop import loss_of, noised_batch, start
from skipdit.training.preview import preview
from tests.data.tiny_emoji import write_packages
from tests.models.subject import randomised
from tests.training.tiny import tiny_run

MODEL = HunyuanDiTArchitecture(
    patch_size=16, num_attention_heads=2, attention_head_dim=8, num_layers=4, pooled_projection_dim=16, num_skips=1
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_packages(tmp_path_factory.mktemp("emoji"))


def emoji_run(out: Path, folder: Path, **changes) -> TrainConfig:
    """Six steps, a checkpoint after each two."""
    short = {"dataset": "emoji", "data_folder": folder, "model": MODEL, "steps": 6, "batch_size": 2}
    return replace(tiny_run(out), **short | {"checkpoint_every": 2} | changes)


def test_a_run_ends_in_a_model_folder_that_loads(tmp_path, folder):
    trained = train(emoji_run(tmp_path, folder))
    loaded = HunyuanDiT.from_pretrained(tmp_path / "model")
    assert (loaded.num_skips, loaded.config.prediction_type) == (1, "v_prediction")
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_stopping_and_resuming_gives_the_same_bits(tmp_path, folder):
    class Stop(Exception):
        pass

    def stop(report):
        if report.step == 3:
            raise Stop

    def weights(run: str) -> dict[str, Tensor]:
        return load_file(tmp_path / run / "model" / "diffusion_pytorch_model.safetensors")

    train(emoji_run(tmp_path / "through", folder))
    with pytest.raises(Stop):
        train(emoji_run(tmp_path / "stopped", folder), on_step=stop)
    train(emoji_run(tmp_path / "stopped", folder))
    through, resumed = weights("through"), weights("stopped")
    assert all(torch.equal(value, resumed[name]) for name, value in through.items())


def test_captions_are_dropped_at_their_rate(tmp_path, folder):
    run = start(emoji_run(tmp_path, folder, model=replace(MODEL, caption_dropout_prob=0.5), batch_size=200))
    inputs = noised_batch(run)[0]
    empty = run.dataset.states.of([""])
    dropped = (inputs["encoder_hidden_states"] == empty["encoder_hidden_states"]).flatten(1).all(1)
    assert dropped.float().mean().item() == pytest.approx(0.5, abs=0.14)  # 4 sigma
    assert torch.equal((inputs["text_embedding_mask_t5"].sum(1) == 1), dropped)


def test_a_fresh_model_sees_both_texts_as_if_standardised(tmp_path, folder):
    """Keys of the tokens' states have the mean and spread that a standard normal input would give them."""
    run = start(emoji_run(tmp_path, folder))
    bert, t5 = run.dataset.states.of_tokens()
    for linear, states in ((run.model.blocks[2].attn2.to_k, bert), (run.model.text_embedder.linear_1, t5)):
        seen = linear(states)
        std = states.std(dim=0)
        torch.testing.assert_close(seen.mean(dim=0), torch.zeros_like(seen[0]), rtol=0, atol=1e-3)
        torch.testing.assert_close(seen, (states - states.mean(dim=0)) @ linear.weight.T, rtol=1e-3, atol=1e-3)
        bound = (6 / (linear.weight.shape[0] + linear.weight.shape[1])) ** 0.5
        assert (linear.weight * std).abs().max() <= bound * 1.001  # Xavier's


def test_keys_of_a_fitted_model_are_those_of_standardised_states(tmp_path, folder):
    run = start(emoji_run(tmp_path, folder))
    bert, t5 = run.dataset.states.of_tokens()
    fresh = MODEL.build()
    fitted = deepcopy(fresh)
    MODEL.fit(fitted, run.dataset)
    for name, states in (("blocks.2.attn2.to_k", bert), ("blocks.0.attn2.to_v", bert), ("text_embedder.linear_1", t5)):
        mean, std = statistics(states)
        expected = fresh.get_submodule(name)((states - mean) / std)
        torch.testing.assert_close(fitted.get_submodule(name)(states), expected, rtol=1e-3, atol=1e-3)


def test_what_stands_beside_the_berts_states_lies_where_they_do(tmp_path, folder):
    run = start(emoji_run(tmp_path, folder))
    bert, _ = run.dataset.states.of_tokens()
    std = bert.std(dim=0)
    padding = ((run.model.text_embedding_padding - bert.mean(dim=0)) / std)[:, std > 0.1]
    assert padding.mean().abs() < 0.02
    assert padding.std().item() == pytest.approx(1, abs=0.02)


def test_a_channel_that_never_changes_is_not_stretched(tmp_path, folder):
    """MiniLM has such channels: divided by their spread, weights are not finite."""
    run = start(emoji_run(tmp_path, folder))
    bert, _ = run.dataset.states.of_tokens()
    assert (bert.std(dim=0) < 1e-6).any()
    assert all(parameter.isfinite().all() for parameter in run.model.parameters())
    assert loss_of(run, run.model).total.isfinite().all()


@pytest.mark.parametrize(
    ("precision", "kind"), [("bf16", WrittenOutRotaryAttention), ("fp32", HunyuanAttnProcessor2_0)]
)
def test_attention_is_written_out_where_that_is_faster(tmp_path, folder, precision, kind):
    run = start(emoji_run(tmp_path, folder, precision=precision))
    attentions = [attn for block in run.model.blocks for attn in (block.attn1, block.attn2)]
    assert {type(attn.processor) for attn in attentions} == {kind}
    assert loss_of(run, run.model).total.isfinite().all()


@pytest.mark.parametrize("shared", [False, True])
def test_written_out_attention_is_the_same_with_padding_shared_or_not(tmp_path, folder, shared):
    """Outputs and gradients in double precision."""
    run = start(emoji_run(tmp_path, folder, batch_size=3))
    model = randomised(run.model).double()
    inputs = {name: x.double() if x.is_floating_point() else x for name, x in noised_batch(run)[0].items()}
    expected, gradients = said_and_learned(model, inputs)
    write_out_attention(model, own_text=run.dataset.states.own_text if shared else ())
    written, written_gradients = said_and_learned(model, inputs)
    torch.testing.assert_close(written, expected, rtol=0, atol=1e-12)
    for name, gradient in gradients.items():
        torch.testing.assert_close(written_gradients[name], gradient, rtol=1e-6, atol=1e-9, msg=name)


def said_and_learned(model: HunyuanDiT, inputs: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    said = model(**inputs, return_dict=False)[0]
    said.square().mean().backward()
    return said.detach(), {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def test_a_preview_is_ten_names_in_each_style(tmp_path, folder):
    run = start(emoji_run(tmp_path, folder))
    samples = preview(run.model.eval(), run.dataset, num_steps=2)
    assert samples.shape == (len(EXAMPLES) * len(STYLES), 3, 64, 64)
    assert sheet(samples).size == (4 * 2 + 10 * (64 + 2) + 9 * 2, 4 * 2 + 2 * (64 + 2) + 2)


def test_data_that_does_not_fit_is_refused(tmp_path, folder):
    with pytest.raises(ValueError, match="cross_attention_dim_t5 128: set cross_attention_dim_t5 to the data's"):
        train(emoji_run(tmp_path / "run", folder, model=replace(MODEL, cross_attention_dim_t5=64)))
    assert not (tmp_path / "run").exists()


def test_the_embedded_model_fits_its_data(tmp_path, folder):
    recipe = RECIPES["emoji-hunyuan"](tmp_path)
    assert recipe.model.takes == data.load("emoji", folder=folder).gives
    assert recipe.model.num_skips == recipe.model.num_layers // 2 - 1  # as published
