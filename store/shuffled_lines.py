"""The lines of a text of independent records in random order.

The shuffle is uniform and needs memory for a part of the text only (Sandelius 1962, "A simple randomization
procedure"): each line is written to one of several files, drawn at random; the lines of each file are then
shuffled in memory. The order depends on text and seed alone, so every attempt at a job, and a later
evaluation of its model, has the same.
"""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Self

import numpy as np

from models.config import MINIMUM_CHARACTERS
from models.errors import InvalidInput
from store.blobs import domain_errors

_PART_BYTES = 8_000_000  # expected of each file, whose lines are shuffled in memory
_MAX_PARTS = 250  # open files; of 100 GB of text each has 400 MB, and shuffling takes three times that
_PIECE_BYTES = 1 << 20  # of the shuffled text, about
_DRAWS, _ORDERS = 0, 1  # two streams of random numbers


class ShuffledLines:
    """The lines of a text, shuffled; the last ones are to be held out. Use as a context manager.

    Empty lines are left out, and every line ends with a newline.

    Attributes:
        characters: the length of the shuffled text.
        lines: the number of its lines.
        trained: the length of its part before the held-out lines.
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

        Args:
            pieces: the text.
            size_bytes: the approximate size of the text; with the other arguments it decides the order.
            validation_fraction: the share of characters to hold out, rounded up to whole lines.
            seed: of the order.
            scratch: the folder for the files; by default the system's temporary folder.
            part_bytes: how much is shuffled in memory at a time.

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
            if scratch:
                scratch.mkdir(parents=True, exist_ok=True)
            self._parts: list[IO[bytes]] = [
                stack.enter_context(tempfile.TemporaryFile(dir=scratch)) for _ in range(count)
            ]
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

    def _distribute(self, groups: Iterable[list[str]]) -> None:
        random = np.random.default_rng((self._seed, _DRAWS))
        count = len(self._parts)
        for lines in groups:
            parts: list[list[str]] = [[] for _ in range(count)]
            for line, draw in zip(lines, random.random(len(lines)).tolist(), strict=True):
                parts[int(draw * count)].append(line)
            self.lines += len(lines)
            for number, part in enumerate(parts):
                text = "".join(part)
                self._lengths[number] += len(text)
                self._parts[number].write(text.encode())

    def _shuffled(self, number: int) -> Iterator[str]:
        """Yield the shuffled lines of a file in pieces; their text is in memory once, as bytes."""
        file = self._parts[number]
        file.seek(0)
        text = memoryview(file.read())
        ends = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n")) + 1
        if not ends.size:
            return
        order = np.random.default_rng((self._seed, _ORDERS, number)).permutation(len(ends))
        lines_per_piece = max(1, _PIECE_BYTES * len(ends) // len(text))
        for at in range(0, len(ends), lines_per_piece):
            lines = order[at : at + lines_per_piece]
            starts = np.where(lines > 0, ends[lines - 1], 0)
            bounds = zip(starts.tolist(), ends[lines].tolist(), strict=True)
            yield b"".join([text[start:end] for start, end in bounds]).decode()

    def _line_start(self, position: int) -> int:
        """Return the start of the line at this position of the shuffled text."""
        start = 0
        for number, length in enumerate(self._lengths):
            if start + length <= position:
                start += length
                continue
            for piece in self._shuffled(number):
                if start + len(piece) > position:
                    return start + piece.rfind("\n", 0, position - start) + 1
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


def _complete_lines(pieces: Iterable[str]) -> Iterator[list[str]]:
    """Yield the lines that are not empty, with their newlines, some at a time."""
    held: list[str] = []  # the pieces of an incomplete line
    for piece in pieces:
        *complete, last = piece.split("\n")
        if complete:
            complete[0] = "".join([*held, complete[0]])
            held = []
            yield _not_empty(complete)
        held.append(last)
    yield _not_empty(["".join(held)])


def _not_empty(lines: Iterable[str]) -> list[str]:
    return [line + "\n" for line in lines if line.strip()]
