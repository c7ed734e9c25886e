"""A corpus on its way in: from the request's raw body, gzip or form to a finished `Upload`.

Nothing is held in memory but a piece, and file and processor work is kept off the event loop.
"""

import asyncio
import contextlib
import zlib
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from typing import Protocol

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError, MultipartParseError
from python_multipart.multipart import parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request

from models.errors import DomainError, InvalidInput, TooLarge
from store.corpora import Upload

_PIECE_BYTES = 1 << 20
_GZIP_SLICE_BYTES = 16 << 10
_DRAIN_BYTES = 64 << 20
_DRAIN_S = 5
_VALUE_BYTES = 1000


class UnsupportedMedia(DomainError):
    """The body is in an encoding that is not understood here."""

    code = "unsupported_media_type"


class Decode(Protocol):
    """What makes the text of a body's bytes, piece by piece."""

    overhead_bytes: int  # so many more than the text a body may be long

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the text in the next bytes of the body."""
        ...

    def finish(self) -> None:
        """Check that the body was whole. Raises InvalidInput."""
        ...


async def receive(
    request: Request, upload: Upload, *, limit_bytes: int, decode: Decode | None = None
) -> None:
    """Feed the request's body into `upload`, by default undoing gzip and forms as its headers say.

    Raises:
        DomainError: what `Upload.feed` raises, and for bodies that are broken or too large.
        ClientDisconnect: the client went away in the middle.
    """
    body = _Body(request)
    try:
        decode = decode or _Decoder(request.headers, is_text=upload.encoding == "utf-8")
        longest = limit_bytes + decode.overhead_bytes
        too_large = TooLarge(
            f"the body is larger than {limit_bytes:,} bytes, the limit for a corpus", code="corpus_too_large"
        )
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > longest:
            raise too_large
        taken = 0
        async for piece in body.pieces():
            taken += len(piece)
            if taken > longest:
                raise too_large
            await run_in_threadpool(_feed, upload, decode, piece)
        await run_in_threadpool(decode.finish)
    except DomainError:
        await body.drain()
        raise


def _feed(upload: Upload, decode: Decode, piece: bytes) -> None:
    for text in decode.feed(piece):
        upload.feed(text)


class _Body:
    """The request's body, which may be given up before its end."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._is_whole = False

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the body in pieces of about a mebibyte: each costs a hop to another thread."""
        waiting = bytearray()
        while not self._is_whole:
            waiting += await self._receive()
            if len(waiting) >= _PIECE_BYTES:
                yield bytes(waiting)
                waiting.clear()
        if waiting:
            yield bytes(waiting)

    async def drain(self) -> None:
        """Read and forget the rest of a refused body, within reason.

        Closing a connection while the client still writes makes its system throw our answer away.
        """
        if "100-continue" in self._request.headers.get("expect", "").lower():
            return  # this client waits before it sends
        left = _DRAIN_BYTES
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_S):
                while left > 0 and not self._is_whole:
                    left -= len(await self._receive())

    async def _receive(self) -> bytes:
        message = await self._request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        self._is_whole = not message.get("more_body", False)
        return bytes(message.get("body", b""))


class _Decoder:
    """Undoes Content-Encoding, then multipart/form-data, as the headers declare them."""

    def __init__(self, headers: Headers, *, is_text: bool) -> None:
        kind, options = parse_options_header(headers.get("content-type", ""))
        charset = options.get(b"charset", b"utf-8").decode("latin-1").lower()
        if (
            is_text
            and kind.startswith(b"text/")
            and charset
            not in (
                "utf-8",
                "utf8",
                "us-ascii",
                "ascii",
            )
        ):
            raise UnsupportedMedia(
                f"the text is declared as {charset!r}; convert it to UTF-8 first, as with iconv -t utf-8",
                code="unsupported_charset",
                param="body",
            )
        encoding = headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("identity", "gzip", "x-gzip"):
            raise UnsupportedMedia(
                f"Content-Encoding {encoding!r} is not understood; send the text as it is or with gzip",
                code="unsupported_encoding",
                param="body",
            )
        self._gunzip = Gunzip() if encoding != "identity" else None
        self._form = FormText(options.get(b"boundary", b"")) if kind == b"multipart/form-data" else None
        self.overhead_bytes = 65536 if self._form or self._gunzip else 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the text in the next bytes of the body."""
        plain = self._gunzip.feed(data) if self._gunzip else iter((data,))
        return (text for part in plain for text in self._form.feed(part)) if self._form else plain

    def finish(self) -> None:
        """Check that the body was whole. Raises InvalidInput."""
        if self._gunzip:
            self._gunzip.finish()
        if self._form:
            self._form.finish()


