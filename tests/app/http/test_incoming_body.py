import asyncio

import pytest
from starlette.exceptions import HTTPException
from starlette.types import Message

from nextchar.app.http.incoming_body import MIN_BYTES, SMALL_BYTES, BodyMemory, IncomingBody

LIMIT = 1 << 20


def piece(size: int) -> Message:
    return {"type": "http.request", "body": bytes(size), "more_body": True}


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


class _ManualTime(asyncio.SelectorEventLoop):
    """An event loop whose time passes only when a test advances it."""

    now_s = 1.0

    def time(self) -> float:
        return self.now_s


def pieces_before_timeout(*, piece_s: float, size: int, max_bytes: int | None, most: int = 20) -> int:
    """Return how many pieces of a body are received, of which each takes so long; the timeout is 30 s."""

    async def run() -> int:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, _ManualTime)

        async def receive() -> Message:
            loop.now_s += piece_s
            for _ in range(3):  # the loop looks for timeouts
                await asyncio.sleep(0)
            return piece(size)

        memory = BodyMemory(limit_bytes=LIMIT)
        body = IncomingBody(receive, memory=memory, timeout_s=30, max_bytes=max_bytes)
        for count in range(most):
            try:
                await body.receive()
            except HTTPException as error:
                assert error.status_code == 408
                return count
        return most

    with asyncio.Runner(loop_factory=_ManualTime) as runner:
        return runner.run(run())


def test_a_client_has_the_whole_timeout_for_each_part_of_a_body() -> None:
    assert pieces_before_timeout(piece_s=29.5, size=MIN_BYTES, max_bytes=None) == 20
    assert pieces_before_timeout(piece_s=30.5, size=MIN_BYTES, max_bytes=None) == 0
    assert pieces_before_timeout(piece_s=8, size=MIN_BYTES // 4, max_bytes=None) == 3


def test_a_body_held_in_memory_must_be_complete_after_four_timeouts() -> None:
    assert pieces_before_timeout(piece_s=25, size=MIN_BYTES, max_bytes=LIMIT) == 4


def test_small_bodies_are_not_refused_for_what_larger_ones_hold() -> None:
    memory = BodyMemory(limit_bytes=LIMIT)

    async def run() -> None:
        queues = asyncio.Queue[Message](), asyncio.Queue[Message]()
        small, large = (
            IncomingBody(queue.get, memory=memory, timeout_s=60, max_bytes=2 * LIMIT) for queue in queues
        )
        queues[0].put_nowait(piece(SMALL_BYTES))
        await small.receive()
        queues[1].put_nowait(piece(LIMIT + SMALL_BYTES + 1))
        with pytest.raises(HTTPException) as error:
            await large.receive()
        assert error.value.status_code == 503
        queues[0].put_nowait(piece(0))
        await small.receive()

    asyncio.run(run())


def test_a_refused_body_is_answered_as_soon_as_more_of_it_is_waited_for() -> None:
    async def run() -> None:
        memory = BodyMemory(limit_bytes=LIMIT)
        body = IncomingBody(asyncio.Queue[Message]().get, memory=memory, timeout_s=30, max_bytes=2 * LIMIT)
        body.refuse()
        waiting = asyncio.create_task(body.receive())
        for _ in range(5):
            await asyncio.sleep(0)
        assert waiting.done(), "without any time"
        with pytest.raises(HTTPException) as error:
            await waiting
        assert error.value.status_code == 503

    with asyncio.Runner(loop_factory=_ManualTime) as runner:
        runner.run(run())
