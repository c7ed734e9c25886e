"""POST /v1/completions: OpenAI's shape on the same engine; its unmodified SDKs complete with it.

A request may have many prompts; each is one completion of ours, some of them under way at a time. Echoed
log-probabilities are those of the network that reads the prompt from its first character on, so the first has
none: the same as /score gives to a text behind its first character.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import anyio
import numpy as np
from fastapi import APIRouter, Path, Request, Response

from app.compat.bad_request import NOT_422, OpenAIRoute
from app.compat.fim import unwrap
from app.http.access import model_or_default
from app.http.dependencies import Services, ServicesDep, client_of
from app.http.disconnects import cancel_on_disconnect
from app.http.errors import error_responses
from app.http.event_streams import Events, EventStream, ServerEvent
from app.schemas.openai import (
    EXAMPLE,
    CachedTokens,
    Logprobs,
    OpenAIChoice,
    OpenAICompletion,
    OpenAICompletionCreate,
    OpenAIUsage,
)
from app.services.completion import Completing, Completion, check_size, described, prepare, write
from app.services.engines import Engines, Loaded
from app.services.limited_work import Check, LimitedWork
from models.errors import InvalidInput
from models.runtime.requests import (
    CharacterLogprobs,
    CompletionRequest,
    Event,
    Finished,
    FinishReason,
    Piece,
    Usage,
)
from models.text.vocabulary import Vocabulary

router = APIRouter(tags=["openai"], route_class=OpenAIRoute)

AT_A_TIME = 16
"""So many prompts of one request are under way at a time, so that others find places."""

_UNKNOWN = "\uffff"
"""Stands for id 0 in a prompt of ids: no text has it, for it is no character."""

_QUEUED_EVENTS = 64  # of a stream of several prompts, between the engine and the client

_SEEDS = 2**63

_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "With `stream` chunks of this shape, each a server-sent event; the last is `[DONE]`.",
        "content": {
            "application/json": {"example": EXAMPLE},
            "text/event-stream": {
                "schema": {"type": "string"},
                "example": 'data: {"object":"text_completion","choices":[{"index":0,"text":"t"}]}\n\n',
            },
        },
    },
}


@dataclass(frozen=True)
class _Prompt:
    """One prompt, ready to be read; `echoed` is what choices begin with, where that is asked for."""

    characters: str
    unknown: list[str]
    echoed: str = ""
    echoed_logprobs: Logprobs | None = None


@dataclass(frozen=True)
class _Asked:
    """A request with its defaults filled in, and the model that answers it."""

    body: OpenAICompletionCreate
    loaded: Loaded
    client: str
    prompts: Sequence[_Prompt]
    n: int
    max_tokens: int
    id: str
    created: int

    def answer(self, choices: list[OpenAIChoice], usage: OpenAIUsage | None) -> OpenAICompletion:
        model = self.loaded.reference
        return OpenAICompletion(
            id=self.id,
            created=self.created,
            model=model,
            system_fingerprint=model,
            choices=choices,
            usage=usage,
        )


@router.post(
    "/v1/completions",
    response_model=OpenAICompletion,
    responses=_ANSWER | NOT_422 | error_responses(404, 413, 415, 429, 503),
)
async def create_completion(
    services: ServicesDep, request: Request, body: OpenAICompletionCreate
) -> Response:
    """Go on from one prompt or several, in OpenAI's shape. A token is a character."""
    return await _complete(services, request, body, body.model)


@router.post(
    "/v1/models/{model}/v1/completions",
    response_model=OpenAICompletion,
    responses=_ANSWER | NOT_422 | error_responses(404, 413, 415, 429, 503),
)
async def create_completion_with_model(
    services: ServicesDep,
    request: Request,
    body: OpenAICompletionCreate,
    model: Annotated[str, Path(max_length=128, description="Wins over the body's.")],
) -> Response:
    """Do the same with the model in the path, for clients with one base address and no say in the rest."""
    return await _complete(services, request, body, model)


async def _complete(
    services: Services, request: Request, body: OpenAICompletionCreate, model: str
) -> Response:
    if body.suffix:
        raise InvalidInput(
            "these models read forwards only and cannot fill in before a suffix; leave it out",
            code="suffix_not_supported",
            param="suffix",
        )
    model = await model_or_default(services, request, model)
    async with holding(services, model) as loaded:
        asking = _asked(body, loaded, services.describing, client_of(request))
        is_described = body.echo and body.logprobs is not None
        asked = await (cancel_on_disconnect(request, asking) if is_described else asking)
        if body.stream:
            started = _start_all(services.engines, asked)
            return EventStream(_stream(asked, started), on_close=lambda: _close(started), named=False)
        found = await cancel_on_disconnect(request, _collect(services.engines, asked))
    made = [completion for completions, _ in found for completion in completions]
    echoed = sum(len(prompt.characters) for prompt in asked.prompts) * asked.n if body.echo else 0
    content = await write(partial(_answer, asked, found), made, logprobs=body.logprobs, echoed=echoed)
    return Response(content, media_type="application/json")


