"""The files with which a model scores lines: n-grams, templates, and a calibration on its held-out lines."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from nextchar.models.anomaly.calibration import MIN_LINES, Calibration
from nextchar.models.anomaly.calibration_builder import calibrate
from nextchar.models.anomaly.scorer import with_ngram_and_templates
from nextchar.models.runtime.session import StepNetwork
from nextchar.models.runtime.surprisal import LineSurprisal, higher, line_surprisal
from nextchar.models.text import ngram as ngram_file
from nextchar.models.text import templates as templates_file
from nextchar.models.text import word_ngram as word_ngram_file
from nextchar.models.text.events import TextEvents
from nextchar.models.text.kind_detection import Purpose
from nextchar.models.text.line_tokens import MAX_TEMPLATES
from nextchar.models.text.templates import Templates
from nextchar.models.text.word_ngram import WordNgrams
from nextchar.store.calibrations import MODEL_FILE, validation_file
from nextchar.worker.prepared_text import Text

WANTED_LINES = 500
"""If fewer lines are held out, lines of the training text are added."""

_MIN_DISTINCT_FRACTION = 0.1  # of the held-out lines; below it they are a burst
_BURST_RATIO = 3  # lines of the training text that are added per line of a burst

_MAX_CHARACTERS = 5_000_000  # from the end of the held-out text: a minute or two
_MARGIN_BITS = 0.5  # for logs: flagged lines must be this much rarer. docs/engineering/anomaly-study.md
_MAX_OLDER_CHARACTERS = 500_000
_OLDER_PARTS = 16
_MAX_LINE_CHARACTERS = 50_000  # longer lines are ignored


def anomaly_files(
    network: StepNetwork,
    text: Text,
    *,
    int8: StepNetwork | None = None,
    is_log: bool = False,
    purpose: Purpose = "complete",
    events: TextEvents | None = None,
    on_message: Callable[[str], None] = lambda _: None,
) -> dict[str, bytes]:
    """Return the files for scores: n-grams, templates, and a calibration if there are enough lines.

    The n-grams and the templates are those of the training text alone. The calibration is made on the newest
    complete lines of the held-out text, scored like lines of a request: each after a newline, by `network` in
    float32 and in `int8` if the model has that. What is called a line here is an event, of several lines if
    `events` says so. Unless the purpose is `complete`, training lines take part, too; see `_older_lines`.
    `on_message` gets a sentence if a model for anomalies alone has too many templates. With `is_log` lines
    change with time; see `_with_margin`.
    """
    ngram = ngram_file.ngram_of(text.train[-ngram_file.MAX_CHARACTERS :], text.vocabulary)
    end = text.vocabulary.decode(text.train[-templates_file.MAX_CHARACTERS - 1 :])
    trained = templates_file.last_lines(end)
    if events:
        trained = events.of(trained, after=_newlines(text))
    templates = Templates.fit(trained, events.opener if events else None)
    if purpose == "anomalies" and not templates.is_complete:
        on_message(
            f"there are more than {MAX_TEMPLATES:,} templates: {templates.unparsed:,} of {templates.lines:,}"
            " lines have none; mask values that vary"
        )
    words = WordNgrams.fit(end)
    files = {
        ngram_file.FILE: ngram_file.dump(ngram),
        templates_file.FILE: templates_file.dump(templates),
        word_ngram_file.FILE: word_ngram_file.dump(words),
    }
    held_out = text.vocabulary.decode(text.validation[-_MAX_CHARACTERS:])
    follows_newline = (
        len(text.validation) <= _MAX_CHARACTERS and text.vocabulary.decode(text.train[-1:]) == "\n"
    )
    complete_lines = held_out.split("\n")[0 if follows_newline else 1 : -1]
    if events:
        complete_lines = events.of(complete_lines)
    lines = [line for line in complete_lines if len(line) <= _MAX_LINE_CHARACTERS]
    if len(lines) < MIN_LINES:
        return files

    def read(lines: Sequence[str]) -> list[LineSurprisal]:
        surprisals = line_surprisal(network, text.vocabulary, lines, with_end=True)
        if int8:
            surprisals = higher(surprisals, line_surprisal(int8, text.vocabulary, lines, with_end=True))
        return with_ngram_and_templates(surprisals, lines, ngram, templates, words=words)

    older = _older_lines(text, lines, trained if events else None) if purpose != "complete" else []
    calibration = calibrate(read(lines), older=read(older))
    files[MODEL_FILE] = validation_file(_with_margin(calibration) if is_log else calibration)
    return files


def _older_lines(text: Text, newest: Sequence[str], events: Sequence[str] | None = None) -> list[str]:
    """Return lines of the training text, about as many as are missing to WANTED_LINES held-out ones.

    The held-out lines, the newest, may be few, or a burst of the same kinds, without others that are as
    normal. The lines are those of evenly spaced parts of the training text, which are complete in them; or
    evenly spaced ones of its `events`.
    """
    missing = WANTED_LINES - len(newest)
    if len(set(newest)) < _MIN_DISTINCT_FRACTION * len(newest):
        missing = max(missing, _BURST_RATIO * len(newest))
    characters = sum(len(line) + 1 for line in newest) / max(1, len(newest))
    total = len(text.train)
    wanted = min(int(missing * characters), _MAX_OLDER_CHARACTERS, total)
    if wanted <= 0:
        return []
    if events is not None:
        count = min(missing, len(events), wanted // int(characters))
        return [events[i] for i in np.linspace(0, len(events) - 1, count).astype(int)] if count else []
    size = wanted // _OLDER_PARTS
    starts = np.linspace(0, total - size, _OLDER_PARTS).astype(int)
    parts = [text.train[start : start + size] for start in starts] if wanted < total else [text.train[:]]
    complete = (line for part in parts for line in text.vocabulary.decode(part).split("\n")[1:-1])
    return [line for line in complete if len(line) <= _MAX_LINE_CHARACTERS]


def _newlines(text: Text) -> int:
    """Return how many lines end in the held-out text."""
    return int(np.count_nonzero(text.validation[:] == text.vocabulary.encode("\n")[0]))


def _with_margin(calibration: Calibration) -> Calibration:
    """Return a calibration with higher thresholds, so that flagged lines are rarer by _MARGIN_BITS.

    The calibration lines of a log are a short part of it, and later lines differ a little. The highest 5 % of
    the scores increase by the margin. The lower 90 % are unchanged, and with them the detection of drift.
    """
    buckets = []
    for bucket in calibration.buckets:
        fractions = np.arange(bucket.kept) / bucket.kept
        scores = bucket.scores + _MARGIN_BITS * np.clip((fractions - 0.9) / 0.05, 0.0, 1.0)
        tail = bucket.tail and replace(bucket.tail, start=bucket.tail.start + _MARGIN_BITS)
        buckets.append(replace(bucket, scores=scores, tail=tail))
    return replace(calibration, buckets=tuple(buckets))
