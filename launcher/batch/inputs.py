"""The files that a run reads: found by name or pattern, divided into parts, read as bytes.

A part is a range of bytes of a file; it has the lines that begin in it, as the splits of Hadoop and Spark do.
A compressed file cannot be entered in the middle, so it is one part.
"""

import glob
import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from nextchar.models.errors import DomainError, InvalidInput, NotFound, Unavailable
from nextchar.store.open_blobs import is_known_url

GZIP_SUFFIX = ".gz"

PIECE_BYTES = 256 << 10
"""Size of one read."""

_BUFFER_BYTES = 4 << 20  # of a request to an object store


class DamagedInput(DomainError):
    """A file cannot be read as what its name says."""

    code = "input_damaged"


@dataclass(frozen=True)
class InputFile:
    """A file as it was when the run began: a local path or a URL, its bytes, and its ETag or time."""

    name: str
    bytes: int
    version: str

    @property
    def is_compressed(self) -> bool:
        """Whether it is read through gzip."""
        return self.name.endswith(GZIP_SUFFIX)


@dataclass(frozen=True)
class Part:
    """The lines of `file` that begin at `start` or later and before `end`, in bytes as stored."""

    file: InputFile
    start: int
    end: int

    @property
    def bytes(self) -> int:
        """Its share of the file."""
        return self.end - self.start


def find_files(patterns: Sequence[str]) -> list[InputFile]:
    """Return the files that paths, URLs and patterns name, each once, in the order of the patterns.

    In a pattern `*`, `?` and `[…]` match within a folder, `**` across folders.

    Raises:
        NotFound: there is no such file, or none matches (code `no_input`).
        InvalidInput: a folder is named, or a URL is not of a known kind.
        Unavailable: the object store does not work.
    """
    found: dict[str, InputFile] = {}
    for pattern in patterns:
        is_url = "://" in pattern and not pattern.startswith("file://")
        files = _find_objects(pattern) if is_url else _find_local(pattern.removeprefix("file://"))
        if not files:
            raise NotFound(f"no file matches {pattern}", code="no_input")
        found |= {file.name: file for file in files}
    return list(found.values())


def parts_of(files: Sequence[InputFile], part_bytes: int) -> list[Part]:
    """Divide files into parts of `part_bytes`; an empty file has none, a compressed file has one."""
    return [
        Part(file, start, min(start + size, file.bytes))
        for file in files
        for size in [file.bytes if file.is_compressed else part_bytes]
        for start in range(0, file.bytes, size or 1)
    ]


def read_part(part: Part) -> Iterator[tuple[int, bytes]]:
    """Yield the bytes of whole lines of a part, with the offset of each piece in the decompressed file.

    Raises:
        NotFound: the file is missing. DamagedInput: it is not gzip, or ends too early. Both name it.
        InvalidInput: it has changed since the run began (code `input_changed`).
        Unavailable: the object store does not work.
    """
    with _open(part.file) as stored:
        if not part.file.is_compressed:
            yield from _lines_between(stored, part.start, part.end)
            return
        at = 0
        try:
            with gzip.GzipFile(fileobj=stored) as unpacked:
                while piece := unpacked.read(PIECE_BYTES):
                    yield at, piece
                    at += len(piece)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DamagedInput(
                f"{part.file.name} is not a complete gzip file ({error}); replace it, or rename it if it is"
                " not compressed"
            ) from None


def _lines_between(stored: IO[bytes], start: int, end: int) -> Iterator[tuple[int, bytes]]:
    at = start
    if start:  # the first line of the part begins after the newline at start - 1 or later
        stored.seek(start - 1)
        at = start - 1
        while at < end:
            piece = stored.read(PIECE_BYTES)
            newline = piece.find(b"\n")
            if newline >= 0:
                at += newline + 1
                break
            if not piece:
                return
            at += len(piece)
        if at >= end:
            return
        stored.seek(at)
    while piece := stored.read(PIECE_BYTES):
        # The last line of the part ends with the newline at end - 1 or later.
        newline = piece.find(b"\n", max(0, end - 1 - at)) if at + len(piece) >= end else -1
        if newline >= 0:
            yield at, piece[: newline + 1]
            return
        yield at, piece
        at += len(piece)


# Files on this machine, or on a file system that all machines share


def _find_local(pattern: str) -> list[InputFile]:
    path = Path(pattern).expanduser()
    if path.is_dir():
        raise InvalidInput(f"{pattern} is a folder; name its files, as in {pattern.rstrip('/')}/*.log")
    names = [str(path)] if path.is_file() else sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 -- of any root
    return [_local_file(Path(name).resolve()) for name in names if Path(name).is_file()]


def _local_file(path: Path) -> InputFile:
    status = path.stat()
    return InputFile(str(path), status.st_size, str(status.st_mtime_ns))


