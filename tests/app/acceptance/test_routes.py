"""Events of suggestions are counted right once, whatever is sent again and in whatever order."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis

from nextchar.app.backup import connect, read_key
from nextchar.app.rooms import ApiSettings
from tests.app.fakes import publish
from tests.app.service import Service, error_of, serving

ids = itertools.count()


@pytest.fixture
def service(settings: ApiSettings) -> Iterator[Service]:
    """The API with two versions of a model."""
    with serving(settings) as running:
        publish(running.models)
        publish(running.models)
        yield running


def event(kind: str, suggestion: str = "sug_1.0", **fields: Any) -> dict[str, Any]:
    return {"id": f"e{next(ids)}", "type": kind, "suggestion_id": suggestion, "model": "fake@2"} | fields


def send(service: Service, *events: dict[str, Any]) -> dict[str, int]:
    answer = service.http.post("/v1/events", json={"events": events})
    assert answer.status_code == 202, answer.text
    return {name: count for name, count in answer.json().items() if name != "object"}


def total(service: Service, model: str = "fake") -> dict[str, Any]:
    found: dict[str, Any] = service.http.get(f"/v1/models/{model}/acceptance").json()["total"]
    return {name: value for name, value in found.items() if value}


def test_an_event_that_is_sent_again_counts_once(service: Service) -> None:
    shown, accepted = event("shown"), event("accepted", characters=6, typed=2)
    assert send(service, shown, accepted) == {"accepted": 2, "duplicates": 0, "rejected": 0}
    once = total(service)
    assert once == {
        "shown": 1,
        "accepted": 1,
        "acceptance_rate": 1.0,
        "characters_saved": 6,
        "characters_typed": 2,
    }
    assert send(service, accepted, shown, shown) == {"accepted": 0, "duplicates": 3, "rejected": 0}
    assert total(service) == once


def test_a_suggestion_that_is_drawn_again_is_shown_once(service: Service) -> None:
    send(service, *(event("shown", latency_ms=4) for _ in range(3)), event("shown", "sug_1.1"))
    found = total(service)
    assert found.pop("latency_ms") == {"p50": 4.0, "p90": 4.8, "p99": pytest.approx(4.98)}
    assert found == {"shown": 2}


def test_what_was_accepted_was_shown_and_not_dismissed_in_whatever_order(service: Service) -> None:
    orders = list(itertools.permutations(("shown", "accepted", "dismissed", "typed", "kept")))
    for kinds in zip(*orders, strict=True):
        events = [event(kind, f"sug_1.{n}", characters=5, typed=1) for n, kind in enumerate(kinds)]
        send(service, *events)
    count = len(orders)
    assert total(service) == {
        "shown": count,
        "accepted": count,
        "kept": count,
        "characters_saved": 5 * count,
        "characters_typed": count,
        "acceptance_rate": 1.0,
        "kept_rate": 1.0,
    }


def test_typing_something_else_replaces_dismissing_and_accepting_by_words_saves_once(
    service: Service,
) -> None:
    send(service, event("dismissed", "a"), event("typed", "a", characters=9), event("dismissed", "b"))
    assert total(service) == {"shown": 2, "typed": 1, "dismissed": 1}
    send(service, *(event("accepted", "c", characters=n, typed=2) for n in (5, 9, 14)))
    assert total(service)["characters_saved"] == 14


def test_figures_are_given_by_version_client_and_day(service: Service, settings: ApiSettings) -> None:
    send(
        service,
        event("shown", "a", model="fake@1", client="js/1"),
        event("accepted", "a", model="fake@1", characters=3),  # belongs to what the suggestion's first said
        event("shown", "b", client="vim/2", latency_ms=40.0),
        event("shown", "a"),  # of another version
    )
    found = service.http.get("/v1/models/fake/acceptance").json()
    shown = {key: [(one[label], one["shown"], one["accepted"]) for one in found[key]] for key, label in (
        ("versions", "model"), ("clients", "client"), ("by_day", "model")
    )}  # fmt: skip
    assert shown == {
        "versions": [("fake@1", 1, 1), ("fake@2", 2, 0)],
        "clients": [(None, 1, 0), ("js/1", 1, 1), ("vim/2", 1, 0)],
        "by_day": [("fake@1", 1, 1), ("fake@2", 2, 0)],
    }
    assert found["total"]["latency_ms"] == {"p50": 40.0, "p90": pytest.approx(48), "p99": pytest.approx(49.8)}
    assert total(service, "fake@1") == total(service, "fake@1") | {"shown": 1, "accepted": 1}
    with Redis.from_url(settings.redis_url, decode_responses=True) as redis:
        [day] = redis.scan_iter("nextchar:acceptance:day:fake:*")
        assert 0 < redis.ttl(day) <= 90 * 86_400  # type: ignore[operator]
        redis.rename(day, day[:-5] + f"{int(day[-5:]) - 3}")
    assert total(service)["shown"] == 3
    assert service.http.get("/v1/models/fake/acceptance?days=3").json()["total"]["shown"] == 0


def test_tabby_and_beacons_and_calls_without_a_model(service: Service) -> None:
    view = {"type": "view", "completion_id": "cmpl-1", "choice_index": 0, "view_id": "v1"}
    select = view | {"type": "select", "elapsed": 1200, "select_kind": "line"}
    dismiss = view | {"type": "dismiss", "elapsed": 1200}
    for one in (view, view, select, dismiss):
        beacon = service.http.post(
            "/v1/events", content=json.dumps(one), headers={"Content-Type": "text/plain;charset=UTF-8"}
        )
        assert beacon.status_code == 202, beacon.text
    assert total(service, "fake@2") == {"shown": 1, "accepted": 1, "acceptance_rate": 1.0}
    send(service, view | {"type": "dismiss", "choice_index": 1, "view_id": None})
    assert total(service, "fake@2")["dismissed"] == 1


def test_text_and_ids_are_not_stored(service: Service, settings: ApiSettings) -> None:
    secrets = ("a secret text", "a secret id", "a secret suggestion", "a secret client")
    text, client_id = "a secret text", "a secret client"
    send(service, event("accepted", "a secret suggestion", id="a secret id", text=text, client_id=client_id))
    with connect(settings.redis_url) as redis:
        stored = [repr(read_key(redis, key)) for key in redis.scan_iter("*")]
    stored += [path.read_text("latin-1") for path in settings.data_dir.glob("**/*") if path.is_file()]
    assert "shown" in "".join(stored)
    assert not any(secret in one for secret in secrets for one in stored)


def test_many_events_of_many_programs_take_bounded_memory(settings: ApiSettings) -> None:
    small = settings.model_copy(update={"event_memory_bytes": 1 << 20})
    with serving(small) as service, Redis.from_url(settings.redis_url) as redis:
        publish(service.models), publish(service.models)
        for batch in range(20):
            kinds = [event("shown", f"s{batch}.{n}", client=f"program/{n % 80}") for n in range(1000)]
            send(service, *kinds)
        first = kinds[0]
        assert send(service, first)["duplicates"] == 1
        used = sum(redis.memory_usage(f"nextchar:acceptance:{name}") or 0 for name in ("new", "old"))  # type: ignore[misc]
        assert used < 2 << 20
        assert total(service)["shown"] == 20_000
        clients = service.http.get("/v1/models/fake/acceptance").json()["clients"]
        assert len(clients) == 51 and {one["client"] for one in clients} >= {"other", "program/0"}


def test_what_is_older_than_half_the_period_is_still_known(service: Service, settings: ApiSettings) -> None:
    shown, accepted = event("shown"), event("accepted")
    send(service, shown)
    with Redis.from_url(settings.redis_url) as redis:
        redis.hset("nextchar:acceptance:new", "began", 1)  # long ago
        assert send(service, shown)["duplicates"] == 1 and redis.exists("nextchar:acceptance:old")
    send(service, accepted)
    assert send(service, shown, accepted, event("shown"))["duplicates"] == 2
    assert total(service) == {"shown": 1, "accepted": 1, "acceptance_rate": 1.0}


def test_events_of_models_that_are_gone_are_rejected_and_the_others_count(service: Service) -> None:
    other, own = event("shown", model="gone@1"), event("shown")
    assert send(service, other, own) == {"accepted": 1, "duplicates": 0, "rejected": 1}
    answer = service.http.post("/v1/events", json={"events": [other]})
    assert error_of(answer, 404)["code"] == "model_not_found"


def test_counts_are_deleted_with_the_last_version(service: Service, settings: ApiSettings) -> None:
    send(service, event("shown"), event("shown", model="fake@1"))
    assert (
        'nextchar_suggestions_total{model="fake@1",outcome="shown"} 1.0' in service.http.get("/metrics").text
    )
    for _ in range(2):
        assert service.http.delete("/v1/models/fake").is_success
    assert "nextchar_suggestions_total{" not in service.http.get("/metrics").text
    with Redis.from_url(settings.redis_url) as redis:
        assert not list(redis.scan_iter("nextchar:acceptance:day:*"))


def test_without_redis_events_are_refused_and_can_be_sent_again(settings: ApiSettings) -> None:
    down = settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})
    with serving(down) as service:
        publish(service.models), publish(service.models)
        answer = service.http.post("/v1/events", json={"events": [event("shown")]})
    assert error_of(answer, 503)["code"] == "queue_unavailable"
    assert int(answer.headers["retry-after"]) >= 1
