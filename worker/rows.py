"""Text to rows to windows, in order: the stateful contract of training.

The ids of a text are cut into B contiguous rows. Window k of row b is followed by window k + 1 of row
b, so that the state after one is the state before the next. Nothing is shuffled.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.prepared_text import Ids

_WINDOWS_A_ROW = 4
"""Rows are made longer, and so fewer, until each holds this many windows."""


@dataclass(frozen=True)
class Rows:
    """A text cut into B rows, read T steps at a time.

    >>> rows = Rows.cut(np.arange(17), rows=2, window=2)
    >>> rows.at(epoch=0, k=0)[0].tolist(), rows.at(epoch=0, k=1)[0].tolist()
    ([[0, 8], [1, 9]], [[2, 10], [3, 11]])
    """

    ids: Ids
    rows: int
    window: int

    @classmethod
    def cut(cls, ids: Ids, *, rows: int, window: int) -> "Rows":
        """Return the rows of a text, fewer or with shorter windows if it is too small for those asked.

        Raises:
            ValueError: fewer than three ids.
        """
        usable = len(ids) - 1  # the last character is only ever a target
        if usable < 2:
            raise ValueError("a text of fewer than three characters has no window")
        fitting = max(1, min(rows, usable // (window * _WINDOWS_A_ROW)))
        return cls(ids, fitting, min(window, usable // fitting))

    @property
    def row_length(self) -> int:
        """Characters in a row."""
        return (len(self.ids) - 1) // self.rows

    @property
    def windows_per_epoch(self) -> int:
        """Windows in a row; a remainder shorter than a window is skipped, another one each epoch."""
        return self.row_length // self.window

    def beginning(self, *, epoch: int, k: int) -> Iterator[slice]:  # noqa: ARG002
        """Yield the rows that begin anew with window k: all of them, with the first of an epoch."""
        if k == 0:
            yield slice(0, self.rows)

    def at(self, *, epoch: int, k: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return window k of an epoch: inputs and the characters after them, each (T, B) int32."""
        spare = self.row_length - self.windows_per_epoch * self.window
        # The epochs begin at different places within the remainder, so that all of it is seen.
        begin = (epoch * 31) % (spare + 1) + k * self.window
        row_starts = np.arange(self.rows) * self.row_length + begin
        positions = row_starts[None, :] + np.arange(self.window)[:, None]
        return self.ids[positions], self.ids[positions + 1]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return nothing: where a window lies follows from its number."""
        return {}

    def restore(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Do nothing."""
