"""Streaming decompression of gzip: bodies of requests, and files."""

import zlib
from collections.abc import Iterable, Iterator

from nextchar.models.errors import InvalidInput

PIECE_BYTES = 1 << 20
_GZIP_SLICE_BYTES = 16 << 10


class Gunzip:
    """Decompresses gzip piece by piece, so that a decompression bomb is noticed before it is expanded.

    >>> import gzip
    >>> g = Gunzip(); b"".join(g.feed(gzip.compress(b"abc"))), g.finish()
    (b'abc', None)
    """

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(wbits=31)
        self._fed = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the decompressed bytes, in pieces of at most 1 MiB. Raises InvalidInput for invalid gzip.

        A megabyte of empty members yields nothing and takes 0.1 s, so call this in a worker thread.
        """
        # The end of each member copies the rest; with slices of bounded length this stays linear.
        for start in range(0, len(data), _GZIP_SLICE_BYTES):
            yield from self._feed_slice(data[start : start + _GZIP_SLICE_BYTES])

    def _feed_slice(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._inflate.eof:  # a gzip file may have several members
                self._inflate = zlib.decompressobj(wbits=31)
            self._fed = True
            try:
                plain = self._inflate.decompress(data, PIECE_BYTES)
            except zlib.error as error:
                raise _invalid_gzip(str(error)) from None
            if plain:
                yield plain
            data = self._inflate.unconsumed_tail or self._inflate.unused_data

    def finish(self) -> None:
        """Check that the last member is complete. Raises InvalidInput."""
        if self._fed and not self._inflate.eof:
            raise _invalid_gzip("it ends too early")


def decompress(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the decompressed bytes of a whole gzip file. Raises InvalidInput if it is not valid."""
    gunzip = Gunzip()
    for piece in pieces:
        yield from gunzip.feed(piece)
    gunzip.finish()


def _invalid_gzip(why: str) -> InvalidInput:
    return InvalidInput(f"the body is not valid gzip: {why}", code="gzip_broken", param="body")
