"""Our DDIM scheduler is the DDIM of the diffusion room, for any number of steps."""

import pytest
import torch

from skipdit.diffusion import NoiseSchedule, ddim, respace
from skipdit.pipelines.schedulers import DDIM, make_scheduler, set_timesteps


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("steps", [1, 2, 17, 50, 61, 1000])
def test_a_trajectory_equals_the_one_of_the_diffusion_room(steps, prediction):
    scheduler = make_scheduler("ddim", prediction_type=prediction)
    noise = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    timesteps = set_timesteps(scheduler, steps)
    assert timesteps == respace(1000, steps)

    def denoise(x_t: torch.Tensor, t: int) -> torch.Tensor:
        return (x_t * (t + 1) / 1000).sin()

    ours = [noise]
    for t in scheduler.timesteps:
        ours.append(scheduler.step(denoise(ours[-1], t.item()), t, ours[-1]).prev_sample)
    schedule = NoiseSchedule.linear()
    theirs = list(ddim(denoise, noise, timesteps=timesteps, schedule=schedule, prediction=prediction))
    torch.testing.assert_close(ours[1:], theirs, rtol=1e-4, atol=1e-4)  # diffusers' alphas_cumprod are float32


def test_an_unknown_prediction_is_refused():
    scheduler = make_scheduler("ddim", prediction_type="flow")
    set_timesteps(scheduler, 2)
    with pytest.raises(ValueError, match="prediction_type is 'flow': take epsilon, sample or v_prediction"):
        scheduler.step(torch.zeros(1), 999, torch.zeros(1))


def test_a_step_may_be_asked_for_as_a_tuple():
    """As LattePipeline does."""
    outputs = []
    for return_dict in (True, False):
        scheduler = make_scheduler("ddim")
        set_timesteps(scheduler, 3)
        outputs.append(scheduler.step(torch.ones(2), 999, torch.ones(2), return_dict=return_dict))
    assert torch.equal(outputs[0].prev_sample, outputs[1][0])


def test_a_saved_scheduler_is_loaded_as_it_was(tmp_path):
    make_scheduler("ddim").save_pretrained(tmp_path)
    loaded = DDIM.from_pretrained(tmp_path)
    assert set_timesteps(loaded, 17) == respace(1000, 17)


@pytest.mark.parametrize("steps", [2, 17, 50, 61, 103, 121, 201, 999])
def test_every_number_of_steps_stays_in_the_chain(steps):
    assert set_timesteps(make_scheduler("ddim"), steps) == respace(1000, steps)


def test_a_list_that_leaves_the_chain_is_refused():
    """diffusers' trailing spacing rounds 61 steps to 62 timesteps, the last one -1."""
    with pytest.raises(ValueError, match="61 steps of .* end at timestep -1: take 60 or 62"):
        set_timesteps(make_scheduler("dpm++"), 61)
