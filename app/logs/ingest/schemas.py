"""The shapes of requests and responses about lines that agents send."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from nextchar.app.http.schemas import Shape, with_examples
from nextchar.app.logs.ingest.records import COUNTERS
from nextchar.app.scoring.calibration_schemas import CalibrationName
from nextchar.models.anomaly.flag_rule import Change
from nextchar.models.anomaly.line_scores import FalseAlarms, Span

MAX_REPORTED = 10
"""Rejected lines that a response describes."""

EXAMPLE_FLAGGED: dict[str, Any] = {
    "id": 17,
    "entry": "1795777248235-0",
    "at": 1795777249.1,
    "received_at": 1795777248.2,
    "time": 1795777247.0,
    "source": "web-1",
    "model": "sshd@2",
    "calibration": "web-1",
    "alert_id": "alert_5f3c09ad1b7e4c2290ab13cd",
    "line": "Failed password for root from 10.0.0.1",
    "score": 9.2,
    "p_value": 0.0004,
    "spans": [{"start": 20, "end": 24, "bits": 31.2, "expected": None}],
}

FieldName = Annotated[str, Field(min_length=1, max_length=200)]


class IngestQuery(Shape):
    """How the lines of a request are found in its body, and how they are scored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    line: FieldName | None = Field(
        None,
        description="The field that holds the line, with dots for nested ones. Default: the first of"
        " `message`, `MESSAGE`, `log`, `body`, `msg`, `line`.",
    )
    time: FieldName | None = Field(
        None,
        description="The field that holds the time: ISO 8601, or a Unix time. Default: the first of"
        " `timestamp`, `@timestamp`, `time`, `date`, `ts`, `ISODATE`.",
    )
    source: FieldName | None = Field(
        None,
        description="The field that says where the line comes from. Default: the first of `host.name`,"
        " `host`, `hostname`, `HOST`, `service.name`, `source`.",
    )
    default_source: FieldName | None = None
    """Where the lines come from that have no such field, as those of `text/plain`."""
    calibration: CalibrationName | None = None
    calibration_by: FieldName | None = Field(
        None,
        description="A field, such as `host`: a line is compared with the calibration that its value names,"
        " if there is one, else with `calibration` or the default.",
    )
    false_alarms: FalseAlarms | None = None
    idempotency: Literal["key", "body"] = Field(
        "key",
        description="`key`: a request is counted once per Idempotency-Key. `body`: without that header, an"
        " identical body from the same client counts once, within NEXTCHAR_INGEST_REPEAT_S.",
    )


class OtlpQuery(IngestQuery):
    """The same for OpenTelemetry's logs."""

    model: str | None = Field(
        None,
        max_length=128,
        description="The model of records whose resource has no attribute `nextchar.model`. Default: the"
        " header `X-Nextchar-Model`.",
    )


class RejectedLine(BaseModel):
    """A line that was not accepted."""

    line: int = Field(description="Its number in the body, from 1.")
    code: str
    message: str


class IngestBody(BaseModel):
    """The response to lines. They are on disk and will be scored."""

    model_config = with_examples(
        {
            "object": "ingest",
            "model": "sshd",
            "accepted": 499,
            "rejected": 1,
            "is_repeated": False,
            "errors": [
                {"line": 7, "code": "no_line", "message": "there is no field `message`, `MESSAGE`, `log`, …"}
            ],
        }
    )

    object: Literal["ingest"] = "ingest"
    model: str
    accepted: int = Field(description="Lines that will be scored.")
    rejected: int = Field(description="Lines that will not.")
    is_repeated: bool = Field(description="Whether an earlier request brought these lines; they count once.")
    errors: list[RejectedLine] = Field(description=f"Up to {MAX_REPORTED} of the rejected lines.")


class ConsumerBody(BaseModel):
    """An API process that scores lines."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    pending: int = Field(description="Lines that it is scoring.")
    idle_s: float = Field(description="Seconds since it last took some.")


class IngestProblem(BaseModel):
    """Why the lines that wait are not scored."""

    code: str
    message: str


class IngestRates(BaseModel):
    """Lines per second, over the last minute."""

    accepted: float
    scored: float
    flagged: float


class IngestStatusBody(Shape):
    """The lines that were sent to one model."""

    model_config = with_examples(
        {
            "object": "ingest.status",
            "model": "sshd",
            "waiting": 120,
            "bytes": 18_432,
            "oldest_age_s": 0.4,
            "accepted": 51_200,
            "scored": 51_080,
            "flagged": 37,
            "rejected": 1,
            "failed": 0,
            "expired": 0,
            "dropped": 0,
            "per_second": {"accepted": 210.5, "scored": 208.1, "flagged": 0.15},
            "consumers": [{"name": "web-7-1f0c", "pending": 120, "idle_s": 0.1}],
            "problem": None,
            "change": None,
        }
    )

    object: Literal["ingest.status"] = "ingest.status"
    model: str
    waiting: int = Field(description="Accepted and not yet scored.")
    bytes: int = Field(description="Their memory in Redis.")
    oldest_age_s: float | None = Field(description="For how long the oldest of them has waited.")
    accepted: int
    """Lines accepted since the first one; the counters below count from then, too."""
    scored: int
    flagged: int
    rejected: int = Field(description="Refused because they could not be read.")
    failed: int = Field(description="Given up because scoring them failed.")
    expired: int = Field(description="Deleted after NEXTCHAR_INGEST_RETENTION_HOURS.")
    dropped: int = Field(description="Deleted by `DELETE`.")
    per_second: IngestRates
    consumers: list[ConsumerBody]
    problem: IngestProblem | None = Field(description="Null: the lines are scored.")
    change: Change | None = None
    """Why more of the newest lines are rare than the false-alarm rate explains, for the source that was
    scored last; null: they are not."""

    @property
    def counts(self) -> dict[str, int]:
        """The counters since the first line, by name."""
        return {name: getattr(self, name) for name in (*COUNTERS, "scored")}


class IngestDropped(BaseModel):
    """The response to `DELETE`."""

    model_config = with_examples({"object": "ingest.dropped", "model": "sshd", "dropped": 120})

    object: Literal["ingest.dropped"] = "ingest.dropped"
    model: str
    dropped: int


class FlaggedLine(BaseModel):
    """A flagged line of an ingest stream."""

    model_config = with_examples(EXAMPLE_FLAGGED)

    id: int = Field(description="Its number, for `after` and Last-Event-ID.")
    entry: str = Field(description="The accepted line's id; a line has one.")
    at: float = Field(description="When it was flagged, in Unix seconds.")
    received_at: float
    time: float | None = Field(description="The time of the line, if the agent sent it.")
    source: str | None
    model: str = Field(description="`name@version`.")
    calibration: str
    alert_id: str = Field(description="The alert that the line belongs to.")
    line: str = Field(description="Its first 1,000 characters.")
    score: float
    p_value: float
    spans: list[Span] | None
