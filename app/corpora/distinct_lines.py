"""Removes repeated lines of a text of any length, with bounded memory.

The text is divided into pieces of about 256 KiB, and lines that are repeated within a piece are removed at
once. The rest is kept in an unnamed file. The hashes of its lines are kept in another one, in parts, so that
those of equal lines are in the same part; the parts are sorted in memory one after the other. Then the text
is read again, without the lines that are repeated.
"""

import hashlib
import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import compress
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from nextchar.store.blobs import domain_errors, temporary_file

_PART_BITS = 6
_PARTS = 1 << _PART_BITS  # of a billion lines each has 16 million hashes, some 400 MB
_PIECE_BYTES = 256 << 10
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
        self._buffer = bytearray()
        self._long_line: hashlib._Hash | None = None  # of a line whose beginning has left the buffer
        # Random, so that no text can be made whose lines are all in one part.
        self._multiplier = np.uint64(secrets.randbits(64) | 1)
        self._ends: list[NDArray[np.int64]] = []  # of each part in each piece's records, (_PARTS,)
        with ExitStack() as stack:
            self._text = stack.enter_context(temporary_file(folder))
            self._records = stack.enter_context(temporary_file(folder))
            self._exit = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def feed(self, data: bytes) -> None:
        """Take the next bytes. Raises StorageFull."""
        self.bytes += len(data)
        self._buffer += data
        if len(self._buffer) >= _PIECE_BYTES:
            with domain_errors():
                self._write_lines()
                if len(self._buffer) >= _PIECE_BYTES:
                    self._write_long_line()

    def finish(self) -> Iterator[bytes]:
        """Yield the text without repeated lines, once; then `removed` is the number of lines left out."""
        with domain_errors():
            self._write_lines()
            if self._buffer:
                self._write_long_line()
            if self._long_line:
                self._write_records([self._long_line.digest()], [self._count])
            self._count += 1
            is_repeated = self._repeated()
            self.removed += int(is_repeated.sum())
            yield from self._kept(is_repeated)

    def _write_lines(self) -> None:
        """Move the complete lines of the buffer to the files; those that are repeated in it are left out."""
        *lines, rest = bytes(self._buffer).split(b"\n")
        if not lines:
            return
        self._buffer = bytearray(rest)
        kept: list[bytes] = []
        digests: list[bytes] = []  # of those that are not empty
        numbers: list[int] = []
        if self._long_line:
            self._long_line.update(lines[0])
            digests.append(self._long_line.digest())
            numbers.append(self._count)
            kept.append(lines.pop(0))
            self._long_line = None
        seen: set[bytes] = set()
        for line in lines:
            if line in seen:
                self.removed += 1
                continue
            if line:
                seen.add(line)
                digests.append(hashlib.sha256(line).digest())
                numbers.append(self._count + len(kept))
            kept.append(line)
        self._text.writelines((b"\n".join(kept), b"\n"))
        self._write_records(digests, numbers)
        self._count += len(kept)

    def _write_long_line(self) -> None:
        """Move the buffer, which is a part of one line, to the file of the text."""
        self._long_line = self._long_line or hashlib.sha256()
        self._long_line.update(self._buffer)
        self._text.write(self._buffer)
        self._buffer.clear()

    def _write_records(self, digests: list[bytes], numbers: list[int]) -> None:
        """Write the hashes of lines, and the numbers of these lines in the file of the text, part by part."""
        records = np.empty(len(numbers), _RECORD)
        words = np.frombuffer(b"".join(digests), "<u8").reshape(-1, 4)  # (lines, 4) of SHA-256
        records["high"], records["low"] = words[:, :2].T
        records["line"] = numbers
        parts = (records["high"] * self._multiplier >> np.uint64(64 - _PART_BITS)).astype(np.intp)
        order = np.argsort(parts, kind="stable")
        self._ends.append(np.cumsum(np.bincount(parts, minlength=_PARTS)))
        self._records.write(records[order].tobytes())

    def _part(self, part: int) -> NDArray[np.void]:
        found, first = [], 0  # the first record of the piece
        for ends in self._ends:
            start = int(ends[part - 1]) if part else 0
            self._records.seek((first + start) * _RECORD.itemsize)
            found.append(self._records.read((int(ends[part]) - start) * _RECORD.itemsize))
            first += int(ends[-1])
        return np.frombuffer(b"".join(found), _RECORD)

    def _repeated(self) -> NDArray[np.bool_]:
        """Return whether each line occurred before, (lines,)."""
        is_repeated = np.zeros(self._count, np.bool_)
        for part in range(_PARTS):
            records = self._part(part)
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
