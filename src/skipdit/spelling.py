"""The names that were meant where another was given."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, known: Iterable[str], *, first: Iterable[str] = ()) -> str:
    """ "did you mean fashion-dit, fashion-skip? " for the head of a remedy; "" without any. `first` go first."""
    plain = {other.casefold(): other for other in known}
    near = get_close_matches(name.rpartition("/")[2].casefold(), plain, n=3, cutoff=0.5)
    near = dict.fromkeys([*first, *(plain[other] for other in near)])
    return f"did you mean {', '.join(near)}? " if near else ""
