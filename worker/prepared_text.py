"""From a corpus that may be larger than memory to the ids that a network is trained on and judged by.

The text is read twice, a piece at a time: once to count its characters, which gives the vocabulary, and once
to write its ids to a file without a name in the scratch folder, one byte each for up to 255 characters. The
file is mapped, so the kernel keeps as much of it in memory as there is room for, and is gone with the
process, however that ends.
"""

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import Unavailable
from models.text.vocabulary import UNKNOWN_ID, Alphabet, Vocabulary, code_points
from store.blobs import as_domain_error

_UNICODE_POINTS = 0x110000
_PROMPT_CHARACTERS = 100
_MORE_THAN_ANY_TEXT = 1 << 62


@dataclass(frozen=True)
class StoredIds:
    """Ids in a mapped file, as narrow as they fit; what is taken out of it is int32 and in memory."""

    mapped: NDArray[np.integer]

    def __len__(self) -> int:
        return len(self.mapped)

    def __getitem__(self, index: Any) -> NDArray[np.int32]:
        return self.mapped[index].astype(np.int32)

    def __array__(self, dtype: Any = None, *, copy: bool | None = None) -> NDArray[np.int32]:
        """All of them, as numpy asks for an argument that is no array of its own."""
        assert copy is not False
        return self[:].astype(dtype or np.int32, copy=False)


Ids = NDArray[np.int32] | StoredIds


@dataclass(frozen=True)
class Text:
    """A corpus ready for training: the held-out part is its contiguous end."""

    vocabulary: Vocabulary
    train: Ids
    validation: Ids
    prompt: str  # the end of the training part, which samples continue
    unknown: dict[str, Any] = field(default_factory=dict)
    """How many distinct characters of the training part are unknown by `coverage`, and the shares of both
    parts that are unknown."""
    counts: NDArray[np.int64] | None = None  # (V,) how often each id occurs in the training part

    @classmethod
    def split(cls, text: str, *, validation_fraction: float, **options: Any) -> "Text":
        """Cut a short text of characters; the options are those of `read_text`."""
        return read_text(
            lambda: [text], characters=len(text), validation_fraction=validation_fraction, **options
        )

    def excerpts(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return the last 5 million ids of the training part, and the first million of what follows.

        For what would be slow, or need memory, on all of a huge text.
        """
        return self.train[-5_000_000:], self.validation[:1_000_000]

    def frequencies(self) -> NDArray[np.float64]:
        """Return (V,) how often each id occurs in the training part; they sum to 1."""
        counts = self.counts
        if counts is None:
            counts = np.bincount(self.train[:], minlength=len(self.vocabulary))
        return counts / len(self.train)


def read_text(
    pieces: Callable[[], Iterable[str]],
    *,
    characters: int,
    validation_fraction: float,
    alphabet: Alphabet = "characters",
    coverage: float = 1.0,
    known: str = "",
    scratch: Path | None = None,
) -> Text:
    """Return the text that `pieces()` yields, as ids.

    Args:
        pieces: gives the text's characters from the start; called twice.
        characters: how many these are.
        validation_fraction: the share, at the end, that is held out.
        alphabet: what a character is.
        coverage: the share of the training part that the vocabulary must cover; the rarest characters
            beyond it become unknown.
        known: characters that are in the vocabulary whether or not they occur.
        scratch: the folder on whose disk the ids are kept; by default that of the system.

    Raises:
        Unavailable: the text has another length than `characters` (code `corpus_damaged`).
        StorageFull: the scratch folder has no room; nothing is left there.
    """
    held_out = max(1, round(characters * validation_fraction))
    trained = characters - held_out
    counts, found = _count(pieces(), first=trained)
    if found != characters:
        raise Unavailable(
            f"the corpus has {found:,} characters and its record says {characters:,}; upload it again",
            code="corpus_damaged",
        )
    covered = _covered(counts, coverage)
    vocabulary = Vocabulary([*map(chr, covered.tolist()), *known], alphabet)
    id_counts = np.concatenate([[0], counts[code_points(vocabulary.characters)]])
    id_counts[UNKNOWN_ID] = trained - id_counts.sum()
    ids, unknown_at_end = _write(pieces(), vocabulary, trained, scratch)
    train, validation = StoredIds(ids[:trained]), StoredIds(ids[trained:])
    return Text(
        vocabulary,
        train,
        validation,
        prompt=vocabulary.decode(train[-_PROMPT_CHARACTERS:]),
        unknown={
            "characters": int(np.count_nonzero(counts) - np.count_nonzero(id_counts[1:])),
            "train_share": float(id_counts[UNKNOWN_ID] / trained),
            "validation_share": unknown_at_end / held_out,
        },
        counts=id_counts,
    )


def read_ids(pieces: Iterable[str], vocabulary: Vocabulary, *, scratch: Path | None = None) -> StoredIds:
    """Return the ids of a text under a vocabulary that is there already. Raises StorageFull."""
    ids, _ = _write(pieces, vocabulary, 0, scratch)
    return StoredIds(ids)


def characters_of(pieces: Iterable[str], *, coverage: float = 1.0) -> str:
    """Return the fewest characters that make up the share `coverage` of a text."""
    counts, _ = _count(pieces, first=_MORE_THAN_ANY_TEXT)
    return "".join(map(chr, _covered(counts, coverage).tolist()))


def _count(pieces: Iterable[str], *, first: int) -> tuple[NDArray[np.int64], int]:
    """Return how often each code point is among the `first` characters, and how many there are in all."""
    counts = np.zeros(_UNICODE_POINTS, np.int64)
    found = 0
    for piece in pieces:
        counted = np.bincount(code_points(piece[: max(0, first - found)]))
        counts[: counted.size] += counted
        found += len(piece)
    return counts, found


def _covered(counts: NDArray[np.int64], coverage: float) -> NDArray[np.int64]:
    """Return the fewest code points that make up so large a share of the text; the lower one of equals."""
    points = np.flatnonzero(counts)
    points = points[np.argsort(-counts[points], kind="stable")]
    share = np.cumsum(counts[points]) / counts.sum()
    # A hair of tolerance, for 1.0 must take them all whatever the rounding.
    enough = len(points) if coverage >= 1 else int(np.searchsorted(share, coverage - 1e-12)) + 1
    return points[:enough]


def _write(
    pieces: Iterable[str], vocabulary: Vocabulary, trained: int, scratch: Path | None
) -> tuple[NDArray[np.integer], int]:
    """Return the ids of a text, mapped from a file that has no name, and how many after `trained` are 0."""
    size = len(vocabulary)
    kind = np.dtype(np.uint8 if size <= 1 << 8 else np.uint16 if size <= 1 << 16 else np.int32)
    written = unknown_at_end = 0
    try:
        if scratch:
            scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=scratch) as file:
            for piece in pieces:
                ids = vocabulary.encode(piece)
                unknown_at_end += int(np.count_nonzero(ids[max(0, trained - written) :] == UNKNOWN_ID))
                written += len(ids)
                file.write(ids.astype(kind).tobytes())
            file.flush()
            return np.memmap(file, kind, mode="r"), unknown_at_end
    except OSError as error:
        raise as_domain_error(error) from error
