"""Messages about jobs, models and aliases arrive at a real HTTP server, whichever process is killed."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from nextchar.app.logs.notifications.events import EVENT_TYPES, Events
from nextchar.app.logs.notifications.notifier import FIRST_LOOKBACK_S, LEASE_S
from nextchar.models.errors import Unavailable
from nextchar.store.jobs import JobError, Jobs, JobStatus
from nextchar.store.models import Models
from nextchar.store.open_blobs import open_blobs
from tests.app.fakes import publish
from tests.app.logs.notifications.receiver import Receiver, receiving
from tests.app.logs.notifications.test_notifier import (
    SECRET,
    Setting,
    kinds,
    messages,
    setting,
    target,
    verify,
)
from tests.every_call import every_call
from tests.store.test_jobs import REQUEST


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


@pytest.fixture
def world(clean_redis_url: str, tmp_path: Path, receiver: Receiver) -> Setting:
    """A notifier whose target wants everything, and that has looked at the empty storage."""
    made = setting(clean_redis_url, tmp_path, target(f"{receiver.url}/hook", events=EVENT_TYPES))
    made.run()
    return made


def finish(world: Setting, *path: JobStatus, **changes: Any) -> str:
    """Record a job that goes this way; return its id."""
    job = world.jobs.create(REQUEST)
    for status in path:
        job = world.jobs.move(job, status, **(changes if status is path[-1] else {}))
    return job.id


def test_each_end_of_a_job_is_reported_once(world: Setting, receiver: Receiver) -> None:
    running, queued = JobStatus.RUNNING, JobStatus.QUEUED
    error = JobError(code="diverged", message="the loss diverged")
    finish(world, running, JobStatus.SUCCEEDED, model="m@1")
    failed = finish(world, running, JobStatus.FAILED, error=error)
    finish(world, JobStatus.CANCELLED)
    finish(world, running, JobStatus.PAUSED, queued, running)
    finish(world)
    for _ in range(3):
        world.run()
    assert sorted(kinds(receiver)) == sorted(
        [
            *("job.succeeded", "fine_tuning.job.succeeded"),
            *("job.failed", "fine_tuning.job.failed"),
            *("job.cancelled", "fine_tuning.job.cancelled"),
            "job.paused",
        ]
    ), "a pause that is over by now, too"
    [message] = [one for one in messages(receiver) if one["type"] == "job.failed"]
    assert (message["data"]["id"], message["data"]["error"]["code"]) == (failed, "diverged")
    for request in receiver.requests:
        verify(SECRET, request.headers, request.body)
    ids = {request.headers["webhook-id"] for request in receiver.requests}
    name = f"t-webhook\njobs/{failed}/000002.json\njob.failed"
    assert f"msg_{hashlib.sha256(name.encode()).hexdigest()[:32]}" in ids, "as in earlier releases"
    assert len(ids) == 7


def test_models_and_aliases_are_reported(world: Setting, receiver: Receiver) -> None:
    publish(world.models, name="a")
    publish(world.models, name="a")
    aliases = world.models.aliases
    aliases.move("a", "champion", 2, after=None, by="ann")
    world.run()
    assert kinds(receiver) == ["model.published", "model.published", "alias.moved"]
    moved = messages(receiver)[-1]["data"]
    assert (moved["id"], moved["target"], moved["moved_by"]) == ("a@champion", "a@2", "ann")
    receiver.requests.clear()
    aliases.delete("a", "champion")
    world.models.delete("a@2")
    world.models.rename("a@1", "b")
    world.run()
    said = {(m["type"], m["data"]["id"]): m["data"] for m in messages(receiver)}
    assert said.keys() == {
        ("alias.moved", "a@champion"),
        ("model.deleted", "a@2"),
        ("model.deleted", "a@1"),
        ("model.published", "b@1"),
    }
    assert said["alias.moved", "a@champion"]["version"] is None
    assert said["model.deleted", "a@2"]["renamed_to"] is None
    assert said["model.deleted", "a@1"]["renamed_to"] == "b@1"


def test_the_openai_sdk_verifies_and_parses_the_messages(world: Setting, receiver: Receiver) -> None:
    job = finish(world, JobStatus.RUNNING, JobStatus.SUCCEEDED, model="m@1")
    publish(world.models)
    world.run()
    client = openai.OpenAI(api_key="none is asked for", webhook_secret=SECRET)
    events = {e.type: e for e in (client.webhooks.unwrap(r.body, r.headers) for r in receiver.requests)}
    event = events["fine_tuning.job.succeeded"]
    assert isinstance(event, openai.types.webhooks.FineTuningJobSucceededWebhookEvent)
    assert (event.data.id, event.object) == (job, "event") and event.id.startswith("evt_")
    assert event.created_at == int(world.jobs.get(job).updated_at)
    assert set(events) == {"fine_tuning.job.succeeded", "job.succeeded", "model.published"}
    first = receiver.requests[0]
    with pytest.raises(openai.InvalidWebhookSignatureError):
        client.webhooks.unwrap(first.body + b" ", first.headers)


def test_a_target_gets_the_events_and_models_it_wants(
    clean_redis_url: str, tmp_path: Path, receiver: Receiver
) -> None:
    wanting = [
        target(f"{receiver.url}/failed", id="t-1", events=("job.failed",)),
        target(f"{receiver.url}/a", id="t-2", events=("model.published",), models=("a*",)),
        target(f"{receiver.url}/alerts", id="t-3"),
        target(f"{receiver.url}/resolved", id="t-4", events=("alert.resolved",)),
    ]
    world = setting(clean_redis_url, tmp_path, *wanting)
    world.run()
    publish(world.models, name="a1")
    publish(world.models, name="b1")
    finish(world, JobStatus.CANCELLED)
    world.record()
    world.run()
    world.run(after_s=1000)
    got = sorted((request.path, json.loads(request.body)["type"]) for request in receiver.requests)
    assert got == [
        ("/a", "model.published"),
        ("/alerts", "alert.firing"),
        ("/alerts", "alert.resolved"),
        ("/resolved", "alert.resolved"),
    ]


def test_a_process_killed_at_any_call_of_the_storage_or_redis_loses_no_message(
    world: Setting, receiver: Receiver, clean_redis_url: str, tmp_path: Path
) -> None:
    hook = target(f"{receiver.url}/hook", events=EVENT_TYPES)
    for call in every_call(more_than=10):
        receiver.requests.clear()
        finish(world, JobStatus.CANCELLED)
        world.redis.delete("nextchar:notifications:lease")  # which expires after LEASE_S
        with call.dying():
            setting(clean_redis_url, tmp_path, hook, call=call).run()
        sent = [request.headers["webhook-id"] for request in receiver.requests]
        world.redis.delete("nextchar:notifications:lease")
        world = setting(clean_redis_url, tmp_path, hook)
        world.run()
        again = {request.headers["webhook-id"] for request in receiver.requests}
        assert len(again) == 2 and set(sent) <= again, call
        assert sorted(set(kinds(receiver))) == ["fine_tuning.job.cancelled", "job.cancelled"], call
        assert world.outbox.waiting("t-webhook") == [], call


def test_when_redis_loses_its_data_the_last_day_is_sent_again_with_the_same_ids(
    world: Setting, receiver: Receiver, tmp_path: Path
) -> None:
    finish(world, JobStatus.CANCELLED)
    world.run()
    ids = [request.headers["webhook-id"] for request in receiver.requests]
    world.redis.flushdb()
    world.run()
    assert [request.headers["webhook-id"] for request in receiver.requests] == [*ids, *ids]
    world.redis.flushdb()
    world.run(after_s=FIRST_LOOKBACK_S + LEASE_S)
    assert len(receiver.requests) == 2 * len(ids)


def test_a_first_round_that_was_killed_while_it_noted_records_is_repeated(
    clean_redis_url: str, tmp_path: Path, receiver: Receiver
) -> None:
    world = setting(clean_redis_url, tmp_path, target(f"{receiver.url}/hook", events=EVENT_TYPES))
    finish(world, JobStatus.CANCELLED)
    world.redis.sadd("nextchar:notifications:records", world.notifier.events.paths()[0])
    world.run(after_s=FIRST_LOOKBACK_S + LEASE_S)
    assert receiver.requests == [], "what was long before is not reported"
    finish(world, JobStatus.CANCELLED)
    world.run()
    assert sorted(kinds(receiver)) == ["fine_tuning.job.cancelled", "job.cancelled"]


def test_a_new_target_does_not_get_what_was_before(
    clean_redis_url: str, tmp_path: Path, receiver: Receiver
) -> None:
    world = setting(clean_redis_url, tmp_path)
    finish(world, JobStatus.CANCELLED)
    world.run()
    for _ in range(2):
        made = world.notifier.targets.create(
            "webhook", receiver.url, models=(), min_severity="info", events=("job.cancelled",)
        )
        world.run()
        assert kinds(receiver) == []
        finish(world, JobStatus.CANCELLED)
        world.run()
        assert kinds(receiver) == ["job.cancelled"]
        receiver.requests.clear()
        world.notifier.targets.delete(made.id)
        finish(world, JobStatus.CANCELLED)
        world.run()  # no target wants it


def test_alerts_are_sent_while_records_cannot_be_read(
    world: Setting, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> list[str]:
        raise Unavailable("the storage does not work", code="storage_unavailable")

    world.record()
    monkeypatch.setattr(world.notifier.events, "paths", refuse)
    with pytest.raises(Unavailable):
        world.run()
    assert kinds(receiver) == ["alert.firing"]


def test_a_damaged_record_stops_no_other(world: Setting, receiver: Receiver, tmp_path: Path) -> None:
    job = finish(world, JobStatus.CANCELLED)
    blobs = world.jobs.blobs
    blobs.write(f"jobs/{job}/000001.json", b"{")
    blobs.write("model_cards/m/000001.gone", b"{")
    blobs.write("model_cards/n/000001.json", b"{}")
    finish(world, JobStatus.CANCELLED)
    world.run()
    assert sorted(kinds(receiver)) == ["fine_tuning.job.cancelled", "job.cancelled", "model.deleted"]


def test_an_event_is_read_unless_it_was_before_a_time() -> None:
    blobs = open_blobs("memory:///")
    jobs = Jobs(blobs)
    events, job = Events(blobs, jobs, Models(blobs)), jobs.move(jobs.create(REQUEST), JobStatus.CANCELLED)
    path = events.paths()[-1]
    event = events.read(path)
    assert event and event.types == ("job.cancelled", "fine_tuning.job.cancelled")
    assert events.read(path, since=job.updated_at) == event
    assert events.read(path, since=job.updated_at + 1) is None


@pytest.mark.parametrize("path", ["jobs/job_deleted/1.json", "model_cards/a/1.json", "aliases/a/best/1.json"])
def test_a_record_that_is_gone_is_no_event(path: str) -> None:
    blobs = open_blobs("memory:///")
    assert Events(blobs, Jobs(blobs), Models(blobs)).read(path, since=0.0) is None
