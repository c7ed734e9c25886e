"""Scores of lines, and how they are asked for: by the API, Python programs and batches alike."""

from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nextchar.models.anomaly.alerts import Label
from nextchar.models.anomaly.calibration import Calibration
from nextchar.models.runtime.requests import CandidateBody

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
        None, description="How rare the line is among normal ones, in bits; p-value and flag are based on it."
    )
    p_value: float | None = Field(
        None,
        description="The fraction of normal lines with at least this score, at least 1 / (n + 1); or, if that"
        " is lower, the fraction of those that have something as improbable as its `reason`.",
    )
    anomalous: bool | None = Field(
        None,
        description="Whether it is flagged: its p-value is at most `false_alarms` and it is not `repeated`.",
    )
    repeated: bool | None = Field(
        None,
        description="True if the line's p-value is low enough, but lines of its kind were flagged, or more"
        " lines are than the false-alarm rate explains: then it only counts in its alert. See `repeats`.",
    )
    alert_id: str | None = Field(
        None,
        description="The alert of a flagged line or a repeat, whether or not it was recorded: lines with the"
        " same template and anomalous word, or of one new kind, have the same.",
    )
    label: Label | None = Field(
        None,
        description="The alert's label. If it is `normal`, the score is lowered to the amount by which the"
        " line exceeds the highest score that the alert had when it was labeled.",
    )
    spans: list[Span] | None = Field(None, description="The anomalous characters of a flagged line.")
    reason: str | None = Field(
        None,
        description="What a flagged line has that hardly any line has in its place, if anything: a word, a"
        ' value, an end, or a number, as in `70,000 after "=": the highest before was 512`.',
    )
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
        return self


@dataclass(frozen=True)
class StoredCalibration:
    """A calibration with its name, creation time (Unix seconds) and a description of its source."""

    name: str
    calibration: Calibration
    created_at: int
    source: str
