"""The files of an archive as one text, while it is uploaded.

Files are joined in the order of the archive, and a newline is added to a file that does not end with one.
Files compressed with gzip (`*.gz`) are decompressed; hidden ones and links are left out. Nothing is written
under a name from the archive.
"""

import os
import struct
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Literal

from nextchar.models.errors import InvalidInput, NotFound, TooLarge
from nextchar.store.blobs import Blobs, domain_errors, temporary_file
from nextchar.store.gunzip import PIECE_BYTES, Gunzip

ArchiveFormat = Literal["tar", "zip"]

_GZIP_MAGIC = b"\x1f\x8b"
_BLOCK = tarfile.BLOCKSIZE
_MAX_TAR_FILES = 200_000  # each takes 50 microseconds, but no more than 10 bytes if compressed
_HEADERS_PER_FILE = 2  # the first may be an extended one
_MAX_HEADER_BYTES = 1 << 20  # of an extended header: names and times
_MAX_SIZE_DIGITS = 18  # of an extended header
_MAX_ZIP_DIRECTORY_BYTES = 8 << 20  # about 70,000 files; `zipfile` needs up to 20 times as much memory
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # others may expand to gigabytes in one step
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    NotImplementedError,
    zlib.error,
    struct.error,
    EOFError,
    UnicodeDecodeError,
)  # what `zipfile` raises for an invalid zip


