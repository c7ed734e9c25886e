"""N-grams of words: what follows what in the lines of a training text, for anomaly scores.

A line is read as words and signs, each of which is predicted from the four before it, with the smoothing of
`nextchar.models.text.ngram`. Five of them reach further than five characters: over the calls of a trace, the
events of a sequence, or the fields of a record. A word that the training text lacks is as rare as its context
makes any new word, whatever its characters.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from nextchar.models.errors import Unavailable
from nextchar.models.text.array_file import read_arrays
from nextchar.models.text.ngram import (
    MAX_BYTES,
    MAX_CHARACTERS,
    ORDER,
    NgramModel,
    arrays_of,
    counts_of,
    packed,
)

FILE = "word_ngram.npz"
"""The name of its file in a saved model. Older and imported models may have none."""

MAX_WORDS = 50_000
"""Maximum number of known words: the most frequent ones."""

_WORD = re.compile(r"\w+|[^\w\s]|\n")
_END = 1  # the id of a newline; 0 is that of unknown words
_FIRST = 2


class _WordCounts(NgramModel):
    _is_unknown_predicted = True


@dataclass(frozen=True)
class WordSurprisal:
    """The surprisal of a line of N words.

    Attributes:
        bits: (N + 1,) float32, of each word and of the end of the line.
        unknown: the start and end, in characters, of each unknown word, whose characters cost nothing here.
    """

    bits: NDArray[np.float32]
    unknown: tuple[tuple[int, int], ...] = ()


class WordNgrams:
    r"""Counts of n-grams of words.

    >>> model = WordNgrams.fit("open close\nopen close\nopen read close\n")
    >>> [[round(float(b), 1) for b in line.bits] for line in model.read(["open close", "close open"])]
    [[0.3, 0.7, 0.0], [3.9, 3.9, 2.9]]
    """

    def __init__(self, words: Sequence[str], counts: NgramModel) -> None:
        self.words, self.counts = words, counts
        self._ids = _ids(words)

    @classmethod
    def fit(cls, text: str) -> Self:
        """Count the n-grams of the last MAX_CHARACTERS of a text of lines."""
        read = _WORD.findall("\n" + text[-MAX_CHARACTERS:])
        counted = Counter(word for word in read if word != "\n")
        words = [word for word, _ in counted.most_common(MAX_WORDS)]
        ids = _ids(words)
        counts = _WordCounts.fit_ids(
            np.array([ids.get(word, 0) for word in read]), size=len(words) + _FIRST, order=ORDER
        )
        return cls(words, counts)

    def read(self, lines: Sequence[str]) -> list[WordSurprisal]:
        """Return the surprisal of each line, or event of several, read after the end of another one."""
        if not lines:
            return []
        found = [list(_WORD.finditer(line + "\n")) for line in lines]
        ids = [[_END, *(self._ids.get(match[0], 0) for match in matches)] for matches in found]
        bits = self.counts.sequence_bits(
            np.array([i for line in ids for i in line]), np.array(list(map(len, ids)), np.intp)
        )
        unknown = (
            tuple(match.span() for match, i in zip(matches, line[1:], strict=True) if not i)
            for matches, line in zip(found, ids, strict=True)
        )
        return [
            WordSurprisal(line[1:].astype(np.float32), spans)
            for line, spans in zip(bits, unknown, strict=True)
        ]


def _ids(words: Sequence[str]) -> dict[str, int]:
    return {"\n": _END, **{word: i for i, word in enumerate(words, _FIRST)}}


def dump(model: WordNgrams) -> bytes:
    """Return the contents of FILE."""
    words = np.frombuffer("\n".join(model.words).encode(), np.uint8)
    return packed({"words": words, **arrays_of(model.counts)})


def load(data: bytes) -> WordNgrams:
    """Return the n-grams in the contents of FILE. Raises Unavailable if damaged (`model_damaged`)."""
    try:
        arrays = read_arrays(data, max_bytes=MAX_BYTES)
        words = arrays["words"].tobytes().decode().split("\n") if arrays["words"].size else []
        if len(words) > MAX_WORDS or len(set(words)) < len(words):
            raise ValueError("its words are too many, or repeated")  # noqa: TRY301
        counts = _WordCounts.of_counts(counts_of(arrays), size=len(words) + _FIRST)
        return WordNgrams(words, counts)
    except (ValueError, KeyError) as error:
        raise Unavailable(f"{FILE} is damaged ({type(error).__name__})", code="model_damaged") from None
