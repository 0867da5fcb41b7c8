"""Settings of a model that its tensors do not tell: checked where they are given, named where they will be needed.

    model   {"num_heads": 4, "sample_size": [32, 64], "prediction_type": "v_prediction", ...}
    told    num_heads=4 sample_size=32,64 prediction_type=v_prediction        as `skipdit convert --set` takes them

The tensors of a published file tell widths and counts. Everything else is a published default, or must be given.
"""

import json
from collections.abc import Mapping
from typing import Any, get_type_hints

from skipdit.hub.architectures import Overrides
from skipdit.hub.names import State
from skipdit.hub.original import described
from skipdit.models.base import LongSkipModel
from skipdit.models.fits import check_type, defaults_of
from skipdit.spelling import did_you_mean


def check_overrides(overrides: Overrides, kind: type[LongSkipModel]) -> None:
    """ValueError for a setting that a class does not have, or a value of another type than it takes."""
    hints = get_type_hints(kind.__init__)
    if unknown := [name for name in overrides if name not in hints]:
        near = did_you_mean(unknown[0], hints)
        raise ValueError(f"{kind.__name__} has no {', '.join(unknown)}: {near}set one of {', '.join(sorted(hints))}")
    for name, value in overrides.items():
        check_type(kind, name, value, hints[name], spell=spelled)


def untold(state: State, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a model's settings that `load_original` must be given with its tensors, to find all of them again.

    A setting that is None is whatever the tensors tell.
    """
    kept = {name: value for name, value in settings.items() if value is not None}
    for name in list(kept):
        if is_told(state, name, kept):  # one by one: two settings may each tell the other
            del kept[name]
    return kept


def is_told(state: State, name: str, settings: Mapping[str, Any]) -> bool:
    """Whether a setting is read off the tensors, or the default, where all others are given."""
    others = {other: value for other, value in settings.items() if other != name}
    try:
        kind, config, _ = described(state, None, others)
    except ValueError:  # which asks for it
        return False
    return (defaults_of(kind.model) | config)[name] == settings[name]


def spelled(value: Any) -> str:
    """A value as `--set NAME=VALUE` takes it."""
    if isinstance(value, tuple | list):
        return ",".join(map(spelled, value))
    return value if isinstance(value, str) else json.dumps(value)
