"""One source of events, read once for all who follow it."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

import anyio
import pytest

from nextchar.app.http import event_streams
from nextchar.app.http.event_streams import WINDOW, Feeds, NewEvents, Numbered
from nextchar.models.errors import Unavailable


class FakeSource:
    """Has the events with the numbers up to `last`; `end` is the end, once it is set."""

    def __init__(self, last: int = 0) -> None:
        self.last = last
        self.end: str | None = None
        self.error: Exception | None = None
        self.polls = self.reads = 0

    def last_number(self) -> int:
        return self.last

    def read(self, after: int, limit: int) -> list[Numbered]:
        self.reads += 1
        return [(number, {}) for number in range(after + 1, self.last + 1)][:limit]

    def poll(self, after: int) -> NewEvents:
        self.polls += 1
        if self.error:
            raise self.error
        end = self.end  # before the events, as they are written before it
        return NewEvents([(number, {}) for number in range(after + 1, self.last + 1)], end)


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_streams, "POLL_S", 0.001)


def run(source: FakeSource, main: Callable[[Feeds], Coroutine[Any, Any, None]]) -> None:
    async def with_feeds() -> None:
        feeds = Feeds(
            lambda _: source, threads=anyio.CapacityLimiter(2), is_stopping=threading.Event().is_set
        )
        await asyncio.wait_for(main(feeds), 60)
        assert feeds.count == 0

    asyncio.run(with_feeds())


async def numbers(feeds: Feeds, after: int | None, *, restarts: bool = False) -> list[int | str]:
    return [
        item if isinstance(item, str) else item[0]
        async for item in feeds.follow("a", after=after, restarts=restarts)
    ]


async def eventually(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 -- what is waited for knows nothing of events
        await asyncio.sleep(0.001)


def test_followers_get_every_event_once_from_where_each_begins() -> None:
    source = FakeSource(3)

    async def main(feeds: Feeds) -> None:
        tasks = [asyncio.create_task(numbers(feeds, after)) for after in (0, 2, None, 5)]
        await eventually(lambda: source.polls > 2)
        source.last = 4
        await eventually(lambda: source.polls > 5)
        tasks.append(asyncio.create_task(numbers(feeds, 0)))  # comes later
        await asyncio.sleep(0)
        source.last = 6
        source.end = "end"
        assert await asyncio.gather(*tasks) == [
            [1, 2, 3, 4, 5, 6, "end"], [3, 4, 5, 6, "end"], [4, 5, 6, "end"], [6, "end"],
            [1, 2, 3, 4, 5, 6, "end"],
        ]  # fmt: skip

    run(source, main)


def test_many_followers_cost_one_poll() -> None:
    source = FakeSource(0)

    async def main(feeds: Feeds) -> None:
        tasks = [asyncio.create_task(numbers(feeds, None)) for _ in range(200)]
        await eventually(lambda: source.polls >= 20)
        assert source.polls < 200 and source.reads == 0
        source.last, source.end = 1, "end"
        assert await asyncio.gather(*tasks) == [[1, "end"]] * 200

    run(source, main)


def test_follower_that_reads_slowly_misses_nothing_and_holds_no_more_than_others() -> None:
    source = FakeSource(0)

    async def main(feeds: Feeds) -> None:
        slow: AsyncGenerator[Any, None] = feeds.follow("a", after=0)
        source.last = 1
        found = [(await anext(slow))[0]]
        fast = asyncio.create_task(numbers(feeds, 0))
        for _ in range(10):
            polls, source.last = source.polls, source.last + WINDOW // 2
            await eventually(lambda: source.polls > polls + 1)  # noqa: B023 -- called at once
        assert len(feeds._feeds["a"]._window) == WINDOW
        source.end = "end"
        found += [item[0] if isinstance(item, tuple) else item async for item in slow]
        expected = [*range(1, source.last + 1), "end"]
        assert found == expected and await fast == expected

    run(source, main)


def test_numbers_that_start_again_are_all_new() -> None:
    source = FakeSource(2)
    source.end = "end"

    async def main(feeds: Feeds) -> None:
        assert await numbers(feeds, 7, restarts=True) == [1, 2, "end"]
        assert await numbers(feeds, 7) == ["end"]

    run(source, main)


def test_error_of_the_source_is_raised_to_all_and_the_next_follower_tries_again() -> None:
    source = FakeSource(0)

    async def main(feeds: Feeds) -> None:
        tasks = [asyncio.create_task(numbers(feeds, None)) for _ in range(3)]
        await eventually(lambda: source.polls > 1)
        source.error = Unavailable("lost", code="lost")
        assert [type(e) for e in await asyncio.gather(*tasks, return_exceptions=True)] == [Unavailable] * 3
        source.error, source.end = None, "end"
        assert await numbers(feeds, 0) == ["end"]

    run(source, main)


def test_followers_end_when_the_process_stops() -> None:
    stopping = threading.Event()
    source = FakeSource(1)

    async def main() -> None:
        feeds = Feeds(lambda _: source, threads=anyio.CapacityLimiter(2), is_stopping=stopping.is_set)
        following = asyncio.create_task(numbers(feeds, 0))
        await eventually(lambda: source.polls > 1)
        stopping.set()
        assert await asyncio.wait_for(following, 60) == [1]
        assert await numbers(feeds, 0) == []

    asyncio.run(main())
