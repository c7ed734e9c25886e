import gzip
import http.client
import json
import uuid
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from nextchar.app.http.rules import Rule, Rules
from nextchar.app.scoring.streams import Streams
from nextchar.models.anomaly.calibrated_scorer import CalibratedScorer
from nextchar.models.text.events import Opener
from nextchar.models.text.lines import MAX_LINE_CHARACTERS
from tests.app.fakes import publish
from tests.app.service import Service, error_of, until

SCORE = "/v1/models/fake/score"


@pytest.fixture(autouse=True)
def model(service: Service) -> None:
    publish(service.models)


def stream(service: Service, data: bytes, kind: str = "text/plain", **query: Any) -> list[dict[str, Any]]:
    """Send lines; return the records."""
    answer = service.http.post(SCORE, content=data, headers={"Content-Type": kind}, params=query)
    return records(answer)


def records(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    found = [json.loads(line) for line in answer.text.split("\n") if line]
    assert found[0]["object"] == "score.start" and found[-1]["object"] == "score.end"
    return found


def scored(service: Service, data: bytes, kind: str = "text/plain", **query: Any) -> list[dict[str, Any]]:
    return stream(service, data, kind, **query)[1:-1]


def calibrate(service: Service) -> None:
    lines = ["ab" * (1 + i % 9) for i in range(120)]
    assert service.http.post("/v1/models/fake/calibrate", json={"lines": lines}).status_code == 201


def test_record_has_the_number_and_offset_of_its_line(service: Service) -> None:
    found = scored(service, "ab\n\né→\nlast".encode())
    assert [(one["line"], one["offset"], one["characters"], one["total_bits"]) for one in found] == [
        (1, 0, 2, 2.0), (2, 3, 0, 0.0), (3, 4, 2, 16.0), (4, 10, 4, 4.0)
    ]  # fmt: skip


def test_stream_and_json_give_a_line_the_same_score(service: Service) -> None:
    calibrate(service)
    lines = ["abab", "ab→ab", ""]
    body = {"lines": lines, "detail": "character"}
    whole = service.http.post(SCORE, json=body).json()["lines"]
    found = scored(service, "\n".join(lines).encode() + b"\n", detail="character", explain=True)
    for one, other in zip(found, whole, strict=True):
        fields = {name: value for name, value in other.items() if value is not None}
        assert {name: one[name] for name in fields} == fields


def test_only_anomalous_returns_anomalous_lines_only(service: Service) -> None:
    calibrate(service)
    start, *found, end = stream(service, "ab\nab→→→\nba\n".encode(), only="anomalous", echo=True)
    assert [(one["line"], one["text"], one["anomalous"]) for one in found] == [(2, "ab→→→", True)]
    assert (end["lines"], end["anomalous"], end["characters"]) == (3, 1, 9)
    assert start["calibration"]["lines"] == 120 and start["model"] == "fake@1"


def test_stream_that_has_drifted_from_the_calibration_ends_with_advice(service: Service) -> None:
    calibrate(service)
    end = stream(service, "ab→→ab→\n".encode() * 150, only="anomalous")[-1]
    assert (end["unusual"], end["lines"]) == (150, 150) and end["change"]["kind"] == "log"
    assert "150 of 150 lines" in end["change"]["sentence"]
    end = stream(service, b"abab\n" * 150, only="anomalous")[-1]
    assert end["unusual"] == 0 and "change" not in end


def test_ids_of_json_lines_are_returned(service: Service) -> None:
    data = b'"ab"\n{"line": "abc", "id": [7]}\n{"text": "x"}\nnone\n"a\\u0301"\n'
    found = scored(service, data, "application/x-ndjson")
    assert [one.get("characters") for one in found] == [2, 3, None, None, 1]
    assert found[1]["id"] == [7]
    assert {one["error"]["code"] for one in found[2:4]} == {"malformed_line"}


def test_bytes_that_are_not_utf8_are_reported_and_the_stream_continues(service: Service) -> None:
    found = stream(service, b"ab\nca\xe9fe\n\xff\xfe\nab\n")
    assert [one.get("not_utf8") for one in found[1:-1]] == [
        None, {"offset": 5, "byte": "0xe9"}, {"offset": 9, "byte": "0xff"}, None
    ]  # fmt: skip
    assert found[2]["characters"] == 5 and found[-1]["not_utf8"] == 2


def test_overlong_line_is_truncated_and_marked(service: Service) -> None:
    long = b"a" * (MAX_LINE_CHARACTERS + 5) + b"\n" + b"b" * 10_000_000 + b"\nab\n"
    found = scored(service, long)
    assert [(one["characters"], one.get("truncated")) for one in found] == [
        (MAX_LINE_CHARACTERS, True), (MAX_LINE_CHARACTERS, True), (2, None)
    ]  # fmt: skip
    assert found[2]["offset"] == MAX_LINE_CHARACTERS + 6 + 10_000_001


def test_gzip_is_decoded_and_malformed_gzip_ends_the_stream_with_an_error(service: Service) -> None:
    packed = gzip.compress(b"ab\nabc\n")
    headers = {"Content-Type": "text/plain", "Content-Encoding": "gzip"}
    found = records(service.http.post(SCORE, content=packed, headers=headers))
    assert [one["characters"] for one in found[1:-1]] == [2, 3]
    found = records(service.http.post(SCORE, content=packed[:-6], headers=headers))
    assert found[-2]["error"]["code"] == "gzip_broken"


def test_stream_may_be_larger_than_the_body_limit(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    find = Rules.find

    def with_small_body(rules: Rules, method: str, path: str) -> Rule:
        rule = find(rules, method, path)
        assert rule.body
        return replace(rule, body=replace(rule.body, max_bytes=10_000))

    monkeypatch.setattr(Rules, "find", with_small_body)
    line = b"abcdefghij" * 10 + b"\n"
    end = stream(service, line * 3_000, only="anomalous")[-1]
    assert (end["lines"], end["characters"]) == (3_000, 300_000)
    assert error_of(service.http.post(SCORE, json={"text": "a" * 20_000}), 413)["code"] == "body_too_large"


def test_lines_are_answered_while_more_are_sent(service: Service) -> None:
    place = urlsplit(str(service.http.base_url))
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)
    connection.putrequest("POST", SCORE)
    connection.putheader("Content-Type", "text/plain")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()

    def send(data: bytes) -> None:
        connection.send(b"%x\r\n%s\r\n" % (len(data), data))

    send(b"ab\nabc")
    answer = connection.getresponse()
    assert json.loads(answer.readline())["object"] == "score.start"
    assert json.loads(answer.readline())["characters"] == 2
    send(b"d\n")
    assert json.loads(answer.readline())["characters"] == 4
    send(b"")
    assert json.loads(answer.readline())["object"] == "score.end"
    connection.close()


def test_stream_with_an_id_continues_over_calls(service: Service) -> None:
    query = {"context": "stream", "stream_id": "s"}
    assert stream(service, b"ab\nab\n", **query)[-1]["stream"] == {"id": "s", "lines": 2, "restarted": "new"}
    assert stream(service, b"ab\n", **query)[-1]["stream"] == {"id": "s", "lines": 3, "restarted": None}


def test_disconnected_client_frees_its_resources(service: Service) -> None:
    place = urlsplit(str(service.http.base_url))
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)
    connection.putrequest("POST", SCORE)
    connection.putheader("Content-Type", "text/plain")
    connection.putheader("Content-Length", "1000")
    connection.endheaders()
    connection.send(b"ab\n")
    connection.getresponse().readline()
    connection.close()
    assert len(scored(service, b"ab\n")) == 1
    [engine] = service.engines
    assert service.http.delete("/v1/models/fake").status_code == 200
    until(engine.closed.is_set)  # as soon as no call holds the model


