"""Evaluations of scores on labeled lines."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from nextchar.app.http.schemas import RequestBody, with_examples
from nextchar.app.scoring.calibration_schemas import (
    EXAMPLE_CALIBRATION,
    CalibrationBody,
    CalibrationName,
    Line,
)
from nextchar.models.anomaly.line_scores import FalseAlarms, LineScore

MAX_EVALUATED_LINES = 100_000
MAX_EVALUATED_CHARACTERS = 5_000_000


class EvaluateCreate(RequestBody):
    """Labeled lines, in chronological order."""

    model_config = with_examples({"lines": ["GET /", "GET /'--"], "anomalous": [False, True], "worst": 5})

    lines: Annotated[list[Line], Field(max_length=MAX_EVALUATED_LINES)] = Field(
        default_factory=list,
        description="Without their newlines; together at most 5,000,000 characters. At least 2, unless"
        " `alert_labels` is set.",
    )
    anomalous: Annotated[list[bool | Literal[0, 1]], Field(max_length=MAX_EVALUATED_LINES)] = Field(
        default_factory=list, description="The label of each line; both kinds must occur."
    )
    alert_labels: bool = Field(
        False,
        description="Add the example lines of the model's labeled alerts, after `lines`: those of incidents"
        " are anomalous. Needs a key with the scope `read` or `train`.",
    )
    split: Literal["auto", "none", "chronological", "random"] = Field(
        "auto",
        description="`none`: all lines are test lines; baselines learn from the model's training text."
        " `chronological`: the normal ones among the first `train_fraction` of the lines are for calibration"
        " and baselines, and the lines after them are test lines. `random`: the same with lines drawn at"
        " random. `auto`: `none` if the model's corpus exists and the API key may read it, else"
        " `chronological`. `none` and `auto` need a key with the scope `read` or `train` in addition to"
        " `complete`.",
    )
    train_fraction: float = Field(0.5, ge=0.05, le=0.95)
    false_alarms: FalseAlarms | None = None
    calibration: CalibrationName | None = Field(
        None, description="The calibration for the split `none`; other splits make their own."
    )
    worst: int = Field(5, ge=0, le=50, description="How many misses and false alarms are returned.")
    baselines: bool = Field(True, description="Whether to evaluate baselines on the same lines.")

    @model_validator(mode="after")
    def _check_lines(self) -> Self:
        if len(self.lines) != len(self.anomalous):
            raise ValueError(f"there are {len(self.lines)} lines and {len(self.anomalous)} labels")
        if len(self.lines) < 2 and not self.alert_labels:
            raise ValueError("give at least 2 lines with their labels, or set alert_labels")
        if sum(map(len, self.lines)) > MAX_EVALUATED_CHARACTERS:
            raise ValueError(f"the lines have more than {MAX_EVALUATED_CHARACTERS:,} characters together")
        return self


class QualityBody(BaseModel):
    """How well a score separates anomalous lines from normal ones, at all thresholds."""

    auroc: float
    average_precision: float
    recall_at_false_alarms: dict[str, float] = Field(
        description="The fraction of anomalous lines found at 0.1, 1 and 5 % false alarms on these lines."
    )
    roc: list[tuple[float, float]] = Field(description="(false-alarm rate, recall), from (0, 0) to (1, 1).")


class FlaggedBody(BaseModel):
    """Results of the calibrated threshold on these lines."""

    threshold: float | None
    recall: float
    precision: float | None = Field(description="Null if nothing was flagged.")
    false_alarm_rate: float


class JudgedLine(LineScore):
    """A test line that was misclassified."""

    index: int = Field(description="The index of the line in the request, from 0; those of alerts follow.")
    text: str


class LeaksBody(BaseModel):
    """Test lines that also occur in the training or calibration lines; they make the figures unreliable."""

    normal: int
    anomalous: int
    distinct: int


_EXAMPLE_QUALITY: dict[str, Any] = {
    "auroc": 0.9261,
    "average_precision": 0.3424,
    "recall_at_false_alarms": {"0.001": 0.0, "0.01": 0.0, "0.05": 0.5},
    "roc": [[0.0, 0.0], [0.05, 0.5], [1.0, 1.0]],
}

EXAMPLE_EVALUATION: dict[str, Any] = {
    "object": "evaluation",
    "model": "bgl@1",
    "split": "none",
    "lines": 588,
    "anomalous": 30,
    "trained_on": 1170,
    "calibration": EXAMPLE_CALIBRATION,
    "false_alarms": 0.01,
    "model_score": _EXAMPLE_QUALITY,
    "flagged": {"threshold": 6.02, "recall": 0.1, "precision": 0.6, "false_alarm_rate": 0.0036},
    "baselines": {"length": _EXAMPLE_QUALITY | {"auroc": 0.6411}},
    "leaks": {"normal": 86, "anomalous": 0, "distinct": 12},
    "worst_misses": [],
    "worst_false_alarms": [],
    "seconds": 2.8,
}


class EvaluationBody(BaseModel):
    """How well the model separates anomalous lines from normal ones, compared with baselines."""

    model_config = with_examples(EXAMPLE_EVALUATION)

    object: Literal["evaluation"] = "evaluation"
    model: str
    split: Literal["none", "chronological", "random"]
    lines: int = Field(description="Test lines.")
    anomalous: int
    trained_on: int = Field(description="Normal lines that the baselines learned from.")
    calibration: CalibrationBody
    false_alarms: float
    model_score: QualityBody
    flagged: FlaggedBody
    baselines: dict[str, QualityBody] = Field(
        description="`length`, `punctuation`, `template`, `ngram_5` (Witten-Bell) and `isolation_forest`."
    )
    leaks: LeaksBody
    worst_misses: list[JudgedLine] = Field(description="Anomalous lines with the lowest scores.")
    worst_false_alarms: list[JudgedLine] = Field(description="Normal lines with the highest scores.")
    seconds: float
