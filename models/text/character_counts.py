"""The histogram of the characters of a text that is read in pieces."""

import numpy as np

from models.text.vocabulary import code_points

CODE_POINTS = 0x110000


class CharacterCounts:
    """Counts characters.

    Attributes:
        by_code_point: (0x110000,) int64, how often each code point occurred.
        total: the number of characters.

    >>> counts = CharacterCounts()
    >>> counts.add("aba")
    >>> int(counts.by_code_point[ord("a")]), counts.distinct, counts.total
    (2, 2, 3)
    """

    def __init__(self) -> None:
        self.by_code_point = np.zeros(CODE_POINTS, np.int64)
        self.total = 0

    def add(self, text: str) -> None:
        """Count the characters of the next piece."""
        if text:
            counts = np.bincount(code_points(text))
            self.by_code_point[: counts.size] += counts
            self.total += len(text)

    @property
    def distinct(self) -> int:
        """The number of distinct characters."""
        return int(np.count_nonzero(self.by_code_point))
