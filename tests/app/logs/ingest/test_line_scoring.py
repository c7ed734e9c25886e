import json
import random
from typing import Any

import httpx
import pytest
from redis import Redis

from nextchar.app.logs.alerts.alerts import Alerts
from nextchar.app.logs.ingest.records import Batch, LineMeta, NewLine
from nextchar.app.logs.ingest.stream import IngestStreams
from nextchar.app.rooms import ApiSettings
from nextchar.models.text.events import Opener
from tests.app.fakes import publish
from tests.app.service import Service, read_stream, until

INGEST = "/v1/models/fake/ingest"
JSON_LINES = {"Content-Type": "application/x-ndjson"}
PLAIN = {"Content-Type": "text/plain"}


@pytest.fixture(autouse=True)
def model(service: Service) -> None:
    publish(service.models)
    calibrate(service)


def calibrate(service: Service, lines: list[str] | None = None, **more: Any) -> None:
    lines = lines or ["ab" * (1 + i % 9) for i in range(120)]
    answer = service.http.post("/v1/models/fake/calibrate", json={"lines": lines} | more)
    assert answer.status_code == 201, answer.text


def send(service: Service, *lines: str | dict[str, Any], path: str = INGEST, **query: Any) -> httpx.Response:
    body = "".join(json.dumps(line) + "\n" for line in lines)
    answer = service.http.post(path, content=body, headers=JSON_LINES, params=query)
    assert answer.status_code == 202, answer.text
    return answer


def status(service: Service) -> dict[str, Any]:
    found: dict[str, Any] = service.http.get(INGEST).json()
    return found


def flagged(service: Service) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = service.http.get(f"{INGEST}/events").json()["data"]
    return found


def alerts(settings: ApiSettings, service: Service) -> list[tuple[int, str]]:
    redis = Redis.from_url(settings.redis_url, decode_responses=True)
    found = Alerts(redis, service.blobs).all("fake")
    return sorted((alert.figures.count, alert.figures.template) for alert in found)


def until_scored(service: Service, count: int) -> None:
    until(lambda: status(service)["scored"] == count)


def test_lines_are_scored_and_flagged_ones_become_alerts(settings: ApiSettings, service: Service) -> None:
    send(service, "abab", {"message": "ab→", "host": "web-1", "timestamp": 5}, "ab→", "→→")
    until_scored(service, 4)
    assert alerts(settings, service) == [(1, "→→"), (2, "ab→")]
    found = flagged(service)
    assert [(line["id"], line["line"], line["source"], line["time"]) for line in found] == [
        (1, "ab→", "web-1", 5.0),
        (2, "ab→", None, None),
        (3, "→→", None, None),
    ]
    assert found[0]["spans"][0] | {"bits": 0} == {"start": 2, "end": 3, "bits": 0, "expected": "a"}
    assert (found[0]["model"], found[0]["calibration"]) == ("fake@1", "default")
    now = status(service)
    assert (now["waiting"], now["accepted"], now["flagged"], now["failed"]) == (0, 4, 3, 0)
    assert now["per_second"]["scored"] == pytest.approx(4 / 60, abs=0.01)
    assert len(now["consumers"]) == 1 and now["problem"] is None


def test_an_alert_shows_the_lines_of_its_source_before_and_after_it(service: Service) -> None:
    for number, line in enumerate(["ab", "abab", "ab→", "ababab"], 1):
        send(service, line, default_source="web-1")
        send(service, "bb", default_source="web-2")
        until_scored(service, 2 * number)
    [alert] = service.http.get("/v1/models/fake/alerts").json()["data"]
    assert alert["around"] is None
    path = f"/v1/models/fake/alerts/{alert['id']}"
    expected = {"before": ["ab", "abab"], "line": "ab→", "after": ["ababab"]}
    until(lambda: service.http.get(path).json()["around"] == expected)


def test_lines_of_a_source_get_the_flags_of_one_request_however_they_are_sent(
    settings: ApiSettings, service: Service
) -> None:
    normal = ["ab" * (1 + i % 9) for i in range(120)]
    publish(service.models, lines=normal)
    service.http.post("/v1/models/fake@2/calibrate", json={"lines": normal}).raise_for_status()
    r = random.Random(1)
    lines = [r.choice(["ab", "abab", "disk → x", "disk → y", "fan 7 → stopped"]) for _ in range(60)]
    whole = service.http.post("/v1/models/fake@2/score", json={"lines": lines}).json()["lines"]
    path, at = "/v1/models/fake@2/ingest", 0

    def scored(count: int) -> None:
        until(lambda: service.http.get(path).json()["scored"] == count)

    def shown() -> list[str]:
        return [one["line"] for one in service.http.get(f"{path}/events").json()["data"]]

    while at < len(lines):
        size = r.randint(1, 15)
        send(service, *lines[at : at + size], path=path, default_source="web-1")
        at += size
        scored(min(at, len(lines)))
    expected = [line for line, one in zip(lines, whole, strict=True) if one["anomalous"]]
    assert shown() == expected
    rare = sum(bool(one["anomalous"] or one["repeated"]) for one in whole)
    assert rare > len(expected)
    assert sum(count for count, _ in alerts(settings, service)) == rare  # repeats count
    send(service, "disk → x", path=path, default_source="web-2")  # another source is judged by itself
    scored(61)
    assert len(shown()) == len(expected) + 1


