"""The JSON that the service responds with, as types. At run time they are plain dictionaries.

Only the fields that this package reads are named; the service's OpenAPI document has them all.
"""

from typing import Any, Literal, NotRequired, Required, TypedDict

FINAL_STATUSES = frozenset({"succeeded", "failed", "cancelled"})
"""A job in one of these is over; one that failed can be resumed."""


TextKind = Literal["log", "records", "code", "text"]
"""The kind of a text; the lines of `records` are independent of each other."""


class Corpus(TypedDict):
    """One uploaded text. Lengths are in characters but for `bytes`."""

    id: str
    name: str | None
    version: NotRequired[int | None]  # of that name; null without a name
    created_at: int
    bytes: int
    characters: int
    distinct_characters: int
    lines: int
    longest_line: int
    sample: str
    warnings: list[str]
    encoding: NotRequired[Literal["utf-8", "bytes"]]
    kind: NotRequired[TextKind | None]  # null: not known
    kind_reason: NotRequired[str | None]  # a clause; older services lack it
    files: NotRequired[int | None]  # that were joined to this text; null: it was uploaded as one
    repeated_lines: NotRequired[int | None]  # that were removed; null: the upload did not ask for it
    suggested_masks: NotRequired[list[str]]  # services from before there were suggestions lack it


class Progress(TypedDict, total=False):
    """How far a job is; anything may be null, or missing, while it is not known."""

    step: int | None
    steps: int | None
    epoch: float | None
    characters_per_second: float | None
    seconds_left: float | None
    train_bits_per_character: float | None
    validation_bits_per_character: float | None
    sample: str | None
    ended_early: str | None  # services from before there was early stopping lack it
    waiting_for_storage: str | None


class Failure(TypedDict):
    """Why a job failed or was paused, or why a model cannot be used."""

    code: str
    message: str


class Job(TypedDict):
    """One request to train."""

    id: str
    status: str
    created_at: int
    updated_at: int
    name: str
    corpus: str
    preset: NotRequired[str | None]  # older services do not send it, nor the next two
    chosen_preset: NotRequired[str | None]
    candidates: NotRequired[list[str]]
    network: dict[str, Any]
    training: dict[str, Any]
    attempt: int
    queue_position: int | None
    model: str | None
    progress: Progress | None
    error: Failure | None
    pause_reason: NotRequired[Failure | None]  # older services do not send it
    kind: NotRequired[TextKind | None]
    purpose: NotRequired[Literal["complete", "anomalies", "both"] | None]
    masks: NotRequired[list[str]]
    masked_by_default: NotRequired[str | None]
    mixture: NotRequired[bool]


class Event(TypedDict):
    """One thing that happened to a job: metrics, a sample, a message, or a kind yet to come."""

    id: int
    at: float
    type: str
    data: dict[str, Any]


class DamagedModel(Failure):
    """A version that cannot be used, and why."""

    id: str


class ModelSummary(TypedDict):
    """One version of a model."""

    id: str
    name: str
    version: int
    created_at: int
    job: str | None
    corpus: str | None
    network: dict[str, Any]
    parameters: int
    aliases: NotRequired[list[str]]  # older services do not send it


class AliasCheck(TypedDict):
    """A requirement that a version met when an alias moved to it."""

    name: str
    value: float | None
    limit: float | None
    note: str | None


class Alias(TypedDict):
    """One move of an alias: the newest is where it points to now. `id` is its name."""

    id: str
    model: str
    version: int | None
    target: str | None
    action: Literal["set", "rollback", "delete"]
    moved_at: float
    moved_by: str | None
    checks: list[AliasCheck]


class AliasWithHistory(Alias):
    """An alias with all its moves, newest first."""

    history: list[Alias]


class ModelFile(TypedDict):
    """A file that can be downloaded."""

    bytes: int
    sha256: str


