"""A cache's settings are one frozen value, checked when it is made."""

import json
from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skipdit import SkipCacheConfig
from skipdit.caching import (
    PRESETS,
    Computed,
    ExplicitSteps,
    Forecaster,
    Guarded,
    Interval,
    Now,
    RelativeChange,
    Schedule,
    plan,
)

NAN = float("nan")
FOREIGN = Forecaster(lambda past, timestep, shallow: past[-1].deep * 0)
NOT_ONE = "a string"


class EveryThird(Schedule):
    """A schedule of somebody else's."""

    def __call__(self, now, shallow, state) -> bool:
        return now.step % 3 == 0


EVERY_THIRD = EveryThird()

NO_SCHEDULES = (5, Interval, f"{__name__}:NOT_ONE", FOREIGN, max, "os:getcwd")
NO_FORECASTS = (5, Forecaster, f"{__name__}:NOT_ONE", EVERY_THIRD, max, "os:getcwd")


def half(past, timestep, shallow):
    return past[-1].deep / 2


def odd(now, shallow, state) -> bool:
    return now.step % 2 == 1


GOOD = [
    {},
    {"interval": 1},
    {"interval": 3, "branch": 4, "window": (20, 1000)},
    {"interval": 3, "window": (500, 500)},
    {"window": (-1.5, 0.25)},
    {"branch": 0, "forecast": "taylor"},
    {"forecast": "taylor", "order": 2},
    {"forecast": "residual"},
    {"steps": (0,)},
    {"steps": (0, 1, 5), "branch": 2},
    {"forecast": f"{__name__}:FOREIGN"},
    {"forecast": f"{__name__}:half"},
    {"interval": 5, "retention": 3, "max_cached": 2, "window": (20, 999)},
    {"threshold": 0.1, "window": (20, 999), "retention": 2, "max_cached": 4},
    {"steps": (0, 9), "max_cached": 3},
    {"schedule": f"{__name__}:EVERY_THIRD"},
    {"schedule": f"{__name__}:odd", "max_cached": 2},
]


@pytest.mark.parametrize("settings", GOOD)
def test_settings_go_through_json_and_back(settings):
    config = SkipCacheConfig(**settings)
    again = SkipCacheConfig(**json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert hash(again) == hash(config)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"interval": 0}, "interval is 0: .*integer of at least 1"),
        ({"interval": -2}, "interval is -2: .*at least 1"),
        ({"interval": 2.0}, r"interval is 2\.0: .*integer"),
        ({"interval": True}, "interval is True: .*integer"),
        ({"interval": "2"}, "interval is '2': .*integer"),
        ({"branch": -1}, "branch is -1: .*at least 0"),
        ({"branch": 1.5}, r"branch is 1\.5: .*integer"),
        ({"window": (1000, 20)}, r"window is \(1000, 20\): .*stop <= start"),
        ({"window": (20,)}, r"window is \(20,\): give \(stop, start\)"),
        ({"window": (0, 1, 2)}, r"window is \(0, 1, 2\): give"),
        ({"window": 20}, "window is 20: give"),
        ({"window": ("20", "1000")}, "window is .*: give"),
        ({"window": ("a", "b")}, "window is .*: give"),
        ({"window": "ab"}, "window is .*: give"),
        ({"window": (100, None)}, "window is .*: give"),
        ({"window": (False, True)}, "window is .*: give"),
        ({"forecast": "taylor", "order": 2.0}, r"order is 2\.0 .*taylor takes 1 or 2"),
        ({"forecast": "taylor", "order": True}, "order is True .*taylor takes 1 or 2"),
        ({"steps": 5, "interval": 7}, "interval is 7 beside steps is 5"),
        ({"steps": (0, True)}, r"steps are \(0, True\): give integers"),
        ({"retention": 0}, "retention is 0: .*at least 1"),
        ({"max_cached": 1.0}, r"max_cached is 1\.0: .*integer"),
        ({"interval": 3, "max_cached": 2}, "max_cached is 2 with interval 3: give less"),
        ({"threshold": 0}, "threshold is 0: .*above 0"),
        ({"threshold": NAN}, "threshold is nan"),
        ({"threshold": 0.1, "interval": 2}, r"interval is 2 beside threshold is 0\.1"),
        ({"schedule": odd, "steps": (0,)}, r"steps is \(0,\) beside schedule is"),
        ({"schedule": Guarded(EVERY_THIRD, retention=2)}, "schedule is Guarded.*: give what it is made of as settings"),
        ({"schedule": SkipCacheConfig(interval=5).schedule}, "schedule is Guarded.*: give what it is made of"),
        ({"schedule": ".x:y"}, "cannot be imported"),
        ({"schedule": Interval(2)}, r"schedule is Interval\(interval=2\): give what it is made of as settings"),
        *(({"schedule": bad}, "schedule is .*: give a function of three .*, a Schedule") for bad in NO_SCHEDULES),
        *(({"forecast": bad}, "forecast is .*: give a function of three .*, a Forecaster") for bad in NO_FORECASTS),
        ({"forecast": "no.such.module:FOREIGN"}, "cannot be imported.*no"),
        ({"forecast": f"{__name__}:NO_SUCH"}, "cannot be imported.*NO_SUCH"),
        ({"forecast": ":"}, "cannot be imported"),
        ({"forecast": "os:"}, "cannot be imported"),
        ({"window": (NAN, 1000)}, "window is .*nan.*: give"),
        ({"order": 1}, "order is 1 with forecast 'hold'"),
        ({"forecast": "taylor", "order": 0}, "order is 0 .*taylor takes 1 or 2"),
        ({"forecast": "taylor", "order": 3}, "order is 3 .*taylor takes 1 or 2"),
        ({"forecast": "taylor", "order": 1.5}, r"order is 1\.5 .*taylor takes 1 or 2"),
        ({"forecast": "spline"}, "unknown forecast 'spline': take one of"),
        ({"forecast": None}, "forecast"),
        ({"steps": ()}, r"steps are \[\]: they must begin with 0"),
        ({"steps": (1, 2)}, r"steps are \[1, 2\]: they must begin with 0"),
        ({"steps": (0, 2, 1)}, r"steps are \[0, 2, 1\]: they must .* rise"),
        ({"steps": (0, 1.5)}, r"steps are \(0, 1\.5\): give integers"),
        ({"steps": (0, "1")}, r"steps are \(0, '1'\): give integers"),
        ({"steps": 3}, "steps are 3"),
        ({"steps": (0, 2), "interval": 2}, r"interval is 2 beside steps is \(0, 2\)"),
        ({"steps": (0, 2), "window": (0, 9)}, r"window is \(0, 9\) beside steps is \(0, 2\)"),
    ],
)
def test_a_bad_setting_names_value_and_bound(settings, message):
    with pytest.raises(ValueError, match=message):
        SkipCacheConfig(**settings)


