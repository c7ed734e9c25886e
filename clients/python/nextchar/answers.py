"""The JSON that the service answers with, as types. At run time they are plain dictionaries.

Only the fields that this package reads are named; the service's OpenAPI document has them all.
"""

from typing import Any, Literal, NotRequired, TypedDict

FINAL_STATUSES = frozenset({"succeeded", "failed", "cancelled"})
"""A job in one of these is over; one that failed can be resumed."""


class Corpus(TypedDict):
    """One uploaded text. Lengths are in characters but for `bytes`."""

    id: str
    name: str | None
    created_at: int
    bytes: int
    characters: int
    distinct_characters: int
    lines: int
    longest_line: int
    sample: str
    warnings: list[str]
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
    waiting_for_storage: str | None


class JobFailure(TypedDict):
    """Why a job failed or was paused."""

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
    network: dict[str, Any]
    training: dict[str, Any]
    attempt: int
    queue_position: int | None
    model: str | None
    progress: Progress | None
    error: JobFailure | None
    pause_reason: NotRequired[JobFailure | None]  # older services do not send it
    masks: NotRequired[list[str]]
    masked_by_default: NotRequired[str | None]


class Event(TypedDict):
    """One thing that happened to a job: metrics, a sample, a message, or a kind yet to come."""

    id: int
    at: float
    type: str
    data: dict[str, Any]


class DamagedModel(TypedDict):
    """A version that cannot be used."""

    id: str
    code: str
    message: str


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


class ModelFile(TypedDict):
    """A file that can be downloaded."""

    bytes: int
    sha256: str


class Model(ModelSummary):
    """One version of a model with everything its card tells."""

    training: dict[str, Any]
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
    """What the next character may be, the likeliest first."""

    model: str
    entropy_bits: float
    candidates: list[Candidate]
    unknown_characters: list[str]


class LineScore(TypedDict):
    """The score of one line."""

    characters: int
    total_bits: float
    bits_per_character: float
    bits: list[float] | None
    expected: list[list[Candidate]] | None


class OddSpan(TypedDict):
    """Odd characters, text[start:end], and what was expected in their place, if one thing was."""

    start: int
    end: int
    bits: float
    expected: str | None


class Score(TypedDict):
    """Surprisal in bits of a text (`bits`) or of lines each by itself (`lines`)."""

    model: str
    characters: int
    total_bits: float
    bits_per_character: float
    bits: list[float] | None
    spans: list[OddSpan] | None
    lines: list[LineScore] | None
    unknown_characters: list[str]
