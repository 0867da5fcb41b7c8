"""Which run a call belongs to, what a run remembers, and when it is forgotten."""

import gc
from inspect import signature

import diffusers
import pytest
import torch
from diffusers.schedulers import KarrasDiffusionSchedulers

from skipdit.caching.forecast import Computed
from skipdit.caching.memory import MAX_RUNS, Kind, Memory, Runs
from skipdit.caching.schedule import Now

KIND = Kind(torch.Size([2, 4, 8, 8]), torch.float32, torch.device("cpu"))


class Thread:
    """Something that stands for a thread."""


def step(runs: Runs, *tokens, name: str = "default", kind: Kind = KIND, **now) -> Memory:
    """One call that computes."""
    run = runs.take(name, tokens, Now(**now), kind)
    run.remember(Computed(None, None, torch.ones(4)), at_most=1)
    run.advance(Now(**{"step": run.step + 1} | now), computes=True)
    runs.put(run)
    return run


@pytest.mark.parametrize(
    ("now", "kind", "anew"),
    [
        (Now(None, 600), KIND, False),
        (Now(None, 700), KIND, False),  # a second-order sampler asks twice
        (Now(None, 700.2), KIND, False),  # and rounds
        (Now(None, 701), KIND, True),
        (Now(None, 900), KIND, True),  # the first timestep
        (Now(None, None), KIND, False),
        (Now(4, None), KIND, False),
        (Now(3, None), KIND, True),
        (Now(5, None), KIND, True),
        (Now(0, 600), KIND, True),
        (Now(4, 600), KIND._replace(shape=torch.Size([4, 4, 8, 8])), True),
        (Now(4, 600), KIND._replace(dtype=torch.bfloat16), True),
        (Now(4, 600), KIND._replace(device=torch.device("meta")), True),
        (Now(4, 600), KIND._replace(settings=(("num_images", 1),)), True),
    ],
)
def test_another_run_begins_where_inputs_change_or_the_step_does_not_follow(now, kind, anew):
    memory = Memory()
    assert not memory.begins_anew(now, kind), "an empty memory belongs to whoever comes first"
    memory.kind, memory.step, memory.first, memory.timestep = KIND, 3, 900, 700
    assert memory.begins_anew(now, kind) is anew


@pytest.mark.parametrize("timesteps", [(0.0, 0.1, 0.1, 0.4, 1.0), (1, 21, 41, 101), (999, 979, 900)])
def test_the_first_two_timesteps_give_the_direction_of_a_run_that_is_known(timesteps):
    runs, thread, label = Runs(), Thread(), torch.zeros(2)
    first, *others = [step(runs, thread, label, timestep=t) for t in timesteps]
    assert all(run is first for run in others)
    assert step(runs, thread, label, timestep=timesteps[1]) is not first, "a timestep goes back"


def test_a_step_several_times_as_wide_as_all_before_leads_into_another_run():
    """Image to image with the caller's own tensors, after a run with them that was broken off (as of Z-Image)."""
    runs, thread, text = Runs(), Thread(), torch.zeros(2)
    first, *others = [step(runs, thread, text, timestep=t) for t in (900, 850, 800, 650)]
    assert all(run is first for run in others)
    assert step(runs, thread, text, timestep=40) is not first


def test_a_step_index_alone_says_where_a_run_stands():
    """Whatever the timesteps and their places are."""
    runs, thread, text = Runs(), Thread(), torch.zeros(2)
    places = ((0, 900), (300, 950), (10, 20), (11, 900))
    ran = {step(runs, thread, text, step=i, place=place, timestep=t) for i, (place, t) in enumerate(places)}
    assert len(ran) == 1


def test_a_run_that_nothing_identifies_falls():
    runs, thread = Runs(), Thread()
    first = step(runs, thread, timestep=800)
    assert step(runs, thread, timestep=700) is first
    assert step(runs, thread, timestep=900) is not first


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("scheduler", [each.name for each in KarrasDiffusionSchedulers])
def test_no_sampler_of_diffusers_looks_like_two_runs(scheduler):
    """Timesteps that repeat (second-order samplers), fall unevenly or rise by rounding (KDPM2) are one run."""
    if scheduler == "DPMSolverSDEScheduler":
        pytest.importorskip("torchsde")
    kind = getattr(diffusers, scheduler)
    for options in ({}, {"use_karras_sigmas": True}, {"timestep_spacing": "trailing"}, {"timestep_spacing": "leading"}):
        made = kind(**{name: value for name, value in options.items() if name in signature(kind).parameters})
        for steps in (6, 13, 998):
            made.set_timesteps(steps)
            for tokens in ((Thread(),), (Thread(), torch.zeros(2))):
                runs = Runs()
                ran = {step(runs, *tokens, timestep=timestep) for timestep in made.timesteps.tolist()}
                assert len(ran) == 1, (options, steps)


def test_a_run_is_known_by_its_objects_and_not_by_their_values():
    runs, thread, label = Runs(), Thread(), torch.zeros(2)
    first = step(runs, thread, label, timestep=900)
    assert step(runs, thread, label.clone(), timestep=800) is not first
    assert step(runs, Thread(), label, timestep=800) is not first
    assert step(runs, thread, label, timestep=800, name="uncond") is not first
    assert step(runs, thread, label, timestep=800) is first
    label.zero_()
    assert step(runs, thread, label, timestep=700) is not first, "somebody wrote into the conditioning"


def test_when_the_conditioning_dies_the_tensors_of_the_run_die_too():
    runs, thread, label, other = Runs(), Thread(), torch.zeros(2), torch.zeros(2)
    first, second = step(runs, thread, label, timestep=900), step(runs, thread, other, timestep=900)
    del label
    gc.collect()
    assert (first.past, len(second.past)) == ([], 1)


