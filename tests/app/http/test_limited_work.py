import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any

import pytest

from nextchar.app.http.limits import Limit
from nextchar.app.http.threads import CLIENT, Check, Client, LimitedWork, Pools, current_client
from nextchar.models.errors import Busy

DEADLINE_S = 60


def in_a_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run an asynchronous test in an event loop of its own."""

    @wraps(test)
    def run() -> None:
        asyncio.run(test())

    return run


@in_a_loop
async def test_more_than_may_wait_are_refused_and_the_rest_come_in_turn() -> None:
    work, go_on = LimitedWork(Limit("sums", "threads", 1, 2, retry_after_s=7)), threading.Event()

    def wait(_: Check) -> str:
        assert go_on.wait(DEADLINE_S)
        return threading.current_thread().name

    under_way = [asyncio.create_task(work.run(wait)) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Busy, match="3 sums of this client are running or waiting") as refused:
        await work.run(wait)
    assert refused.value.retry_after_s == 7
    go_on.set()
    assert set(await asyncio.gather(*under_way)) == {"sums_0"}
    assert await work.run(lambda _: 5) == 5
    work.close()


@in_a_loop
async def test_a_client_whose_queue_is_full_neither_refuses_nor_delays_the_work_of_others() -> None:
    work, go_on = LimitedWork(Limit("sums", "threads", 1, 2, retry_after_s=7)), threading.Event()
    order: list[str] = []

    def note(client: str) -> asyncio.Task[None]:
        def run(_: Check) -> None:
            assert go_on.wait(DEADLINE_S) and current_client().name == client
            order.append(client)

        CLIENT.set(Client(client))
        return asyncio.create_task(work.run(run))

    flood = [note("flood") for _ in range(9)]
    await asyncio.sleep(0)
    others = [note("b"), note("c")]
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.gather(*others)
    refused = [one for one in await asyncio.gather(*flood, return_exceptions=True) if isinstance(one, Busy)]
    assert len(refused) == 6
    assert order in (["flood", "flood", "b", "c", "flood"], ["flood", "b", "c", "flood", "flood"])
    work.close()


@in_a_loop
async def test_work_that_is_cancelled_never_begins_or_ends_at_its_next_check() -> None:
    work = LimitedWork(Limit("sums", "threads", 1, 1, retry_after_s=1))
    begun, ended = threading.Event(), threading.Event()

    def go_on(check: Check) -> None:
        begun.set()
        try:
            while True:
                check()
                time.sleep(0.002)
        finally:
            ended.set()

    running = asyncio.create_task(work.run(go_on))
    waiting = asyncio.create_task(work.run(lambda _: pytest.fail("nobody waits for it")))
    assert await asyncio.to_thread(begun.wait, DEADLINE_S)
    waiting.cancel()
    running.cancel()
    await asyncio.gather(running, waiting, return_exceptions=True)
    assert await asyncio.to_thread(ended.wait, DEADLINE_S)
    assert await asyncio.wait_for(work.run(lambda _: "free again"), DEADLINE_S) == "free again"
    work.close()


@in_a_loop
async def test_work_that_is_cancelled_after_its_last_check_completes_and_returns() -> None:
    work = LimitedWork(Limit("sums", "threads", 1, 0, retry_after_s=1))
    begun, go_on = threading.Event(), threading.Event()

    def change(_: Check) -> str:
        begun.set()
        assert go_on.wait(DEADLINE_S)
        return "changed"

    running = asyncio.create_task(work.run(change))
    assert await asyncio.to_thread(begun.wait, DEADLINE_S)
    running.cancel()
    await asyncio.sleep(0)
    go_on.set()
    assert await running == "changed"
    work.close()


@in_a_loop
async def test_work_that_is_cancelled_while_it_waits_is_freed_before_a_thread_is_free() -> None:
    work = LimitedWork(Limit("sums", "threads", 1, 1, retry_after_s=1))
    begun, go_on = threading.Event(), threading.Event()

    class Body:
        """What a request has sent."""

        def sum(self, _: Check) -> None:
            pytest.fail("cancelled work ran")

    def wait(_: Check) -> None:
        begun.set()
        assert go_on.wait(DEADLINE_S)

    running = asyncio.create_task(work.run(wait))
    assert await asyncio.to_thread(begun.wait, DEADLINE_S)
    body = Body()
    freed = weakref.ref(body)
    waiting = asyncio.create_task(work.run(body.sum))
    del body
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    del waiting
    gc.collect()
    assert freed() is None and not running.done()
    go_on.set()
    await running
    assert await work.run(lambda _: 5) == 5
    work.close()


@in_a_loop
async def test_a_limit_of_a_room_of_another_package_has_threads_of_its_own() -> None:
    pools, limit = Pools(), Limit("greetings", "threads", 1, 0)
    assert pools.queue(limit) is pools.queue(Limit("greetings", "threads", 1, 0))
    assert await pools.queue(limit).run(lambda _: threading.current_thread().name) == "greetings_0"
    assert pools.limiter(limit) is not pools.limiter(Limit("others", "threads", 1))
    pools.close()
    with pytest.raises(RuntimeError, match="after shutdown"):
        await pools.queue(limit).run(lambda _: 5)
