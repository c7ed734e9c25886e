"""One completion on a loaded model: from a request's body to its answer. Knows no HTTP.

The engine answers from its own thread. A stream hears of every event; a plain answer wakes the event loop
once, when all is there. Letting go early frees the engine's slot.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self, TypeVar

import anyio

from app.schemas.completions import CompletionCreate
from app.services.engines import Engines, Loaded
from app.services.limited_work import Check, LimitedWork
from models.errors import InvalidInput
from models.runtime.engine import Ticket
from models.runtime.requests import (
    CharacterLogprobs,
    CompletionRequest,
    Distribution,
    Event,
    Failed,
    Finished,
    FinishReason,
    Piece,
    Usage,
)
from models.text.vocabulary import Vocabulary

T = TypeVar("T")

_INLINE_CHARACTERS = 200_000  # a longer prompt is prepared off the event loop, piece by piece
_PIECE_CHARACTERS = 50_000
_INLINE_LOGPROBS = 2_000  # more are written off the event loop

STREAM_S = 1e-3
"""A stream brings what is there this often, while more comes: some characters at a time of a fast network."""

MAX_DESCRIBED_CHARACTERS = 50_000
"""The longest prompt that is echoed with log-probabilities."""

_SHORT_DESCRIBED_CHARACTERS = 2_000  # a prompt that is described at once

MAX_LOGPROBS = 300_000
"""The most log-probabilities in one answer. A hundred bytes each, they would else be gigabytes."""

MAX_UNREAD_EVENTS = 1_000
"""A stream whose client has this many events to read is paused: nothing more is generated for it."""

MAX_ECHOED_CHARACTERS = 2_000_000
"""The most that is echoed in one answer: the prompts, `n` times."""


class Cancelled(Exception):
    """Nobody waits for the completion any more."""


@dataclass(frozen=True)
class Completion:
    """One completion that is over; `text` and `logprobs` begin with the prompt where it is echoed.

    All is in the vocabulary's characters; its `to_text` and `label` make of them what people read.
    """

    text: str
    reason: FinishReason
    bits: float
    characters: int
    logprobs: tuple[CharacterLogprobs, ...]


class Completing:
    """A completion under way, on a model that is held for it.

    Use as a context manager, or call `close` when done with it, however it ended. `unknown` lists the
    prompt's characters that the model has never seen; `echoed` is what every completion begins with.
    """

    def __init__(
        self,
        engines: Engines,
        loaded: Loaded,
        request: CompletionRequest,
        unknown: list[str],
        *,
        echoed: Piece | None = None,
        keep: int | None = None,
    ) -> None:
        """Start it, to keep the likeliest `keep` completions of a plain answer; None keeps all.

        Takes the caller's hold on `loaded` over. Raises InvalidInput or Busy, and the hold is the caller's.
        """
        self.model = loaded.reference
        self.vocabulary = loaded.vocabulary
        self.unknown = unknown
        self.echoed = echoed
        self._keep, self._n = keep, request.n
        self._engines, self._loaded = engines, loaded
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._arrived: deque[Event] = deque()
        self._ready = asyncio.Event()
        self._is_waking = False
        self._is_given_up = False
        self._is_paused = False
        self._woken_at_s = 0.0
        self._tells_all = request.stream
        self._ticket: Ticket | None = None  # events may come before it does
        self._ticket = loaded.engine.complete(request, self._hand_over)

    def _hand_over(self, event: Event) -> None:
        """Called in the engine's thread."""
        self._arrived.append(event)
        if self._is_unread() and self._ticket:
            self._ticket.pause()
            self._is_paused = True  # only now, for the event loop resumes what it finds paused
        elif not isinstance(event, Usage | Failed):
            # Waking the loop takes longer than a character: what follows at once comes with the next.
            now = time.perf_counter()
            if not self._tells_all or now - self._woken_at_s < STREAM_S:
                return
            self._woken_at_s = now
        if not self._is_waking:
            self._is_waking = True  # before the loop has looked, there is no use in waking it again
            with contextlib.suppress(RuntimeError):  # the loop is closed: the application has ended
                self._loop.call_soon_threadsafe(self._wake)

    def _is_unread(self) -> bool:
        return self._tells_all and not self._is_paused and len(self._arrived) > MAX_UNREAD_EVENTS

    def _wake(self) -> None:
        self._is_waking = False  # and only then look at what has arrived
        self._ready.set()

    async def events(self) -> AsyncGenerator[Event, None]:
        """Yield the engine's events; the last is a Usage. Raises what broke the engine."""
        if self.echoed:
            for index in range(self._n):
                yield replace(self.echoed, index=index)
        while True:
            await self._ready.wait()
            self._ready.clear()
            for event in _merged(self._arrived):
                if isinstance(event, Failed):
                    raise event.error
                yield event
                if isinstance(event, Usage):
                    return
            if self._is_paused and self._ticket:
                self._is_paused = False
                self._ticket.resume()

    async def completions(self) -> tuple[list[Completion], Usage]:
        """Return all completions, when all is over. Raises Cancelled, or what broke the engine."""
        pieces: list[list[Piece]] = [[self.echoed] if self.echoed else [] for _ in range(self._n)]
        finished: dict[int, Finished] = {}
        while True:
            await self._ready.wait()
            self._ready.clear()
            if self._is_given_up:
                raise Cancelled
            while self._arrived:
                event = self._arrived.popleft()
                if isinstance(event, Piece):
                    pieces[event.index].append(event)
                elif isinstance(event, Finished):
                    finished[event.index] = event
                elif isinstance(event, Failed):
                    raise event.error
                else:
                    return self._best([_completion(pieces[i], finished[i]) for i in range(self._n)]), event

    def give_up(self) -> None:
        """Make `completions` raise Cancelled, if it waits."""
        self._is_given_up = True
        self._ready.set()

    def close(self) -> None:
        """Free the engine's slot, if it is not free yet, and let go of the model."""
        if not self._closed:
            self._closed = True
            if self._ticket:
                self._ticket.cancel()
            self._engines.give_back(self._loaded)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _best(self, completions: list[Completion]) -> list[Completion]:
        if self._keep is None:
            return completions
        return sorted(completions, key=lambda c: c.bits / max(1, c.characters))[: self._keep]


