"""Calibrations, and the fields that scores and evaluations share with them."""

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nextchar.app.http.schemas import RequestBody, with_examples
from nextchar.models.anomaly.calibration import rounded_up
from nextchar.models.anomaly.line_scores import FalseAlarms
from nextchar.models.anomaly.rolling import StoredCalibration
from nextchar.store.ids import NAME_PATTERN

EXAMPLE_CALIBRATION: dict[str, Any] = {
    "name": "validation",
    "lines": 812,
    "kept_lines": 812,
    "smallest_p_value": 0.00123,
    "has_tail": True,
    "created_at": 1795563600,
    "source": "held-out text",
    "buckets": [{"longest": None, "lines": 812, "has_tail": True}],
    "rolling": None,
}

Line = Annotated[str, Field(max_length=20_000_000)]
"""Bounded in length, by which pydantic also refuses unpaired surrogates."""

CalibrationName = Annotated[
    str,
    Field(
        pattern=f"^{NAME_PATTERN}$",
        description="The calibration to use. Default: `default` if the model has one of that name, else"
        " `validation`, which was made with the model.",
    ),
]


class CalibrateCreate(RequestBody):
    """Normal lines for a calibration: given here, those of a corpus, or the newest that agents have sent."""

    model_config = with_examples({"name": "web-1", "corpus": "access-log", "false_alarms": 0.001})

    name: CalibrationName = "default"
    lines: Annotated[list[Line], Field(min_length=1, max_length=1_000_000)] | None = Field(
        None, description="Normal lines without their newlines."
    )
    corpus: str | None = Field(None, max_length=128, description="A corpus whose lines are all normal.")
    ingested: bool = Field(
        False, description="Use the newest lines that agents have sent to this model, at most 1,000."
    )
    buckets: int = Field(
        1,
        ge=1,
        le=8,
        description="The number of buckets: lines are compared with those of similar length only.",
    )
    false_alarms: FalseAlarms | None = Field(
        None, description="Respond with 422 unless there are enough lines for this rate."
    )

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        if (self.lines is not None) + (self.corpus is not None) + self.ingested != 1:
            raise ValueError("give exactly one of lines, corpus and ingested")
        return self


class BucketBody(BaseModel):
    """Calibration lines of up to `longest` characters; null: longer than those of the other buckets."""

    model_config = ConfigDict(from_attributes=True)

    longest: int | None
    lines: int
    has_tail: bool


class RebuildBody(BaseModel):
    """Result of one rebuild."""

    model_config = ConfigDict(from_attributes=True)

    at: float = Field(description="When, in Unix seconds.")
    lines: int = Field(description="Lines since the last time.")
    flagged: int = Field(description="The flagged ones among them, which are not learned.")
    learned: int = Field(description="Lines that were learned; 0 if drift was reported.")
    rate: float = Field(description="The false-alarm rate of the thresholds.")
    old_thresholds: list[float] = Field(description="The thresholds of each bucket before the rebuild.")
    new_thresholds: list[float]
    drift: str | None = Field(description="Why nothing was learned.")


class RollingBody(BaseModel):
    """History of a rolling calibration."""

    model_config = ConfigDict(from_attributes=True)

    base: str = Field(description="The stored calibration that it began with, and whose scores it keeps.")
    drift: str | None = Field(description="Why the newest lines were not learned; null: they were.")
    rebuilds: list[RebuildBody] = Field(description="The newest hundred, newest last.")


class CalibrationBody(BaseModel):
    """A calibration: the statistics of normal lines, which scores are based on."""

    model_config = with_examples(EXAMPLE_CALIBRATION)

    name: str
    lines: int = Field(description="The normal lines that it was made from.")
    kept_lines: int = Field(description="The lines that are kept: at most 100,000 quantiles.")
    smallest_p_value: float = Field(
        description="1 / (n + 1), the smallest p-value without an assumption about the tail; with several"
        " buckets, the largest of theirs."
    )
    has_tail: bool = Field(
        description="Whether there are smaller p-values, by a generalized Pareto tail that fits the scores."
    )
    created_at: int = Field(description="Unix seconds, UTC.")
    source: str = Field(description="What it was made from.")
    buckets: list[BucketBody]
    rolling: RollingBody | None = Field(None, description="Null unless the calibration is rolling.")


def calibration_body(stored: StoredCalibration) -> CalibrationBody:
    """Return a calibration as it is sent."""
    calibration = stored.calibration
    return CalibrationBody(
        name=stored.name,
        lines=calibration.lines,
        kept_lines=calibration.kept_lines,
        smallest_p_value=rounded_up(calibration.smallest_p_value, 4),  # accepted as a false-alarm rate
        has_tail=calibration.has_tail,
        created_at=stored.created_at,
        source=stored.source,
        buckets=list(map(BucketBody.model_validate, calibration.buckets)),
        rolling=stored.rolling and RollingBody.model_validate(stored.rolling),
    )
