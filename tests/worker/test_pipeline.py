"""Parts of a job that tests of whole jobs would not tell apart."""

import math
from contextlib import nullcontext
from typing import Any

import pytest

from models.architectures.onnx_graph import stateful_lstm_graph
from models.config import NetworkConfig, TrainingConfig
from models.errors import Unavailable
from models.runtime.model_networks import FLOAT32_FILE
from models.runtime.session import open_network
from store.jobs import JobRequest
from store.models import Models
from store.open_blobs import open_blobs
from tests.app.fakes import publish
from tests.models.runtime.networks import CHARACTERS, random_weights
from tests.store.refusing import Refusing, unavailable
from worker import experts, pipeline
from worker.prepared_text import Text


@pytest.mark.parametrize(("lost_nats", "kept"), [(0.0049, True), (0.0051, False)])
def test_int8_weights_are_kept_if_they_cost_little_in_nats(
    monkeypatch: pytest.MonkeyPatch, lost_nats: float, kept: bool
) -> None:
    def bits_per_character(*_: Any, **__: Any) -> float:
        return 2.0 + lost_nats / math.log(2)

    monkeypatch.setattr(pipeline, "bits_per_character", bits_per_character)
    text = Text.split(CHARACTERS * 20, validation_fraction=0.1)
    graph = stateful_lstm_graph(random_weights(len(text.vocabulary), 4, [8]))
    network, files, measured = pipeline._int8(graph, text, 2.0, cores=1)
    assert (network is not None, bool(files)) == (kept, kept)
    assert measured is not None
    assert measured["lost_nats"] == pytest.approx(lost_nats)
    assert measured["kept"] is kept


def test_int8_and_float32_are_measured_in_as_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []

    def bits(*_: Any, rows: int, **__: Any) -> Any:
        counts.append(rows)
        return {"lstm": 2.0} if len(counts) == 1 else 2.0

    monkeypatch.setattr(experts, "bits_by_expert", bits)
    monkeypatch.setattr(pipeline, "bits_per_character", bits)
    text = Text.split("ab" * 20_000, validation_fraction=0.9)
    graph = stateful_lstm_graph(random_weights(len(text.vocabulary), 4, [8]))
    network = open_network(FLOAT32_FILE, graph, threads=1)
    float32_bits = experts.Mixture().bits(network, text, characters=1_000_000)["lstm"]
    pipeline._int8(graph, text, float32_bits, cores=1)
    assert counts == [len(text.test) // 4096] * 2 == [4, 4]


def test_the_card_of_the_start_model_is_known_unless_it_was_deleted() -> None:
    blobs = open_blobs("memory:///")
    request = JobRequest(corpus="c", name="m", network=NetworkConfig(), training=TrainingConfig())
    assert pipeline._start_card(Models(blobs), request) is None
    request = request.model_copy(update={"start_from": "fake@1"})
    assert pipeline._start_card(Models(blobs), request) is None
    card = publish(Models(blobs))
    assert pipeline._start_card(Models(blobs), request) == card
    failing = Models(Refusing(blobs, read=["model_cards"], error=unavailable))
    with pytest.raises(Unavailable):
        pipeline._start_card(failing, request)


@pytest.mark.parametrize(
    ("error", "is_storage"),
    [(Unavailable("no response", code="storage_unavailable"), True), (RuntimeError("no compiler"), False)],
)
def test_a_storage_that_fails_does_not_cost_the_int8_weights(
    monkeypatch: pytest.MonkeyPatch, error: Exception, is_storage: bool
) -> None:
    def bits(*_: Any, **__: Any) -> float:
        raise error

    monkeypatch.setattr(pipeline, "bits_per_character", bits)
    text = Text.split(CHARACTERS * 20, validation_fraction=0.1)
    graph = stateful_lstm_graph(random_weights(len(text.vocabulary), 4, [8]))
    with pytest.raises(Unavailable) if is_storage else nullcontext():
        assert pipeline._int8(graph, text, 2.0, cores=1) == (None, {}, None)