@asynccontextmanager
async def holding(services: Services, model: str) -> AsyncIterator[Loaded]:
    """Hold a loaded model; it is loaded beside the event loop if need be. Raises as `Engines.use`."""
    loaded = await services.engines.take_async(model)
    try:
        yield loaded
    finally:
        services.engines.give_back(loaded)


# From the body to what the engine is asked


async def _asked(
    body: OpenAICompletionCreate, loaded: Loaded, describing: LimitedWork, client: str
) -> _Asked:
    n = 1 if body.n is None else body.n
    max_tokens = 16 if body.max_tokens is None else body.max_tokens
    given = _given(body)
    check = partial(
        check_size,
        n=n,
        generated=len(given) * max(n, body.best_of or 0) * max_tokens,
        echo=bool(body.echo),
        logprobs=body.logprobs,
    )
    check([*map(len, given)])
    if body.echo and body.logprobs is not None:
        # A character of the text may be several of the model.
        to_characters = loaded.vocabulary.to_characters
        check([len(to_characters(one) if isinstance(one, str) else one) for one in given])
    return _Asked(
        body=body,
        loaded=loaded,
        client=client,
        prompts=[await _prompt(one, body, loaded, describing) for one in given],
        n=n,
        max_tokens=max_tokens,
        id=f"cmpl-{secrets.token_hex(12)}",
        created=int(time.time()),
    )


def _given(body: OpenAICompletionCreate) -> Sequence[str | list[int]]:
    prompt = body.prompt or ""
    if isinstance(prompt, str):
        return [prompt]
    one = [an_id for an_id in prompt if isinstance(an_id, int)]
    return [one] if one else [each for each in prompt if not isinstance(each, int)]


async def _prompt(
    given: str | list[int], body: OpenAICompletionCreate, loaded: Loaded, describing: LimitedWork
) -> _Prompt:
    vocabulary = loaded.vocabulary
    if isinstance(given, str):
        characters, unknown = await prepare(unwrap(given), vocabulary)
    else:
        characters, unknown = await anyio.to_thread.run_sync(characters_of, given, vocabulary), []
    if not body.echo:
        return _Prompt(characters, unknown)
    text = vocabulary.to_text(characters.replace(_UNKNOWN, "\ufffd"))
    if body.logprobs is None:
        return _Prompt(characters, unknown, text)
    logprobs = await _described(characters, body.logprobs, loaded, describing)
    return _Prompt(characters, unknown, text, logprobs)


def characters_of(ids: Sequence[int], vocabulary: Vocabulary, *, param: str = "prompt") -> str:
    """Return the characters of ids; id 0 becomes one that no model knows.

    Raises:
        InvalidInput: an id is not one of this vocabulary's.
    """
    largest = int(np.max(ids, initial=0))
    if largest >= len(vocabulary):
        raise InvalidInput(
            f"{param} has the id {largest}; this model's characters have ids from 0, unknown, to"
            f" {len(vocabulary) - 1}",
            code="unknown_id",
            param=param,
        )
    known = _UNKNOWN + vocabulary.characters
    return "".join([known[an_id] for an_id in ids])


async def _described(characters: str, top: int, loaded: Loaded, describing: LimitedWork) -> Logprobs:
    """The prompt's own log-probabilities. Nothing precedes its first character, which has none."""
    if not characters:
        return Logprobs(tokens=[], token_logprobs=[], top_logprobs=[] if top else None, text_offset=[])
    return await described(describing, len(characters), partial(_describe, characters, top, loaded))


def _describe(characters: str, top: int, loaded: Loaded, check: Check) -> Logprobs:
    first, rest = characters[0], characters[1:]
    characters_there = loaded.engine.describe(rest, top=top, context=first, check=check)
    found = _logprobs(characters_there, loaded.vocabulary, top, start=1)
    return Logprobs(
        tokens=[_token(first, loaded.vocabulary), *found.tokens],
        token_logprobs=[None, *found.token_logprobs],
        top_logprobs=None if found.top_logprobs is None else [None, *found.top_logprobs],
        text_offset=[0, *found.text_offset],
    )


