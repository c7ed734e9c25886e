"""Requests that the scheduler runs: a prompt to be read, and what happens with the logits after it.

A `GenerationRequest` splits into `n` `Sequence`s after its prompt has been read. Each sequence takes one
character per step and reports events to the request's listener. After `Scheduler.submit` only the scheduler's
thread touches a request, except for the flags `is_cancelled` and `is_paused`.
"""

import hashlib
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from nextchar.models.runtime.decoding import (
    BITS,
    Adjustment,
    Ending,
    Floats,
    adjustment_of,
    entropy_bits,
    likeliest,
    log_softmax,
    uniforms,
)
from nextchar.models.runtime.requests import (
    ANYONE,
    Caller,
    CharacterLogprobs,
    CompletionRequest,
    Distribution,
    Event,
    Failed,
    Finished,
    FinishReason,
    OnEvent,
    Piece,
    Usage,
)
from nextchar.models.runtime.session import State, StepNetwork
from nextchar.models.runtime.state_cache import PrefixMatch
from nextchar.models.runtime.surprisal import continuation_bits
from nextchar.models.text.vocabulary import Vocabulary

log = logging.getLogger(__name__)

LINE_START = "\n"
"""Replaces an empty prompt, because a text begins like a line; a model of records reads it before every
prompt."""

UNIFORMS = 64  # random numbers drawn per batch


class ScheduledRequest(ABC):
    """A prompt to be read. Subclasses define what follows."""

    is_self_stepping = False  # runs its own steps after prefill, by `advance`
    prefix: PrefixMatch
    state: State  # (1, S) after text[:position]

    def __init__(
        self,
        text: str,
        id_of: dict[str, int],
        timeout_s: float | None = None,
        caller: Caller = ANYONE,
        *,
        starts_line: bool = False,
    ) -> None:
        """Take NFC `text`; with `starts_line` it is read as the beginning of a line."""
        self.text = as_prompt(text, starts_line=starts_line)
        self._id_of = id_of
        self.client = caller.client
        self.owner = owner_of(caller)
        self.arrival = 0  # sequence number, set by the scheduler
        self.is_paused = False  # set by any thread
        self.is_cancelled = False  # set by any thread
        self.deadline = float("inf") if timeout_s is None else time.perf_counter() + timeout_s
        self.started = 0.0
        self.position = 0  # characters read or taken from the cache
        self.cached = 0  # characters taken from the cache

    @property
    def max_new_characters(self) -> int:
        """The most characters that may still be generated, over all completions."""
        return 0

    @property
    def remaining_work(self) -> int:
        """The most characters that may still be read and generated."""
        return len(self.text) - self.position + self.max_new_characters

    def next_ids(self, count: int) -> list[int]:
        """Return the ids of the next `count` characters of the prompt."""
        get = self._id_of.get
        return [get(character, 0) for character in self.text[self.position : self.position + count]]

    @abstractmethod
    def begin(self, logits: Floats, state: State) -> list["Sequence"]:
        """Take logits (V,) and state (1, S) after the prompt; return the sequences to generate."""

    def advance(self) -> bool:
        """Run one step of a self-stepping request; return whether it has finished."""
        return True

    def has_finished(self) -> bool:
        """Return whether all sequences have finished."""
        return True

    def stop(self, reason: FinishReason) -> None:  # noqa: B027 -- optional
        """Finish early; `end` is called next."""

    def end(self) -> None:  # noqa: B027 -- optional
        """The request is complete; no other method is called after this one."""

    def fail(self, error: Exception) -> None:  # noqa: B027 -- optional
        """The engine failed; no other method is called after this one."""

    def release(self) -> None:
        """Drop its arrays, after `end` or `fail`.

        Requests and their sequences refer to each other. Such cycles are only freed by the garbage
        collector, which knows the number of objects and not their size.
        """
        self.__dict__.pop("state", None)
        self.__dict__.pop("prefix", None)


def as_prompt(text: str, *, starts_line: bool) -> str:
    """Return what is read for a prompt; with `starts_line` it is the beginning of a line."""
    return LINE_START + text if not text or (starts_line and not text.startswith(LINE_START)) else text


def owner_of(caller: Caller) -> str:
    """Return whose cached states a request may use."""
    if not caller.user:
        return caller.client
    return f"{caller.client}\n{hashlib.sha256(caller.user.encode('utf-8', 'surrogatepass')).hexdigest()}"