def test_a_line_has_the_score_that_a_stream_of_lines_gives_it(service: Service) -> None:
    lines = ["ab→ab", "→", "a" * 30 + "→"]
    send(service, *lines)
    until_scored(service, 3)
    body = "".join(line + "\n" for line in lines)
    answer = service.http.post(
        "/v1/models/fake/score", content=body.encode(), headers={"Content-Type": "text/plain"}
    )
    records = [json.loads(line) for line in answer.text.splitlines()][1:-1]
    assert [(r["score"], r["p_value"]) for r in records] == [
        (line["score"], line["p_value"]) for line in flagged(service)
    ]


def test_a_flagged_line_of_a_group_labeled_normal_has_the_lowered_score(service: Service) -> None:
    normal = ["ab" * (1 + i % 9) for i in range(120)]
    calibrate(service, [line + "→" * (i % 5) for i, line in enumerate(normal)])
    send(service, "→→→→→→")
    until_scored(service, 1)
    path = f"/v1/models/fake/alerts/{flagged(service)[0]['alert_id']}"
    assert service.http.post(f"{path}/label", json={"label": "normal"}).status_code == 200
    calibrate(service, normal)
    send(service, "→→→→→→")
    until_scored(service, 2)
    before, after = flagged(service)
    recorded = service.http.get(path).json()["score"]
    assert recorded == pytest.approx(before["score"] + after["score"], abs=1e-3)


def test_a_field_chooses_the_calibration_if_there_is_one_of_its_name(service: Service) -> None:
    calibrate(service, ["→" * (1 + i % 9) for i in range(120)], name="web-1")
    calibrate(service, ["a→"] * 20, name="small")  # too few lines for the rate
    hosts = ("web-1", "web-2", "small", "10.0.0.1:80", None)
    send(
        service,
        *({"message": "→→", "host": host} for host in hosts),
        calibration_by="host",
        false_alarms=0.01,
    )
    until_scored(service, 5)
    assert [(line["source"], line["calibration"]) for line in flagged(service)] == [
        ("web-2", "default"), ("small", "default"), ("10.0.0.1:80", "default"), (None, "default")
    ]  # fmt: skip


@pytest.mark.parametrize("damaged", [b"{", b'{"format_version": 99, "statistics": []}'])
def test_a_damaged_calibration_that_a_field_chooses_is_not_used(service: Service, damaged: bytes) -> None:
    service.blobs.write(f"model_files/{service.models.get('fake').card.id}/calibrations/web-1.json", damaged)
    send(service, *({"message": "→→", "host": host} for host in ("web-1", "web-2")), calibration_by="host")
    until(lambda: status(service)["waiting"] == 0)
    now = status(service)
    assert (now["scored"], now["failed"], now["problem"]) == (2, 0, None)
    assert [line["calibration"] for line in flagged(service)] == ["default", "default"]


def test_lines_of_a_model_that_is_deleted_wait_for_the_next(service: Service, settings: ApiSettings) -> None:
    publish(service.models, name="other")
    streams = IngestStreams(Redis.from_url(settings.redis_url))
    streams.accept([Batch("gone", [NewLine(b"ab", LineMeta())])])
    until(lambda: streams.status("gone").problem)
    answer = service.http.get("/v1/models/gone/ingest").json()
    assert (answer["waiting"], answer["problem"]["code"]) == (1, "model_not_found")
    publish(service.models, name="gone")
    until(lambda: (problem := streams.status("gone").problem) and problem.code == "no_calibration")
    assert service.http.get("/v1/models/gone/ingest").json()["problem"]["code"] == "no_calibration"
    lines = ["ab"] * 120
    assert service.http.post("/v1/models/gone/calibrate", json={"lines": lines}).status_code == 201
    until(lambda: service.http.get("/v1/models/gone/ingest").json()["scored"] == 1)
    assert service.http.get("/v1/models/gone/ingest").json()["problem"] is None


