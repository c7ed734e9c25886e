"""Writes the report of a finished job: report.json, report.svg, report.html and a TensorBoard event file.

The time of each part is bounded, and each part can fail alone: the model is kept, and the report says what is
missing. If the storage fails, so does the report, and the job waits for the storage.
"""

import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from nextchar.models.report import CopyCounts, Evaluation, GeneratedText, Report, Sample
from nextchar.models.runtime.session import StepNetwork
from nextchar.models.saved_model import Card
from nextchar.worker import baselines, memorization, problems, repeated_lines
from nextchar.worker.event_files import FILE_NAME, EventFile
from nextchar.worker.plots import curves_svg
from nextchar.worker.prepared_text import Text
from nextchar.worker.report_page import baseline_name, page
from nextchar.worker.storage_errors import storage_problem

log = logging.getLogger("nextchar.worker")

T = TypeVar("T")

Event = Mapping[str, Any]

_MEMORIZATION_FRACTION = 0.1  # of the training time
_MIN_MEMORIZATION_S, _MAX_MEMORIZATION_S = 2.0, 20.0
_CARD_PASSAGE_CHARACTERS = 200
_PICTURE_BASELINES = ("unigram", "bigram", "ngram", "gzip", "xz", "ppmd")


def write_report(
    measured: Report,
    origin: Report,
    *,
    text: Text,
    network: StepNetwork,
    events: Iterable[Event],
    seed: int,
    cores: int,
    start: Card | None = None,
    begin_phase: Callable[[str], bool] = lambda _: True,
) -> tuple[Report, dict[str, bytes]]:
    """Return the fields that the card's report has in addition to `measured`, and the report's files by name.

    Args:
        measured: the fields measured in training: see `nextchar.worker.pipeline`.
        origin: name, job, corpus, created_at, network, training, parameters.
        text: the training text and the held-out text.
        network: what the model predicts with.
        events: the job's events.
        seed: of generated text.
        cores: used in training, and available here.
        start: the card of the model that training started from, if there is one and it is known.
        begin_phase: called with each part's name before it and "" after it; returns whether to compute it.
    """
    parts, vocabulary = _Parts(begin_phase), text.vocabulary
    report: Report = {"object": "report", **origin, **measured}
    report["cost"] = {
        "seconds": measured["training_seconds"],
        "characters": measured["characters_trained"],
        "characters_per_second": round(
            measured["characters_trained"] / max(measured["training_seconds"], 0.1)
        ),
        "peak_memory_bytes": measured["peak_memory_bytes"],
        "cores": cores,
    }
    events = list(events)
    report["samples"] = parts.run("samples", lambda: _samples(events, measured["curve"])) or []
    report |= (
        parts.run(
            "baselines",
            lambda: baselines.measure(text.before_test(baselines.MAX_CHARACTERS), text.test, vocabulary),
        )
        or Report()
    )
    if origin.get("kind") == "records" and (
        lines := parts.run(
            "held-out lines", lambda: repeated_lines.measure(text.train, text.validation, vocabulary)
        )
    ):
        report["held_out_lines"] = lines
    parts.problems += problems.find_problems(report, start)
    seconds = _MEMORIZATION_FRACTION * measured["training_seconds"]
    seconds = min(max(seconds, _MIN_MEMORIZATION_S), _MAX_MEMORIZATION_S)
    memory = parts.run(
        "memorization",
        lambda: memorization.measure(
            network,
            text.train,
            text.test,
            decode=lambda ids: vocabulary.to_text(vocabulary.decode(ids)),
            seed=seed,
            seconds=seconds,
        ),
    )
    if memory:
        report["memorization"] = memory
    files: dict[str, bytes] = {}
    sizes = ((720, 400), (344, 320))
    pictures = parts.run("picture", lambda: [_picture(report, width=w, height=h) for w, h in sizes])
    wide, narrow = pictures or (None, None)
    if wide:
        files["report.svg"] = wide.encode()
    if log_file := parts.run("TensorBoard log", lambda: _event_file(events)):
        files[FILE_NAME] = log_file
    report["parts_seconds"] = parts.seconds
    report["report_seconds"] = round(sum(parts.seconds.values()), 2)
    report["problems"] = parts.problems
    if html := parts.run("page", lambda: page(report, wide=wide, narrow=narrow)):
        files["report.html"] = html.encode("utf-8", "replace")
    if text_json := parts.run("JSON", lambda: json.dumps(report, ensure_ascii=False, indent=1)):
        files["report.json"] = text_json.encode("utf-8", "replace")
    return _for_card(report), files


class _Parts:
    """Runs the parts of a report; records their durations and errors."""

    def __init__(self, begin_phase: Callable[[str], bool]) -> None:
        self._begin_phase = begin_phase
        self.seconds: dict[str, float] = {}
        self.problems: list[str] = []

    def run(self, name: str, part: Callable[[], T]) -> T | None:
        """Return the result of `part`, or None if it fails. Raises an error of the storage: jobs wait."""
        if not self._begin_phase(f"{name} of the report"):
            return None
        began = time.monotonic()
        try:
            return part()
        except Exception as error:
            if storage_problem(error):
                raise
            log.exception("the report's part %r failed", name)
            self.problems.append(
                f"the {name} is missing because of an error ({type(error).__name__}); see the worker's log"
            )
            return None
        finally:
            self._begin_phase("")
            self.seconds[name] = round(time.monotonic() - began, 2)


def _picture(report: Report, *, width: int, height: int) -> str:
    lines = {
        baseline_name(key, report): bits
        for key, bits in report.get("baselines", {}).items()
        if key in _PICTURE_BASELINES
    }
    return curves_svg(
        report["curve"],
        lines,
        kept_step=report["best_step"],
        mixture=report.get("experts", {}).get("mixture"),
        width=width,
        height=height,
    )


def _samples(events: Sequence[Event], curve: Sequence[Evaluation]) -> list[Sample]:
    """Return the samples by step with their epochs; the later one of a step that was repeated."""
    epochs = {point["step"]: point["epoch"] for point in curve}
    by_step: dict[int, Sample] = {}
    for event in events:
        step = event["data"].get("step")
        if event["type"] == "sample" and step in epochs:
            by_step[step] = {"step": step, "epoch": epochs[step], "text": event["data"]["text"]}
    return [by_step[step] for step in sorted(by_step)]


def _event_file(events: Sequence[Event]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / FILE_NAME
        file = EventFile(path, at=events[0]["at"] if events else time.time())
        for event in events:
            file.add(event)
        file.close()
        return path.read_bytes()


def _for_card(report: Report) -> Report:
    """Return the fields of `write_report` without texts, except the beginnings of copied passages."""
    keys = (
        "baselines", "ngram_order", "ngram_orders", "baseline_characters", "held_out_lines", "cost",
        "report_seconds", "parts_seconds", "problems",
    )  # fmt: skip
    card = cast(Report, {key: value for key, value in report.items() if key in keys})
    if memory := report.get("memorization"):
        texts = [cast(GeneratedText, {**text}) for text in memory["generated"]]
        for text in texts:
            del text["text"]
            longest = next((passage["text"] for passage in text["passages"]), "")
            text["longest_passage"] = longest[:_CARD_PASSAGE_CHARACTERS]
        held_out = cast(CopyCounts, {**memory["held_out"]})
        for copies in (*texts, held_out):
            del copies["passages"]
        card["memorization"] = {**memory, "generated": texts, "held_out": held_out}
    return card
