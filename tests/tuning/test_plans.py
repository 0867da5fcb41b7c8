"""A plan in a folder draws the same bits, and says what it does not fit."""

import json

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler

from skipdit.caching import SkipCacheConfig
from skipdit.hub import load_pipeline
from skipdit.hub.load import find_plan
from skipdit.pipelines.schedulers import make_scheduler
from skipdit.tuning import TunedScheduler, read_plan, write_plan
from skipdit.tuning.fingerprint import fingerprint
from skipdit.tuning.held_out import Candidate
from skipdit.tuning.scheduler import base_config
from tests.pipelines.tiny import latents_of, pipeline, tiny

STEPS = 6


def plan_for(model=None, *, prediction: str = "epsilon") -> TunedScheduler:
    base = make_scheduler("ddim", prediction_type=prediction)
    base.set_timesteps(STEPS)
    rows = torch.randn(STEPS, 4).mul(0.02).double().tolist()
    return TunedScheduler(base_config(base), base.timesteps.tolist(), [0, 2, 3], rows, 1.5, fingerprint(model))


def report_of(plan: TunedScheduler) -> dict:
    return {"guidance_scale": 1.5, "model": plan.config.model, "chosen": "tuned", "reference": "own"}


@pytest.fixture
def folder(tmp_path):
    plan = plan_for(tiny())
    write_plan(tmp_path / "plan", Candidate(plan, STEPS, 3), report_of(plan))
    return tmp_path / "plan"


def test_a_plan_read_back_draws_the_same_bits(folder):
    pipe, other = pipeline(tiny()), pipeline(tiny())
    pipe.scheduler = TunedScheduler.from_pretrained(folder)
    read_plan(folder).use(other)
    assert torch.equal(latents_of(pipe, steps=STEPS), latents_of(other, steps=STEPS))
    assert not torch.equal(latents_of(pipe, steps=STEPS), latents_of(pipeline(tiny()), steps=STEPS))


def test_a_pipeline_with_a_plan_is_saved_and_loaded_as_a_whole(folder, tmp_path):
    pipe = pipeline(tiny())
    read_plan(folder).use(pipe)
    pipe.save_pretrained(tmp_path / "pipeline")
    loaded = type(pipe).from_pretrained(tmp_path / "pipeline")
    assert torch.equal(latents_of(loaded, steps=STEPS), latents_of(pipe, steps=STEPS))


def test_load_pipeline_takes_a_plan(folder, tmp_path):
    tiny().save_pretrained(tmp_path / "model")
    pipe = load_pipeline(str(tmp_path / "model"), plan=folder)
    assert isinstance(pipe.scheduler, TunedScheduler)
    with pytest.raises(ValueError, match="scheduler is 'ddpm' beside plan .*, which brings its own: leave it out"):
        load_pipeline(str(tmp_path / "model"), plan=folder, scheduler="ddpm")


def test_a_plan_of_a_cache_turns_it_on(tmp_path):
    way = Candidate(make_scheduler("ddpm"), STEPS, 2, SkipCacheConfig(steps=(0, 3), branch=1))
    write_plan(tmp_path, way, report_of(plan_for()))
    pipe = pipeline(tiny())
    read_plan(tmp_path).use(pipe)
    latents_of(pipe, steps=STEPS)
    assert pipe.transformer.cache_stats()["default"].plan == "#..#.."


def test_another_model_is_warned_of_and_the_same_in_bfloat16_is_not(folder):
    plan = read_plan(folder)
    with pytest.warns(UserWarning, match="was tuned for another model: `skipdit tune` yours"):
        plan.warn_of_another(pipeline(tiny(seed=1)))
    plan.warn_of_another(pipeline(tiny().to(torch.bfloat16)))


def test_another_guidance_is_warned_of(folder):
    with pytest.warns(UserWarning, match="tuned at guidance 1.5, this is 4: tune at it"):
        read_plan(folder).warn_of_another(pipeline(tiny()), guidance_scale=4.0)


def test_another_prediction_is_refused(folder):
    with pytest.raises(
        ValueError, match="for a model that predicts 'epsilon', this .*predicts 'sample': tune your own"
    ):
        read_plan(folder).use(pipeline(tiny(prediction_type="sample")))


def test_a_folder_without_a_plan_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"plan.json cannot be read .*: name a folder that `skipdit tune` wrote"):
        read_plan(tmp_path)


@pytest.mark.parametrize(("name", "value"), [("plan.json", {}), ("scheduler_config.json", {"_class_name": "Nothing"})])
def test_a_damaged_plan_is_named(folder, name, value):
    (folder / name).write_text(json.dumps(value))
    with pytest.raises(ValueError, match="holds no plan .*: name a folder that `skipdit tune` wrote"):
        read_plan(folder)


def test_what_shows_a_model_is_in_its_fingerprint():
    assert fingerprint(tiny()) == fingerprint(tiny())
    assert fingerprint(tiny()) != fingerprint(tiny(num_skips=1))
    assert fingerprint(None) is None


def test_by_quality_a_model_without_a_plan_gets_a_solver_that_needs_none(tmp_path):
    tiny(prediction_type="v_prediction").save_pretrained(tmp_path / "model")
    pipe = load_pipeline(str(tmp_path / "model"), plan="fast")
    assert isinstance(pipe.scheduler, DPMSolverMultistepScheduler)
    assert pipe.scheduler.config.use_lu_lambdas
    assert pipe.scheduler.config.prediction_type == "v_prediction"


@pytest.mark.parametrize(("name", "calls"), [("high", 25), ("balanced", 16), ("fast", 12)])
def test_by_quality_an_embedded_model_gets_its_own_plan(name, calls):
    plan = find_plan(name, "fashion-skip")
    assert (plan.calls, plan.steps) == (calls, 50)
    assert isinstance(plan.scheduler, TunedScheduler)
