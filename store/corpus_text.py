"""The characters of stored bytes: verified, decoded, normalized, and in chunks that can be read alone.

Functions that decode raise Unavailable (code `corpus_damaged`) if the bytes are not UTF-8.
"""

import codecs
import hashlib
from collections.abc import Iterable, Iterator

from nextchar.models.errors import Unavailable
from nextchar.models.text.vocabulary import Normalizer, last_normalization_boundary, normalize
from nextchar.store.corpus import Corpus

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