# Objects in a store


def _find_objects(pattern: str) -> list[InputFile]:
    import obstore

    from nextchar.store.object_errors import domain_errors_of_store, is_missing_bucket

    bucket, key = _split(pattern)
    folder, store = "/".join(_literal_folders(key)), _store(bucket)
    try:
        with domain_errors_of_store():
            try:
                objects = [obstore.head(store, key)]
            except FileNotFoundError as error:
                if is_missing_bucket(error):
                    raise
                objects = [o for chunk in obstore.list(store, folder or None) for o in chunk]
    except Unavailable as error:
        raise Unavailable(f"{pattern} cannot be read: {error.message}", code=error.code) from None
    names = key.split("/")
    return [
        _input_file(bucket, one)
        for one in sorted(objects, key=lambda one: one["path"])
        if one["path"] == key or _matches(one["path"].split("/"), names)
    ]


def _input_file(bucket: str, meta: Any) -> InputFile:
    version = meta["e_tag"] or str(meta["last_modified"])
    return InputFile(f"{bucket}/{meta['path']}", meta["size"], version)


def _split(url: str) -> tuple[str, str]:
    """Return the URL of a bucket, and the key of an object or a pattern of keys.

    >>> _split("s3://logs/2026/*.gz")
    ('s3://logs', '2026/*.gz')
    """
    scheme, _, rest = url.partition("://")
    bucket, _, key = rest.partition("/")
    if not (bucket and key):
        raise InvalidInput(f"{url} names no object; write {scheme}://BUCKET/NAME or a pattern of names")
    return f"{scheme}://{bucket}", key


def _literal_folders(key: str) -> list[str]:
    folders = key.split("/")[:-1]
    patterns = [i for i, name in enumerate(folders) if glob.has_magic(name)]
    return folders[: patterns[0]] if patterns else folders


def _matches(names: Sequence[str], patterns: Sequence[str]) -> bool:
    """Return whether a path matches a pattern, both split at slashes.

    >>> _matches(["a", "b", "c.gz"], ["a", "**", "*.gz"]), _matches(["a", "b", "c.gz"], ["a", "*.gz"])
    (True, False)
    """
    if not patterns:
        return not names
    if patterns[0] == "**":
        return any(_matches(names[i:], patterns[1:]) for i in range(len(names) + 1))
    return bool(names) and fnmatchcase(names[0], patterns[0]) and _matches(names[1:], patterns[1:])


@lru_cache(maxsize=16)
def _store(bucket: str) -> Any:
    from nextchar.store.object_store import open_store

    if not is_known_url(bucket):
        raise InvalidInput(f"{bucket} is not a URL that files can be read from; use s3://, gs:// or az://")
    try:
        return open_store(bucket)
    except ValueError as error:
        raise InvalidInput(f"{bucket} cannot be read: {error}") from None


def _open(file: InputFile) -> IO[bytes]:
    """Open a file that has not changed."""
    if "://" not in file.name:
        path = Path(file.name)
        try:
            _check_unchanged(file, _local_file(path))
            return path.open("rb")
        except FileNotFoundError:
            raise NotFound(
                f"{file.name} does not exist; on a cluster, files must be on storage that all"
                f" machines can read",
                code="no_input",
            ) from None
    import obstore

    from nextchar.store.object_errors import domain_errors_of_store

    bucket, key = _split(file.name)
    try:
        with domain_errors_of_store():
            now = obstore.head(_store(bucket), key)
            reader = obstore.open_reader(_store(bucket), key, buffer_size=_BUFFER_BYTES)
    except FileNotFoundError:
        raise NotFound(f"{file.name} has been deleted", code="no_input") from None
    _check_unchanged(file, _input_file(bucket, now))
    return io.BufferedReader(_RawReader(reader), PIECE_BYTES)


def _check_unchanged(before: InputFile, now: InputFile) -> None:
    if before != now:
        raise InvalidInput(
            f"{before.name} has changed since the run began: it had {before.bytes:,} bytes and has"
            f" {now.bytes:,}; begin a new run, with another output",
            code="input_changed",
        )


class _RawReader(io.RawIOBase):
    """An object as a raw file."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return int(self._reader.seek(offset, whence))

    def tell(self) -> int:
        return int(self._reader.tell())

    def readinto(self, buffer: Any, /) -> int:
        from nextchar.store.object_errors import domain_errors_of_store

        view = memoryview(buffer)
        with domain_errors_of_store():
            data = memoryview(self._reader.read(len(view)))
        view[: len(data)] = data
        return len(data)


def is_url(name: str) -> bool:
    """Return whether a name is a URL of an object store."""
    return bool(urlsplit(name).netloc) and "://" in name