class Model(ModelSummary):
    """One version of a model with the full card."""

    training: dict[str, Any]
    preset: NotRequired[str | None]  # older services do not send it, nor the next one
    chosen_preset: NotRequired[str | None]
    characters: str
    alphabet: Literal["characters", "bytes"]
    report: dict[str, Any]
    files: dict[str, ModelFile]


class Choice(TypedDict):
    """One completion."""

    index: int
    text: str
    finish_reason: str
    bits: float


class Usage(TypedDict):
    """What a completion cost, in characters."""

    prompt_characters: int
    cached_characters: int
    completion_characters: int


class Completion(TypedDict):
    """All completions of a prompt."""

    model: str
    completions: list[Choice]
    usage: Usage
    unknown_characters: list[str]


class StreamEvent(TypedDict):
    """One event of a streamed completion: `piece`, `finished` or, at the end, `done`."""

    event: Literal["piece", "finished", "done"]
    data: dict[str, Any]


class Candidate(TypedDict):
    """A character and its probability."""

    character: str
    probability: float


class Distribution(TypedDict):
    """What the next character may be, most probable first."""

    model: str
    entropy_bits: float
    candidates: list[Candidate]
    unknown_characters: list[str]


class AnomalousSpan(TypedDict):
    """Anomalous characters, text[start:end], and what was expected in their place, if one thing was."""

    start: int
    end: int
    bits: float
    expected: str | None


AlertLabel = Literal["normal", "incident"]


class LineScore(TypedDict):
    """The score of one line. What was not requested, or needs a calibration, is null.

    `score` is how rare the line is among normal ones, in bits; its p-value and flag follow from it.
    """

    characters: int
    total_bits: float
    bits_per_character: float
    peak_bits: NotRequired[float | None]
    score: NotRequired[float | None]
    p_value: NotRequired[float | None]
    anomalous: NotRequired[bool | None]
    repeated: NotRequired[bool | None]
    spans: NotRequired[list[AnomalousSpan] | None]
    explained: NotRequired[bool | None]
    alert_id: NotRequired[str | None]
    label: NotRequired[AlertLabel | None]
    bits: list[float] | None
    expected: list[list[Candidate]] | None


class NotUtf8(TypedDict):
    """The first byte of a line that is not UTF-8: its offset in the line, and the byte as `0xff`."""

    offset: int
    byte: str


class ScoredLine(TypedDict, total=False):
    """One line of `score_lines`: its number from 1 among all lines, its text and the fields of its score."""

    line: Required[int]
    text: Required[str]
    characters: int
    total_bits: float
    bits_per_character: float
    peak_bits: float
    score: float | None
    p_value: float | None
    anomalous: bool | None
    repeated: bool
    spans: list[AnomalousSpan] | None
    explained: bool | None
    alert_id: str
    label: AlertLabel
    bits: list[float]
    expected: list[list[Candidate]]
    truncated: bool
    not_utf8: NotUtf8


class Bucket(TypedDict):
    """Calibration lines of up to `longest` characters; null: the rest."""

    longest: int | None
    lines: int
    has_tail: bool


class AlertExample(TypedDict):
    """A line of an alert. Times are Unix seconds."""

    line: str
    score: float
    p_value: float
    spans: list[AnomalousSpan]
    time: float
    line_time: float | None
    source: str


class Alert(TypedDict):
    """The flagged lines of a model that have the same template and the same anomalous word.

    `counts` are its lines in each interval of `interval_s` seconds since `first_seen`.
    """

    id: str
    model: str
    version: int
    state: Literal["open", "acknowledged", "suppressed"]
    severity: Literal["info", "warning", "critical"]
    label: AlertLabel | None
    template: str
    span: str
    count: int
    first_seen: float
    last_seen: float
    first_line_time: float | None
    last_line_time: float | None
    score: float
    p_value: float
    estimated_p_value: NotRequired[float]
    interval_s: float
    counts: list[int]
    examples: list[AlertExample]
    sources: list[str]
    acknowledged_at: float | None
    acknowledged_by: str | None
    labeled_at: float | None
    labeled_by: str | None
    suppressed_until: float | None


