"""Writes the report of a finished job: report.json, report.svg, report.html and a TensorBoard event file.

The time of each part is bounded, and each part can fail alone: the model is kept, and the report says what is
missing. If the storage fails, so does the report, and the job waits for the storage.

Baselines: the bits per character of simple predictors on the held-out text, after the training text.

Each reads a bounded part of a huge text, so that the report takes little time: see `baseline_characters`.

Problems of a finished model, found by its report, with advice.

Counts held-out records that also occur in the training text: a model and the baselines may know them.
"""

import json
import logging
import lzma
import tempfile
import textwrap
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar, cast

import numpy as np
import pyppmd
from numpy.typing import NDArray

from nextchar.models.base import is_base
from nextchar.models.report import CopyCounts, Evaluation, GeneratedText, HeldOutLines, Report, Sample
from nextchar.models.runtime.session import StepNetwork
from nextchar.models.saved_model import Card
from nextchar.models.text.ngram import NgramModel
from nextchar.models.text.vocabulary import Vocabulary
from nextchar.worker import memorization
from nextchar.worker.hooks import storage_problem
from nextchar.worker.memorization import Withheld
from nextchar.worker.prepared_text import Ids, Text
from nextchar.worker.report_page import page, picture

log = logging.getLogger("nextchar.worker")

T = TypeVar("T")

Event = Mapping[str, Any]

_MEMORIZATION_FRACTION = 0.1  # of the training time
_MIN_MEMORIZATION_S, _MAX_MEMORIZATION_S = 2.0, 20.0
_CARD_PASSAGE_CHARACTERS = 200


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
    withheld: Withheld | None = None,
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
        withheld: the lines that may not be suggested, if there are any.
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
            lambda: measure_baselines(text.before_test(MAX_BASELINE_CHARACTERS), text.test, vocabulary),
        )
        or Report()
    )
    if origin.get("kind") == "records" and (
        lines := parts.run(
            "held-out lines", lambda: measure_repeated_lines(text.train, text.validation, vocabulary)
        )
    ):
        report["held_out_lines"] = lines
    parts.problems += find_problems(report, start)
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
        if withheld and (
            completed := parts.run(
                "withheld lines",
                lambda: memorization.measure_withheld(network, withheld, vocabulary, seconds=seconds / 4),
            )
        ):
            memory["withheld"] = completed
    files: dict[str, bytes] = {}
    sizes = ((720, 400), (344, 320))
    pictures = parts.run("picture", lambda: [picture(report, width=w, height=h) for w, h in sizes])
    wide, narrow = pictures or (None, None)
    if wide:
        files["report.svg"] = wide.encode()
    if log_file := parts.run("TensorBoard log", lambda: event_file(events)):
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


def _samples(events: Sequence[Event], curve: Sequence[Evaluation]) -> list[Sample]:
    """Return the samples by step with their epochs; the later one of a step that was repeated."""
    epochs = {point["step"]: point["epoch"] for point in curve}
    by_step: dict[int, Sample] = {}
    for event in events:
        step = event["data"].get("step")
        if event["type"] == "sample" and step in epochs:
            by_step[step] = {"step": step, "epoch": epochs[step], "text": event["data"]["text"]}
    return [by_step[step] for step in sorted(by_step)]


FILE_NAME = "events.out.tfevents.nextchar"
"""TensorBoard reads any file whose name contains `tfevents`; this one names no host."""

_EVENT_FILES = "brain.Event:2"  # their version

_SCALARS = {
    "train_bits_per_character": "bits_per_character/train",
    "validation_bits_per_character": "bits_per_character/validation",
    "learning_rate": "optimizer/learning_rate",
    "characters_per_second": "speed/characters_per_second",
    "epoch": "progress/epoch",
}


def event_file(events: Sequence[Event]) -> bytes:
    """Return a TensorBoard event file with the metrics and the samples of a job's events."""
    from tensorboardX import summary
    from tensorboardX.proto import event_pb2
    from tensorboardX.record_writer import RecordWriter

    shown = [event_pb2.Event(wall_time=events[0]["at"] if events else time.time(), file_version=_EVENT_FILES)]
    for event in events:
        data, summaries = event["data"], []
        if event["type"] == "metrics":
            values = {tag: data.get(key) for key, tag in _SCALARS.items()}
            summaries = [summary.scalar(tag, value) for tag, value in values.items() if value is not None]
        elif event["type"] == "sample":
            text = data["text"].encode("utf-8", "replace").decode()
            summaries = [summary.text("sample", textwrap.indent(text, "    ", lambda _: True))]  # as it is
        shown += [event_pb2.Event(wall_time=event["at"], step=data["step"], summary=s) for s in summaries]
    with tempfile.NamedTemporaryFile() as file:
        writer = RecordWriter(file.name)
        for record in shown:
            writer.write(record.SerializeToString())
        writer.close()
        return file.read()


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


