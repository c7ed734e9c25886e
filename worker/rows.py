"""Rows and windows: the order in which stateful training reads a text.

The ids of a text are cut into B contiguous rows. Window k of a row is followed by its window k + 1, so the
state after one is the state before the next. Nothing is shuffled.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nextchar.worker.prepared_text import Ids

_MIN_WINDOWS_PER_ROW = 4  # a small text is cut into fewer rows until each has this many


@dataclass(frozen=True)
class Rows:
    """A text cut into B rows, read in windows of T steps.

    >>> rows = Rows.cut(np.arange(17), rows=2, window=2)
    >>> rows.window_at(epoch=0, index=0)[0].tolist(), rows.window_at(epoch=0, index=1)[0].tolist()
    ([[0, 8], [1, 9]], [[2, 10], [3, 11]])
    """

    ids: Ids
    rows: int  # B
    window: int  # T

    @classmethod
    def cut(cls, ids: Ids, *, rows: int, window: int) -> "Rows":
        """Return the rows of a text; if it is too small, fewer rows or shorter windows.

        Raises:
            ValueError: fewer than three ids.
        """
        usable = len(ids) - 1  # the last character is only ever a target
        if usable < 2:
            raise ValueError("a text needs at least three characters to have a window")
        fitting = max(1, min(rows, usable // (window * _MIN_WINDOWS_PER_ROW)))
        return cls(ids, fitting, min(window, usable // fitting))

    @property
    def row_length(self) -> int:
        """Characters per row."""
        return (len(self.ids) - 1) // self.rows

    @property
    def windows_per_epoch(self) -> int:
        """Windows per row. The remainder of a row is skipped, at another offset each epoch."""
        return self.row_length // self.window

    def starting_rows(self, *, epoch: int, index: int) -> Iterator[slice]:  # noqa: ARG002
        """Yield the rows whose states are reset before this window: all rows, at the start of an epoch."""
        if index == 0:
            yield slice(0, self.rows)

    def window_at(self, *, epoch: int, index: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return a window of an epoch: inputs and the characters after them, each (T, B) int32."""
        remainder = self.row_length - self.windows_per_epoch * self.window
        # Epochs start at different offsets within the remainder, so every character is read.
        begin = (epoch * 31) % (remainder + 1) + index * self.window
        row_starts = np.arange(self.rows) * self.row_length + begin
        positions = row_starts[None, :] + np.arange(self.window)[:, None]
        return self.ids[positions], self.ids[positions + 1]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return nothing: the place of a window follows from its epoch and index."""
        return {}

    def restore(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Do nothing: there is no state."""


def replicas_of(rows: int, *, max_replicas: int) -> int:
    """Return the largest number of replicas that gives each the same number of rows."""
    return max(n for n in range(1, max_replicas + 1) if rows % n == 0)
