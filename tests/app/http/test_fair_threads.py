import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import httpx
import pytest

from nextchar.app.access.keys import new_key
from nextchar.app.access.permissions import Access
from nextchar.app.http.limits import RECORDS_OF_CLIENT
from nextchar.app.http.threads import (
    CLIENT,
    Client,
    current_client,
    run_in_thread,
)
from nextchar.app.rooms import ApiSettings
from tests.app.service import NO_TLS, Service, serving_with_keys, until

KEYS = {name: new_key(name, scopes="read") for name in ("flood", "modest")}


def test_calls_of_one_client_leave_threads_for_others() -> None:
    may_end, started = threading.Event(), threading.Semaphore(0)

    def hold() -> None:
        started.release()
        assert may_end.wait(60)

    async def run() -> None:
        CLIENT.set(Client("flood"))
        flood = [asyncio.create_task(run_in_thread(hold)) for _ in range(50)]
        for _ in range(RECORDS_OF_CLIENT.running):
            await anyio.to_thread.run_sync(started.acquire, limiter=anyio.CapacityLimiter(1))
        CLIENT.set(Client("modest"))
        assert await run_in_thread(lambda: current_client().name) == "modest"
        assert not started.acquire(blocking=False), "it has more threads than it may have"
        for running_or_waiting in (0, 49):
            flood[running_or_waiting].cancel()
        may_end.set()
        results = await asyncio.gather(*flood, return_exceptions=True)
        assert results[1:49] == [None] * 48

    asyncio.run(run())


@pytest.fixture
def guarded(settings: ApiSettings) -> Iterator[Service]:
    with serving_with_keys(settings, KEYS) as running:
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
