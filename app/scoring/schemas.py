"""Scores of texts and lines. Lengths are in characters after Unicode NFC."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nextchar.app.http.schemas import RequestBody, Shape, with_examples
from nextchar.app.scoring.calibration_schemas import (
    EXAMPLE_CALIBRATION,
    CalibrationBody,
    CalibrationName,
    Line,
)
from nextchar.models.anomaly.alerts import Label
from nextchar.models.anomaly.flag_rule import Change, ChangeKind
from nextchar.models.anomaly.line_scores import (
    Context,
    Detail,
    FalseAlarms,
    LineScore,
    Repeats,
    Span,
    StreamOptions,
)
from nextchar.models.runtime.requests import CandidateBody

MAX_SCORED_CHARACTERS = 1_000_000
MAX_LINES = 10_000
MAX_EXPECTED_CHARACTERS = 50_000
"""Maximum length of texts for which expected characters are requested; `check_expected` limits the
size of the response too, once the model's characters are known."""

EXAMPLE: dict[str, Any] = {
    "object": "score", "model": "nietzsche@1", "characters": 4, "total_bits": 9.1,
    "bits_per_character": 2.275, "score": 2.31, "p_value": 0.21, "anomalous": False, "spans": [],
    "explained": None, "alert_id": None, "label": None, "bits": [4.6, 2.2, 1.9, 0.4], "expected": None,
    "lines": None, "false_alarms": 0.01, "threshold": 6.02, "calibration": EXAMPLE_CALIBRATION,
    "stream": None, "change": None, "unknown_characters": [],
}  # fmt: skip

StreamId = Annotated[
    str,
    Field(
        pattern=r"^[\w.:/@-]{1,128}$",
        description="Names a stream of lines: each call continues where the last one ended. So lines get the"
        " same flags in several calls as in one. Stored for a day after the last call.",
    ),
]


class ScoreCreate(RequestBody):
    """Score a text as a whole, or each of several lines; all are read as if after a newline."""

    model_config = with_examples(
        {"text": "the soul"}, {"lines": ["GET /", "GET /'--"], "detail": "line", "false_alarms": 0.001}
    )

    text: str | None = Field(None, min_length=1, max_length=MAX_SCORED_CHARACTERS)
    lines: Annotated[list[Line], Field(min_length=1, max_length=MAX_LINES)] | None = None
    """Lines without their newlines; together at most 1,000,000 characters."""
    join: bool = True
    """Join lines that are one event, if events of the training log have several. Otherwise each text in
    `lines`, which may have newlines, is scored by itself."""
    context: Context = "line"
    """`line`: each line is read by itself. `stream`: each is read after the previous ones."""
    detail: Detail = "character"
    """`none`: only score, p-value and flag of each line. `line`: also its bits and anomalous spans.
    `character`: also the bits of each character."""
    expected: int = Field(0, ge=0, le=20)
    """Return this many of the likeliest characters at each position. Needs detail `character`; at most 50,000
    characters in all, and at most 300,000 probabilities: characters * (expected + 1)."""
    false_alarms: FalseAlarms | None = None
    calibration: CalibrationName | None = None
    stream_id: StreamId | None = None
    explain: bool = True
    """Explain flagged lines, the most anomalous first, for about a second: characters that are surprising
    only because of an earlier fault are not marked, and spans contain what was expected."""

    repeats: Repeats = "count"
    """`count`: of a new kind of lines the first is flagged, and the others are `repeated`; so are lines of
    which more are flagged than the false-alarm rate explains, unless they are rarer than the others. Alerts
    count all of them. `flag`: every line is judged by itself."""
    alerts: bool = False
    """Record flagged lines in the model's alerts: GET …/alerts. Needs lines."""
    source: str = Field("", max_length=200, description="Where the lines come from; kept with the alerts.")

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        if (self.text is None) == (self.lines is None):
            raise ValueError("give exactly one of text and lines")
        size = len(self.text or "") + sum(map(len, self.lines or ()))
        if size > MAX_SCORED_CHARACTERS:
            raise ValueError(f"the lines have more than {MAX_SCORED_CHARACTERS:,} characters together")
        if self.expected and self.detail != "character":
            raise ValueError("expected needs detail character")
        if self.expected and size > MAX_EXPECTED_CHARACTERS:
            raise ValueError(f"expected takes at most {MAX_EXPECTED_CHARACTERS:,} characters")
        if self.expected and self.context == "stream":
            raise ValueError("expected needs context line")
        if self.alerts and self.lines is None:
            raise ValueError("alerts needs lines")
        if self.context == "stream" and self.lines is None:
            raise ValueError("context stream needs lines")
        if self.stream_id and self.lines is None:
            raise ValueError("stream_id needs lines")
        return self