def _request(asked: _Asked, prompt: _Prompt) -> CompletionRequest:
    body = asked.body
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    return CompletionRequest(
        prompt=prompt.characters,
        max_characters=asked.max_tokens,
        n=max(asked.n, body.best_of or 0),
        temperature=1.0 if body.temperature is None else body.temperature,
        top_k=body.top_k,
        top_p=None if body.top_p is None else body.top_p,
        min_p=body.min_p,
        seed=None if body.seed is None else body.seed % _SEEDS,
        stop=tuple(map(asked.loaded.vocabulary.to_characters, stop)),
        until=body.until,
        logprobs=body.logprobs,
        stream=bool(body.stream),
        client=asked.client,
        timeout_s=None if body.timeout_ms is None else body.timeout_ms / 1000,
        precision=body.precision,
        logit_bias=_bias(body.logit_bias or {}),
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
    )


def _bias(given: dict[str, float]) -> tuple[tuple[int, float], ...]:
    found = []
    for name, bias in given.items():
        if not (name.isascii() and name.isdecimal()):
            raise InvalidInput(
                f"logit_bias has the key {name[:40]!r}; keys are character ids, as /tokenize has them",
                param="logit_bias",
            )
        if not -100 <= bias <= 100:
            raise InvalidInput("a bias in logit_bias is from -100 to 100", param="logit_bias")
        found.append((int(name[:12]), bias))
    return tuple(found)


# Running it


def _start(engines: Engines, asked: _Asked, prompt: _Prompt) -> Completing:
    loaded = engines.hold_again(asked.loaded)
    try:
        keep = asked.n if asked.body.best_of is not None else None
        return Completing(engines, loaded, _request(asked, prompt), prompt.unknown, keep=keep)
    except BaseException:
        engines.give_back(loaded)
        raise


def _start_all(engines: Engines, asked: _Asked) -> list[Completing]:
    """Start every prompt of a stream: what goes wrong at the start must do so before its head is sent."""
    started: list[Completing] = []
    try:
        started.extend(_start(engines, asked, p) for p in asked.prompts if asked.max_tokens)
    except BaseException:
        _close(started)
        raise
    return started


def _close(started: Sequence[Completing]) -> None:
    for completing in started:
        completing.close()


_Found = list[tuple[list[Completion], Usage]]


async def _collect(engines: Engines, asked: _Asked) -> _Found:
    """Return what each prompt's completions are."""
    places = asyncio.Semaphore(AT_A_TIME)

    async def complete(prompt: _Prompt) -> tuple[list[Completion], Usage]:
        if not asked.max_tokens:
            nothing = Completion("", "length", 0.0, 0, ())
            return [nothing] * asked.n, Usage(len(prompt.characters), 0, 0)
        async with places:
            with _start(engines, asked, prompt) as completing:
                return await completing.completions()

    if len(asked.prompts) == 1:
        return [await complete(asked.prompts[0])]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(complete(prompt)) for prompt in asked.prompts]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]


def _answer(asked: _Asked, found: _Found) -> str:
    choices = [
        _choice(asked, prompt, i * asked.n + j, completion)
        for i, (prompt, (completions, _)) in enumerate(zip(asked.prompts, found, strict=True))
        for j, completion in enumerate(completions)
    ]
    return asked.answer(choices, _usage([usage for _, usage in found])).model_dump_json()


def _choice(asked: _Asked, prompt: _Prompt, index: int, completion: Completion) -> OpenAIChoice:
    vocabulary, top = asked.loaded.vocabulary, asked.body.logprobs
    logprobs = None
    if top is not None:
        logprobs = _logprobs(completion.logprobs, vocabulary, top, start=len(prompt.characters))
        logprobs = _joined(prompt.echoed_logprobs, logprobs)
    return OpenAIChoice(
        index=index,
        text=prompt.echoed + vocabulary.to_text(completion.text),
        finish_reason=_reason(completion.reason),
        logprobs=logprobs,
    )


async def _stream(asked: _Asked, started: Sequence[Completing]) -> Events:
    spent: list[Usage] = []
    for choice in _first_chunks(asked):
        yield ServerEvent("", asked.answer([choice], None))
    if not started:
        spent = [Usage(len(prompt.characters), 0, 0) for prompt in asked.prompts]
    chunks = _Chunks(asked)
    async for place, event in _merged(started):
        if isinstance(event, Usage):
            spent.append(event)
        elif isinstance(event, Piece | Finished):
            for choice in chunks.of(place, event):
                yield ServerEvent("", asked.answer([choice], None))
    if asked.body.stream_options and asked.body.stream_options.include_usage:
        yield ServerEvent("", asked.answer([], _usage(spent)))
    yield ServerEvent("", "[DONE]")


