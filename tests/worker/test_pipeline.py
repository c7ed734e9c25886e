"""Parts of a job that tests of whole jobs would not tell apart."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.architectures.onnx_graph import stateful_lstm_graph
from models.config import Mix, NetworkConfig, TrainingConfig
from store.corpora import Corpora
from store.corpus_upload import Upload
from store.jobs import JobRequest
from store.models import Models
from store.open_blobs import open_blobs
from tests.models.runtime.networks import CHARACTERS, random_weights
from worker import pipeline
from worker.prepared_text import Text


def test_a_second_text_is_masked_as_the_first_one_is(tmp_path: Path) -> None:
    blobs = open_blobs("memory:///")
    corpora = Corpora(blobs)
    with Upload(tmp_path, limit_bytes=10_000) as upload:
        upload.feed(b"disk 12 is full\n" * 20)
        second, _ = corpora.add(upload)
    mix = Mix(corpus=second.id, targets="text")
    request = JobRequest(
        corpus="corpus_1",
        name="m",
        network=NetworkConfig(),
        training=TrainingConfig(),
        masks=("numbers",),
        mix=mix,
    )
    [line] = set("".join(pipeline._pieces(request, corpora, second.id)).split("\n")) - {""}
    assert "12" not in line
    text = Text.split(f"{line}\n" * 50, validation_fraction=0.1)
    mixed = pipeline._second_text(
        request,
        corpora,
        Models(blobs),
        text,
        scratch=tmp_path,
        chunks_of=lambda *_: None,
        cores=1,
        on_event=lambda *_: None,
    )
    assert mixed is not None
    assert text.vocabulary.decode(np.asarray(mixed.ids)) == f"{line}\n" * 20


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
