"""Scores of lines, and how they are asked for: by the API, Python programs and batches alike.

The sample of scored lines from which a rolling calibration is made; newer lines are likelier to be in it.

A line's chance decreases exponentially with its age (forward decay: Cormode et al. 2009).
"""

import base64
import zlib
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from nextchar.models.anomaly.alerts import Label
from nextchar.models.anomaly.calibration import SCORE_TOLERANCE, Calibration
from nextchar.models.anomaly.tail import Floats
from nextchar.models.runtime.requests import CandidateBody
from nextchar.models.text.array_file import inflate

Context = Literal["line", "stream"]
Detail = Literal["none", "line", "character"]
Repeats = Literal["count", "flag"]

FalseAlarms = Annotated[
    float,
    Field(
        ge=1e-9,
        lt=1,
        description="The fraction of normal lines that may be flagged. Default: 0.01, or the smallest rate"
        " that the calibration allows by its number of lines.",
    ),
]


@dataclass(frozen=True)
class ScoreOptions:
    """What a request asks for."""

    detail: Detail = "line"
    expected: int = 0
    false_alarms: float | None = None
    fast: bool = False  # read in int8 if the model has it
    explain: bool = True  # locate the causes of surprisal in flagged lines
    repeats: Repeats = "flag"


class Span(BaseModel):
    """Anomalous characters: line[start:end], counted in characters after NFC."""

    start: int
    end: int
    bits: float = Field(description="Total surprisal of these characters.")
    expected: str | None = Field(
        description="What the model expected instead; empty: nothing; null: unknown."
    )


class LineScore(BaseModel):
    """The score of one line, or event. Fields that were not requested, or need a calibration, are null."""

    lines: int = Field(
        1,
        description="How many lines the event has. If events of the training log have several lines, such as"
        " a message and its stack trace, these are scored as one text, joined by newlines.",
    )
    characters: int
    bits_per_character: float | None = Field(None, description="The mean; 0 for an empty line.")
    peak_bits: float | None = Field(None, description="The mean of the two highest surprisals.")
    total_bits: float | None = None
    score: float | None = Field(
        None,
        description="How rare the line is among normal ones, in bits; p-value and flag are based on it.",
    )
    p_value: float | None = Field(
        None, description="The fraction of normal lines with at least this score; at least 1 / (n + 1)."
    )
    anomalous: bool | None = Field(
        None,
        description="Whether it is flagged: its p-value is at most `false_alarms` and it is not `repeated`.",
    )
    repeated: bool | None = Field(
        None,
        description="True if the line's p-value is low enough, but it is not flagged because it repeats a"
        " flagged line of the same request: see `repeats`.",
    )
    alert_id: str | None = Field(
        None,
        description="The alert of a flagged line, whether or not it was recorded: lines with the same"
        " template and anomalous word have the same.",
    )
    label: Label | None = Field(
        None,
        description="The alert's label. If it is `normal`, the score is lowered to the amount by which the"
        " line exceeds the highest score that the alert had when it was labeled.",
    )
    spans: list[Span] | None = Field(None, description="The anomalous characters of a flagged line.")
    explained: bool | None = Field(
        None,
        description="Whether a flagged line was explained: then `spans` omit characters that are surprising"
        " only because of an earlier fault, and contain what was expected. One response explains the most"
        " anomalous lines, for about a second; send a line alone to have it explained.",
    )
    bits: list[float] | None = Field(None, description="Surprisal of each character, -log2 p.")
    expected: list[list[CandidateBody]] | None = Field(
        None, description="The likeliest characters at each position."
    )


class StreamOptions(BaseModel):
    """How the lines of a stream, or of files, are scored; the API describes the fields where it has them.

    `only` says which lines get a record; of each batch the most anomalous lines are explained first. With
    `precision` "auto" lines are read in int8 if the model has it, within 0.005 nats per character of float32.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    context: Context = "line"
    detail: Detail = "line"
    expected: int = Field(0, ge=0, le=20)
    false_alarms: FalseAlarms | None = None
    calibration: str | None = None
    stream_id: str | None = None
    only: Literal["all", "anomalous"] = "all"
    echo: bool = False  # whether each record has the text of its line
    explain: bool = False
    repeats: Repeats = "count"
    alerts: bool = False
    source: str = Field("", max_length=200)
    precision: Literal["auto", "float32"] = "auto"

    @model_validator(mode="after")
    def _check_options(self) -> Self:
        if self.expected and (self.detail != "character" or self.context == "stream"):
            raise ValueError("expected needs detail character and context line")
        if self.stream_id and self.context != "stream":
            raise ValueError("stream_id needs context stream")
        return self


SAMPLE_LINES = 5_000
"""Lines in the sample."""

DECAY_S = 2 * 86_400.0
"""A line's weight in the sample decreases by a factor of e in this time: a day and its night are in it."""


