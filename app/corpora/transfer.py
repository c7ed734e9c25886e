"""Corpora over HTTP: from a request's body, gzip and forms decoded, or an object store, to storage, and back.

Only a piece of the text is in memory at a time; file and processor work runs in worker threads.
"""

import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

from fastapi.responses import StreamingResponse
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers
from starlette.requests import Request

from nextchar.app.access.permissions import Access
from nextchar.app.core_settings import listed
from nextchar.app.corpora.archives import Archive, ArchiveFormat, StoredFiles, TarArchive, ZipArchive
from nextchar.app.corpora.distinct_lines import DistinctLines
from nextchar.app.http.bodies import gunzip_of
from nextchar.app.http.errors import Forbidden, UnsupportedMedia
from nextchar.app.http.incoming_body import FormText, StreamedBody
from nextchar.app.http.services import Services
from nextchar.app.http.threads import run_in_thread
from nextchar.models.errors import DomainError, InvalidInput, NotFound, TooLarge
from nextchar.store.blobs import Blobs
from nextchar.store.corpus import Corpus, Encoding, Upload
from nextchar.store.input_files import find_objects, split_url
from nextchar.store.open_blobs import open_blobs

MAX_FORM_OVERHEAD_BYTES = 65536
"""A form, or gzip, may make a body this much longer than its text."""

Deduplication = Literal["lines"]
"""The unit whose repetitions are removed from a text."""

_UTF8_CHARSETS = ("utf-8", "utf8", "us-ascii", "ascii")
_PIECE_BYTES = 256 << 10


