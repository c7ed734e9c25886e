"""API processes are killed while lines arrive: none is lost, and none is recorded twice."""

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from nextchar.app.logs.alerts.alerts import Alerts
from nextchar.store.open_blobs import open_blobs
from tests.app.test_main import is_ready, started
from tests.waiting import eventually

LINES = int(os.environ.get("INGEST_KILL_LINES", "5000"))
BATCH = 100
KILLS = int(os.environ.get("INGEST_KILLS", "2"))
RATE = "0.05"
TAKEOVER_S = 2.0
MODEL = "/v1/models/real"

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def line(number: int) -> str:
    """Return a line that no other is like; each twentieth has characters that the model does not know."""
    name = "".join(_LETTERS[number // 26**i % 26] for i in range(4))
    return name + ("→" * 40 if number % 20 == 0 else "abcdefgh")


class Sender:
    """An agent: sends each batch until it is acknowledged, to whichever process answers."""

    def __init__(self, urls: list[str]) -> None:
        self.urls, self.sent, self.retries = urls, 0, 0

    def send(self, number: int) -> None:
        body = "".join(json.dumps(line(i)) + "\n" for i in range(number, min(number + BATCH, LINES)))
        headers = {"Content-Type": "application/x-ndjson", "Idempotency-Key": f"batch {number}"}
        for attempt in range(10_000):
            url = self.urls[attempt % len(self.urls)]
            with contextlib.suppress(httpx.TransportError):
                answer = httpx.post(
                    f"{url}{MODEL}/ingest",
                    content=body.encode(),
                    headers=headers,
                    params={"false_alarms": RATE, "recalibrate": "never"},
                    timeout=20,
                )
                if answer.status_code == 202:
                    self.sent += answer.json()["accepted"]
                    return
                assert answer.status_code in (429, 503), answer.text
            self.retries += 1
            time.sleep(0.05)  # as an agent waits between attempts
        pytest.fail("a batch was never accepted")

    def run(self) -> None:
        for number in range(0, LINES, BATCH):
            self.send(number)


def flagged_by_score(http: httpx.Client) -> Counter[str]:
    body = "".join(line(i) + "\n" for i in range(LINES)).encode()
    headers = {"Content-Type": "text/plain"}
    params = {"false_alarms": RATE, "only": "anomalous", "echo": "true", "detail": "none", "repeats": "flag"}
    answer = http.post(f"{MODEL}/score", content=body, headers=headers, params=params)
    records = [json.loads(one) for one in answer.text.splitlines()]
    assert records[-1]["lines"] == LINES
    return Counter(record["text"] for record in records[1:-1])


def flagged_lines(redis: Redis) -> Counter[str]:
    entries: Any = redis.xrange("nextchar:ingest:real:flagged")
    return Counter(json.loads(fields["event"])["line"] for _, fields in entries)


def test_killed_processes_lose_no_line_and_record_none_twice(tmp_path: Path, clean_redis_url: str) -> None:
    settings = {"NEXTCHAR_INGEST_TAKEOVER_S": str(TAKEOVER_S), "NEXTCHAR_LOG_LEVEL": "ERROR"}
    with contextlib.ExitStack() as stack:

        def start(folder: Path = tmp_path) -> tuple[subprocess.Popen[bytes], str]:
            running, url = stack.enter_context(started(folder, clean_redis_url, settings, with_model=False))
            with httpx.Client(base_url=url, timeout=60) as http:
                eventually(lambda: is_ready(http))
            return running, url

        first, url = stack.enter_context(started(tmp_path, clean_redis_url, settings))
        http = stack.enter_context(httpx.Client(base_url=url, timeout=60))
        eventually(lambda: is_ready(http))
        normal = [line(i) for i in range(1, 2_000) if i % 20]
        assert http.post(f"{MODEL}/calibrate", json={"lines": normal}).status_code == 201
        running = {url: first}
        sender = Sender([url])
        process, url = start()
        running[url] = process
        sender.urls.append(url)
        sending = threading.Thread(target=sender.run)
        sending.start()
        for kill in range(KILLS):
            at = LINES * (kill + 1) // (KILLS + 1)
            eventually(lambda at=at: sender.sent >= at, within_s=300)  # type: ignore[misc]
            victim = sender.urls[kill % 2]
            running[victim].send_signal(signal.SIGKILL)
            running[victim].wait()
            process, url = start()
            running[url] = process
            sender.urls[kill % 2] = url
        sending.join(300)
        assert not sending.is_alive()
        with httpx.Client(base_url=sender.urls[0], timeout=120) as http:
            eventually(lambda: http.get(f"{MODEL}/ingest").json()["waiting"] == 0)
            found = http.get(f"{MODEL}/ingest").json()
            expected = flagged_by_score(http)
        assert (found["accepted"], found["scored"], found["failed"]) == (LINES, LINES, 0)
        assert sender.sent == LINES
        assert sum(expected.values()) >= LINES // 100
        redis = Redis.from_url(clean_redis_url, decode_responses=True)
        if LINES <= 5_000:  # more flagged lines than are kept otherwise
            assert flagged_lines(redis) == expected
        assert found["flagged"] == sum(expected.values())
        occurrences, _ = Alerts(redis, open_blobs((tmp_path / "store").as_uri())).totals()
        assert sum(occurrences.values()) == sum(expected.values())
        print(f"{LINES} lines, {found['flagged']} flagged, {sender.retries} retries, {KILLS} kills")
