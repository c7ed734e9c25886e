import pytest
from redis import Redis

from nextchar.app.logs.notifications import outbox as module
from nextchar.app.logs.notifications.outbox import RETRY_DELAYS_S, Delivery, Outbox
from nextchar.store.ids import new_id

ONE = Delivery(id="msg_1", target="t", body="{}", created_at=1.0)


@pytest.fixture
def outbox(redis: Redis) -> Outbox:
    return Outbox(redis)


def queue(outbox: Outbox, body: str = "{}", *, now: float = 1.0, owner: str = "") -> None:
    delivery = Delivery(id=new_id("msg"), target="t", body=body, created_at=now, owner=owner)
    outbox.record("t", {body: {"severity": "info"}}, [delivery])


def bodies(deliveries: list[Delivery]) -> list[str]:
    return [delivery.body for delivery in deliveries]


def test_a_message_is_queued_once_under_its_id(outbox: Outbox) -> None:
    outbox.record("t", {}, [ONE, ONE])
    outbox.failed(outbox.waiting("t")[0], "no", now=3.0)
    outbox.record("t", {}, [ONE])
    assert [one.next_at for one in outbox.waiting("t")] == [3.0 + RETRY_DELAYS_S[0]]


def test_retries_have_growing_delays_and_end_as_a_dead_letter(outbox: Outbox) -> None:
    queue(outbox)
    [delivery] = outbox.due("t", now=4e9, limit=10)
    assert (delivery.attempts, delivery.next_at, delivery.last_error) == (0, None, None)
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
    assert (dead.id, dead.attempts) == (delivery.id, len(RETRY_DELAYS_S) + 1)
    assert dead.last_error == "still no answer"
    assert (outbox.health("t").waiting, outbox.health("t").dead) == (0, 1)


def test_what_waits_for_a_target_is_bounded(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 2)
    monkeypatch.setattr(module, "MAX_DEAD", 3)
    for i in range(7):
        queue(outbox, str(i), now=float(i))
        outbox.drop_surplus("t", now=float(i))
    assert bodies(outbox.waiting("t")) == ["0", "1"]
    dead = outbox.dead("t")
    assert bodies(dead) == ["6", "5", "4"]
    assert dead[0].last_error == "2 other messages wait for this target"
    assert len(outbox.redis.keys("nextchar:notifications:delivery:*")) == 5


def test_a_flood_of_one_owner_gives_up_its_own_messages(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 6)
    monkeypatch.setattr(module, "MAX_DEAD", 6)
    for number in range(24):
        owner = "flood" if number < 20 else "quiet"
        queue(outbox, f"{owner}{number}", now=float(number), owner=owner)
    outbox.drop_surplus("t", now=24.0)
    due = outbox.due("t", now=99.0, limit=9)
    assert bodies(due) == ["flood0", "quiet20", "flood1", "quiet21", "flood2", "quiet22"], "in turns"
    assert len(outbox.dead("t")) == 6 and "quiet23" in bodies(outbox.dead("t"))
    outbox.forget("t")
    assert outbox.redis.keys("nextchar:notifications:*") == []


def test_a_message_that_redis_has_lost_does_not_hide_the_others(outbox: Outbox) -> None:
    for number in range(3):
        queue(outbox, str(number), now=float(number))
    lost = outbox.waiting("t")[1]
    outbox.redis.delete(f"nextchar:notifications:delivery:{lost.id}")
    assert bodies(outbox.waiting("t")) == ["0", "2"]
    assert outbox.health("t").waiting == 2


def test_a_message_of_an_earlier_release_is_read(outbox: Outbox) -> None:
    stored = '{"body":"{}","created_at":1.0,"id":"msg_1","model":"m","next_at":null,"target":"t"}'
    outbox.redis.set("nextchar:notifications:delivery:msg_1", stored)
    outbox.redis.zadd("nextchar:notifications:due:t", {"msg_1": 1.0})
    assert outbox.due("t", now=1.0, limit=1) == [ONE]
