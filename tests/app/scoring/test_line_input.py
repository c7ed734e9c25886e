from collections.abc import Iterator
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextchar.app.scoring.line_input import LineSplitter, RawLine, lines_between


@pytest.mark.parametrize("cut", range(1, 12))
def test_lines_do_not_depend_on_where_pieces_end(cut: int) -> None:
    data = b"ab\n\nlonger\nx"
    whole, parts = LineSplitter(max_bytes=4), LineSplitter(max_bytes=4)
    expected = [*whole.feed(data), *whole.finish()]
    assert [*parts.feed(data[:cut]), *parts.feed(data[cut:]), *parts.finish()] == expected
    assert [line.data for line in expected] == [b"ab", b"", b"long", b"x"]


@given(
    st.lists(st.binary(max_size=9).map(lambda b: b.replace(b"\n", b"")), max_size=30),
    st.integers(1, 40),
    st.integers(1, 20),
)
def test_each_line_is_in_the_range_in_which_it_begins(lines: list[bytes], size: int, piece: int) -> None:
    text = b"\n".join(lines)
    found: list[RawLine] = []
    for start in range(0, len(text), size):
        begin = max(0, start - 1)
        pieces = (text[at : at + piece] for at in range(begin, len(text), piece))
        of_range = [line for some in lines_between(pieces, start, start + size) for line in some]
        assert all(start <= line.offset < start + size for line in of_range)
        found += of_range
    assert found == [*(splitter := LineSplitter()).feed(text), *splitter.finish()]


def test_no_more_is_read_than_the_lines_of_a_range() -> None:
    def pieces() -> Iterator[bytes]:
        yield from [b"\nshort\n", b"x" * 100]
        pytest.fail("read on")

    assert [len(some) for some in lines_between(pieces(), 1, 7)] == [1]
    assert list(chain.from_iterable(lines_between(iter([b"x" * 10, b"x" * 10]), 5, 15))) == []
