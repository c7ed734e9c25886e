import time

import pytest
from redis import Redis

from nextchar.models.errors import NotFound
from nextchar.store import notifications
from nextchar.store.blobs import Blobs
from nextchar.store.notification_targets import (
    NotificationTarget,
    NotificationTargets,
    configured_target,
    is_secret,
    new_secret,
    secret_bytes,
)
from nextchar.store.notifications import RETRY_DELAYS_S, Notifications


@pytest.fixture
def outbox(redis: Redis) -> Notifications:
    return Notifications(redis)


def queue(outbox: Notifications, body: str = "{}", *, alert: str = "a", now: float = 1.0) -> None:
    assert outbox.queue("t", alert, before=None, after={"severity": "info"}, body=body, now=now)


def test_one_process_sends_at_a_time(outbox: Notifications) -> None:
    assert outbox.acquire_lease("first") and outbox.acquire_lease("first")
    assert not outbox.acquire_lease("second")
    outbox.release_lease("second")
    assert not outbox.acquire_lease("second")
    outbox.release_lease("first")
    assert outbox.acquire_lease("second")


def test_a_message_is_queued_once_for_what_the_target_knows(outbox: Notifications) -> None:
    queue(outbox)
    assert not outbox.queue("t", "a", before=None, after={"severity": "info"}, body="again", now=1.0)
    assert outbox.sent_states("t") == {"a": {"severity": "info"}}
    assert outbox.queue("t", "a", before={"severity": "info"}, after=None, body="over", now=2.0)
    assert outbox.sent_states("t") == {}
    assert [delivery.body for delivery in outbox.waiting("t")] == ["{}", "over"]
    assert [delivery.last_error for delivery in outbox.waiting("t")] == [None, None]


def test_retries_have_growing_delays_and_end_as_a_dead_letter(outbox: Notifications) -> None:
    queue(outbox)
    [delivery] = outbox.due("t", now=4e9, limit=10)
    now = delivery.created_at
    for attempt, delay_s in enumerate(RETRY_DELAYS_S, 1):
        outbox.failed(delivery, "no answer", now=now)
        assert outbox.due("t", now=now + delay_s - 1, limit=10) == []
        [delivery] = outbox.due("t", now=now + delay_s, limit=10)
        assert (delivery.attempts, delivery.next_at) == (attempt, now + delay_s)
        now += delay_s
    outbox.failed(delivery, "still no answer", now=now)
    assert outbox.waiting("t") == []
    [dead] = outbox.dead("t")
    assert (dead.id, dead.attempts, dead.last_error) == (
        delivery.id,
        len(RETRY_DELAYS_S) + 1,
        "still no answer",
    )
    health = outbox.health("t")
    assert (health.waiting, health.dead, health.last_error) == (0, 1, "still no answer")
    assert outbox.outcomes() == {("t", "failed"): len(RETRY_DELAYS_S) + 1}


def test_attempts_are_counted_by_target_and_outcome(outbox: Notifications) -> None:
    before = time.time()
    for target, errors in (("t", [None, "refused", None, None]), ("other", ["no answer", "refused"])):
        for error in errors:
            outbox.count(target, error)
    counts = {("t", "delivered"): 3, ("t", "failed"): 1, ("other", "failed"): 2}
    assert outbox.outcomes() == counts
    health, other = outbox.health("t"), outbox.health("other")
    assert (health.last_error, other.last_error, other.last_success_at) == ("refused", "refused", None)
    for at in (health.last_success_at, health.last_error_at, other.last_error_at):
        assert at is not None and before <= at <= time.time()
    outbox.forget("t")
    assert outbox.outcomes() == {("other", "failed"): 2} and outbox.health("t").last_error is None


def test_a_dead_letter_can_be_replayed(outbox: Notifications) -> None:
    queue(outbox)
    [delivery] = outbox.waiting("t")
    for _ in range(len(RETRY_DELAYS_S) + 1):
        outbox.failed(outbox.due("t", now=4e9, limit=1)[0], "no", now=0.0)
    replayed = outbox.replay("t", delivery.id)
    assert (replayed.id, replayed.attempts, replayed.body) == (delivery.id, 0, "{}")
    assert outbox.dead("t") == [] and outbox.due("t", now=4e9, limit=1) == [replayed]
    outbox.succeeded(replayed)
    assert outbox.health("t").last_success_at
    for target, unknown in (("t", delivery.id), ("t", "msg_000000000000"), ("t", "../x")):
        with pytest.raises(NotFound) as caught:
            outbox.replay(target, unknown)
        assert caught.value.code == "delivery_not_found"


def test_a_delivery_of_another_target_cannot_be_replayed(outbox: Notifications) -> None:
    queue(outbox)
    [delivery] = outbox.waiting("t")
    with pytest.raises(NotFound):
        outbox.replay("other", delivery.id)


