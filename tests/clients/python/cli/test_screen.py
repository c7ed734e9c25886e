"""The bottom lines are replaced, never smeared, whatever the terminal's width does."""

import io

import pytest
from rich.console import Console
from rich.text import Text

from nextchar.cli.live_view import Screen
from tests.clients.python.terminal import Terminal


class _Display:
    """A console whose output a terminal shows, both of a width that can change."""

    def __init__(self, columns: int) -> None:
        self.terminal = Terminal(columns)
        self._file = io.StringIO()
        self.console = Console(
            file=self._file, force_terminal=True, width=columns, height=20, color_system=None
        )

    def resize(self, columns: int) -> None:
        self.show()
        self.terminal.columns = columns
        self.console.width = columns

    def show(self) -> list[str]:
        self.terminal.feed(self._file.getvalue())
        self._file.seek(0)
        self._file.truncate()
        return self.terminal.rows


@pytest.fixture
def display() -> _Display:
    return _Display(20)


def test_the_bottom_is_replaced_by_longer_and_shorter_ones(display: _Display) -> None:
    with Screen(display.console) as screen:
        for bottom in ("one\ntwo", "a\nb\nc", "last"):
            screen.draw(Text(bottom))
            assert display.show() == bottom.split("\n")


def test_text_stays_above_the_bottom(display: _Display) -> None:
    with Screen(display.console) as screen:
        screen.draw(Text("bar 1\nnumbers 1"))
        screen.print_above(Text("first sample"))
        screen.draw(Text("bar 2\nnumbers 2"))
        screen.print_above(Text("second sample\nof two lines"))
        screen.draw(Text("bar 3\nnumbers 3"))
        assert display.show() == ["first sample", "second sample", "of two lines", "bar 3", "numbers 3"]
        screen.clear()
    display.console.print("outcome")
    assert display.show() == ["first sample", "second sample", "of two lines", "outcome"]


@pytest.mark.parametrize("columns", [7, 10, 13, 40])
def test_no_stale_rows_are_left_when_the_width_changes(display: _Display, columns: int) -> None:
    with Screen(display.console) as screen:
        screen.draw(Text("=" * 19 + "\n" + "-" * 12 + "\nshort"))
        display.resize(columns)
        screen.draw(Text("bar\nnumbers"[: columns - 1]))
        assert display.show() == "bar\nnumbers"[: columns - 1].split("\n")


def test_lines_never_reach_the_last_column(display: _Display) -> None:
    with Screen(display.console) as screen:
        screen.draw(Text("x" * 100))
        display.show()
    assert display.terminal.widest_row == 19


def test_the_cursor_comes_back_even_after_an_error(display: _Display) -> None:
    with pytest.raises(RuntimeError), Screen(display.console) as screen:
        screen.draw(Text("bar"))
        display.show()
        assert display.terminal.cursor_is_hidden
        raise RuntimeError
    assert display.show() == ["bar"]
    assert not display.terminal.cursor_is_hidden
