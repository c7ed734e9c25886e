from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.app.fakes import CHARACTERS, publish
from tests.app.service import Service, error_of

SCORE = "/v1/models/fake/score"


@pytest.fixture(autouse=True)
def model(service: Service) -> None:
    publish(service.models)


def line_of(characters: int, total: float, **more: Any) -> dict[str, Any]:
    decided = ["score", "p_value", "anomalous", "alert_id", "label", "spans", "explained"]
    unset = dict.fromkeys([*decided, "bits", "expected"])
    return (
        unset
        | {
            "characters": characters,
            "total_bits": total,
            "bits_per_character": total / characters if characters else 0.0,
        }
        | more
    )


def test_text_is_scored_character_by_character(service: Service) -> None:
    answer = service.http.post(SCORE, json={"text": "fox→"})
    nothing = ["lines", "false_alarms", "threshold", "calibration", "stream", "change"]
    assert answer.json() == {
        "object": "score",
        "model": "fake@1",
        **line_of(4, 11.0, bits=[1.0, 1.0, 1.0, 8.0]),
        **dict.fromkeys(nothing),
        "unknown_characters": ["→"],
    }


def test_each_line_is_scored_by_itself(service: Service) -> None:
    answer = service.http.post(SCORE, json={"lines": ["ab", "", "é→"]}).json()
    assert answer["lines"] == [
        line_of(2, 2.0, bits=[1.0, 1.0], peak_bits=1.0, repeated=None, reason=None, lines=1),
        line_of(0, 0.0, bits=[], peak_bits=0.0, repeated=None, reason=None, lines=1),
        line_of(2, 16.0, bits=[8.0, 8.0], peak_bits=8.0, repeated=None, reason=None, lines=1),
    ]
    assert (answer["bits"], answer["characters"], answer["total_bits"]) == (None, 4, 18.0)
    assert answer["unknown_characters"] == ["é", "→"]


def calibrate(service: Service, lines: list[str] | None = None, **more: Any) -> Any:
    normal = ["ab" * (1 + i % 9) + "→" * (i % 11 == 0) for i in range(120)]
    answer = service.http.post("/v1/models/fake/calibrate", json={"lines": lines or normal} | more)
    assert answer.status_code == 201, answer.text
    return answer.json()


def test_calibrated_lines_get_a_p_value_and_a_flag(service: Service) -> None:
    made = calibrate(service)
    assert (made["name"], made["lines"], made["smallest_p_value"]) == ("default", 120, 0.008265)
    body = {"lines": ["abab", "ab→→→→ab"], "false_alarms": 0.02, "detail": "line"}
    answer = service.http.post(SCORE, json=body).json()
    normal, flagged = answer["lines"]
    assert (normal["anomalous"], normal["spans"]) == (False, [])
    assert flagged["anomalous"] and flagged["p_value"] == 0.008264 and flagged["score"] > answer["threshold"]
    assert flagged["spans"] == [{"start": i, "end": i + 1, "bits": 8.0, "expected": "a"} for i in range(2, 6)]
    assert answer["calibration"] == made and answer["false_alarms"] == 0.02


def test_drift_from_the_calibration_is_reported(service: Service) -> None:
    calibrate(service)
    same, others = ["ab" * (1 + i % 9) for i in range(120)], ["ab→→ab→"] * 120
    answers = [
        service.http.post(SCORE, json={"lines": lines}).json()
        for lines in (same, others, others[:99], same + others[:40])
    ]
    assert [answer["change"] is None for answer in answers] == [True, False, True, False]
    change = answers[1]["change"]
    assert "120 of 120 lines" in change["sentence"] and change["action"] == "train"


def test_text_of_one_line_gets_a_score_and_a_longer_one_only_spans(service: Service) -> None:
    calibrate(service)
    answer = service.http.post(SCORE, json={"text": "a→"}).json()
    assert answer["p_value"] is not None and answer["spans"][0]["start"] == 1
    answer = service.http.post(SCORE, json={"text": "ab\nab→"}).json()
    assert answer["p_value"] is None and [s["start"] for s in answer["spans"]] == [5]


def test_masked_parts_are_one_character_and_reported_at_their_position(service: Service) -> None:
    publish(service.models, name="masked", masks=("numbers",), characters=CHARACTERS + "ⓝ")
    line = "ab 40454 c→ 7"
    answer = service.http.post("/v1/models/masked/score", json={"lines": [line]}).json()
    bits = [1.0] * 3 + [1.0, 0, 0, 0, 0] + [1.0, 1.0, 8.0, 1.0, 1.0]
    assert answer["lines"][0]["bits"] == bits and answer["characters"] == len(line)
    assert answer["unknown_characters"] == ["→"]
    normal = ["ab 1 c"] * 99
    service.http.post("/v1/models/masked/calibrate", json={"lines": normal})
    body = {"lines": [line], "false_alarms": 0.01, "detail": "line"}
    [line] = service.http.post("/v1/models/masked/score", json=body).json()["lines"]
    assert line["anomalous"] and [(s["start"], s["end"]) for s in line["spans"]] == [(10, 11)]


