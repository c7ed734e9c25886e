"""Completion requests, their validation, and the events of their progress. The API's limits are narrower."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, Field

from nextchar.models.errors import InvalidInput

Precision = Literal["auto", "float32", "int8"]
Expert = Literal["mixture", "network", "lstm"]
"""The predictor: the mixture of the network and contexts, or the network alone, also called `lstm`."""
Until = Literal["word", "line", "confidence"]
FinishReason = Literal["length", "stop", "word", "line", "confidence", "timeout", "cancelled"]


class Caller(NamedTuple):
    """Who makes a request. Clients share a busy model equally; cached states are shared by no two callers."""

    client: str = ""
    user: str = ""  # of the client; a name of any length


ANYONE = Caller()


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
    seed: int | None = None  # None: a random one
    stop: tuple[str, ...] = ()
    until: Until | None = None
    confidence_bits: float = 2.0  # `until="confidence"` finishes before a step whose entropy exceeds this
    logprobs: int | None = None  # report log-probabilities, with this many alternatives per character
    timeout_s: float | None = None
    caller: Caller = ANYONE
    # "auto": int8 if the model has it; with a seed, only if its results do not depend on the batch.
    precision: Precision = "auto"
    expert: Expert = "mixture"  # of a model without a mixture both are the network
    stream: bool = True  # False: a completion's text comes as one Piece when it has finished
    # Beam width: the n completions of highest probability; excludes temperature, filters and a seed.
    beam: int | None = None
    # Characters at the end of the prompt, of which one may be a typing error. Completions begin with what is
    # meant; `nextchar.models.runtime.corrections`.
    typed: int = 0
    respelled: tuple[str, ...] = ()  # what may be meant by them, besides what is found
    length_penalty: float = 1.0  # hypotheses are ranked by log-probability / characters ** length_penalty
    # Never repeat a run of this many characters of the completion or the end of the prompt.
    no_repeat: int | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()  # added to the logits of these ids
    presence_penalty: float = 0.0  # subtracted from the logits of characters that the completion has used
    frequency_penalty: float = 0.0  # subtracted once for each use
    suffix: str = ""  # the text after the cursor, by which completions are compared; the engine ignores it


@dataclass(frozen=True)
class CharacterLogprobs:
    """The natural log-probability of one character, and of the likeliest ones at its position."""

    character: str
    logprob: float
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Piece:
    """More text of completion `index`. Text that a stop string may still cut off is held back."""

    index: int
    text: str
    logprobs: tuple[CharacterLogprobs, ...] = ()


@dataclass(frozen=True)
class Finished:
    """Completion `index` has finished. `bits` is the total surprisal of its characters.

    Surprisal is at temperature 1 and without filters; text cut off by `stop` or `until` does not count.
    `ending_bits`, of a beam search, is that of all such endings together.
    """

    index: int
    reason: FinishReason
    bits: float
    characters: int
    ending_bits: float = 0.0


@dataclass(frozen=True)
class Usage:
    """The characters that a request processed; the last event of a successful one."""

    prompt_characters: int
    cached_characters: Annotated[int, Field(description="How much of the prompt was in the state cache.")]
    completion_characters: int


@dataclass(frozen=True)
class Failed:
    """The last event of a failed request. `error` is to be raised."""

    error: Exception


Event = Piece | Finished | Usage | Failed
OnEvent = Callable[[Event], None]


@dataclass(frozen=True)
class Completion:
    """One finished completion; `text` and `logprobs` begin with the prompt if it is echoed.

    Texts are in the vocabulary's characters: `Vocabulary.to_text` and `label` convert them for display.
    """

    text: str
    reason: FinishReason
    bits: float
    characters: int
    logprobs: tuple[CharacterLogprobs, ...]
    ending_bits: float = 0.0  # as of `Finished`


class CompletionCollector:
    """Makes the completions of a request from its events."""

    def __init__(self, n: int, *, echoed: Piece | None = None) -> None:
        """Collect `n` completions, which begin with `echoed`."""
        self._pieces: list[list[Piece]] = [[echoed] if echoed else [] for _ in range(n)]
        self._finished: dict[int, Finished] = {}

    def add(self, event: Event) -> Usage | None:
        """Take the next event; return the Usage if it is the last. Raises the error of a failed request."""
        if isinstance(event, Piece):
            self._pieces[event.index].append(event)
        elif isinstance(event, Finished):
            self._finished[event.index] = event
        elif isinstance(event, Failed):
            raise event.error
        else:
            return event
        return None

    def completions(self) -> list[Completion]:
        """Return the completions once all have finished."""
        whole = ((join(pieces), self._finished[i]) for i, pieces in enumerate(self._pieces))
        return [
            Completion(p.text, end.reason, end.bits, end.characters, p.logprobs, end.ending_bits)
            for p, end in whole
        ]


def join(pieces: list[Piece]) -> Piece:
    """Return pieces of one completion as one."""
    if len(pieces) == 1:
        return pieces[0]
    logprobs = tuple(entry for piece in pieces for entry in piece.logprobs)
    return Piece(pieces[0].index if pieces else 0, "".join(piece.text for piece in pieces), logprobs)


@dataclass(frozen=True)
class Distribution:
    """The distribution of the next character; candidates likeliest first, id 0 excluded."""

    entropy_bits: float
    candidates: tuple[tuple[str, float], ...] = field(default=())


class CandidateBody(BaseModel):
    """A character and its probability."""

    character: str
    probability: float


MAX_BEAM = 64


def check_request(request: CompletionRequest) -> None:
    """Raise InvalidInput, which names the field, if an option is out of range or contradicts another."""
    r = request
    rules = {
        "max_characters": (r.max_characters >= 1, "must be at least 1"),
        "n": (r.n >= 1, "must be at least 1"),
        "temperature": (0 <= r.temperature < math.inf, "must be a finite number, at least 0"),
        "top_k": (r.top_k is None or r.top_k >= 1, "must be at least 1"),
        "top_p": (r.top_p is None or 0 < r.top_p <= 1, "must be above 0 and at most 1"),
        "min_p": (r.min_p is None or 0 <= r.min_p <= 1, "must be from 0 to 1"),
        "seed": (r.seed is None or r.seed >= 0, "must be at least 0"),
        "stop": (all(r.stop), "must not hold an empty string"),
        "logprobs": (r.logprobs is None or r.logprobs >= 0, "must be at least 0"),
        "no_repeat": (r.no_repeat is None or r.no_repeat >= 1, "must be at least 1"),
        "logit_bias": (all(math.isfinite(b) for _, b in r.logit_bias), "must be finite numbers"),
        "presence_penalty": (math.isfinite(r.presence_penalty), "must be a finite number"),
        "frequency_penalty": (math.isfinite(r.frequency_penalty), "must be a finite number"),
        "beam": (r.beam is None or 1 <= r.beam <= MAX_BEAM, f"must be from 1 to {MAX_BEAM}"),
    }
    rules["typed"] = (not r.typed or r.beam is not None, "needs beam")
    _apply(rules)
    if r.beam is not None:
        _check_beam(r, r.beam)


def check_bias(request: CompletionRequest, vocabulary_size: int) -> None:
    """Raise InvalidInput if `logit_bias` names an id that a model with V ids does not generate."""
    for an_id, _ in request.logit_bias:
        if not 1 <= an_id < vocabulary_size:
            raise InvalidInput(
                f"logit_bias names {an_id}; this model's characters have ids from 1 to {vocabulary_size - 1}",
                param="logit_bias",
            )


def _check_beam(r: CompletionRequest, beam: int) -> None:
    excluded = "cannot be used with beam"
    rules = {
        "n": (r.n <= beam, "cannot be larger than beam"),
        "temperature": (r.temperature in (0, 1), excluded + ", which takes the likeliest"),
        "until": (r.until != "confidence", '"confidence" ' + excluded),
        "length_penalty": (0 <= r.length_penalty <= 10, "must be from 0 to 10"),
        "logit_bias": (not r.logit_bias, excluded),
        "presence_penalty": (not r.presence_penalty, excluded),
        "frequency_penalty": (not r.frequency_penalty, excluded),
    }
    for name in ("top_k", "top_p", "min_p", "seed", "logprobs", "no_repeat"):
        rules[name] = (getattr(r, name) is None, excluded)
    _apply(rules)


def _apply(rules: dict[str, tuple[bool, str]]) -> None:
    for name, (holds, message) in rules.items():
        if not holds:
            raise InvalidInput(f"{name} {message}", param=name)
