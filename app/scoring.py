"""Lines through a model and its calibration to the answer: what the JSON and the streamed route share.

Blocking; runs in a worker thread. Knows no HTTP. Places in a line are characters after NFC, or bytes for a
model of bytes, before masking; what the model read was masked as the text it was trained on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from app.engines import Loaded
from app.schemas.scores import (
    BucketBody,
    CalibrationBody,
    Detail,
    Expected,
    LineScore,
    Span,
    StreamBody,
)
from models.anomaly.aggregate import peak_bits
from models.anomaly.calibration import rounded_up
from models.anomaly.drift import UNUSUAL
from models.anomaly.explain import Span as OddSpan
from models.anomaly.explain import highest_window, plain_spans
from models.errors import InvalidInput
from models.masks import Masked
from models.runtime.adapting import Memory
from models.runtime.scoring import Reading
from models.runtime.session import State
from models.vocabulary import UNKNOWN_ID
from store.calibrations import Named
from store.streams import Streams

DECIMALS = 4
"""Of bits in an answer; float32 logits do not carry more."""

_CHARACTER_RATE = 3
"""Which of CHARACTER_RATES marks a character as odd by itself: 3 in 10,000 normal ones are above it."""

_LONGEST_EXPLAINED = 20_000  # characters; a longer line is not read again
_MOST_EXPLAINED = 300  # lines of one answer or batch, the oddest: each takes as long as a hundred others


@dataclass(frozen=True)
class Options:
    """What is to be told of each line."""

    detail: Detail = "line"
    expected: int = 0
    false_alarms: float | None = None
    fast: bool = False  # in int8, where the model has it
    adapt: bool = False  # learn from a stream while reading it
    explain: bool = True  # read odd lines again, to tell causes from consequences
    longest_expected: int = 50_000  # characters; of a longer line it is not told


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
    reading: Reading


@dataclass(frozen=True)
class Scorer:
    """A model that is held, one of its calibrations or none, and what is to be told.

    Raises InvalidInput at once where the calibration does not allow the false-alarm rate.
    """

    loaded: Loaded
    calibration: Named | None
    options: Options
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
        readings = self.loaded.engine.read_lines([m.text for m in masked], fast=self.options.fast)
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
            readings, memory = engine.read_adapting(texts, known)
            where = Where(memory.state, memory.change)
        else:
            readings, state = engine.read_on(texts, where.state, fast=self.options.fast)
            where = Where(state)
        return [Line(*parts) for parts in zip(originals, masked, readings, strict=True)], where

    def read_in_stream(
        self, streams: Streams, originals: Sequence[str], stream_id: str
    ) -> tuple[list[Line], StreamBody]:
        """Read lines in a stream that is kept; calls on one stream wait for each other. Raises Conflict."""
        loaded = self.loaded
        with streams.turn(loaded.reference, stream_id, size=loaded.engine.state_size) as turn:
            lines, where = self.read_on(originals, Where(turn.stream.state, turn.stream.change))
            assert where.state is not None
            now = turn.save(where.state, lines=len(lines), change=where.change)
        return lines, StreamBody(id=now.id, lines=now.lines, restarted=now.restarted)

    def describe(self, lines: Sequence[Line]) -> list[LineScore]:
        """Return what is told of each line."""
        scores, p_values, odd = self._judge(lines)
        flagged = [i for i, is_odd in enumerate(odd) if is_odd]
        oddest = set(sorted(flagged, key=lambda i: -(scores[i] or 0.0))[:_MOST_EXPLAINED])
        return [
            self._describe(line, scores[i], p_values[i], odd[i], explain=i in oddest)
            for i, line in enumerate(lines)
        ]

    def spans(self, line: Line, *, context: str = "\n", explain: bool = True) -> list[Span] | None:
        """Return the odd spans of a line, odd or not, or None without a calibration."""
        if self._character_threshold is None:
            return None
        return [_to_original(span, line.masked) for span in self._odd_spans(line, context, explain)]

    def bits(self, line: Line) -> list[float]:
        """Return the bits of each character of the original; of a masked part, the first has them all."""
        return [float(value) for value in np.round(self._spread(line.reading.bits, line), DECIMALS)]

    def expected(self, line: Line, *, context: str = "\n") -> list[list[Expected]]:
        """Return the likeliest characters at each character of the original."""
        vocabulary = self.loaded.vocabulary
        told: list[list[Expected]] = [[] for _ in line.original]
        described = self.loaded.engine.describe(line.masked.text, top=self.options.expected, context=context)
        for place, one in enumerate(described):
            told[line.masked.origin(place)] = [
                Expected(character=vocabulary.label(c), probability=round(float(np.exp(p)), 6))
                for c, p in one.top
            ]
        return told

    def _judge(
        self, lines: Sequence[Line]
    ) -> tuple[Sequence[float | None], Sequence[float | None], Sequence[bool | None]]:
        if not self.calibration or self.rate is None:
            nothing = [None] * len(lines)
            return nothing, nothing, nothing
        scores, p_values = self.calibration.calibration.score([line.reading for line in lines])
        return scores.tolist(), p_values.tolist(), (p_values <= self.rate).tolist()

    def _describe(
        self, line: Line, score: float | None, p: float | None, is_odd: bool | None, *, explain: bool
    ) -> LineScore:
        told = LineScore(
            characters=len(line.original),
            score=None if score is None else round(score, DECIMALS),
            p_value=None if p is None else float(f"{p:.4g}"),
            anomalous=is_odd,
        )
        if self.options.detail == "none":
            return told
        bits = line.reading.bits
        total = float(bits.sum(dtype=np.float64))
        told.total_bits = round(total, DECIMALS)
        told.bits_per_character = round(total / max(1, len(line.original)), DECIMALS)
        told.peak_bits = round(peak_bits(bits), DECIMALS)
        if is_odd is not None:
            told.spans = self._why(line, explain=explain) if is_odd else []
        if self.options.detail == "character":
            told.bits = self.bits(line)
            if self.options.expected and len(line.original) <= self.options.longest_expected:
                told.expected = self.expected(line)
        return told

    def _why(self, line: Line, *, explain: bool) -> list[Span]:
        """Return the spans that made a flagged line odd: odd characters, or else where it is oddest."""
        spans = self.spans(line, explain=explain)
        if spans:
            return spans
        window = highest_window(line.reading.bits, line.reading.entropy)
        return [_to_original(span, line.masked) for span in window]

    def _odd_spans(self, line: Line, context: str, explain: bool) -> list[OddSpan]:
        threshold = self._character_threshold
        assert threshold is not None
        text, reading = line.masked.text, line.reading
        unknown = self.loaded.vocabulary.encode(text) == UNKNOWN_ID
        if not (explain and self.options.explain) or len(text) > _LONGEST_EXPLAINED:
            return plain_spans(reading.bits, reading.entropy, unknown, threshold=threshold)
        return self.loaded.engine.odd_spans(text, threshold=threshold, context=context)

    def _spread(self, values: NDArray[np.float32], line: Line) -> NDArray[np.float32]:
        if line.masked.starts is None:
            return values
        spread = np.zeros(len(line.original), np.float32)
        spread[line.masked.starts[:-1]] = values
        return spread


def is_unusual(told: LineScore) -> bool:
    """Return whether a line is among the most unusual tenth, by the calibration."""
    return told.p_value is not None and told.p_value <= UNUSUAL


def calibration_body(named: Named) -> CalibrationBody:
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
