"""Uploads corpora, for tests."""

from pathlib import Path

from nextchar.store.corpora import Corpora
from nextchar.store.corpus import Corpus, Encoding, Upload


def add(
    corpora: Corpora,
    folder: Path,
    *pieces: bytes,
    name: str | None = None,
    limit: int = 10**6,
    encoding: Encoding = "utf-8",
) -> tuple[Corpus, bool]:
    """Upload a text in pieces; return what `Corpora.add` returns."""
    with Upload(folder, limit_bytes=limit, encoding=encoding) as upload:
        for piece in pieces:
            upload.feed(piece)
        return corpora.add(upload, name=name)
