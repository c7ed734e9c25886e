"""Scores of a stream of lines of any length: lines in, records out, in flat memory.

The lines that a caller gives at once are scored as one batch.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from nextchar.models.anomaly.alerts import AlertLabel
from nextchar.models.anomaly.calibrated_scorer import CalibratedScorer, Judged, is_unusual
from nextchar.models.anomaly.line_scores import LineScore, ScoreOptions, StoredCalibration, StreamOptions
from nextchar.models.anomaly.scorer import LineReading
from nextchar.models.loaded_model import LoadedModel
from nextchar.models.runtime.session import Check, State, no_check
from nextchar.models.text.events import EventJoiner
from nextchar.models.text.lines import InputLine, LineParser, RawLine

_MAX_EXPECTED_CHARACTERS = 5_000  # of a line for whose positions expected characters are returned
_MAX_CACHED_CHARACTERS = 500  # of a cached line
_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))  # `dumps` makes one for each record

MAX_CACHED_BYTES = 4 << 20
"""Memory for the scores that a stream caches, because logs repeat lines: those of 2,500 lines of 100
characters."""

SCORE_BYTES = 1_500
"""The approximate memory of a cached score, without its line."""


class StreamScorer:
    """Scores the lines of one stream or file, batch by batch; in one thread at a time.

    Args:
        loaded: the model.
        calibration: the one to compare with, if any.
        query: what is requested.
        check: called between pieces of work.
        labels: as for `CalibratedScorer`.
        is_json: whether the lines are JSON.
        file: if the lines are of a file, its name, which is in each record instead of the line's number.
        part: the offsets at which the events begin that are scored; None: all.

    Raises:
        DomainError: the model or its calibration do not allow what `query` asks for.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        calibration: StoredCalibration | None,
        query: StreamOptions,
        check: Check = no_check,
        *,
        labels: Callable[[], Mapping[str, AlertLabel]] = dict,
        is_json: bool = False,
        file: str | None = None,
        part: range | None = None,
    ) -> None:
        options = ScoreOptions(
            query.detail,
            query.expected,
            query.false_alarms,
            fast=query.precision == "auto",
            explain=query.explain,
            repeats=query.repeats,
        )
        self.scorer = CalibratedScorer(loaded, calibration, options, check, labels)
        self.query = query
        self._file, self._part = file, part
        self._parser = LineParser(loaded.vocabulary, is_json=is_json)
        self._joiner = EventJoiner(loaded.scorer.opener)
        self._cache: dict[str, LineScore] = {}
        self._cached_bytes = 0
        self._expected: dict[str, str] = {}  # of the lines of this batch, as JSON
        self.state: State | None = None  # with context stream, after the last line
        self.totals = {
            "lines": 0,
            "events": 0,
            "characters": 0,
            "anomalous": 0,
            "repeated": 0,
            "unusual": 0,  # among the most unusual tenth of the calibration; many more indicate a change
            "not_utf8": 0,
            "truncated": 0,
            "errors": 0,
        }

    @property
    def held(self) -> Sequence[InputLine]:
        """The lines so far of the last event, which is not scored yet because it may go on."""
        return self._joiner.held

    def records(self, raw: Sequence[RawLine], *, is_last: bool = True) -> Iterator[dict[str, Any]]:
        """Yield the records of lines, scored as one batch; `expected`, if there is one, is JSON already.

        The last event waits for more lines unless `is_last`.
        """
        lines = list(self._joiner.feed(map(self._parser.parse, raw)))
        if is_last and (last := self._joiner.finish()):
            lines.append(last)
        if self._part:
            lines = [line for line in lines if line.offset in self._part]
        texts = [line.text for line in lines if line.text is not None]
        scores = iter(self._score_texts(texts) if texts else [])
        for line in lines:
            if record := self._record(line, next(scores) if line.text is not None else None):
                yield record

    def record(self, rare: Sequence[Judged]) -> None:
        """Record flagged lines and repeats; here, nowhere."""

    def _score_texts(self, texts: list[str]) -> list[LineScore]:
        if self.query.context == "stream":
            lines, self.state = self.scorer.read_stream(texts, self.state)
            return self._judge(list(self.scorer.scores(lines)), lines)
        cache = self._cache
        new = [text for text in dict.fromkeys(texts) if text not in cache]
        lines = self.scorer.read(new) if new else []
        scored = dict(zip(new, self.scorer.scores(lines), strict=True))
        self._expected = {
            text: self.scorer.expected_json(line)
            for text, line in zip(new, lines, strict=True)
            if self.query.expected and len(text) <= _MAX_EXPECTED_CHARACTERS
        }
        scores = [scored.get(text) or cache[text] for text in texts]
        read = dict(zip(new, lines, strict=True))  # all flagged lines among them: those are not cached
        if self.query.detail != "character":
            for text, score in scored.items():
                if len(text) <= _MAX_CACHED_CHARACTERS and score.alert_id is None:  # a label may change
                    self._keep(text, score)
        return self._judge(scores, [read.get(text) for text in texts])

    def _judge(self, scores: Sequence[LineScore], lines: Sequence[LineReading | None]) -> list[LineScore]:
        """Return the scores of lines by the flag rule; `lines` are needed if they are rare."""
        now = time.time()
        judged = [self.scorer.judge(score, line, now=now) for score, line in zip(scores, lines, strict=True)]
        self.record([one for one in judged if one.key])
        return [one.score for one in judged]

    def _keep(self, text: str, score: LineScore) -> None:
        """Cache the score of a line; a full cache is emptied first."""
        needed_bytes = sys.getsizeof(text) + SCORE_BYTES
        if self._cached_bytes + needed_bytes > MAX_CACHED_BYTES:
            self._cache.clear()
            self._cached_bytes = 0
        self._cache[text] = score
        self._cached_bytes += needed_bytes

    def _record(self, line: InputLine, score: LineScore | None) -> dict[str, Any] | None:
        totals, meta = self.totals, line.meta
        totals["lines"] += line.lines
        totals["events"] += 1
        totals["not_utf8"] += "not_utf8" in meta
        totals["truncated"] += "truncated" in meta
        totals["errors"] += "error" in meta
        if score:
            totals["characters"] += score.characters
            totals["anomalous"] += bool(score.anomalous)
            totals["repeated"] += bool(score.repeated)
            totals["unusual"] += is_unusual(score)
        is_shown = bool(meta.keys() - {"id"}) or (score is not None and score.anomalous)
        if self.query.only == "anomalous" and not is_shown:
            return None
        place = {"file": self._file} if self._file else {"object": "score.line", "line": line.number}
        record: dict[str, Any] = {**place, "offset": line.offset, **meta}
        if score:
            record |= score.model_dump(exclude_none=True)
        if self.query.echo and line.text is not None:
            record["text"] = self.scorer.loaded.vocabulary.to_text(line.text)
        expected = self._expected.get(line.text or "")
        return record if expected is None or score is None else record | {"expected": expected}


def json_line(record: dict[str, Any]) -> bytes:
    """Return a record as one line of JSON. Unpaired surrogates are written as escapes."""
    return _JSON.encode(record).encode("utf-8", "backslashreplace") + b"\n"