def _first_chunks(asked: _Asked) -> list[OpenAIChoice]:
    """What is known before anything is generated: the echoed prompts, or that nothing follows."""
    reason = None if asked.max_tokens else _reason("length")
    return [
        OpenAIChoice(
            index=i * asked.n + j,
            text=prompt.echoed,
            finish_reason=reason,
            logprobs=prompt.echoed_logprobs,
        )
        for i, prompt in enumerate(asked.prompts)
        for j in range(asked.n)
        if prompt.echoed or reason
    ]


class _Chunks:
    """Turns a stream's events into chunks; remembers how far each choice has come."""

    def __init__(self, asked: _Asked) -> None:
        self._asked = asked
        vocabulary, count = asked.loaded.vocabulary, len(asked.prompts) * asked.n
        self._decoders = [vocabulary.text_decoder() for _ in range(count)]
        self._at = [len(prompt.characters) for prompt in asked.prompts for _ in range(asked.n)]

    def of(self, place: int, event: Piece | Finished) -> list[OpenAIChoice]:
        """Return the chunk of an event of the prompt at `place`, if there is something to tell."""
        index = place * self._asked.n + event.index
        if isinstance(event, Finished):
            rest = self._decoders[index].feed("", final=True)
            return [OpenAIChoice(index=index, text=rest, finish_reason=_reason(event.reason))]
        text, logprobs, top = self._decoders[index].feed(event.text), None, self._asked.body.logprobs
        if top is not None:
            logprobs = _logprobs(event.logprobs, self._asked.loaded.vocabulary, top, start=self._at[index])
            self._at[index] += len(event.logprobs)
        return [OpenAIChoice(index=index, text=text, logprobs=logprobs)] if text or logprobs else []


async def _merged(started: Sequence[Completing]) -> AsyncGenerator[tuple[int, Event], None]:
    """Yield (which, event) of all of them as they come. Raises what broke the engine."""
    if len(started) == 1:
        async for event in started[0].events():
            yield 0, event
        return
    # Bounded, so that a prompt whose events are not read is paused.
    arrived: asyncio.Queue[tuple[int, Event | Exception]] = asyncio.Queue(_QUEUED_EVENTS)

    async def pump(place: int, completing: Completing) -> None:
        try:
            async for event in completing.events():
                await arrived.put((place, event))
        except Exception as error:  # noqa: BLE001  raised where the events are read
            await arrived.put((place, error))

    pumps = [asyncio.create_task(pump(place, completing)) for place, completing in enumerate(started)]
    left = len(started)
    try:
        while left:
            place, found = await arrived.get()
            if isinstance(found, Exception):
                raise found
            left -= isinstance(found, Usage)
            yield place, found
    finally:
        for task in pumps:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*pumps, return_exceptions=True)


# From what the engine tells to OpenAI's shape


def _logprobs(
    found: Sequence[CharacterLogprobs], vocabulary: Vocabulary, top: int, *, start: int
) -> Logprobs:
    """Return OpenAI's form; the character itself is among the likeliest even where it was not."""
    tops: list[dict[str, float] | None] = [
        {_token(c, vocabulary): p for c, p in one.top} | {_token(one.character, vocabulary): one.logprob}
        for one in found
        if top
    ]
    return Logprobs(
        tokens=[_token(one.character, vocabulary) for one in found],
        token_logprobs=[one.logprob for one in found],
        top_logprobs=tops if top else None,
        text_offset=list(range(start, start + len(found))),
    )


def _token(character: str, vocabulary: Vocabulary) -> str:
    return "\ufffd" if character == _UNKNOWN else vocabulary.label(character)


def _joined(first: Logprobs | None, then: Logprobs) -> Logprobs:
    if first is None:
        return then
    tops = None
    if first.top_logprobs is not None and then.top_logprobs is not None:
        tops = first.top_logprobs + then.top_logprobs
    return Logprobs(
        tokens=first.tokens + then.tokens,
        token_logprobs=first.token_logprobs + then.token_logprobs,
        top_logprobs=tops,
        text_offset=first.text_offset + then.text_offset,
    )


def _reason(reason: FinishReason) -> Any:
    """Return OpenAI's word: `stop` for an end that was asked for, `length` for one that was not its end."""
    return "length" if reason in ("length", "timeout", "cancelled") else "stop"


def _usage(spent: Sequence[Usage]) -> OpenAIUsage:
    prompts = sum(usage.prompt_characters for usage in spent)
    written = sum(usage.completion_characters for usage in spent)
    cached = sum(usage.cached_characters for usage in spent)
    return OpenAIUsage(
        prompt_tokens=prompts,
        completion_tokens=written,
        total_tokens=prompts + written,
        prompt_tokens_details=CachedTokens(cached_tokens=cached),
    )
