"""Scores: how surprised a model is by each character. Lengths are in characters after Unicode NFC."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.schemas.base import RequestBody
from store.ids import NAME_PATTERN

MAX_SCORED_CHARACTERS = 1_000_000
MAX_LINES = 10_000
MAX_EXPECTED_CHARACTERS = 50_000
"""Of the texts for which expected characters are told. The size of the answer is bounded, too, once it is
known what a character is to the model (`app.services.scoring.Scorer.check_expected`)."""

Context = Literal["line", "stream"]
Detail = Literal["none", "line", "character"]

EXAMPLE_CALIBRATION: dict[str, Any] = {
    "name": "validation",
    "lines": 812,
    "kept_lines": 812,
    "smallest_p_value": 0.00123,
    "has_tail": True,
    "created_at": 1795563600,
    "source": "held-out text",
    "buckets": [{"longest": None, "lines": 812, "has_tail": True}],
}

EXAMPLE: dict[str, Any] = {
    "object": "score",
    "model": "nietzsche@1",
    "characters": 4,
    "total_bits": 9.1,
    "bits_per_character": 2.275,
    "score": 2.31,
    "p_value": 0.21,
    "anomalous": False,
    "spans": [],
    "explained": None,
    "bits": [4.6, 2.2, 1.9, 0.4],
    "expected": None,
    "lines": None,
    "false_alarms": 0.01,
    "threshold": 6.02,
    "calibration": EXAMPLE_CALIBRATION,
    "stream": None,
    "unknown_characters": [],
}

Line = Annotated[str, Field(max_length=20_000_000)]
"""Bounded, and so refused where it holds half a character, as JSON can spell it."""

FalseAlarms = Annotated[
    float,
    Field(
        ge=1e-9,
        lt=1,
        description="The share of normal lines that may be flagged. Default: 0.01, or the smallest that the"
        " calibration's number of lines allows.",
    ),
]
CalibrationName = Annotated[
    str,
    Field(
        pattern=f"^{NAME_PATTERN}$",
        description="Which of the model's calibrations to compare with. Default: `default` where there is"
        " one of that name, else `validation`, made with the model.",
    ),
]
StreamId = Annotated[
    str,
    Field(
        pattern=r"^[\w.:/@-]{1,128}$",
        description="Names a stream of lines: each call goes on where the last one ended. Needs context"
        " `stream`. Kept a day after the last call.",
    ),
]

Adapt = Annotated[
    bool,
    Field(
        description="Learn from the stream while it is read, so that what has become usual is expected. Needs"
        " context `stream` and a model of LSTMs. What is learned belongs to this stream alone and fades."
    ),
]


class ScoreCreate(RequestBody):
    """Score a text as a whole, or lines each by itself; both start as if after a newline."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"text": "the soul"},
                {"lines": ["GET /", "GET /'--"], "detail": "line", "false_alarms": 0.001},
            ]
        }
    )

    text: str | None = Field(None, min_length=1, max_length=MAX_SCORED_CHARACTERS)
    lines: Annotated[list[Line], Field(min_length=1, max_length=MAX_LINES)] | None = Field(
        None,
        description="Lines without their newlines; together at most 1,000,000 characters.",
    )
    context: Context = Field(
        "line",
        description="`line`: each line is read as if it were the first. `stream`: each is read after those"
        " before it.",
    )
    detail: Detail = Field(
        "character",
        description="`none`: of each line only its score, p-value and flag. `line`: its bits and odd spans"
        " too. `character`: the bits of each character too.",
    )
    expected: int = Field(
        0,
        ge=0,
        le=20,
        description="Tell so many of the likeliest characters at each place. Needs detail `character`, at"
        " most 50,000 characters in all, and at most 300,000 probabilities: characters times one more than"
        " this.",
    )
    false_alarms: FalseAlarms | None = None
    calibration: CalibrationName | None = None
    stream_id: StreamId | None = None
    adapt: Adapt = False
    explain: bool = Field(
        True,
        description="Read the most anomalous flagged lines again, as far as about a second goes: then"
        " characters that are surprising only because of an earlier fault are not marked, and spans say what"
        " was expected.",
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.text is None) == (self.lines is None):
            raise ValueError("give exactly one of text and lines")
        size = len(self.text or "") + sum(map(len, self.lines or ()))
        if size > MAX_SCORED_CHARACTERS:
            raise ValueError(f"the lines have more than {MAX_SCORED_CHARACTERS:,} characters together")
        if self.expected and self.detail != "character":
            raise ValueError("expected needs detail character")
        if self.expected and size > MAX_EXPECTED_CHARACTERS:
            raise ValueError(f"expected is told of at most {MAX_EXPECTED_CHARACTERS:,} characters")
        if self.expected and self.context == "stream":
            raise ValueError("expected needs context line")
        if self.context == "stream" and self.lines is None:
            raise ValueError("context stream needs lines")
        if (self.stream_id or self.adapt) and self.context != "stream":
            raise ValueError("stream_id and adapt need context stream")
        return self


