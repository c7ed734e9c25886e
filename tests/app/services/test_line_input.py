import pytest

from nextchar.app.services.line_input import LineSplitter


@pytest.mark.parametrize("cut", range(1, 12))
def test_lines_do_not_depend_on_where_pieces_end(cut: int) -> None:
    data = b"ab\n\nlonger\nx"
    whole, parts = LineSplitter(max_bytes=4), LineSplitter(max_bytes=4)
    expected = [*whole.feed(data), *whole.finish()]
    assert [*parts.feed(data[:cut]), *parts.feed(data[cut:]), *parts.finish()] == expected
    assert [line.data for line in expected] == [b"ab", b"", b"long", b"x"]