def test_stream_without_redis_ends_with_queue_unavailable(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def try_lock(*_: object, **__: object) -> None:
        raise redis.ConnectionError("connection refused")

    monkeypatch.setattr(Streams, "try_lock", try_lock)
    *_, error, _ = stream(service, b"ab\n", context="stream", stream_id="s")
    assert error["object"] == "error" and error["error"]["code"] == "queue_unavailable"


def test_internal_error_ends_the_stream_with_an_error_record(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(CalibratedScorer, "read", broken)
    *_, error, _ = stream(service, b"ab\n")
    assert error["object"] == "error" and error["error"]["code"] == "internal_error"


def test_expected_characters_are_returned_except_for_long_lines(service: Service) -> None:
    data = ("ab\n" * 3000 + "a" * 6000 + "\n").encode()
    *short, long = scored(service, data, detail="character", expected=2)
    assert len(short) == 3000
    assert all(len(line["expected"]) == 2 and line["expected"][0] for line in short)
    assert "expected" not in long and len(long["bits"]) == 6000


@pytest.mark.parametrize("depth", [101, 3_000, 9_991, 60_000])
def test_id_nested_too_deeply_makes_its_line_malformed(service: Service, depth: int) -> None:
    deep = b'{"line": "a", "id": ' + b"[" * depth + b"]" * depth + b"}\n"
    fine = b'{"line": "a", "id": ' + b"[" * 100 + b"]" * 100 + b"}\n"
    first, second = scored(service, deep + fine, "application/x-ndjson")
    assert first["error"]["code"] == "malformed_line" and "id" not in first
    assert second["characters"] == 1 and json.dumps(second["id"]) == "[" * 100 + "]" * 100


def test_repeats_of_new_kinds_are_counted_and_not_flagged(service: Service) -> None:
    publish(service.models, lines=["ab" * (1 + i % 9) for i in range(120)])
    calibrate(service)
    flood = [f"disk → {'xyz'[i % 3]}" for i in range(50)] + ["fan →→ stopped"]
    data = "\n".join(["ab", *flood, "ba"]).encode()
    *found, end = stream(service, data, only="anomalous", alerts=True)[1:]
    lines = [one["line"] for one in found]
    assert lines[:3] == [2, 3, 4] and lines[-1] == 52 and len(lines) < 20
    assert (end["lines"], end["anomalous"], end["repeated"]) == (53, len(lines), 51 - len(lines))
    alerts = service.http.get("/v1/models/fake/alerts").json()["data"]
    assert sum(alert["count"] for alert in alerts) == 51  # all of them are recorded
    repeat = scored(service, data)[40]
    assert (repeat["anomalous"], repeat["repeated"]) == (False, True)
    assert repeat["p_value"] == found[0]["p_value"] and repeat["alert_id"] and repeat["spans"]


def test_a_line_with_a_word_where_others_never_have_it_is_rarer_than_its_score_says(service: Service) -> None:
    publish(service.models, lines=["ab of ba is ab"] * 500)
    calibrate(service)
    usual, broken = scored(service, b"ab of ba is ab\nab of bb is ab\n", detail="line")
    assert (usual["anomalous"], broken["anomalous"]) == (False, True)
    assert "reason" not in usual and broken["reason"] == '"bb" where "ba" was expected'
    [span] = broken["spans"]
    assert (span["start"], span["end"]) == (6, 8) and span["bits"] > 9.9687  # those of a known word there
    assert broken["p_value"] == pytest.approx(1 / 201, abs=1e-6)  # by its score it is not rare
    stream(service, b"ab of bb is ab\n" * 2, alerts=True)
    [alert] = service.http.get("/v1/models/fake/alerts").json()["data"]
    assert alert["title"] == "ab of »bb« is ab"


def test_a_line_that_is_rare_for_its_score_and_for_a_break_is_more_severe(service: Service) -> None:
    publish(service.models, lines=["ab of ba is ab"] * 500)
    calibrate(service)
    [found] = scored(service, "ab of →→ is ab\n".encode(), alerts=True, detail="line")
    assert found["reason"]
    [alert] = service.http.get("/v1/models/fake/alerts").json()["data"]
    assert alert["estimated_p_value"] < 0.1 * alert["p_value"]


def test_lines_get_the_same_flags_however_they_are_sent(service: Service) -> None:
    publish(service.models, lines=["ab" * (1 + i % 9) for i in range(120)] + ["ab of ba is ab"] * 500)
    calibrate(service)
    kinds = ["ab", "abab", "disk → x", "disk → y", "fan 7 → stopped", "ba→", "ab of bb is ab", "ab of ba i"]

    @settings(max_examples=10, deadline=None)
    @given(
        st.lists(st.sampled_from(kinds), max_size=40),
        st.lists(st.tuples(st.integers(1, 20), st.sampled_from(["json", "stream"])), max_size=6),
    )
    def check(some: list[str], cuts: list[tuple[int, str]]) -> None:
        lines = [*some, "ab", *["disk → x"] * 9]
        whole = service.http.post(SCORE, json={"lines": lines, "detail": "none"}).json()["lines"]
        stream_id = f"s{uuid.uuid4().hex}"
        found: list[dict[str, Any]] = []
        at = 0
        for size, way in [*cuts, (len(lines), "stream")]:
            part, at = lines[at : at + size], at + size
            if part and way == "json":
                body = {"lines": part, "stream_id": stream_id, "detail": "none"}
                found += service.http.post(SCORE, json=body).json()["lines"]
            elif part:
                found += scored(service, "\n".join(part).encode(), stream_id=stream_id)
        assert list(map(verdict, found)) == list(map(verdict, whole))
        assert any(one["repeated"] for one in whole)

    check()


def verdict(score: dict[str, Any]) -> tuple[bool, bool, str | None]:
    """Return whether a line is flagged or a repeat, and its alert."""
    return score["anomalous"], bool(score.get("repeated")), score.get("alert_id")


def test_repeats_are_flagged_if_that_is_requested(service: Service) -> None:
    publish(service.models, lines=["ab" * (1 + i % 9) for i in range(120)])
    calibrate(service)
    lines = ["disk → lost"] * 50
    end = stream(service, "\n".join(lines).encode(), repeats="flag")[-1]
    assert (end["anomalous"], end["repeated"]) == (50, 0)
    whole = service.http.post(SCORE, json={"lines": lines, "repeats": "flag"}).json()
    assert all(line["anomalous"] and line["repeated"] is None for line in whole["lines"])


EVENTS = b"09:00:01 a\n09:00:02 b\n  at c\n  at d\n09:00:03 e\n"


@pytest.fixture
def events(service: Service) -> None:
    """A model of a log whose events have several lines."""
    opener = Opener(frozenset({""}))
    publish(service.models, lines=EVENTS.decode().splitlines(), opener=opener)


def places(found: list[dict[str, Any]]) -> list[tuple[int, int, int, str]]:
    return [(one["line"], one["offset"], one["lines"], one["text"]) for one in found]


@pytest.mark.usefixtures("events")
@pytest.mark.parametrize("kind", ["text/plain", "application/x-ndjson"])
def test_lines_of_an_event_have_one_record(service: Service, kind: str) -> None:
    data = EVENTS
    if kind != "text/plain":
        data = b"".join(json.dumps(line).encode() + b"\n" for line in EVENTS.decode().splitlines())
    *found, end = stream(service, data, kind, echo=True)[1:]
    assert [(one["line"], one["lines"], one["text"]) for one in found] == [
        (1, 1, "09:00:01 a"), (2, 3, "09:00:02 b\n  at c\n  at d"), (5, 1, "09:00:03 e")
    ]  # fmt: skip
    assert (end["lines"], end["events"]) == (5, 3) and "held" not in end


@pytest.mark.usefixtures("events")
def test_json_scores_events_as_a_stream_does_unless_lines_are_not_joined(service: Service) -> None:
    lines = EVENTS.decode().splitlines()
    whole = service.http.post(SCORE, json={"lines": lines, "detail": "line"}).json()["lines"]
    found = scored(service, EVENTS)
    names = ("lines", "characters", "total_bits")
    assert [[one[name] for name in names] for one in whole] == [
        [one[name] for name in names] for one in found
    ]
    apart = service.http.post(SCORE, json={"lines": [*lines, "a\nb"], "join": False}).json()["lines"]
    assert [one["lines"] for one in apart] == [1] * 5 + [2]


@pytest.mark.usefixtures("events")
def test_the_last_event_waits_for_the_next_request_if_more_follow(service: Service) -> None:
    first, rest = EVENTS[:29], EVENTS[29:]
    *found, end = stream(service, first, echo=True, more=True)[1:]
    assert (len(found), end["lines"], end["events"], end["held"]) == (1, 1, 1, 2)
    *found, end = stream(service, first[11:] + rest, echo=True)[1:]
    assert [one["text"] for one in found] == ["09:00:02 b\n  at c\n  at d", "09:00:03 e"]


@pytest.mark.usefixtures("events")
@pytest.mark.parametrize("only_line", [b"09:00:02 b\n", b"09:00:02 b\n  at c\n"])
def test_the_last_event_is_scored_if_no_line_follows_for_a_while(service: Service, only_line: bytes) -> None:
    place = urlsplit(str(service.http.base_url))
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)
    connection.putrequest("POST", SCORE)
    connection.putheader("Content-Type", "text/plain")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    connection.send(b"%x\r\n%s\r\n" % (len(only_line), only_line))
    answer = connection.getresponse()
    assert json.loads(answer.readline())["object"] == "score.start"
    assert json.loads(answer.readline())["lines"] == only_line.count(b"\n")
    connection.send(b"0\r\n\r\n")
    assert json.loads(answer.readline())["lines"] == only_line.count(b"\n")
    connection.close()


@pytest.mark.usefixtures("events")
def test_calibration_counts_events(service: Service) -> None:
    lines = EVENTS.decode().splitlines() * 40
    made = service.http.post("/v1/models/fake/calibrate", json={"lines": lines})
    assert made.status_code == 201 and made.json()["lines"] == 120
