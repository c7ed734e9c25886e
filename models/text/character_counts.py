"""The histogram of the characters of a text that is read in pieces."""

import mmap

import numpy as np

from nextchar.models.text.vocabulary import code_points

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
        # Of each upload in progress. Unlike np.zeros, it takes memory only for the pages that are counted in.
        self.by_code_point = np.frombuffer(mmap.mmap(-1, CODE_POINTS * 8), np.int64)
        self.total = 0

    def add(self, text: str) -> None:
        """Count the characters of the next piece, in time and memory for those that it has."""
        np.add.at(self.by_code_point, code_points(text), 1)
        self.total += len(text)

    @property
    def distinct(self) -> int:
        """The number of distinct characters."""
        return int(np.count_nonzero(self.by_code_point))
