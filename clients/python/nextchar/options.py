"""The optional arguments of calls, as types; omitted fields use the service's defaults."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from nextchar.types import TextKind

Expert = Literal["mixture", "lstm"]
"""The predictor: the network together with n-grams and matches, or the network alone."""


class CompletionOptions(TypedDict, total=False):
    """The options of a completion; defaults are the service's, see its API reference."""

    max_characters: int
    n: int
    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    seed: int | None
    stop: str | Sequence[str] | None
    until: Literal["word", "line", "confidence"] | None
    confidence_bits: float
    logprobs: int | None
    echo: bool
    best_of: int | None
    beam: int | None
    length_penalty: float
    no_repeat: int | None
    precision: Literal["auto", "float32", "int8"]
    expert: Expert
    timeout_ms: int | None


class TrainingOptions(TypedDict, total=False):
    """The options of `train`; defaults are the service's, see its API reference."""

    preset: Literal["auto", "tiny", "small", "medium", "large"]
    architecture: str
    network: Mapping[str, Any]
    training: Mapping[str, Any]
    validation_fraction: float
    seed: int
    alphabet: Literal["characters", "bytes"] | None
    kind: TextKind | None
    coverage: float
    start_from: str | None
    purpose: Literal["complete", "anomalies", "both"] | None
    masks: Sequence[str] | Literal["auto"] | None
    mixture: bool
    mix: Mapping[str, Any] | None


class ScoreOptions(TypedDict, total=False):
    """The options of `score`; omitted or None fields use the service's defaults."""

    detail: Literal["none", "line", "character"]
    """`line` leaves out the bits of each character, `none` the spans, too."""
    expected: int
    """How many of the most likely characters to return for each position."""
    false_alarms: float | None
    """The fraction of normal lines that may be flagged."""
    calibration: str | None
    """Which normal lines to compare with."""
    context: Literal["line", "stream"] | None
    """`stream` scores each line after those before it."""
    stream_id: str | None
    """Continues a stream of earlier calls."""
    explain: bool | None
    """Whether spans say what was expected."""
    repeats: Literal["count", "flag"] | None
    """Whether further lines like flagged ones are flagged too when there are many."""
    alerts: bool | None
    """Whether to record flagged lines in the model's alerts."""
    source: str | None
    """Where the lines come from; kept with the alerts."""


class LineOptions(ScoreOptions, total=False):
    """The options of `score_lines`."""

    only: Literal["all", "anomalous"]
    precision: Literal["auto", "float32"]
