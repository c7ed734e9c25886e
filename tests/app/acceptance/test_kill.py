"""An API process is killed while events arrive: what it has acknowledged is counted, and nothing twice."""

import contextlib
import signal
import threading
from pathlib import Path
from typing import Any

import httpx

from tests.app.test_main import is_ready, started
from tests.waiting import eventually

BATCH = 20


def batch(number: int) -> dict[str, Any]:
    """Return events of suggestions that no other batch has."""
    return {
        "events": [
            {"id": f"{number}.{n}", "type": "shown", "suggestion_id": f"sug_{number}.{n}", "model": "real@1"}
            for n in range(BATCH)
        ]
    }


def shown(http: httpx.Client) -> int:
    return int(http.get("/v1/models/real/acceptance").json()["total"]["shown"])


def test_a_killed_process_loses_no_acknowledged_event(tmp_path: Path, clean_redis_url: str) -> None:
    acknowledged: list[int] = []
    with (
        started(tmp_path, clean_redis_url, {}) as (process, url),
        httpx.Client(base_url=url, timeout=60) as http,
    ):
        eventually(lambda: is_ready(http))

        def send() -> None:
            with contextlib.suppress(httpx.TransportError):
                while http.post("/v1/events", json=batch(len(acknowledged))).status_code == 202:
                    acknowledged.append(len(acknowledged))

        sending = threading.Thread(target=send)
        sending.start()
        eventually(lambda: len(acknowledged) > 20)
        process.send_signal(signal.SIGKILL)
        sending.join(60)
    again = started(tmp_path, clean_redis_url, {}, with_model=False)
    with again as (_, url), httpx.Client(base_url=url, timeout=60) as http:
        eventually(lambda: is_ready(http))
        assert 0 <= shown(http) - BATCH * len(acknowledged) <= BATCH, "the last batch was not acknowledged"
        for number in range(len(acknowledged) + 1):
            assert http.post("/v1/events", json=batch(number)).status_code == 202
        assert shown(http) == BATCH * (len(acknowledged) + 1)