class Archive(ABC):
    """An archive that arrives in pieces.

    Args:
        adds_newlines: whether the files are lines of text.
        max_bytes: of the decompressed archive, of which the text may be a small part.

    Attributes:
        files: how many files were read so far.
        file: the name of the file that is read now; "" before the first.
    """

    def __init__(self, *, adds_newlines: bool, max_bytes: int | None = None) -> None:
        self.files = 0
        self.file = ""
        self._max_bytes, self._bytes = max_bytes, 0
        self._adds_newlines = adds_newlines
        self._gunzip: Gunzip | None = None
        self._last = b"\n"  # the last byte of the text so far

    @abstractmethod
    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the text in the next bytes of the archive.

        Raises:
            InvalidInput: it is invalid (code `archive_broken`).
            TooLarge: it has too many files, or too many bytes when it is decompressed.
        """

    def close(self) -> None:  # noqa: B027 -- most keep nothing
        """Delete what is kept."""

    @abstractmethod
    def finish(self) -> Iterator[bytes]:
        """Yield the rest of the text.

        Raises:
            InvalidInput: the archive ends too early (code `archive_broken`), or has no file that is read
                (`archive_empty`).
        """

    def _begin(self, name: str) -> Iterator[bytes]:
        """Begin the next file: yield a newline if the one before needs it."""
        if self._adds_newlines and self._last != b"\n":
            yield b"\n"
        self._last = b"\n"
        self.file = name
        self.files += 1
        self._gunzip = Gunzip() if name.lower().endswith(".gz") else None

    def _text(self, data: bytes) -> Iterator[bytes]:
        for text in self._gunzip.feed(data) if self._gunzip else (data,):
            if text:
                self._last = text[-1:]
                yield text

    def _count(self, data: bytes) -> None:
        """Count decompressed bytes. Raises TooLarge above `max_bytes`."""
        self._bytes += len(data)
        if self._max_bytes is not None and self._bytes > self._max_bytes:
            raise TooLarge(
                f"the archive has more than {self._max_bytes:,} bytes when it is decompressed, twice the"
                " limit for a corpus",
                code="corpus_too_large",
            )

    def _end(self) -> None:
        if self._gunzip:
            self._gunzip.finish()
            self._gunzip = None

    def _check_has_files(self) -> None:
        if not self.files:
            raise InvalidInput(
                "the archive has no files, or hidden ones only; put the texts into it",
                code="archive_empty",
                param="body",
            )


class TarArchive(Archive):
    """A tar archive, possibly compressed with gzip, that is read without a copy."""

    def __init__(self, *, adds_newlines: bool, max_bytes: int | None = None) -> None:
        super().__init__(adds_newlines=adds_newlines, max_bytes=max_bytes)
        self._start: bytes | None = b""  # the first two bytes tell whether it is compressed
        self._compression: Gunzip | None = None
        self._held = b""  # of an incomplete header
        self._left = self._padding = 0  # bytes of the current file, and after it to the next header
        self._is_read = False  # whether the current file is part of the text
        self._extended: tuple[bytes, int] | None = None  # type and size of an extended header that is read
        self._next: dict[str, str] = {}  # what an extended header says of the next file
        self._has_ended = False
        self._headers = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the text in the next bytes of the archive."""
        if self._start is not None:
            self._start += data
            if len(self._start) < len(_GZIP_MAGIC):
                return
            data, self._start = self._start, None
            if data.startswith(_GZIP_MAGIC):
                self._compression = Gunzip()
        for piece in self._compression.feed(data) if self._compression else (data,):
            self._count(piece)
            yield from self._feed_tar(piece)

    def finish(self) -> Iterator[bytes]:
        """Check that the archive is complete; the text has none left."""
        if self._compression:
            self._compression.finish()
        if self._start or self._held or self._left or self._padding or self._extended:
            raise _invalid_archive("it ends too early")
        self._check_has_files()
        return iter(())

    def _feed_tar(self, data: bytes) -> Iterator[bytes]:
        view = memoryview(data)
        while view and not self._has_ended:
            if self._left:
                piece, view = view[: self._left], view[self._left :]
                self._left -= len(piece)
                if self._is_read:
                    yield from self._text(bytes(piece))
                    if not self._left:
                        self._end()
            elif self._padding:
                skipped = min(self._padding, len(view))
                self._padding -= skipped
                view = view[skipped:]
            else:
                needed = (self._extended[1] if self._extended else _BLOCK) - len(self._held)
                self._held += view[:needed]
                view = view[needed:]
                if len(self._held) == (self._extended[1] if self._extended else _BLOCK):
                    header, self._held = self._held, b""
                    yield from self._header(header)

    def _header(self, data: bytes) -> Iterator[bytes]:
        if self._extended:
            self._read_extended(data, *self._extended)
            return
        if not data.strip(b"\0"):  # what follows the end is padding
            self._has_ended = True
            return
        self._headers += 1
        if self._headers > _HEADERS_PER_FILE * _MAX_TAR_FILES:
            raise TooLarge(
                f"the archive has more than {_MAX_TAR_FILES:,} files and folders; join the files first",
                code="corpus_too_large",
            )
        try:
            info = tarfile.TarInfo.frombuf(data, "utf-8", "replace")
        except tarfile.HeaderError as error:
            raise _invalid_archive(str(error)) from None
        if info.type in (
            tarfile.XHDTYPE,
            tarfile.SOLARIS_XHDTYPE,
            tarfile.XGLTYPE,
            tarfile.GNUTYPE_LONGNAME,
            tarfile.GNUTYPE_LONGLINK,
        ):
            if not 0 < info.size <= _MAX_HEADER_BYTES:
                raise _invalid_archive(f"an extended header of {info.size:,} bytes")
            self._extended = info.type, info.size
            return
        fields, self._next = self._next, {}
        name, size = fields.get("path", info.name), int(fields.get("size", info.size))
        if size < 0:
            raise _invalid_archive(f"{name!r} has a negative size")
        if info.type == tarfile.GNUTYPE_SPARSE or any(field.startswith("GNU.sparse") for field in fields):
            raise _invalid_archive(f"{name!r} is stored as a sparse file; make the archive without --sparse")
        has_data = info.isreg() or info.type not in tarfile.SUPPORTED_TYPES
        self._left = size if has_data else 0
        self._padding = -self._left % _BLOCK
        self._is_read = info.isreg() and not _is_hidden(name)
        if self._is_read and self._left:
            yield from self._begin(name)

    def _read_extended(self, data: bytes, kind: bytes, size: int) -> None:
        self._extended, self._padding = None, -size % _BLOCK
        if kind in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            self._next = _pax_fields(data)
        elif kind == tarfile.GNUTYPE_LONGNAME:
            self._next["path"] = data.rstrip(b"\0").decode("utf-8", "replace")


