"""Scores and alerts together, in a service whose fake engine finds `→` surprising."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis

from nextchar.app.logs.alerts.alerts import Alert, Alerts
from tests.app.fakes import publish
from tests.app.scoring.test_routes import SCORE, calibrate
from tests.app.service import Service, error_of, until

PLAIN = {"Content-Type": "text/plain"}
LINES = ["ab abab", "ab →→→b 17", "ab →→→b 18"]


@pytest.fixture(autouse=True)
def model(service: Service) -> None:
    publish(service.models)
    calibrate(service, ["ab" * (1 + i % 9) for i in range(120)])


@pytest.fixture
def alerts(service: Service) -> Alerts:
    return Alerts(Redis.from_url(service.settings.redis_url, decode_responses=True), service.blobs)


def score(service: Service, lines: list[str] = LINES, **fields: Any) -> list[dict[str, Any]]:
    answer = service.http.post(SCORE, json={"lines": lines, "detail": "line", **fields})
    assert answer.status_code == 200, answer.text
    scored: list[dict[str, Any]] = answer.json()["lines"]
    return scored


def stream(service: Service, lines: list[str], **params: Any) -> list[dict[str, Any]]:
    answer = service.http.post(SCORE, content="\n".join(lines), headers=PLAIN, params=params)
    records = [json.loads(line) for line in answer.text.splitlines()]
    return [record for record in records if record["object"] == "score.line"]


def only(alerts: Alerts) -> Alert:
    [alert] = alerts.all("fake")
    return alert


def label(service: Service, alert_id: str, label: str | None) -> None:
    path = f"/v1/models/fake/alerts/{alert_id}/label"
    answer = service.http.post(path, json={"label": label, "all_values": True})
    assert (answer.status_code, answer.json()["label"]) == (200, label)


def test_flagged_lines_of_one_group_have_one_alert_id(service: Service, alerts: Alerts) -> None:
    normal, first, second = score(service)
    assert (normal["anomalous"], normal["alert_id"]) == (False, None)
    assert first["anomalous"] and second["anomalous"]
    assert first["alert_id"] == second["alert_id"] != None  # noqa: E711
    assert alerts.all("fake") == [], "nothing is recorded unless the call asks for it"


def test_flagged_lines_are_recorded_when_asked(service: Service, alerts: Alerts) -> None:
    scored = score(service, alerts=True, source="web-1")
    alert = only(alerts)
    assert alert.id == scored[1]["alert_id"]
    figures = alert.figures
    assert (figures.template, figures.span, figures.count) == ("ab →→→b <*>", "1:→→→b", 2)
    assert (figures.version, figures.sources) == (1, ("web-1",))
    assert figures.p_value == 0.008264  # 1 / 121: it is far above all calibration lines
    assert alert.severity == "critical"
    assert "estimated_p" not in service.http.get(f"/v1/models/fake/alerts/{alert.id}").json()
    assert [example.line for example in figures.examples] == LINES[1:]
    spans = [(span.start, span.end) for span in figures.examples[0].spans]
    assert spans == [(span["start"], span["end"]) for span in scored[1]["spans"]]


@pytest.mark.parametrize("context", ["line", "stream"])
@pytest.mark.parametrize("detail", ["none", "line", "character"])
def test_lines_of_a_stream_are_recorded_as_often_as_they_come(
    service: Service, alerts: Alerts, context: str, detail: str
) -> None:
    records = stream(service, LINES * 3, alerts="true", context=context, detail=detail, source="web-1")
    flagged = [record for record in records if record["anomalous"]]
    assert sum(alert.figures.count for alert in alerts.all("fake")) == len(flagged) >= 6
    assert {record["alert_id"] for record in flagged} == {alert.id for alert in alerts.all("fake")}
    assert all(alert.figures.examples[0].spans for alert in alerts.all("fake"))


def test_explanations_do_not_change_the_group(service: Service) -> None:
    ids = [[line["alert_id"] for line in score(service, explain=explain)] for explain in (True, False)]
    assert ids[0] == ids[1]


def test_a_group_labeled_normal_is_no_longer_flagged(service: Service, alerts: Alerts) -> None:
    before = score(service, alerts=True)
    label(service, before[1]["alert_id"], "normal")
    after = score(service, alerts=True)
    assert [(line["anomalous"], line["label"]) for line in after] == [
        (False, None),
        (False, "normal"),
        (False, "normal"),
    ]
    assert after[1]["score"] < before[1]["score"] and after[1]["p_value"] > before[1]["p_value"]
    assert only(alerts).figures.count == 2, "what is normal is not counted"
    assert [record["anomalous"] for record in stream(service, LINES)] == [False, False, False]
    other = score(service, ["ab →→→b →"])[0]  # another template
    assert (other["anomalous"], other["label"]) == (True, None)


def test_a_label_changes_the_scores_of_a_stream_that_is_open(service: Service, alerts: Alerts) -> None:
    [alert_id] = {line["alert_id"] for line in score(service, LINES[1:], alerts=True)}

    def lines() -> Iterator[bytes]:
        yield LINES[1].encode() + b"\n"
        until(lambda: only(alerts).figures.count == 3)
        label(service, alert_id, "incident")
        yield LINES[1].encode() + b"\n"

    answer = service.http.post(SCORE, content=lines(), headers=PLAIN, params={"alerts": True})
    records = [json.loads(text) for text in answer.text.splitlines()]
    assert [record.get("label") for record in records[1:-1]] == [None, "incident"]


def test_a_line_far_above_what_was_labeled_normal_is_flagged(service: Service, alerts: Alerts) -> None:
    [line] = score(service, ["ab →b"], alerts=True)
    label(service, line["alert_id"], "normal")
    decision = only(alerts).decision
    assert decision is not None and decision.label_score == pytest.approx(line["score"], abs=1e-3)
    [same] = score(service, ["ab →b"])
    assert not same["anomalous"]


def test_a_group_that_is_labeled_normal_again_is_no_longer_flagged(service: Service, alerts: Alerts) -> None:
    line, normal = LINES[1], ["ab" * (1 + i % 9) for i in range(120)]
    calibrate(service, [text + "→" * (i % 5) for i, text in enumerate(normal)])
    [first] = score(service, [line], alerts=True)
    label(service, first["alert_id"], "normal")
    calibrate(service, normal)  # which makes the line much more unusual
    [raised] = score(service, [line], alerts=True)
    assert (raised["anomalous"], raised["label"]) == (True, "normal")
    unlowered = first["score"] + raised["score"]
    assert only(alerts).figures.score == pytest.approx(unlowered, abs=1e-3)
    label(service, first["alert_id"], "normal")
    [again] = score(service, [line])
    assert (again["anomalous"], again["label"], again["score"]) == (False, "normal", 0.0)


def test_alerts_need_lines(service: Service) -> None:
    error = error_of(service.http.post(SCORE, json={"text": "ab", "alerts": True}), 422)
    assert "alerts needs lines" in error["message"]