def _merged(arrived: deque[Event]) -> Iterator[Event]:
    """Take everything out of `arrived`, the pieces of one completion as one."""
    pieces: dict[int, list[Piece]] = {}
    while arrived:
        event = arrived.popleft()
        if isinstance(event, Piece):
            pieces.setdefault(event.index, []).append(event)
        else:
            yield from map(_join, pieces.values())
            pieces.clear()
            yield event
    yield from map(_join, pieces.values())


def _join(pieces: list[Piece]) -> Piece:
    if len(pieces) == 1:
        return pieces[0]
    logprobs = tuple(one for piece in pieces for one in piece.logprobs)
    return Piece(pieces[0].index, "".join(piece.text for piece in pieces), logprobs)


def _completion(pieces: list[Piece], end: Finished) -> Completion:
    text = "".join([piece.text for piece in pieces])
    logprobs = tuple(one for piece in pieces for one in piece.logprobs)
    return Completion(text, end.reason, end.bits, end.characters, logprobs)


async def start(
    engines: Engines, describing: LimitedWork, model: str, body: CompletionCreate, *, client: str = ""
) -> Completing:
    """Start completing on `model`, for a client with which others share it.

    A long prompt echoed with log-probabilities is work of `describing`.

    Nothing is left behind when this raises InvalidInput, NotFound, Unavailable or Busy. A `timeout_ms`
    counts from here, so that it includes loading the model.
    """
    began_s = time.perf_counter()
    check(body)
    loaded = await engines.take_async(model)
    try:
        prompt, unknown = await prepare(body.prompt, loaded.vocabulary)
        if body.echo:
            check(body, prompt_characters=len(prompt))  # a character of the text may be several of the model
        echoed = await _echo(describing, loaded, prompt, body.logprobs) if body.echo else None
        spent_s = time.perf_counter() - began_s
        request = _request(prompt, body, loaded.vocabulary, spent_s=spent_s, client=client)
        keep = body.n if body.best_of is not None else None
        return Completing(engines, loaded, request, unknown, echoed=echoed, keep=keep)
    except BaseException:
        engines.give_back(loaded)
        raise


def check(body: CompletionCreate, *, prompt_characters: int | None = None) -> None:
    """Raise InvalidInput for options that contradict each other, naming both; the engine checks the rest.

    `prompt_characters` is how many the prompt has for the model, once that is known.
    """
    best_of = body.best_of
    if best_of is not None:
        if best_of < body.n:
            raise InvalidInput("best_of, how many are made to choose from, is less than n", param="best_of")
        if body.beam is not None:
            raise InvalidInput("best_of cannot be used with beam: that searches for it", param="best_of")
        if body.stream:
            raise InvalidInput("best_of cannot be used with stream: the best is known last", param="best_of")
    if body.beam is None and "length_penalty" in body.model_fields_set:
        raise InvalidInput("length_penalty is for beam, which is not given", param="length_penalty")
    check_size(
        [len(body.prompt) if prompt_characters is None else prompt_characters],
        n=body.n,
        generated=max(body.n, best_of or 0) * body.max_characters,
        echo=body.echo,
        logprobs=body.logprobs,
    )


