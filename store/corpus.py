"""The record of a corpus, and an upload in progress, from the first byte to this record.

Decodes, normalizes and counts the text while it is uploaded, with bounded memory.
"""

import codecs
import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Literal, Self

import numpy as np
from pydantic import ConfigDict, TypeAdapter

from nextchar.models.config import MINIMUM_CHARACTERS
from nextchar.models.errors import InvalidInput, TooLarge
from nextchar.models.text.kind_detection import TextKind, detect_kind
from nextchar.models.text.log_detection import LineSample
from nextchar.models.text.vocabulary import CharacterCounts, Normalizer
from nextchar.store.blobs import domain_errors
from nextchar.store.corpus_names import reference_of

Encoding = Literal["utf-8", "bytes"]

_GZIP_MAGIC = b"\x1f\x8b"
_SAMPLE_CHARACTERS = 300
_MAX_HELD_CHARACTERS = 1 << 20  # of consecutive combining marks, which are normalized together
_MIN_UTF16_NULS = 0.2  # fraction of the characters of a text in UTF-16 without a byte order mark
_RARE = 5  # occurrences
_MAX_RARE_CHARACTERS = 20


class CorpusStatistics:
    """Statistics of a text whose bytes arrive in pieces."""

    def __init__(self, encoding: Encoding) -> None:
        self._is_bytes = encoding == "bytes"
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._decoded_bytes = 0
        self._normalizer = Normalizer()
        self._counts = CharacterCounts()
        self._line_characters = 0  # of the line that is not complete
        self._lines = LineSample()
        self._longest_line = 0
        self._sample = ""

    @property
    def characters(self) -> int:
        """Characters so far."""
        return self._counts.total

    def feed(self, data: bytes, *, final: bool = False) -> None:
        """Take the next bytes. Raises InvalidInput: not UTF-8, or not a text (see `Upload.feed`)."""
        if self._is_bytes:
            self._count(data.decode("latin-1"))
            return
        self._count(self._normalizer.feed(self._decoded(data, final=final)))
        if self._normalizer.held > _MAX_HELD_CHARACTERS:
            raise InvalidInput(
                f"around byte {self._decoded_bytes:,} more than {_MAX_HELD_CHARACTERS:,} characters in a row"
                " are marks that belong to one letter; if this is not a text, upload it with encoding=bytes",
                code="corpus_not_text",
                param="body",
            )
        if final:
            self._count(self._normalizer.finish())

    def _decoded(self, data: bytes, *, final: bool) -> str:
        pending = len(self._decoder.getstate()[0])
        try:
            text = self._decoder.decode(data, final)
        except UnicodeDecodeError as error:
            offset = self._decoded_bytes - pending + error.start
            if offset == 1 and error.object[:2] == _GZIP_MAGIC:
                raise InvalidInput(
                    "the text is compressed with gzip; decompress it first, or send it with the header"
                    " Content-Encoding: gzip",
                    code="corpus_not_utf8",
                    param="body",
                ) from None
            is_utf16 = offset == 0 and error.object[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
            source = "utf-16" if is_utf16 else "windows-1252"
            raise InvalidInput(
                f"the text is not UTF-8: byte {error.object[error.start]:#04x} at offset {offset}"
                f" ({error.reason}); convert it first, for example with iconv -f {source} -t utf-8 if that"
                " is what it is, or upload it with encoding=bytes",
                code="corpus_not_utf8",
                param="body",
            ) from None
        self._decoded_bytes += len(data)
        return text

    def _count(self, text: str) -> None:
        if not text:
            return
        self._counts.add(text)
        self._sample += text[: _SAMPLE_CHARACTERS - len(self._sample)]
        if not self._is_bytes:
            self._lines.feed(text)
        first, *rest = text.split("\n")
        first_characters = self._line_characters + len(first)
        self._longest_line = max(self._longest_line, first_characters, *map(len, rest))
        self._line_characters = len(rest[-1]) if rest else first_characters

    def summary(self) -> dict[str, Any]:
        """Return the fields of the corpus record, by name."""
        sample = self._sample
        if self._is_bytes:  # shown as text; a partial character at the end is dropped
            sample = sample.encode("latin-1").decode("utf-8", "replace").removesuffix("\ufffd")
        return {
            "characters": self.characters,
            "distinct_characters": self._counts.distinct,
            "lines": int(self._counts.by_code_point[ord("\n")]) + (self._line_characters > 0),
            "longest_line": self._longest_line,
            "sample": sample,
            "warnings": [*self._too_few(), *self._warnings()],
            **self._recognized(),
        }

    def _recognized(self) -> dict[str, Any]:
        if self._is_bytes:
            return {}
        detected = detect_kind(self._lines)
        kind = {"kind": detected.kind, "kind_reason": detected.reason}
        if detected.kind != "log":
            return kind
        log_sample = asdict(detected.log)
        for name in ("kind", "clock"):
            del log_sample[name]
        return kind | {"suggested_masks": list(detected.log.masks), "log_sample": log_sample}

    def _too_few(self) -> list[str]:
        if self.characters >= MINIMUM_CHARACTERS:
            return []
        return [f"too short to train on: {self.characters} of at least {MINIMUM_CHARACTERS} characters"]

    def _warnings(self) -> list[str]:
        counts = self._counts.by_code_point
        if self._is_bytes:
            is_constant = self._counts.distinct == 1
            return ["the bytes are all the same; there is nothing to learn"] if is_constant else []
        warnings = []
        if self._counts.distinct == 1:
            warnings.append("the text repeats one character; there is nothing to learn")
        if self._sample.startswith("\ufeff"):
            warnings.append(
                "the text starts with a byte order mark, which counts as a character; to train without it,"
                " remove it (`sed '1s/^\\xef\\xbb\\xbf//' FILE`) and upload the text again"
            )
        if carriage_returns := int(counts[ord("\r")]):
            plural = "" if carriage_returns == 1 else "s"
            warnings.append(
                f"{carriage_returns:,} carriage return{plural}: lines end in CR LF or CR, and the model"
                " learns the CR as a character. To train without them, convert the file (`dos2unix FILE`, or"
                " `tr -d '\\r' < FILE`) and upload it again"
            )
        if counts[0]:
            advice = "is this a text?"
            if counts[0] >= _MIN_UTF16_NULS * self.characters:
                advice = (
                    "the text may be UTF-16: convert it with `iconv -f utf-16le -t utf-8` and upload it again"
                )
            warnings.append(f"{counts[0]:,} NUL characters; {advice}")
        if escapes := int(counts[0x1B]):
            plural = "" if escapes == 1 else "s"
            warnings.append(
                f"{escapes:,} escape character{plural}: colors of a terminal are learned as characters, and"
                " masks may not match next to them. To train without them, remove them"
                " (`sed 's/\\x1b\\[[0-9;]*m//g' FILE`) and upload the text again"
            )
        if counts[0xFFFD]:
            plural = "" if counts[0xFFFD] == 1 else "s"
            warnings.append(
                f"{counts[0xFFFD]:,} replacement character{plural} (U+FFFD): a conversion lost text; convert"
                " the original from its true encoding and upload it again"
            )
        rare = int(np.count_nonzero((counts > 0) & (counts < _RARE)))
        if rare > _MAX_RARE_CHARACTERS:
            warnings.append(
                f"{rare:,} characters occur fewer than five times and will be learned badly; to leave the"
                ' rarest out, train with "coverage": 0.9995'
            )
        return warnings


@dataclass(frozen=True)
class Corpus:
    """The record of a corpus. Lengths are in characters after NFC, except `bytes`."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    id: str
    name: str | None
    sha256: str
    created_at: int
    bytes: int
    characters: int
    distinct_characters: int
    lines: int
    longest_line: int
    sample: str
    warnings: list[str]
    encoding: Encoding = "utf-8"
    kind: TextKind | None = None  # None: bytes, or an older record
    kind_reason: str | None = None  # a clause; None like the kind, and for texts of older records
    suggested_masks: list[str] = field(default_factory=list)
    log_sample: dict[str, Any] | None = None  # of a log: the rest of its LogDetection
    files: int | None = None  # that were joined to this text; None: it was uploaded as one
    version: int | None = None  # of `name`
    repeated_lines: int | None = None  # that were removed from it; None: none was looked for
    uploaded_again_at: int | None = None  # the last time, to the day; Unix seconds

    @property
    def reference(self) -> str | None:
        """Its first name, with the version unless that is 1."""
        return reference_of(self.name, self.version or 1) if self.name else None


_CORPUS = TypeAdapter(Corpus)


def dump_corpus(corpus: Corpus) -> bytes:
    """Return a record as JSON, without fields new to earlier releases that have their default."""
    defaults = {
        "files": None,
        "version": corpus.name and 1,
        "repeated_lines": None,
        "uploaded_again_at": None,
    }
    record = asdict(corpus)
    return json.dumps({k: v for k, v in record.items() if k not in defaults or v != defaults[k]}).encode()


def load_corpus(data: bytes) -> Corpus:
    """Read what `dump_corpus` returned. Raises pydantic.ValidationError: it cannot be read."""
    corpus = _CORPUS.validate_json(data)
    is_older = corpus.name is not None and corpus.version is None  # than versions
    return replace(corpus, version=1) if is_older else corpus


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
