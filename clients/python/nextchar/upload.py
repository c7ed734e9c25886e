"""A text in any form as the body of a request."""

import io
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

Content = bytes | IO[bytes] | Iterable[bytes]
"""The body of a request."""

Text = str | bytes | Path | IO[bytes] | IO[str] | Iterable[str | bytes]
"""A text to upload: itself, a file's path, an open file, or pieces of any size."""

_PIECE_BYTES = 1 << 16


def upload_body(text: Text) -> Content:
    """Return a body that httpx sends with the right length or in chunks."""
    if isinstance(text, str):
        return text.encode()
    if isinstance(text, bytes):
        return text
    if isinstance(text, Path):
        return _file_pieces(text)
    read: Callable[[int], str | bytes] | None = getattr(text, "read", None)
    if read is None:
        return (_encoded(piece) for piece in text if piece)
    if not isinstance(text, io.TextIOBase) and _is_regular_file(text):
        return text  # type: ignore[return-value] # opened as binary
    return iter(lambda: _encoded(read(_PIECE_BYTES)), b"")


def _encoded(piece: str | bytes) -> bytes:
    return piece.encode() if isinstance(piece, str) else piece


def _file_pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from iter(lambda: file.read(_PIECE_BYTES), b"")


def _is_regular_file(file: Any) -> bool:
    try:
        return stat.S_ISREG(os.fstat(file.fileno()).st_mode)
    except (OSError, AttributeError):  # an object in memory
        return False
