"""The report of networks that were really trained: one that learned by heart, and one that learned well."""

import errno
import json
from typing import Any

import numpy as np
import pytest

from nextchar.models.config import Budget, NetworkConfig, TrainingConfig
from nextchar.models.errors import Unavailable
from nextchar.models.runtime.session import Network
from nextchar.worker import memorization
from nextchar.worker.evaluation import graph_of
from nextchar.worker.hooks import Hooks
from nextchar.worker.prepared_text import Text
from nextchar.worker.report import FILE_NAME, write_report
from nextchar.worker.trainer import Result
from nextchar.worker.training import fit

PLANTED = "the sacrifice of the intellect is written here word for word. "
_RANDOM = np.random.default_rng(1)
_WORDS = ["".join(_RANDOM.choice([*"aeioubcdfghklmnprst"], int(_RANDOM.integers(2, 7)))) for _ in range(60)]

ABOUT: dict[str, Any] = {
    "name": "words",
    "created_at": 1795563600,
    "job": "job_1",
    "corpus": "corpus_1",
    "network": {"architecture": "stateful_lstm", "layers": 1, "units": 64},
    "training": {},
    "parameters": 1234,
}


def _prose(words: int, *, seed: int) -> str:
    return " ".join(_WORDS[i] for i in np.random.default_rng(seed).integers(0, len(_WORDS), words))


def _fitted(text: Text, *, rows: int, steps: int) -> tuple[Result, list[dict[str, Any]]]:
    events: list[dict[str, Any]] = []

    def note(kind: str, data: dict[str, Any]) -> None:
        events.append({"id": len(events) + 1, "at": 1795563600.0 + len(events), "type": kind, "data": data})

    training = TrainingConfig(rows=rows, window=32, learning_rate=1e-2, budget=Budget(steps=steps))
    config = NetworkConfig(units=64, embedding=16)
    return fit(config, training, text, hooks=Hooks(event=note)), events


def _facts(result: Result, text: Text) -> dict[str, Any]:
    return {
        "validation_bits_per_character": result.best_bits,
        "characters": {"train": len(text.train), "validation": len(text.validation)},
        "rows": result.rows.rows,
        "window": result.rows.window,
        "steps": result.steps,
        "epochs": result.epochs,
        "best_step": result.best_step,
        "bits_lost_after_best": 0.0,
        "characters_trained": result.characters,
        "training_seconds": result.elapsed_s,
        "peak_memory_bytes": 10**8,
        "curve": result.curve,
    }


@pytest.fixture(scope="module")
def learned() -> tuple[Result, Text, list[dict[str, Any]]]:
    text = Text.split(_prose(4000, seed=3) + " " + _prose(400, seed=4), validation_fraction=0.1)
    result, events = _fitted(text, rows=8, steps=300)
    return result, text, events


def _written(learned: tuple[Result, Text, list[dict[str, Any]]]) -> tuple[dict[str, Any], dict[str, bytes]]:
    result, text, events = learned
    network = Network(graph_of(result.network))
    return write_report(
        _facts(result, text), ABOUT, text=text, network=network, events=events, seed=1, cores=1
    )


def test_a_memorized_passage_is_found_with_the_verdict_copies() -> None:
    page = _prose(100, seed=1) + PLANTED
    text = Text.split(page * 6, validation_fraction=1 / 6)
    result, _ = _fitted(text, rows=4, steps=250)
    fresh = text.vocabulary.encode(_prose(300, seed=7))
    network, decode = Network(graph_of(result.network)), text.vocabulary.decode
    measured = memorization.measure(network, text.train, fresh, decode=decode, seed=1, seconds=10)
    assert measured["verdict"] == "copies"
    assert measured["repeated"]["training"] > 0.8
    assert measured["repeated"]["held_out"] == 0.0
    assert any(PLANTED in passage["text"] for text in measured["generated"] for passage in text["passages"])
    assert measured["held_out"]["longest"] < 25