class StreamBody(Shape):
    """The position of a stream of lines."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    lines: int = Field(description="Lines scored in this stream so far.")
    restarted: Literal["new", "model_replaced"] | None
    """Why the stream started from the beginning with this call: `new` if it is not stored, or the model was
    replaced; null: it continued."""


class NewKindBody(BaseModel):
    """Rare lines of one template that no training line has."""

    model_config = ConfigDict(from_attributes=True)

    alert_id: str
    lines: int
    line: str = Field(description="The first of them, its first 300 characters.")


class ChangeBody(Shape):
    """Why more lines are rare than the false-alarm rate explains."""

    model_config = ConfigDict(from_attributes=True)

    kind: ChangeKind
    """`new_kinds`: templates that no training line has. `values`: known templates with other values.
    `log`: hardly anything fits."""
    lines: int = Field(description="Lines of the change.")
    of_lines: int = Field(description="The lines of the stream, or of the request, that are remembered.")
    kinds: int = Field(description="How many new kinds of lines there are.")
    examples: list[NewKindBody]
    """One of each new kind, those with most lines first; at most 50."""
    since: float | None = Field(description="When the first line of them was scored, in Unix seconds.")
    action: Literal["examples", "train"]
    """What to do: look at an example of each new kind, or train again with these lines."""
    sentence: str

    @classmethod
    def of(cls, change: Change) -> Self:
        """Return a change as it is sent."""
        return cls.model_validate(change)


class ScoreBody(Shape):
    """Surprisal in bits: in total, and of the text or of each line."""

    model_config = with_examples(EXAMPLE)

    object: Literal["score"] = "score"
    model: str = Field(description="The model as `name@version`.")
    characters: int
    total_bits: float
    bits_per_character: float
    score: float | None = None
    """The score of `text`, if it is one line; see the fields of a line."""
    p_value: float | None = None
    anomalous: bool | None = None
    spans: list[Span] | None = None
    """The anomalous characters of `text`, by the calibration's threshold for characters."""
    explained: bool | None = None
    """Whether `text` was explained; see the fields of a line."""
    alert_id: str | None = Field(None, description="The alert of `text`; see the fields of a line.")
    label: Label | None = None
    bits: list[float] | None = None
    """Surprisal of each character of `text`; null for lines, or if not requested."""
    expected: list[list[CandidateBody]] | None = None
    """The likeliest characters at each position of `text`."""
    lines: list[LineScore] | None = None
    """In the order of the request, one for each event, which may have several `lines`; null for `text`."""
    false_alarms: float | None = Field(None, description="The rate that was used; null without calibration.")
    threshold: float | None = None
    """The score above which a line is flagged; null without calibration, or if it depends on the line's
    length."""
    calibration: CalibrationBody | None = None
    """Null if the model has none; `POST …/calibrate` makes one."""
    stream: StreamBody | None = None
    change: ChangeBody | None = None
    """Of 100 lines or more: why more are rare than the rate explains; null: they are not."""
    unknown_characters: list[str]
    """The distinct characters that are unknown to the model. Each costs log2(V - 1) + 2 bits, where V - 1 is
    the number of known characters: 2 bits more than a uniform guess."""


class StreamQuery(StreamOptions):
    """How the lines of a streamed request are scored; see the fields of the JSON request."""

    calibration: CalibrationName | None = None
    stream_id: StreamId | None = None
    more: bool = Field(
        False,
        description="More lines follow in another request. The last event is left out if it may go on: send"
        " its `held` lines, as `score.end` counts them, again with those that follow.",
    )


EXAMPLE_STREAM: list[dict[str, Any]] = [
    {"object": "score.start", "model": "sshd@2", "false_alarms": 0.01, "threshold": 6.02, "calibration": {}},
    {
        "object": "score.line",
        "line": 1,
        "offset": 0,
        "lines": 1,
        "characters": 91,
        "bits_per_character": 0.61,
        "peak_bits": 9.7,
        "total_bits": 55.5,
        "score": 3.2,
        "p_value": 0.004,
        "anomalous": True,
        "spans": [{"start": 40, "end": 52, "bits": 31.2, "expected": None}],
    },
    {
        "object": "score.end",
        "lines": 1,
        "events": 1,
        "characters": 91,
        "anomalous": 1,
        "unusual": 1,
        "seconds": 0.02,
    },
]
"""The response to a streamed request, one object per line."""
