"""What is asked of a running model, and the events that answer it: plain values, no threads, no HTTP."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

Precision = Literal["auto", "float32", "int8"]
Until = Literal["word", "line", "confidence"]
FinishReason = Literal["length", "stop", "word", "line", "confidence", "timeout", "cancelled"]


@dataclass(frozen=True, kw_only=True)
class CompletionRequest:
    """One prompt to be completed `n` times. `prompt` is NFC text; lengths are in characters."""

    prompt: str
    max_characters: int = 40
    n: int = 1
    temperature: float = 1.0  # 0 means greedy
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int | None = None  # None: a fresh one
    stop: tuple[str, ...] = ()
    until: Until | None = None
    confidence_bits: float = 2.0  # `until="confidence"` ends before a step whose entropy exceeds this
    logprobs: int | None = None  # report log-probabilities, with this many alternatives a character
    timeout_s: float | None = None
    client: str = ""  # whose it is: clients share a busy model equally
    # "auto": int8 where the model has it, but for a seed only where it does not depend on company.
    precision: Precision = "auto"
    stream: bool = True  # False: a completion's text comes as one Piece, when it is over
    # The n best completions of a beam this wide, greedy in everything else; no temperature, filters or seed.
    beam: int | None = None
    length_penalty: float = 1.0  # beams are compared by log-probability / characters ** length_penalty
    # Never generate a run of this many characters that the completion, or the prompt's end, already has.
    no_repeat: int | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()  # added to the logits of these ids
    presence_penalty: float = 0.0  # taken off the logit of every character the completion has already
    frequency_penalty: float = 0.0  # and this, as often as it has it


@dataclass(frozen=True)
class CharacterLogprobs:
    """The log-probability (natural) of one generated character, and of the likeliest ones at its place."""

    character: str
    logprob: float
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Piece:
    """Some more text of completion `index`; text that may yet be cut by a stop string is held back."""

    index: int
    text: str
    logprobs: tuple[CharacterLogprobs, ...] = ()


@dataclass(frozen=True)
class Finished:
    """Completion `index` is over. `bits` is the surprisal of its characters together, as the model has it.

    That is at temperature 1 and without filters; what was cut off by `stop` or `until` does not count.
    """

    index: int
    reason: FinishReason
    bits: float
    characters: int


@dataclass(frozen=True)
class Usage:
    """The last event of a request: what it cost. After it comes nothing."""

    prompt_characters: int
    cached_characters: int
    completion_characters: int


@dataclass(frozen=True)
class Failed:
    """The engine broke on this request; takes the place of Usage. `error` is what to raise."""

    error: Exception


Event = Piece | Finished | Usage | Failed
OnEvent = Callable[[Event], None]


@dataclass(frozen=True)
class Distribution:
    """The next character's distribution after a prompt; candidates likeliest first, id 0 excluded."""

    entropy_bits: float
    candidates: tuple[tuple[str, float], ...] = field(default=())
