import pytest

from nextchar.app.scoring import evaluation
from nextchar.store.shuffled_lines import ShuffledLines
from tests.app.fakes import publish
from tests.app.scoring.test_calibration_routes import MODEL, lines
from tests.app.service import Service


@pytest.fixture(autouse=True)
def model(service: Service) -> None:
    publish(service.models)


def labeled() -> tuple[list[str], list[int]]:
    labels = [int(i % 10 == 3) for i in range(400)]
    return [line + "→→→→→" * label for line, label in zip(lines(400), labels, strict=True)], labels


def test_evaluation_compares_the_model_with_baselines(service: Service) -> None:
    texts, labels = labeled()
    body = {"lines": texts, "anomalous": labels, "worst": 3}
    answer = service.http.post(f"{MODEL}/evaluate", json=body)
    assert answer.status_code == 200, answer.text
    evaluation = answer.json()
    assert (evaluation["split"], evaluation["lines"], evaluation["anomalous"]) == ("chronological", 200, 20)
    assert evaluation["trained_on"] == 180 and evaluation["calibration"]["lines"] == 180
    assert set(evaluation["baselines"]) == {
        "length",
        "punctuation",
        "template",
        "ngram_5",
        "isolation_forest",
    }
    for quality in (evaluation["model_score"], *evaluation["baselines"].values()):
        assert 0 <= quality["auroc"] <= 1 and 0 < quality["average_precision"] <= 1
        assert set(quality["recall_at_false_alarms"]) == {"0.001", "0.01", "0.05"}
        assert quality["roc"][0] == [0, 0] and quality["roc"][-1] == [1, 1]
    assert evaluation["model_score"]["auroc"] > 0.9
    assert evaluation["flagged"]["false_alarm_rate"] < 0.05
    for miss in evaluation["worst_misses"]:
        assert labels[miss["index"]] and texts[miss["index"]] == miss["text"]
        assert len(miss["bits"]) == len(miss["text"])
    assert not any(labels[one["index"]] for one in evaluation["worst_false_alarms"])
    assert len(evaluation["worst_misses"]) == len(evaluation["worst_false_alarms"]) == 3


def test_test_lines_seen_in_training_are_counted_as_leaks(service: Service) -> None:
    texts, labels = labeled()
    texts[300:305] = texts[0:1] * 5
    labels[300:305] = [0] * 4 + [1]
    evaluation = service.http.post(f"{MODEL}/evaluate", json={"lines": texts, "anomalous": labels}).json()
    assert evaluation["leaks"]["normal"] >= 4 and evaluation["leaks"]["anomalous"] >= 1
    assert evaluation["leaks"]["distinct"] < evaluation["leaks"]["normal"] + evaluation["leaks"]["anomalous"]


def test_of_records_the_lines_drawn_as_held_out_are_no_leaks(service: Service) -> None:
    words = [f"{a}{b}{c}" for a in "abdefg" for b in "aeiou" for c in "klmnrst"]
    text = "\n".join(words) + "\n"
    publish(service.models, name="words", corpus=service.upload(text), kind="records")
    service.http.post("/v1/models/words/calibrate", json={"lines": words})
    body = {"lines": [*words, "→→→"], "anomalous": [0] * len(words) + [1], "baselines": False}
    answer = service.http.post("/v1/models/words/evaluate", json=body)
    assert answer.status_code == 200, answer.text
    with ShuffledLines([text], size_bytes=len(text), validation_fraction=0.1, seed=1) as lines:
        trained = lines.lines - "".join(lines.pieces())[lines.trained :].count("\n")
    assert 0 < trained < len(words)
    assert answer.json()["leaks"]["normal"] == trained
    assert not service.spooled


def test_split_none_tests_on_all_lines(service: Service) -> None:
    texts, labels = labeled()
    service.http.post(f"{MODEL}/calibrate", json={"lines": lines(200, seed=5)})
    body = {"lines": texts, "anomalous": labels, "split": "none", "false_alarms": 0.05, "baselines": False}
    evaluation = service.http.post(f"{MODEL}/evaluate", json=body).json()
    assert (evaluation["lines"], evaluation["false_alarms"], evaluation["baselines"]) == (400, 0.05, {})
    assert evaluation["flagged"]["recall"] > 0.9


@pytest.mark.parametrize("pieces", [["abcdefghij"], ["abc", "", "defg", "hij"]])
def test_training_lines_of_the_baselines_end_where_the_held_out_text_begins(
    pieces: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert evaluation._end_of(pieces, 8) == "abcdefgh"
    monkeypatch.setattr(evaluation, "_MAX_TRAINING_CHARACTERS", 5)
    assert evaluation._end_of(pieces, 8) == "defgh"
