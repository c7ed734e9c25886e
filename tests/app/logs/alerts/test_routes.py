import csv
import io
import time
from dataclasses import replace
from typing import Any

import pytest
from redis import Redis

from nextchar.app.logs.alerts.alerts import Alerts
from nextchar.app.logs.alerts.recording import Limits
from nextchar.models.anomaly.alerts import AlertKey, Occurrence
from nextchar.models.anomaly.spans import Span
from tests.app.fakes import publish
from tests.app.service import Service, error_of

NOW = float(int(time.time()))
TOMORROW = NOW + 86_400
PATH = "/v1/models/fake/alerts"


def one(
    template: str, *, p_value: float = 0.005, at: float = NOW, line: str = "a line", model: str = "fake"
) -> Occurrence:
    return Occurrence(
        AlertKey(template, "0:a"),
        model=model,
        version=1,
        line=line,
        score=9.0,
        p_value=p_value,
        estimated_p=p_value,
        spans=[Span(0, 1, 8.0)],
        time=at,
        source="web",
    )


def id_of(template: str) -> str:
    return AlertKey(template, "0:a").alert_id("fake")


@pytest.fixture
def alerts(service: Service) -> Alerts:
    publish(service.models)
    made = Alerts(Redis.from_url(service.settings.redis_url, decode_responses=True), service.blobs)
    made.record(
        [
            one("first", at=NOW - 30),
            one("second", at=NOW - 20, p_value=0.0005),
            one("second", at=NOW - 10, line="=cmd|' /C calc'"),
            one("third", at=NOW, p_value=0.00001),
        ]
    )
    return made


def listed(service: Service, **params: Any) -> list[str]:
    answer = service.http.get(PATH, params=params)
    assert answer.status_code == 200, answer.text
    return [alert["template"] for alert in answer.json()["data"]]


def test_alerts_are_listed_the_one_seen_last_first(service: Service, alerts: Alerts) -> None:
    answer = service.http.get(PATH).json()
    assert [alert["template"] for alert in answer["data"]] == ["third", "second", "first"]
    assert (answer["has_more"], answer["evicted"]) == (False, 0)
    second = answer["data"][1]
    assert second == service.http.get(f"{PATH}/{id_of('second')}").json()
    assert (second["model"], second["count"], second["severity"]) == ("fake", 2, "warning")
    assert (second["counts"], second["interval_s"], second["sources"]) == ([2], 60.0, ["web"])
    assert second["examples"][0]["spans"] == [{"start": 0, "end": 1, "bits": 8.0, "expected": None}]


def test_the_overview_has_the_most_severe_open_alerts_of_all_models(service: Service, alerts: Alerts) -> None:
    publish(service.models, name="other")
    alerts.record([one("worst", p_value=1e-7, model="other"), one("orphan", model="gone")])
    service.http.post(f"{PATH}/{id_of('first')}/acknowledge").raise_for_status()
    found = service.http.get("/v1/alerts", params={"limit": 2}).json()
    assert found["open"] == {"critical": 2, "warning": 1, "info": 0}
    assert [alert["template"] for alert in found["data"]] == ["worst", "third"]
    assert found["scored_last_hour"] == 0
    assert service.http.get("/v1/alerts", params={"limit": 51}).status_code == 422


def test_a_version_has_the_alerts_of_its_name(service: Service, alerts: Alerts) -> None:
    assert len(service.http.get("/v1/models/fake@1/alerts").json()["data"]) == 3
    assert error_of(service.http.get("/v1/models/fake@9/alerts"), 404)["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("params", "templates"),
    [
        ({"severity": "warning"}, ["third", "second"]),
        ({"severity": "critical"}, ["third"]),
        ({"since": NOW - 10}, ["third", "second"]),
        ({"until": NOW - 20}, ["second", "first"]),
        ({"state": "acknowledged"}, ["first"]),
        ({"state": "open"}, ["third"]),
        ({"state": "suppressed"}, ["second"]),
        ({"label": "incident"}, ["third"]),
        ({"label": "none"}, ["second", "first"]),
        ({"limit": 1}, ["third"]),
        ({"after": id_of("third")}, ["second", "first"]),
    ],
)
def test_alerts_are_filtered(
    service: Service, alerts: Alerts, params: dict[str, Any], templates: list[str]
) -> None:
    service.http.post(f"{PATH}/{id_of('first')}/acknowledge")
    service.http.post(f"{PATH}/{id_of('second')}/suppress", json={"until": TOMORROW})
    if "label" in params:
        service.http.post(f"{PATH}/{id_of('third')}/label", json={"label": "incident"})
    assert listed(service, **params) == templates


def test_a_labeled_alert_needs_nobody(service: Service, alerts: Alerts) -> None:
    labeled = service.http.post(f"{PATH}/{id_of('third')}/label", json={"label": "incident"}).json()
    assert (labeled["label"], labeled["state"]) == ("incident", "acknowledged")
    assert labeled["labeled_at"] == pytest.approx(time.time(), abs=60)
    withdrawn = service.http.post(f"{PATH}/{id_of('third')}/label", json={"label": None}).json()
    assert (withdrawn["label"], withdrawn["state"], withdrawn["labeled_at"]) == (None, "open", None)


def test_a_suppression_ends_when_it_is_deleted(service: Service, alerts: Alerts) -> None:
    made = service.http.post(f"{PATH}/{id_of('first')}/suppress", json={"until": TOMORROW}).json()
    assert (made["template"], made["span"], made["alert_id"]) == ("first", "0:a", id_of("first"))
    assert (made["is_active"], made["warning"]) == (True, None)
    assert service.http.get(f"{PATH}/{id_of('first')}").json()["suppressed_until"] == TOMORROW
    path = "/v1/models/fake/suppressions"
    assert service.http.get(path).json()["data"] == [made]
    assert service.http.delete(f"{path}/{made['id']}").status_code == 204
    assert service.http.get(path).json()["data"] == []
    error = error_of(service.http.delete(f"{path}/{made['id']}"), 404)
    assert error["code"] == "suppression_not_found"


