"""The names that were meant where another was given."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ "did you mean fashion-dit, fashion-skip? " for the head of a remedy; "" where nothing is near."""
    plain = {other.casefold(): other for other in known}
    near = [plain[other] for other in get_close_matches(name.rpartition("/")[2].casefold(), plain, n=3, cutoff=0.5)]
    return f"did you mean {', '.join(near)}? " if near else ""
