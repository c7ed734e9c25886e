"""Corpora: uploaded texts, immutable, known by the SHA-256 of their bytes.

    corpora/<id>/corpus.json   the record; written last, so that its presence means the text is whole
    corpora/<id>/text          the bytes as uploaded (after any gzip is undone)
    corpus_names/<name>        the id that a name stands for
    corpus_owners/<id>/…       who uploaded it: see `store.corpus_owners`

Characters are counted after NFC; the text is given back as it came. What is not UTF-8 can be kept with the
encoding `bytes`: each byte is then a character, and the same bytes are another corpus than as a text.
Memory is bounded, however long a text is, but for `Corpora.text`.
"""

import codecs
import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Literal, Self

import numpy as np

from models.errors import Conflict, InvalidInput, NotFound, TooLarge, Unavailable
from models.text.log_detection import LineSample, TextKind, detect_log
from models.text.vocabulary import Alphabet, Normalizer, code_points
from store.blobs import Blobs, translated
from store.corpus_owners import CorpusOwners
from store.ids import check_name, is_id

Encoding = Literal["utf-8", "bytes"]

_UNICODE_POINTS = 0x110000
_SAMPLE_CHARACTERS = 300
_MOST_HELD_CHARACTERS = 1 << 20  # of marks in a row, which normalization must see together


@dataclass(frozen=True)
class Corpus:
    """One uploaded text's record. Lengths are in characters after NFC but for `bytes`."""

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
    kind: TextKind | None = None  # None: a record from before kinds were recognized, or bytes
    suggested_masks: list[str] = field(default_factory=list)
    log_sample: dict[str, Any] | None = None  # of a log: the rest of its LogDetection


