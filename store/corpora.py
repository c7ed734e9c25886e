"""Corpora: uploaded texts, immutable, identified by the SHA-256 of their bytes.

    corpora/<id>/corpus.json   the record; written last, so the text is complete if it exists
    corpora/<id>/text          the bytes as uploaded (decompressed)
    corpus_names/…             the names and their versions: see `store.corpus_names`
    corpus_owners/<id>/…       who uploaded it: see `store.corpus_owners`
    corpus_kinds/<id>/key-<…>  the kind that a key limited to models has chosen for it

Characters are counted after NFC; the stored text is not changed. Data that is not UTF-8 can be uploaded with
the encoding `bytes`: each byte is then a character, and the same bytes as a text are another corpus. Memory
is bounded for texts of any length.
"""

import codecs
import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Self, get_args

from models.errors import InvalidInput, NotFound, TooLarge, Unavailable
from models.text.kind_detection import TextKind
from models.text.vocabulary import Alphabet, Normalizer, last_normalization_boundary, normalize
from store.blobs import Blobs, domain_errors
from store.corpus_names import CorpusNames, reference_of
from store.corpus_owners import CorpusOwners
from store.corpus_statistics import CorpusStatistics, Encoding
from store.ids import check_name, is_id


@dataclass(frozen=True)
class Corpus:
    """The record of a corpus. Lengths are in characters after NFC, except `bytes`."""

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


_DAY_S = 86400.0
_STREAM_BYTES = 1 << 20
_MAX_LINE_BYTES = 1 << 24  # in a chunk of whole lines

CHOSEN = "it was chosen, not detected"
"""The reason of a kind that a request has set."""


