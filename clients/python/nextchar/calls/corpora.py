"""Corpora: upload, import, list, download and delete them."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, Unpack

from nextchar.connection import LONG_TIMEOUT_S, Connection, is_exact, omit_none, path_of
from nextchar.options import CorpusOptions
from nextchar.types import Corpus, TextKind
from nextchar.upload import Text, folder_archive, upload_body


class CorpusCalls(Connection):
    """Corpora: upload, import, list, download and delete them."""

    async def add_corpus(self, text: Text, **options: Unpack[CorpusOptions]) -> Corpus:
        """Upload a text and return its corpus. The same bytes are the same corpus.

        Args:
            text: a `str` or `bytes` is the text itself; a `Path` is read; a file or an iterable of pieces is
                streamed, so that it is never in memory whole. Of a folder's `Path`, all files become one
                text, except hidden ones: in order of their paths, those named `*.gz` decompressed.
            options: the fields of `CorpusOptions`.

        >>> client.add_corpus(Path("nietzsche.txt"), name="nietzsche")["characters"]  # doctest: +SKIP
        600893
        """
        if isinstance(text, Path) and text.is_dir():
            text, options["archive"] = folder_archive(text), "tar"
        is_text = options.get("encoding") is None and options.get("archive") is None
        media_type = "text/plain; charset=utf-8" if is_text else "application/octet-stream"
        return await self._fetch(
            Corpus,
            "POST",
            "/v1/corpora",
            params=omit_none(**options),
            content=upload_body(text),
            headers={"Content-Type": media_type},
            timeout_s=LONG_TIMEOUT_S,
        )

    async def import_corpus(self, url: str, **options: Unpack[CorpusOptions]) -> Corpus:
        """Let the service read files in an object store as one corpus; return it when that is done.

        Args:
            url: a file; with a final slash a folder; or a pattern, such as s3://logs/2026-*/*.gz. The service
                reads only what its setting NEXTCHAR_CORPUS_SOURCES allows.
            options: as for `add_corpus`, without `archive`.
        """
        body = omit_none(url=url, **options)
        return await self._fetch(Corpus, "POST", "/v1/corpora/import", json=body, timeout_s=LONG_TIMEOUT_S)

    def corpora(self) -> AsyncGenerator[Corpus, None]:
        """Yield all corpora, newest first."""
        return self._pages("/v1/corpora")

    async def corpus(self, corpus: str) -> Corpus:
        """Return a corpus's statistics, by id or name."""
        return await self._get(Corpus, path_of("corpora", corpus))

    async def corpus_text(self, corpus: str) -> str:
        """Return the text of a corpus; one uploaded as bytes comes with one character for each byte.

        `download_corpus` yields the bytes of a large one.
        """
        known = await self.corpus(corpus)
        body = await self._fetch_bytes("GET", path_of("corpora", known["id"], "text"), can_retry=True)
        return body.decode("latin-1" if known.get("encoding") == "bytes" else "utf-8")

    def download_corpus(self, corpus: str) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of a corpus as they were uploaded, in pieces."""
        return self._download(path_of("corpora", corpus, "text"))

    async def set_corpus_kind(self, corpus: str, kind: TextKind) -> Corpus:
        """Set what a corpus is, the default of a job's `kind`; return the corpus."""
        body = {"kind": kind}
        return await self._fetch(Corpus, "PATCH", path_of("corpora", corpus), json=body, can_retry=True)

    async def delete_corpus(self, corpus: str) -> dict[str, Any]:
        """Delete a corpus that no unfinished job needs: the newest version for a bare name.

        Models trained on it stay.
        """
        path, can_retry = path_of("corpora", corpus), is_exact(corpus)
        return await self._fetch(dict[str, Any], "DELETE", path, can_retry=can_retry)
