"""Corpora: uploaded texts, immutable, identified by the SHA-256 of their bytes.

    corpora/<id>/corpus.json   the record; written last, so the text is complete if it exists
    corpora/<id>/text          the bytes as uploaded (decompressed)
    corpus_names/…             the names and their versions: see `nextchar.store.corpus_names`
    corpus_owners/<id>/…       who uploaded it: see `nextchar.store.corpus_names`
    corpus_kinds/<id>/key-<…>  the kind that a key limited to models has chosen for it

Characters are counted after NFC; the stored text is not changed. Data that is not UTF-8 can be uploaded with
the encoding `bytes`: each byte is then a character, and the same bytes as a text are another corpus. Memory
is bounded for texts of any length.

The characters of stored bytes: verified, decoded, normalized, and in chunks that can be read alone.

Functions that decode raise Unavailable (code `corpus_damaged`) if the bytes are not UTF-8.
"""

import codecs
import contextlib
import hashlib
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import get_args

from nextchar.models.errors import DomainError, NotFound, StorageFull, Unavailable
from nextchar.models.text.kind_detection import TextKind
from nextchar.models.text.vocabulary import Alphabet, Normalizer, last_normalization_boundary, normalize
from nextchar.models.validation_errors import UPGRADE, is_of_newer_version
from nextchar.store.blobs import Blobs
from nextchar.store.corpus import Corpus, Upload, dump_corpus, load_corpus
from nextchar.store.corpus_names import CorpusNames, CorpusOwners
from nextchar.store.ids import check_name, is_id

_MAX_LINE_BYTES = 1 << 24  # in a chunk of whole lines


def verified(chunks: Iterator[bytes], corpus: Corpus) -> Iterator[bytes]:
    """Yield each chunk once the next one is read, and the last one once the hash of all is the corpus's."""
    digest, last = hashlib.sha256(), b""
    for chunk in chunks:
        digest.update(chunk)
        if last:
            yield last
        last = chunk
    if digest.hexdigest() != corpus.sha256:
        raise damaged(f"the text of {corpus.id} is damaged: its SHA-256 differs from that of the upload")
    yield last


def normalized(chunks: Iterator[bytes], *, where: str) -> Iterator[str]:
    """Yield the characters of UTF-8 after NFC; `where` names the text in errors."""
    decoder, normalizer = codecs.getincrementaldecoder("utf-8")(), Normalizer()
    try:
        for chunk in chunks:
            yield normalizer.feed(decoder.decode(chunk))
        yield normalizer.feed(decoder.decode(b"", final=True)) + normalizer.finish()
    except UnicodeDecodeError as error:
        raise _not_utf8(where, error) from None


