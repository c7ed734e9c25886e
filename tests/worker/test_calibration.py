import json
from collections.abc import Sequence

import numpy as np
import pytest

from nextchar.models.anomaly.calibration import load
from nextchar.models.anomaly.calibration_builder import calibrate
from nextchar.models.anomaly.scorer import with_ngram_and_templates
from nextchar.models.architectures.onnx_graph import stateful_lstm_graph
from nextchar.models.runtime.model_networks import INT8_FILE
from nextchar.models.runtime.session import Network, open_network
from nextchar.models.runtime.surprisal import LineSurprisal, line_surprisal
from nextchar.models.text import ngram as ngram_file
from nextchar.models.text import templates as templates_file
from nextchar.models.text import word_ngram as word_ngram_file
from nextchar.models.text.events import EventStarts, Opener, TextEvents
from nextchar.models.text.kind_detection import Purpose
from nextchar.models.text.word_ngram import WordNgrams
from nextchar.store.calibrations import MODEL_FILE, validation_file
from nextchar.worker.calibration import anomaly_files
from nextchar.worker.evaluation import int8_file
from nextchar.worker.prepared_text import Text
from tests.models.runtime.networks import random_weights


def files_for(
    text: Text, int8: bytes | None = None, *, is_log: bool = False, purpose: Purpose = "complete"
) -> dict[str, bytes]:
    """The files for an untrained network."""
    quantized = int8 and open_network(INT8_FILE, int8, threads=1)
    return anomaly_files(
        Network(graph_for(text)), text, int8=quantized or None, is_log=is_log, purpose=purpose
    )


def read_by_experts(
    text: Text, readings: Sequence[LineSurprisal], lines: Sequence[str]
) -> list[LineSurprisal]:
    """The surprisal of lines with what the n-grams, templates and words of the training text say."""
    trained = text.vocabulary.decode(text.train[:])
    ngram = ngram_file.ngram_of(text.train[:], text.vocabulary)
    templates = templates_file.Templates.fit(templates_file.last_lines(trained))
    return with_ngram_and_templates(readings, lines, ngram, templates, words=WordNgrams.fit(trained))


def graph_for(text: Text) -> bytes:
    return stateful_lstm_graph(random_weights(len(text.vocabulary), 5, [12]))


@pytest.mark.parametrize("held_out_characters", [100, 102, 104])
def test_calibration_uses_complete_held_out_lines(held_out_characters: int) -> None:
    lines = [f"{chr(97 + i % 7)}b{chr(97 + i % 3)}d" for i in range(100)]
    text = Text.split("\n".join(lines) + "\n", validation_fraction=held_out_characters / 500)
    graph = graph_for(text)
    files = files_for(text)
    made, about = load(files[MODEL_FILE], where=MODEL_FILE)
    assert made.lines == 20 and about["source"] == "held-out text"
    readings = line_surprisal(Network(graph), text.vocabulary, lines[-20:], with_end=True)
    expected = calibrate(read_by_experts(text, readings, lines[-20:]))
    np.testing.assert_allclose(made.buckets[0].scores, expected.buckets[0].scores, atol=1e-4)


def test_calibration_uses_the_newest_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nextchar.worker.calibration._MAX_CHARACTERS", 57)
    lines = [f"{chr(97 + i % 7)}b{chr(97 + i % 3)}d" for i in range(100)]
    text = Text.split("\n".join(lines) + "\n", validation_fraction=0.4)
    graph = graph_for(text)
    files = files_for(text)
    made, _ = load(files[MODEL_FILE], where=MODEL_FILE)
    readings = line_surprisal(Network(graph), text.vocabulary, lines[-11:], with_end=True)
    expected = calibrate(read_by_experts(text, readings, lines[-11:]))
    np.testing.assert_allclose(made.buckets[0].scores, expected.buckets[0].scores, atol=1e-4)


def test_calibration_holds_for_int8_too() -> None:
    lines = [f"{chr(97 + i % 7)}b{chr(97 + i % 3)}d" for i in range(400)]
    text = Text.split("\n".join(lines) + "\n", validation_fraction=0.5)
    graph = graph_for(text)
    name, int8 = int8_file(graph)
    assert name == INT8_FILE
    files = files_for(text, int8)
    made, _ = load(files[MODEL_FILE], where=MODEL_FILE)
    for network in (Network(graph), open_network(INT8_FILE, int8, threads=1)):
        readings = line_surprisal(network, text.vocabulary, lines[-200:], with_end=True)
        _, p = made.score(read_by_experts(text, readings, lines[-200:]))
        assert (p <= 0.01).mean() <= 0.01


