"""The API process is killed between what happens and its message: the message arrives, under one id."""

import contextlib
import json
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path

import httpx
import pytest
from redis import Redis

from nextchar.store.jobs import Jobs, JobStatus
from nextchar.store.open_blobs import open_blobs
from tests.app.logs.notifications.receiver import Receiver, receiving
from tests.app.test_main import is_ready, started
from tests.store.test_jobs import REQUEST
from tests.waiting import eventually

EVENTS = ["job.cancelled", "job.succeeded", "model.deleted", "alias.moved"]

PRODUCTION = ("-m", "nextchar.app.main")
# The same, but it looks for messages ten times a second.
HURRIED = (
    "-c",
    "from nextchar.app import main; from nextchar.app.logs import room; room.NOTIFY_S = 0.1; main.main()",
)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


def test_events_survive_kill_9_before_and_during_their_delivery(
    tmp_path: Path, clean_redis_url: str, receiver: Receiver
) -> None:
    settings = {"NEXTCHAR_ALLOW_PRIVATE_TARGETS": "1", "NEXTCHAR_LOG_LEVEL": "ERROR"}
    redis = Redis.from_url(clean_redis_url)
    jobs = Jobs(open_blobs((tmp_path / "store").as_uri()))

    @contextlib.contextmanager
    def running(program: Sequence[str], *, with_model: bool = False) -> Iterator[tuple[httpx.Client, int]]:
        redis.delete("nextchar:notifications:lease")  # of the killed process; it would expire after a minute
        with (
            started(tmp_path, clean_redis_url, settings, with_model=with_model, program=program) as (
                process,
                url,
            ),
            httpx.Client(base_url=url, timeout=60) as http,
        ):
            eventually(lambda: is_ready(http))
            yield http, process.pid

    with running(PRODUCTION, with_model=True) as (http, pid):  # its next look is seconds after the last
        body = {"kind": "webhook", "url": receiver.url, "events": EVENTS}
        assert http.post("/v1/notification_targets", json=body).status_code == 201
        eventually(lambda: redis.exists("nextchar:notifications:records"))
        cancelled = jobs.create(REQUEST)
        assert http.put("/v1/models/real/aliases/champion", json={"version": 1}).status_code == 200
        assert http.delete("/v1/models/real@1", params={"force": "true"}).status_code == 200
        assert http.post(f"/v1/jobs/{cancelled.id}/cancel").status_code == 200
        _kill(pid)
        before = len(receiver.requests)
    # What a worker does while no API process runs.
    finished = jobs.move(jobs.create(REQUEST), JobStatus.RUNNING)
    jobs.move(finished, JobStatus.SUCCEEDED, model="m@1")
    assert before == len(receiver.requests)

    # Killed while the receiver has a message, and before its answer is noted.
    victim = Future[int]()
    receiver.before_answer = lambda: _kill(victim.result(timeout=120))
    with running(HURRIED) as (_, pid):
        victim.set_result(pid)
        eventually(lambda: len(receiver.requests) > before)
        receiver.before_answer = lambda: None

    with running(HURRIED):
        eventually(lambda: len(_ids(receiver)) == 4, what="every message")
        eventually(lambda: not redis.keys("nextchar:notifications:delivery:*"))
    said = {(m["type"], m["data"]["id"]) for m in (json.loads(r.body) for r in receiver.requests)}
    assert said == {
        ("alias.moved", "real@champion"),
        ("model.deleted", "real@1"),
        ("job.cancelled", cancelled.id),
        ("job.succeeded", finished.id),
    }
    assert len(receiver.requests) > len(_ids(receiver)), "the one in flight was delivered twice, with one id"


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _ids(receiver: Receiver) -> set[str]:
    return {request.headers["webhook-id"] for request in receiver.requests}
