"""Removes repeated lines of a text of any length, with bounded memory.

The text is kept in an unnamed file. The hashes of its lines are written to several files, so that those of
equal lines are in the same one; the files are sorted in memory one after the other. Then the text is read
again, without the lines that are repeated.
"""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import compress, pairwise
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from store.blobs import domain_errors
from store.temporary import temporary_file

_PARTS = 64  # of a billion lines each has 16 million hashes, some 400 MB
_PIECE_BYTES = 1 << 20
_RECORD = np.dtype([("high", "<u8"), ("low", "<u8"), ("line", "<i8")])


class DistinctLines:
    r"""A text that arrives in pieces, without the lines that occurred before.

    The first of equal lines stays where it is. Empty lines all stay, since they divide a text into parts.
    Lines are compared by 128 bits of their SHA-256; the last one need not end with a newline. `bytes` is the
    length of the text so far.

    >>> with DistinctLines(Path("/tmp")) as lines:
    ...     lines.feed(b"a\nb\n\na"), b"".join(lines.finish()), lines.removed
    (None, b'a\nb\n\n', 1)
    """

    def __init__(self, folder: Path) -> None:
        """Keep files in `folder`, on a disk with room for the text and 24 bytes per line."""
        self._count = self.removed = self.bytes = 0
        self._held: list[bytes] = []  # of a line that is not complete
        with ExitStack() as stack:
            files = [stack.enter_context(temporary_file(folder)) for _ in range(1 + _PARTS)]
            self._text, *self._parts = files
            self._exit = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def feed(self, data: bytes) -> None:
        """Take the next bytes. Raises StorageFull."""
        self.bytes += len(data)
        with domain_errors():
            self._text.write(data)
            *lines, rest = data.split(b"\n")
            if lines:
                lines[0] = b"".join([*self._held, lines[0]])
                self._held = []
                self._add(lines)
            self._held.append(rest)

    def finish(self) -> Iterator[bytes]:
        """Yield the text without repeated lines, once; then `removed` is the number of lines left out."""
        with domain_errors():
            self._add([b"".join(self._held)])
            is_repeated = self._repeated()
            self.removed = int(is_repeated.sum())
            yield from self._kept(is_repeated)

    def _add(self, lines: list[bytes]) -> None:
        numbers = np.flatnonzero([len(line) > 0 for line in lines])
        digests = b"".join([hashlib.sha256(lines[i]).digest()[:16] for i in numbers.tolist()])
        records = np.empty(len(numbers), _RECORD)
        records["high"], records["low"] = np.frombuffer(digests, "<u8").reshape(-1, 2).T
        records["line"] = numbers + self._count
        self._count += len(lines)
        parts = (records["high"] % _PARTS).astype(np.intp)
        order = np.argsort(parts, kind="stable")
        ends = np.cumsum(np.bincount(parts, minlength=_PARTS))
        for part, (start, end) in enumerate(pairwise([0, *ends])):
            if start < end:
                self._parts[part].write(records[order[start:end]].tobytes())

    def _repeated(self) -> NDArray[np.bool_]:
        """Return whether each line occurred before, (lines,)."""
        is_repeated = np.zeros(self._count, np.bool_)
        for file in self._parts:
            file.seek(0)
            records = np.frombuffer(file.read(), _RECORD)
            order = np.lexsort((records["line"], records["low"], records["high"]))
            high, low = records["high"][order], records["low"][order]
            repeated = (high[1:] == high[:-1]) & (low[1:] == low[:-1])
            is_repeated[records["line"][order[1:][repeated]]] = True
        return is_repeated

    def _kept(self, is_repeated: NDArray[np.bool_]) -> Iterator[bytes]:
        self._text.seek(0)
        number = 0  # of the line that the next byte belongs to
        while data := self._text.read(_PIECE_BYTES):
            *lines, rest = data.split(b"\n")
            parts = [*(line + b"\n" for line in lines), rest]
            is_kept = (~is_repeated[number : number + len(parts)]).tolist()
            number += len(lines)
            yield b"".join(compress(parts, is_kept))
