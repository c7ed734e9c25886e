import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from nextchar.app.access.keys import new_key
from nextchar.app.access.permissions import Access
from nextchar.app.rooms import ApiSettings
from tests.app.service import NO_TLS, Service, serving_with_keys, until

KEYS = {name: new_key(name, scopes="read") for name in ("flood", "modest")}


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
