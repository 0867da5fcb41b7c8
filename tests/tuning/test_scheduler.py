"""A tuned scheduler with nothing to forecast and nothing to correct is its base, and else what its equations say."""

import json

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)

from skipdit.pipelines.schedulers import DDIM, make_scheduler
from skipdit.tuning import TunedScheduler
from skipdit.tuning.levels import Level, to_output, to_x_0_and_eps
from skipdit.tuning.scheduler import base_config, even_steps, late_steps

STEPS = 12
BASES = {
    "ddim": lambda prediction: DDIM(prediction_type=prediction, clip_sample=False),
    "ddim-leading": lambda prediction: DDIMScheduler(
        prediction_type=prediction, clip_sample=False, timestep_spacing="leading"
    ),
    "dpm++": lambda prediction: DPMSolverMultistepScheduler(prediction_type=prediction),
    "dpm++ even in log-SNR": lambda prediction: DPMSolverMultistepScheduler(
        prediction_type=prediction, use_lu_lambdas=True
    ),
}
PREDICTIONS = ("epsilon", "sample", "v_prediction")
ALL = [(BASES[name], prediction) for name in BASES for prediction in PREDICTIONS]
FLOWS = [(lambda _: FlowMatchEulerDiscreteScheduler(shift=3.0), "flow_prediction")]