class Span(BaseModel):
    """Odd characters: line[start:end], counted in characters after NFC."""

    start: int
    end: int
    bits: float = Field(description="Surprisal of these characters together.")
    expected: str | None = Field(
        description="What the model expected in their place; empty: nothing; null: no one thing."
    )


class Expected(BaseModel):
    """One character the model could have expected, with its probability."""

    character: str
    probability: float


class LineScore(BaseModel):
    """The score of one line. What was not asked for, or needs a calibration that is not there, is null."""

    characters: int
    bits_per_character: float | None = Field(None, description="The mean; 0 for an empty line.")
    peak_bits: float | None = Field(None, description="The mean of the two highest.")
    total_bits: float | None = None
    score: float | None = Field(
        None,
        description="How rare the line is among normal ones, in bits; what its p-value and flag follow from.",
    )
    p_value: float | None = Field(
        None, description="The share of normal lines that score as high, or 1 / (n + 1) if that is larger."
    )
    anomalous: bool | None = Field(None, description="Whether the p-value is at most `false_alarms`.")
    spans: list[Span] | None = Field(None, description="The odd characters of an anomalous line.")
    explained: bool | None = Field(
        None,
        description="Of an anomalous line, whether it was read again: then `spans` leave out what surprises"
        " only because of an earlier fault, and say what was expected. One answer explains the most anomalous"
        " lines, as far as about a second goes; send another line alone to have it explained.",
    )
    bits: list[float] | None = Field(None, description="Surprisal of each character, -log2 p.")
    expected: list[list[Expected]] | None = Field(None, description="The likeliest at each place.")


class BucketBody(BaseModel):
    """Calibration lines of up to `longest` characters; null: the rest."""

    longest: int | None
    lines: int
    has_tail: bool


