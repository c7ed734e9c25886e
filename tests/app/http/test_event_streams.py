import asyncio
from collections.abc import AsyncGenerator

import pytest
from pydantic import BaseModel

from nextchar.app.http import event_streams
from nextchar.app.http.event_streams import EventStream, ServerEvent, frame
from nextchar.models.errors import Unavailable


class Body(BaseModel):
    text: str


def sent_by(stream: EventStream, chunks: list[bytes] | None = None) -> list[bytes]:
    """Return the chunks that a stream sends to a client that stays; they are in `chunks` at once."""
    chunks = [] if chunks is None else chunks

    async def receive() -> dict[str, str]:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: dict[str, object]) -> None:
        body = message.get("body", b"")
        assert isinstance(body, bytes)
        if body:
            chunks.append(body)

    asyncio.run(stream({"type": "http"}, receive, send))  # type: ignore[arg-type]
    return chunks


def test_newlines_in_data_cannot_end_an_event() -> None:
    framed = frame(ServerEvent("piece", Body(text="a\n\nevent: fake\r\n"), id=7))
    assert framed == b'id: 7\nevent: piece\ndata: {"text":"a\\n\\nevent: fake\\r\\n"}\n\n'


def test_other_protocols_have_unnamed_events_and_plain_text_data() -> None:
    async def events() -> AsyncGenerator[ServerEvent, None]:
        yield ServerEvent("piece", Body(text="a"))
        yield ServerEvent("", "[DONE]")
        raise Unavailable("the model is gone", code="model_gone")

    chunks = sent_by(EventStream(events(), named=False))
    assert chunks[:2] == [b'data: {"text":"a"}\n\n', b"data: [DONE]\n\n"]
    assert chunks[2].startswith(b'data: {"error":')


def test_error_within_a_stream_is_the_last_event() -> None:
    async def events() -> AsyncGenerator[ServerEvent, None]:
        yield ServerEvent("piece", Body(text="a"))
        raise Unavailable("the model is gone", code="model_gone")

    closed: list[bool] = []
    chunks = sent_by(EventStream(events(), on_close=lambda: closed.append(True)))
    assert chunks[0].startswith(b"event: piece\n")
    assert chunks[1].startswith(b"event: error\n") and b'"code":"model_gone"' in chunks[1]
    assert len(chunks) == 2 and closed == [True]


def test_comments_are_sent_while_there_are_no_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_streams, "PING_S", 0.01)

    async def events() -> AsyncGenerator[ServerEvent, None]:
        while not chunks:  # noqa: ASYNC110 -- `sent_by` adds to it
            await asyncio.sleep(0)
        yield ServerEvent("piece", Body(text="a"))

    chunks: list[bytes] = []
    sent_by(EventStream(events()), chunks)
    assert chunks[0] == b": ping\n\n" and chunks[-1].startswith(b"event: piece")


def test_disconnect_closes_the_events() -> None:
    ended: list[str] = []

    async def events() -> AsyncGenerator[ServerEvent, None]:
        try:
            while True:
                yield ServerEvent("piece", Body(text="a"))
                await asyncio.sleep(0)
        finally:
            ended.append("events")

    is_sending = asyncio.Event()

    async def receive() -> dict[str, str]:
        await is_sending.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, object]) -> None:
        if message.get("body"):
            is_sending.set()
            await asyncio.Event().wait()  # the events stand still in the middle of one

    async def serve() -> None:
        stream = EventStream(events(), on_close=lambda: ended.append("close"))
        await stream({"type": "http"}, receive, send)  # type: ignore[arg-type]
        assert sorted(ended) == ["close", "events"]  # here: the end of the loop would close them, too

    asyncio.run(serve())


def test_client_that_reads_nothing_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_streams, "PING_S", 0.01)
    monkeypatch.setattr(event_streams, "UNREAD_S", 0.05)

    async def events() -> AsyncGenerator[ServerEvent, None]:
        yield ServerEvent("piece", Body(text="a"))

    async def receive() -> dict[str, str]:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: dict[str, object]) -> None:
        if message.get("body"):
            await asyncio.Event().wait()

    async def serve(stream: EventStream) -> None:
        await asyncio.wait_for(stream({"type": "http"}, receive, send), 20)  # type: ignore[arg-type]

    closed: list[bool] = []
    asyncio.run(serve(EventStream(events(), on_close=lambda: closed.append(True))))
    assert closed == [True]
