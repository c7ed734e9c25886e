"""A streamed body's scores: bytes in, records as JSON lines out; labels and alerts are those of the service.

The caller feeds pieces of the body; the lines that end in a piece are scored as one batch.
"""

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from nextchar.app.http.limited_work import Check
from nextchar.app.logs.alerts.alerts import Alerts
from nextchar.app.logs.alerts.occurrences import occurrences_of
from nextchar.app.scoring.calibration_schemas import calibration_body
from nextchar.app.scoring.schemas import StreamBody, StreamQuery
from nextchar.app.scoring.streams import StreamLock
from nextchar.models.anomaly.calibrated_scorer import CalibratedScorer
from nextchar.models.anomaly.drift import drift
from nextchar.models.anomaly.line_scores import LineScore
from nextchar.models.anomaly.rolling import StoredCalibration
from nextchar.models.anomaly.scorer import LineReading
from nextchar.models.anomaly.stream_scorer import StreamScorer, json_line
from nextchar.models.loaded_model import LoadedModel
from nextchar.models.text.lines import LineSplitter


class BodyScorer(StreamScorer):
    """Scores pieces of one streamed body, one after the other, in worker threads.

    Flagged lines are recorded in `alerts` if the query asks for that. The rest as for StreamScorer.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        calibration: StoredCalibration | None,
        query: StreamQuery,
        check: Check,
        *,
        alerts: Alerts,
        is_json: bool,
    ) -> None:
        labels = partial(alerts.labels, loaded.saved.card.name)
        super().__init__(loaded, calibration, query, check, labels=labels, is_json=is_json)
        self._alerts = alerts
        self._splitter = LineSplitter()
        self._turn: StreamLock | None = None  # of a stored stream, for this batch
        self._stream: StreamBody | None = None
        self._started = time.monotonic()

    def start(self) -> bytes:
        """Return the `score.start` record, the first of a response."""
        scorer = self.scorer
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
        self._turn = turn
        raw = [*self._splitter.feed(data), *(self._splitter.finish() if is_last else ())]
        return b"".join(map(_dump, self.records(raw)))

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

    def read_stream(self, texts: list[str]) -> list[LineReading]:
        """Read lines in the stored stream, if this is one."""
        if self._turn is None:
            return super().read_stream(texts)
        lines, stream = read_stored_stream(self.scorer, self._turn, texts)
        # The last record reports whether the first batch restarted the stream.
        restarted = self._stream.restarted if self._stream else stream.restarted
        self._stream = stream.model_copy(update={"restarted": restarted})
        return lines

    def record_flagged(self, scored: Sequence[tuple[LineReading, LineScore]]) -> None:
        """Record the flagged lines among these in the model's alerts."""
        if self.query.alerts:
            self._alerts.record(occurrences_of(self.scorer, scored, source=self.query.source))


def read_stored_stream(
    scorer: CalibratedScorer, lock: StreamLock, originals: Sequence[str]
) -> tuple[list[LineReading], StreamBody]:
    """Read lines in a stored stream and store its position. Raises Conflict if the lock was lost."""
    lines, state = scorer.read_stream(originals, lock.stream.state)
    scorer.check()  # if the client has disconnected, the stream stays where it was
    return lines, StreamBody.model_validate(lock.save(state, lines=len(lines)))


def _dump(record: dict[str, Any]) -> bytes:
    expected = record.pop("expected", None)
    if expected is None:
        return json_line(record)
    head = json_line(record).removesuffix(b"}\n")
    return b'%s,"expected":%s}\n' % (head, expected.encode("utf-8", "backslashreplace"))
