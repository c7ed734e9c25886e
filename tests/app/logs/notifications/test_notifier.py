"""Alerts arrive at a real HTTP server, signed; and at an Alertmanager, where one is installed."""

import base64
import hashlib
import hmac
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from nextchar.app.logs.alerts.alerts import Alerts
from nextchar.app.logs.notifications import outbound
from nextchar.app.logs.notifications.events import Events
from nextchar.app.logs.notifications.notifier import LEASE_S, RESEND_S, Notifier
from nextchar.app.logs.notifications.outbox import RETRY_DELAYS_S, Outbox
from nextchar.app.logs.notifications.targets import NotificationTarget, NotificationTargets, new_secret
from nextchar.launcher.stack import free_port
from nextchar.models.anomaly.alerts import AlertKey, Occurrence
from nextchar.store.jobs import Jobs
from nextchar.store.models import Models
from nextchar.store.open_blobs import open_blobs
from tests.app.logs.notifications.receiver import Receiver, receiving
from tests.every_call import Call
from tests.waiting import eventually

QUIET_S = 300.0
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # the example of the specification
ID = AlertKey("user <*> failed", "1:<*>").alert_id("sshd")


@dataclass
class Setting:
    """A notifier with a clock that tests set, and what it works on."""

    notifier: Notifier
    alerts: Alerts
    outbox: Outbox
    redis: Redis
    jobs: Jobs
    models: Models
    now: float

    def record(
        self,
        *,
        p_value: float = 0.005,
        model: str = "sshd",
        template: str = "user <*> failed",
        waited_s: float = 0.0,
        owner: str = "",
        source: str = "",
    ) -> None:
        one = Occurrence(
            AlertKey(template, "1:<*>"),
            model=model,
            version=1,
            line="user 1 failed",
            score=9.0,
            p_value=p_value,
            estimated_p=p_value,
            spans=[],
            time=self.now - waited_s,
            owner=owner,
            source=source,
        )
        self.alerts.record([one], recorded_at=self.now)

    def run(self, *, after_s: float = 0.0) -> None:
        self.now += after_s
        self.notifier.run()


def target(url: str, kind: str = "webhook", **fields: Any) -> NotificationTarget:
    return NotificationTarget.model_validate(
        {"id": f"t-{kind}", "kind": kind, "url": url, "secret": SECRET, "created_at": 0.0, **fields}
    )


def setting(redis_url: str, folder: Path, *targets: NotificationTarget, call: Call | None = None) -> Setting:
    """Return a notifier, at one call of whose storage or Redis something may happen."""
    redis = Redis.from_url(redis_url, decode_responses=True)
    blobs = open_blobs(folder.as_uri())
    if call:
        redis, blobs = call.redis(redis), call.blobs(blobs)
    alerts, outbox = Alerts(redis, blobs), Outbox(redis)
    made = NotificationTargets(blobs, targets)
    jobs, models = Jobs(blobs), Models(blobs)
    notifier = Notifier(
        alerts,
        made,
        outbox,
        Events(blobs, jobs, models),
        quiet_s=QUIET_S,
        allow_private=True,
        console_url="https://c.example/",
        clock=lambda: world.now,
    )
    world = Setting(notifier, alerts, outbox, redis, jobs, models, time.time())
    return world


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


@pytest.fixture
def world(clean_redis_url: str, tmp_path: Path, receiver: Receiver) -> Setting:
    return setting(clean_redis_url, tmp_path, target(f"{receiver.url}/hook"))


def messages(receiver: Receiver) -> list[dict[str, Any]]:
    return [json.loads(request.body) for request in receiver.requests]