class CalibrationBody(BaseModel):
    """What scores are compared with."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_CALIBRATION]})

    name: str
    lines: int = Field(description="Normal lines it was made from.")
    kept_lines: int = Field(description="Of more than 100,000, evenly spaced quantiles are kept.")
    smallest_p_value: float = Field(
        description="1 / (n + 1): the smallest p-value that needs no assumption. With several buckets, the"
        " largest of theirs."
    )
    has_tail: bool = Field(
        description="Whether smaller ones are given, by a generalised Pareto tail that was found to fit."
    )
    created_at: int = Field(description="Unix seconds, UTC.")
    source: str = Field(description="What it was made from.")
    buckets: list[BucketBody]


class StreamBody(BaseModel):
    """Where a stream of lines stands."""

    id: str
    lines: int = Field(description="Scored in this stream so far.")
    restarted: Literal["new", "model_replaced"] | None = Field(
        description="Why the model's memory of the stream began anew with this call: `new` where it is not"
        " known, not any more or not yet; null: it went on."
    )


class ScoreBody(BaseModel):
    """Surprisal in bits, of the text or of each line, and over everything."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    object: Literal["score"] = "score"
    model: str = Field(description="The `name@version` that answered.")
    characters: int
    total_bits: float
    bits_per_character: float
    score: float | None = Field(None, description="Of `text`, if it is one line; see the lines' fields.")
    p_value: float | None = None
    anomalous: bool | None = None
    spans: list[Span] | None = Field(
        None, description="The odd characters of `text`, by the calibration's threshold for characters."
    )
    explained: bool | None = Field(None, description="Whether `text` was read again for `spans`.")
    bits: list[float] | None = Field(
        None,
        description="Of each character of `text`; null when lines were given or not asked for.",
    )
    expected: list[list[Expected]] | None = Field(None, description="At each character of `text`.")
    lines: list[LineScore] | None = Field(None, description="In the order given; null when text was given.")
    false_alarms: float | None = Field(None, description="The rate that was used; null without calibration.")
    threshold: float | None = Field(
        None,
        description="The score above which a line is flagged; null without a calibration, or if it depends on"
        " the line's length.",
    )
    calibration: CalibrationBody | None = Field(
        None, description="Null where the model has none; `POST …/calibrate` makes one."
    )
    stream: StreamBody | None = None
    drift: str | None = Field(
        None,
        description="What is to be done if 100 lines or more are no longer like those of the calibration;"
        " null: they are, or there are fewer.",
    )
    unknown_characters: list[str] = Field(
        description="The distinct characters that the model has never seen. Each costs log2(V - 1) + 2 bits,"
        " where V - 1 is the number of characters it knows: 2 bits more than guessing blindly."
    )


