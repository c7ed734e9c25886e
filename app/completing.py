"""One completion on a loaded model, as events on the event loop. Knows no HTTP.

The engine answers from its own thread; here its events become an async sequence, and closing that
sequence early frees the engine's slot.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Self

import anyio

from app.engines import Engines, Loaded
from app.schemas.completions import CompletionCreate
from models.runtime.requests import CompletionRequest, Event, Failed, Usage
from models.vocabulary import Vocabulary, normalize

_INLINE_CHARACTERS = 20_000  # a longer prompt is prepared off the event loop


class Completing:
    """A completion under way, on a model that is held for it.

    Use as a context manager, or call `close` when done with it, however it ended. `unknown` lists the
    prompt's characters that the model has never seen.
    """

    def __init__(
        self,
        engines: Engines,
        loaded: Loaded,
        request: CompletionRequest,
        unknown: list[str],
    ) -> None:
        """Start it; takes the caller's hold on `loaded` over. Raises Busy, and the hold is the caller's."""
        self.model = loaded.reference
        self.unknown = unknown
        self._engines, self._loaded = engines, loaded
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._ticket = loaded.engine.complete(request, self._hand_over)

    def _hand_over(self, event: Event) -> None:
        """Called in the engine's thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: the application has ended
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    async def events(self) -> AsyncGenerator[Event, None]:
        """Yield the engine's events; the last is a Usage. Raises what broke the engine."""
        while True:
            event = await self._events.get()
            if isinstance(event, Failed):
                raise event.error
            yield event
            if isinstance(event, Usage):
                return

    def close(self) -> None:
        """Free the engine's slot, if it is not free yet, and let go of the model."""
        if not self._closed:
            self._closed = True
            self._ticket.cancel()
            self._engines.give_back(self._loaded)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


async def start(engines: Engines, model: str, body: CompletionCreate) -> Completing:
    """Start completing on `model`. Raises NotFound, Unavailable or Busy; nothing is left behind then."""
    loaded = engines.take_if_ready(model)
    if loaded is None:
        loaded = await anyio.to_thread.run_sync(engines.take, model)
    try:
        prompt, unknown = await prepare(body.prompt, loaded.vocabulary)
        return Completing(engines, loaded, _request(prompt, body), unknown)
    except BaseException:
        engines.give_back(loaded)
        raise


async def prepare(text: str, vocabulary: Vocabulary) -> tuple[str, list[str]]:
    """Return `text` in NFC and its characters that are not in the vocabulary."""
    if len(text) <= _INLINE_CHARACTERS:
        return _prepared(text, vocabulary)
    return await anyio.to_thread.run_sync(_prepared, text, vocabulary)


def _prepared(text: str, vocabulary: Vocabulary) -> tuple[str, list[str]]:
    text = normalize(text)
    return text, vocabulary.unknown(text)


def _request(prompt: str, body: CompletionCreate) -> CompletionRequest:
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    return CompletionRequest(
        prompt=prompt,
        max_characters=body.max_characters,
        n=body.n,
        temperature=body.temperature,
        top_k=body.top_k,
        top_p=body.top_p,
        min_p=body.min_p,
        seed=body.seed,
        stop=tuple(map(normalize, stop)),
        until=body.until,
        confidence_bits=body.confidence_bits,
        logprobs=body.logprobs,
        stream=body.stream,
        timeout_s=body.timeout_ms / 1000 if body.timeout_ms is not None else None,
    )
