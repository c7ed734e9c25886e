"""Bodies of uploads, decoded as their headers declare."""

import asyncio
import contextlib
import gzip
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from nextchar.app.corpora.transfer import _feed, _HeaderDecoder, _Sink
from nextchar.app.http.errors import UnsupportedMedia
from nextchar.app.http.incoming_body import StreamedBody
from nextchar.models.errors import InvalidInput
from nextchar.store.corpus import Upload
from tests.app.raw_http import connected, read_answer
from tests.app.service import Service, error_of

FORM = (
    b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
    b"some text\r\n--edge--\r\n"
)


def decode(body: bytes, *, piece_bytes: int = 7, **headers: str) -> bytes:
    decoder = _HeaderDecoder(Headers({k.replace("_", "-"): v for k, v in headers.items()}), is_text=True)
    text = b""
    for at in range(0, len(body), piece_bytes):
        text += b"".join(decoder.feed(body[at : at + piece_bytes]))
    decoder.finish()
    return text


@pytest.mark.parametrize("piece_bytes", [1, 3, 1000])
def test_gzip_and_forms_are_decoded_in_pieces_of_any_size(piece_bytes: int) -> None:
    form = "multipart/form-data; boundary=edge"
    assert decode(b"some text", piece_bytes=piece_bytes) == b"some text"
    assert decode(FORM, piece_bytes=piece_bytes, content_type=form) == b"some text"
    packed = gzip.compress(b"some ") + gzip.compress(b"text")
    assert decode(packed, piece_bytes=piece_bytes, content_encoding="gzip") == b"some text"
    both = gzip.compress(FORM)
    assert decode(both, piece_bytes=piece_bytes, content_type=form, content_encoding="gzip") == b"some text"


def test_incomplete_bodies_are_refused() -> None:
    with pytest.raises(InvalidInput, match="gzip"):
        decode(gzip.compress(random.Random(1).randbytes(100))[:-9], content_encoding="gzip")
    with pytest.raises(InvalidInput, match="form-data"):
        decode(FORM[:-20], content_type="multipart/form-data; boundary=edge")


def test_other_encodings_and_charsets_are_refused() -> None:
    for headers in ({"content_encoding": "br"}, {"content_type": "text/plain; charset=latin-1"}):
        with pytest.raises(UnsupportedMedia):
            decode(b"a", **headers)


class _Bomb:
    """A small body that decodes to a very long text."""

    overhead_bytes = 0

    def feed(self, _: bytes) -> Iterator[bytes]:
        deadline_s = time.monotonic() + 60
        while time.monotonic() < deadline_s:
            yield b""

    def finish(self) -> None:
        """Accept it."""


@pytest.mark.parametrize("is_complete", [True, False])
def test_upload_ends_once_its_client_has_disconnected(tmp_path: Path, is_complete: bool) -> None:
    messages: list[Message] = [{"type": "http.request", "body": b"x" * 300_000, "more_body": not is_complete}]

    async def receive() -> Message:
        return messages.pop() if messages else {"type": "http.disconnect"}

    async def upload() -> None:
        body = StreamedBody(Request({"type": "http", "headers": []}, receive))
        with Upload(tmp_path, limit_bytes=10**6) as text, contextlib.closing(body):
            sink = _Sink(text, None, None, limit_bytes=10**6, check=body.check)
            await _feed(sink, body, _Bomb())

    began_s = time.monotonic()
    with pytest.raises(ClientDisconnect):
        asyncio.run(upload())
    assert time.monotonic() - began_s < 50


def test_body_without_a_length_that_decodes_to_nothing_is_bounded(service: Service) -> None:
    empty = gzip.compress(b"") * 50_000  # 1 MB

    def pieces() -> Iterator[bytes]:
        for _ in range(10):
            yield empty

    answer = service.http.post("/v1/corpora", content=pieces(), headers={"Content-Encoding": "gzip"})
    assert error_of(answer, 413)["code"] == "corpus_too_large"


def test_client_that_sends_all_of_a_refused_body_gets_its_answer(service: Service) -> None:
    body = b"\xff" * 20_000_000  # more than fits into the buffers of the connection
    # The server closes this connection once it has answered; what it has not read then resets the connection.
    head = "POST /v1/corpora HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    with connected(service, f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body) as client:
        assert error_of(read_answer(client), 413)["code"] == "corpus_too_large"
