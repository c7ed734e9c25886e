import asyncio
import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from nextchar.app.keys import new_key
from nextchar.app.services.access import Access
from nextchar.app.services.fair_threads import CLIENT, FairThreads
from nextchar.app.settings import ApiSettings
from tests.app.service import NO_TLS, Service, serving, until

KEYS = {name: new_key(name, scopes="read") for name in ("flood", "modest")}


class Calls:
    """Calls of clients, each in a task of its own, that hold a thread until the test ends them."""

    def __init__(self, threads: FairThreads) -> None:
        self.threads = threads
        self.running: list[tuple[str, int]] = []  # in the order in which they got a thread
        self._ends: dict[tuple[str, int], asyncio.Event] = {}
        self.tasks: dict[tuple[str, int], asyncio.Task[None]] = {}

    def begin(self, client: str, count: int) -> None:
        """Begin calls, numbered from 0."""
        for number in range(count):
            call = client, number
            self._ends[call] = asyncio.Event()
            context = copy_context()
            context.run(CLIENT.set, client)
            self.tasks[call] = asyncio.get_running_loop().create_task(self._hold(call), context=context)

    async def _hold(self, call: tuple[str, int]) -> None:
        async with self.threads:
            self.running.append(call)
            try:
                await self._ends[call].wait()
            finally:
                self.running.remove(call)

    async def end(self, *call: Any) -> None:
        """Let a call end."""
        self._ends[call].set()
        await self.tasks[call]
        await settle()

    async def cancel(self, *call: Any) -> None:
        """Cancel a call."""
        self.tasks[call].cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.tasks[call]
        await settle()


async def settle() -> None:
    """Let all tasks run until they wait."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_the_call_of_another_client_is_served_next_when_one_floods() -> None:
    async def run() -> None:
        calls = Calls(FairThreads(2, per_client=2))
        calls.begin("flood", 50)
        await settle()
        calls.begin("modest", 2)
        await settle()
        assert calls.running == [("flood", 0), ("flood", 1)]
        # One call of each client in turns, not 48 of the first.
        await calls.end("flood", 0)
        assert calls.running[-1] == ("flood", 2)
        await calls.end("flood", 1)
        assert calls.running[-1] == ("modest", 0)
        await calls.end("flood", 2)
        assert calls.running[-1] == ("flood", 3)
        await calls.end("flood", 3)
        assert calls.running == [("modest", 0), ("modest", 1)]

    asyncio.run(run())


def test_one_client_leaves_threads_for_others() -> None:
    async def run() -> None:
        threads = FairThreads(4, per_client=3)
        calls = Calls(threads)
        calls.begin("flood", 50)
        await settle()
        assert [client for client, _ in calls.running] == ["flood"] * 3
        calls.begin("modest", 1)
        await settle()
        assert calls.running[-1] == ("modest", 0) and threads.borrowed_tokens == threads.threads == 4
        await calls.end("modest", 0)
        assert threads.borrowed_tokens == 3, "its thread is kept for others"
        await calls.end("flood", 1)
        assert calls.running[-1] == ("flood", 3)

    asyncio.run(run())


def test_cancelled_calls_give_back_their_threads_and_places() -> None:
    async def run() -> None:
        threads = FairThreads(1, per_client=1)
        calls = Calls(threads)
        calls.begin("a", 4)
        calls.begin("b", 1)
        await settle()
        await calls.cancel("a", 1)  # it waits
        await calls.cancel("a", 0)  # it runs
        assert calls.running == [("a", 2)]
        # This one is cancelled in the moment in which it gets the thread.
        calls._ends["a", 2].set()
        asyncio.get_running_loop().call_soon(calls.tasks["b", 0].cancel)
        await settle()
        assert calls.tasks["b", 0].cancelled()
        assert calls.running == [("a", 3)]
        await calls.end("a", 3)
        assert threads.borrowed_tokens == 0 and not threads._running and not threads._waiting

    asyncio.run(run())


def test_functions_without_a_limiter_of_their_own_use_the_default() -> None:
    async def run() -> float:
        threads = FairThreads(3, per_client=2)
        threads.set_as_default()
        CLIENT.set("someone")
        return await anyio.to_thread.run_sync(lambda: threads.borrowed_tokens)

    assert asyncio.run(run()) == 1


@pytest.fixture
def guarded(settings: ApiSettings, tmp_path: Path) -> Iterator[Service]:
    file = tmp_path / "keys"
    file.write_text("\n".join(line for _, line in KEYS.values()))
    with serving(settings.model_copy(update={"api_keys_file": file})) as running:
        yield running


def test_a_key_whose_calls_take_all_its_threads_does_not_delay_another_key(
    guarded: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, started = threading.Event(), threading.Semaphore(0)
    list_jobs = Access.list_jobs

    def slow(access: Access) -> Any:
        started.release()
        assert gate.wait(60)
        return list_jobs(access)

    monkeypatch.setattr(Access, "list_jobs", slow)

    def get(path: str, name: str) -> int:
        headers = {"Authorization": f"Bearer {KEYS[name][0]}"}
        with httpx.Client(base_url=guarded.http.base_url, timeout=60, verify=NO_TLS) as client:
            return client.get(path, headers=headers).status_code

    with ThreadPoolExecutor(60) as pool:
        flood = [pool.submit(get, "/v1/jobs", "flood") for _ in range(60)]
        try:
            for _ in range(30):
                assert started.acquire(timeout=60)
            assert get("/v1/models", "modest") == 200
            assert not any(call.done() for call in flood)
            assert not started.acquire(blocking=False), "it has more threads than it may have"
        finally:
            gate.set()
        assert [call.result() for call in flood] == [200] * 60
    until(lambda: get("/v1/jobs", "modest") == 200)