def test_masks_of_a_job_are_names_and_patterns(service: Service) -> None:
    body = {"corpus": service.upload(), "name": "fox", "masks": ["ip", "[a-z]+7"]}
    assert service.http.post("/v1/jobs", json=body).json()["masks"] == ["ip", "[a-z]+7"]


def test_detail_none_returns_score_p_value_and_flag(service: Service) -> None:
    calibrate(service)
    answer = service.http.post(SCORE, json={"lines": ["ab"], "detail": "none"}).json()["lines"][0]
    assert {name for name, value in answer.items() if value is not None} == {
        "lines", "characters", "score", "p_value", "anomalous"
    }  # fmt: skip


def test_expected_characters_are_returned(service: Service) -> None:
    answer = service.http.post(SCORE, json={"lines": ["ab"], "expected": 2}).json()
    assert [[one["character"] for one in position] for position in answer["lines"][0]["expected"]] == [
        ["a"],
        ["b"],
    ]


def test_expected_of_a_model_of_bytes_is_limited_in_bytes(service: Service) -> None:
    publish(service.models, name="raw", characters="".join(map(chr, range(255))), alphabet="bytes")
    body = {"text": "→" * 5_000, "expected": 20}
    error = error_of(service.http.post("/v1/models/raw/score", json=body), 422)
    assert "15,000 characters" in error["message"]
    assert service.http.post(SCORE, json=body).status_code == 200


def test_expected_characters_of_a_text_are_in_order_and_labeled(service: Service) -> None:
    publish(service.models, name="raw", characters="".join(map(chr, range(255))), alphabet="bytes")
    answer = service.http.post("/v1/models/raw/score", json={"text": 'a"é', "expected": 3}).json()
    expected = [
        [(one["character"], one["probability"]) for one in position] for position in answer["expected"]
    ]
    assert expected == [[(name, 0.606531)] for name in ("a", '"', "\\xc3", "\\xa9")]


def test_lines_beyond_the_limit_are_explained_if_sent_alone(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibrate(service)
    lines = ["ab→ab", "ab→→→→ab", "ab→→ab", "ab"]
    body: dict[str, Any] = {"lines": lines, "false_alarms": 0.1, "detail": "line"}
    whole = service.http.post(SCORE, json=body).json()["lines"]
    assert [one["explained"] for one in whole] == [True, True, True, None]
    monkeypatch.setattr(
        "nextchar.models.anomaly.calibrated_scorer.MAX_EXPLAIN_READ", 14
    )  # of the fake, those of the two most anomalous
    some = service.http.post(SCORE, json=body).json()["lines"]
    assert [one["explained"] for one in some] == [False, True, True, None]
    assert some[1:] == whole[1:]
    assert some[0]["spans"] == [{"start": 2, "end": 3, "bits": 8.0, "expected": None}]
    assert service.http.post(SCORE, json=body | {"lines": lines[:1]}).json()["lines"] == whole[:1]
    plain = service.http.post(SCORE, json=body | {"explain": False}).json()["lines"]
    assert [one["explained"] for one in plain] == [None] * 4 and plain[0]["spans"] == some[0]["spans"]
    text = service.http.post(SCORE, json={"text": lines[1] * 3}).json()
    assert text["explained"] is False and text["spans"][0]["expected"] is None


def test_calibration_is_chosen_by_name(service: Service) -> None:
    calibrate(service)
    calibrate(service, ["ab"] * 10, name="web-1")
    answer = service.http.post(SCORE, json={"lines": ["ab"], "calibration": "web-1"}).json()
    assert answer["calibration"]["lines"] == 10 and answer["false_alarms"] == pytest.approx(1 / 11)


def test_stream_continues_where_its_last_call_ended(service: Service) -> None:
    body = {"lines": ["ab", "ba"], "context": "stream", "stream_id": "host-1:/var/log/x"}
    assert service.http.post(SCORE, json=body).json()["stream"] == {
        "id": "host-1:/var/log/x", "lines": 2, "restarted": "new"
    }  # fmt: skip
    again = service.http.post(SCORE, json=body).json()["stream"]
    assert (again["lines"], again["restarted"]) == (4, None)
    other = service.http.post(SCORE, json=body | {"stream_id": "host-2"}).json()["stream"]
    assert (other["lines"], other["restarted"]) == (2, "new")
    assert service.http.delete("/v1/models/fake/streams/host-1:/var/log/x").status_code == 204
    assert service.http.post(SCORE, json=body).json()["stream"]["restarted"] == "new"


def test_concurrent_calls_on_one_stream_are_all_counted(service: Service) -> None:
    body = {"lines": ["ab"] * 3, "context": "stream", "stream_id": "busy"}
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: service.http.post(SCORE, json=body).json(), range(12)))
    assert sorted(a["stream"]["lines"] for a in answers) == [3 * (i + 1) for i in range(12)]
