"""The optional arguments of calls, as types; what is left out is as the service has it."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict


class CompletionOptions(TypedDict, total=False):
    """The options of a completion; what is left out is as the service has it, see its API reference."""

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
    timeout_ms: int | None


class TrainingOptions(TypedDict, total=False):
    """The options of `train`; what is left out is as the service has it, see its API reference."""

    preset: Literal["tiny", "small", "medium", "large"]
    architecture: str
    network: Mapping[str, Any]
    training: Mapping[str, Any]
    validation_fraction: float
    seed: int
    alphabet: Literal["characters", "bytes"] | None
    coverage: float
    start_from: str | None
    masks: Sequence[str] | None
    mix: Mapping[str, Any] | None


class LineOptions(TypedDict, total=False):
    """The options of `score_lines`."""

    false_alarms: float
    calibration: str
    only: Literal["all", "anomalous"]
    detail: Literal["none", "line", "character"]
    expected: int
    context: Literal["line", "stream"]
    stream_id: str
    adapt: bool
    explain: bool
    precision: Literal["auto", "float32"]
