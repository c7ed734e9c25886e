"""Scores of a stream of lines of any length: bytes in, records as JSON lines out, in flat memory.

The caller feeds pieces of the body; the lines that end in a piece are scored as one batch.
"""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from nextchar.app.http.limited_work import Check
from nextchar.app.logs.alerts.alerts import Alerts
from nextchar.app.logs.alerts.occurrences import occurrences_of
from nextchar.app.scoring.schemas import LineScore, StreamBody, StreamQuery
from nextchar.app.scoring.scoring import CalibratedScorer, ScoreOptions, calibration_body, is_unusual
from nextchar.app.scoring.streams import StreamLock
from nextchar.models.anomaly.drift import drift
from nextchar.models.anomaly.scorer import LineReading
from nextchar.models.loaded_model import LoadedModel
from nextchar.models.runtime.session import State
from nextchar.models.text.lines import InputLine, LineParser, LineSplitter, RawLine
from nextchar.store.calibrations import StoredCalibration

_MAX_EXPECTED_CHARACTERS = 5_000  # of a line for whose positions expected characters are returned
_MAX_CACHED_CHARACTERS = 500  # of a cached line

MAX_CACHED_BYTES = 4 << 20
"""Memory for the scores that a stream caches, because logs repeat lines: those of 2,500 lines of 100
characters."""

SCORE_BYTES = 1_500
"""The approximate memory of a cached score, without its line."""


