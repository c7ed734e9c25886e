from typing import Any

import numpy as np
import pytest

from app.routes.calibrations import _batches, _lines
from models.errors import TooLarge
from tests.app.fakes import publish
from tests.app.service import Service, error_of

MODEL = "/v1/models/fake"


@pytest.fixture(autouse=True)
def model(service: Service) -> None:
    publish(service.models)


def lines(count: int = 150, *, seed: int = 0) -> list[str]:
    random = np.random.default_rng(seed)
    return ["".join(random.choice([*"abcdef→"], n)) for n in random.integers(1, 40, count)]


def test_calibrations_are_made_listed_read_and_deleted(service: Service) -> None:
    made = service.http.post(f"{MODEL}/calibrate", json={"lines": lines(), "name": "web-1", "buckets": 2})
    assert made.status_code == 201
    assert [b["lines"] for b in made.json()["buckets"]] == pytest.approx([75, 75], abs=8)
    service.http.post(f"{MODEL}/calibrate", json={"lines": lines()})
    listed = service.http.get(f"{MODEL}/calibrations").json()
    assert [one["name"] for one in listed["data"]] == ["default", "web-1"]
    assert service.http.get(f"{MODEL}/calibrations/web-1").json() == made.json()
    assert service.http.delete(f"{MODEL}/calibrations/web-1").status_code == 204
    for verb in (service.http.get, service.http.delete):
        assert error_of(verb(f"{MODEL}/calibrations/web-1"), 404)["code"] == "calibration_not_found"


def test_corpus_calibrates_with_all_its_lines(service: Service) -> None:
    corpus = service.upload("\n".join(lines(130)) + "\n")
    made = service.http.post(f"{MODEL}/calibrate", json={"corpus": corpus, "false_alarms": 0.01}).json()
    assert (made["lines"], made["source"]) == (130, f"corpus {corpus}")
    error = error_of(service.http.post(f"{MODEL}/calibrate", json={"corpus": "nothing"}), 404)
    assert error["code"] == "corpus_not_found"


def test_a_later_calibration_of_the_same_name_replaces_the_first(service: Service) -> None:
    for count in (10, 20):
        service.http.post(f"{MODEL}/calibrate", json={"lines": lines(count)})
    assert service.http.get(f"{MODEL}/calibrations/default").json()["lines"] == 20


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"lines": ["a"]}, "too_few_calibration_lines"),
        ({"lines": ["a"] * 98, "false_alarms": 0.01}, "too_few_calibration_lines"),
        ({}, "invalid_field"),
        ({"lines": ["a"] * 9, "corpus": "x"}, "invalid_field"),
        ({"lines": []}, "invalid_field"),
        ({"lines": ["a"] * 9, "name": "no/name"}, "invalid_field"),
        ({"lines": ["a"] * 9, "name": "job_1"}, "invalid_name"),
        ({"lines": ["a"] * 9, "buckets": 9}, "invalid_field"),
    ],
)
def test_what_cannot_be_a_calibration_is_refused(service: Service, body: dict[str, Any], code: str) -> None:
    assert error_of(service.http.post(f"{MODEL}/calibrate", json=body), 422)["code"] == code
    assert service.http.get(f"{MODEL}/calibrations").json()["data"] == []


def test_the_models_own_calibration_stays(service: Service) -> None:
    answer = service.http.post(f"{MODEL}/calibrate", json={"lines": lines(), "name": "validation"})
    assert error_of(answer, 409)["code"] == "calibration_reserved"
    assert (
        error_of(service.http.delete(f"{MODEL}/calibrations/validation"), 409)["code"]
        == "calibration_reserved"
    )


def test_calibrations_go_with_their_model(service: Service) -> None:
    service.http.post(f"{MODEL}/calibrate", json={"lines": lines()})
    assert service.http.delete(MODEL).status_code == 200
    assert not [path for path in service.blobs.paths("model_files") if "calibration" in path]
    assert error_of(service.http.get(f"{MODEL}/calibrations"), 404)["code"] == "model_not_found"


def labelled() -> tuple[list[str], list[int]]:
    truth = [int(i % 10 == 3) for i in range(400)]
    return [line + "→→→→→" * odd for line, odd in zip(lines(400), truth, strict=True)], truth


def test_evaluation_judges_the_model_beside_simple_scores(service: Service) -> None:
    texts, truth = labelled()
    body = {"lines": texts, "anomalous": truth, "worst": 3}
    answer = service.http.post(f"{MODEL}/evaluate", json=body)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["split"], found["lines"], found["anomalous"]) == ("chronological", 200, 20)
    assert found["trained_on"] == 180 and found["calibration"]["lines"] == 180
    assert set(found["baselines"]) == {"length", "punctuation", "ngram_5", "isolation_forest"}
    for quality in (found["model_score"], *found["baselines"].values()):
        assert 0 <= quality["auroc"] <= 1 and 0 < quality["average_precision"] <= 1
        assert set(quality["recall_at_false_alarms"]) == {"0.001", "0.01", "0.05"}
        assert quality["roc"][0] == [0, 0] and quality["roc"][-1] == [1, 1]
    assert found["model_score"]["auroc"] > 0.9
    assert found["flagged"]["false_alarm_rate"] < 0.05
    for miss in found["worst_misses"]:
        assert truth[miss["index"]] and texts[miss["index"]] == miss["text"]
        assert len(miss["bits"]) == len(miss["text"])
    assert not any(truth[one["index"]] for one in found["worst_false_alarms"])
    assert len(found["worst_misses"]) == len(found["worst_false_alarms"]) == 3


