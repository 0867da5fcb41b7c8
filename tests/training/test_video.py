"""Video models train by the same loop: the layout of clips, captions that are dropped, resuming, previews."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from safetensors.torch import load_file

from skipdit import Latte, LatteT2V, data
from skipdit.cli.train import sheet
from skipdit.diffusion import NoiseSchedule, learned_range_loss
from skipdit.recipes import RECIPES
from skipdit.training import LatteArchitecture, LatteT2VArchitecture, TrainConfig, train
from skipdit.training.loop import loss_of, noised_batch, start
from skipdit.training.preview import preview
from tests.models.subject import randomised
from tests.training.tiny import tiny_run

MODELS = {
    "moving-digits": LatteArchitecture(
        sample_size=32, patch_size=16, hidden_size=16, depth=2, num_heads=2, num_classes=40, num_skips=1
    ),
    "captioned-digits": LatteT2VArchitecture(
        patch_size=16, num_layers=2, num_attention_heads=2, attention_head_dim=8, num_skips=1
    ),
}
DATASETS = [*MODELS]


def video_run(out: Path, dataset: str, **changes) -> TrainConfig:
    """Six steps, a checkpoint after each two."""
    short = {"dataset": dataset, "model": MODELS[dataset], "steps": 6, "batch_size": 2, "checkpoint_every": 2}
    return replace(tiny_run(out), **short | changes)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "diffusion_pytorch_model.safetensors")


@pytest.mark.parametrize(("dataset", "kind"), [("moving-digits", Latte), ("captioned-digits", LatteT2V)])
def test_a_run_ends_in_a_model_folder_that_loads(tmp_path, dataset, kind):
    trained = train(video_run(tmp_path, dataset))
    loaded = kind.from_pretrained(tmp_path / "model")
    assert loaded.num_skips == 1
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in loaded.state_dict().items())


@pytest.mark.parametrize("dataset", DATASETS)
def test_stopping_and_resuming_gives_the_same_bits(tmp_path, dataset):
    class Stop(Exception):
        pass

    def stop(report):
        if report.step == 3:
            raise Stop

    train(video_run(tmp_path / "through", dataset))
    with pytest.raises(Stop):
        train(video_run(tmp_path / "stopped", dataset), on_step=stop)
    train(video_run(tmp_path / "stopped", dataset))
    through, resumed = weights(tmp_path / "through"), weights(tmp_path / "stopped")
    assert all(torch.equal(value, resumed[name]) for name, value in through.items())
    assert (tmp_path / "through" / "loss.csv").read_bytes() == (tmp_path / "stopped" / "loss.csv").read_bytes()


@pytest.mark.parametrize("dataset", DATASETS)
def test_noise_and_variance_are_told_apart_on_the_models_own_channels(tmp_path, dataset):
    """A Latte has its channels behind the frames, a LatteT2V before them; the loss is that of each frame's channels."""
    run = start(video_run(tmp_path, dataset))
    randomised(run.model)
    losses = loss_of(run, run.model)
    inputs, targets = noised_batch(run)
    with torch.no_grad():
        output = run.model(**inputs).sample
    axis = {"moving-digits": 2, "captioned-digits": 1}[dataset]
    by_hand = learned_range_loss(
        output.transpose(1, axis), x_0=targets["x_0"].transpose(1, axis), noise=targets["noise"].transpose(1, axis),
        t=targets["t"], schedule=NoiseSchedule.linear(),
    )  # fmt: skip
    torch.testing.assert_close(losses.total.detach(), by_hand.total)


def test_captions_are_dropped_at_their_rate(tmp_path):
    model = replace(MODELS["captioned-digits"], caption_dropout_prob=0.5)
    run = start(video_run(tmp_path, "captioned-digits", model=model, batch_size=200))
    states, mask = (noised_batch(run)[0][f"encoder_{name}"] for name in ("hidden_states", "attention_mask"))
    empty = run.dataset.empty * mask[..., None]
    dropped = (states == empty).flatten(1).all(1)
    assert dropped.float().mean().item() == pytest.approx(0.5, abs=0.14)  # 4 sigma
    assert (mask.sum(1) > 2).all()


@pytest.mark.parametrize(("precision", "kind"), [("bf16", AttnProcessor), ("fp32", AttnProcessor2_0)])
def test_attention_is_written_out_where_that_is_faster(tmp_path, precision, kind):
    run = start(video_run(tmp_path, "captioned-digits", precision=precision))
    assert {type(block.attn1.processor) for block in run.model.transformer_blocks} == {kind}
    assert loss_of(run, run.model).total.isfinite().all()


@pytest.mark.parametrize("dataset", DATASETS)
def test_a_preview_is_a_row_of_frames_for_each_example(tmp_path, dataset):
    run = start(video_run(tmp_path, dataset))
    samples = preview(run.model.eval(), run.dataset, num_steps=2).movedim(run.model.channel_dim, -3)
    assert samples.shape == (8, 16, 1, 32, 32)
    assert sheet(samples).size == (4 * 2 + 16 * (2 * 32 + 2) + 15 * 2, 4 * 2 + 8 * (2 * 32 + 2) + 7 * 2)


@pytest.mark.parametrize(
    ("dataset", "wrong", "said"),
    [
        ("moving-digits", {"num_frames": 8}, "num_frames 16, in_channels 1, height 32.*set num_frames to the data's"),
        ("captioned-digits", {"caption_channels": 4096}, "caption_channels 384: set caption_channels to the data's"),
    ],
)
def test_data_that_does_not_fit_is_refused(tmp_path, dataset, wrong, said):
    with pytest.raises(ValueError, match=said):
        train(video_run(tmp_path / "run", dataset, model=replace(MODELS[dataset], **wrong)))
    assert not (tmp_path / "run").exists()


def test_an_image_model_does_not_take_clips(tmp_path):
    with pytest.raises(ValueError, match="moving-digits has num_frames 16.*set num_frames"):
        train(replace(tiny_run(tmp_path / "run"), dataset="moving-digits"))


def test_the_four_embedded_models_differ_in_their_skips_alone(tmp_path):
    for task in ("moving-digits", "captioned-digits"):
        vanilla, skip = RECIPES[f"{task}-latte"](tmp_path), RECIPES[f"{task}-skip"](tmp_path)
        assert (vanilla.model.num_skips, skip.model.num_skips) == (0, 3)
        assert replace(skip, model=replace(skip.model, num_skips=0)) == vanilla
        assert skip.model.takes == data.load(task).gives