def test_a_step_index_joins_calls_with_other_objects_to_one_run():
    runs, thread = Runs(), Thread()
    ran = {step(runs, thread, torch.zeros(2), step=index) for index in range(5)}
    assert len(ran) == 1
    assert step(runs, thread, torch.zeros(2), step=3) not in ran
    assert step(runs, Thread(), torch.zeros(2), step=5) not in ran


def test_two_runs_in_turns_with_other_objects_at_each_step_are_doubted():
    """Nobody can tell which of both a call continues, so that neither may reuse."""
    runs, thread = Runs(), Thread()
    for index in range(4):
        for run in [step(runs, thread, torch.zeros(2), step=index) for _ in range(2)]:
            assert run.doubt or len(run.plan) == 1


def test_a_run_after_one_that_was_broken_off_is_not_doubted_once_its_objects_last():
    runs, thread, label = Runs(), Thread(), torch.zeros(2)
    step(runs, thread, torch.zeros(2), step=0)
    assert step(runs, thread, label, step=0).doubt
    assert not step(runs, thread, label, step=1).doubt


@pytest.mark.parametrize("where", [{"timestep": 900}, {"step": 0}, {"place": 0, "timestep": 900}])
def test_two_runs_in_turns_that_share_their_objects_are_doubted(where):
    """Halves of a batch with one text: the first step comes twice."""
    runs, thread, label = Runs(), Thread(), torch.zeros(2)
    later = [{name: 800 if name == "timestep" else 1 for name in where}, dict.fromkeys(where, 2)]
    for now in (where, *later):
        ran = [step(runs, thread, label, **now) for _ in range(2)]
        assert ran[1].doubt
    assert not step(runs, thread, torch.zeros(2), **where).doubt


def test_the_place_in_a_table_tells_runs_apart_without_a_timestep():
    """The same objects again: from the beginning, lower and higher than where a run was broken off, and backwards."""
    runs, thread, label = Runs(), Thread(), torch.zeros(2)
    for begin, direction in ((0, 1), (4, 1), (2, 1), (6, -1), (0, 1)):
        first, *others = [step(runs, thread, label, place=begin + direction * index) for index in range(3)]
        assert all(run is first for run in others)
        assert (len(first.plan), first.doubt) == (3, "")


def test_a_run_whose_conditioning_another_thread_uses_is_doubted():
    runs, label, (first, second) = Runs(), torch.zeros(2), (Thread(), Thread())
    step(runs, first, label, timestep=900)
    assert step(runs, second, label, timestep=800).doubt
    assert not step(runs, second, torch.zeros(2), timestep=900).doubt
    assert not step(runs, second, timestep=900).doubt, "nothing is shared where there is no conditioning"


def test_a_run_whose_objects_last_is_not_taken_for_one_without():
    runs, thread, label = Runs(), Thread(), torch.zeros(2)
    lasting = step(runs, thread, label, step=0)
    passing = step(runs, thread, torch.zeros(2), step=0)
    assert step(runs, thread, torch.zeros(2), step=1) is passing
    assert step(runs, thread, label, step=1) is lasting


def test_the_tensors_of_the_runs_that_waited_longest_are_dropped():
    runs, thread, labels = Runs(), Thread(), [torch.zeros(2) for _ in range(MAX_RUNS + 2)]
    ran = [step(runs, thread, label, timestep=900) for label in labels]
    assert [bool(run.past) for run in ran] == [False] * 2 + [True] * MAX_RUNS
    assert step(runs, thread, labels[0], timestep=800) is ran[0], "it is known still"
    assert "more than 8 runs" in ran[0].doubt


def test_an_end_ends_the_runs_since_the_last_used_one_began():
    """A pipeline that another one calls in its callback ends alone; so does one in another thread."""
    runs, thread, other = Runs(), Thread(), Thread()
    labels = {name: torch.zeros(2) for name in ("outer", "cond", "uncond", "beside")}
    for timestep in (900, 800):
        step(runs, thread, labels["outer"], timestep=timestep)
        step(runs, other, labels["beside"], timestep=timestep)
    for timestep in (900, 800, 700):
        for name in ("cond", "uncond"):
            step(runs, thread, labels[name], timestep=timestep, name=name)
    assert {name: stats.plan for name, stats in runs.end(thread).items()} == {"cond": "###", "uncond": "###"}
    assert len(runs.memories) == 2
    assert runs.stats().keys() == {"default", "default 2"}
    assert {stats.plan for stats in runs.end(thread).values()} == {"##"}
    assert runs.end(thread) == {}


def test_the_newest_are_kept_and_the_most_bytes_counted():
    memory = Memory()
    for timestep in (900, 800, 700):
        memory.remember(Computed(timestep, None, torch.ones(4)), at_most=2)
        memory.advance(Now(0, timestep), computes=True)
    assert [each.timestep for each in memory.past] == [800, 700]
    assert memory.peak_bytes == 2 * 4 * 4
    shared = torch.ones(4)
    memory.remember(Computed(600, shared, torch.ones(4)), at_most=1)
    memory.state["shallow"] = shared
    memory.advance(Now(0, 600), computes=True)
    assert memory.peak_bytes == 2 * 4 * 4, "shallow and deep of one step; the same tensor counts once"


def test_what_is_remembered_of_one_timestep_is_replaced_by_what_comes_later_at_it():
    memory = Memory()
    for value, timestep in enumerate((900, 800, 800.0003)):  # KDPM2 rounds
        memory.remember(Computed(timestep, None, torch.full((1,), float(value))), at_most=3)
    assert [(each.timestep, each.deep.item()) for each in memory.past] == [(900, 0), (800.0003, 2)]