def test_judged_lines_that_were_learned_from_are_counted(service: Service) -> None:
    texts, truth = labelled()
    texts[300:305] = texts[0:1] * 5
    truth[300:305] = [0] * 4 + [1]
    found = service.http.post(f"{MODEL}/evaluate", json={"lines": texts, "anomalous": truth}).json()
    assert found["leaks"]["normal"] >= 4 and found["leaks"]["anomalous"] >= 1
    assert found["leaks"]["distinct"] < found["leaks"]["normal"] + found["leaks"]["anomalous"]


def test_model_with_a_calibration_and_no_split_judges_all_lines(service: Service) -> None:
    texts, truth = labelled()
    service.http.post(f"{MODEL}/calibrate", json={"lines": lines(200, seed=5)})
    body = {"lines": texts, "anomalous": truth, "split": "none", "false_alarms": 0.05, "baselines": False}
    found = service.http.post(f"{MODEL}/evaluate", json=body).json()
    assert (found["lines"], found["false_alarms"], found["baselines"]) == (400, 0.05, {})
    assert found["flagged"]["recall"] > 0.9


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"lines": ["a"] * 40, "anomalous": [0] * 40}, "one_class"),
        ({"lines": ["a"] * 40, "anomalous": [0] * 20 + [1] * 20}, "one_class"),
        ({"lines": ["a"] * 4, "anomalous": [0] * 3}, "invalid_field"),
        ({"lines": ["a"] * 3, "anomalous": [0, 1, 2]}, "invalid_field"),
        ({"lines": ["a"] * 3, "anomalous": [1, 1, 0]}, "too_few_calibration_lines"),
        ({"lines": ["a"] * 40, "anomalous": [0, 1] * 20, "split": "none"}, "no_calibration"),
        (
            {"lines": ["a"] * 400, "anomalous": [0, 1] * 200, "false_alarms": 0.001},
            "too_few_calibration_lines",
        ),
    ],
)
def test_what_cannot_be_evaluated_is_refused(service: Service, body: dict[str, Any], code: str) -> None:
    assert error_of(service.http.post(f"{MODEL}/evaluate", json=body), 422)["code"] == code


def test_lines_that_end_as_on_windows_are_calibrated_as_they_are_scored(service: Service) -> None:
    for name, end in (("lf", "\n"), ("crlf", "\r\n")):
        corpus = service.upload(end.join(lines()) + end)
        service.http.post(f"{MODEL}/calibrate", json={"corpus": corpus, "name": name})
    sent = "ab\r\n→→→→→→→→→→\r\nabc"
    lf, crlf = (
        service.http.post(
            f"{MODEL}/score?calibration={name}", content=sent, headers={"Content-Type": "text/plain"}
        )
        .text.replace(name, "it")
        .split("\n")[1:4]
        for name in ("lf", "crlf")
    )
    assert lf == crlf and '"anomalous":true' in lf[1]


@pytest.mark.parametrize("path", ["score", "calibrate", "evaluate"])
def test_half_a_character_in_a_line_is_refused(service: Service, path: str) -> None:
    truth = ', "anomalous": [0, 1]' if path == "evaluate" else ""
    body = f'{{"lines": ["ab", "\\ud800"]{truth}}}'
    headers = {"Content-Type": "application/json"}
    assert error_of(service.http.post(f"{MODEL}/{path}", content=body, headers=headers), 422)["param"]


@pytest.mark.parametrize("count", [40, 812, 999])
def test_the_smallest_rate_that_is_named_is_kept(service: Service, count: int) -> None:
    made = service.http.post(f"{MODEL}/calibrate", json={"lines": ["ab"] * count}).json()
    smallest = made["smallest_p_value"]
    assert smallest == pytest.approx(1 / (count + 1), rel=1e-3)
    asked = {"lines": ["ab"], "false_alarms": smallest}
    assert service.http.post(f"{MODEL}/score", json=asked).json()["false_alarms"] == smallest
    refused = service.http.post(f"{MODEL}/score", json=asked | {"false_alarms": 1e-6})
    named = float(error_of(refused, 422)["message"].rpartition("at least ")[2])
    assert service.http.post(f"{MODEL}/score", json=asked | {"false_alarms": named}).status_code == 200
    tiny = service.http.post(f"{MODEL}/score", json=asked | {"false_alarms": 1e-310})
    assert error_of(tiny, 422)["param"] == "false_alarms"


def test_lines_of_pieces_are_those_of_the_whole_text() -> None:
    text = "ab\n\nc" + "d" * 60_000 + "\nlast"
    expected = ["ab", "", "c" + "d" * 50_000, "last"]
    for size in (1, 3, 1000, len(text)):
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        assert list(_lines(pieces)) == expected
    assert list(_lines(["a\n"])) == ["a"]


def test_lines_are_read_in_batches_of_bounded_size() -> None:
    assert max(map(len, _batches([""] * 50_000))) <= 10_001
    assert sum(map(len, _batches(["a" * 1000] * 500))) == 500
    with pytest.raises(TooLarge, match="2,000,000 lines"):
        list(_batches("" for _ in range(2_000_001)))
