"""Any timesteps, any interval, any window: the plan is the written rule, and the model follows the plan."""

from hypothesis import given, settings
from hypothesis import strategies as st

from skipdit import SkipCacheConfig
from skipdit.caching import ExplicitSteps, Guarded, Interval, plan
from skipdit.caching.memory import WIDE
from tests.models.subject import DiTSubject, assert_equal

descending = st.lists(st.integers(0, 999), min_size=1, max_size=40, unique=True).map(lambda t: sorted(t, reverse=True))
windows = st.tuples(st.integers(-10, 1010), st.integers(-10, 1010)).map(sorted).map(tuple)


def without_jumps(timesteps: list[int]) -> list[int]:
    """A step several times as wide as all before leads into another run."""
    kept: list[int] = []
    for timestep in timesteps:
        widest = max((a - b for a, b in zip(kept, kept[1:])), default=1000)
        kept += [timestep] if not kept or kept[-1] - timestep <= WIDE * widest else []
    return kept


@given(timesteps=descending, interval=st.integers(1, 9), window=windows)
def test_a_plan_is_the_written_rule(timesteps, interval, window):
    """compute iff i % N == 0 or t_i >= start or t_{i-1} <= stop"""
    stop, start = window
    rule = [i % interval == 0 or t >= start or (i > 0 and timesteps[i - 1] <= stop) for i, t in enumerate(timesteps)]
    assert list(plan(Guarded(Interval(interval), window), timesteps)) == rule


@given(timesteps=descending, interval=st.integers(1, 9))
def test_without_a_window_a_plan_is_the_interval(timesteps, interval):
    assert list(plan(Interval(interval), timesteps)) == [i % interval == 0 for i in range(len(timesteps))]


@given(timesteps=descending, data=st.data())
def test_explicit_steps_are_the_plan(timesteps, data):
    steps = {0, *data.draw(st.sets(st.integers(0, len(timesteps) - 1)))}
    made = plan(ExplicitSteps(tuple(sorted(steps))), timesteps)
    assert {i for i, computes in enumerate(made) if computes} == steps
    assert made.full + made.cached == len(timesteps)


@given(timesteps=descending, window=windows)
def test_once_reuse_ends_every_step_computes(timesteps, window):
    schedule = Guarded(Interval(7), window)
    ended = [schedule.ends_reuse(timestep) for timestep in timesteps]
    assert ended == sorted(ended)
    assert all(computes for computes, over in zip(plan(schedule, timesteps)[1:], ended, strict=False) if over)


@given(
    timesteps=descending.map(lambda t: t[:12]),
    window=st.none() | windows,
    interval=st.integers(1, 5),
    branch=st.integers(0, 2),
    forecast=st.sampled_from(["hold", "residual", "taylor"]),
)
@settings(max_examples=10)
def test_a_model_follows_the_plan_and_computes_exactly_where_it_says(timesteps, window, interval, branch, forecast):
    timesteps = without_jumps(timesteps)
    config = SkipCacheConfig(interval=interval, window=window, branch=branch, forecast=forecast)
    expected, subject = plan(config.schedule, timesteps), DiTSubject()
    model = subject.cached(config)
    outputs, uncached = subject.run(model, timesteps), subject.run(subject.build(), timesteps)
    stats = model.cache_stats()["default"]
    assert (stats.plan, stats.full, stats.cached) == (str(expected), expected.full, expected.cached)
    computed = [i for i, computes in enumerate(expected) if computes]
    assert_equal([outputs[i] for i in computed], [uncached[i] for i in computed])
    assert all(output.isfinite().all() for output in outputs)