def test_what_waits_for_a_target_is_bounded(outbox: Notifications, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifications, "MAX_WAITING", 2)
    monkeypatch.setattr(notifications, "MAX_DEAD", 3)
    for i in range(7):
        queue(outbox, str(i), alert=str(i), now=float(i))
    assert [delivery.body for delivery in outbox.waiting("t")] == ["0", "1"]
    dead = outbox.dead("t")
    assert [delivery.body for delivery in dead] == ["6", "5", "4"]
    assert dead[0].last_error == "2 other messages wait for this target"
    assert len(outbox.redis.keys("nextchar:notifications:delivery:*")) == 5


def test_a_flood_of_one_owner_gives_up_its_own_messages_which_are_summed_up(
    outbox: Notifications, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifications, "MAX_WAITING", 6)
    monkeypatch.setattr(notifications, "MAX_DEAD", 6)

    def send(owner: str, number: int) -> None:
        body, now = f"{owner}{number}", float(number)
        share = {"model": f"model-{owner}", "owner": owner}
        assert outbox.queue("t", body, before=None, after=1, body=body, now=now, **share)

    for number in range(20):
        send("flood", number)
    for number in range(20, 24):
        send("quiet", number)
    bodies = [delivery.body for delivery in outbox.due("t", now=99.0, limit=9)]
    assert bodies == ["flood0", "quiet20", "flood1", "quiet21", "flood2", "quiet22"], "in turns"
    assert outbox.dropped("t") == (0.0, {}), "as long as there is no room for a message about them"
    assert len(outbox.dead("t")) == 6 and outbox.dead("t")[0].body == "quiet23"
    outbox.succeeded(outbox.due("t", now=99.0, limit=1)[0])
    assert outbox.dropped("t") == (6.0, {"model-flood": 17, "model-quiet": 1})
    outbox.forget_dropped("t")
    assert outbox.dropped("t") == (0.0, {})
    outbox.forget("t")
    assert outbox.redis.keys("nextchar:notifications:*") == []


def test_nothing_is_left_of_a_deleted_target(outbox: Notifications) -> None:
    queue(outbox)
    [delivery] = outbox.waiting("t")
    outbox.forget("t")
    outbox.failed(delivery, "in a round that had begun", now=0.0)
    assert outbox.waiting("t") == outbox.dead("t") == []
    assert not outbox.redis.keys("*delivery*")


def test_targets_are_kept_in_the_storage(blobs: Blobs) -> None:
    targets = NotificationTargets(blobs, (configured_target("alertmanager", "http://am:9093"),))
    made = targets.create("webhook", "https://example.org/x", models=("web-*",), min_severity="warning")
    assert made.secret and is_secret(made.secret) and len(secret_bytes(made.secret)) == 32
    assert [target.id for target in targets.all()] == [made.id, "settings-alertmanager"]
    assert targets.get(made.id) == made
    blobs.write("notification_targets/target_000000000000.json", b"{")  # damaged
    assert len(targets.all()) == 2
    targets.delete(made.id)
    for gone in (made.id, "settings-alertmanager", "../jobs/x"):
        with pytest.raises(NotFound) as caught:
            targets.delete(gone)
        assert caught.value.code == "target_not_found"
    assert "one of the settings" in str(targets_error(targets, "settings-alertmanager"))


def targets_error(targets: NotificationTargets, target: str) -> Exception:
    with pytest.raises(NotFound) as caught:
        targets.delete(target)
    return caught.value


@pytest.mark.parametrize(
    ("model", "severity", "wanted"),
    [
        ("web-1", "critical", True),
        ("web-1", "warning", True),
        ("web-1", "info", False),
        ("db", "critical", False),
    ],
)
def test_a_target_gets_the_alerts_it_wants(model: str, severity: str, wanted: bool) -> None:
    target = NotificationTarget(
        id="t", kind="webhook", url="", models=("web-*",), min_severity="warning", created_at=0.0
    )
    assert target.wants_alert(model, severity) == wanted  # type: ignore[arg-type]


def test_a_target_gets_the_events_of_its_types_and_models() -> None:
    target = NotificationTarget(
        id="t", kind="webhook", url="", models=("web-*",), events=("job.failed",), created_at=0.0
    )
    assert target.wants("job.failed", "web-1")
    assert not target.wants("job.failed", "db")
    assert not target.wants("job.succeeded", "web-1")
    assert target.wants_records and not target.wants_alert("web-1", "critical")


@pytest.mark.parametrize(
    "text", ["", "whsec_", "whsec_abc", "whsec_!!!!", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]
)
def test_secrets_have_the_form_of_the_specification(text: str) -> None:
    assert not is_secret(text)
    assert is_secret(new_secret())