def test_a_well_trained_network_is_novel_and_its_report_is_complete(
    learned: tuple[Result, Text, list[dict[str, Any]]],
) -> None:
    card, files = _written(learned)
    assert set(files) == {"report.json", "report.html", "report.svg", FILE_NAME}
    report = json.loads(files["report.json"])
    assert report["problems"] == []
    copying = report["memorization"]
    assert copying["verdict"] == "novel"
    assert copying["generated"][0]["characters"] == 5000
    assert copying["generated"][0]["novel"]["32"] > 0.95
    assert (
        report["validation_bits_per_character"]
        < report["baselines"]["bigram"]
        < report["baselines"]["unigram"]
    )
    steps = [sample["step"] for sample in report["samples"]]
    assert steps == [point["step"] for point in report["curve"]]
    assert report["samples"][-1]["epoch"] == report["curve"][-1]["epoch"]
    assert report["cost"]["characters"] == 300 * 8 * 32
    assert set(report["parts_seconds"]) >= {"baselines", "memorization", "picture"}
    # The card has the figures and not the texts.
    assert card["memorization"]["generated"][0]["longest"] == copying["generated"][0]["longest"]
    assert (
        card["memorization"]["generated"][0]["longest_passage"]
        in copying["generated"][0]["passages"][0]["text"]
    )
    assert "samples" not in card
    assert len(json.dumps(card)) < 5000


@pytest.mark.parametrize(
    ("part", "missing", "key"),
    [
        ("memorization.measure", "memorization", "memorization"),
        ("measure_baselines", "baselines", "baselines"),
        ("picture", "picture", None),
        ("event_file", "TensorBoard log", None),
        ("page", "page", None),
    ],
)
def test_a_part_that_fails_is_reported_and_the_others_are_written(
    learned: tuple[Result, Text, list[dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
    part: str,
    missing: str,
    key: str | None,
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise MemoryError

    if part != "memorization.measure":  # the slowest; it need not run each time
        monkeypatch.setattr(memorization, "measure", lambda *_, **__: {})
    monkeypatch.setattr(f"nextchar.worker.report.{part}", broken)
    card, files = _written(learned)
    told = json.loads(files["report.json"])
    assert any(missing in problem and "MemoryError" in problem for problem in told["problems"])
    assert card["problems"] == told["problems"]
    assert key is None or key not in told
    lost = {"picture": {"report.svg"}, "event_file": {FILE_NAME}, "page": {"report.html"}}.get(part, set())
    assert set(files) == {"report.json", "report.html", "report.svg", FILE_NAME} - lost


@pytest.mark.parametrize(
    "error", [Unavailable("no response", code="storage_unavailable"), OSError(errno.ENOSPC, "no space")]
)
def test_a_storage_that_fails_is_no_gap_in_the_report(
    learned: tuple[Result, Text, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("nextchar.worker.report.measure_baselines", broken)
    with pytest.raises(type(error)):
        _written(learned)


def test_the_page_has_the_experts_if_there_are_any(
    learned: tuple[Result, Text, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memorization, "measure", lambda *_, **__: {})
    result, text, events = learned
    network = Network(graph_of(result.network))
    measured = {"mixture": 0.512, "lstm": 0.612, "ngram": 0.712, "without_matches": 0.562}

    def page_of(about: Any = ABOUT, **more: Any) -> str:
        facts = _facts(result, text) | more
        _, files = write_report(facts, about, text=text, network=network, events=events, seed=1, cores=1)
        return files["report.html"].decode()

    older = page_of()
    assert "Experts" not in older and "mixture" not in older
    shown = page_of(experts=measured, mixture_weights="learned")
    names = [
        "Mixture (what the model predicts with)",
        "Network alone",
        "n-grams alone",
        "Network and n-grams",
    ]
    assert all(f">{name}</th>" in shown for name in names)
    assert "0.51<" in shown and "curves are of the network alone" in shown and "default weights" not in shown
    assert "default weights are used" in page_of(experts=measured, mixture_weights="default")
    of_lecture = {**ABOUT, "network": {"architecture": "nth_char", "layers": 1, "units": 64}}
    lecture = page_of(of_lecture, experts=measured)
    own = lecture.index("0.61</dd><dt>bits per character, held out, by the network alone")
    assert own < lecture.index("</dd><dt>by the mixture")
    assert lecture.index(f">{names[1]}</th>") < lecture.index(f">{names[0]}</th>")
    alone = page_of(experts={"lstm": 0.612, "ngram": 0.712})
    assert "Network alone" in alone and "Mixture" not in alone and "curves are of" not in alone
