"""Converts a corpus, which may be larger than memory, to ids for training and evaluation.

The text is read once in pieces, and each character is written as a number to an unnamed file in the scratch
folder, one byte each for up to 255 distinct ones. Characters get numbers as they are first seen; once all are
counted, the vocabulary is known, and a table converts numbers to ids when they are read. The file is
memory-mapped, and the system deletes it when the process ends.
"""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from nextchar.models.errors import Unavailable
from nextchar.models.report import UnknownCharacters
from nextchar.models.text.vocabulary import (
    CODE_POINTS,
    UNKNOWN_ID,
    Alphabet,
    CharacterCounts,
    Vocabulary,
    code_points,
)
from nextchar.store.blobs import domain_errors, temporary_file
from nextchar.worker.chunked_ids import ChunkCache, ChunkedIds, ChunkIndex, CorpusChunks, narrowest_type

_PROMPT_CHARACTERS = 100
_COUNTED = 1 << 20  # characters at a time


@dataclass(frozen=True)
class StoredIds:
    """Ids in a memory-mapped file of numbers; slices are int32 arrays in memory.

    Attributes:
        mapped: the numbers of the characters, in the narrowest type that fits.
        ids: (N,) the id of each number.
    """

    mapped: NDArray[np.integer]
    ids: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.mapped)

    def __getitem__(self, index: Any) -> NDArray[np.int32]:
        return self.ids[self.mapped[index]]

    def part(self, start: int, end: int) -> "StoredIds":
        """Return the ids from `start` to before `end`."""
        return StoredIds(self.mapped[start:end], self.ids)

    def __array__(self, dtype: Any = None, *, copy: bool | None = None) -> NDArray[np.int32]:
        assert copy is not False
        return self[:].astype(dtype or np.int32, copy=False)


Ids = NDArray[np.int32] | StoredIds | ChunkedIds


MIN_DIVIDED_CHARACTERS = 1000
"""Held-out text shorter than this is not divided."""


@dataclass(frozen=True)
class Text:
    """A corpus as ids; the held-out part is its contiguous end. Of records both are lines in random order.

    The first half of the held-out part is for choices: when training ends, the weights of the mixture. The
    other half, `test`, is what the report judges by.
    """

    vocabulary: Vocabulary
    train: Ids
    validation: Ids
    prompt: str  # the end of the training part; samples continue it
    unknown: UnknownCharacters = field(default_factory=UnknownCharacters)
    """The number of distinct training characters outside of the vocabulary (`coverage`), and the shares of
    unknown characters in both parts."""
    counts: NDArray[np.int64] | None = None  # (V,) of each id in the training part

    @classmethod
    def split(cls, text: str, *, validation_fraction: float, **options: Any) -> "Text":
        """Hold out this fraction of a text in memory, at its end; the options are those of `read_text`."""
        trained = trained_characters(len(text), validation_fraction)
        return read_text([text], trained=lambda _: trained, **options)

    @property
    def selection(self) -> Ids:
        """The first half of the held-out part; all of it, if it is short."""
        return self.validation if self.is_undivided else _part(self.validation, 0, self._middle)

    @property
    def test(self) -> Ids:
        """The second half of the held-out part; all of it, if it is short."""
        if self.is_undivided:
            return self.validation
        return _part(self.validation, self._middle, len(self.validation))

    def before_test(self, characters: int) -> NDArray[np.int32]:
        """Return the last ids, at most this many, of the text before `test`."""
        if self.is_undivided:
            return self.train[-characters:]
        selection = self.selection[-characters:]
        missing = characters - len(selection)
        return np.concatenate([self.train[len(self.train) - min(missing, len(self.train)) :], selection])

    @property
    def is_undivided(self) -> bool:
        """Whether the held-out part is too short to be divided."""
        return len(self.validation) < MIN_DIVIDED_CHARACTERS

    @property
    def _middle(self) -> int:
        return len(self.validation) // 2

    def frequencies(self) -> NDArray[np.float64]:
        """Return (V,) the relative frequency of each id in the training part."""
        counts = self.counts
        if counts is None:
            counts = np.bincount(self.train[:], minlength=len(self.vocabulary))
        return counts / len(self.train)


