"""Calibrations, evaluations on labeled lines, and the fields that scores share with them."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nextchar.app.http.schemas import RequestBody, Shape, with_examples
from nextchar.models.anomaly.calibration import rounded_up
from nextchar.models.anomaly.line_scores import FalseAlarms, LineScore, StoredCalibration
from nextchar.models.validation_errors import NAME_PATTERN

EXAMPLE_CALIBRATION: dict[str, Any] = {
    "name": "validation", "lines": 812, "kept_lines": 812, "smallest_p_value": 0.00123, "has_tail": True,
    "created_at": 1795563600, "source": "held-out text",
    "buckets": [{"longest": None, "lines": 812, "has_tail": True}],
}  # fmt: skip

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
    lines: Annotated[list[Line], Field(min_length=1, max_length=1_000_000)] | None = None
    """Normal lines without their newlines."""
    corpus: str | None = Field(None, max_length=128, description="A corpus whose lines are all normal.")
    ingested: bool = False
    """Use the newest lines that agents have sent to this model, at most 1,000."""
    buckets: int = Field(1, ge=1, le=8)
    """The number of buckets: lines are compared with those of similar length only."""
    false_alarms: FalseAlarms | None = None
    """Respond with 422 unless there are enough lines for this rate."""

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


class CalibrationBody(Shape):
    """A calibration: the statistics of normal lines, which scores are based on."""

    model_config = with_examples(EXAMPLE_CALIBRATION)

    name: str
    lines: int = Field(description="The normal lines that it was made from.")
    kept_lines: int = Field(description="The lines that are kept: at most 100,000 quantiles.")
    smallest_p_value: float
    """1 / (n + 1), the smallest p-value without an assumption about the tail; with several buckets, the
    largest of theirs."""
    has_tail: bool
    """Whether there are smaller p-values, by a generalized Pareto tail that fits the scores."""
    created_at: int = Field(description="Unix seconds, UTC.")
    source: str = Field(description="What it was made from.")
    buckets: list[BucketBody]


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
    )


MAX_EVALUATED_LINES = 100_000
MAX_EVALUATED_CHARACTERS = 5_000_000


class EvaluateCreate(RequestBody):
    """Labeled lines, in chronological order."""

    model_config = with_examples({"lines": ["GET /", "GET /'--"], "anomalous": [False, True], "worst": 5})

    lines: Annotated[list[Line], Field(max_length=MAX_EVALUATED_LINES)] = Field(default_factory=list)
    """Without their newlines; together at most 5,000,000 characters. At least 2, unless `alert_labels` is
    set."""
    anomalous: Annotated[list[bool | Literal[0, 1]], Field(max_length=MAX_EVALUATED_LINES)] = Field(
        default_factory=list, description="The label of each line; both kinds must occur."
    )
    alert_labels: bool = False
    """Add the example lines of the model's labeled alerts, after `lines`: those of incidents are anomalous.
    Needs a key with the scope `read` or `train`."""
    split: Literal["auto", "none", "chronological", "random"] = "auto"
    """`none`: all lines are test lines; baselines learn from the model's training text. `chronological`: the
    normal ones among the first `train_fraction` of the lines are for calibration and baselines, and the lines
    after them are test lines. `random`: the same with lines drawn at random. `auto`: `none` if the model's
    corpus exists and the API key may read it, else `chronological`. `none` and `auto` need a key with the
    scope `read` or `train` in addition to `complete`."""
    train_fraction: float = Field(0.5, ge=0.05, le=0.95)
    false_alarms: FalseAlarms | None = None
    calibration: CalibrationName | None = None
    """The calibration for the split `none`; other splits make their own."""
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


class QualityBody(Shape):
    """How well a score separates anomalous lines from normal ones, at all thresholds."""

    auroc: float
    average_precision: float
    recall_at_false_alarms: dict[str, float]
    """The fraction of anomalous lines found at 0.1, 1 and 5 % false alarms on these lines."""
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
    "auroc": 0.9261, "average_precision": 0.3424,
    "recall_at_false_alarms": {"0.001": 0.0, "0.01": 0.0, "0.05": 0.5},
    "roc": [[0.0, 0.0], [0.05, 0.5], [1.0, 1.0]],
}  # fmt: skip

EXAMPLE_EVALUATION: dict[str, Any] = {
    "object": "evaluation", "model": "bgl@1", "split": "none", "lines": 588, "anomalous": 30,
    "trained_on": 1170, "calibration": EXAMPLE_CALIBRATION, "false_alarms": 0.01,
    "model_score": _EXAMPLE_QUALITY,
    "flagged": {"threshold": 6.02, "recall": 0.1, "precision": 0.6, "false_alarm_rate": 0.0036},
    "baselines": {"length": _EXAMPLE_QUALITY | {"auroc": 0.6411}},
    "leaks": {"normal": 86, "anomalous": 0, "distinct": 12}, "worst_misses": [], "worst_false_alarms": [],
    "seconds": 2.8,
}  # fmt: skip


class EvaluationBody(Shape):
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
    baselines: dict[str, QualityBody]
    """`length`, `punctuation`, `template`, `ngram_5` (Witten-Bell) and `isolation_forest`."""
    leaks: LeaksBody
    worst_misses: list[JudgedLine] = Field(description="Anomalous lines with the lowest scores.")
    worst_false_alarms: list[JudgedLine] = Field(description="Normal lines with the highest scores.")
    seconds: float
