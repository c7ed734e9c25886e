"""A character n-gram model: a strong baseline for the networks.

Interpolated Witten-Bell smoothing (Witten and Bell 1991, method C; Chen and Goodman 1999, section 2.5): with
C(h) the times context h was seen, T(h) the distinct characters seen after it and h' the context without its
first character,

    p(c | h) = (C(hc) + T(h) p(c | h')) / (C(h) + T(h)),

down to the uniform distribution over the known characters. Each order is a sorted array of the n-grams
that occurred: fitting is one count per order, and scoring is one vectorized binary search per order.
As in the networks, id 0, the unknown character, may be in a context but is never predicted.

The n-grams of a saved model that anomaly scores are made with: their file.

Only the end of the training text is counted, which bounds file and memory.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nextchar.models.errors import Unavailable
from nextchar.models.text.array_file import read_arrays
from nextchar.models.text.vocabulary import UNKNOWN_ID, Vocabulary, unknown_bits

Ids = NDArray[np.integer[Any]]
Counts = NDArray[np.int64]

MAX_COUNT = 1 << 32
"""Maximum count of an n-gram; a model with a larger one is damaged."""

_UNSEEN = -1
_CHUNK = 1 << 18  # characters that are scored at a time


@dataclass(frozen=True)
class _Order:
    """The n-grams of one length.

    An n-gram's key is (index of the n-gram without its last character) * V + last id; its index is the
    position of its key in `grams`.
    """

    grams: Counts  # sorted keys
    counts: Counts  # C(hc) of each n-gram; 0 if c is the unknown character
    context_counts: Counts  # C(h), by the index of h
    followers: Counts  # T(h), by the index of h


class NgramModel:
    """Counts of a text's n-grams of up to `order` characters.

    >>> model = NgramModel.fit("abababac", order=2)
    >>> model.surprisal("ab", context="").round(2).tolist()  # p(a) = (4 + 3/3) / (8 + 3)
    [1.14, 0.69]
    """

    _is_unknown_predicted = False  # by its context, instead of the same bits everywhere

    def __init__(self, orders: Sequence[_Order], size: int, vocabulary: Vocabulary | None = None) -> None:
        self.order = len(orders)
        self.V = size
        self.vocabulary = vocabulary
        self._orders = orders

    @classmethod
    def fit(cls, text: str, *, order: int = 5, vocabulary: Vocabulary | None = None) -> Self:
        """Count the n-grams of NFC `text`.

        Args:
            text: at least one character; lines are joined by newlines.
            order: maximum length of an n-gram, at least 1: the context is the `order - 1` characters before.
            vocabulary: the known characters; by default those of `text`.
        """
        vocabulary = vocabulary or Vocabulary(text)
        return cls.fit_ids(vocabulary.encode(text), size=len(vocabulary), order=order, vocabulary=vocabulary)

    @classmethod
    def fit_ids(cls, ids: Ids, *, size: int, order: int = 5, vocabulary: Vocabulary | None = None) -> Self:
        """Count ids (N,) of V = `size` ids; without their `vocabulary` the model scores ids only, no text.

        Needs about 100 bytes of memory per character.
        """
        indices = np.zeros(len(ids) + 1, np.int64)  # of the n-gram that ends before each id; () has index 0
        contexts = 1
        orders = []
        for n in range(1, order + 1):
            if len(ids) < n:
                break
            # indices[i] is that of the n - 1 characters before position i + n - 1.
            keys = indices[: len(ids) - n + 1] * size + ids[n - 1 :]
            grams, indices, counts = _count(keys, contexts * size)
            counts[grams % size == UNKNOWN_ID] = 0
            orders.append(_order(grams, counts, contexts, size))
            contexts = len(grams)
        return cls(orders, size, vocabulary)

    @classmethod
    def of_counts(
        cls, counted: Sequence[tuple[Counts, Counts]], *, size: int, vocabulary: Vocabulary | None = None
    ) -> Self:
        """Return the model with these counts, as `counted` returns them. Raises ValueError if invalid."""
        if not counted:
            raise ValueError("there are no n-grams")
        contexts = 1
        orders = []
        for grams, counts in counted:
            if len(grams) != len(counts) or not len(grams) or (np.diff(grams) <= 0).any():
                raise ValueError("the n-grams are not sorted")
            # The sum must be exact as a float, by which contexts are counted.
            if grams[0] < 0 or grams[-1] >= contexts * size or counts.min() < 0 or counts.max() > MAX_COUNT:
                raise ValueError("an n-gram or its count is out of range")
            orders.append(_order(grams, counts, contexts, size))
            contexts = len(grams)
        return cls(orders, size, vocabulary)

    def counted(self) -> list[tuple[Counts, Counts]]:
        """Return the n-grams' sorted keys and their counts, for each order."""
        return [(order.grams, order.counts) for order in self._orders]

    def surprisal(self, text: str, *, context: str = "\n") -> NDArray[np.float64]:
        """Return the bits of each character of NFC `text`, (len(text),), after `context`.

        An unknown character costs `nextchar.models.text.vocabulary.unknown_bits`, as it does for a network.
        """
        return self.surprisals([text], context=context)[0]

    def surprisals(self, lines: Sequence[str], *, context: str = "\n") -> list[NDArray[np.float64]]:
        """Return `surprisal` of each line, all after the same `context`, in one vectorized pass."""
        assert self.vocabulary is not None, "fitted on ids"
        if not lines:
            return []
        ids = self.vocabulary.encode("".join(context + line for line in lines))
        parts = self.sequence_bits(ids, np.array([len(context) + len(line) for line in lines]))
        return [part[len(context) :] for part in parts]

    def sequence_bits(self, ids: Ids, lengths: NDArray[np.intp]) -> list[NDArray[np.float64]]:
        """Return the bits of each id of consecutive sequences, each of which has no context before it."""
        ends = np.cumsum(lengths)
        reach = np.arange(len(ids)) - np.repeat(ends - lengths, lengths)
        return np.split(self._bits(ids, reach)[-1], ends[:-1])

    def bits_by_order(self, ids: Ids, *, before: Ids | None = None) -> NDArray[np.float64]:
        """Return (order,): the mean bits per character of ids (N,), N >= 1, for n-grams of length 1, 2, ...

        `before` are ids that precede them, used as context only.
        """
        lead = np.zeros(0, np.int32) if before is None else before[-self.order :]
        sums = np.zeros(self.order)
        for start in range(0, len(ids), _CHUNK):
            read = np.concatenate([lead, ids[start : start + _CHUNK]])
            sums += self._bits(read, np.arange(len(read)))[:, len(lead) :].sum(1)
            lead = read[-self.order :]
        return sums / len(ids)

    def _bits(self, ids: Ids, reach: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return bits (order, N) of ids (N,); ids[i] has `reach[i]` characters of context."""
        bits = np.empty((self.order, len(ids)))
        is_unknown = ids == UNKNOWN_ID
        p = np.where(is_unknown, 2 ** -unknown_bits(self.V), 1 / max(1, self.V - 1))
        context = np.zeros(len(ids), np.int64)  # index of the n-gram before each id
        for n, order in enumerate(self._orders, start=1):
            has_context = (context != _UNSEEN) & (reach >= n - 1)
            keys = np.where(has_context, context * self.V + ids, _UNSEEN)
            index = np.minimum(order.grams.searchsorted(keys), len(order.grams) - 1)
            is_seen = order.grams[index] == keys
            context_counts = np.where(has_context, order.context_counts[context], 0)
            followers = np.where(has_context, order.followers[context], 0)
            counts = np.where(is_seen, order.counts[index], 0)
            interpolated = (counts + followers * p) / np.maximum(context_counts + followers, 1)
            p = np.where(context_counts > 0, interpolated, p)
            bits[n - 1] = -np.log2(p)
            context = np.concatenate([[_UNSEEN], np.where(is_seen, index, _UNSEEN)[:-1]])
        bits[len(self._orders) :] = bits[len(self._orders) - 1]
        if not self._is_unknown_predicted:
            bits[:, is_unknown] = unknown_bits(self.V)
        return bits


def _order(grams: Counts, counts: Counts, contexts: int, size: int) -> _Order:
    context = grams // size
    context_counts = np.bincount(context, weights=counts, minlength=contexts).astype(np.int64)
    followers = np.bincount(context, weights=counts > 0, minlength=contexts).astype(np.int64)
    return _Order(grams, counts, context_counts, followers)


def _count(keys: Counts, bound: int) -> tuple[Counts, Counts, Counts]:
    """Return the distinct keys, sorted; the index of each of `keys` among them; and their counts.

    Keys are below `bound`. If a table of that size is not much longer than the text, it replaces sorting.
    """
    if bound > 4 * len(keys):
        return np.unique(keys, return_inverse=True, return_counts=True)
    counts = np.bincount(keys, minlength=bound)
    distinct = np.flatnonzero(counts)
    indices = np.cumsum(counts > 0) - 1
    return distinct, indices[keys], counts[distinct]


FILE = "ngram.npz"
"""The name of its file in a saved model. Older and imported models may have none."""

ORDER = 5
MAX_CHARACTERS = 1_000_000
"""Maximum number of characters, at the end of the training text. The file has some hundred kilobytes for a
log, two
megabytes for prose."""

MAX_BYTES = 256 << 20
"""Of a file's arrays; five orders of MAX_CHARACTERS n-grams have at most 80 MB."""


def ngram_of(ids: Ids, vocabulary: Vocabulary) -> NgramModel:
    """Return the n-gram model of the end of a training text of ids (N,)."""
    counted = np.asarray(ids[-MAX_CHARACTERS:])
    return NgramModel.fit_ids(counted, size=len(vocabulary), order=ORDER, vocabulary=vocabulary)


def arrays_of(model: NgramModel) -> dict[str, NDArray[np.signedinteger]]:
    """Return the arrays of a file: the n-grams of each order, delta-encoded, and their counts."""
    arrays: dict[str, NDArray[np.int64]] = {}
    for n, (grams, counts) in enumerate(model.counted(), 1):
        arrays[f"grams_{n}"] = np.diff(grams, prepend=0)
        arrays[f"counts_{n}"] = counts
    return {name: _narrow(array) for name, array in arrays.items()}


def counts_of(arrays: Mapping[str, NDArray[Any]]) -> list[tuple[Counts, Counts]]:
    """Return what `NgramModel.counted` returned of the arrays that `arrays_of` made. Raises ValueError."""
    orders = sum(name.startswith("grams_") for name in arrays)
    if not all(array.dtype.kind in "iu" and array.ndim == 1 for array in arrays.values()):
        raise ValueError("an array has no integers")
    return [
        (arrays[f"grams_{n}"].astype(np.int64).cumsum(), arrays[f"counts_{n}"].astype(np.int64))
        for n in range(1, 1 + orders)
    ]


def packed(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return the contents of a file with these arrays."""
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    return file.getvalue()


def dump(model: NgramModel) -> bytes:
    """Return the contents of FILE."""
    return packed(arrays_of(model))


def load(data: bytes, vocabulary: Vocabulary) -> NgramModel:
    """Return the n-gram model in the contents of FILE. Raises Unavailable if damaged (`model_damaged`)."""
    try:
        counted = counts_of(read_arrays(data, max_bytes=MAX_BYTES))
        return NgramModel.of_counts(counted, size=len(vocabulary), vocabulary=vocabulary)
    except (ValueError, KeyError) as error:
        raise Unavailable(f"{FILE} is damaged ({type(error).__name__})", code="model_damaged") from None


def _narrow(values: NDArray[np.int64]) -> NDArray[np.signedinteger]:
    is_small = not values.size or values.max() <= np.iinfo(np.int32).max
    return values.astype(np.int32) if is_small else values