def test_flagged_lines_are_streamed_from_where_the_client_was(service: Service) -> None:
    send(service, "→", "→→")
    until_scored(service, 2)
    headers = {"Accept": "text/event-stream", "Last-Event-ID": "1"}
    with service.http.stream("GET", f"{INGEST}/events", headers=headers) as answer:
        events = read_stream(answer.iter_lines())
        number, kind, line = next(events)
        assert (number, kind, line["line"]) == ("2", "flagged", "→→")
        send(service, "ab", "→→→")
        number, _, line = next(events)
        assert (number, line["line"]) == ("3", "→→→")


def test_flagged_lines_are_paged(service: Service) -> None:
    send(service, *("→" * (1 + i) for i in range(5)))
    until_scored(service, 5)
    page = service.http.get(f"{INGEST}/events", params={"after": 1, "limit": 2}).json()
    assert [line["id"] for line in page["data"]] == [2, 3] and page["has_more"]


def test_lines_that_drift_are_told_and_can_become_the_calibration(service: Service) -> None:
    send(service, *("ab" * (1 + i % 9) for i in range(120)))
    until_scored(service, 120)
    assert status(service)["change"] is None
    drifted = ["→a" * (1 + i % 9) for i in range(100)]
    send(service, *drifted)
    until(lambda: status(service)["change"])  # counted after the lines are scored
    until_scored(service, 220)
    warning = status(service)["change"]["sentence"]
    assert warning and "of 220 lines" in warning and status(service)["change"]["sentence"] == warning
    made = service.http.post("/v1/models/fake/calibrate", json={"ingested": True})
    assert made.status_code == 201, made.text
    assert (made.json()["name"], made.json()["lines"], made.json()["source"]) == (
        "default", 220, "ingested lines"
    )  # fmt: skip
    assert status(service)["change"] is None
    send(service, *drifted)
    until_scored(service, 320)
    assert status(service)["change"] is None


def test_a_model_of_bytes_is_calibrated_on_the_bytes_that_were_ingested(service: Service) -> None:
    card = publish(service.models, name="raw", characters="".join(map(chr, range(255))), alphabet="bytes")
    given = service.http.post("/v1/models/raw/calibrate", json={"lines": ["ab"] * 120})
    assert given.status_code == 201, given.text
    lines = [b"caf\xe9" * (1 + i % 9) for i in range(120)]
    accepted = service.http.post("/v1/models/raw/ingest", content=b"\n".join(lines), headers=PLAIN)
    assert accepted.json()["accepted"] == 120
    until(lambda: service.http.get("/v1/models/raw/ingest").json()["scored"] == 120)
    recent = IngestStreams(Redis.from_url(service.settings.redis_url)).recent
    until(lambda: len(recent.read("raw")) == 120)
    made = service.http.post("/v1/models/raw/calibrate", json={"ingested": True})
    assert made.status_code == 201, made.text
    stored = json.loads(service.blobs.read(f"model_files/{card.id}/calibrations/default.json"))
    assert stored["characters"] == sum(map(len, lines))


def publish_events(service: Service) -> None:
    """Publish a model of a log whose events have several lines."""
    lines = ["09:00:01 ab", "09:00:02 b", "  at c"]
    publish(service.models, lines=lines, opener=Opener(frozenset({""})))
    score = "/v1/models/fake/score"
    until(lambda: service.http.post(score, json={"text": "a"}).json()["model"] == "fake@2")
    calibrate(service, lines * 60)


def test_lines_of_an_event_are_one_alert_of_its_fingerprint(settings: ApiSettings, service: Service) -> None:
    publish_events(service)
    trace = [
        "io.AcmeException: →→→",
        "\tat io.acme.Cart$$e7.add(Cart.java:7)",
        "\tat io.acme.Main.main(Main.java:9)",
    ]
    send(service, "09:00:01 ab", "09:00:02 b→→", *trace, "09:00:03 ab")
    send(service, "09:00:04 b→→", "\n".join(trace).replace("7", "8"))
    until_scored(service, 10)
    [(count, template)] = alerts(settings, service)
    assert (count, template) == (2, "<*>:<*>:<*> b→→ io.AcmeException io.acme.Cart.add io.acme.Main.main")
    assert [line["line"].count("\n") for line in flagged(service)] == [3], "the other is a repeat"


def test_events_are_joined_over_requests_and_apart_by_source(service: Service) -> None:
    publish_events(service)
    send(service, {"message": "09:00:02 b→→", "host": "a"})
    send(service, {"message": "09:00:02 →→b", "host": "b"})
    send(service, {"message": "  at c", "host": "a"})
    until_scored(service, 3)
    assert sorted((line["source"], line["line"]) for line in flagged(service)) == [
        ("a", "09:00:02 b→→\n  at c"), ("b", "09:00:02 →→b")
    ]  # fmt: skip