class Corpora:
    """The corpora in one storage."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._names = CorpusNames(blobs)
        self.owners = CorpusOwners(blobs)

    def add(
        self, upload: "Upload", *, name: str | None = None, check: Callable[[Corpus], None] = lambda _: None
    ) -> tuple[Corpus, bool]:
        """Save a complete upload; return its record and whether the corpus is new.

        `check` gets the record before anything is saved, and may raise an exception.

        The same bytes are the same corpus, which can have several names. Another text under a name is its
        next version. If its record or text in storage is damaged or lost, it is replaced.

        Raises:
            InvalidInput: the text is empty, or `name` is not a valid name.
            StorageFull: nothing was saved.
        """
        if name is not None:
            check_name(name)
        corpus = upload.finish()
        if name is not None:
            corpus = replace(corpus, name=name, version=self._names.next_version(name, corpus.id))
        check(corpus)
        existing = None
        with contextlib.suppress(Unavailable):
            existing = self._read(corpus.id)
        if existing is None or not self._is_intact(existing):
            self._blobs.write(f"corpora/{corpus.id}/text", upload.path)
            self._blobs.write(f"corpora/{corpus.id}/corpus.json", _dump(corpus))
        elif time.time() - self.uploaded_at(existing) > _DAY_S:
            existing = replace(existing, uploaded_again_at=int(time.time()))
            self._rewrite(existing)
        if name is not None:
            version = self._names.give(name, corpus.id)
            if existing is None and version != corpus.version:  # another upload got that one
                corpus = replace(corpus, version=version)
                self._rewrite(corpus)
        return (corpus, True) if existing is None else (existing, False)

    def uploaded_at(self, corpus: Corpus) -> int:
        """Return when a corpus was last uploaded, at most a day too early; Unix seconds."""
        return max(corpus.created_at, corpus.uploaded_again_at or 0)

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
        """Return the id of a corpus, even if its record is damaged. Raises NotFound."""
        corpus_id = self._resolve(reference)
        if not self._blobs.exists(f"corpora/{corpus_id}/corpus.json"):
            raise no_such_corpus(reference)
        return corpus_id

    def all(self) -> list[Corpus]:
        """Return all corpora, newest first, except damaged ones."""
        corpora = []
        for corpus_id in self._blobs.folders("corpora"):
            # One damaged record must not hide the others; `get` raises its error.
            with contextlib.suppress(Unavailable):
                corpora.append(self._read(corpus_id))
        return sorted((c for c in corpora if c), key=lambda c: (c.created_at, c.id), reverse=True)

    def stream(self, reference: str) -> Iterator[bytes]:
        """Yield the text's bytes in chunks.

        The last chunk of a damaged text is never yielded, so it cannot be taken for the whole text.

        Raises:
            NotFound: there is no such corpus.
            Unavailable: at once, if its record is damaged or its text is lost; before the last chunk, if its
                text is not the one that was uploaded (code `corpus_damaged`).
        """
        corpus = self.get(reference)
        return _verified(self._blobs_stream(corpus.id, _STREAM_BYTES), corpus)

    def pieces(self, reference: str, alphabet: Alphabet = "characters") -> Iterator[str]:
        """Yield the text's characters in pieces of about a mebibyte: after NFC, or one for each byte.

        Raises:
            NotFound: at once.
            Unavailable: as `stream`.
        """
        corpus = self.get(reference)
        chunks = self.stream(corpus.id)
        if alphabet == "bytes" or corpus.encoding == "bytes":
            return (chunk.decode("latin-1") for chunk in chunks)
        return _normalized(chunks, where=corpus.id)

    def chunks(
        self, reference: str, alphabet: Alphabet, *, chunk_bytes: int, of_whole_lines: bool = False
    ) -> Iterator[tuple[int, str]]:
        """Yield the text's characters, as `pieces` does, in chunks that `chunk` can read alone.

        Args:
            reference: an id or a name.
            alphabet: what a character is.
            chunk_bytes: the approximate size of a chunk.
            of_whole_lines: chunks end after a newline, except in lines of more than 16 MiB.

        Yields:
            The offset of a chunk's first byte in the stored text, and its characters.

        Raises as `pieces`.
        """
        corpus = self.get(reference)
        blocks = _cut(_verified(self._blobs_stream(corpus.id, chunk_bytes), corpus), chunk_bytes)
        is_bytes = alphabet == "bytes" or corpus.encoding == "bytes"
        return _chunks(blocks, is_bytes=is_bytes, of_whole_lines=of_whole_lines, where=corpus.id)

    def chunk(self, corpus_id: str, alphabet: Alphabet, start: int, end: int | None) -> str:
        """Return the characters of one of the `chunks`.

        `start` and `end` are the offsets of this chunk and of the next; None: it is the last one.

        Raises NotFound, and Unavailable as `pieces` does.
        """
        corpus = self.get(corpus_id)
        try:
            data = self._blobs.read_range(
                f"corpora/{corpus_id}/text", start, corpus.bytes if end is None else end
            )
        except FileNotFoundError:
            raise _damaged(f"the text of {corpus_id} is lost") from None
        return _decoded(data, is_bytes=alphabet == "bytes" or corpus.encoding == "bytes", where=corpus_id)

    def set_kind(self, corpus_id: str, kind: TextKind, *, key_name: str | None = None) -> None:
        """Set the kind of a corpus; with `key_name` only as that API key sees it. Raises NotFound."""
        if key_name is not None:
            self._blobs.write(_kind_path(corpus_id, key_name), kind.encode())
            return
        self._rewrite(replace(self.get(corpus_id), kind=kind, kind_reason=CHOSEN))

    def kind_for(self, corpus_id: str, key_name: str) -> TextKind | None:
        """Return the kind that an API key has set for a corpus; None if it has set none."""
        try:
            kind = self._blobs.read(_kind_path(corpus_id, key_name)).decode("utf-8", "replace")
        except FileNotFoundError:
            return None
        return next((known for known in get_args(TextKind) if known == kind), None)

    def remove_kind(self, corpus_id: str, key_name: str) -> None:
        """Forget the kind that an API key has set."""
        self._blobs.delete(_kind_path(corpus_id, key_name))

    def delete(self, reference: str) -> str:
        """Delete a corpus, its names and owners; return its id. The caller checks that no job uses it."""
        corpus_id = self.id_of(reference)
        # In this order, so that no name is ever without a corpus and no record without its text.
        self._names.remove([name for name, target in self.names().items() if target == corpus_id])
        self._blobs.delete(f"corpora/{corpus_id}/corpus.json")
        self._blobs.delete(f"corpora/{corpus_id}/text")
        self._blobs.delete(*self._blobs.paths(f"corpus_kinds/{corpus_id}"))
        self.owners.remove_all(corpus_id)
        return corpus_id

    def names(self, is_included: Callable[[str], bool] = lambda _: True) -> dict[str, str]:
        """Return names with the ids of their corpora: all, or those for which `is_included` is true.

        The first version has its bare name, the others `name@version`.
        """
        return self._names.all(is_included)

    def remove_names(self, corpus_id: str, names: Collection[str]) -> None:
        """Remove names, as `names` returns them, from a corpus."""
        self._names.remove(names)
        with contextlib.suppress(Unavailable):  # a damaged record has no name
            corpus = self._read(corpus_id)
            if corpus and corpus.reference in names:
                record = _dump(replace(corpus, name=None, version=None))
                self._blobs.write(f"corpora/{corpus_id}/corpus.json", record)

    def _blobs_stream(self, corpus_id: str, chunk_bytes: int) -> Iterator[bytes]:
        try:
            return self._blobs.stream(f"corpora/{corpus_id}/text", chunk_bytes)
        except FileNotFoundError:
            raise _damaged(f"the text of {corpus_id} is lost") from None

    def _resolve(self, reference: str) -> str:
        if is_id("corpus", reference):
            return reference
        target = self._names.resolve(reference)
        if target is None:
            raise no_such_corpus(reference)
        return target

    def _read(self, corpus_id: str) -> Corpus | None:
        path = f"corpora/{corpus_id}/corpus.json"
        try:
            corpus = Corpus(**json.loads(self._blobs.read(path)))
            is_older = corpus.name is not None and corpus.version is None  # than versions
            return replace(corpus, version=1) if is_older else corpus
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):
            raise _damaged(f"{path} is damaged") from None

    def _rewrite(self, corpus: Corpus) -> None:
        """Replace the record of a corpus. Raises NotFound: it was deleted concurrently."""
        self._blobs.write(f"corpora/{corpus.id}/corpus.json", _dump(corpus))
        if not self._blobs.exists(f"corpora/{corpus.id}/text"):
            self._blobs.delete(f"corpora/{corpus.id}/corpus.json")
            raise no_such_corpus(corpus.id)

    def _is_intact(self, corpus: Corpus) -> bool:
        digest = hashlib.sha256()
        with contextlib.suppress(FileNotFoundError):
            for chunk in self._blobs.stream(f"corpora/{corpus.id}/text"):
                digest.update(chunk)
        return digest.hexdigest() == corpus.sha256


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
                "the text is empty; send it as the body of the request", code="corpus_empty", param="body"
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


def _dump(corpus: Corpus) -> bytes:
    """Return the record of a corpus. What earlier releases do not know is left out where it says nothing."""
    defaults = {
        "files": None,
        "version": corpus.name and 1,
        "repeated_lines": None,
        "uploaded_again_at": None,
    }
    record = asdict(corpus)
    return json.dumps({k: v for k, v in record.items() if k not in defaults or v != defaults[k]}).encode()


def _normalized(chunks: Iterator[bytes], *, where: str) -> Iterator[str]:
    decoder, normalizer = codecs.getincrementaldecoder("utf-8")(), Normalizer()
    try:
        for chunk in chunks:
            yield normalizer.feed(decoder.decode(chunk))
        yield normalizer.feed(decoder.decode(b"", final=True)) + normalizer.finish()
    except UnicodeDecodeError as error:
        raise _not_utf8(where, error) from None


def _cut(blocks: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Yield blocks of at most `size` bytes: some storages give larger ones than they are asked for."""
    for block in blocks:
        for at in range(0, len(block), size):
            yield block[at : at + size]


