"""The one loop over layers, read as words: what it composes is an expression, and expressions can be compared."""

import pytest

from skipdit.nn.rooms import LongSkipTransformer


class Words(LongSkipTransformer):
    """A transformer of strings: layer 2 of x is "2(x)", skip 0 closed over x and s is "[0:x+s]"."""

    def __init__(self, depth: int, num_skips: int):
        super().__init__()
        self.depth, self.num_skips = depth, num_skips

    def embed(self, stream):
        return stream, None

    def layer(self, index, stream, context):
        return f"{index}({stream})"

    def fuse(self, index, stream, skip):
        return f"[{index}:{stream}+{skip}]"

    def unembed(self, stream, context):
        return f"out({stream})"


def nested(depth: int, num_skips: int, stream: str, level: int = 0) -> str:
    """Parentheses: open a skip, do everything inside, close it with the innermost counted 0."""
    if level == num_skips:
        for index in range(level, depth - level):
            stream = f"{index}({stream})"
        return stream
    skip = f"{level}({stream})"
    inside = nested(depth, num_skips, skip, level + 1)
    return f"{depth - 1 - level}([{num_skips - 1 - level}:{inside}+{skip}])"


def test_four_layers_and_two_skips_are_this_expression():
    assert Words(4, 2).compose(stream="x") == "out(3([1:2([0:1(0(x))+1(0(x))])+0(x)]))"


@pytest.mark.parametrize("depth", range(1, 9))
def test_skips_nest_like_parentheses_at_every_cut(depth):
    for num_skips in range(depth // 2 + 1):
        expected = f"out({nested(depth, num_skips, 'x')})"
        for cut in range(depth // 2 + 1):
            assert Words(depth, num_skips).compose(stream="x", cut=cut) == expected


def test_the_tail_leaves_the_skips_of_the_head_as_they_were():
    """A head's skips may be used for more than one tail."""
    rooms = Words(6, 3).rooms
    shallow = rooms.head(2, stream="x")
    before = list(shallow.skips)
    assert rooms.tail(2, "d", shallow.skips, None) == rooms.tail(2, "d", shallow.skips, None)
    assert shallow.skips == before