class Corpora:
    """The corpora in one storage."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self.owners = CorpusOwners(blobs)

    def add(self, upload: "Upload", *, name: str | None = None) -> tuple[Corpus, bool]:
        """Keep a finished upload; return its record and whether it is new here.

        The same bytes are the same corpus; a further name for it is one more way to call it. One whose record
        or text is damaged or lost in storage becomes whole again by this.

        Raises:
            InvalidInput: the text is empty, or the name is not one.
            Conflict: another corpus has the name (code `name_taken`).
            StorageFull: nothing of the text is kept.
        """
        if name is not None:
            check_name(name)
        corpus = replace(upload.finish(), name=name)
        if name is not None:
            self._check_name_is_free(name, corpus.id)
        known = None
        with contextlib.suppress(Unavailable):
            known = self._read(corpus.id)
        if known is None or not self._is_whole(known):
            self._blobs.write(f"corpora/{corpus.id}/text", upload.path)
            self._blobs.write(f"corpora/{corpus.id}/corpus.json", json.dumps(asdict(corpus)).encode())
        if name is not None:
            self._give_name(name, corpus.id)
        return (corpus, True) if known is None else (known, False)

    def get(self, reference: str) -> Corpus:
        """Return the corpus with this id or name.

        Raises:
            NotFound: there is none (code `corpus_not_found`).
            Unavailable: its record is damaged (code `corpus_damaged`).
        """
        corpus = self._read(self._resolve(reference))
        if corpus is None:
            raise no_such_corpus(reference)
        return corpus

    def id_of(self, reference: str) -> str:
        """Return the id of a corpus, be its record damaged or not. Raises NotFound."""
        corpus_id = self._resolve(reference)
        if not self._blobs.exists(f"corpora/{corpus_id}/corpus.json"):
            raise no_such_corpus(reference)
        return corpus_id

    def all(self) -> list[Corpus]:
        """Return all corpora, newest first; damaged ones are left out."""
        found = []
        for corpus_id in self._blobs.folders("corpora"):
            # One damaged record must not hide the rest; `get` says what is wrong with it.
            with contextlib.suppress(Unavailable):
                found.append(self._read(corpus_id))
        return sorted((c for c in found if c), key=lambda c: (c.created_at, c.id), reverse=True)

    def stream(self, reference: str) -> Iterator[bytes]:
        """Yield the text's bytes in chunks.

        Raises at once:
            NotFound: there is no such corpus.
            Unavailable: its record is damaged, or its text is lost (code `corpus_damaged`).
        """
        corpus_id = self.get(reference).id
        try:
            return self._blobs.stream(f"corpora/{corpus_id}/text")
        except FileNotFoundError:
            raise _damaged(f"the text of {corpus_id} is lost") from None

    def pieces(self, reference: str, alphabet: Alphabet = "characters") -> Iterator[str]:
        """Yield the text's characters in pieces of about a mebibyte: after NFC, or one for each byte.

        Raises:
            NotFound: at once.
            Unavailable: on the way, when what is stored is no longer UTF-8 (code `corpus_damaged`).
        """
        corpus = self.get(reference)
        chunks = self.stream(corpus.id)
        if alphabet == "bytes" or corpus.encoding == "bytes":
            return (chunk.decode("latin-1") for chunk in chunks)
        return _normalized(chunks, where=corpus.id)

    def text(self, reference: str, alphabet: Alphabet = "characters") -> str:
        """Return all of `pieces` as one. Raises as `pieces` does."""
        return "".join(self.pieces(reference, alphabet))

    def delete(self, reference: str) -> str:
        """Delete a corpus, its names and owners; return its id. The caller checks that no job needs it."""
        corpus_id = self.id_of(reference)
        names = [f"corpus_names/{name}" for name, target in self.names().items() if target == corpus_id]
        # In this order: whenever it is cut short, no name belongs to nothing and no record lacks its text.
        self._blobs.delete(*names)
        self._blobs.delete(f"corpora/{corpus_id}/corpus.json")
        self._blobs.delete(f"corpora/{corpus_id}/text")
        self.owners.forget(corpus_id)
        return corpus_id

    def names(self, is_wanted: Callable[[str], bool] = lambda _: True) -> dict[str, str]:
        """Return the names that are wanted, each with the id of its corpus."""
        names = (path.rpartition("/")[2] for path in self._blobs.paths("corpus_names"))
        targets = {name: self._name_target(f"corpus_names/{name}") for name in names if is_wanted(name)}
        return {name: target for name, target in targets.items() if target is not None}

    def remove_names(self, corpus_id: str, names: Collection[str]) -> None:
        """Take these names from a corpus, which stays."""
        self._blobs.delete(*(f"corpus_names/{name}" for name in names))
        with contextlib.suppress(Unavailable):  # a damaged record shows no name
            corpus = self._read(corpus_id)
            if corpus and corpus.name in names:
                record = json.dumps(asdict(replace(corpus, name=None))).encode()
                self._blobs.write(f"corpora/{corpus_id}/corpus.json", record)

    def _resolve(self, reference: str) -> str:
        if is_id("corpus", reference):
            return reference
        try:
            target = self._name_target(f"corpus_names/{check_name(reference)}")
        except InvalidInput:
            target = None
        if target is None:
            raise no_such_corpus(reference)
        return target

    def _read(self, corpus_id: str) -> Corpus | None:
        path = f"corpora/{corpus_id}/corpus.json"
        try:
            return Corpus(**json.loads(self._blobs.read(path)))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):
            raise _damaged(f"{path} is damaged") from None

    def _is_whole(self, corpus: Corpus) -> bool:
        digest = hashlib.sha256()
        with contextlib.suppress(FileNotFoundError):
            for chunk in self._blobs.stream(f"corpora/{corpus.id}/text"):
                digest.update(chunk)
        return digest.hexdigest() == corpus.sha256

    def _name_target(self, path: str) -> str | None:
        """Return the id in the record of a name; None if there is no record, or an empty or damaged one."""
        try:
            target = self._blobs.read(path).decode("utf-8", "replace")
        except FileNotFoundError:
            return None
        return target if is_id("corpus", target) else None

    def _give_name(self, name: str, corpus_id: str) -> None:
        path = f"corpus_names/{name}"
        if not self._blobs.create(path, corpus_id.encode()):
            self._check_name_is_free(name, corpus_id)
            if self._name_target(path) != corpus_id:  # it names no corpus; of two that replace it one wins
                self._blobs.write(path, corpus_id.encode())

    def _check_name_is_free(self, name: str, corpus_id: str) -> None:
        target = self._name_target(f"corpus_names/{name}")
        if target not in (None, corpus_id) and self._blobs.exists(f"corpora/{target}/corpus.json"):
            raise Conflict(
                f"the name {name!r} belongs to {target}; choose another name or delete that corpus",
                code="name_taken",
                param="name",
            )


class Upload:
    """A text on its way in: spooled to a local file while it is hashed, decoded and counted.

    Use as a context manager; whatever happens, the spool file is gone at the end.

    Args:
        folder: where the spool file is made, on a disk with room for `limit_bytes`.
        limit_bytes: the largest text accepted.
        encoding: what the bytes are: a text in UTF-8, or bytes that are not to be decoded.
    """

    def __init__(self, folder: Path, *, limit_bytes: int, encoding: Encoding = "utf-8") -> None:
        self.encoding = encoding
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._sha256 = hashlib.sha256()
        self._statistics = _Statistics(encoding)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor, name = tempfile.mkstemp(prefix="upload-", dir=folder)
        except OSError as error:
            raise translated(error) from error
        self.path = Path(name)
        self._file: IO[bytes] = os.fdopen(descriptor, "wb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # a last flush to a full disk; the file goes anyway
            self._file.close()
        self.path.unlink(missing_ok=True)

    def feed(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            TooLarge: more than the limit in all (code `corpus_too_large`).
            InvalidInput: not UTF-8; the message names the offset of the first bad byte. Or no text: a
                million marks in a row that belong to one letter (code `corpus_not_text`).
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
        try:
            self._file.write(data)
        except OSError as error:
            raise translated(error) from error

    def finish(self) -> Corpus:
        """Return the record of what was fed. Raises InvalidInput if that is empty or breaks off."""
        self._statistics.feed(b"", final=True)
        if not self._statistics.characters:
            raise InvalidInput(
                "the text is empty; send it as the body of the request", code="corpus_empty", param="body"
            )
        try:
            self._file.flush()
        except OSError as error:
            raise translated(error) from error
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
            **self._statistics.summary(),
        )


class _Statistics:
    """Counts characters of bytes that come in pieces."""

    def __init__(self, encoding: Encoding) -> None:
        self._is_bytes = encoding == "bytes"
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._decoded_bytes = 0
        self._normalizer = Normalizer()
        self._counts = np.zeros(_UNICODE_POINTS, np.int64)
        self._line = 0
        self._lines = LineSample()
        self.characters = 0
        self.longest_line = 0
        self.sample = ""

    def feed(self, data: bytes, *, final: bool = False) -> None:
        if self._is_bytes:
            self._count(data.decode("latin-1"))
            return
        self._count(self._normalizer.feed(self._decoded(data, final=final)))
        if self._normalizer.held > _MOST_HELD_CHARACTERS:
            raise InvalidInput(
                f"around byte {self._decoded_bytes:,} more than {_MOST_HELD_CHARACTERS:,} characters in a row"
                " are marks that belong to one letter; if this is no text, upload it with encoding=bytes",
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
            raise InvalidInput(
                f"the text is not UTF-8: byte {error.object[error.start]:#04x} at offset {offset}"
                f" ({error.reason}); convert it first, for example with iconv -t utf-8, or upload it with"
                " encoding=bytes",
                code="corpus_not_utf8",
                param="body",
            ) from None
        self._decoded_bytes += len(data)
        return text

    def _count(self, text: str) -> None:
        if not text:
            return
        self.characters += len(text)
        counts = np.bincount(code_points(text))
        self._counts[: counts.size] += counts
        if len(self.sample) < _SAMPLE_CHARACTERS:
            self.sample = (self.sample + text)[:_SAMPLE_CHARACTERS]
        if not self._is_bytes:
            self._lines.feed(text)
        first, *rest = text.split("\n")
        self.longest_line = max(self.longest_line, self._line + len(first), *map(len, rest))
        self._line = len(rest[-1]) if rest else self._line + len(first)

    def summary(self) -> dict[str, Any]:
        newlines = int(self._counts[ord("\n")])
        sample = self.sample
        if self._is_bytes:  # made to be read; the half of a character at its end is left out
            sample = sample.encode("latin-1").decode("utf-8", "replace").removesuffix("\ufffd")
        return {
            "characters": self.characters,
            "distinct_characters": int(np.count_nonzero(self._counts)),
            "lines": newlines + (self._line > 0),
            "longest_line": self.longest_line,
            "sample": sample,
            "warnings": self._warnings(),
            **self._recognized(),
        }

    def _recognized(self) -> dict[str, Any]:
        if self._is_bytes:
            return {}
        found = detect_log(self._lines.lines())
        if found.kind != "log":
            return {"kind": found.kind}
        about = asdict(found)
        return {"kind": about.pop("kind"), "suggested_masks": list(found.masks), "log_sample": about}

    def _warnings(self) -> list[str]:
        counts = self._counts
        found = []
        if self._is_bytes:
            return (
                ["the bytes are all the same; there is nothing to learn"]
                if np.count_nonzero(counts) == 1
                else []
            )
        if np.count_nonzero(counts) == 1:
            found.append("the text repeats one character; there is nothing to learn")
        if self.sample.startswith("\ufeff"):
            found.append("the text starts with a byte order mark, which counts as a character")
        if carriage_returns := int(counts[ord("\r")]):
            found.append(f"{carriage_returns:,} carriage returns; lines end in CR LF or CR")
        if counts[0]:
            found.append(f"{counts[0]:,} NUL characters; is this a text?")
        if counts[0xFFFD]:
            found.append(f"{counts[0xFFFD]:,} replacement characters (U+FFFD): a conversion lost text")
        rare = int(np.count_nonzero((counts > 0) & (counts < 5)))
        if rare > 20:
            found.append(f"{rare:,} characters occur fewer than five times and will be learned badly")
        return found


def _normalized(chunks: Iterator[bytes], *, where: str) -> Iterator[str]:
    decoder, normalizer = codecs.getincrementaldecoder("utf-8")(), Normalizer()
    try:
        for chunk in chunks:
            yield normalizer.feed(decoder.decode(chunk))
        yield normalizer.feed(decoder.decode(b"", final=True)) + normalizer.finish()
    except UnicodeDecodeError as error:
        raise _damaged(f"the text of {where} is damaged: it is not UTF-8 any more ({error.reason})") from None


def _damaged(what: str) -> Unavailable:
    return Unavailable(f"{what}; upload it again, or delete it", code="corpus_damaged", param="corpus")


def no_such_corpus(reference: str) -> NotFound:
    """Return the error for a corpus that is not there."""
    return NotFound(f"there is no corpus {reference!r}", code="corpus_not_found", param="corpus")