class CalibrateCreate(RequestBody):
    """Normal lines to compare with: given here, or those of a corpus."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "web-1", "corpus": "access-log", "false_alarms": 0.001}]}
    )

    name: CalibrationName = "default"
    lines: Annotated[list[Line], Field(min_length=1, max_length=1_000_000)] | None = Field(
        None, description="Normal lines without their newlines."
    )
    corpus: str | None = Field(None, max_length=128, description="A corpus, all of whose lines are normal.")
    buckets: int = Field(
        1, ge=1, le=8, description="Compare lines with those of like length only, in so many buckets."
    )
    false_alarms: FalseAlarms | None = Field(
        None, description="Refuse (422) unless there are enough lines for this rate."
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.lines is None) == (self.corpus is None):
            raise ValueError("give exactly one of lines and corpus")
        return self


class StreamQuery(BaseModel):
    """How the lines of a streamed request are scored; what the fields of JSON say elsewhere."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    context: Context = "line"
    detail: Detail = "line"
    expected: int = Field(0, ge=0, le=20)
    false_alarms: FalseAlarms | None = None
    calibration: CalibrationName | None = None
    stream_id: StreamId | None = None
    adapt: Adapt = False
    only: Literal["all", "anomalous"] = Field("all", description="Which lines are answered.")
    echo: bool = Field(False, description="Give each answered line's text back.")
    explain: bool = Field(
        False,
        description="Read flagged lines again, of each batch the most anomalous, as far as about a second"
        " goes (`explained`): then characters that are surprising only because of an earlier fault are not"
        " marked, and spans say what was expected.",
    )
    precision: Literal["auto", "float32"] = Field(
        "auto", description="`auto`: int8 where the model has it, within 0.005 nats a character of float32."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.expected and (self.detail != "character" or self.context == "stream"):
            raise ValueError("expected needs detail character and context line")
        if (self.stream_id or self.adapt) and self.context != "stream":
            raise ValueError("stream_id and adapt need context stream")
        return self


EXAMPLE_STREAM: list[dict[str, Any]] = [
    {"object": "score.start", "model": "sshd@2", "false_alarms": 0.01, "threshold": 6.02, "calibration": {}},
    {
        "object": "score.line",
        "line": 1,
        "offset": 0,
        "characters": 91,
        "bits_per_character": 0.61,
        "peak_bits": 9.7,
        "total_bits": 55.5,
        "score": 3.2,
        "p_value": 0.004,
        "anomalous": True,
        "spans": [{"start": 40, "end": 52, "bits": 31.2, "expected": None}],
    },
    {"object": "score.end", "lines": 1, "characters": 91, "anomalous": 1, "unusual": 1, "seconds": 0.02},
]
"""What a streamed request is answered with, one object a line."""

MAX_EVALUATED_LINES = 100_000
MAX_EVALUATED_CHARACTERS = 5_000_000


class EvaluateCreate(RequestBody):
    """Lines with the truth about them, in the order in which they came."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"lines": ["GET /", "GET /'--"], "anomalous": [False, True], "worst": 5}]
        }
    )

    lines: Annotated[list[Line], Field(min_length=2, max_length=MAX_EVALUATED_LINES)] = Field(
        description="Without their newlines; together at most 5,000,000 characters."
    )
    anomalous: Annotated[list[bool | Literal[0, 1]], Field(min_length=2, max_length=MAX_EVALUATED_LINES)] = (
        Field(description="The truth about each line; both kinds must occur.")
    )
    split: Literal["auto", "none", "chronological", "random"] = Field(
        "auto",
        description="`none`: all lines are judged; the model's training text is what baselines learn from."
        " `chronological`: the normal ones among the first `train_fraction` of the lines are for calibration"
        " and baselines, and the lines after them are judged. `random`: the same with lines drawn at random."
        " `auto`: `none` while the model's corpus is there and the API key reaches it, else"
        " `chronological`. `none` and `auto` need a key with the scope `read` or `train` beside `complete`.",
    )
    train_fraction: float = Field(0.5, ge=0.05, le=0.95)
    false_alarms: FalseAlarms | None = None
    calibration: CalibrationName | None = Field(
        None, description="Which calibration to judge with, where the split makes none."
    )
    worst: int = Field(5, ge=0, le=50, description="So many misses and false alarms are shown.")
    baselines: bool = Field(True, description="Whether simple scores are judged on the same lines.")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if len(self.lines) != len(self.anomalous):
            raise ValueError(f"there are {len(self.lines)} lines and {len(self.anomalous)} truths about them")
        if sum(map(len, self.lines)) > MAX_EVALUATED_CHARACTERS:
            raise ValueError(f"the lines have more than {MAX_EVALUATED_CHARACTERS:,} characters together")
        return self


class QualityBody(BaseModel):
    """How well a score tells odd lines from normal ones, at all thresholds."""

    auroc: float
    average_precision: float
    recall_at_false_alarms: dict[str, float] = Field(
        description="The share of odd lines found at 0.1, 1 and 5 % false alarms on these lines."
    )
    roc: list[tuple[float, float]] = Field(description="(false-alarm rate, recall), from (0, 0) to (1, 1).")


class FlaggedBody(BaseModel):
    """What the calibrated threshold did on these lines."""

    threshold: float | None
    recall: float
    precision: float | None = Field(description="Null if nothing was flagged.")
    false_alarm_rate: float


class JudgedLine(LineScore):
    """One line that went wrong."""

    index: int = Field(description="Its place among the lines given, from 0.")
    text: str


class LeaksBody(BaseModel):
    """Judged lines that the model, or what calibrates it, has seen; they make any figure doubtful."""

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
    """How well the model tells odd lines from normal ones, beside simple scores on the same lines."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE_EVALUATION]})

    object: Literal["evaluation"] = "evaluation"
    model: str
    split: Literal["none", "chronological", "random"]
    lines: int = Field(description="That were judged.")
    anomalous: int
    trained_on: int = Field(description="Normal lines that baselines learned from.")
    calibration: CalibrationBody
    false_alarms: float
    model_score: QualityBody
    flagged: FlaggedBody
    baselines: dict[str, QualityBody] = Field(
        description="`length`, `punctuation`, `ngram_5` (Witten-Bell) and `isolation_forest`."
    )
    leaks: LeaksBody
    worst_misses: list[JudgedLine] = Field(description="Odd lines with the lowest scores.")
    worst_false_alarms: list[JudgedLine] = Field(description="Normal lines with the highest scores.")
    seconds: float