def test_a_state_is_compared_whatever_the_order_of_its_fields(outbox: Notifications) -> None:
    assert outbox.queue("t", "a", before=None, after={"x": 1, "y": None}, body="1", now=1.0)
    assert outbox.queue("t", "a", before={"y": None, "x": 1}, after={"x": 2}, body="2", now=2.0)
    assert not outbox.queue("t", "a", before={"x": 1, "y": None}, after=None, body="3", now=3.0)
    assert [delivery.body for delivery in outbox.waiting("t")] == ["1", "2"]


def test_states_are_saved_and_those_of_ended_alerts_are_removed(outbox: Notifications) -> None:
    outbox.save_sent_states("t", {}, [])
    assert outbox.sent_states("t") == {}
    outbox.save_sent_states("t", {"a": [1], "b": {"x": None}}, [])
    outbox.save_sent_states("t", {"c": 3}, ["a"])
    assert outbox.sent_states("t") == {"b": {"x": None}, "c": 3}
    outbox.save_sent_states("t", {}, ["b", "c"])
    assert outbox.sent_states("t") == {}


def test_an_event_is_queued_once_for_each_target_under_the_same_id(outbox: Notifications) -> None:
    assert outbox.queue_event("t", "jobs/job_1/2", "{}", now=1.0)
    assert not outbox.queue_event("t", "jobs/job_1/2", "{}", now=2.0)
    assert outbox.queue_event("u", "jobs/job_1/2", "{}", now=1.0)
    assert outbox.queue_event("t", "jobs/job_1/3", "{}", now=3.0)
    first, second = outbox.waiting("t")
    assert first.id == "msg_6af478ef8091829e9236807612137ece", "as in earlier releases"
    assert second.id != first.id != outbox.waiting("u")[0].id


def test_deliveries_are_due_by_their_time_and_only_so_many_are_returned(outbox: Notifications) -> None:
    for number in (3, 1, 2):
        queue(outbox, str(number), alert=str(number), now=float(number))
    assert [one.body for one in outbox.due("t", now=2.0, limit=9)] == ["1", "2"]
    assert [one.body for one in outbox.due("t", now=9.0, limit=2)] == ["1", "2"]
    assert [one.body for one in outbox.waiting("t")] == ["1", "2", "3"]
    assert outbox.due("t", now=0.5, limit=9) == outbox.due("other", now=9.0, limit=9) == []


def test_a_replayed_delivery_is_due_now(outbox: Notifications, monkeypatch: pytest.MonkeyPatch) -> None:
    queue(outbox)
    [delivery] = outbox.waiting("t")
    outbox.failed(delivery, "no", now=5e9)
    monkeypatch.setattr("nextchar.store.notifications.time.time", lambda: 7.5)
    replayed = outbox.replay("t", delivery.id)
    assert (replayed.next_at, replayed.attempts, replayed.last_error) == (7.5, 0, "no")
    assert outbox.due("t", now=7.0, limit=1) == [] and outbox.due("t", now=7.5, limit=1) == [replayed]


def test_a_message_that_redis_has_lost_does_not_hide_the_others(outbox: Notifications) -> None:
    for number in range(3):
        queue(outbox, str(number), alert=str(number), now=float(number))
    lost = outbox.waiting("t")[1]
    outbox.redis.delete(f"nextchar:notifications:delivery:{lost.id}")
    assert [one.body for one in outbox.waiting("t")] == ["0", "2"]
    assert outbox.health("t").waiting == 2


def test_a_new_target_has_no_history(outbox: Notifications) -> None:
    health = outbox.health("t")
    assert (health.last_success_at, health.last_error_at, health.last_error) == (None, None, None)
    assert (health.waiting, health.dead) == (0, 0) and outbox.outcomes() == {}
    assert notifications.Health() == health
    queue(outbox)
    [delivery] = outbox.waiting("t")
    assert (delivery.attempts, delivery.next_at, delivery.last_error) == (0, None, None)
    outbox.succeeded(delivery)
    assert outbox.waiting("t") == [] and outbox.outcomes() == {("t", "delivered"): 1}
    assert outbox.redis.keys("nextchar:notifications:delivery:*") == []


def test_records_are_looked_at_once(outbox: Notifications) -> None:
    assert not outbox.has_records() and outbox.unseen_records([]) == []
    outbox.mark_records_seen([])
    assert outbox.has_records() and outbox.seen_records() == set()
    outbox.mark_records_seen(["a", "b"])
    assert outbox.unseen_records(["a", "c", "b", "d"]) == ["c", "d"]
    outbox.mark_records_seen(["c"], deleted=["a"])
    assert outbox.seen_records() == {"b", "c"}
    outbox.forget_records()
    assert not outbox.has_records() and outbox.unseen_records(["b"]) == ["b"]


def test_the_password_of_redis_is_not_shown(outbox: Notifications) -> None:
    assert "redis" not in repr(outbox).casefold()
