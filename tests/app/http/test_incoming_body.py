import asyncio

import pytest
from starlette.exceptions import HTTPException
from starlette.types import Message

from app.http.incoming_body import SMALL_BYTES, BodyMemory, IncomingBody

LIMIT = 1 << 20


def piece(size: int) -> Message:
    return {"type": "http.request", "body": bytes(size), "more_body": True}


def test_body_that_is_late_and_refused_in_the_same_moment_is_refused() -> None:
    memory = BodyMemory(limit_bytes=LIMIT)
    first, second = asyncio.Queue[Message](), asyncio.Queue[Message]()

    def body(queue: "asyncio.Queue[Message]", timeout_s: float) -> IncomingBody:
        return IncomingBody(queue.get, memory=memory, timeout_s=timeout_s, max_bytes=10 * LIMIT)

    async def run() -> None:
        slow, quick = body(first, 0.05), body(second, 60)
        first.put_nowait(piece(LIMIT // 2 + SMALL_BYTES))
        await slow.receive()
        waiting = asyncio.create_task(slow.receive())
        await asyncio.sleep(0)
        timeout = slow._waiting
        assert timeout is not None
        timeout._on_timeout()  # as the loop does; the task that is late has not run yet
        second.put_nowait(piece(LIMIT))
        await quick.receive()
        with pytest.raises(HTTPException) as refused:
            await waiting
        assert refused.value.status_code == 503
        quick.release()
        slow.release()
        assert memory.held_bytes == 0

    asyncio.run(run())


def test_nothing_is_counted_of_bodies_that_are_released_however_they_ended() -> None:
    memory = BodyMemory(limit_bytes=LIMIT)

    async def end(sizes: list[int], *, timeout_s: float = 60) -> int:
        """Return the status of a body that comes in pieces of these sizes and then stops."""
        queue = asyncio.Queue[Message]()
        for size in sizes:
            queue.put_nowait(piece(size))
        body = IncomingBody(queue.get, memory=memory, timeout_s=timeout_s, max_bytes=2 * LIMIT)
        try:
            while True:
                await body.receive()
        except HTTPException as error:
            return error.status_code
        finally:
            body.release()

    async def run() -> list[int]:
        too_slow = await end([LIMIT // 2], timeout_s=0.01)
        too_large = await end([3 * LIMIT])
        too_much = await end([LIMIT // 2, LIMIT])
        return [too_slow, too_large, too_much]

    assert asyncio.run(run()) == [408, 413, 503]
    assert memory.held_bytes == 0
