"""An upload in progress, from the first byte to the record of the corpus."""

import contextlib
import fcntl
import hashlib
import os
import tempfile
import time
from pathlib import Path
from typing import IO, Self

from nextchar.models.errors import InvalidInput, TooLarge
from nextchar.store.blobs import domain_errors
from nextchar.store.corpus import Corpus, CorpusStatistics, Encoding


class Upload:
    """An upload in progress: spooled to a local file while it is hashed, decoded and counted.

    Use as a context manager, which deletes the spool file at the end.

    Args:
        folder: the folder of the spool file, on a disk with room for `limit_bytes`.
        limit_bytes: the maximal size of the text.
        encoding: of the text; `bytes` are not decoded.
    """

    def __init__(self, folder: Path, *, limit_bytes: int, encoding: Encoding = "utf-8") -> None:
        self.encoding = encoding
        self.files: int | None = None
        """How many files are joined to this text; None: it is one."""
        self.repeated_lines: int | None = None
        """How many repeated lines were left out; None: none was looked for."""
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._sha256 = hashlib.sha256()
        self._statistics = CorpusStatistics(encoding)
        folder.mkdir(parents=True, exist_ok=True)
        with domain_errors():
            descriptor, name = tempfile.mkstemp(prefix="upload-", dir=folder)
        self.path = Path(name)
        self._file: IO[bytes] = os.fdopen(descriptor, "wb")
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(self._file, fcntl.LOCK_EX)  # so that retention sees that it is in use

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # flushing to a full disk; the file is deleted anyway
            self._file.close()
        self.path.unlink(missing_ok=True)

    def feed(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            TooLarge: the total exceeds the limit (code `corpus_too_large`).
            InvalidInput: not UTF-8 (code `corpus_not_utf8`); or not a text: a million consecutive combining
                marks (code `corpus_not_text`).
            StorageFull: the disk is full.
        """
        self._bytes += len(data)
        if self._bytes > self._limit_bytes:
            raise TooLarge(
                f"the text is larger than {self._limit_bytes:,} bytes, the limit for a corpus",
                code="corpus_too_large",
            )
        self._sha256.update(data)
        self._statistics.feed(data)
        with domain_errors():
            self._file.write(data)

    def finish(self) -> Corpus:
        """Return the record of the complete text. Raises InvalidInput if it is empty or truncated."""
        self._statistics.feed(b"", final=True)
        if not self._statistics.characters:
            raise InvalidInput(
                "the text is empty; it needs at least one character", code="corpus_empty", param="body"
            )
        with domain_errors():
            self._file.flush()
        digest = identity = self._sha256.hexdigest()
        if self.encoding == "bytes":
            identity = hashlib.sha256(f"bytes {digest}".encode()).hexdigest()
        return Corpus(
            id=f"corpus_{identity[:24]}",
            name=None,
            sha256=digest,
            created_at=int(time.time()),
            bytes=self._bytes,
            encoding=self.encoding,
            files=self.files,
            repeated_lines=self.repeated_lines,
            **self._statistics.summary(),
        )