class PredictionRequest(ScheduledRequest):
    """Calls `on_result` with the distribution after a text, or with the error."""

    def __init__(
        self,
        text: str,
        vocabulary: Vocabulary,
        id_of: dict[str, int],
        on_result: Callable[[Distribution | Exception], None],
        *,
        top: int,
        temperature: float,
        caller: Caller = ANYONE,
        starts_line: bool = False,
    ) -> None:
        super().__init__(text, id_of, caller=caller, starts_line=starts_line)
        self._vocabulary, self._on_result = vocabulary, on_result
        self._top, self._temperature = top, temperature

    def begin(self, logits: Floats, state: State) -> list["Sequence"]:  # noqa: ARG002
        """Call `on_result` with the distribution; there is nothing to generate."""
        logprobs = log_softmax(logits, temperature=self._temperature)
        characters = self._vocabulary.characters
        candidates = tuple(
            (characters[i - 1], float(np.exp(logprob))) for i, logprob in likeliest(logprobs, self._top)
        )
        self._on_result(Distribution(float(entropy_bits(logprobs)), candidates))
        return []

    def fail(self, error: Exception) -> None:
        """Call `on_result` with the error."""
        self._on_result(error)


OnBits = Callable[[list[float] | Exception], None]


class WeighingRequest(ScheduledRequest):
    """Calls `on_bits` with the surprisal of each continuation of a text, in bits, or with the error."""

    is_self_stepping = True

    def __init__(
        self,
        text: str,
        continuations: list[NDArray[np.int32]],
        id_of: dict[str, int],
        on_bits: OnBits,
        network: StepNetwork,
        *,
        caller: Caller = ANYONE,
        starts_line: bool = False,
    ) -> None:
        super().__init__(text, id_of, caller=caller, starts_line=starts_line)
        self._continuations, self._on_bits, self._network = continuations, on_bits, network
        self._logits: Floats | None = None

    @property
    def max_new_characters(self) -> int:
        """The most characters that may still be read after the text, over all continuations."""
        return sum(map(len, self._continuations))

    def begin(self, logits: Floats, state: State) -> list["Sequence"]:
        """Take logits (V,) and state (1, S) after the text; `advance` reads the rest."""
        self._logits, self.state = logits, state
        return []

    def advance(self) -> bool:
        """Read the continuations."""
        assert self._logits is not None
        self._on_bits(continuation_bits(self._network, self._continuations, self._logits, self.state))
        return True

    def fail(self, error: Exception) -> None:
        """Call `on_bits` with the error."""
        self._on_bits(error)


class GenerationRequest(ScheduledRequest):
    """A completion request in progress."""

    def __init__(
        self,
        options: CompletionRequest,
        vocabulary: Vocabulary,
        id_of: dict[str, int],
        on_event: OnEvent,
        *,
        seed: int,
        starts_line: bool = False,
    ) -> None:
        super().__init__(options.prompt, id_of, options.timeout_s, options.caller, starts_line=starts_line)
        self.options, self.characters, self.seed = options, vocabulary.characters, seed
        self.is_word_character = vocabulary.is_word_character
        self._on_event = on_event
        self._sequences: list[Sequence] = []
        self._finished: set[int] = set()  # indices of completions whose Finished was sent
        self._generated = 0

    @property
    def max_new_characters(self) -> int:
        """The most characters that may still be generated, over all completions."""
        if self._sequences:
            return sum(s.remaining for s in self._sequences if s.index not in self._finished)
        return max(self.options.n, self.options.beam or 0) * self.options.max_characters

    def emit(self, event: Event) -> None:
        """Send an event to the listener. If the listener raises, the request is cancelled."""
        if isinstance(event, Finished):
            self._finished.add(event.index)
            self._generated += event.characters
        try:
            self._on_event(event)
        except Exception:  # a failing listener must not affect the other requests
            if not self.is_cancelled:
                log.exception("a listener failed; its request is cancelled")
            self.is_cancelled = True

    def begin(self, logits: Floats, state: State) -> list["Sequence"]:  # noqa: ARG002
        """Split into sequences."""
        adjustment = adjustment_of(self.options, len(self.characters) + 1, self.text, self._id_of)
        self._sequences = [
            Sequence(self, index, adjustment and adjustment.copy()) for index in range(self.options.n)
        ]
        return self._sequences

    def has_finished(self) -> bool:
        """Return whether all completions have finished."""
        return len(self._finished) == self.options.n

    def stop(self, reason: FinishReason) -> None:
        """Finish every unfinished completion with the text it has."""
        for index in range(self.options.n):
            if index not in self._finished:
                if self._sequences:
                    self._sequences[index].finish(reason)
                else:
                    self.emit(Finished(index, reason, 0.0, 0))

    def end(self) -> None:
        """Send Usage."""
        prompt = len(self.options.prompt)
        added = max(0, len(self.text) - prompt)  # by us, at the start of the line
        self.emit(Usage(prompt, max(0, self.cached - added), self._generated))

    def fail(self, error: Exception) -> None:
        """Send Failed instead of Usage."""
        self.emit(Failed(error))

    def release(self) -> None:
        """Drop its arrays and sequences."""
        super().release()
        self._sequences = []