def test_a_suppression_of_everything_is_accepted_with_a_warning(service: Service, alerts: Alerts) -> None:
    answer = service.http.post("/v1/models/fake/suppressions", json={"template": "*", "until": TOMORROW})
    assert answer.status_code == 201
    assert "every alert of fake" in answer.json()["warning"]
    assert listed(service, state="suppressed") == ["third", "second", "first"]


def test_a_suppression_of_all_alerts_that_there_are_is_warned_about(service: Service, alerts: Alerts) -> None:
    def warning(template: str, span: str = "*") -> str | None:
        body = {"template": template, "span": span, "until": TOMORROW}
        answer = service.http.post("/v1/models/fake/suppressions", json=body)
        assert answer.status_code == 201, answer.text
        found: str | None = answer.json()["warning"]
        return found

    assert "every alert of fake, including future ones" in (warning("*") or "")
    for template, span in (("*", "0:*"), ("*", "*a"), ("**", "0:a")):
        assert "all 3 alerts that fake has now" in (warning(template, span) or ""), (template, span)
    assert warning("*ir*") is None, "not the second"
    assert warning("second") is None


def test_a_single_alert_can_be_suppressed_without_a_warning(service: Service) -> None:
    publish(service.models)
    redis = Redis.from_url(service.settings.redis_url, decode_responses=True)
    Alerts(redis, service.blobs).record([one("first")])
    body = {"template": "fir*", "until": TOMORROW}
    assert service.http.post("/v1/models/fake/suppressions", json=body).json()["warning"] is None


def test_what_severity_is_made_of_is_told(service: Service) -> None:
    publish(service.models)
    redis = Redis.from_url(service.settings.redis_url, decode_responses=True)
    bounded = replace(one("first", p_value=1 / 136), estimated_p=0.00002)
    Alerts(redis, service.blobs).record([bounded, one("second", p_value=0.0005)])
    found = {alert["template"]: alert for alert in service.http.get(PATH).json()["data"]}
    first, second = found["first"], found["second"]
    assert (first["severity"], first["p_value"], first["estimated_p_value"]) == ("critical", 1 / 136, 0.00002)
    assert (second["severity"], second["estimated_p_value"]) == ("warning", second["p_value"])


def test_everything_is_exported(service: Service, alerts: Alerts) -> None:
    service.http.post(f"{PATH}/{id_of('first')}/label", json={"label": "normal"})
    service.http.post("/v1/models/fake/suppressions", json={"template": "thi*", "until": TOMORROW})
    answer = service.http.get(f"{PATH}/export")
    assert answer.headers["content-disposition"] == 'attachment; filename="fake-alerts.json"'
    exported = answer.json()
    assert [alert["label"] for alert in exported["alerts"]] == [None, None, "normal"]
    assert [suppression["template"] for suppression in exported["suppressions"]] == ["thi*"]
    answer = service.http.get(f"{PATH}/export", params={"format": "csv"})
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["id"] for row in rows] == [alert["id"] for alert in exported["alerts"]]
    assert [row["state"] for row in rows] == ["suppressed", "open", "acknowledged"]
    assert rows[1]["example"] in ("a line", "'=cmd|' /C calc'")
    assert all(not value.startswith("=") for row in rows for value in row.values())


def test_a_list_says_how_many_alerts_had_no_room(service: Service, alerts: Alerts) -> None:
    redis = Redis.from_url(service.settings.redis_url, decode_responses=True)
    Alerts(redis, service.blobs, Limits(max_per_model=2)).record([one("fourth", at=NOW + 1)])
    answer = service.http.get(PATH).json()
    assert [alert["template"] for alert in answer["data"]] == ["too many alerts: <*> evicted", "third"]
    assert (answer["evicted"], answer["data"][0]["count"]) == (3, 2)


def test_an_evaluation_can_take_labels_from_alerts(service: Service, alerts: Alerts) -> None:
    path, body = "/v1/models/fake/evaluate", {"alert_labels": True, "split": "none", "baselines": False}
    service.http.post("/v1/models/fake/calibrate", json={"lines": ["ab" * (1 + i % 9) for i in range(120)]})
    error = error_of(service.http.post(path, json=body), 422)
    assert (error["code"], error["param"]) == ("no_labels", "alert_labels")
    service.http.post(f"{PATH}/{id_of('first')}/label", json={"label": "normal"})
    service.http.post(f"{PATH}/{id_of('second')}/label", json={"label": "incident"})
    alone = service.http.post(path, json=body).json()
    assert (alone["lines"], alone["anomalous"]) == (3, 2)
    given = {"lines": ["ab", "→→→"], "anomalous": [False, True]}
    together = service.http.post(path, json=body | given).json()
    assert (together["lines"], together["anomalous"]) == (5, 3)
    assert {line["text"] for line in together["worst_misses"]} == {"→→→", "a line", "=cmd|' /C calc'"}


def test_an_evaluation_needs_lines_or_labels(service: Service, alerts: Alerts) -> None:
    for lines in ([], ["ab"]):
        body = {"lines": lines, "anomalous": [False] * len(lines)}
        error = error_of(service.http.post("/v1/models/fake/evaluate", json=body), 422)
        assert "at least 2 lines" in error["message"]