def cut(blocks: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Yield blocks of at most `size` bytes: some storages give larger ones than they are asked for."""
    for block in blocks:
        for at in range(0, len(block), size):
            yield block[at : at + size]


def chunks_of(
    blocks: Iterable[bytes], *, is_bytes: bool, of_whole_lines: bool, where: str
) -> Iterator[tuple[int, str]]:
    """Yield offset and characters of parts of a text that can be normalized independently."""
    rest, start = b"", 0
    for block in blocks:
        rest += block
        # After a newline nothing composes with what is before, though a line may begin with a mark.
        end = rest.rfind(b"\n") + 1
        if not end and (not of_whole_lines or len(rest) > _MAX_LINE_BYTES):
            end = len(rest) if is_bytes else _boundary_bytes(rest, where)
        if end:
            yield start, decoded(rest[:end], is_bytes=is_bytes, where=where)
            rest, start = rest[end:], start + end
    if rest:
        yield start, decoded(rest, is_bytes=is_bytes, where=where)


def _boundary_bytes(data: bytes, where: str) -> int:
    """Return the last offset at which UTF-8 can be cut, and both sides normalized independently; 0: none."""
    try:
        text, consumed = codecs.utf_8_decode(data, "strict", False)  # noqa: FBT003 -- not final
    except UnicodeDecodeError as error:
        raise _not_utf8(where, error) from None
    boundary = last_normalization_boundary(text)
    return consumed - len(text[boundary:].encode()) if boundary else 0


def decoded(data: bytes, *, is_bytes: bool, where: str) -> str:
    """Return the characters of bytes: one for each, or after NFC."""
    if is_bytes:
        return data.decode("latin-1")
    try:
        return normalize(data.decode())
    except UnicodeDecodeError as error:
        raise _not_utf8(where, error) from None


def _not_utf8(where: str, error: UnicodeDecodeError) -> Unavailable:
    return damaged(f"the text of {where} is damaged: it is not UTF-8 ({error.reason})")


def damaged(problem: str) -> Unavailable:
    """Return the error for a corpus that is damaged in storage."""
    return Unavailable(f"{problem}; upload it again, or delete it", code="corpus_damaged", param="corpus")


_DAY_S = 86400.0
_STREAM_BYTES = 1 << 20
CHOSEN = "it was chosen, not detected"
"""The reason of a kind that a request has set."""


class Corpora:
    """The corpora in one storage."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._names = CorpusNames(blobs)
        self.owners = CorpusOwners(blobs)

    def add(
        self, upload: Upload, *, name: str | None = None, check: Callable[[Corpus], None] = lambda _: None
    ) -> tuple[Corpus, bool]:
        """Save a complete upload; return its record and whether the corpus is new.

        `check` gets the record before anything is saved, and may raise an exception.

        The same bytes are the same corpus, which can have several names; the returned record has the one that
        was given. Another text under a name is its next version. If its record or text in storage is damaged
        or lost, it is replaced.

        Raises:
            InvalidInput: the text is empty, or `name` is not a valid name.
            Unavailable: a newer version of nextchar has written its record (code `corpus_format_unknown`).
            StorageFull: nothing was saved, or the corpus without the name.
            NotFound: it was deleted concurrently.
        """
        if name is not None:
            check_name(name)
        corpus = upload.finish()
        if name is not None:
            corpus = replace(corpus, name=name, version=self._names.next_version(name, corpus.id))
        check(corpus)
        existing = None
        try:
            existing = self._read(corpus.id)
        except Unavailable as error:
            if error.code != "corpus_damaged":
                raise
        if existing is None or not self._is_intact(existing):
            self._save(corpus, upload.path)
        elif time.time() - self.uploaded_at(existing) > _DAY_S:
            existing = replace(existing, uploaded_again_at=int(time.time()))
            self._rewrite(existing)
        if name is not None:
            version = self._names.assign(name, corpus.id)
            if existing is None and version != corpus.version:  # another upload got that one
                corpus = replace(corpus, version=version)
                self._rewrite(corpus)
            if existing is not None:
                existing = replace(existing, name=name, version=version)
        return (corpus, True) if existing is None else (existing, False)

    def uploaded_at(self, corpus: Corpus) -> int:
        """Return when a corpus was last uploaded, at most a day too early; Unix seconds."""
        return max(corpus.created_at, corpus.uploaded_again_at or 0)

    def get(self, reference: str) -> Corpus:
        """Return the corpus with this id or name; by id with its first name, by a name with that name.

        Raises:
            NotFound: there is none (code `corpus_not_found`).
            Unavailable: its record is damaged (code `corpus_damaged`), or a newer version of nextchar has
                written it (`corpus_format_unknown`).
        """
        corpus = self._read(self._resolve(reference))
        if corpus is None:
            raise no_such_corpus(reference)
        return self.named(corpus, reference)

    def named(self, corpus: Corpus, reference: str) -> Corpus:
        """Return the record of a corpus with the name by which it was found; by its id, as it is."""
        if is_id("corpus", reference):
            return corpus
        name, at, number = reference.partition("@")
        version = int(number) if at else self._names.next_version(name, corpus.id)
        return replace(corpus, name=name, version=version)

    def id_of(self, reference: str) -> str:
        """Return the id of a corpus, even if its record is damaged or only its text is left.

        Raises NotFound.
        """
        corpus_id = self._resolve(reference)
        if not any(self._blobs.exists(f"corpora/{corpus_id}/{file}") for file in ("corpus.json", "text")):
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
        return verified(self._blobs_stream(corpus.id, _STREAM_BYTES), corpus)

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
        return normalized(chunks, where=corpus.id)

    def chunks(
        self, reference: str, alphabet: Alphabet, *, chunk_bytes: int, of_whole_lines: bool = False
    ) -> Iterator[tuple[int, str]]:
        """Yield the text's characters, as `pieces` does, in chunks that `chunk` can read alone.

        Each comes with the offset of its first byte in the stored text. Chunks `of_whole_lines` end after a
        newline, except in lines of more than 16 MiB. Raises as `pieces`.
        """
        corpus = self.get(reference)
        blocks = cut(verified(self._blobs_stream(corpus.id, chunk_bytes), corpus), chunk_bytes)
        is_bytes = alphabet == "bytes" or corpus.encoding == "bytes"
        return chunks_of(blocks, is_bytes=is_bytes, of_whole_lines=of_whole_lines, where=corpus.id)

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
            raise damaged(f"the text of {corpus_id} is lost") from None
        return decoded(data, is_bytes=alphabet == "bytes" or corpus.encoding == "bytes", where=corpus_id)

    def set_kind(self, corpus_id: str, kind: TextKind, *, key_name: str | None = None) -> None:
        """Set the kind of a corpus; with `key_name` only as that API key sees it. Raises NotFound."""
        if key_name is not None:
            self._blobs.write(_kind_path(corpus_id, key_name), kind.encode())
            return
        corpus = self.get(self.id_of(corpus_id))  # its record keeps its first name
        self._rewrite(replace(corpus, kind=kind, kind_reason=CHOSEN))

    def kind_for(self, corpus_id: str, key_name: str) -> TextKind | None:
        """Return the kind that an API key has set for a corpus; None if it has set none."""
        try:
            kind = self._blobs.read_record(_kind_path(corpus_id, key_name)).decode("utf-8", "replace")
        except FileNotFoundError:
            return None
        return next((known for known in get_args(TextKind) if known == kind), None)

    def remove_kind(self, corpus_id: str, key_name: str) -> None:
        """Forget the kind that an API key has set."""
        self._blobs.delete(_kind_path(corpus_id, key_name))

    def delete(self, reference: str) -> str:
        """Delete a corpus, its names and owners; return its id. The caller checks that no job uses it.

        By its id, an interrupted deletion can be repeated.
        """
        corpus_id = self.id_of(reference)
        self._delete(corpus_id, self.names())
        return corpus_id

    def delete_unless(self, corpus: Corpus, is_used: Callable[[str], bool], names: Mapping[str, str]) -> bool:
        """Delete a corpus unless `is_used` returns True for its id; return whether it was deleted.

        It is called while the record is away; the record is written again if it returns True or raises an
        exception. So a job that is created concurrently is found by `is_used`, or finds no corpus.
        `names` are those of all corpora, as `names` returns them.

        Raises NotFound: it was deleted concurrently.
        """
        self._blobs.delete(f"corpora/{corpus.id}/corpus.json")
        is_kept = True
        try:
            is_kept = is_used(corpus.id)
        finally:
            if is_kept:
                self._rewrite(corpus)
        return not is_kept and self.delete_incomplete(corpus.id, names)

    def incomplete(self) -> list[str]:
        """Return the ids of texts without a record: uploads and deletions in progress or interrupted."""
        paths = set(self._blobs.paths("corpora"))
        texts = [path.removesuffix("/text") for path in sorted(paths) if path.endswith("/text")]
        return [folder.rpartition("/")[2] for folder in texts if f"{folder}/corpus.json" not in paths]

    def delete_incomplete(self, corpus_id: str, names: Mapping[str, str]) -> bool:
        """Delete a text without a record; return False if it has a record now.

        `names` are those of all corpora, as `names` returns them.
        """
        if self._blobs.exists(f"corpora/{corpus_id}/corpus.json"):
            return False
        self._delete(corpus_id, names)
        return True

    def names(self, is_included: Callable[[str], bool] = lambda _: True) -> dict[str, str]:
        """Return names with the ids of their corpora: all, or those for which `is_included` is true.

        The first version has its bare name, the others `name@version`.
        """
        return self._names.all(is_included)

    def remove_names(self, corpus_id: str, names: Collection[str]) -> None:
        """Remove names, as `names` returns them, from a corpus."""
        self._names.remove(names)
        with contextlib.suppress(Unavailable, NotFound):  # a damaged or deleted record has no name
            corpus = self._read(corpus_id)
            if corpus and corpus.reference in names:
                self._rewrite(replace(corpus, name=None, version=None))

    def _save(self, corpus: Corpus, text: Path) -> None:
        try:
            self._save_once(corpus, text)
        except NotFound:  # it was deleted meanwhile
            self._save_once(corpus, text)

    def _save_once(self, corpus: Corpus, text: Path) -> None:
        """Write the text of a corpus, then its record. Raises NotFound: it was deleted concurrently."""
        self._blobs.write(f"corpora/{corpus.id}/text", text)
        try:
            self._rewrite(corpus)
        except StorageFull:
            with contextlib.suppress(DomainError):  # retention deletes what is left
                if not self._blobs.exists(f"corpora/{corpus.id}/corpus.json"):
                    self._blobs.delete(f"corpora/{corpus.id}/text")
            raise

    def _delete(self, corpus_id: str, names: Mapping[str, str]) -> None:
        record, text = f"corpora/{corpus_id}/corpus.json", f"corpora/{corpus_id}/text"
        own_names = [name for name, target in names.items() if target == corpus_id]
        # In this order, so that no name is ever without a corpus and no record without its text.
        self._names.remove([name for name in own_names if self._names.refers_to(name, corpus_id)])
        self._blobs.delete(record)
        self._blobs.delete(text)
        if self._blobs.exists(record) and not self._blobs.exists(text):  # it was written in between
            self._blobs.delete(record)
        self._blobs.delete(*self._blobs.paths(f"corpus_kinds/{corpus_id}"))
        self.owners.remove_all(corpus_id)

    def _blobs_stream(self, corpus_id: str, chunk_bytes: int) -> Iterator[bytes]:
        try:
            return self._blobs.stream(f"corpora/{corpus_id}/text", chunk_bytes)
        except FileNotFoundError:
            raise damaged(f"the text of {corpus_id} is lost") from None

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
            return load_corpus(self._blobs.read_record(path))
        except FileNotFoundError:
            return None
        except ValueError as error:
            if is_of_newer_version(error):
                raise Unavailable(f"{path} {UPGRADE}", code="corpus_format_unknown", param="corpus") from None
            raise damaged(f"{path} is damaged") from None

    def _rewrite(self, corpus: Corpus) -> None:
        """Replace the record of a corpus. Raises NotFound: it was deleted concurrently."""
        self._blobs.write(f"corpora/{corpus.id}/corpus.json", dump_corpus(corpus))
        if not self._blobs.exists(f"corpora/{corpus.id}/text"):
            self._blobs.delete(f"corpora/{corpus.id}/corpus.json")
            raise no_such_corpus(corpus.id)

    def _is_intact(self, corpus: Corpus) -> bool:
        digest = hashlib.sha256()
        with contextlib.suppress(FileNotFoundError):
            for chunk in self._blobs.stream(f"corpora/{corpus.id}/text"):
                digest.update(chunk)
        return digest.hexdigest() == corpus.sha256


def _kind_path(corpus_id: str, key_name: str) -> str:
    return f"corpus_kinds/{corpus_id}/key-{key_name}"


def no_such_corpus(reference: str) -> NotFound:
    """Return the error for a corpus that does not exist."""
    message = f"there is no corpus {reference!r}"
    return NotFound(message, code="corpus_not_found", param="corpus", name=reference)
