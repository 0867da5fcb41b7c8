"""Models of a flow draw: by name, by stock schedulers of diffusers, through the command, with the cache."""

import pytest
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler

from skipdit import DiT, SkipCacheConfig, load_pipeline
from skipdit.cli import main
from skipdit.hub import CheckpointError
from skipdit.pipelines import ClassToImagePipeline
from skipdit.pipelines.schedulers import FLOW_SCHEDULERS, make_scheduler
from tests.models.subject import randomised


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    settings = {"sample_size": 8, "patch_size": 4, "in_channels": 1, "out_channels": 1, "hidden_size": 24, "depth": 4}
    model = DiT(**settings, num_heads=2, num_classes=3, num_skips=2, prediction_type="flow_prediction")
    return randomised(model).eval()


def drawn(model, scheduler, steps=4):
    pipe = ClassToImagePipeline(model, scheduler)
    pipe.set_progress_bar_config(disable=True)
    seed = torch.Generator().manual_seed(0)
    return pipe([0, 2], guidance_scale=2.0, num_inference_steps=steps, generator=seed, output_type="latent").images


def by_hand(model, steps):
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for left in range(steps, 0, -1):
            labels, t = torch.tensor([0, 2, 3, 3]), torch.full((4,), 1000 * left / steps)
            given, none = model(torch.cat([x, x]), t, labels).sample.chunk(2)
            x = x - (none + 2 * (given - none)) / steps
    return x


def test_euler_is_the_guided_walk_from_noise_to_data(model):
    ours = drawn(model, make_scheduler("euler", prediction_type="flow_prediction"))
    torch.testing.assert_close(ours, by_hand(model, 4), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", FLOW_SCHEDULERS)
def test_every_scheduler_of_flows_nears_the_same_image_with_more_steps(model, name):
    scheduler = make_scheduler(name, prediction_type="flow_prediction")
    assert error(model, scheduler, 80) < 0.4 * error(model, scheduler, 10)


def test_the_stock_scheduler_of_diffusers_draws_too(model):
    scheduler = FlowMatchEulerDiscreteScheduler()
    assert error(model, scheduler, 80) < 0.4 * error(model, scheduler, 10)


def error(model, scheduler, steps):
    return (drawn(model, scheduler, steps) - by_hand(model, 640)).abs().mean()


def test_schedulers_of_another_process_are_refused(model):
    with pytest.raises(ValueError, match="scheduler is 'ddim', but the model was trained on a flow: take euler"):
        make_scheduler("ddim", prediction_type="flow_prediction")
    with pytest.raises(ValueError, match="'flow_prediction' in the model and 'epsilon' in the scheduler"):
        drawn(model, make_scheduler("ddim"))
    epsilon = DiT.from_config({**model.config, "prediction_type": "epsilon"})
    with pytest.raises(ValueError, match="'epsilon' in the model and 'flow_prediction' in the scheduler"):
        drawn(epsilon, FlowMatchEulerDiscreteScheduler())


def test_a_saved_model_is_known_for_one_of_a_flow(model, tmp_path):
    model.save_pretrained(tmp_path / "flow")
    pipe = load_pipeline(str(tmp_path / "flow"))
    assert type(pipe.scheduler) is FlowMatchEulerDiscreteScheduler
    pipe.save_pretrained(tmp_path / "pipeline")
    again = load_pipeline(str(tmp_path / "pipeline"))
    by_diffusers = DiffusionPipeline.from_pretrained(tmp_path / "pipeline")
    expected = drawn(model, pipe.scheduler)
    assert torch.equal(drawn(again.transformer, again.scheduler), expected)
    assert torch.equal(drawn(by_diffusers.transformer, by_diffusers.scheduler), expected)


def test_the_cache_runs_on_a_flow(model):
    model.enable_cache(SkipCacheConfig(interval=2))
    drawn(model, make_scheduler("euler", prediction_type="flow_prediction"))
    assert model.cache_stats()["default"].plan == "#.#."
    model.disable_cache()


def test_a_folder_whose_scheduler_shifts_its_times_is_refused(model, tmp_path):
    ClassToImagePipeline(model, FlowMatchEulerDiscreteScheduler(shift=3.0)).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="shifts its times: draw with diffusers, or take shift 1"):
        load_pipeline(str(tmp_path))


def test_the_command_plans_and_draws_a_flow_without_being_told_a_scheduler(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model.save_pretrained("flow")
    assert main(["plan", "--model", "flow", "--steps", "4", "--cache.interval", "2"]) == 0
    assert "#.#." in capsys.readouterr().out
    assert main(["sample", "flow", "--steps", "2", "--out", "drawn.png"]) == 0
    assert main(["sample", "flow", "--steps", "2", "--scheduler", "ddpm", "--out", "other.png"]) == 2
    assert "take euler, dpm++, unipc" in capsys.readouterr().err
