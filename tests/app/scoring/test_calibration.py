import pytest

from nextchar.app.scoring.calibration import _batches, lines_of
from nextchar.models.errors import TooLarge


def test_lines_of_pieces_are_those_of_the_whole_text() -> None:
    text = "ab\n\nc" + "d" * 60_000 + "\nlast"
    expected = ["ab", "", "c" + "d" * 50_000, "last"]
    for size in (1, 3, 1000, len(text)):
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        assert list(lines_of(pieces)) == expected
    assert list(lines_of(["a\n"])) == ["a"]


def test_lines_are_read_in_batches_of_bounded_size() -> None:
    assert max(map(len, _batches([""] * 50_000))) <= 10_001
    assert sum(map(len, _batches(["a" * 1000] * 500))) == 500
    with pytest.raises(TooLarge, match="2,000,000 lines"):
        list(_batches("" for _ in range(2_000_001)))