def check_size(prompts: Sequence[int], *, n: int, generated: int, echo: bool, logprobs: int | None) -> None:
    """Raise InvalidInput where the answer to prompts of these lengths would be too large to make."""
    echoed = n * sum(prompts) if echo else 0
    if echoed > MAX_ECHOED_CHARACTERS:
        raise InvalidInput(
            f"echo would repeat prompt n times, more than {MAX_ECHOED_CHARACTERS:,} characters", param="echo"
        )
    if logprobs is None:
        return
    if echo and max(prompts) > MAX_DESCRIBED_CHARACTERS:
        raise InvalidInput(
            f"echo with logprobs takes a prompt of at most {MAX_DESCRIBED_CHARACTERS:,} characters",
            param="echo",
        )
    wanted = (echoed + generated) * (1 + logprobs)
    if wanted > MAX_LOGPROBS:
        raise InvalidInput(
            f"logprobs asks for {1 + logprobs} log-probabilities of each character, which may become"
            f" {wanted:,}; one answer has at most {MAX_LOGPROBS:,}",
            param="logprobs",
        )


async def _echo(describing: LimitedWork, loaded: Loaded, prompt: str, logprobs: int | None) -> Piece:
    if logprobs is None:
        return Piece(0, prompt)

    def describe(check: Check) -> list[CharacterLogprobs]:
        return loaded.engine.describe(prompt, top=logprobs, check=check)

    return Piece(0, prompt, tuple(await described(describing, len(prompt), describe)))


async def described(describing: LimitedWork, characters: int, describe: Callable[[Check], T]) -> T:
    """Return what `describe` returns of a prompt: a long one waits for its turn. Raises Busy."""
    if characters <= _SHORT_DESCRIBED_CHARACTERS:
        return await anyio.to_thread.run_sync(describe, lambda: None)
    return await describing.run(describe)


async def predict(loaded: Loaded, prompt: str, *, top: int, temperature: float, client: str) -> Distribution:
    """Return the distribution after a prompt. Holds no thread meanwhile. Raises Busy or Unavailable."""
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[Distribution] = loop.create_future()

    def settle(found: Distribution | Exception) -> None:
        if answered.cancelled():
            return
        if isinstance(found, Exception):
            answered.set_exception(found)
        else:
            answered.set_result(found)

    def hand_over(found: Distribution | Exception) -> None:
        """Called in the engine's thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: the application has ended
            loop.call_soon_threadsafe(settle, found)

    ticket = loaded.engine.predict(prompt, hand_over, top=top, temperature=temperature, client=client)
    try:
        return await answered
    except asyncio.CancelledError:
        ticket.cancel()
        raise


async def write(
    answer: Callable[[], str], completions: Iterable[Completion], *, logprobs: int | None, echoed: int = 0
) -> str:
    """Return what `answer` returns, which is run beside the event loop where it has much to write."""
    if logprobs is None:
        return answer()
    told = (echoed + sum(len(completion.logprobs) for completion in completions)) * (1 + logprobs)
    return answer() if told <= _INLINE_LOGPROBS else await anyio.to_thread.run_sync(answer)


async def prepare(text: str, vocabulary: Vocabulary) -> tuple[str, list[str]]:
    """Return `text` as characters, and what to call those that are not in the vocabulary."""
    if len(text) <= _INLINE_CHARACTERS:
        text = vocabulary.to_characters(text)
        unknown = vocabulary.unknown(text)
    else:
        text, unknown = await anyio.to_thread.run_sync(_prepare_in_pieces, text, vocabulary)
    return text, list(map(vocabulary.label, unknown))


def _prepare_in_pieces(text: str, vocabulary: Vocabulary) -> tuple[str, list[str]]:
    """Do the same in small pieces: each call keeps the interpreter, and so the event loop, while it lasts."""
    pieces: list[str] = []
    unknown: set[str] = set()
    start = 0
    while start < len(text):
        end = _safe_cut(text, start + _PIECE_CHARACTERS)
        pieces.append(vocabulary.to_characters(text[start:end]))
        unknown.update(vocabulary.unknown(pieces[-1]))
        start = end
    return "".join(pieces), sorted(unknown)


def _safe_cut(text: str, at: int) -> int:
    """Return the first place from `at` on where both sides can be normalized alone: before an ASCII one.

    ASCII characters combine with nothing before them. Where none comes soon there is no cut.
    """
    while at < len(text) and text[at] > "\x7f":
        at += 1
    return min(at, len(text))


def _request(
    prompt: str, body: CompletionCreate, vocabulary: Vocabulary, *, spent_s: float, client: str
) -> CompletionRequest:
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    return CompletionRequest(
        prompt=prompt,
        max_characters=body.max_characters,
        n=body.n if body.best_of is None else body.best_of,
        temperature=body.temperature,
        top_k=body.top_k,
        top_p=body.top_p,
        min_p=body.min_p,
        seed=body.seed,
        stop=tuple(map(vocabulary.to_characters, stop)),
        until=body.until,
        confidence_bits=body.confidence_bits,
        logprobs=body.logprobs,
        stream=body.stream,
        timeout_s=None if body.timeout_ms is None else max(0.0, body.timeout_ms / 1000 - spent_s),
        client=client,
        precision=body.precision,
        beam=body.beam,
        length_penalty=body.length_penalty,
        no_repeat=body.no_repeat,
    )