def test_a_flood_of_alerts_of_one_key_neither_drops_nor_delays_those_of_another(
    world: Setting, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nextchar.app.logs.notifications.outbox.MAX_WAITING", 20)
    for number in range(60):
        world.record(model=f"flood-{number % 3}", template=f"template {number}", owner="a")
    world.record(owner="b")
    world.run()
    assert "sshd" in {message["data"]["model"] for message in messages(receiver)[:2]}
    assert all("owner" not in message["data"] for message in messages(receiver))
    given_up = [json.loads(one.body)["data"]["model"] for one in world.outbox.dead("t-webhook")]
    assert len(given_up) == 41 and "sshd" not in given_up
    world.run(after_s=QUIET_S + 1)
    resolved = [one["data"] for one in messages(receiver) if one["type"] == "alert.resolved"]
    assert resolved and all(one.keys() == {"id", "severity", "model", "template"} for one in resolved)


def kinds(receiver: Receiver) -> list[str]:
    return [message["type"] for message in messages(receiver)]


def verify(secret: str, headers: dict[str, str], body: bytes) -> None:
    """Check a signature by the algorithm of https://github.com/standard-webhooks/standard-webhooks."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.{body.decode()}".encode()
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    versions = [part.split(",") for part in headers["webhook-signature"].split(" ")]
    assert any(v == "v1" and hmac.compare_digest(s, expected) for v, s in versions), "wrong signature"


def test_the_verification_is_that_of_the_specification() -> None:
    headers = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    verify(SECRET, headers, b'{"test": 2432232314}')


def test_a_webhook_gets_each_change_of_an_alert_once(world: Setting, receiver: Receiver) -> None:
    world.record()
    world.run()
    world.run(after_s=5)
    world.record()
    world.run(after_s=5)
    assert kinds(receiver) == ["alert.firing"], "more lines are no news"
    assert messages(receiver)[0]["data"]["id"] == ID
    assert messages(receiver)[0]["data"]["examples"][0]["line"] == "user 1 failed"
    world.record(p_value=0.00001)
    world.run(after_s=5)
    assert messages(receiver)[1]["data"]["severity"] == "critical"
    world.run(after_s=QUIET_S + 1)
    world.run(after_s=5)
    assert kinds(receiver) == ["alert.firing", "alert.firing", "alert.resolved"]
    resolved = {"id": ID, "model": "sshd", "template": "user <*> failed", "severity": "critical"}
    assert messages(receiver)[2]["data"] == resolved
    world.record()
    world.run(after_s=5)
    assert kinds(receiver)[3:] == ["alert.firing"], "it fires again"


def test_messages_are_signed(world: Setting, receiver: Receiver) -> None:
    world.record()
    world.run()
    [request] = receiver.requests
    verify(SECRET, request.headers, request.body)
    assert abs(int(request.headers["webhook-timestamp"]) - world.now) < 2
    with pytest.raises(AssertionError, match="wrong signature"):
        verify(new_secret(), request.headers, request.body)


def test_what_people_have_judged_is_not_reported(world: Setting, receiver: Receiver) -> None:
    for i, judge in enumerate(("suppress", "acknowledge", "normal")):
        world.record(template=f"template {judge}")
        alert_id = AlertKey(f"template {judge}", "1:<*>").alert_id("sshd")
        if judge == "suppress":
            world.alerts.suppress("sshd", alert_id, until=world.now + 1000, by=None)
        elif judge == "acknowledge":
            world.alerts.acknowledge("sshd", alert_id, by=None)
        else:
            world.alerts.label("sshd", alert_id, "normal", by=None)
        assert len(world.alerts.all("sshd")) == i + 1
    world.run()
    assert receiver.requests == []


def test_an_alert_that_is_suppressed_later_is_resolved(world: Setting, receiver: Receiver) -> None:
    world.record()
    world.run()
    world.alerts.suppress("sshd", ID, until=world.now + 1000, by=None)
    world.run()
    assert kinds(receiver) == ["alert.firing", "alert.resolved"]


def test_a_failing_webhook_is_retried_with_the_same_id(world: Setting, receiver: Receiver) -> None:
    receiver.status = 503
    world.record()
    world.run()
    world.run()
    assert len(receiver.requests) == 1, "not before the next attempt is due"
    receiver.status = 204
    world.run(after_s=RETRY_DELAYS_S[0])
    first, second = receiver.requests
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body
    verify(SECRET, second.headers, second.body)
    health = world.outbox.health("t-webhook")
    assert (health.waiting, health.last_error) == (0, "the response is 503")


def test_a_target_that_hangs_does_not_stop_the_others(
    clean_redis_url: str, tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbound, "TIMEOUT_S", 3.0)
    released = threading.Event()
    with receiving() as hanging:
        hanging.before_answer = lambda: released.wait(120)
        targets = (target(hanging.url, id="t-hangs"), target(receiver.url))
        world = setting(clean_redis_url, tmp_path, *targets)
        world.record()
        try:
            world.run()
        finally:
            released.set()
        assert len(hanging.requests) == 1
    assert kinds(receiver) == ["alert.firing"]
    assert world.outbox.health("t-hangs").last_error == "no response within 3 s"


def test_private_targets_get_nothing_when_they_are_not_allowed(world: Setting, receiver: Receiver) -> None:
    world.notifier.allow_private = False
    world.record()
    world.run()
    assert receiver.requests == []
    assert "127.0.0.1, which is not a public address" in str(world.outbox.health("t-webhook").last_error)


def test_one_replica_sends(world: Setting, receiver: Receiver, clean_redis_url: str, tmp_path: Path) -> None:
    other = setting(clean_redis_url, tmp_path, target(receiver.url))
    world.record()
    world.run()
    world.record(template="another")
    other.now = world.now
    other.run()
    assert len(receiver.requests) == 1, "the first one has the lease"
    assert 0 < world.redis.ttl("nextchar:notifications:lease") <= LEASE_S
    world.notifier.close()
    other.run()
    assert len(receiver.requests) == 2, "it knows what the first one has sent"


def test_a_target_gets_the_models_and_severities_it_wants(
    clean_redis_url: str, tmp_path: Path, receiver: Receiver
) -> None:
    world = setting(
        clean_redis_url, tmp_path, target(receiver.url, models=("web-*",), min_severity="warning")
    )
    world.record(model="sshd", p_value=0.0005)
    world.record(model="web-1")
    world.record(model="web-2", p_value=0.0005)
    world.run()
    assert [message["data"]["model"] for message in messages(receiver)] == ["web-2"]


# Alertmanager


@pytest.fixture
def mirrored(clean_redis_url: str, tmp_path: Path, receiver: Receiver) -> Setting:
    """A world whose Alertmanager is a server that keeps what it gets."""
    return setting(clean_redis_url, tmp_path, target(receiver.url, "alertmanager"))


def alerts_of(receiver: Receiver, request: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(receiver.requests[request].body)
    return found


def test_an_alertmanager_gets_firing_alerts_every_minute(mirrored: Setting, receiver: Receiver) -> None:
    mirrored.record(source="web-1")
    mirrored.run()
    mirrored.run(after_s=5)
    assert len(receiver.requests) == 1
    mirrored.run(after_s=RESEND_S)
    assert len(receiver.requests) == 2
    [first], [second] = alerts_of(receiver, 0), alerts_of(receiver, 1)
    assert (
        first["labels"]
        == second["labels"]
        == {
            "alertname": "AnomalousLines",
            "model": "sshd",
            "template": "user <*> failed",
            "span": "1:<*>",
            "severity": "info",
        }
    )
    assert first["startsAt"] == second["startsAt"]
    assert second["endsAt"] > first["endsAt"] > first["startsAt"]
    assert first["annotations"]["example"] == "user 1 failed"
    assert first["annotations"]["title"] == "user 1 failed"
    assert first["annotations"]["source"] == "web-1"
    assert first["annotations"]["summary"] == "1 anomalous lines of sshd: user 1 failed"
    [alert] = mirrored.alerts.all("sshd")
    assert first["generatorURL"] == f"https://c.example/#/alerts?model=sshd&alert={alert.id}"


def test_an_alert_is_resolved_once_when_it_is_quiet(mirrored: Setting, receiver: Receiver) -> None:
    mirrored.record()
    mirrored.run()
    mirrored.run(after_s=QUIET_S + 1)
    [resolved] = alerts_of(receiver, 1)
    [fired] = alerts_of(receiver, 0)
    assert resolved["labels"] == fired["labels"]
    mirrored.run(after_s=RESEND_S)
    assert len(receiver.requests) == 2


def test_a_more_severe_alert_replaces_the_one_before(mirrored: Setting, receiver: Receiver) -> None:
    mirrored.record()
    mirrored.run()
    mirrored.record(p_value=0.00001)
    mirrored.run(after_s=5)
    over, fires = alerts_of(receiver, 1)
    assert (over["labels"]["severity"], fires["labels"]["severity"]) == ("info", "critical")
    assert over["endsAt"] < fires["endsAt"]
    mirrored.run(after_s=RESEND_S)
    assert [alert["labels"]["severity"] for alert in alerts_of(receiver, 2)] == ["critical"]


def test_an_alertmanager_that_fails_gets_everything_later(mirrored: Setting, receiver: Receiver) -> None:
    receiver.status = 500
    mirrored.record()
    mirrored.run()
    mirrored.run(after_s=5)
    assert len(receiver.requests) == 1, "not before a delay"
    receiver.status = 200
    mirrored.run(after_s=60)
    mirrored.run(after_s=5)
    assert len(receiver.requests) == 2
    assert mirrored.outbox.health("t-alertmanager").last_success_at


@pytest.fixture
def alertmanager(tmp_path: Path) -> Iterator[str]:
    """A real Alertmanager; yields its URL."""
    binary = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
    if not binary:
        pytest.skip("the program prometheus-alertmanager is not installed")
    port = free_port("127.0.0.1")
    configuration = tmp_path / "alertmanager.yml"
    configuration.write_text("route: {receiver: nobody}\nreceivers: [{name: nobody}]\n")
    url = f"http://127.0.0.1:{port}"
    arguments = [
        f"--config.file={configuration}",
        f"--storage.path={tmp_path / 'alertmanager'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
    ]
    with subprocess.Popen([binary, *arguments], stderr=subprocess.DEVNULL) as process:
        try:
            eventually(lambda: is_ready(url), what="Alertmanager is ready")
            yield url
        finally:
            process.terminate()


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready").is_success
    except httpx.HTTPError:
        return False


def test_a_real_alertmanager_shows_alerts_and_their_end(
    clean_redis_url: str, tmp_path: Path, alertmanager: str
) -> None:
    world = setting(clean_redis_url, tmp_path / "data", target(alertmanager, "alertmanager"))

    def active() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = httpx.get(f"{alertmanager}/api/v2/alerts").json()
        return found

    world.record(p_value=0.0005)
    world.run()
    eventually(active, what="the alert is active")
    [alert] = active()
    assert (alert["labels"]["model"], alert["labels"]["severity"]) == ("sshd", "warning")
    assert alert["status"]["state"] in ("active", "unprocessed")
    world.alerts.suppress("sshd", ID, until=world.now + 1000, by=None)
    world.run()
    eventually(lambda: not active(), what="the alert is resolved")
