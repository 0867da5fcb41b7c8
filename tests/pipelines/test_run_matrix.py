"""A cached run gives what it gives alone, whatever runs beside it; `python -m tests.run_matrix` runs every cell."""

import pytest
import torch

from tests.run_matrix import CONFIGS, DRAWERS, cancel, nest, thread

CASES = {
    "broken off after its first step": lambda drawer: cancel(drawer, CONFIGS[0], at=0, then=4),
    "broken off in the middle": lambda drawer: cancel(drawer, CONFIGS[1], at=3, then=9),
    "one inside another": lambda drawer: nest(drawer, CONFIGS[0], at=2),
    "in threads": lambda drawer: thread(drawer, CONFIGS[0], number=2, in_turns=True, steps=4),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", DRAWERS)
def test_a_disturbed_run_is_what_it_is_alone(name, case):
    pairs = list(CASES[case](DRAWERS[name]))
    assert pairs
    assert all(torch.equal(disturbed, undisturbed) for disturbed, undisturbed in pairs)