class Gunzip:
    """Undoes gzip piece by piece, so that a body that explodes can be stopped in time.

    >>> import gzip
    >>> g = Gunzip(); b"".join(g.feed(gzip.compress(b"abc"))), g.finish()
    (b'abc', None)
    """

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(wbits=31)
        self._fed = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what `data` holds, in pieces of at most a mebibyte. Raises InvalidInput when it is broken.

        A megabyte of empty members yields nothing and takes 0.1 s, so run this in a worker thread.
        """
        # Each member's end copies what follows it; in slices that is linear in the length of `data`.
        for start in range(0, len(data), _GZIP_SLICE_BYTES):
            yield from self._feed_slice(data[start : start + _GZIP_SLICE_BYTES])

    def _feed_slice(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._inflate.eof:  # gzip files may follow one another
                self._inflate = zlib.decompressobj(wbits=31)
            self._fed = True
            try:
                plain = self._inflate.decompress(data, _PIECE_BYTES)
            except zlib.error as error:
                raise _broken_gzip(str(error)) from None
            if plain:
                yield plain
            data = self._inflate.unconsumed_tail or self._inflate.unused_data

    def finish(self) -> None:
        """Check that the last member was whole. Raises InvalidInput."""
        if self._fed and not self._inflate.eof:
            raise _broken_gzip("it ends too early")


class FormText:
    """Finds the field `file` in multipart/form-data, piece by piece.

    Besides it only the short fields named in `others` may come; they and the file's name are kept.
    """

    def __init__(self, boundary: bytes, *, others: Sequence[str] = ()) -> None:
        if not boundary:
            raise _broken_form("its Content-Type names no boundary")
        self._found: list[bytes] = []
        self._headers: dict[bytes, bytes] = {}
        self._field = b""
        self._value = b""
        self._seen = False
        self.has_ended = False
        self._others = others
        self._reading = "file"
        self.values: dict[str, bytes] = {}
        self.filename = ""
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._headers.clear,
                    "on_header_field": partial(self._collect, "_field"),
                    "on_header_value": partial(self._collect, "_value"),
                    "on_header_end": self._header_end,
                    "on_headers_finished": self._headers_finished,
                    "on_part_data": self._part_data,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:  # a boundary beyond all bounds
            raise _broken_form(str(error)) from None

    def feed(self, data: bytes) -> list[bytes]:
        """Return the text in the next bytes of the form. Raises InvalidInput when it is not a form."""
        try:
            self._parser.write(data)
        except MultipartParseError as error:
            raise _broken_form(str(error)) from None
        found = self._found[:]
        self._found.clear()
        return found

    def finish(self) -> None:
        """Check that the form was whole and had the field. Raises InvalidInput."""
        if not self.has_ended:
            raise _broken_form("it ends too early")
        if not self._seen:
            raise InvalidInput(
                "the form has no field named file; send the text in it",
                code="form_broken",
                param="file",
            )

    def _collect(self, attribute: str, data: bytes, start: int, end: int) -> None:
        setattr(self, attribute, getattr(self, attribute) + data[start:end])

    def _header_end(self) -> None:
        self._headers[self._field.lower()] = self._value
        self._field = self._value = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        name = options.get(b"name", b"").decode("latin-1")
        is_other = name in self._others and name not in self.values
        if not is_other and (name != "file" or self._seen):
            also = f", and once each {', '.join(self._others)}" if self._others else ""
            raise InvalidInput(
                f"the form has a field {name!r}; it may have one field, named file, with the text{also}",
                code="form_broken",
                param=name or "body",
            )
        self._reading = name
        if is_other:
            self.values[name] = b""
        else:
            self._seen = True
            self.filename = options.get(b"filename", b"").decode("utf-8", "replace")

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._reading == "file":
            self._found.append(bytes(data[start:end]))
            return
        self.values[self._reading] += data[start:end]
        if len(self.values[self._reading]) > _VALUE_BYTES:
            raise InvalidInput(
                f"the form's field {self._reading} is longer than {_VALUE_BYTES} bytes",
                code="form_broken",
                param=self._reading,
            )

    def _end(self) -> None:
        self.has_ended = True


def _broken_gzip(why: str) -> InvalidInput:
    return InvalidInput(f"the body is not whole gzip: {why}", code="gzip_broken", param="body")


def _broken_form(why: str) -> InvalidInput:
    return InvalidInput(
        f"the body is not whole multipart/form-data: {why}",
        code="form_broken",
        param="body",
    )
