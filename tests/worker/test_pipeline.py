"""Parts of a job that tests of whole jobs would not tell apart."""

import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from nextchar.models.architectures import resolve_training
from nextchar.models.architectures.onnx_graph import stateful_lstm_graph
from nextchar.models.config import Budget, NetworkConfig, TrainingConfig
from nextchar.models.errors import Unavailable
from nextchar.store.corpora import Corpora
from nextchar.store.corpus import Upload
from nextchar.store.jobs import JobRequest, Jobs
from nextchar.store.models import Models
from nextchar.store.open_blobs import open_blobs
from nextchar.worker import experts, pipeline
from nextchar.worker.hooks import Hooks, Stopped, StopReason
from nextchar.worker.prepared_text import Text
from tests.models.runtime.networks import CHARACTERS, random_weights
from tests.store.refusing import Refusing, unavailable
from tests.store.test_models import FILES, _card


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


@pytest.mark.parametrize("part", ["Mixture.make", "_measured", "_int8", "anomaly_files", "write_report"])
def test_a_stop_is_applied_in_each_part_of_the_evaluation(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, part: str
) -> None:
    blobs = open_blobs("memory:///")
    with Upload(tmp_path, limit_bytes=10**6) as upload:
        upload.feed("".join(f"{n * 7919 % 1000} cats sat\n" for n in range(2000)).encode())
        corpus, _ = Corpora(blobs).add(upload)
    network = NetworkConfig(units=8, layers=1, embedding=4)
    budget = TrainingConfig(rows=4, window=16, budget=Budget(steps=2))
    training = resolve_training(network, budget)
    job = Jobs(blobs).create(JobRequest(corpus=corpus.id, name="m", network=network, training=training))
    requests: list[StopReason] = []
    checkpoints: list[int] = []
    whole = experts.Mixture.make if part == "Mixture.make" else getattr(pipeline, part)

    def requested_meanwhile(*arguments: Any, **options: Any) -> Any:
        assert checkpoints[-1] == 2, "the next attempt need not train"
        requests.append("pause")
        return whole(*arguments, **options)

    monkeypatch.setattr(f"nextchar.worker.pipeline.{part}", requested_meanwhile)
    outcome = pipeline.train_model(
        job,
        corpora=Corpora(blobs),
        models=Models(blobs),
        scratch=tmp_path / "scratch",
        cores=1,
        precision="float32",
        resume=None,
        hooks=Hooks(
            checkpoint=lambda checkpoint: checkpoints.append(checkpoint.step),
            stop=lambda: requests[-1] if requests else None,
        ),
    )
    assert outcome == pipeline.Outcome("pause")


def _prepared(
    tmp_path: Path, hooks: Hooks, *, cache_bytes: int | None = None, **changes: Any
) -> pipeline.Outcome:
    """Run a job whose text takes long to mask, and a second of training."""
    blobs = open_blobs("memory:///")
    with Upload(tmp_path, limit_bytes=10**7) as upload:
        upload.feed(b"x" * 200_000 + b"\n")
        upload.feed(b"x" * 200_000 + b"\n")
        corpus, _ = Corpora(blobs).add(upload)
    network = NetworkConfig(units=8, layers=1, embedding=4)
    training = resolve_training(network, TrainingConfig(rows=4, window=16, budget=Budget(seconds=1)))
    request = JobRequest(
        corpus=corpus.id, name="m", network=network, training=training, masks=(r"x(?:.*y)?",), **changes
    )
    return pipeline.train_model(
        Jobs(blobs).create(request),
        corpora=Corpora(blobs),
        models=Models(blobs),
        scratch=tmp_path / "scratch",
        cores=1,
        precision="float32",
        corpus_cache_bytes=cache_bytes,
        resume=None,
        hooks=hooks,
    )


@pytest.mark.parametrize("reason", ["cancel", "pause", "shutdown", "cancel_keep_best"])
@pytest.mark.parametrize(("kind", "cache_bytes"), [("text", None), ("text", 100_000), ("records", None)])
def test_stop_is_applied_while_the_text_is_masked(
    tmp_path: Path, reason: StopReason, kind: str, cache_bytes: int | None
) -> None:
    polls: list[None] = []

    def stop() -> StopReason | None:
        polls.append(None)
        return reason if len(polls) >= 200 else None

    outcome = _prepared(tmp_path, Hooks(stop=stop), kind=kind, cache_bytes=cache_bytes)
    assert outcome == pipeline.Outcome("cancel" if reason == "cancel_keep_best" else reason)
    assert len(polls) == 200
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_stop_that_keeps_the_model_does_not_end_its_evaluation() -> None:
    Hooks(stop=lambda: None).check()
    Hooks(stop=lambda: "cancel_keep_best").check()
    with pytest.raises(Stopped) as caught:
        Hooks(stop=lambda: "shutdown").check()
    assert caught.value.reason == "shutdown"


def test_the_card_of_the_start_model_is_known_unless_it_was_deleted() -> None:
    blobs = open_blobs("memory:///")
    request = JobRequest(corpus="c", name="m", network=NetworkConfig(), training=TrainingConfig())
    assert pipeline._start_card(Models(blobs), request) is None
    request = request.model_copy(update={"start_from": "fox@1"})
    assert pipeline._start_card(Models(blobs), request) is None
    card = Models(blobs).publish(_card("fox"), FILES)
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
