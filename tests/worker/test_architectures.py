"""Every architecture from a job's request to a model that completes and scores; tiny, and not compiled."""

import queue
import time
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nextchar.models.architectures import NAMES, architecture, resolve_training
from nextchar.models.architectures.lazy import tf
from nextchar.models.config import Budget, NetworkConfig, TrainingConfig
from nextchar.models.runtime.engine import Engine
from nextchar.models.runtime.requests import CompletionRequest, Failed, Finished, Usage
from nextchar.models.saved_model import SavedModel
from nextchar.store.blobs import Blobs
from nextchar.store.corpora import Corpora
from nextchar.store.corpus import Upload
from nextchar.store.jobs import Job, JobRequest
from nextchar.store.models import Models
from nextchar.store.open_blobs import open_blobs
from nextchar.worker import memorization, pipeline
from nextchar.worker.checkpoints import Checkpoint
from nextchar.worker.evaluation import graph_of, int8_file
from nextchar.worker.hooks import Hooks, StopReason
from nextchar.worker.pipeline import Outcome, train_model
from nextchar.worker.training import fit
from tests.models.architectures.networks import perturbed, small

TEXT = "the cat sat on the mat; the dog sat on the log.\n" * 12


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compiling takes seconds a network, and what is compiled computes the same; and short reports."""
    monkeypatch.setattr(memorization, "CHARACTERS", 400)
    tf.config.run_functions_eagerly(run_eagerly=True)
    yield
    tf.config.run_functions_eagerly(run_eagerly=False)


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return open_blobs((tmp_path / "store").as_uri())


def job(name: str, blobs: Blobs, scratch: Path, *, steps: int) -> Job:
    known = architecture(name)
    with Upload(scratch / "spool", limit_bytes=10**6) as upload:
        upload.feed(TEXT.encode())
        corpus, _ = Corpora(blobs).add(upload)
    network = known.network.model_dump() | {"units": 8, "embedding": known.network.embedding and 4}
    training = known.training.model_dump() | {
        "rows": min(known.training.rows, 2),
        "window": min(known.training.window, 8),
        "budget": Budget(steps=steps),
    }
    config = NetworkConfig(**network)
    request = JobRequest(
        corpus=corpus.id,
        name="m",
        network=config,
        training=resolve_training(config, TrainingConfig(**training)),
    )
    return Job(id="job_1", created_at=time.time(), updated_at=time.time(), request=request)


def train(
    asked: Job,
    blobs: Blobs,
    scratch: Path,
    *,
    stop: Callable[[], StopReason | None] = lambda: None,
    resume: Checkpoint | None = None,
) -> tuple[Outcome, list[Checkpoint], list[dict[str, Any]]]:
    events: list[dict[str, Any]] = []
    checkpoints: list[Checkpoint] = []

    def event(kind: str, data: dict[str, Any]) -> None:
        events.append({"id": len(events) + 1, "at": 0.0, "type": kind, "data": data})

    outcome = train_model(
        asked,
        corpora=Corpora(blobs),
        models=Models(blobs),
        scratch=scratch,
        cores=1,
        resume=resume,
        hooks=Hooks(event=event, checkpoint=checkpoints.append, stop=stop, checkpoint_every_s=1000),
        events=events,
    )
    return outcome, checkpoints, events


@pytest.mark.parametrize("name", NAMES)
def test_a_job_becomes_a_model_that_completes_and_scores(name: str, blobs: Blobs, tmp_path: Path) -> None:
    outcome, _, events = train(job(name, blobs, tmp_path, steps=4), blobs, tmp_path)
    assert outcome.card is not None
    card = Models(blobs).publish(outcome.card, outcome.files)
    assert card.network.architecture == name
    assert {"model.onnx", "model.keras"} <= set(card.files)
    assert {"metrics", "sample"} <= {event["type"] for event in events}
    engine = Engine(SavedModel(card, outcome.files.__getitem__))
    try:
        for prompt in ("", "t", "the cat sat on the mat"):  # shorter than any window, and longer
            text = complete(engine, prompt)
            assert len(text) == 12
            assert set(text) <= set(card.characters)
        bits = engine.line_surprisal(["the dog, né"])[0].bits
        assert bits.shape == (11,)
        assert np.isfinite(bits).all() and (bits >= 0).all()
        one_by_one = [engine.line_surprisal([line])[0].bits for line in ("the cat", "a", "")]
        for ours, theirs in zip(
            (one.bits for one in engine.line_surprisal(["the cat", "a", ""])), one_by_one, strict=True
        ):
            np.testing.assert_allclose(ours, theirs, atol=1e-4)
    finally:
        engine.close()


def complete(engine: Engine, prompt: str) -> str:
    said: queue.Queue[Any] = queue.Queue()
    engine.complete(
        CompletionRequest(prompt=prompt, max_characters=12, seed=1, precision="float32"), said.put
    )
    text = ""
    while not isinstance(event := said.get(timeout=30), Usage):
        assert not isinstance(event, Failed)
        text += "" if isinstance(event, Finished) else event.text
    return text


def test_int8_of_an_unsupported_layer_uses_onnx() -> None:
    network = perturbed(small("stacked_lstm_lesson"))
    assert int8_file(graph_of(network))[0] == "model.int8.onnx"


# One of each kind of state and of training step; stateful_lstm is in test_training.py.
@pytest.mark.parametrize(
    "name",
    [
        "scan_rnn",  # has a step of its own, as numpy_rnn
        *(
            pytest.param(name, marks=pytest.mark.long)
            for name in ("three_char", "sequence_rnn", "numpy_rnn", "stacked_lstm_lesson")
        ),
    ],
)
def test_a_job_that_was_stopped_ends_with_the_very_bits_of_one_that_was_not(
    name: str, blobs: Blobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    polls: Iterator[None] = repeat(None)  # while the text is prepared

    def fit_four_steps(*arguments: Any, **options: Any) -> Any:
        nonlocal polls
        polls = iter([None] * 4)
        return fit(*arguments, **options)

    asked = job(name, blobs, tmp_path, steps=6)
    whole, _, _ = train(asked, blobs, tmp_path)
    monkeypatch.setattr(pipeline, "fit", fit_four_steps)
    stopped, checkpoints, _ = train(asked, blobs, tmp_path, stop=lambda: next(polls, "pause"))
    assert (stopped.stopped, stopped.card, checkpoints[-1].step) == ("pause", None, 4)
    resumed, _, _ = train(asked, blobs, tmp_path, resume=checkpoints[-1])
    assert resumed.files["model.onnx"] == whole.files["model.onnx"]
