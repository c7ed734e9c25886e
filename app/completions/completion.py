"""A completion in progress on a loaded model, between the engine's thread and the event loop.

A stream gets every event. A plain response wakes the event loop once, when everything has been generated.
Closing early frees the engine's slot.
"""

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import replace
from typing import Self, TypeVar

from nextchar.app.models.engines import Engines, Loaded
from nextchar.models.runtime.engine import Ticket
from nextchar.models.runtime.requests import (
    Completion,
    CompletionCollector,
    CompletionRequest,
    Event,
    Failed,
    Piece,
    Usage,
    join,
)

T = TypeVar("T")

STREAM_S = 1e-3
"""The shortest time between two wake-ups of a stream; a fast network generates several characters in it."""

MAX_UNREAD_EVENTS = 1_000
"""A stream with more unread events than this is paused: its client reads too slowly."""


class RunningCompletion:
    """A completion in progress, on a model that is retained for it.

    Use as a context manager, or call `close` when done, however it ended. `unknown` lists the prompt's
    characters that are not in the vocabulary; `echoed` is the beginning of every completion.
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
        """Start it; a plain response keeps the `keep` likeliest completions, or all if None.

        Raises:
            InvalidInput, Busy, Unavailable: as `Engine.complete`; nothing is retained then.
        """
        self.model, self.is_early = loaded.reference, loaded.is_early
        self.vocabulary = loaded.vocabulary
        self.unknown = unknown
        self.echoed = echoed
        self._keep, self._n = keep, request.n
        self._engines, self._loaded = engines, engines.retain(loaded)
        self._is_closed = False
        self._loop = asyncio.get_running_loop()
        self._arrived: deque[Event] = deque()
        self._ready = asyncio.Event()
        self._is_waking = False
        self._is_paused = False
        self._woken_at_s = 0.0
        self._is_stream = request.stream
        self._started_s = time.perf_counter()
        self._has_begun = False  # to generate
        self._ticket: Ticket | None = None  # events may arrive before it is assigned
        try:
            self._ticket = loaded.engine.complete(request, self._on_event)
        except BaseException:
            self.close()
            raise

    def _on_event(self, event: Event) -> None:
        """Called in the engine's thread."""
        self._arrived.append(event)
        if not self._has_begun and isinstance(event, Piece):
            self._has_begun = True
            self._engines.first_character_s.observe(time.perf_counter() - self._started_s)
        is_behind = self._is_stream and not self._is_paused and len(self._arrived) > MAX_UNREAD_EVENTS
        if is_behind and self._ticket:
            self._ticket.pause()
            self._is_paused = True  # after pausing, because the event loop resumes what is marked as paused
        elif not isinstance(event, Usage | Failed):
            # Waking the loop takes longer than a character: events that follow at once share a wake-up.
            now = time.perf_counter()
            if not self._is_stream or now - self._woken_at_s < STREAM_S:
                return
            self._woken_at_s = now
        if not self._is_waking:
            self._is_waking = True  # until the loop has run, further wake-ups are redundant
            with contextlib.suppress(RuntimeError):  # the loop is closed: the application has stopped
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._is_waking = False  # before the arrived events are read
        self._ready.set()

    async def events(self) -> AsyncGenerator[Event, None]:
        """Yield the engine's events; the last is a Usage. Raises the error that stopped the engine."""
        if self.echoed:
            for index in range(self._n):
                yield replace(self.echoed, index=index)
        while True:
            await self._ready.wait()
            self._ready.clear()
            for event in _merge_pieces(self._arrived):
                if isinstance(event, Failed):
                    raise event.error
                yield event
                if isinstance(event, Usage):
                    return
            if self._is_paused and self._ticket:
                self._is_paused = False
                self._ticket.resume()

    async def completions(self) -> tuple[list[Completion], Usage]:
        """Wait until all completions are finished; return them. Raises the error that stopped the engine."""
        collector = CompletionCollector(self._n, echoed=self.echoed)
        while True:
            await self._ready.wait()
            self._ready.clear()
            while self._arrived:
                if usage := collector.add(self._arrived.popleft()):
                    return self._best(collector.completions()), usage

    def close(self) -> None:
        """Cancel what is still generated and release the model."""
        if not self._is_closed:
            self._is_closed = True
            if self._ticket:
                self._ticket.cancel()
            self._engines.release(self._loaded)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _best(self, completions: list[Completion]) -> list[Completion]:
        if self._keep is None:
            return completions
        return sorted(completions, key=_mean_bits)[: self._keep]


def _mean_bits(completion: Completion) -> float:
    """Return the bits per character; infinity for an empty text, which has no mean."""
    return completion.bits / completion.characters if completion.characters else math.inf


def _merge_pieces(arrived: deque[Event]) -> Iterator[Event]:
    """Empty `arrived`; yield its events, with adjacent pieces of one completion joined."""
    pieces: dict[int, list[Piece]] = {}
    while arrived:
        event = arrived.popleft()
        if isinstance(event, Piece):
            pieces.setdefault(event.index, []).append(event)
        else:
            yield from map(join, pieces.values())
            pieces.clear()
            yield event
    yield from map(join, pieces.values())


async def result_of(start: Callable[[Callable[[T | Exception], None]], Ticket]) -> T:
    """Return what the engine gives to the callback that `start` passes to it, or raise its error.

    If the task is cancelled, so is the request. Raises what `start` raises, such as Busy.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def set_result(result: T | Exception) -> None:
        if future.cancelled():
            return
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)

    def on_result(result: T | Exception) -> None:
        """Called in the engine's thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: the application has stopped
            loop.call_soon_threadsafe(set_result, result)

    ticket = start(on_result)
    try:
        return await future
    except asyncio.CancelledError:
        ticket.cancel()
        raise