def _part(ids: Ids, start: int, end: int) -> Ids:
    return ids[start:end] if isinstance(ids, np.ndarray) else ids.part(start, end)


class StoredText:
    """A text in a file, as numbers from 1 on, which characters get as they are first seen."""

    def __init__(self, pieces: Iterable[str], scratch: Path | None = None, *, distinct: int = 0) -> None:
        """Read a text; its file is in the folder `scratch`, by default the system's. Raises StorageFull.

        The file is written again, with wider numbers, if there are more than `distinct` distinct characters.
        """
        self._points = np.zeros(1, np.int64)  # the code point of each number
        self._counts = np.zeros(1, np.int64)  # of each number
        self._number_of_point: NDArray[Any] = np.zeros(CODE_POINTS, narrowest_type(distinct + 1))
        with domain_errors(), ExitStack() as stack:
            file = stack.enter_context(temporary_file(scratch))
            for piece in pieces:
                points = code_points(piece)
                numbers = self._number_of_point.take(points)
                if not numbers.all():
                    dtype = self._add(np.unique(points[numbers == 0]))
                    if dtype != numbers.dtype:
                        wider = stack.enter_context(temporary_file(scratch))
                        file = _widen(file, wider, numbers.dtype, dtype)
                    numbers = self._number_of_point.take(points)
                self._counts += np.bincount(numbers, minlength=len(self._counts))
                file.write(numbers.tobytes())
            file.flush()
            is_empty = len(self) == 0  # which cannot be mapped
            dtype = self._number_of_point.dtype
            self._mapped = np.empty(0, dtype) if is_empty else np.memmap(file, dtype, mode="r")

    def __len__(self) -> int:
        return int(self._counts.sum())

    def counts(self, start: int = 0) -> NDArray[np.int64]:
        """Return how often each code point occurs from a position on, (0x110000,)."""
        counts = self._counts
        if start:
            counts = np.zeros_like(counts)
            for at in range(start, len(self), _COUNTED):
                counts += np.bincount(self._mapped[at : at + _COUNTED], minlength=len(counts))
        result = np.zeros(CODE_POINTS, np.int64)
        result[self._points[1:]] = counts[1:]
        return result

    def ids(self, vocabulary: Vocabulary) -> StoredIds:
        """Return the ids of the text in a vocabulary."""
        ids = vocabulary.encode("".join(map(chr, self._points.tolist())))
        ids[0] = UNKNOWN_ID
        return StoredIds(self._mapped, ids)

    def _add(self, points: NDArray[Any]) -> np.dtype[Any]:
        """Give numbers to more code points; return the type that has room for all numbers."""
        first = len(self._points)
        self._points = np.concatenate([self._points, points.astype(np.int64)])
        self._counts = np.concatenate([self._counts, np.zeros(len(points), np.int64)])
        dtype = max(self._number_of_point.dtype, narrowest_type(len(self._points)))
        self._number_of_point = self._number_of_point.astype(dtype, copy=False)
        self._number_of_point[points] = np.arange(first, len(self._points))
        return dtype


def _widen(file: IO[bytes], wider: IO[bytes], old: np.dtype[Any], new: np.dtype[Any]) -> IO[bytes]:
    """Return the file `wider`, with the numbers in `file`, which is closed, in another type."""
    file.seek(0)
    while data := file.read(_COUNTED * old.itemsize):
        wider.write(np.frombuffer(data, old).astype(new).tobytes())
    file.close()
    return wider