class Suppression(TypedDict):
    """Alerts that are counted but not reported until a time; `warning` if it is every alert of the model."""

    id: str
    model: str
    template: str
    span: str
    until: float
    is_active: bool
    created_at: float
    created_by: str | None
    alert_id: str | None
    warning: str | None


class AuditEntry(TypedDict):
    """One call that changed or downloaded something: by an API key's name, about and to a path."""

    id: str
    at: float
    key: str | None
    address: str
    action: str
    about: str
    to: str | None
    status: int
    request_id: str


class NotificationTarget(TypedDict):
    """Where alerts and other events are reported; `secret` only in the response that makes it."""

    id: str
    kind: Literal["webhook", "alertmanager"]
    url: str
    models: list[str]
    min_severity: Literal["info", "warning", "critical"]
    events: list[str]
    created_at: float
    is_setting: bool
    secret: str | None
    waiting: int
    dead: int
    last_success_at: float | None
    last_error_at: float | None
    last_error: str | None


class TargetTest(TypedDict):
    """The target's response to a test message."""

    delivered: bool
    status: int | None
    answer: str | None
    error: str | None
    seconds: float


class Delivery(TypedDict):
    """A message to a webhook that has not arrived."""

    id: str
    status: Literal["waiting", "dead"]
    body: str
    created_at: float
    attempts: int
    next_at: float | None
    last_error: str | None


class Rebuild(TypedDict):
    """What a rolling calibration did with a batch of lines; `drift` says why it learned none."""

    at: float
    lines: int
    flagged: int
    learned: int
    rate: float
    old_thresholds: list[float]
    new_thresholds: list[float]
    drift: str | None


class Rolling(TypedDict):
    """The rebuilds of a rolling calibration, the newest last."""

    base: str
    drift: str | None
    rebuilds: list[Rebuild]


class Calibration(TypedDict):
    """The normal lines that scores are compared with."""

    name: str
    lines: int
    kept_lines: int
    smallest_p_value: float
    has_tail: bool
    created_at: int
    source: str
    buckets: list[Bucket]
    rolling: NotRequired[Rolling | None]


class Score(TypedDict):
    """Surprisal in bits of a text (`bits`) or of lines each by itself (`lines`)."""

    model: str
    characters: int
    total_bits: float
    bits_per_character: float
    score: NotRequired[float | None]
    p_value: NotRequired[float | None]
    anomalous: NotRequired[bool | None]
    bits: list[float] | None
    spans: NotRequired[list[AnomalousSpan] | None]
    expected: NotRequired[list[list[Candidate]] | None]
    lines: list[LineScore] | None
    false_alarms: NotRequired[float | None]
    threshold: NotRequired[float | None]
    calibration: NotRequired[Calibration | None]
    drift: NotRequired[str | None]
    unknown_characters: list[str]


class Quality(TypedDict):
    """How well a score tells anomalous lines from normal ones. `roc` is (false-alarm rate, recall)."""

    auroc: float
    average_precision: float
    recall_at_false_alarms: dict[str, float]
    roc: list[tuple[float, float]]


class Flagged(TypedDict):
    """What the calibrated threshold did on the lines."""

    threshold: float | None
    recall: float
    precision: float | None
    false_alarm_rate: float


class Evaluation(TypedDict):
    """How well a model separates anomalous lines from normal ones, compared with simple baselines."""

    model: str
    split: Literal["none", "chronological", "random"]
    lines: int
    anomalous: int
    trained_on: int
    calibration: Calibration
    false_alarms: float
    model_score: Quality
    flagged: Flagged
    baselines: dict[str, Quality]
    leaks: dict[str, int]
    worst_misses: list[dict[str, Any]]
    worst_false_alarms: list[dict[str, Any]]
    seconds: float