def model(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return (0.6 * x * (1 + t / 1000)).sin() + 0.1 * x.mean()


def run(scheduler, *, steps: int = STEPS, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    x = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        x = scheduler.step(model(x, t).to(dtype), t, x, return_dict=False)[0]
    return x


def tuned(base, computed, *, steps: int = STEPS, coefficients=None) -> TunedScheduler:
    base.set_timesteps(steps)
    return TunedScheduler(base_config(base), base.timesteps.tolist(), list(computed), coefficients)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("base", "prediction"), ALL + FLOWS)
def test_all_steps_and_no_correction_are_the_base_bit_for_bit(base, prediction, dtype):
    expected = run(base(prediction), dtype=dtype)
    assert torch.equal(run(tuned(base(prediction), range(STEPS)), dtype=dtype), expected)


@pytest.mark.parametrize(("base", "prediction"), ALL + FLOWS)
def test_free_steps_of_a_noise_that_is_linear_in_log_snr_cost_nothing(base, prediction):
    """Whatever the model predicts: the forecast is exact, so that any steps may be free."""
    slope, level = torch.randn(2, 1, 1, 4, 4).unbind(0)

    def draw(scheduler):
        x = torch.ones(1, 1, 4, 4)
        scheduler.set_timesteps(STEPS)
        for i in scheduler.computed:
            at = scheduler.levels[i]
            eps = level + slope * max(at.log_snr, -20)
            x = scheduler.step(
                to_output(eps, x, at, prediction=prediction) if at.alpha else eps, scheduler.base.timesteps[i], x
            ).prev_sample
        return x

    base_run = draw(tuned(base(prediction), range(STEPS)))
    few = draw(tuned(base(prediction), [0, 1, 2, 5, 9]))
    torch.testing.assert_close(few, base_run, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("prediction", [*PREDICTIONS, "flow_prediction"])
def test_output_and_noise_are_inverse(prediction):
    x, eps, level = torch.randn(3, 4), torch.randn(3, 4), Level(0.6, 0.4 if prediction[0] == "f" else 0.8)
    x_0, again = to_x_0_and_eps(to_output(eps, x, level, prediction=prediction), x, level, prediction=prediction)
    torch.testing.assert_close(again, eps)
    torch.testing.assert_close(level.alpha * x_0 + level.sigma * again, x)


def test_a_correction_adds_what_its_equation_says():
    rows = [[0.0] * 4 for _ in range(3)]
    rows[2] = [0.1, -0.2, 0.3, -0.4]
    seen = []
    for coefficients in (None, rows):
        scheduler = tuned(BASES["ddim"]("sample"), range(3), steps=3, coefficients=coefficients)
        x, outputs = torch.ones(1, 1, 2, 2), []
        scheduler.set_timesteps(3)
        for t in scheduler.timesteps:
            before = x
            outputs.insert(0, model(x, t))
            x = scheduler.step(outputs[0], t, x).prev_sample
        seen.append(x)
    a_1, a_2, a_3 = outputs
    added = 0.1 * a_1 - 0.2 * (a_1 - a_2) + 0.3 * (a_2 - a_3) - 0.4 * before
    torch.testing.assert_close(seen[1], seen[0] + added)


def test_a_saved_plan_draws_the_same_bits(tmp_path):
    rows = torch.randn(STEPS, 4).mul(0.1).double().tolist()
    plan = tuned(BASES["dpm++"]("v_prediction"), [0, 2, 3, 7], coefficients=rows)
    plan.save_pretrained(tmp_path)
    loaded = TunedScheduler.from_pretrained(tmp_path)
    assert torch.equal(run(loaded), run(plan))
    assert json.loads((tmp_path / "scheduler_config.json").read_text())["coefficients"] == rows


def test_a_second_run_is_as_the_first():
    plan = tuned(BASES["ddim"]("epsilon"), [0, 4, 8])
    assert torch.equal(run(plan), run(plan))


def test_pipelines_see_the_settings_of_the_base():
    plan = tuned(FlowMatchEulerDiscreteScheduler(shift=3.0), [0, 4])
    assert plan.config.shift == 3.0
    assert plan.config.num_train_timesteps == 1000
    assert DDIM.from_config(tuned(BASES["ddim"]("sample"), [0]).config).config.prediction_type == "sample"


@pytest.mark.parametrize("stochastic", [
    DDPMScheduler(), EulerAncestralDiscreteScheduler(), make_scheduler("dpm++-sde"),
    FlowMatchEulerDiscreteScheduler(stochastic_sampling=True),
])  # fmt: skip
def test_a_stochastic_base_is_refused_with_the_reason(stochastic):
    with pytest.raises(ValueError, match="noise at each step.* nothing remembered can know"):
        TunedScheduler(base_config(stochastic), [999.0], [0])


def test_another_number_of_steps_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match="num_inference_steps is 4: this plan calls the model on 4 of 12 steps"):
        tuned(BASES["ddim"]("epsilon"), [0, 3, 6, 9]).set_timesteps(4)


def test_another_grid_is_refused():
    plan = TunedScheduler(base_config(DDIM()), [float(t) for t in range(12, 0, -1)], [0])
    with pytest.raises(ValueError, match="step 0 of this run is at timestep 999, in the plan at 12: tune a plan"):
        plan.set_timesteps(12)


def test_a_run_that_starts_in_the_middle_is_refused():
    plan = tuned(BASES["ddim"]("epsilon"), [0, 4, 8])
    plan.set_timesteps(STEPS)
    with pytest.raises(ValueError, match="timestep 500 comes where the plan has 999"):
        plan.step(torch.zeros(1), torch.tensor(500), torch.zeros(1))


@pytest.mark.parametrize("computed", [[], [1, 2], [0, 2, 2], [0, 12]])
def test_computed_steps_lie_on_the_grid(computed):
    with pytest.raises(ValueError, match="must rise from 0 and stay below 12"):
        tuned(BASES["ddim"]("epsilon"), computed)


def test_even_steps_start_at_0_and_are_as_many_as_asked_for():
    assert even_steps(4, 12) == [0, 3, 6, 9]
    assert all(len(even_steps(calls, 50)) == calls for calls in range(1, 51))


@pytest.mark.parametrize("calls", [1, 2, 5, 12, 25, 49, 50])
def test_late_steps_are_as_many_and_end_at_the_end(calls):
    computed = late_steps(calls, 50)
    assert len(set(computed)) == len(computed) == calls
    assert computed[0] == 0
    assert computed == sorted(computed)
    assert calls == 1 or computed[-1] == 49
