"""Converts a corpus, which may be larger than memory, to ids for training and evaluation.

The text is read twice in pieces: to count its characters, which gives the vocabulary, and to write its ids to
an unnamed file in the scratch folder, one byte each for up to 255 characters. The file is memory-mapped, and
the system deletes it when the process ends.
"""

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import Unavailable
from models.report import UnknownCharacters
from models.text.character_counts import CharacterCounts
from models.text.vocabulary import UNKNOWN_ID, Alphabet, Vocabulary, code_points
from store.blobs import domain_errors
from worker.chunked_ids import ChunkCache, ChunkedIds, ChunkIndex, CorpusChunks, narrowest_type

_PROMPT_CHARACTERS = 100


@dataclass(frozen=True)
class StoredIds:
    """Ids in a memory-mapped file, in the narrowest type that fits; slices are int32 arrays in memory."""

    mapped: NDArray[np.integer]

    def __len__(self) -> int:
        return len(self.mapped)

    def __getitem__(self, index: Any) -> NDArray[np.int32]:
        return self.mapped[index].astype(np.int32)

    def part(self, start: int, end: int) -> "StoredIds":
        """Return the ids from `start` to before `end`."""
        return StoredIds(self.mapped[start:end])

    def __array__(self, dtype: Any = None, *, copy: bool | None = None) -> NDArray[np.int32]:
        """Return all ids, for numpy functions."""
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
        return read_text(lambda: [text], characters=len(text), trained=trained, **options)

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
        """Return the last so many ids, or fewer, of the text before `test`."""
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


def read_text(
    pieces: Callable[[], Iterable[str]],
    *,
    characters: int,
    trained: int,
    alphabet: Alphabet = "characters",
    coverage: float = 1.0,
    required: str = "",
    scratch: Path | None = None,
    chunks: CorpusChunks | None = None,
) -> Text:
    """Return the text that `pieces()` yields as ids.

    Args:
        pieces: returns the text's characters from the start; called twice.
        characters: the length of the text.
        trained: the length of the part that is trained on; what follows is held out.
        alphabet: what a character is.
        coverage: the fraction of the training part that the vocabulary must cover; rarer ones are unknown.
        required: characters that the vocabulary has in any case.
        scratch: the folder for the ids; by default the system's temporary folder.
        chunks: the same text in chunks, which are then read as they are needed instead of being written.

    Raises:
        Unavailable: the text does not have `characters` characters (code `corpus_damaged`).
        StorageFull: the scratch folder has no room; nothing is left there.
    """
    index = ChunkIndex()
    counts, held_out_counts = _count(index.pieces(chunks) if chunks else pieces(), first=trained)
    held_out, total = characters - trained, int(counts.sum() + held_out_counts.sum())
    if total != characters:
        raise Unavailable(
            f"the corpus has {total:,} characters and its record says {characters:,}; upload it again",
            code="corpus_damaged",
        )
    covered = _covered(counts, coverage)
    vocabulary = Vocabulary([*map(chr, covered.tolist()), *required], alphabet)
    known = code_points(vocabulary.characters)
    id_counts = np.concatenate([[0], counts[known]])
    id_counts[UNKNOWN_ID] = trained - id_counts.sum()
    ids = (
        ChunkedIds(ChunkCache(chunks, index, vocabulary, scratch=scratch), 0, total)
        if chunks
        else _write(pieces(), vocabulary, scratch)
    )
    train, validation = ids.part(0, trained), ids.part(trained, total)
    return Text(
        vocabulary,
        train,
        validation,
        prompt=vocabulary.decode(train[-_PROMPT_CHARACTERS:]),
        unknown={
            "characters": int(np.count_nonzero(counts) - np.count_nonzero(id_counts[1:])),
            "train_share": float(id_counts[UNKNOWN_ID] / trained),
            "validation_share": int(held_out - held_out_counts[known].sum()) / held_out,
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
    scratch: Path | None = None,
    chunks: CorpusChunks | None = None,
) -> StoredIds | ChunkedIds:
    """Return the ids of a text in a given vocabulary; with `chunks` as `read_text`. Raises StorageFull."""
    if chunks is None:
        return _write(pieces, vocabulary, scratch)
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


def _write(pieces: Iterable[str], vocabulary: Vocabulary, scratch: Path | None) -> StoredIds:
    """Return the ids of a text, mapped from an unnamed file."""
    dtype = narrowest_type(len(vocabulary))
    with domain_errors():
        if scratch:
            scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=scratch) as file:
            for piece in pieces:
                file.write(vocabulary.encode_as(dtype, piece).tobytes())
            file.flush()
            return StoredIds(np.memmap(file, dtype, mode="r"))