def test_a_config_is_frozen():
    with pytest.raises(FrozenInstanceError):
        SkipCacheConfig().interval = 3


def test_defaults_are_the_published_cache():
    config = SkipCacheConfig()
    assert (config.interval, config.branch, config.window, config.forecast, config.order) == (2, 1, None, "hold", None)


def test_settings_become_schedule_and_forecaster():
    assert SkipCacheConfig(interval=3).schedule == Guarded(Interval(3))
    assert SkipCacheConfig(interval=3, window=(20, 900)).schedule == Guarded(Interval(3), (20, 900))
    assert SkipCacheConfig(threshold=0.1, max_cached=2).schedule == Guarded(RelativeChange(0.1), max_cached=2)
    assert SkipCacheConfig(steps=[0, 4]).schedule == Guarded(ExplicitSteps((0, 4)))
    assert SkipCacheConfig(schedule=EVERY_THIRD, retention=2).schedule == Guarded(EVERY_THIRD, retention=2)
    assert SkipCacheConfig(forecast="taylor").forecaster.memory == 2
    assert SkipCacheConfig(forecast="taylor", order=2).forecaster.memory == 3


def test_the_published_preset_and_changes_to_it():
    preset = SkipCacheConfig.preset("class-to-image")
    assert preset == SkipCacheConfig(interval=2, branch=4, window=(20, 1000)) == PRESETS["class-to-image"]
    assert SkipCacheConfig.preset("class-to-image", interval=6) == replace(preset, interval=6)


def test_a_change_to_a_preset_takes_the_place_of_what_it_contradicts():
    assert SkipCacheConfig.preset("high", forecast="hold").order is None
    assert SkipCacheConfig.preset("fast", threshold=0.1).interval is None


def test_an_unknown_preset_lists_the_known():
    with pytest.raises(ValueError, match="unknown preset 'text': take one of class-to-image"):
        SkipCacheConfig.preset("text")


@pytest.mark.parametrize(("branch", "depth", "fits"), [(0, 1, True), (1, 1, False), (2, 6, True), (3, 6, False)])
def test_a_branch_leaves_a_trunk(branch, depth, fits):
    config = SkipCacheConfig(branch=branch)
    if fits:
        config.check_depth(depth)
    else:
        with pytest.raises(ValueError, match=f"branch is {branch}: .* {depth} layers takes 0 to {(depth - 1) // 2}"):
            config.check_depth(depth)


def test_the_published_spelling_names_interval_start_and_stop():
    assert SkipCacheConfig.published("N2-700-50") == SkipCacheConfig.preset("text-to-video")
    changed = SkipCacheConfig.published("N4-800-20", forecast="taylor", branch=2)
    assert changed == SkipCacheConfig(interval=4, branch=2, window=(20, 800), forecast="taylor")


