"""Numbered lines of files or standard input, as they come."""

import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from nextchar.lines import MAX_LINE_BYTES, Line

_CHUNK_BYTES = 1 << 16


def read_lines(files: Sequence[str]) -> Iterator[Line]:
    """Yield the lines of files, one file after the other; `-` is standard input.

    Of a line longer than MAX_LINE_BYTES only the beginning is kept, also while it is read. Raises OSError.
    """
    for file in files:
        with _open(file) as source:
            yield from lines_of_stream(file, source)


def lines_of_stream(file: str, source: io.BufferedIOBase | BinaryIO) -> Iterator[Line]:
    r"""Yield the lines of an open file; one does not wait for the next.

    >>> [(l.number, l.offset, l.data) for l in lines_of_stream("log", io.BytesIO(b"ab\n\ncd"))]
    [(1, 0, b'ab'), (2, 3, b''), (3, 4, b'cd')]
    """
    number, offset = 0, 0
    while data := source.readline(MAX_LINE_BYTES + 1):
        number += 1
        yield Line(number, data.removesuffix(b"\n")[:MAX_LINE_BYTES], file=file, offset=offset)
        offset += len(data)
        while not data.endswith(b"\n") and (data := source.readline(_CHUNK_BYTES)):
            offset += len(data)


def _open(file: str) -> BinaryIO:
    if file != "-":
        return Path(file).open("rb")
    if sys.stdin is None:
        raise OSError("standard input is closed")
    try:
        return open(sys.stdin.fileno(), "rb", closefd=False)
    except io.UnsupportedOperation:  # standard input is an object in memory
        return sys.stdin.buffer