class Decoder(Protocol):
    """Decodes a body to text, piece by piece."""

    overhead_bytes: int  # a body may be this much longer than its text

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the text in the next bytes of the body. Raises InvalidInput."""
        ...

    def finish(self) -> None:
        """Check that the body is complete. Raises InvalidInput."""
        ...


async def receive_corpus(
    services: Services,
    access: Access,
    request: Request,
    *,
    name: str | None = None,
    encoding: Encoding = "utf-8",
    decoder: Decoder | None = None,
    archive: ArchiveFormat | None = None,
    deduplicate: Deduplication | None = None,
) -> tuple[Corpus, bool]:
    """Store the request's body as a corpus of the caller; return it, and whether it is new to the caller.

    By default gzip and forms are decoded as the request's headers declare them. What is then an `archive` is
    joined to one text, and `deduplicate` removes what is repeated in the text.

    Raises:
        DomainError: the body is invalid or too large, the name is taken, the storage is nearly full, the
            caller's key has as many bytes of corpora as it may have.
        ClientDisconnect: the client disconnected before the text was read.
    """
    limit_bytes = services.settings.max_corpus_bytes
    spool, body = services.settings.spool, StreamedBody(request)
    try:
        await run_in_thread(services.watermark.check, needed_bytes=body.declared_bytes)
        await run_in_thread(access.check_corpus_quota)
        upload = await run_in_thread(Upload, spool, limit_bytes=limit_bytes, encoding=encoding)
    except DomainError:
        await body.drain()
        raise
    with upload, contextlib.closing(body):
        try:
            decoder = decoder or _HeaderDecoder(request.headers, is_text=encoding == "utf-8")
            with (
                _opened(archive, spool, encoding, 2 * limit_bytes) as files,
                _distinct(deduplicate, spool) as lines,
            ):
                sink = _Sink(upload, files, lines, limit_bytes=limit_bytes, check=body.check)
                await _feed(sink, body, decoder)
        except DomainError:
            await body.drain()
            raise
        corpus, is_new = await run_in_thread(
            services.corpora.add, upload, name=name, check=access.check_corpus_quota
        )
    return await run_in_thread(access.record_upload, corpus, is_new=is_new, name=name)


async def read_corpus(
    services: Services,
    access: Access,
    url: str,
    *,
    name: str | None = None,
    encoding: Encoding = "utf-8",
    deduplicate: Deduplication | None = None,
) -> tuple[Corpus, bool]:
    """Store the files at a URL in an object store as one corpus; return as `receive_corpus`.

    Raises:
        DomainError: as `receive_corpus`, and as `find_sources`.
    """

    def read() -> tuple[Corpus, bool]:
        services.watermark.check()
        access.check_corpus_quota()
        blobs, paths = find_sources(url, listed(services.settings.corpus_sources))
        limit_bytes = services.settings.max_corpus_bytes
        spool = services.settings.spool
        files = StoredFiles(blobs, paths, adds_newlines=encoding == "utf-8")
        with (
            Upload(spool, limit_bytes=limit_bytes, encoding=encoding) as upload,
            _distinct(deduplicate, spool) as lines,
        ):
            _Sink(upload, files, lines, limit_bytes=limit_bytes).finish()
            corpus, is_new = services.corpora.add(upload, name=name, check=access.check_corpus_quota)
        return access.record_upload(corpus, is_new=is_new, name=name)

    return await run_in_thread(read)


def text_response(services: Services, corpus: Corpus) -> StreamingResponse:
    """Return the corpus's bytes as a response. One that is damaged further on is broken off.

    Raises:
        Unavailable: its text is lost or, if it is short, damaged (code `corpus_damaged`).
    """
    chunks = services.corpora.stream(corpus.id)
    first = next(chunks)
    headers = {"ETag": f'"{corpus.sha256}"', "Content-Length": str(corpus.bytes)}
    media_type = "text/plain" if corpus.encoding == "utf-8" else "application/octet-stream"
    return StreamingResponse(
        _read_in_threads(itertools.chain((first,), chunks)), media_type=media_type, headers=headers
    )


async def _read_in_threads(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    while (chunk := await run_in_thread(next, chunks, None)) is not None:
        yield chunk


@contextlib.contextmanager
def _opened(
    archive: ArchiveFormat | None, folder: Path, encoding: Encoding, max_bytes: int
) -> Iterator[Archive | None]:
    adds_newlines = encoding == "utf-8"
    if archive is None:
        yield None
    elif archive == "tar":
        yield TarArchive(adds_newlines=adds_newlines, max_bytes=max_bytes)
    else:
        opened = ZipArchive(folder, adds_newlines=adds_newlines, max_bytes=max_bytes)
        with contextlib.closing(opened):
            yield opened


def _distinct(
    deduplicate: Deduplication | None, folder: Path
) -> contextlib.AbstractContextManager[DistinctLines | None]:
    return contextlib.nullcontext() if deduplicate is None else DistinctLines(folder)


async def _feed(sink: "_Sink", body: StreamedBody, decoder: Decoder) -> None:
    def feed(piece: bytes) -> None:
        for data in decoder.feed(piece):
            sink.feed(data)

    def finish() -> None:
        decoder.finish()
        sink.finish()

    # Headers and padding can make an archive of small files much larger than its text.
    overhead_bytes = sink.limit_bytes if sink.archive else decoder.overhead_bytes
    async for piece in body.pieces(sink.limit_bytes + overhead_bytes, sink.too_large):
        await body.run(partial(feed, piece))
    await body.run(finish)


class _Sink:
    """Takes a decoded body to an upload: through its archive and the removal of repeated lines, if any.

    `check` is called for each piece, and may raise an exception.
    """

    def __init__(
        self,
        upload: Upload,
        archive: Archive | None,
        lines: DistinctLines | None,
        *,
        limit_bytes: int,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._upload, self.archive, self._lines = upload, archive, lines
        self.limit_bytes, self._check = limit_bytes, check
        self.too_large = TooLarge(
            f"the body is larger than {limit_bytes:,} bytes, the limit for a corpus", code="corpus_too_large"
        )

    def feed(self, data: bytes) -> None:
        """Take the next bytes. Raises as `Upload.feed`, and InvalidInput for an invalid archive."""
        self._take(self.archive.feed(data) if self.archive else (data,))

    def finish(self) -> None:
        """Pass the rest to the upload. Raises as `feed`."""
        if self.archive:
            self._take(self.archive.finish())
            self._upload.files = self.archive.files
        if self._lines:
            for text in self._lines.finish():
                self._check()
                self._upload.feed(text)
            self._upload.repeated_lines = self._lines.removed

    def _take(self, pieces: Iterable[bytes]) -> None:
        try:
            for text in pieces:
                self._check()
                if self._lines is None:
                    self._upload.feed(text)
                elif self._lines.bytes + len(text) <= self.limit_bytes:
                    self._lines.feed(text)
                else:
                    raise self.too_large
        except InvalidInput as error:
            if self.archive is None or not self.archive.file:
                raise
            message = f"in the file {self.archive.file!r}: {error.message}"
            raise InvalidInput(message, code=error.code, param=error.param) from None


class _HeaderDecoder:
    """Decodes Content-Encoding, then multipart/form-data, as the headers declare them."""

    def __init__(self, headers: Headers, *, is_text: bool) -> None:
        media_type, options = parse_options_header(headers.get("content-type", ""))
        charset = options.get(b"charset", b"utf-8").decode("latin-1").lower()
        if is_text and media_type.startswith(b"text/") and charset not in _UTF8_CHARSETS:
            raise UnsupportedMedia(
                f"the text is declared as {charset!r}; convert it to UTF-8 first, for example with"
                f" iconv -t utf-8",
                code="unsupported_charset",
                param="body",
            )
        self._gunzip = gunzip_of(headers.get("content-encoding", "identity"))
        is_form = media_type == b"multipart/form-data"
        self._form = FormText(options.get(b"boundary", b"")) if is_form else None
        self.overhead_bytes = MAX_FORM_OVERHEAD_BYTES if self._form or self._gunzip else 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the text in the next bytes of the body."""
        decompressed = self._gunzip.feed(data) if self._gunzip else iter((data,))
        if self._form is None:
            return decompressed
        form = self._form
        return (text for part in decompressed for text in form.feed(part))

    def finish(self) -> None:
        """Check that the body is complete. Raises InvalidInput."""
        if self._gunzip:
            self._gunzip.finish()
        if self._form:
            self._form.finish()