class StreamScorer:
    """Scores pieces of one streamed body, one after the other, in worker threads.

    Args:
        loaded: the model.
        calibration: the one to compare with, if any.
        query: what is requested.
        check: called between pieces of work.
        alerts: where labels are found and flagged lines are recorded; None: nowhere.
        is_json: whether the lines are JSON.
        file: if the lines are of a file, its name, which is in each record instead of the line's number.

    Raises:
        DomainError: the model or its calibration do not allow what `query` asks for.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        calibration: StoredCalibration | None,
        query: StreamQuery,
        check: Check,
        *,
        alerts: Alerts | None = None,
        is_json: bool = False,
        file: str | None = None,
    ) -> None:
        options = ScoreOptions(
            query.detail,
            query.expected,
            query.false_alarms,
            fast=query.precision == "auto",
            explain=query.explain,
            repeats=query.repeats,
        )
        labels = partial(alerts.labels, loaded.saved.card.name) if alerts else dict
        self._scorer = CalibratedScorer(loaded, calibration, options, check, labels)
        self._alerts = alerts
        self._query = query
        self._file = file
        self._splitter = LineSplitter()
        self._parser = LineParser(loaded.vocabulary, is_json=is_json)
        self._cache: dict[str, LineScore] = {}
        self._cached_bytes = 0
        self._expected: dict[str, str] = {}  # of the lines of this batch, as JSON
        self._state: State | None = None
        self._stream: StreamBody | None = None
        self._started = time.monotonic()
        self.totals = {
            "lines": 0,
            "characters": 0,
            "anomalous": 0,
            "repeated": 0,
            "unusual": 0,  # among the most unusual tenth of the calibration; many more indicate drift
            "not_utf8": 0,
            "truncated": 0,
            "errors": 0,
        }

    def start(self) -> bytes:
        """Return the `score.start` record, the first of a response."""
        scorer = self._scorer
        calibration = scorer.calibration
        record = {
            "object": "score.start",
            "model": scorer.loaded.reference,
            "false_alarms": scorer.rate,
            "threshold": scorer.threshold,
            "calibration": calibration_body(calibration).model_dump() if calibration else None,
        }
        return json_line(record)

    def score(self, data: bytes, *, is_last: bool, turn: StreamLock | None = None) -> bytes:
        """Return the records of the lines that end in `data`; `turn` is the lock of a stored stream."""
        raw = [*self._splitter.feed(data), *(self._splitter.finish() if is_last else ())]
        return b"".join(map(_dump, self.records(raw, turn)))

    def records(self, raw: Sequence[RawLine], turn: StreamLock | None = None) -> Iterator[dict[str, Any]]:
        """Yield the records of lines, scored as one batch; `expected`, if there is one, is JSON already."""
        lines = [self._parser.parse(line) for line in raw]
        texts = [line.text for line in lines if line.text is not None]
        scores = iter(self._score_texts(texts, turn) if texts else [])
        for line in lines:
            if record := self._record(line, next(scores) if line.text is not None else None):
                yield record

    def end(self) -> bytes:
        """Return the last record."""
        record = {
            "object": "score.end",
            **self.totals,
            "seconds": round(time.monotonic() - self._started, 3),
        }
        if self._stream:
            record["stream"] = self._stream.model_dump()
        if advice := drift(self.totals["lines"], self.totals["unusual"]):
            record["drift"] = advice
        return json_line(record)

    def _score_texts(self, texts: list[str], turn: StreamLock | None) -> list[LineScore]:
        if self._query.context == "stream":
            lines = self._read_stream(texts, turn)
            scores = list(self._scorer.scores(lines))
            self._record_alerts(list(zip(lines, scores, strict=True)))
            return list(map(self._scorer.without_repeat, scores, lines))
        cache = self._cache
        new = [text for text in dict.fromkeys(texts) if text not in cache]
        lines = self._scorer.read(new) if new else []
        scored = dict(zip(new, self._scorer.scores(lines), strict=True))
        self._expected = {
            text: self._scorer.expected_json(line)
            for text, line in zip(new, lines, strict=True)
            if self._query.expected and len(text) <= _MAX_EXPECTED_CHARACTERS
        }
        scores = [scored.get(text) or cache[text] for text in texts]
        read = dict(zip(new, lines, strict=True))  # all flagged lines among them: those are not cached
        self._record_alerts(
            [(read[text], score) for text, score in zip(texts, scores, strict=True) if score.anomalous]
        )
        if self._query.detail != "character":
            for text, score in scored.items():
                if len(text) <= _MAX_CACHED_CHARACTERS and score.alert_id is None:  # a label may change
                    self._keep(text, score)
        return [
            self._scorer.without_repeat(score, read.get(text))
            for text, score in zip(texts, scores, strict=True)
        ]

    def _keep(self, text: str, score: LineScore) -> None:
        """Cache the score of a line; a full cache is emptied first."""
        needed_bytes = sys.getsizeof(text) + SCORE_BYTES
        if self._cached_bytes + needed_bytes > MAX_CACHED_BYTES:
            self._cache.clear()
            self._cached_bytes = 0
        self._cache[text] = score
        self._cached_bytes += needed_bytes

    def _record_alerts(self, scored: Sequence[tuple[LineReading, LineScore]]) -> None:
        if self._query.alerts and self._alerts:
            self._alerts.record(occurrences_of(self._scorer, scored, source=self._query.source))

    def _read_stream(self, texts: list[str], turn: StreamLock | None) -> list[LineReading]:
        if turn is None:
            lines, self._state = self._scorer.read_stream(texts, self._state)
            return lines
        lines, stream = self._scorer.read_stored_stream(turn, texts)
        # The last record reports whether the first batch restarted the stream.
        restarted = self._stream.restarted if self._stream else stream.restarted
        self._stream = stream.model_copy(update={"restarted": restarted})
        return lines

    def _record(self, line: InputLine, score: LineScore | None) -> dict[str, Any] | None:
        totals, meta = self.totals, line.meta
        totals["lines"] += 1
        totals["not_utf8"] += "not_utf8" in meta
        totals["truncated"] += "truncated" in meta
        totals["errors"] += "error" in meta
        if score:
            totals["characters"] += score.characters
            totals["anomalous"] += bool(score.anomalous)
            totals["repeated"] += bool(score.repeated)
            totals["unusual"] += is_unusual(score)
        is_shown = bool(meta.keys() - {"id"}) or (score is not None and score.anomalous)
        if self._query.only == "anomalous" and not is_shown:
            return None
        place = {"file": self._file} if self._file else {"object": "score.line", "line": line.number}
        record: dict[str, Any] = {**place, "offset": line.offset, **meta}
        if score:
            record |= score.model_dump(exclude_none=True)
        if self._query.echo and line.text is not None:
            record["text"] = self._scorer.loaded.vocabulary.to_text(line.text)
        expected = self._expected.get(line.text or "")
        return record if expected is None or score is None else record | {"expected": expected}


def _dump(record: dict[str, Any]) -> bytes:
    expected = record.pop("expected", None)
    if expected is None:
        return json_line(record)
    head = json_line(record).removesuffix(b"}\n")
    return b'%s,"expected":%s}\n' % (head, expected.encode("utf-8", "backslashreplace"))


def json_line(record: dict[str, Any]) -> bytes:
    """Return a record as one line of JSON. Unpaired surrogates are written as escapes."""
    text = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace") + b"\n"