class ZipArchive(Archive):
    """A zip archive, whose table of contents is at its end: it is kept in an unnamed file until then."""

    def __init__(self, folder: Path, *, adds_newlines: bool, max_bytes: int | None = None) -> None:
        super().__init__(adds_newlines=adds_newlines, max_bytes=max_bytes)
        self._file = temporary_file(folder)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Keep the next bytes; yield nothing. Raises StorageFull."""
        with domain_errors():
            self._file.write(data)
        return iter(())

    def finish(self) -> Iterator[bytes]:
        """Yield the text."""
        try:
            with zipfile.ZipFile(_BoundedReads(self._file)) as archive:
                for info in archive.infolist():
                    if info.is_dir() or _is_hidden(info.filename) or not info.file_size:
                        continue
                    if info.flag_bits & 1:
                        raise _invalid_archive(f"{info.filename!r} is encrypted")
                    if info.compress_type not in _ZIP_METHODS:
                        raise _invalid_archive(
                            f"{info.filename!r} is not compressed with deflate, as zip does by default"
                        )
                    yield from self._begin(info.filename)
                    with archive.open(info) as file:
                        while data := file.read(PIECE_BYTES):
                            self._count(data)
                            yield from self._text(data)
                    self._end()
        except _ZIP_ERRORS as error:
            raise _invalid_archive(str(error) or "it ends too early") from None
        self._check_has_files()

    def close(self) -> None:
        """Delete the file."""
        self._file.close()


class _BoundedReads:
    """A file for `zipfile`, which reads the table of contents of a zip at once."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._bytes = file.seek(0, os.SEEK_END)
        self.tell, self.seekable = file.tell, file.seekable

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move. Raises BadZipFile: the table of contents names a place outside of the file."""
        if whence == os.SEEK_SET and not 0 <= offset <= self._bytes:
            raise zipfile.BadZipFile("its table of contents is invalid")
        return self._file.seek(offset, whence)

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes. Raises InvalidInput: the table of contents is too large."""
        if size > _MAX_ZIP_DIRECTORY_BYTES:
            raise _invalid_archive(
                f"its table of contents has {size:,} bytes, more than {_MAX_ZIP_DIRECTORY_BYTES:,}; send that"
                " many files as a tar"
            )
        return self._file.read(_MAX_ZIP_DIRECTORY_BYTES if size < 0 else size)


class StoredFiles(Archive):
    """Files in an object store, which are read instead of a body, in the order of `paths`."""

    def __init__(self, blobs: Blobs, paths: Sequence[str], *, adds_newlines: bool) -> None:
        super().__init__(adds_newlines=adds_newlines)
        self._blobs, self._paths = blobs, paths

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take no bytes: there is no body."""
        assert not data
        return iter(())

    def finish(self) -> Iterator[bytes]:
        """Yield the text. Raises InvalidInput: all files are empty; NotFound: one was deleted meanwhile."""
        for path in self._paths:
            try:
                chunks = self._blobs.stream(path)
            except FileNotFoundError:
                raise NotFound(
                    f"{path} was deleted while the files were read", code="source_not_found"
                ) from None
            has_begun = False
            for data in chunks:
                if not has_begun:
                    yield from self._begin(path)
                    has_begun = True
                yield from self._text(data)
            self._end()
        self._check_has_files()


def _pax_fields(data: bytes) -> dict[str, str]:
    """Return the fields of an extended header: records of "length key=value" and a newline."""
    fields, at = {}, 0
    while at < len(data) and data[at : at + 1] != b"\0":
        length, _, _ = data[at : at + 20].partition(b" ")
        record = data[at : at + int(length)] if length.isdigit() else b""
        key, equals, value = record[len(length) + 1 : -1].partition(b"=")
        if not equals or record[-1:] != b"\n" or len(record) != int(length):
            raise _invalid_archive("an extended header is invalid")
        fields[key.decode("utf-8", "replace")] = value.decode("utf-8", "replace")
        at += len(record)
    size = fields.get("size", "0")
    if not (size.isascii() and size.isdigit() and len(size) <= _MAX_SIZE_DIGITS):
        raise _invalid_archive("an extended header is invalid")
    return fields


def _is_hidden(name: str) -> bool:
    parts = name.split("/")
    return any(part.startswith(".") and part not in (".", "..") for part in parts) or "__MACOSX" in parts


def _invalid_archive(why: str) -> InvalidInput:
    return InvalidInput(f"the archive cannot be read: {why}", code="archive_broken", param="body")
