"""How rare a value is, by how often values were counted."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from math import log2
from typing import Self


@dataclass(frozen=True)
class Frequencies:
    """How often values occurred in `total` places; only the most frequent values are kept."""

    total: int
    kept: Mapping[str, int]

    @classmethod
    def of(cls, counts: Counter[str], max_kept: int) -> Self:
        """Return the frequencies of counted values. Of equally frequent ones the first in order are kept."""
        kept = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:max_kept]
        return cls(counts.total(), dict(kept))

    def rarity(self, value: str) -> float:
        """Return -log2 of the probability that a value is at least as rare as this one."""
        return self._rarity.bits(self.kept.get(value, 0))

    @cached_property
    def _rarity(self) -> "Rarity":
        places = Counter[int]()
        for count in self.kept.values():
            places[count] += count
        if not_kept := self.total - sum(self.kept.values()):
            places[0] = not_kept
        return Rarity(self.total, places)


class Rarity:
    """How probable values are that occurred a number of times.

    By Good ("The population frequencies of species and the estimation of population parameters", 1953): that
    the next value is one that occurred c times is as probable as a place whose value occurred c + 1 times.

    Args:
        total: the places.
        places: by how often a value occurred, the places that have such values.
    """

    def __init__(self, total: int, places: Mapping[int, int]) -> None:
        self._total = total
        self._counts = sorted(places)
        self._up_to = list(accumulate(places[count] for count in self._counts))

    def bits(self, count: int) -> float:
        """Return -log2 of the probability that the next value occurred at most `count` times."""
        position = bisect_right(self._counts, count + 1)
        places = self._up_to[position - 1] if position else 0
        return log2((self._total + 1) / (places + 1))