def _chunks(
    blocks: Iterable[bytes], *, is_bytes: bool, of_whole_lines: bool, where: str
) -> Iterator[tuple[int, str]]:
    """Yield offset and characters of parts of a text that can be normalized independently."""
    held, start = b"", 0
    for block in blocks:
        held += block
        # After a newline nothing composes with what is before, though a line may begin with a mark.
        end = held.rfind(b"\n") + 1
        if not end and (not of_whole_lines or len(held) > _MAX_LINE_BYTES):
            end = len(held) if is_bytes else _boundary_bytes(held, where)
        if end:
            yield start, _decoded(held[:end], is_bytes=is_bytes, where=where)
            held, start = held[end:], start + end
    if held:
        yield start, _decoded(held, is_bytes=is_bytes, where=where)


def _boundary_bytes(data: bytes, where: str) -> int:
    """Return the last offset at which UTF-8 can be cut, and both sides normalized independently; 0: none."""
    try:
        text, consumed = codecs.utf_8_decode(data, "strict", False)  # noqa: FBT003 -- not final
    except UnicodeDecodeError as error:
        raise _not_utf8(where, error) from None
    boundary = last_normalization_boundary(text)
    return consumed - len(text[boundary:].encode()) if boundary else 0


def _decoded(data: bytes, *, is_bytes: bool, where: str) -> str:
    if is_bytes:
        return data.decode("latin-1")
    try:
        return normalize(data.decode())
    except UnicodeDecodeError as error:
        raise _not_utf8(where, error) from None


def _not_utf8(where: str, error: UnicodeDecodeError) -> Unavailable:
    return _damaged(f"the text of {where} is damaged: it is not UTF-8 ({error.reason})")


def _verified(chunks: Iterator[bytes], corpus: Corpus) -> Iterator[bytes]:
    """Yield each chunk once the next one is read, and the last one once the hash of all is the corpus's."""
    digest, last = hashlib.sha256(), b""
    for chunk in chunks:
        digest.update(chunk)
        if last:
            yield last
        last = chunk
    if digest.hexdigest() != corpus.sha256:
        raise _damaged(f"the text of {corpus.id} is damaged: its SHA-256 differs from that of the upload")
    yield last


def _kind_path(corpus_id: str, key_name: str) -> str:
    return f"corpus_kinds/{corpus_id}/key-{key_name}"


def _damaged(problem: str) -> Unavailable:
    return Unavailable(f"{problem}; upload it again, or delete it", code="corpus_damaged", param="corpus")


def no_such_corpus(reference: str) -> NotFound:
    """Return the error for a corpus that does not exist."""
    return NotFound(f"there is no corpus {reference!r}", code="corpus_not_found", param="corpus")