def test_a_line_of_a_log_must_be_rarer_by_a_margin_to_be_flagged() -> None:
    random = np.random.default_rng(1)
    lines = ["".join(random.choice(list("abcd"), random.integers(3, 9))) for _ in range(3000)]
    text = Text.split("\n".join(lines) + "\n", validation_fraction=0.4)
    plain, _ = load(files_for(text)[MODEL_FILE], where="plain")
    moved, _ = load(files_for(text, is_log=True)[MODEL_FILE], where="moved")
    assert moved.thresholds(0.02)[0] == pytest.approx(plain.thresholds(0.02)[0] + 0.5, abs=1e-4)
    assert moved.thresholds(0.2) == plain.thresholds(0.2)
    if plain.has_tail:
        assert moved.thresholds(1e-4)[0] == pytest.approx(plain.thresholds(1e-4)[0] + 0.5, abs=1e-4)
    assert (np.diff(moved.buckets[0].scores) >= 0).all()


def test_training_lines_are_added_to_few_held_out_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f"{chr(97 + i % 7)}b{chr(97 + i % 3)}d" for i in range(2000)]
    text = Text.split("\n".join(lines) + "\n", validation_fraction=0.1)

    def calibrated(*, purpose: Purpose = "anomalies") -> int:
        made, _ = load(files_for(text, purpose=purpose)[MODEL_FILE], where="made")
        return made.lines

    assert 500 - 16 * 2 <= calibrated() <= 500  # some are cut at the ends of 16 parts
    assert calibrated(purpose="complete") == 200
    monkeypatch.setattr("nextchar.worker.calibration._MAX_OLDER_CHARACTERS", 16 * 50)
    assert 200 + 16 * (50 // 5 - 2) <= calibrated() <= 200 + 16 * (50 // 5)
    monkeypatch.setattr("nextchar.worker.calibration.WANTED_LINES", 200)
    assert calibrated() == 200
    monkeypatch.undo()
    monkeypatch.setattr("nextchar.worker.calibration.WANTED_LINES", 5000)
    assert calibrated() == 1999  # all but the first, before which no newline was read


def test_training_lines_are_added_to_a_burst_of_many_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nextchar.worker.calibration.WANTED_LINES", 0)
    lines = [f"{chr(97 + i % 7)}b{chr(97 + i % 3)}d" for i in range(1800)] + ["abad"] * 200
    text = Text.split("\n".join(lines) + "\n", validation_fraction=0.1)
    made, _ = load(files_for(text, purpose="anomalies")[MODEL_FILE], where="made")
    assert 200 + 3 * 200 - 16 * 2 <= made.lines <= 200 + 3 * 200


def test_text_without_lines_has_no_calibration() -> None:
    text = Text.split("all in one line " * 30, validation_fraction=0.1)
    assert files_for(text).keys() == {ngram_file.FILE, word_ngram_file.FILE, templates_file.FILE}


def test_too_many_templates_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nextchar.models.text.line_tokens.MAX_TEMPLATES", 1)
    text = Text.split("disk full\nlogin, of ann\n" * 50, validation_fraction=0.2)
    messages: list[str] = []
    network = Network(graph_for(text))
    quiet: tuple[Purpose, Purpose] = ("complete", "both")
    for purpose in quiet:  # prose and lists have no templates to speak of
        anomaly_files(network, text, purpose=purpose, on_message=messages.append)
    assert messages == []
    anomaly_files(network, text, purpose="anomalies", on_message=messages.append)
    [message] = messages
    assert "40 of 80 lines have none" in message and "mask" in message


def test_templates_are_those_of_the_training_lines_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    text = Text.split("login of ann\n" * 90 + "logout of ann\n" * 10, validation_fraction=0.11)
    known = templates_file.load(files_for(text)[templates_file.FILE])
    assert [one.template.pattern for one in known.known] == ["login of ann"] and known.lines >= 88
    monkeypatch.setattr(templates_file, "MAX_CHARACTERS", 30)
    assert templates_file.load(files_for(text)[templates_file.FILE]).lines == 1


def test_record_is_json() -> None:
    text = Text.split("ab\ncd\n" * 50, validation_fraction=0.2)
    record = files_for(text)[MODEL_FILE]
    assert json.loads(record)["format_version"] == 1
    assert validation_file(load(record, where="x")[0])


def test_events_of_a_log_are_calibrated_and_have_templates_as_a_whole() -> None:
    event = ["09:00:0{i} b failed", "  in c", "  in d", "09:00:0{i} e ended"]
    lines = [line.replace("{i}", str(i % 10)) for i in range(100) for line in event]
    opener = Opener.learn(lines)
    assert opener
    starts = EventStarts(opener)
    events = TextEvents(opener, [starts.add(line) for line in lines])
    text = Text.split("\n".join(lines) + "\n", validation_fraction=0.2)
    files = anomaly_files(Network(graph_for(text)), text, purpose="anomalies", events=events)
    known = templates_file.load(files[templates_file.FILE])
    assert known.opener == opener and 155 <= known.lines <= 160
    assert {one.template.pattern for one in known.known} == {
        "<*>:<*>:<*> b failed in c in d",
        "<*>:<*>:<*> e ended",
    }
    made, _ = load(files[MODEL_FILE], where=MODEL_FILE)
    assert 39 + 155 <= made.lines <= 40 + 160
    network = Network(graph_for(text))
    assert templates_file.load(anomaly_files(network, text)[templates_file.FILE]).opener is None
