"""A few lines at the bottom of the terminal, redrawn in place while text scrolls above them.

Each redraw is one write that overwrites lines instead of erasing them first, which avoids flicker. When the
terminal becomes narrower, the rows into which it wrapped the old lines are overwritten too.
"""

from typing import Self

from rich.console import Console, RenderableType
from rich.text import Text

_HIDE_CURSOR, _SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
_ERASE_LINE_END, _ERASE_BELOW = "\x1b[K", "\x1b[J"


class Screen:
    """The bottom lines of a terminal. A context manager, which hides the cursor meanwhile."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bottom: list[tuple[str, int]] = []  # the lines there now, and their widths in cells

    def __enter__(self) -> Self:
        self._write(_HIDE_CURSOR)
        return self

    def __exit__(self, *_: object) -> None:
        """Keep the last lines and move to the line below them."""
        self._write(("\n" if self._bottom else "") + _SHOW_CURSOR)

    def draw(self, bottom: RenderableType) -> None:
        """Replace the bottom lines."""
        self._redraw([], self._rendered(bottom))

    def print_above(self, text: RenderableType) -> None:
        """Print permanent text above the bottom lines."""
        self._redraw(self._rendered(text), self._bottom)

    def clear(self) -> None:
        """Erase the bottom lines."""
        self._redraw([], [])

    def _redraw(self, above: list[tuple[str, int]], bottom: list[tuple[str, int]]) -> None:
        bottom = bottom[: max(1, self._console.height - 1)]
        lines = [*above, *bottom]
        out = "\r" + (f"\x1b[{up}A" if (up := self._rows_up()) else "")
        out += "\n".join(line + _ERASE_LINE_END for line, _ in lines) + ("\n" if above and not bottom else "")
        # A \n moves down and, on every terminal in its usual mode, to the first column.
        self._write(out + _ERASE_BELOW)
        self._bottom = bottom

    def _rows_up(self) -> int:
        """Return how many rows the cursor, at the end of the last line, is below the first line's row."""
        columns = self._console.width
        rows = sum(max(1, -(-width // columns)) for _, width in self._bottom)
        return max(0, rows - 1)

    def _rendered(self, what: RenderableType) -> list[tuple[str, int]]:
        """Return the lines of a renderable with their control sequences, and their widths in cells."""
        with self._console.capture() as captured:
            # One column stays free: terminals differ in where the cursor is after a full line.
            self._console.print(what, width=max(1, self._console.width - 1), end="")
        lines = captured.get().removesuffix("\n").split("\n")
        return [(line, Text.from_ansi(line).cell_len) for line in lines]

    def _write(self, text: str) -> None:
        self._console.file.write(text)
        self._console.file.flush()
