"""What a batcher runs: a text to be read, and what is to be done with the logits after it.

A Job is read; a CompletionJob then splits into `n` Rows, each of which takes one character a step and
tells the request's listener. Only the batcher's thread touches a job after it was submitted, but for the
flags `is_cancelled` and `is_paused`.
"""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from models.runtime.decoding import (
    BITS,
    Choose,
    Ending,
    Floats,
    Sampler,
    entropy_bits,
    likeliest,
    log_softmax,
    logprobs_of,
    uniforms,
)
from models.runtime.logits_processors import adjustment_of
from models.runtime.requests import (
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
from models.runtime.session import State
from models.runtime.state_cache import Place
from models.text.vocabulary import Vocabulary

log = logging.getLogger(__name__)

FIRST_CONTEXT = "\n"
"""What an empty prompt stands for: a text begins as a line does."""


class Job(ABC):
    """A text to be read. Subclasses say what follows."""

    is_stepper = False  # it does its own steps after reading, by `advance`
    place: Place
    state: State  # (1, S) after text[:at]

    def __init__(
        self, text: str, id_of: dict[str, int], timeout_s: float | None = None, client: str = ""
    ) -> None:
        self.text = text or FIRST_CONTEXT
        self._id_of = id_of
        self.client = client
        self.number = 0  # in the order of arrival; the batcher counts
        self.is_paused = False  # set and cleared by any thread
        self.deadline = float("inf") if timeout_s is None else time.perf_counter() + timeout_s
        self.is_cancelled = False
        self.started = 0.0
        self.at = 0  # characters read or known
        self.cached = 0  # characters known from the cache

    @property
    def generation(self) -> int:
        """The most characters that may yet be generated, over all its completions."""
        return 0

    @property
    def work_left(self) -> int:
        """The most characters that may yet be read and generated."""
        return len(self.text) - self.at + self.generation

    def next_ids(self, count: int) -> list[int]:
        """Return the ids of the next `count` characters to read."""
        return self.ids(self.at, self.at + count)

    def ids(self, start: int, end: int) -> list[int]:
        """Return the ids of text[start:end]."""
        get = self._id_of.get
        return [get(character, 0) for character in self.text[start:end]]

    @abstractmethod
    def begin(self, logits: Floats, state: State) -> list["Row"]:
        """The text is read: logits (V,) and state (1, S) after it. Return the rows to generate."""

    def advance(self) -> bool:
        """Do one step of a job that `is_stepper`; return whether it is over. Without steps it is at once."""
        return True

    def row_ended(self) -> bool:
        """One of the rows has left; return whether it was the last. Without rows none is left."""
        return True

    def stop(self, reason: FinishReason) -> None:  # noqa: B027 -- not all have something to do
        """Cut the job short; `end` follows."""

    def end(self) -> None:  # noqa: B027 -- not all have something to do
        """Nothing more will happen to this job."""

    def fail(self, error: Exception) -> None:  # noqa: B027 -- not all have something to do
        """The engine broke; nothing more will happen to this job."""


class NextJob(Job):
    """Asks for the distribution after a text; `answer` is called with it or with what went wrong."""

    def __init__(
        self,
        text: str,
        vocabulary: Vocabulary,
        id_of: dict[str, int],
        answer: Callable[[Distribution | Exception], None],
        *,
        top: int,
        temperature: float,
        client: str = "",
    ) -> None:
        super().__init__(text, id_of, client=client)
        self._vocabulary, self._answer = vocabulary, answer
        self._top, self._temperature = top, temperature

    def begin(self, logits: Floats, state: State) -> list["Row"]:  # noqa: ARG002
        """Answer."""
        logprobs = log_softmax(logits, temperature=self._temperature)
        characters = self._vocabulary.characters
        candidates = tuple(
            (characters[i - 1], float(np.exp(logprob))) for i, logprob in likeliest(logprobs, self._top)
        )
        self._answer(Distribution(float(entropy_bits(logprobs)), candidates))
        return []

    def fail(self, error: Exception) -> None:
        """Hand the error over."""
        self._answer(error)


class CompletionJob(Job):
    """A completion request under way."""

    def __init__(
        self,
        request: CompletionRequest,
        vocabulary: Vocabulary,
        id_of: dict[str, int],
        on_event: OnEvent,
        *,
        seed: int,
    ) -> None:
        super().__init__(request.prompt, id_of, request.timeout_s, request.client)
        self.request, self.characters, self.seed = request, vocabulary.characters, seed
        self.is_word_character = vocabulary.is_word_character
        self._on_event = on_event
        self._rows: list[Row] = []
        self._over: set[int] = set()  # completions that have had their Finished
        self._generated = 0

    @property
    def generation(self) -> int:
        """The most characters that may yet be generated, over all its completions."""
        if self._rows:
            return sum(row.left for row in self._rows if row.index not in self._over)
        return max(self.request.n, self.request.beam or 0) * self.request.max_characters

    def emit(self, event: Event) -> None:
        """Tell the listener. One that raises has gone away: the job is cancelled."""
        if isinstance(event, Finished):
            self._over.add(event.index)
            self._generated += event.characters
        try:
            self._on_event(event)
        except Exception:  # the listener's fault must not touch the other requests
            if not self.is_cancelled:
                log.exception("a listener failed; its request is cancelled")
            self.is_cancelled = True

    def begin(self, logits: Floats, state: State) -> list["Row"]:  # noqa: ARG002
        """Split into rows."""
        self._rows = [Row(self, index) for index in range(self.request.n)]
        return self._rows

    def row_ended(self) -> bool:
        """Return whether all completions are over."""
        return len(self._over) == self.request.n

    def stop(self, reason: FinishReason) -> None:
        """Give out what there is and finish every completion that is not over."""
        for index in range(self.request.n):
            if index not in self._over:
                if self._rows:
                    self._rows[index].finish(reason)
                else:
                    self.emit(Finished(index, reason, 0.0, 0))

    def end(self) -> None:
        """Send Usage."""
        read, cached = len(self.request.prompt), min(self.cached, len(self.request.prompt))
        self.emit(Usage(read, cached, self._generated))

    def fail(self, error: Exception) -> None:
        """Send Failed in place of Usage."""
        self.emit(Failed(error))


class Row:
    """One completion: the characters it has taken, and those it may give out."""

    def __init__(self, job: CompletionJob, index: int) -> None:
        request = job.request
        self.job, self.index, self.request = job, index, request
        self.last_id = 0
        self.logprobs: list[float] = []  # natural, of the characters taken; RowSampler.settle brings them
        self._characters = job.characters
        self._ending = Ending(stop=request.stop, until=request.until, is_word_character=job.is_word_character)
        self._direct = self._ending.always_settled and request.stream and request.logprobs is None
        self._taken = 0
        self._given = 0  # characters
        self._held: list[str] = []  # taken, not given out yet
        self._described: list[CharacterLogprobs] = []  # of the held ones, when asked for
        self._uniforms: list[float] = []  # of the places from `_uniforms_from` on
        self._uniforms_from = 0
        self.no_repeat = request.no_repeat
        self.adjustment = adjustment_of(request, len(job.characters) + 1)
        self.written = job.text[-NO_REPEAT_REACH:] if request.no_repeat else ""

    def next_uniform(self) -> float:
        """Return the random number of this place."""
        if self.request.temperature == 0:
            return 0.0
        at = self._taken - self._uniforms_from
        if at < len(self._uniforms):
            return self._uniforms[at]
        return self.uniforms_ahead(1)[0]

    def uniforms_ahead(self, count: int) -> list[float]:
        """Return the random numbers of this place and the following ones, `count` <= `left` in all."""
        if self.request.temperature == 0:
            return [0.0] * count
        at = self._taken - self._uniforms_from
        if at + count > len(self._uniforms):
            size = min(max(count, UNIFORMS), self.left)
            self._uniforms = uniforms(self.job.seed, self.index, self._taken, size).tolist()
            self._uniforms_from, at = self._taken, 0
        return self._uniforms[at : at + count]

    @property
    def left(self) -> int:
        """How many characters it may take yet."""
        return self.request.max_characters - self._taken

    def take(self, chosen: int, logits: Floats) -> FinishReason | None:
        """Take the character of id `chosen`, chosen by logits (V,); return why this is the end, if it is."""
        self.last_id = chosen
        self._taken += 1
        character = self._characters[chosen - 1]
        is_last = self._taken == self.request.max_characters
        if self.no_repeat:
            self.written += character
        if self.adjustment:
            self.adjustment.count(chosen)
        if self._direct:
            self._given += 1
            self.job.emit(Piece(self.index, character))
            return "length" if is_last else None
        self._held.append(character)
        if self.request.logprobs is not None:
            self._described.append(self._describe(chosen, logits))
        unsettled, reason = self._ending.push(character)
        if reason:
            del self._held[len(self._held) - unsettled :]
            return reason
        if is_last:
            return "length"
        if self.request.stream:
            self._give(len(self._held) - unsettled)
        return None

    def take_all(self, chosen: list[int], logits: Floats) -> FinishReason | None:
        """`take` ids (T,), chosen by logits (T, V), to the end or the first reason to end."""
        if self._ending.always_settled and self.request.logprobs is None:
            characters = [self._characters[i - 1] for i in chosen]
            self.last_id = chosen[-1]
            self._taken += len(chosen)
            self._held += characters
            if self.request.stream:
                self._give(len(self._held))
            return None if self.left else "length"
        for one, row in zip(chosen, logits, strict=True):
            reason = self.take(one, row)
            if reason:
                return reason
        return None

    def is_unsure(self, logits: Floats) -> bool:
        """Whether `until="confidence"` ends the completion before a choice by logits (V,)."""
        return float(entropy_bits(log_softmax(logits))) > self.request.confidence_bits

    def finish(self, reason: FinishReason) -> None:
        """Give out all that is held, and finish."""
        self._give(len(self._held))
        bits = max(0.0, -BITS * sum(self.logprobs[: self._given]))
        self.job.emit(Finished(self.index, reason, bits, self._given))

    def _give(self, count: int) -> None:
        if count <= 0:
            return
        text = "".join(self._held[:count])
        described = tuple(self._described[:count])
        del self._held[:count], self._described[:count]
        self._given += count
        self.job.emit(Piece(self.index, text, described))

    def _describe(self, chosen: int, logits: Floats) -> CharacterLogprobs:
        logprobs = log_softmax(logits)
        top = likeliest(logprobs, self.request.logprobs) if self.request.logprobs else []
        return CharacterLogprobs(
            self._characters[chosen - 1],
            float(logprobs[chosen - 1]),
            tuple((self._characters[i - 1], logprob) for i, logprob in top),
        )


UNSETTLED_LOGITS = 1 << 16  # kept at most, 256 kB

UNIFORMS = 64  # random numbers are made this many at a time

NO_REPEAT_REACH = 1000
"""How far back from a prompt's end `no_repeat` looks, in characters."""


class RowSampler:
    """Lets the rows of a batch choose; made anew when they change, after a last `settle`."""

    def __init__(
        self, rows: Sequence[Row], vocabulary_size: int, *, choose_plain: Choose | None = None
    ) -> None:
        self._rows = rows
        self._sampler = Sampler([row.request for row in rows], vocabulary_size, choose_plain=choose_plain)
        self._careful = [i for i, row in enumerate(rows) if row.request.until == "confidence"]
        self._no_repeat = [i for i, row in enumerate(rows) if row.no_repeat]
        self._adjusted = [i for i, row in enumerate(rows) if row.adjustment]
        special = self._careful or self._no_repeat or self._adjusted
        self._lone = rows[0] if len(rows) == 1 and not special else None
        self._is_plain = self._sampler.is_plain and not special
        # Log-probabilities are worked out for many steps together: (logits (B, V), ids (B,)) of each.
        self._unsettled: list[tuple[Floats, list[int]]] = []
        self._most_unsettled = max(1, UNSETTLED_LOGITS // (len(rows) * vocabulary_size))

    def choose(self, logits: Floats) -> list[int]:
        """Every row takes a character by logits (B, V); return the places of those that are over."""
        if self._lone:
            return self._choose_alone(self._lone, logits)
        rows = self._rows
        unsure = {i for i in self._careful if rows[i].is_unsure(logits[i])}
        permitted = self._adjust(logits) if self._adjusted else logits
        permitted = self._without_repeats(permitted) if self._no_repeat else permitted
        ids = self._sampler.choose(permitted, [row.next_uniform() for row in rows])
        self._unsettled.append((logits, ids))
        over: dict[int, FinishReason] = {}
        for i, row in enumerate(rows):
            reason = "confidence" if i in unsure else row.take(ids[i], logits[i])
            if reason:
                over[i] = reason
        if over or len(self._unsettled) >= self._most_unsettled:
            self.settle()
        for i, reason in over.items():
            rows[i].finish(reason)
        return list(over)

    def _choose_alone(self, row: Row, logits: Floats) -> list[int]:
        """The same for the most common batch, one plain row, at half the time."""
        ids = self._sampler.choose(logits, [row.next_uniform()])
        self._unsettled.append((logits, ids))
        reason = row.take(ids[0], logits[0])
        if reason:
            self.settle()
            row.finish(reason)
            return [0]
        if len(self._unsettled) >= self._most_unsettled:
            self.settle()
        return []

    # When the network chooses as well, several characters at a time.

    @property
    def most_ahead(self) -> int:
        """How many characters the network may choose for every row before anybody looks at them."""
        if not self._is_plain:
            return 0
        return min(self._most_unsettled, *[row.left for row in self._rows])

    def sampling(self, count: int) -> tuple[Floats, NDArray[np.float64]]:
        """Return what choosing `count` characters takes: sharpness (B,) and uniforms (count, B)."""
        ahead = [row.uniforms_ahead(count) for row in self._rows]
        return self._sampler.sharpness, np.array(ahead, np.float64).reshape(len(ahead), count).T.copy()

    def take_ahead(self, logits: Floats, chosen: NDArray[np.int32]) -> list[int]:
        """Every row takes chosen (T, B), by logits (T, B, V); return the places of those that are over."""
        self._unsettled += zip(logits, chosen.tolist(), strict=True)
        over: dict[int, FinishReason] = {}
        for i, (row, ids) in enumerate(zip(self._rows, chosen.T.tolist(), strict=True)):
            reason = row.take_all(ids, logits[:, i])
            if reason:
                over[i] = reason
        if over or len(self._unsettled) >= self._most_unsettled:
            self.settle()
        for i, reason in over.items():
            self._rows[i].finish(reason)
        return list(over)

    def settle(self) -> None:
        """Bring the rows' log-probabilities up to date."""
        if not self._unsettled:
            return
        logits = np.array([logits for logits, _ in self._unsettled])  # (N, B, V)
        logprobs = logprobs_of(logits, np.array([ids for _, ids in self._unsettled]))
        for row, row_logprobs in zip(self._rows, logprobs.T.tolist(), strict=True):
            row.logprobs += row_logprobs
        self._unsettled = []

    def _adjust(self, logits: Floats) -> Floats:
        logits = logits.copy()
        for i in self._adjusted:
            adjustment = self._rows[i].adjustment
            if adjustment:
                logits[i] = adjustment.apply(logits[i])
        return logits

    def _without_repeats(self, logits: Floats) -> Floats:
        logits = logits.copy()
        for i in self._no_repeat:
            row = self._rows[i]
            banned = repeats(row.written, row.no_repeat or 0)
            ids = [n for n, character in enumerate(row.job.characters, 1) if character in banned]
            if len(ids) < len(row.job.characters):
                logits[i, ids] = -np.inf
        return logits


def repeats(text: str, length: int) -> set[str]:
    """Return the characters after which the last `length` characters of `text` were there before.

    >>> sorted(repeats("abcab", 3)), sorted(repeats("xaxbx", 2))
    (['c'], ['a', 'b'])
    """
    if len(text) < length:
        return set()
    end = text[len(text) - length + 1 :]
    found, at = set(), text.find(end)
    while 0 <= at < len(text) - len(end):
        found.add(text[at + len(end)])
        at = text.find(end, at + 1)
    return found
