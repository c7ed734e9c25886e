"""A character n-gram model: the strongest simple thing to compare a network with.

Interpolated Witten-Bell smoothing (Witten and Bell 1991, method C; Chen and Goodman 1999, section 2.5): with
C(h) the times context h was seen, T(h) the distinct characters seen after it and h' the context without its
first character,

    p(c | h) = (C(hc) + T(h) p(c | h')) / (C(h) + T(h)),

down to the uniform distribution over the known characters. Every order is a sorted array of the n-grams
that occurred, so that fitting is one count an order and scoring one binary search an order for all
characters at once. As in the networks, id 0, the unknown character, is read but never predicted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from models.runtime.scoring import unknown_bits
from models.text.vocabulary import UNKNOWN_ID, Vocabulary

Ids = NDArray[np.integer[Any]]
Counts = NDArray[np.int64]

_UNSEEN = -1


@dataclass(frozen=True)
class _Order:
    """The n-grams of one length, as (number of the n-gram without its last character) * V + last id."""

    grams: NDArray[np.int64]  # sorted; the place of a gram is its number
    counts: NDArray[np.int64]  # C(hc) of each gram; 0 where c is the unknown character
    seen: NDArray[np.int64]  # C(h), by the number of the gram one shorter
    followers: NDArray[np.int64]  # T(h), likewise


class NgramModel:
    """Counts of a text's n-grams up to `order` characters.

    >>> model = NgramModel.fit("abababac", order=2)
    >>> model.surprisal("ab", context="").round(2).tolist()  # p(a) = (4 + 3/3) / (8 + 3)
    [1.14, 0.69]
    """

    def __init__(self, orders: Sequence[_Order], size: int, vocabulary: Vocabulary | None = None) -> None:
        self.order = len(orders)
        self.V = size
        self.vocabulary = vocabulary
        self._orders = orders

    @classmethod
    def fit(cls, text: str, *, order: int = 5, vocabulary: Vocabulary | None = None) -> Self:
        """Count NFC `text`; `order` 1 uses no context, 5 the four characters before.

        Args:
            text: at least one character; lines come joined by newlines.
            order: at least 1.
            vocabulary: the known characters; those of `text` by default.
        """
        vocabulary = vocabulary or Vocabulary(text)
        counted = cls.fit_ids(vocabulary.encode(text), size=len(vocabulary), order=order)
        return cls(counted._orders, counted.V, vocabulary)

    @classmethod
    def fit_ids(cls, ids: Ids, *, size: int, order: int = 5) -> Self:
        """Count ids (N,), of a vocabulary of `size` with id 0; such a model scores ids alone.

        Takes about 100 bytes a character while it counts.
        """
        numbers = np.zeros(len(ids) + 1, np.int64)  # of the gram that ends before each place; () is number 0
        contexts = 1
        orders = []
        for n in range(1, order + 1):
            if len(ids) < n:
                break
            # numbers[i] is of the n - 1 characters that end before place i + n - 1.
            keys = numbers[: len(ids) - n + 1] * size + ids[n - 1 :]
            grams, numbers, counts = _count(keys, contexts * size)
            counts[grams % size == UNKNOWN_ID] = 0
            orders.append(_order(grams, counts, contexts, size))
            contexts = len(grams)
        return cls(orders, size)

    @classmethod
    def of_counts(cls, counted: Sequence[tuple[Counts, Counts]], vocabulary: Vocabulary) -> Self:
        """Make the model that gave these by `counted`. Raises ValueError: no model did."""
        if not counted:
            raise ValueError("there are no n-grams")
        size, contexts = len(vocabulary), 1
        orders = []
        for grams, counts in counted:
            if len(grams) != len(counts) or not len(grams) or (np.diff(grams) <= 0).any():
                raise ValueError("the n-grams are not in order")
            if grams[0] < 0 or grams[-1] >= contexts * size or counts.min() < 0:
                raise ValueError("an n-gram or its count is out of range")
            orders.append(_order(grams, counts, contexts, size))
            contexts = len(grams)
        return cls(orders, size, vocabulary)

    def counted(self) -> list[tuple[Counts, Counts]]:
        """Return, of each order, the n-grams as numbers, ascending, and how often each was seen."""
        return [(order.grams, order.counts) for order in self._orders]

    def for_vocabulary(self, vocabulary: Vocabulary) -> "NgramModel":
        """Return this model of ids with the characters that they stand for, so that it scores texts."""
        assert len(vocabulary) == self.V
        return NgramModel(self._orders, self.V, vocabulary)

    def surprisal(self, text: str, *, context: str = "\n") -> NDArray[np.float64]:
        """Return the bits of each character of NFC `text`, (len(text),), after `context`.

        An unknown character costs what it costs a network: `models.runtime.scoring.unknown_bits`.
        """
        return self.surprisals([text], context=context)[0]

    def surprisals(self, lines: Sequence[str], *, context: str = "\n") -> list[NDArray[np.float64]]:
        """Return `surprisal` of each line, each after the same `context`; one pass for all of them."""
        assert self.vocabulary is not None, "fitted on ids"
        if not lines:
            return []
        ids = self.vocabulary.encode("".join(context + line for line in lines))
        lengths = np.array([len(context) + len(line) for line in lines])
        ends = np.cumsum(lengths)
        reach = np.arange(len(ids)) - np.repeat(ends - lengths, lengths)
        bits = self._bits(ids, reach)[-1]
        return [part[len(context) :] for part in np.split(bits, ends[:-1])]

    def bits_by_order(self, ids: Ids, *, before: Ids | None = None) -> NDArray[np.float64]:
        """Return (order,) the mean bits a character of ids (N,) with contexts of 0, 1, ... characters.

        Args:
            ids: the text to judge, N at least 1.
            before: what comes before it and is context only.
        """
        lead = np.zeros(0, np.int32) if before is None else before[-self.order :]
        sums = np.zeros(self.order)
        for at in range(0, len(ids), _SLICE):
            read = np.concatenate([lead, ids[at : at + _SLICE]])
            sums += self._bits(read, np.arange(len(read)))[:, len(lead) :].sum(1)
            lead = read[-self.order :]
        return sums / len(ids)

    def _bits(self, ids: Ids, reach: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return (order, N) bits of ids (N,), of which ids[i] may look back `reach[i]` characters."""
        bits = np.empty((self.order, len(ids)))
        p = np.full(len(ids), 1 / max(1, self.V - 1))
        context = np.zeros(len(ids), np.int64)  # the number of what stands before each place
        for n, order in enumerate(self._orders, start=1):
            known = (context != _UNSEEN) & (reach >= n - 1)
            grams = np.where(known, context * self.V + ids, _UNSEEN)
            place = np.minimum(order.grams.searchsorted(grams), len(order.grams) - 1)
            found = order.grams[place] == grams
            seen = np.where(known, order.seen[context], 0)
            weight = np.where(known, order.followers[context], 0)
            counts = np.where(found, order.counts[place], 0)
            p = np.where(seen > 0, (counts + weight * p) / np.maximum(seen + weight, 1), p)
            bits[n - 1] = -np.log2(p)
            context = np.concatenate([[_UNSEEN], np.where(found, place, _UNSEEN)[:-1]])
        bits[len(self._orders) :] = bits[len(self._orders) - 1]
        bits[:, ids == UNKNOWN_ID] = unknown_bits(self.V)
        return bits


def _order(grams: Counts, counts: Counts, contexts: int, size: int) -> _Order:
    before = grams // size
    seen = np.bincount(before, weights=counts, minlength=contexts).astype(np.int64)
    followers = np.bincount(before, weights=counts > 0, minlength=contexts).astype(np.int64)
    return _Order(grams, counts, seen, followers)


_SLICE = 1 << 18  # characters that are scored at a time


def _count(
    keys: NDArray[np.int64], bound: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the distinct keys in order, the place of each of `keys` among them, and how often each is there.

    Keys are below `bound`. Where a table of them all is not much longer than the text, it saves sorting.
    """
    if bound > 4 * len(keys):
        return np.unique(keys, return_inverse=True, return_counts=True)
    counts = np.bincount(keys, minlength=bound)
    grams = np.flatnonzero(counts)
    places = np.cumsum(counts > 0) - 1
    return grams, places[keys], counts[grams]
