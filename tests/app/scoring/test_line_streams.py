import asyncio
import gzip
import http.client
import json
import threading
from typing import Any
from urllib.parse import urlsplit

import pytest
from starlette.types import Message

from nextchar.app.main import create_app
from nextchar.app.rooms import ApiSettings
from nextchar.app.scoring import line_streams
from nextchar.app.scoring.line_streams import BodyBuffer
from nextchar.store.gunzip import Gunzip
from nextchar.store.models import Models
from nextchar.store.open_blobs import open_blobs
from tests.app.fakes import FakeEngine, loaded, publish
from tests.app.service import served


def test_empty_members_of_gzip_do_not_block_the_event_loop() -> None:
    body, turns = gzip.compress(b"") * 50_000, 0

    async def receive() -> Message:
        nonlocal body
        if not body:
            await asyncio.Event().wait()
        sent, body = body, b""
        return {"type": "http.request", "body": sent, "more_body": False}

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async def read() -> None:
        counting = asyncio.ensure_future(count_turns())
        await asyncio.sleep(0)
        lines = BodyBuffer(receive, Gunzip(), threading.Event())
        reading = asyncio.ensure_future(lines.read_all())
        assert await lines.take(lambda: False, 1) == (b"", True)
        reading.cancel()
        counting.cancel()

    asyncio.run(read())
    assert turns > 10


def test_a_body_is_read_ahead_only_as_far_as_the_buffer_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_streams, "_BUFFER_BYTES", 100)
    received = 0

    async def receive() -> Message:
        nonlocal received
        received += 1
        assert received < 1_000
        return {"type": "http.request", "body": b"x" * 30, "more_body": True}

    async def read() -> None:
        body = BodyBuffer(receive, None, threading.Event())
        reading = asyncio.ensure_future(body.read_all())
        for _ in range(2_000):
            await asyncio.sleep(0)
        assert received == 6  # four pieces, one that waits for room, and the next, which may be a disconnect
        assert await body.take(lambda: False, 1_000) == (b"x" * 120, False)
        reading.cancel()

    asyncio.run(read())


def test_a_client_that_is_gone_is_noticed_while_its_body_is_decompressed() -> None:
    messages: list[Message] = [
        {"type": "http.request", "body": gzip.compress(b"\n" * (64 << 20)), "more_body": False},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Message:
        return messages.pop(0)

    async def read() -> None:
        is_gone = threading.Event()
        body = BodyBuffer(receive, Gunzip(), is_gone)
        reading = asyncio.ensure_future(body.read_all())
        with pytest.raises(line_streams._Disconnected):
            for _ in range(100):  # of a thousand
                await asyncio.wait_for(body.take(lambda: False, 64 << 10), 10)
        assert is_gone.is_set()
        reading.cancel()

    asyncio.run(read())


def test_a_service_that_stops_leaves_out_the_line_that_has_not_ended(settings: ApiSettings) -> None:
    def load(saved: Any) -> Any:
        return loaded(saved, FakeEngine(saved))

    publish(Models(open_blobs(settings.blobs_url)))
    app = create_app(settings, load_engine=load)
    with served(app) as url:
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        connection.putrequest("POST", "/v1/models/fake/score")
        connection.putheader("Content-Type", "text/plain")
        connection.putheader("Content-Length", "1000")
        connection.endheaders()
        connection.send(b"whole\nhal")
        response = connection.getresponse()
        records = [json.loads(response.readline()) for _ in range(2)]
        app.state.stopping.set()
        records += map(json.loads, response)
        connection.close()
    assert [record["object"] for record in records] == ["score.start", "score.line", "score.end"]
    assert (records[1]["characters"], records[2]["lines"], records[2]["characters"]) == (5, 1, 5)
