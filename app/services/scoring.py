"""Lines through a model and its calibration to the answer: what the JSON and the streamed route share.

Blocking; runs in a worker thread, and ends when its check says that nobody waits. Knows no HTTP. Places in
a line are characters after NFC, or bytes for a model of bytes, before masking; what the model read was masked
as the text it was trained on.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from app.schemas.scores import (
    BucketBody,
    CalibrationBody,
    Detail,
    LineScore,
    Span,
    StreamBody,
)
from app.services.completion import MAX_LOGPROBS
from app.services.engines import Loaded
from app.services.limited_work import Check
from models.anomaly.aggregate import peak_bits
from models.anomaly.calibration import rounded_up
from models.anomaly.drift import UNUSUAL
from models.anomaly.explanation import Span as OddSpan
from models.anomaly.explanation import highest_window, plain_spans
from models.errors import InvalidInput
from models.runtime.adaptation import Memory
from models.runtime.scoring import LineSurprisal
from models.runtime.session import State
from models.text.masks import Masked
from models.text.vocabulary import UNKNOWN_ID
from store.calibrations import StoredCalibration
from store.streams import StreamLock

DECIMALS = 4
"""Of bits in an answer; float32 logits do not carry more."""

_CHARACTER_RATE = 3
"""Which of CHARACTER_RATES marks a character as odd by itself: 3 in 10,000 normal ones are above it."""

MAX_EXPLAIN_READ = 50_000
"""Characters that the network reads to explain the flagged lines of one answer or batch, the most anomalous
first: about a second. A line takes some hundred to some thousand. See
`models.anomaly.explanation.explain`."""

_LONGEST_EXPLAINED = 20_000  # characters; a longer line is not read again
_LINES_AT_A_TIME = 100  # between two checks
_PLACES_AT_A_TIME = 1_000


@dataclass(frozen=True)
class Options:
    """What is to be told of each line."""

    detail: Detail = "line"
    expected: int = 0
    false_alarms: float | None = None
    fast: bool = False  # in int8, where the model has it
    adapt: bool = False  # learn from a stream while reading it
    explain: bool = True  # read flagged lines again, to tell causes from consequences


@dataclass(frozen=True)
class Where:
    """Where a stream stands: the state, and what an adapting one has learned; None at its beginning."""

    state: State | None = None
    change: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Line:
    """A line as it is read: `masked` of the characters of `original`, whose figures are `reading`."""

    original: str
    masked: Masked
    reading: LineSurprisal


_Explained = dict[str, list[OddSpan]]
"""The odd spans of masked texts that were read again."""


def _go_on() -> None:
    """Check nothing."""


@dataclass(frozen=True)
class Scorer:
    """A model that is held, one of its calibrations or none, and what is to be told.

    `check` is called between pieces of work; what it raises ends the work. Raises InvalidInput at once where
    the calibration does not allow the false-alarm rate.
    """

    loaded: Loaded
    calibration: StoredCalibration | None
    options: Options
    check: Check = _go_on
    rate: float | None = field(init=False)
    thresholds: tuple[float, ...] = field(init=False)

    def __post_init__(self) -> None:
        rate: float | None = None
        thresholds: tuple[float, ...] = ()
        if self.options.false_alarms and not self.calibration:
            raise InvalidInput(
                f"model {self.loaded.reference} has no calibration, so no false-alarm rate can be kept; make"
                " one with POST …/calibrate",
                code="no_calibration",
                param="false_alarms",
            )
        if self.calibration:
            known = self.calibration.calibration
            rate = self.options.false_alarms or known.usual_rate()
            thresholds = known.thresholds(rate)
        object.__setattr__(self, "rate", rate)
        object.__setattr__(self, "thresholds", thresholds)

    @property
    def threshold(self) -> float | None:
        """Return the score above which a line is flagged, if it is one for all lengths."""
        return self.thresholds[0] if len(self.thresholds) == 1 else None

    @cached_property
    def _character_threshold(self) -> float | None:
        return self.calibration.calibration.character_excess[_CHARACTER_RATE] if self.calibration else None

    def read(self, originals: Sequence[str]) -> list[Line]:
        """Read lines of characters, each by itself."""
        masked = [self.loaded.masks.apply(line) for line in originals]
        texts = [m.text for m in masked]
        readings = self.loaded.engine.read_lines(texts, fast=self.options.fast, check=self.check)
        return [Line(*parts) for parts in zip(originals, masked, readings, strict=True)]

    def read_on(self, originals: Sequence[str], where: Where) -> tuple[list[Line], Where]:
        """Read lines one behind the other, from where a call before this ended."""
        masked = [self.loaded.masks.apply(line) for line in originals]
        texts = [m.text for m in masked]
        engine = self.loaded.engine
        if self.options.adapt:
            known = None
            if where.state is not None:
                change, width = where.change, len(self.loaded.vocabulary) - 1
                known = Memory(where.state, None if change is None else change.reshape(-1, width))
            readings, memory = engine.read_adapting(texts, known, check=self.check)
            where = Where(memory.state, memory.change)
        else:
            readings, state = engine.read_on(texts, where.state, fast=self.options.fast, check=self.check)
            where = Where(state)
        return [Line(*parts) for parts in zip(originals, masked, readings, strict=True)], where

    def read_in_turn(self, turn: StreamLock, originals: Sequence[str]) -> tuple[list[Line], StreamBody]:
        """Read lines in a stream that is kept, in this call's turn. Raises Conflict if it was lost."""
        lines, where = self.read_on(originals, Where(turn.stream.state, turn.stream.change))
        assert where.state is not None
        self.check()  # a client that has gone leaves the stream where it was
        now = turn.save(where.state, lines=len(lines), change=where.change)
        return lines, StreamBody(id=now.id, lines=now.lines, restarted=now.restarted)

    def describe(self, lines: Sequence[Line]) -> list[LineScore]:
        """Return what is told of each line, but for expected characters."""
        return list(self.described(lines))

    def described(self, lines: Sequence[Line]) -> Iterator[LineScore]:
        """Yield what `describe` returns, made as it is asked for."""
        scores, p_values, odd = self._judge(lines)
        flagged = [i for i, is_odd in enumerate(odd) if is_odd and self.options.detail != "none"]
        flagged.sort(key=lambda i: -(scores[i] or 0.0))
        explained = self._explain([lines[i].masked.text for i in flagged])
        for i, line in enumerate(lines):
            if i % _LINES_AT_A_TIME == 0:
                self.check()
            yield self._describe(line, scores[i], p_values[i], odd[i], explained)

    def describe_text(self, line: Line) -> LineScore:
        """Return what is told of a text: of one line the score; its odd spans, whether it is flagged or not.

        Calibrations are of lines: a longer text has odd places, but is not odd or normal as a whole.
        """
        is_line = "\n" not in line.original
        [score], [p], [is_odd] = self._judge([line]) if is_line else ([None], [None], [None])
        told = _told(line, score, p, is_odd)
        if self.options.detail != "none" and self._character_threshold is not None:
            text = line.masked.text
            explained = self._explain([text])
            told.explained = self._is_explained(text, explained)
            told.spans = [_to_original(span, line.masked) for span in self._odd_spans(line, explained)]
        return told

    def bits(self, line: Line) -> list[float]:
        """Return the bits of each character of the original; of a masked part, the first has them all."""
        return [float(value) for value in np.round(self._spread(line.reading.bits, line), DECIMALS)]

    def expected_json(self, line: Line) -> str:
        """Return the likeliest characters at each character of the original, as JSON.

        They are written from arrays: an object for each of hundreds of thousands would take gigabytes.
        """
        engine = self.loaded.engine
        top = engine.top_characters(line.masked.text, top=self.options.expected, check=self.check)
        heads = self._expected_heads
        told = ["[]"] * len(line.original)
        for at in range(0, len(top.ids), _PLACES_AT_A_TIME):
            self.check()
            ids = top.ids[at : at + _PLACES_AT_A_TIME].tolist()
            probabilities = np.exp(top.logprobs[at : at + _PLACES_AT_A_TIME]).tolist()
            for place, (some, p) in enumerate(zip(ids, probabilities, strict=True), at):
                likely = (f"{heads[i]}{round(one, 6)!r}}}" for i, one in zip(some, p, strict=True))
                told[line.masked.origin(place)] = f"[{','.join(likely)}]"
        return f"[{','.join(told)}]"

    def check_expected(self, lines: Iterable[str]) -> None:
        """Raise InvalidInput where telling expected characters of these would take too large an answer."""
        expected, characters = self.options.expected, sum(map(len, lines))
        wanted = characters * (1 + expected)
        if expected and wanted > MAX_LOGPROBS:
            raise InvalidInput(
                f"expected asks for {1 + expected} probabilities at each of {characters:,} characters,"
                f" {wanted:,} together; one answer has at most {MAX_LOGPROBS:,}: send at most"
                f" {MAX_LOGPROBS // (1 + expected):,} characters in one call, or ask for fewer at each",
                code="answer_too_large",
                param="expected",
            )

    @cached_property
    def _expected_heads(self) -> list[str]:
        """The beginning of the JSON of an expected character, by its id."""
        vocabulary = self.loaded.vocabulary
        labels = ["", *map(vocabulary.label, vocabulary.characters)]
        return [f'{{"character":{json.dumps(label, ensure_ascii=False)},"probability":' for label in labels]

    def _judge(
        self, lines: Sequence[Line]
    ) -> tuple[Sequence[float | None], Sequence[float | None], Sequence[bool | None]]:
        if not self.calibration or self.rate is None:
            nothing = [None] * len(lines)
            return nothing, nothing, nothing
        scores, p_values = self.calibration.calibration.score([line.reading for line in lines])
        return scores.tolist(), p_values.tolist(), (p_values <= self.rate).tolist()

    def _describe(
        self, line: Line, score: float | None, p: float | None, is_odd: bool | None, explained: _Explained
    ) -> LineScore:
        told = _told(line, score, p, is_odd)
        if self.options.detail == "none":
            return told
        bits = line.reading.bits
        total = float(bits.sum(dtype=np.float64))
        told.total_bits = round(total, DECIMALS)
        told.bits_per_character = round(total / max(1, len(line.original)), DECIMALS)
        told.peak_bits = round(peak_bits(bits), DECIMALS)
        if is_odd is not None:
            told.spans = self._why(line, explained) if is_odd else []
            told.explained = self._is_explained(line.masked.text, explained) if is_odd else None
        if self.options.detail == "character":
            told.bits = self.bits(line)
        return told

    def _explain(self, texts: Sequence[str]) -> _Explained:
        """Return the odd spans of those texts that can be explained within the bound, first ones first."""
        threshold = self._character_threshold
        if threshold is None or not (texts and self.options.explain):
            return {}
        short = [text for text in dict.fromkeys(texts) if len(text) <= _LONGEST_EXPLAINED]
        found = self.loaded.engine.explain(
            short, threshold=threshold, max_read=MAX_EXPLAIN_READ, check=self.check
        )
        return {text: spans for text, spans in zip(short, found, strict=True) if spans is not None}

    def _is_explained(self, text: str, explained: _Explained) -> bool | None:
        return text in explained if self.options.explain else None

    def _why(self, line: Line, explained: _Explained) -> list[Span]:
        """Return the spans that made a flagged line odd: odd characters, or else where it is oddest."""
        spans = self._odd_spans(line, explained) or highest_window(line.reading.bits, line.reading.entropy)
        return [_to_original(span, line.masked) for span in spans]

    def _odd_spans(self, line: Line, explained: _Explained) -> list[OddSpan]:
        threshold = self._character_threshold
        assert threshold is not None
        text, reading = line.masked.text, line.reading
        if text in explained:
            return explained[text]
        unknown = self.loaded.vocabulary.encode(text) == UNKNOWN_ID
        return plain_spans(reading.bits, reading.entropy, unknown, threshold=threshold)

    def _spread(self, values: NDArray[np.float32], line: Line) -> NDArray[np.float32]:
        if line.masked.starts is None:
            return values
        spread = np.zeros(len(line.original), np.float32)
        spread[line.masked.starts[:-1]] = values
        return spread


