import json

import numpy as np
import pytest

from models.anomaly import ngram
from models.anomaly.calibration import calibrate
from models.anomaly.record import load
from models.runtime.graph import stateful_lstm_graph
from models.runtime.scoring import read_lines
from models.runtime.session import Network
from store.calibrations import MODEL_FILE, validation_file
from tests.models.runtime.networks import random_weights
from worker.calibration import anomaly_files
from worker.texts import Text


def graph_for(text: Text) -> bytes:
    return stateful_lstm_graph(random_weights(len(text.vocabulary), 5, [12]))


@pytest.mark.parametrize("held_out_characters", [100, 102, 104])
def test_calibration_is_made_of_the_whole_lines_of_the_held_out_text(held_out_characters: int) -> None:
    lines = [f"{chr(97 + i % 7)}b{chr(97 + i % 3)}d" for i in range(100)]
    text = Text.split("\n".join(lines) + "\n", validation_fraction=held_out_characters / 500)
    graph = graph_for(text)
    files = anomaly_files(graph, text, cores=1)
    made, about = load(files[MODEL_FILE], where=MODEL_FILE)
    assert made.lines == 20 and about["source"] == "held-out text"
    readings = read_lines(Network(graph), text.vocabulary, lines[-20:], with_end=True)
    counted = ngram.load(files[ngram.FILE], text.vocabulary)
    expected = calibrate(ngram.with_ngram(readings, lines[-20:], counted))
    np.testing.assert_allclose(made.buckets[0].scores, expected.buckets[0].scores, atol=1e-4)


def test_text_without_lines_has_no_calibration() -> None:
    text = Text.split("all in one line " * 30, validation_fraction=0.1)
    assert anomaly_files(graph_for(text), text, cores=1).keys() == {ngram.FILE}


def test_record_is_json() -> None:
    text = Text.split("ab\ncd\n" * 50, validation_fraction=0.2)
    record = anomaly_files(graph_for(text), text, cores=1)[MODEL_FILE]
    assert json.loads(record)["format_version"] == 1
    assert validation_file(load(record, where="x")[0])