def read_text(
    pieces: Iterable[str],
    *,
    trained: Callable[[int], int],
    characters: int | None = None,
    distinct: int = 0,
    alphabet: Alphabet = "characters",
    coverage: float = 1.0,
    required: str = "",
    scratch: Path | None = None,
    chunks: CorpusChunks | None = None,
) -> Text:
    """Return a text as ids.

    Args:
        pieces: the text's characters.
        trained: returns, for the length of the text, that of the part that is trained on; what follows is
            held out.
        characters: the length of the text, if it is known.
        distinct: the number of its distinct characters, or more, if it is known.
        alphabet: what a character is.
        coverage: the fraction of the training part that the vocabulary must cover; rarer ones are unknown.
        required: characters that the vocabulary has in any case.
        scratch: the folder for the ids; by default the system's temporary folder.
        chunks: the same text in chunks, which are then read as they are needed instead of being written.

    Raises:
        Unavailable: the text does not have `characters` characters (code `corpus_damaged`).
        StorageFull: the scratch folder has no room; nothing is left there.
    """
    index, stored = ChunkIndex(), None
    if chunks:
        length = sum(len(text) for _, text in chunks) if characters is None else characters
        counts, held_out_counts = _count(index.pieces(chunks), first=trained(length))
        total = int(counts.sum() + held_out_counts.sum())
    else:
        stored = StoredText(pieces, scratch, distinct=distinct)
        total = len(stored)
    if characters is not None and total != characters:
        raise Unavailable(
            f"the corpus has {total:,} characters and its record says {characters:,}; upload it again",
            code="corpus_damaged",
        )
    train_end = trained(total)
    if stored:
        held_out_counts = stored.counts(train_end)
        counts = stored.counts() - held_out_counts
    covered = _covered(counts, coverage)
    vocabulary = Vocabulary([*map(chr, covered.tolist()), *required], alphabet)
    known = code_points(vocabulary.characters)
    id_counts = np.concatenate([[0], counts[known]])
    id_counts[UNKNOWN_ID] = train_end - id_counts.sum()
    ids: StoredIds | ChunkedIds
    if stored:
        ids = stored.ids(vocabulary)
    else:
        assert chunks
        ids = ChunkedIds(ChunkCache(chunks, index, vocabulary, scratch=scratch), 0, total)
    train, validation = ids.part(0, train_end), ids.part(train_end, total)
    return Text(
        vocabulary,
        train,
        validation,
        prompt=vocabulary.decode(train[-_PROMPT_CHARACTERS:]),
        unknown={
            "characters": int(np.count_nonzero(counts) - np.count_nonzero(id_counts[1:])),
            "train_share": float(id_counts[UNKNOWN_ID] / train_end),
            "validation_share": int(len(validation) - held_out_counts[known].sum()) / len(validation),
        },
        counts=id_counts,
    )


def trained_characters(characters: int, validation_fraction: float) -> int:
    """Return the length of the part of a text before the part at its end that is held out."""
    return characters - max(1, round(characters * validation_fraction))


def read_ids(
    pieces: Iterable[str],
    vocabulary: Vocabulary,
    *,
    distinct: int = 0,
    scratch: Path | None = None,
    chunks: CorpusChunks | None = None,
) -> StoredIds | ChunkedIds:
    """Return the ids of a text in a given vocabulary; arguments as of `read_text`. Raises StorageFull."""
    if chunks is None:
        return StoredText(pieces, scratch, distinct=distinct).ids(vocabulary)
    index = ChunkIndex()
    for _ in index.pieces(chunks):
        pass
    cache = ChunkCache(chunks, index, vocabulary, scratch=scratch)
    return ChunkedIds(cache, 0, len(cache))


def covering_characters(pieces: Iterable[str], *, coverage: float = 1.0) -> str:
    """Return the smallest set of characters that makes up the fraction `coverage` of a text."""
    counts, _ = _count(pieces)
    return "".join(map(chr, _covered(counts, coverage).tolist()))


def _count(pieces: Iterable[str], *, first: int | None = None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the counts of code points in the `first` characters, or in all, and in those after them."""
    counts, rest, total = CharacterCounts(), CharacterCounts(), 0
    for piece in pieces:
        length = len(piece) if first is None else max(0, first - total)
        counts.add(piece[:length])
        rest.add(piece[length:])
        total += len(piece)
    return counts.by_code_point, rest.by_code_point


def _covered(counts: NDArray[np.int64], coverage: float) -> NDArray[np.int64]:
    """Return the fewest code points that make up this fraction of the text; of equals, the lower first."""
    points = np.flatnonzero(counts)
    points = points[np.argsort(-counts[points], kind="stable")]
    fraction = np.cumsum(counts[points]) / counts.sum()
    # With a tolerance for rounding errors of the sum.
    count = len(points) if coverage >= 1 else int(np.searchsorted(fraction, coverage - 1e-12)) + 1
    return points[:count]
