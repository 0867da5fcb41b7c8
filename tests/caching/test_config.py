"""A cache's settings are one frozen value, checked when it is made."""

import json
from dataclasses import FrozenInstanceError, replace

import pytest

from skipdit import SkipCacheConfig
from skipdit.caching import PRESETS, ExplicitSteps, Interval

NAN = float("nan")

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
    {"forecast": "tests.caching.test_forecast:FOREIGN"},
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
        ({"interval": 0}, r"interval is 0: .*>= 1"),
        ({"interval": -2}, r"interval is -2: .*>= 1"),
        ({"interval": 2.0}, r"interval is 2\.0: .*integer"),
        ({"interval": True}, "interval is True: .*integer"),
        ({"interval": "2"}, "interval is '2': .*integer"),
        ({"branch": -1}, "branch is -1: .*from 0 to half"),
        ({"branch": 1.5}, r"branch is 1\.5: .*integer"),
        ({"window": (1000, 20)}, r"window is \(1000, 20\): .*stop <= start"),
        ({"window": (20,)}, r"window is \(20,\): give \(stop, start\)"),
        ({"window": (0, 1, 2)}, r"window is \(0, 1, 2\): give"),
        ({"window": 20}, "window is 20: give"),
        ({"window": ("20", "1000")}, "window is .*: give"),
        ({"window": (NAN, 1000)}, "window is .*nan.*: give"),
        ({"order": 1}, "order is 1 with forecast 'hold'"),
        ({"forecast": "taylor", "order": 0}, "order is 0 .*taylor takes 1 or 2"),
        ({"forecast": "taylor", "order": 3}, "order is 3 .*taylor takes 1 or 2"),
        ({"forecast": "taylor", "order": 1.5}, r"order is 1\.5 .*taylor takes 1 or 2"),
        ({"forecast": "spline"}, "unknown forecast 'spline': take one of"),
        ({"forecast": None}, "forecast"),
        ({"steps": ()}, r"steps are \[\]: the first must be 0"),
        ({"steps": (1, 2)}, r"steps are \[1, 2\]: the first must be 0"),
        ({"steps": (0, 2, 1)}, r"steps are \[0, 2, 1\]: each must be larger"),
        ({"steps": (0, 1.5)}, r"steps are \[0, 1\.5\]"),
        ({"steps": (0, "1")}, r"steps are \[0, '1'\]"),
        ({"steps": 3}, "steps are 3"),
        ({"steps": (0, 2), "interval": 2}, r"interval is 2 beside steps \[0, 2\]"),
        ({"steps": (0, 2), "window": (0, 9)}, r"window is \(0, 9\) beside steps \[0, 2\]"),
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
    assert SkipCacheConfig(interval=3, window=(20, 900)).schedule == Interval(3, (20, 900))
    assert SkipCacheConfig(steps=[0, 4]).schedule == ExplicitSteps((0, 4))
    assert SkipCacheConfig(forecast="taylor").forecaster.memory == 2
    assert SkipCacheConfig(forecast="taylor", order=2).forecaster.memory == 3


def test_the_published_preset_and_changes_to_it():
    preset = SkipCacheConfig.preset("class-to-image")
    assert preset == SkipCacheConfig(interval=2, branch=4, window=(20, 1000)) == PRESETS["class-to-image"]
    assert SkipCacheConfig.preset("class-to-image", interval=6) == replace(preset, interval=6)


def test_an_unknown_preset_lists_the_known():
    with pytest.raises(ValueError, match="unknown preset 'text': take one of class-to-image"):
        SkipCacheConfig.preset("text")


@pytest.mark.parametrize(("branch", "depth", "fits"), [(0, 1, True), (1, 1, False), (3, 7, True), (4, 7, False)])
def test_a_branch_fits_in_half_the_depth(branch, depth, fits):
    config = SkipCacheConfig(branch=branch)
    if fits:
        config.check_depth(depth)
    else:
        with pytest.raises(ValueError, match=f"branch is {branch}: a model of {depth} layers takes 0 to {depth // 2}"):
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
