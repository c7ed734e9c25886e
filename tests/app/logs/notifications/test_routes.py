import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from redis import Redis

from nextchar.app.logs import room
from nextchar.app.logs.notifications.outbox import RETRY_DELAYS_S, Outbox
from nextchar.app.logs.notifications.targets import is_secret
from nextchar.app.rooms import ApiSettings
from tests.app.fakes import publish
from tests.app.logs.notifications.receiver import Receiver, receiving
from tests.app.logs.notifications.test_notifier import verify
from tests.app.scoring.test_routes import SCORE, calibrate
from tests.app.service import Service, error_of, serving
from tests.waiting import eventually

PATH = "/v1/notification_targets"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


@pytest.fixture
def notifying(settings: ApiSettings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """The API, which may report to this machine and does so often."""
    monkeypatch.setattr(room, "NOTIFY_S", 0.05)
    with serving(settings.model_copy(update={"allow_private_targets": True})) as running:
        publish(running.models)
        yield running


def create(service: Service, url: str, **fields: Any) -> dict[str, Any]:
    answer = service.http.post(PATH, json={"kind": "webhook", "url": url, **fields})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def flag(service: Service) -> str:
    """Have a line flagged and recorded; return its alert."""
    calibrate(service, ["ab" * (1 + i % 9) for i in range(120)])
    answer = service.http.post(SCORE, json={"lines": ["ab →→→b 17"], "alerts": True})
    return str(answer.json()["lines"][0]["alert_id"])


def test_a_flagged_line_arrives_at_a_webhook(notifying: Service, receiver: Receiver) -> None:
    made = create(notifying, receiver.url)
    assert is_secret(made["secret"])
    alert_id = flag(notifying)
    eventually(lambda: receiver.requests, what="the message")
    message = json.loads(receiver.requests[0].body)
    assert (message["type"], message["data"]["id"]) == ("alert.firing", alert_id)
    assert receiver.requests[0].headers["webhook-signature"].startswith("v1,")
    path = f"{PATH}/{made['id']}"
    eventually(lambda: notifying.http.get(path).json()["last_success_at"], what="the success is noted")
    assert notifying.http.get(path).json()["secret"] is None, "it is shown once"
    metrics = notifying.http.get("/metrics").text
    assert 'nextchar_alert_lines_total{model="fake",severity="' in metrics
    assert 'nextchar_alerts_opened_total{model="fake",severity="' in metrics
    assert f'nextchar_notifications_total{{outcome="delivered",target="{made["id"]}"}} 1.0' in metrics


def test_targets_are_listed_and_deleted(service: Service) -> None:
    made = [
        service.http.post(
            PATH, json={"kind": "alertmanager", "url": f"https://93.184.216.34/{i}", "models": ["web-*"]}
        ).json()
        for i in range(2)
    ]
    assert [target["secret"] for target in made] == [None, None]
    listed = service.http.get(PATH).json()["data"]
    assert [target["id"] for target in listed] == [made[1]["id"], made[0]["id"]]
    assert service.http.delete(f"{PATH}/{made[0]['id']}").status_code == 204
    assert len(service.http.get(PATH).json()["data"]) == 1
    for call in (service.http.get, service.http.delete):
        assert error_of(call(f"{PATH}/{made[0]['id']}"), 404)["code"] == "target_not_found"


def test_messages_that_do_not_arrive_are_shown(notifying: Service, receiver: Receiver) -> None:
    receiver.status, receiver.body = 500, b"out of order"
    made = create(notifying, receiver.url)
    flag(notifying)
    path = f"{PATH}/{made['id']}/deliveries"
    for_waiting = partial(notifying.http.get, path, params={"status": "waiting"})
    eventually(lambda: [one for one in for_waiting().json()["data"] if one["attempts"]])
    [waiting] = for_waiting().json()["data"]
    assert (waiting["attempts"], waiting["last_error"]) == (1, "the response is 500: out of order")
    assert notifying.http.get(f"{PATH}/{made['id']}").json()["last_error_at"]
    outbox = Outbox(Redis.from_url(notifying.settings.redis_url, decode_responses=True))
    for _ in range(len(RETRY_DELAYS_S)):
        outbox.failed(outbox.waiting(made["id"])[0], "still out of order", now=4e9)
    [dead] = notifying.http.get(path).json()["data"]
    assert (dead["id"], dead["status"], dead["last_error"]) == (waiting["id"], "dead", "still out of order")
    assert notifying.http.get(f"{PATH}/{made['id']}").json()["dead"] == 1


@pytest.mark.parametrize("kind", ["webhook", "alertmanager"])
def test_a_test_message_is_signed_and_its_answer_returned(
    notifying: Service, receiver: Receiver, kind: str
) -> None:
    made = create(notifying, receiver.url, kind=kind)
    receiver.status, receiver.body = 200, b"thank you"
    answer = notifying.http.post(f"{PATH}/{made['id']}/test").json()
    fields = (answer["delivered"], answer["status"], answer["answer"], answer["error"])
    assert fields == (True, 200, "thank you", None)
    [request] = receiver.requests
    if kind == "webhook":
        verify(made["secret"], request.headers, request.body)
        assert json.loads(request.body)["type"] == "test"
    else:
        assert request.path == "/api/v2/alerts"
        assert json.loads(request.body)[0]["labels"] == {"alertname": "NextcharTest"}
    receiver.status, receiver.body = 401, b"wrong signature"
    answer = notifying.http.post(f"{PATH}/{made['id']}/test").json()
    fields = (answer["delivered"], answer["status"], answer["answer"])
    assert fields == (False, 401, "wrong signature") and "401" in answer["error"]
    assert notifying.http.get(f"{PATH}/{made['id']}").json()["last_error"] == answer["error"]


def test_a_test_of_a_target_that_does_not_answer_says_so(settings: ApiSettings) -> None:
    with receiving() as receiver:
        url = receiver.url
    with serving(settings.model_copy(update={"webhook_url": url})) as running:
        answer = running.http.post(f"{PATH}/settings-webhook/test").json()
        assert (answer["delivered"], answer["status"]) == (False, None) and answer["error"]
        error = error_of(running.http.post(f"{PATH}/target_000000000000/test"), 404)
        assert error["code"] == "target_not_found"


def test_a_webhook_of_settings_gets_the_events_of_settings(settings: ApiSettings) -> None:
    changes = {"webhook_url": "http://127.0.0.1:9/", "webhook_events": "job.failed, alert.firing"}
    with serving(settings.model_copy(update=changes)) as running:
        [made] = running.http.get(PATH).json()["data"]
        assert made["events"] == ["alert.firing", "job.failed"]
    with pytest.raises(ValueError, match=r"'job\.done' is not a type of event"):
        ApiSettings(webhook_events="job.done")


def test_targets_of_settings_are_listed_and_stay(settings: ApiSettings, receiver: Receiver) -> None:
    changes = {"webhook_url": receiver.url, "alertmanager_url": "http://alertmanager:9093"}
    with serving(settings.model_copy(update=changes)) as running:
        listed = running.http.get(PATH).json()["data"]
        assert [(t["id"], t["is_setting"]) for t in listed] == [
            ("settings-alertmanager", True),
            ("settings-webhook", True),
        ]
        error = error_of(running.http.delete(f"{PATH}/settings-webhook"), 404)
        assert "one of the settings" in error["message"]