NGRAM_ORDERS = 6
"""n-gram models are measured with contexts of 0 to 5 characters."""

MAX_BASELINE_CHARACTERS = 5_000_000
"""Maximum number of characters before the held-out text in which the n-gram models count: 2 s of one core."""

PPMD_ORDERS = (6, 8, 16)
"""PPMd, variant H as in 7-Zip, is measured with contexts of up to this many bytes."""

_PPMD_MEMORY = 256 << 20
_COMPRESSED_CHARACTERS = 2_000_000  # from its end: xz compresses 1 MB per second and core, twice
_JUDGED_CHARACTERS = 1_000_000  # from the beginning of the held-out text
_DEFLATE_WINDOW = 32768  # bytes


def measure_baselines(train: Ids, validation: Ids, vocabulary: Vocabulary) -> Report:
    """Measure the baselines on `validation` (M,), which follows `train` (N,); both have at least one id.

    Returns:
        The report's `baselines`, `ngram_orders`, `ngram_order` and `baseline_characters`. The baseline
        `ngram` is the best of the orders, a choice that favors it, and so is `ppmd`.
    """
    encode, size = encoder_of(vocabulary), len(vocabulary)
    judged = validation[:_JUDGED_CHARACTERS]
    counted, compressed = train[-MAX_BASELINE_CHARACTERS:], train[-_COMPRESSED_CHARACTERS:]
    before, held_out = encode(compressed), encode(judged)
    with ThreadPoolExecutor(2) as threads:  # compressors release the interpreter lock
        both = [before + held_out, before]
        by_xz = threads.map(lambda data: len(lzma.compress(data)), both)
        by_ppmd = [threads.map(partial(ppmd_bytes, order), both) for order in PPMD_ORDERS]
        ngram = NgramModel.fit_ids(counted, size=size, order=NGRAM_ORDERS)
        orders = ngram.bits_by_order(judged, before=counted).tolist()
        gzip = len(_deflated(held_out, before))
        xz, *ppmd = (whole - part for whole, part in (by_xz, *by_ppmd))
    return {
        "baselines": {
            "uniform": float(np.log2(max(2, size - 1))),
            "unigram": orders[0],
            "bigram": orders[1],
            "ngram": min(orders),
            "gzip": gzip * 8 / len(judged),
            "xz": xz * 8 / len(judged),
            "ppmd": min(ppmd) * 8 / len(judged),
        },
        "ngram_order": int(np.argmin(orders)) + 1,
        "ngram_orders": orders,
        "baseline_characters": {"ngram": len(counted), "compressed": len(compressed), "judged": len(judged)},
    }


def encoder_of(vocabulary: Vocabulary) -> Callable[[NDArray[np.int32]], bytes]:
    """Return a function from ids to the bytes of their text: UTF-8, or bytes for that alphabet."""
    if vocabulary.alphabet == "bytes":
        table = np.frombuffer(b"\xff" + vocabulary.characters.encode("latin-1"), np.uint8)
        return lambda ids: table[ids].tobytes()
    points = np.array([0xFFFD, *map(ord, vocabulary.characters)], "<u4")
    return lambda ids: points[ids].tobytes().decode("utf-32-le", "replace").encode()


def ppmd_bytes(order: int, data: bytes) -> int:
    """Return the length of data that PPMd has compressed with contexts of up to `order` bytes."""
    return len(pyppmd.compress(data, max_order=order, mem_size=_PPMD_MEMORY, variant="H"))


def _deflated(data: bytes, before: bytes) -> bytes:
    """Return `data` compressed with DEFLATE after `before`, without a header."""
    compressor = zlib.compressobj(level=9, wbits=-15, zdict=before[-_DEFLATE_WINDOW:])
    return compressor.compress(data) + compressor.flush()


_MAX_UNIGRAM_RATIO = 0.95  # a model above this has learned hardly more than character frequencies
_MARGIN_BITS = 0.01  # smaller differences are not reported: the printed figures would be equal
_GOOD_BITS = 0.05  # a text that is predicted this well is not a problem
_UNLIKE_RATIO = 1.15  # of the network's bits on both halves of the held-out text; 0.96 to 1.10 is usual
_UNLIKE_BITS = 0.25
_MAY_BE_SEEN = (
    "the model that training started from may have been trained on some of the held-out lines, because those"
    " of records are drawn at random: held-out figures and the calibration can look too good; to compare"
    " models, train without start_from"
)
_IS_SEEN = (
    "the model that training started from was trained on some of the held-out text, because it was trained on"
    " the same corpus and held out less of it, or other parts: held-out figures and the calibration can look"
    " too good; to compare models, train without start_from"
)


