"""Names of classes, as `id2label` of a pipeline folder gives them: {"207": "golden retriever", ...}."""

from collections.abc import Iterable, Mapping
from typing import Any

from skipdit.models.checks import show_short

NAMED_AT_MOST = 100  # names in an error


def read_names(id2label: Any) -> dict[str, str] | None:
    """Names by class id, whose digits are a text as in JSON; a list names the classes in turn.

    Raises: ValueError for an id that is none, or a name that is no text.
    """
    if id2label is None:
        return None
    table = dict(enumerate(id2label)) if isinstance(id2label, list | tuple) else id2label
    if not isinstance(table, Mapping):
        raise ValueError(f"id2label is {show_short(id2label)}: give names by class id")
    for key, name in table.items():
        if not (str(key).isdecimal() and isinstance(name, str) and name.strip()):
            raise ValueError(f"id2label has {show_short(name)} for {show_short(key)}: give a name for a class id")
    return {str(int(key)): name for key, name in table.items()}


def ids_by_name(id2label: Mapping[str, str]) -> dict[str, list[int]]:
    """Class ids by whole name and by each part between commas, as diffusers' DiTPipeline has them: synonyms."""
    ids: dict[str, list[int]] = {}
    for number, name in id2label.items():
        for part in dict.fromkeys([name, *map(str.strip, name.split(","))]):
            ids.setdefault(part, []).append(int(number))
    return ids


def name_some(names: Iterable[str]) -> str:
    """Names for an error, the first of many."""
    names = list(names)
    return ", ".join(names[:NAMED_AT_MOST]) + ", ..." * (len(names) > NAMED_AT_MOST)