@pytest.mark.parametrize("text", ["", "2-700-50", "N2", "N2-700", "N2-700-50 ", "N2-700-50-9", "N-1-700-50"])
def test_another_spelling_is_refused(text):
    with pytest.raises(ValueError, match=f"cache is '{text}': give N<interval>-<start>-<stop>"):
        SkipCacheConfig.published(text)


@pytest.mark.parametrize("text", ["N0-700-50", "N2-50-700"])
def test_published_numbers_are_checked_like_others(text):
    with pytest.raises(ValueError, match="interval is 0|window is"):
        SkipCacheConfig.published(text)


@pytest.mark.parametrize(("depth", "branch"), [(40, 4), (28, 4), (24, 3), (9, 1), (8, 1), (2, 0), (1, 0)])
def test_a_preset_keeps_its_share_of_the_layers_where_a_model_is_too_shallow(depth, branch):
    config = SkipCacheConfig.preset("class-to-image", depth=depth)
    config.check_depth(depth)
    assert SkipCacheConfig.preset("balanced", depth=depth) == SkipCacheConfig.preset("balanced")
    assert config.branch == branch
    with pytest.raises(ValueError, match="branch is 20"):
        SkipCacheConfig.preset("class-to-image", depth=depth, branch=20).check_depth(depth)


@pytest.mark.parametrize("settings", GOOD)
def test_a_changed_config_is_the_one_made_with_the_change(settings):
    """`dataclasses.replace` hands the schedule that was derived from the old settings back."""
    config = SkipCacheConfig(**settings)
    assert replace(config) == config
    assert replace(config, branch=3) == SkipCacheConfig(**settings | {"branch": 3})
    assert replace(SkipCacheConfig(interval=2), interval=6).schedule == Guarded(Interval(6))
    with pytest.raises(ValueError, match="interval is 6 beside schedule is"):
        replace(SkipCacheConfig(schedule=EVERY_THIRD), interval=6)


def test_functions_and_objects_are_taken_as_they_are_and_written_down_by_their_import_path():
    config = SkipCacheConfig(schedule=odd, forecast=half, max_cached=3)
    assert config == SkipCacheConfig(schedule=f"{__name__}:odd", forecast=half, max_cached=3)
    assert (config.reads_shallow, config.forecaster.memory, config.forecaster.predict) == (True, 3, half)
    written = config.to_dict()
    assert (written["schedule"], written["forecast"]) == (f"{__name__}:odd", f"{__name__}:half")
    for unwritten in ({"schedule": lambda now, shallow, state: True}, {"forecast": lambda *_: 0}):
        with pytest.raises(ValueError, match="cannot be written down: give it a name"):
            SkipCacheConfig(**unwritten).to_dict()


VALUES = st.one_of(
    st.none(), st.integers(-2, 9), st.floats(-2, 9), st.booleans(), st.text("0123,ab:", max_size=3),
    st.lists(st.one_of(st.integers(-2, 9), st.floats(), st.none(), st.text("01", max_size=1)), max_size=4).map(tuple),
)  # fmt: skip


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Interval(0), "interval is 0: .*at least 1"),
        (lambda: Guarded(Interval(2), window=("a", "b")), "window is"),
        (lambda: Guarded(Interval(2), retention=0), "retention is 0"),
        (lambda: RelativeChange(-1), "threshold is -1"),
        (lambda: Forecaster(half, memory=0), "memory is 0: .*at least 1"),
        (lambda: Forecaster(3), "predict is 3: give a function"),
    ],
)
def test_schedules_and_forecasters_check_themselves(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@given(
    when=st.dictionaries(
        st.sampled_from(["interval", "window", "steps", "retention", "max_cached", "threshold"]), VALUES
    ),
    what=st.fixed_dictionaries({}, optional={"forecast": st.sampled_from(["hold", "taylor", "residual", 3, None])})
    | st.fixed_dictionaries({"forecast": st.just("taylor"), "order": VALUES}),
    branch=VALUES,
)
@settings(max_examples=600)
def test_whatever_is_accepted_runs(when, what, branch):
    """A setting out of its bounds is a ValueError when the config is made, and nothing is left to fail in a run."""
    try:
        config = SkipCacheConfig(**when, **what, branch=branch)
    except ValueError:
        return
    features = torch.ones(2, 3)
    schedule, state, made = config.schedule, {}, plan(config.schedule, range(900, 0, -50))
    assert len(made) == 18
    assert isinstance(schedule(Now(3, 750.0, 800.0, 1), features, state), bool | int)
    past = [Computed(900.0, features, features), Computed(800.0, features, features)]
    assert config.forecaster.predict(past, 750.0, features).shape == (2, 3)
    assert SkipCacheConfig(**json.loads(json.dumps(config.to_dict()))) == config
    hash(config)
