"""A text in any form as the body of a request."""

import gzip
import io
import os
import stat
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Literal

from nextchar.errors import NextcharError

Content = bytes | IO[bytes] | Iterable[bytes]
"""The body of a request."""

Text = str | bytes | Path | IO[bytes] | IO[str] | Iterable[str | bytes]
"""A text to upload: itself, a file's path, an open file, or pieces of any size."""

ArchiveFormat = Literal["tar", "zip"]
"""Archives that can be uploaded."""

_PIECE_BYTES = 1 << 16
_MAX_NAME = 255  # characters of a file's name that a text may be


def upload_body(text: Text) -> Content:
    """Return a body that httpx sends with the right length or in chunks.

    Raises NextcharError: a text is the name of a file; or, perhaps when the body is read, has a lone
    surrogate.
    """
    if names_file(text):
        raise NextcharError(path_advice(text))
    if isinstance(text, str | bytes):
        return _encoded(text)
    if isinstance(text, Path):
        return _file_pieces(text)
    read: Callable[[int], str | bytes] | None = getattr(text, "read", None)
    if read is None:
        return (_encoded(piece) for piece in text if piece)
    if not isinstance(text, io.TextIOBase) and _is_regular_file(text):
        return text  # type: ignore[return-value] # opened as binary
    return iter(lambda: _encoded(read(_PIECE_BYTES)), b"")


def names_file(text: object) -> bool:
    """Return whether a text is only the name of a file that exists: its contents are meant."""
    try:
        return (
            isinstance(text, str) and 0 < len(text) <= _MAX_NAME and "\n" not in text and Path(text).is_file()
        )
    except (OSError, ValueError):
        return False


def path_advice(name: object) -> str:
    """Return a sentence that says how to give a file's contents instead of its name."""
    return f"the text is the name of a file; to read it, give Path({name!r})"


def folder_files(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder as they are found, without hidden ones. Raises OSError."""
    return (path for path in folder.rglob("*") if path.is_file() and not _is_hidden(path, folder))


def folder_archive(folder: Path, files: Iterable[Path] | None = None) -> Iterator[bytes]:
    """Yield a tar archive of files below a folder, by default all but hidden ones, in order of their paths.

    Raises:
        OSError: a file cannot be read, or has become shorter while it was.
    """
    for path in sorted(folder_files(folder) if files is None else files):
        with path.open("rb") as file:
            header = tarfile.TarInfo(path.relative_to(folder).as_posix())
            header.size = left = os.fstat(file.fileno()).st_size
            yield header.tobuf(tarfile.PAX_FORMAT)
            while left:  # of a log, what is appended meanwhile is left out
                piece = file.read(min(_PIECE_BYTES, left))
                if not piece:
                    raise OSError(f"{path} became shorter while it was read")
                left -= len(piece)
                yield piece
            yield bytes(-header.size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def gunzip(path: Path) -> Iterator[bytes]:
    """Yield what is in a file that is compressed with gzip. Raises OSError: it cannot be read."""
    try:
        with gzip.open(path) as file:
            yield from iter(lambda: file.read(_PIECE_BYTES), b"")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise OSError(f"{path} cannot be decompressed: {error}") from None


def archive_format(path: Path) -> ArchiveFormat | None:
    """Return the format of a file that is an archive by its name; None for others.

    >>> archive_format(Path("logs.tar.gz")), archive_format(Path("a.ZIP")), archive_format(Path("a.txt"))
    ('tar', 'zip', None)
    """
    name = path.name.lower()
    if name.endswith((".tar", ".tar.gz", ".tgz")):
        return "tar"
    return "zip" if name.endswith(".zip") else None


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _encoded(piece: str | bytes) -> bytes:
    try:
        return piece.encode() if isinstance(piece, str) else piece
    except UnicodeEncodeError as error:
        raise NextcharError(surrogate_advice(error)) from None


def surrogate_advice(error: UnicodeEncodeError) -> str:
    """Return a sentence that says what to do with a text that has a lone surrogate."""
    return (
        f"the text has {error.object[error.start]!r}, a lone surrogate, which UTF-8 cannot encode; if it"
        ' is from a file with invalid bytes, read that with errors="replace", or give its bytes'
    )


def _file_pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from iter(lambda: file.read(_PIECE_BYTES), b"")


def _is_regular_file(file: Any) -> bool:
    try:
        return stat.S_ISREG(os.fstat(file.fileno()).st_mode)
    except (OSError, AttributeError):  # an object in memory
        return False