def find_sources(url: str, allowed: Sequence[str]) -> tuple[Blobs, list[str]]:
    """Return a storage and the paths in it of the files at a URL, sorted.

    Args:
        url: such as s3://bucket/logs/*.txt; `*` matches in one folder, `**/` in all below. Without a wildcard
            it is one file, or with a final slash all files of a folder.
        allowed: the beginnings of URLs that may be read.

    Raises:
        Forbidden: the URL begins with none of them (code `source_not_allowed`).
        InvalidInput: it is not the URL of an object store (`invalid_source`).
        NotFound: there is no such file (`source_not_found`).
        Unavailable: the store does not respond.
    """
    if not any(url.startswith(prefix) for prefix in allowed):
        known = f"it begins with none of {', '.join(allowed)}" if allowed else "it names none"
        raise Forbidden(
            f"the service may not read {url!r}: NEXTCHAR_CORPUS_SOURCES decides what it may, and {known}",
            code="source_not_allowed",
            param="url",
        )
    if ".." in url.split("/"):
        raise _invalid(url, "it has ..")
    try:
        files = find_objects(url + "**" if url.endswith("/") else url)
    except ValueError as error:
        raise _invalid(url, str(error)) from None
    if not files:
        raise NotFound(f"there is no file at {url!r}", code="source_not_found", param="url")
    bucket, _ = split_url(url)
    return open_blobs(bucket), [split_url(file.name)[1] for file in files]


def _invalid(url: str, why: str) -> InvalidInput:
    return InvalidInput(f"{url!r} cannot be read: {why}", code="invalid_source", param="url")
