from collections.abc import Iterator
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextchar.models.text.lines import (
    LineSplitter,
    RawLine,
    lines_between,
    lines_of,
    split_lines,
    whole_lines,
)


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


def test_lines_of_pieces_are_those_of_the_whole_text() -> None:
    text = "ab\n\nc" + "d" * 60_000 + "\nlast"
    expected = ["ab", "", "c" + "d" * 50_000, "last"]
    for size in (1, 3, 1000, len(text)):
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        assert list(lines_of(pieces)) == expected
    assert list(lines_of(["a\n"])) == ["a"]


@given(st.lists(st.text(st.sampled_from("ab\n\r\u2028"), max_size=6), max_size=9), st.integers(1, 9))
def test_whole_lines_are_the_text_and_end_with_lines(pieces: list[str], max_held: int) -> None:
    *found, rest = whole_lines(pieces, max_held=max_held)
    assert "".join([*found, rest]) == "".join(pieces)
    assert all(one.endswith("\n") or len(one) >= max_held for one in found) and "\n" not in rest
    *whole, last = whole_lines(pieces, max_held=1000)
    assert all(one.endswith("\n") for one in whole) and "\n" not in last


@given(st.binary(max_size=20).map(lambda b: b.replace(b"a", b"\n")))
def test_lines_of_bytes_are_the_same_at_once_and_in_pieces(data: bytes) -> None:
    splitter = LineSplitter()
    assert split_lines(data) == [line.data for line in [*splitter.feed(data), *splitter.finish()]]
