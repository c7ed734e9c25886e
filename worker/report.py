"""What a finished job tells of itself: report.json, report.svg, report.html and a TensorBoard event file.

Each part is bounded in time and fails by itself: a model is never lost because its report could not be
written; the report then says what is missing. Knows neither queue nor storage.
"""

import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from models.runtime.session import Network
from worker import baselines, memorization, problems
from worker.event_files import FILE_NAME, EventFile
from worker.plots import curves_svg
from worker.prepared_text import Text
from worker.report_page import page

log = logging.getLogger("nextchar.worker")

T = TypeVar("T")

Event = Mapping[str, Any]

_COPYING_SHARE = 0.1  # of the seconds that training took
_COPYING_SECONDS = (2.0, 20.0)  # but at least, and at most
_CARD_PASSAGE = 200  # characters of the longest passage that the card shows
_PICTURE_BASELINES = ("unigram", "bigram", "ngram", "gzip", "xz")


def write_report(
    facts: Mapping[str, Any],
    about: Mapping[str, Any],
    *,
    text: Text,
    graph: bytes,
    events: Iterable[Event],
    seed: int,
    cores: int,
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return what the card's report has beside `facts`, and the report's files by name.

    Args:
        facts: what training measured: see `worker.pipeline`.
        about: whose report it is: name, job, corpus, created_at, network, training, parameters.
        text: what was trained on, and what was held out.
        graph: the network, as ONNX.
        events: the job's events, with the times at which they came.
        seed: of the text it writes to be looked at.
        cores: that training used, and that this may use.
    """
    parts = _Parts()
    report: dict[str, Any] = {"object": "report", **about, **facts}
    report["cost"] = {
        "seconds": facts["training_seconds"],
        "characters": facts["characters_trained"],
        "characters_per_second": round(facts["characters_trained"] / max(facts["training_seconds"], 0.1)),
        "peak_memory_bytes": facts["peak_memory_bytes"],
        "cores": cores,
    }
    events = list(events)
    report["samples"] = parts.run("samples", lambda: _samples(events, facts["curve"])) or []
    report |= parts.run("baselines", lambda: _baselines(text)) or {}
    parts.problems += problems.found(report)
    seconds = min(max(_COPYING_SHARE * facts["training_seconds"], _COPYING_SECONDS[0]), _COPYING_SECONDS[1])
    if copying := parts.run("memorization", lambda: _copying(text, graph, cores, seed, seconds)):
        report["memorization"] = copying
    files: dict[str, bytes] = {}
    wide = parts.run("picture", lambda: _picture(report, width=720, height=400))
    narrow = parts.run("narrow picture", lambda: _picture(report, width=344, height=320))
    if wide:
        files["report.svg"] = wide.encode()
    if log_file := parts.run("TensorBoard log", lambda: _event_file(events)):
        files[FILE_NAME] = log_file
    report["parts_seconds"] = parts.seconds
    report["report_seconds"] = round(sum(parts.seconds.values()), 2)
    report["problems"] = parts.problems
    if written := parts.run("page", lambda: page(report, wide=wide, narrow=narrow)):
        files["report.html"] = written.encode("utf-8", "replace")
    if told := parts.run("JSON", lambda: json.dumps(report, ensure_ascii=False, indent=1)):
        files["report.json"] = told.encode("utf-8", "replace")
    return _for_card(report), files


class _Parts:
    """Runs the parts of a report one after another; keeps how long each took and what went wrong."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.problems: list[str] = []

    def run(self, name: str, part: Callable[[], T]) -> T | None:
        """Return what `part` does, or None when it fails."""
        began = time.monotonic()
        try:
            return part()
        except Exception as error:
            log.exception("the report's part %r failed", name)
            self.problems.append(
                f"the {name} is missing: {type(error).__name__} while it was made; the worker's log says more"
            )
            return None
        finally:
            self.seconds[name] = round(time.monotonic() - began, 2)


def _baselines(text: Text) -> dict[str, Any]:
    found = baselines.measure(
        text.train, text.validation, size=len(text.vocabulary), encode=baselines.encoder_of(text.vocabulary)
    )
    return {
        "baselines": found.bits,
        "ngram_order": found.ngram_order,
        "ngram_orders": found.ngram_orders,
        "baseline_characters": found.characters,
    }


def _copying(text: Text, graph: bytes, cores: int, seed: int, seconds: float) -> dict[str, Any]:
    network = Network(graph, threads=cores)
    found = memorization.measure(network, text.train, text.validation, seed=seed, seconds=seconds)
    return found.told(text.train, lambda ids: text.vocabulary.to_text(text.vocabulary.decode(ids)))


def _picture(report: Mapping[str, Any], *, width: int, height: int) -> str:
    lines = {
        f"{report['ngram_order']}-gram" if name == "ngram" else name: bits
        for name, bits in report.get("baselines", {}).items()
        if name in _PICTURE_BASELINES
    }
    return curves_svg(report["curve"], lines, kept_step=report["best_step"], width=width, height=height)


def _samples(events: Sequence[Event], curve: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the samples by step with their epochs; of a step that was done twice, the later one."""
    epochs = {point["step"]: point["epoch"] for point in curve}
    found = {
        event["data"]["step"]: {
            "step": event["data"]["step"],
            "epoch": epochs[event["data"]["step"]],
            "text": event["data"]["text"],
        }
        for event in events
        if event["type"] == "sample" and event["data"]["step"] in epochs
    }
    return [found[step] for step in sorted(found)]


def _event_file(events: Sequence[Event]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / FILE_NAME
        file = EventFile(path, at=events[0]["at"] if events else time.time())
        for event in events:
            file.add(event)
        file.close()
        return path.read_bytes()


def _for_card(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the short form: figures, and of the copied passages the longest one's beginning."""
    card = {
        key: report[key]
        for key in (
            "baselines", "ngram_order", "ngram_orders", "baseline_characters", "cost", "report_seconds",
            "parts_seconds", "problems",
        )
        if key in report
    }  # fmt: skip
    if memory := report.get("memorization"):
        texts = [
            {
                **{k: text[k] for k in ("temperature", "characters", "novel", "copied", "longest")},
                "longest_passage": text["passages"][0]["text"][:_CARD_PASSAGE] if text["passages"] else "",
            }
            for text in memory["generated"]
        ]
        held_out = {k: memory["held_out"][k] for k in ("characters", "novel", "copied", "longest")}
        card["memorization"] = {**memory, "generated": texts, "held_out": held_out}
    return card