def _told(line: Line, score: float | None, p: float | None, is_odd: bool | None) -> LineScore:
    return LineScore(
        characters=len(line.original),
        score=None if score is None else round(score, DECIMALS),
        p_value=None if p is None else float(f"{p:.4g}"),
        anomalous=is_odd,
    )


def is_unusual(told: LineScore) -> bool:
    """Return whether a line is among the most unusual tenth, by the calibration."""
    return told.p_value is not None and told.p_value <= UNUSUAL


def calibration_body(named: StoredCalibration) -> CalibrationBody:
    """Return what is told of a calibration."""
    known = named.calibration
    return CalibrationBody(
        name=named.name,
        lines=known.lines,
        kept_lines=sum(bucket.kept for bucket in known.buckets),
        smallest_p_value=rounded_up(known.smallest_p_value, 4),  # asked for, it has to be enough
        has_tail=known.has_tail,
        created_at=named.created_at,
        source=named.source,
        buckets=[
            BucketBody(longest=bucket.longest, lines=bucket.lines, has_tail=bucket.tail is not None)
            for bucket in known.buckets
        ],
    )


def _to_original(span: OddSpan, masked: Masked) -> Span:
    return Span(
        start=masked.origin(span.start),
        end=masked.origin(span.end),
        bits=round(span.bits, DECIMALS),
        expected=span.expected,
    )
