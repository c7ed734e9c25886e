"""The lines of a text of independent records in random order.

The shuffle is uniform and needs memory for a part of the text only (Sandelius 1962, "A simple randomization
procedure"): each line is written to one of several files, drawn at random; the lines of each file are then
shuffled in memory. The order depends on text and seed alone, so every attempt at a job, and a later
evaluation of its model, has the same.
"""

import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import chain, pairwise
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from nextchar.models.config import MINIMUM_CHARACTERS
from nextchar.models.errors import InvalidInput
from nextchar.models.text.lines import whole_lines
from nextchar.store.blobs import domain_errors, temporary_file

_PART_BYTES = 8_000_000  # expected of each file, whose lines are shuffled in memory
_MAX_PARTS = 250  # open files; of 100 GB of text each has 400 MB, and shuffling takes three times that
_PIECE_BYTES = 1 << 20  # of the shuffled text, about
_DRAWS, _ORDERS = 0, 1  # two streams of random numbers
_IS_ASCII_TEXT = np.array([byte < 0x80 and bool(chr(byte).strip()) for byte in range(256)])


class ShuffledLines:
    """The lines of a text, shuffled; the last ones are to be held out. Use as a context manager.

    Empty lines are left out, and every line ends with a newline.

    Of the shuffled text it has the number of `characters` and of `lines`, and how many characters are before
    the held-out lines (`trained`).
    """

    def __init__(
        self,
        pieces: Iterable[str],
        *,
        size_bytes: int,
        validation_fraction: float,
        seed: int,
        scratch: Path | None = None,
        part_bytes: int = _PART_BYTES,
    ) -> None:
        """Read the text and distribute its lines.

        The order depends on its approximate `size_bytes`, too. The `validation_fraction` is one of
        characters, rounded up to whole lines. `part_bytes` are shuffled in memory at a time.

        Raises:
            InvalidInput: it has too few lines to hold some out and train on the others (code
                `too_few_records`).
            StorageFull: the folder has no room.
        """
        self._seed = seed
        self._exit = ExitStack()
        count = min(_MAX_PARTS, max(1, -(-size_bytes // part_bytes)))
        self._lengths = [0] * count  # characters of each part
        self.lines = 0
        with ExitStack() as stack, domain_errors():
            self._parts = [stack.enter_context(temporary_file(scratch)) for _ in range(count)]
            self._distribute(_complete_lines(pieces))
            self.characters = sum(self._lengths)
            held_out = max(1, round(self.characters * validation_fraction))
            self.trained = self._line_start(self.characters - held_out)
            self._check()
            self._exit = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def pieces(self) -> Iterator[str]:
        """Yield the shuffled text in pieces of whole lines; one iteration at a time."""
        return (piece for number in range(len(self._parts)) for piece in self._shuffled(number))

    def _distribute(self, groups: Iterable[bytes]) -> None:
        random = np.random.default_rng((self._seed, _DRAWS))
        count = len(self._parts)
        for group in groups:
            text, ends = _lines(group)
            starts = np.concatenate([[0], ends[:-1]])
            kept = _has_text(text, starts, ends)
            starts, ends = starts[kept], ends[kept]
            self.lines += len(starts)
            parts = (random.random(len(starts)) * count).astype(np.intp)
            order = np.argsort(parts, kind="stable")
            bounds = np.cumsum(np.bincount(parts, minlength=count))
            for number, (first, last) in enumerate(pairwise([0, *bounds.tolist()])):
                if first < last:
                    lines = order[first:last]
                    data = _gather(text, starts[lines], ends[lines])
                    self._lengths[number] += _characters(data)
                    self._parts[number].write(data.tobytes())

    def _shuffled(self, number: int) -> Iterator[str]:
        """Yield the shuffled lines of a file in pieces; their text is in memory once, as bytes."""
        file = self._parts[number]
        file.seek(0)
        text, ends = _lines(file.read())
        if not ends.size:
            return
        order = np.random.default_rng((self._seed, _ORDERS, number)).permutation(len(ends))
        lines_per_piece = max(1, _PIECE_BYTES * len(ends) // len(text))
        for at in range(0, len(ends), lines_per_piece):
            lines = order[at : at + lines_per_piece]
            starts = np.where(lines > 0, ends[lines - 1], 0)
            yield _gather(text, starts, ends[lines]).tobytes().decode()

    def _line_start(self, position: int) -> int:
        """Return the start of the line at this position of the shuffled text."""
        start = 0
        for number, length in enumerate(self._lengths):
            if start + length <= position:
                start += length
                continue
            for piece in self._shuffled(number):
                if start + len(piece) > position:
                    return start + piece[: position - start].rfind("\n") + 1
                start += len(piece)
        return start

    def _check(self) -> None:
        least = MINIMUM_CHARACTERS // 2  # as of the shortest text, if half of it is held out
        if self.trained < least:
            raise InvalidInput(
                f"the kind is records, and of {self.lines:,} lines that are not empty and have"
                f" {self.characters:,} characters, {self.trained:,} characters are left to train on once some"
                f' lines are held out; at least {least} are needed: use more lines, or the kind "text"',
                code="too_few_records",
                param="kind",
            )


def _complete_lines(pieces: Iterable[str]) -> Iterator[bytes]:
    """Yield the text in pieces of whole lines, each with its newline."""
    pieces = whole_lines(chain(pieces, ("\n",)), max_held=sys.maxsize)
    return (piece.encode() for piece in pieces if piece)


def _lines(data: bytes) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
    """Return a text of whole lines, and where each ends, after its newline, (lines,)."""
    text = np.frombuffer(data, np.uint8)
    return text, np.flatnonzero(text == ord("\n")) + 1


def _has_text(text: NDArray[np.uint8], starts: NDArray[np.intp], ends: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Return whether each line has a character that is not white space, (lines,)."""
    has_text: NDArray[np.bool_] = np.logical_or.reduceat(_IS_ASCII_TEXT[text], starts)
    for line in np.flatnonzero(~has_text & (ends - starts > 1)).tolist():
        has_text[line] = bool(text[starts[line] : ends[line]].tobytes().decode().strip())
    return has_text


def _gather(text: NDArray[np.uint8], starts: NDArray[np.intp], ends: NDArray[np.intp]) -> NDArray[np.uint8]:
    """Return the bytes of lines, one after the other."""
    lengths = ends - starts
    ahead = starts - np.cumsum(lengths) + lengths  # how far each line moves
    return text.take(np.repeat(ahead, lengths) + np.arange(lengths.sum()))


def _characters(data: NDArray[np.uint8]) -> int:
    return int(np.count_nonzero(data & 0xC0 != 0x80))  # all but the continuation bytes of UTF-8