class Sequence:
    """One completion: the characters it has taken, and those that may be sent."""

    def __init__(self, request: GenerationRequest, index: int, adjustment: Adjustment | None) -> None:
        options = request.options
        self.request, self.index, self.options = request, index, options
        self.last_id = 0
        self.logprobs: list[float] = []  # natural, of the characters taken; set by BatchSampler.flush
        self._characters = request.characters
        self._ending = Ending(
            stop=options.stop, until=options.until, is_word_character=request.is_word_character
        )
        self._sends_at_once = self._ending.always_settled and options.stream and options.logprobs is None
        self._taken = 0
        self._sent = 0  # characters
        self._held: list[str] = []  # taken, not sent yet
        self._described: list[CharacterLogprobs] = []  # of the held characters, if requested
        self._uniforms: list[float] = []  # of the positions from `_uniforms_start` on
        self._uniforms_start = 0
        self.adjustment = adjustment

    @property
    def remaining(self) -> int:
        """How many more characters it may take."""
        return self.options.max_characters - self._taken

    def next_uniform(self) -> float:
        """Return the random number for the next character."""
        if self.options.temperature == 0:
            return 0.0
        offset = self._taken - self._uniforms_start
        if offset < len(self._uniforms):
            return self._uniforms[offset]
        return self.next_uniforms(1)[0]

    def next_uniforms(self, count: int) -> list[float]:
        """Return the random numbers for the next `count` <= `remaining` characters."""
        if self.options.temperature == 0:
            return [0.0] * count
        offset = self._taken - self._uniforms_start
        if offset + count > len(self._uniforms):
            size = min(max(count, UNIFORMS), self.remaining)
            self._uniforms = uniforms(self.request.seed, self.index, self._taken, size).tolist()
            self._uniforms_start, offset = self._taken, 0
        return self._uniforms[offset : offset + count]

    def append(self, chosen: int, logits: Floats) -> FinishReason | None:
        """Take the character of id `chosen`, sampled from logits (V,); return the finish reason, if any."""
        self.last_id = chosen
        self._taken += 1
        character = self._characters[chosen - 1]
        is_last = self._taken == self.options.max_characters
        if self.adjustment:
            self.adjustment.append(character, chosen)
        if self._sends_at_once:
            self._sent += 1
            self.request.emit(Piece(self.index, character))
            return "length" if is_last else None
        self._held.append(character)
        if self.options.logprobs is not None:
            self._described.append(self._describe(chosen, logits))
        unsettled, reason = self._ending.push(character)
        if reason:
            del self._held[len(self._held) - unsettled :]
            return reason
        if is_last:
            return "length"
        if self.options.stream:
            self._send(len(self._held) - unsettled)
        return None

    def extend(self, chosen: list[int], logits: Floats) -> FinishReason | None:
        """`take` ids (T,), sampled from logits (T, V), until all are taken or the completion finishes."""
        if self._ending.always_settled and self.options.logprobs is None:
            self.last_id = chosen[-1]
            self._taken += len(chosen)
            self._held += [self._characters[i - 1] for i in chosen]
            if self.options.stream:
                self._send(len(self._held))
            return None if self.remaining else "length"
        for an_id, step_logits in zip(chosen, logits, strict=True):
            reason = self.append(an_id, step_logits)
            if reason:
                return reason
        return None

    def is_uncertain(self, logits: Floats) -> bool:
        """Whether `until="confidence"` finishes the completion before sampling from logits (V,)."""
        return float(entropy_bits(log_softmax(logits))) > self.options.confidence_bits

    def finish(self, reason: FinishReason) -> None:
        """Send all held characters and Finished."""
        self._send(len(self._held))
        bits = max(0.0, -BITS * sum(self.logprobs[: self._sent]))
        self.request.emit(Finished(self.index, reason, bits, self._sent))

    def _send(self, count: int) -> None:
        if count <= 0:
            return
        text = "".join(self._held[:count])
        described = tuple(self._described[:count])
        del self._held[:count], self._described[:count]
        self._sent += count
        self.request.emit(Piece(self.index, text, described))

    def _describe(self, chosen: int, logits: Floats) -> CharacterLogprobs:
        logprobs = log_softmax(logits)
        top = likeliest(logprobs, self.options.logprobs) if self.options.logprobs else []
        return CharacterLogprobs(
            self._characters[chosen - 1],
            float(logprobs[chosen - 1]),
            tuple((self._characters[i - 1], logprob) for i, logprob in top),
        )