def find_problems(report: Report, start: Card | None = None) -> list[str]:
    """Return a sentence, with figures and advice, if a model or its text has a problem; else nothing.

    That is if the model is not clearly better than character frequencies alone, or worse than the best of the
    n-gram model, xz and PPMd on the same held-out text, or if the end of the text is unlike what precedes it;
    and also if the model that training started from, whose card is `start`, may know held-out text.
    """
    overlap = _overlap_with_start(report, start)
    return [*([overlap] if overlap else []), *_found_by_figures(report)]


def _overlap_with_start(report: Report, start: Card | None) -> str | None:
    """Return a sentence if the model that training started from may have been trained on held-out text."""
    if not report.get("started_from"):
        return None
    if is_base(report["started_from"] or ""):
        return None
    if report.get("kind") == "records":
        return _MAY_BE_SEEN
    if start is None:
        return None
    if start.corpus != report["corpus"]:
        return _IS_SEEN if start.mix and start.mix.corpus == report["corpus"] else None
    held_out_less = start.training.validation_fraction < report["training"]["validation_fraction"]
    return _IS_SEEN if start.kind == "records" or held_out_less else None


def _found_by_figures(report: Report) -> list[str]:
    bits, baselines = report["validation_bits_per_character"], report.get("baselines", {})
    if bits < _GOOD_BITS:
        return []
    unigram = baselines.get("unigram")
    if unigram is not None and bits > _MAX_UNIGRAM_RATIO * unigram:
        sentence = (
            f"the model has learned almost nothing: {bits:.2f} bits per character on held-out text, where"
            f" character frequencies alone (unigram) reach {unigram:.2f}"
        )
        return [f"{sentence}; {_advice(report)}"]
    names = {
        "ngram": f"{report.get('ngram_order')}-gram model",
        "xz": "xz compressor",
        "ppmd": "PPMd compressor",
    }
    name_by_bits = {baselines[key]: name for key, name in names.items() if key in baselines}
    if name_by_bits and bits > min(name_by_bits) + _MARGIN_BITS:
        sentence = (
            f"the model is worse than a simple predictor: {bits:.2f} bits per character on held-out text,"
            f" where the {name_by_bits[min(name_by_bits)]} reaches {min(name_by_bits):.2f}"
        )
        return [f"{sentence}; {_advice(report)}"]
    return [unlike] if (unlike := _unlike_end(report)) else []


def _unlike_end(report: Report) -> str | None:
    """Return a sentence if the network is far worse on the half of the held-out text that judges the model.

    That is, worse than on the half before, on which its best step was chosen.
    """
    curve, judged = report.get("curve", []), report.get("experts", {}).get("lstm")
    if not curve or judged is None:
        return None
    chosen = min(point["validation_bits_per_character"] for point in curve)
    if judged < chosen + _UNLIKE_BITS or judged < chosen * _UNLIKE_RATIO:
        return None
    return (
        "the end of the text, by which the model is judged, is unlike what precedes it: the network alone"
        f" has {judged:.2f} bits per character there, and {chosen:.2f} before; look at the end, and leave out"
        " what does not belong to the text, such as a license or an index"
    )


def _advice(report: Report) -> str:
    if unlike := _unlike_end(report):
        return unlike
    if (turned := report.get("validation_turned_at_step")) is not None:
        return f"validation was best at step {turned}: train on more text, or use a smaller preset"
    if report.get("ended_early"):
        return "held-out loss stopped falling, so training ended early: train on more text"
    training = (
        f"it trained for {report['training_seconds']:.0f} s and read the text {report['epochs']:.2g} times"
    )
    if report["epochs"] < 1:
        return f"{training}: train for more seconds, or use a smaller preset"
    return f"{training}: train for more seconds or on more text, or use a smaller preset"


_TRAINING_CHARACTERS = 5_000_000  # from the end of the training text
_HELD_OUT_CHARACTERS = 1_000_000  # from the beginning of the held-out text


def measure_repeated_lines(train: Ids, validation: Ids, vocabulary: Vocabulary) -> HeldOutLines:
    """Return how many held-out lines there are and the fraction of them that are in the training text.

    Both are texts of records, (N,) and (M,) ids of whole lines. Of large texts a part is compared.
    """
    held_out = _lines(validation[:_HELD_OUT_CHARACTERS], vocabulary)
    known = set(_lines(train[-_TRAINING_CHARACTERS:], vocabulary))
    repeated = sum(line in known for line in held_out)
    return {"compared": len(held_out), "repeated_share": repeated / len(held_out)}


def _lines(ids: Ids, vocabulary: Vocabulary) -> list[str]:
    text = vocabulary.decode(np.asarray(ids))
    return text.removesuffix("\n").split("\n")
