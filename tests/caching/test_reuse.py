"""What a run remembers, and how it knows that another has begun."""

import diffusers
import pytest
import torch
from diffusers.schedulers import KarrasDiffusionSchedulers

from skipdit.caching.forecast import Computed
from skipdit.caching.reuse import Kind, Memory, Now

KIND = Kind(torch.Size([2, 4, 8, 8]), torch.float32, torch.device("cpu"))


def computed(timestep: float | None, value: float = 0.0, *, shallow: bool = False) -> Computed:
    return Computed(timestep, torch.full((4,), value) if shallow else None, torch.full((4,), value))


@pytest.mark.parametrize(
    ("now", "kind", "anew"),
    [
        (Now(None, 600), KIND, False),
        (Now(None, 700), KIND, False),  # a second-order sampler asks twice
        (Now(None, 701), KIND, True),
        (Now(None, None), KIND, False),
        (Now(4, None), KIND, False),
        (Now(3, None), KIND, True),
        (Now(5, None), KIND, True),
        (Now(0, 600), KIND, True),
        (Now(4, 600), KIND._replace(shape=torch.Size([4, 4, 8, 8])), True),
        (Now(4, 600), KIND._replace(dtype=torch.bfloat16), True),
        (Now(4, 600), KIND._replace(device=torch.device("meta")), True),
    ],
)
def test_another_run_begins_where_inputs_change_or_the_step_does_not_follow(now, kind, anew):
    memory = Memory()
    assert not memory.begins_anew(now, kind), "an empty memory belongs to whoever comes first"
    memory.kind, memory.step, memory.timestep = KIND, 3, 700
    assert memory.begins_anew(now, kind) is anew


def test_a_second_run_of_one_step_begins_at_the_same_timestep():
    memory = Memory(kind=KIND, step=0, first=900, timestep=900)
    assert memory.begins_anew(Now(None, 900), KIND)
    assert not memory.begins_anew(Now(None, 800), KIND)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("scheduler", [each.name for each in KarrasDiffusionSchedulers])
def test_no_sampler_of_diffusers_looks_like_two_runs(scheduler):
    """Timesteps that repeat (second-order samplers) or fall unevenly are one run."""
    if scheduler == "DPMSolverSDEScheduler":
        pytest.importorskip("torchsde")
    made, memory = getattr(diffusers, scheduler)(), Memory()
    made.set_timesteps(6)
    for timestep in made.timesteps.tolist():
        assert not memory.begins_anew(Now(None, timestep), KIND)
        first = timestep if memory.first is None else memory.first
        memory.kind, memory.first, memory.timestep = KIND, first, timestep


def test_the_newest_are_kept_and_their_bytes_counted():
    memory = Memory()
    for step, timestep in enumerate((900, 800, 700)):
        memory.remember(computed(timestep, float(step)), at_most=2)
    assert [step.timestep for step in memory.past] == [800, 700]
    assert memory.peak_bytes == 2 * 4 * 4
    memory.remember(computed(600, shallow=True), at_most=1)
    assert memory.peak_bytes == 2 * 4 * 4, "shallow and deep of one step"
    memory.reset()
    assert (memory.past, memory.peak_bytes, memory.step, memory.kind) == ([], 0, -1, None)


def test_what_is_remembered_of_one_timestep_is_replaced_by_what_comes_later_at_it():
    memory = Memory()
    for value, timestep in enumerate((900, 800, 800)):
        memory.remember(computed(timestep, float(value)), at_most=3)
    assert [(step.timestep, step.deep[0].item()) for step in memory.past] == [(900, 0), (800, 2)]


class Doubling:
    """Rooms that know one constant, and count how often they were asked for it."""

    constant_inputs = ("text", "mask")
    asked = 0

    def constants(self, *, hidden_states: torch.Tensor, text: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        self.asked += 1
        return 2 * text


def test_constants_are_worked_out_once_for_the_very_same_inputs_and_a_reset_forgets_them():
    rooms, memory, inputs = Doubling(), Memory(), {"hidden_states": torch.zeros(1), "text": torch.ones(2)}
    given = [memory.with_constants(rooms, inputs | {"hidden_states": torch.full((1,), step)}) for step in range(3)]
    assert rooms.asked == 1
    assert [step["hidden_states"].item() for step in given] == [0, 1, 2]
    assert all(step["constants"] is given[0]["constants"] for step in given)
    assert "constants" not in inputs
    memory.reset()
    memory.with_constants(rooms, inputs)
    assert rooms.asked == 2


def test_equal_values_in_another_object_and_new_values_in_the_same_are_other_inputs():
    rooms, memory, text = Doubling(), Memory(), torch.ones(2)
    inputs = {"hidden_states": torch.zeros(1), "text": text}
    memory.with_constants(rooms, inputs)
    memory.with_constants(rooms, inputs | {"text": text.clone()})
    memory.with_constants(rooms, inputs)
    memory.with_constants(rooms, inputs | {"mask": torch.ones(2)})
    assert rooms.asked == 4
    memory.with_constants(rooms, inputs)
    text.mul_(3)
    assert memory.with_constants(rooms, inputs)["constants"].tolist() == [6, 6]
    assert rooms.asked == 6


def test_rooms_without_constants_are_given_their_inputs_alone():
    class Plain(Doubling):
        constant_inputs = ()

    inputs = {"hidden_states": torch.zeros(1)}
    assert Memory().with_constants(Plain(), inputs) is inputs