@dataclass(frozen=True)
class AlertReference:
    """The alert of a flagged line, by which later labels and suppressions are found.

    `value` is what the anomalous word is in place of a wildcard of a known template; else empty.
    """

    alert_id: str
    template: str
    span: str
    value: str = ""


@dataclass(frozen=True)
class ObservedScore:
    """A scored line. `score` of a flagged one is the score that it exceeded; `alert` is None for others.

    `rate` is the false-alarm rate that it was judged by, `bucket` the index of its bucket, `time` when it was
    scored in Unix seconds.
    """

    time: float
    score: float
    bucket: int
    rate: float
    alert: AlertReference | None = None


@dataclass(frozen=True)
class ScoreSample:
    """A sample of lines. `keys` (n,) decide which stay. Those of the stored calibration have rate 0."""

    lines: tuple[ObservedScore, ...]
    keys: Floats

    def __len__(self) -> int:
        """Return the number of lines."""
        return len(self.lines)


def initial_sample(stored: Calibration, *, now: float, random: np.random.Generator) -> ScoreSample:
    """Return a sample of the scores of a stored calibration."""
    lines: list[ObservedScore] = []
    for index, bucket in enumerate(stored.buckets):
        fraction = bucket.kept / stored.kept_lines
        count = min(bucket.kept, max(1, int(SAMPLE_LINES * fraction)))
        chosen = bucket.scores[np.linspace(0, bucket.kept - 1, count).round().astype(np.intp)]
        lines += (ObservedScore(now, score, index, 0.0) for score in chosen.tolist())
    return newest(ScoreSample((), np.zeros(0)), lines, random)


def newest(sample: ScoreSample, lines: Sequence[ObservedScore], random: np.random.Generator) -> ScoreSample:
    """Return a new sample of the sample and these lines, in which a line's chance is exp(time / DECAY_S)."""
    times = np.array([line.time for line in lines], np.float64)
    keys = np.concatenate([sample.keys, times / DECAY_S + random.gumbel(size=len(lines))])
    chosen = np.sort(np.argsort(-keys, kind="stable")[:SAMPLE_LINES])
    every = (*sample.lines, *lines)
    return ScoreSample(tuple(every[i] for i in chosen), keys[chosen])


def censored(threshold: float) -> float:
    """Return the `score` of a flagged ObservedScore, by the threshold of its bucket."""
    return threshold - SCORE_TOLERANCE


_COLUMNS = 5
_MAX_TABLE_BYTES = 64 << 20


def dump_sample(sample: ScoreSample) -> dict[str, Any]:
    """Return the JSON of a sample: its arrays are little-endian, zlib and base64.

    Five thousand lines take about 90 KB.
    """
    rows = [(line.time, line.score, line.bucket, line.rate) for line in sample.lines]
    table = np.concatenate([np.array(rows, "<f8").reshape(-1, _COLUMNS - 1).T, sample.keys[None]])
    alerts = {str(i): astuple(line.alert) for i, line in enumerate(sample.lines) if line.alert}
    return {
        "lines": base64.b64encode(zlib.compress(table.astype("<f8").tobytes())).decode(),
        "groups": alerts,
    }


def load_sample(record: dict[str, Any]) -> ScoreSample:
    """Return the sample of a record. Raises ValueError, KeyError or TypeError: it is damaged."""
    data = inflate(base64.b64decode(record["lines"]), max_bytes=_MAX_TABLE_BYTES)
    table = np.frombuffer(data, "<f8").reshape(_COLUMNS, -1)
    alerts = {int(i): AlertReference(*fields) for i, fields in record["groups"].items()}
    lines = tuple(
        ObservedScore(at, score, int(bucket), rate, alerts.get(i))
        for i, (at, score, bucket, rate) in enumerate(table[:-1].T.tolist())
    )
    return ScoreSample(lines, table[-1].copy())
