"""/v1/models/{model}/complete and /next: going on from a prompt."""

import asyncio
import contextlib
from collections.abc import Coroutine
from functools import partial
from typing import Any, TypeVar

import anyio
from fastapi import APIRouter, Request, Response
from starlette.requests import ClientDisconnect

from app.completing import Completing, start
from app.deps import PartsDep
from app.engines import Engines
from app.errors import refusals
from app.schemas.completions import (
    EXAMPLE,
    AlternativeBody,
    CandidateBody,
    CompletionBody,
    CompletionChoice,
    CompletionCreate,
    CompletionEnd,
    DistributionBody,
    FinishedBody,
    LogprobBody,
    NextCreate,
    PieceBody,
    UsageBody,
)
from app.streaming import Events, EventStream, ServerEvent
from models.runtime.requests import CharacterLogprobs, Finished, Piece, Usage
from models.vocabulary import normalize

router = APIRouter(prefix="/v1/models", tags=["inference"])

T = TypeVar("T")

_COMPLETION_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "With `stream` the events `piece`, `finished` (one a completion) and `done`.",
        "content": {
            "application/json": {"example": EXAMPLE},
            "text/event-stream": {
                "schema": {"type": "string"},
                "example": 'event: piece\ndata: {"index": 0, "text": "t", "logprobs": null}\n\n',
            },
        },
    },
}


@router.post(
    "/{model}/complete",
    response_model=CompletionBody,
    responses=_COMPLETION_ANSWER | refusals(400, 404, 413, 415, 422, 429, 503),
)
async def complete(
    parts: PartsDep, request: Request, model: str, body: CompletionCreate
) -> Response | CompletionBody:
    """Go on from a prompt, `n` times. Characters the model has never seen are read as unknown and named."""
    completing = await start(parts.engines, model, body)
    if body.stream:
        return EventStream(_stream(completing), on_close=completing.close)
    with completing:
        return await _unless_gone(request, _collect(completing, body))


@router.post("/{model}/next", responses=refusals(400, 404, 413, 415, 422, 429, 503))
async def next_character(parts: PartsDep, model: str, body: NextCreate) -> DistributionBody:
    """Get the distribution of the character after a prompt."""
    return await anyio.to_thread.run_sync(
        partial(_next, parts.engines, model, body), limiter=parts.engine_threads
    )


def _next(engines: Engines, model: str, body: NextCreate) -> DistributionBody:
    prompt = normalize(body.prompt)
    with engines.use(model) as loaded:
        found = loaded.engine.next(prompt, top=body.top, temperature=body.temperature)
    return DistributionBody(
        model=loaded.reference,
        entropy_bits=found.entropy_bits,
        candidates=[CandidateBody(character=c, probability=p) for c, p in found.candidates],
        unknown_characters=loaded.vocabulary.unknown(prompt),
    )


async def _collect(completing: Completing, body: CompletionCreate) -> CompletionBody:
    texts: list[list[str]] = [[] for _ in range(body.n)]
    logprobs: list[list[LogprobBody]] = [[] for _ in range(body.n)]
    finished: dict[int, Finished] = {}
    usage: Usage | None = None
    async for event in completing.events():
        match event:
            case Piece():
                texts[event.index].append(event.text)
                logprobs[event.index] += _logprobs(event.logprobs)
            case Finished():
                finished[event.index] = event
            case Usage():
                usage = event
    assert usage is not None and len(finished) == body.n, "an engine finishes every completion"
    return CompletionBody(
        model=completing.model,
        completions=[
            CompletionChoice(
                index=index,
                text="".join(texts[index]),
                finish_reason=finished[index].reason,
                bits=finished[index].bits,
                logprobs=logprobs[index] if body.logprobs is not None else None,
            )
            for index in range(body.n)
        ],
        usage=_usage(usage),
        unknown_characters=completing.unknown,
    )


async def _stream(completing: Completing) -> Events:
    async for event in completing.events():
        match event:
            case Piece():
                logprobs = _logprobs(event.logprobs) or None
                yield ServerEvent(
                    "piece",
                    PieceBody(index=event.index, text=event.text, logprobs=logprobs),
                )
            case Finished():
                ended = FinishedBody(
                    index=event.index,
                    finish_reason=event.reason,
                    bits=event.bits,
                    characters=event.characters,
                )
                yield ServerEvent("finished", ended)
            case Usage():
                end = CompletionEnd(
                    model=completing.model,
                    usage=_usage(event),
                    unknown_characters=completing.unknown,
                )
                yield ServerEvent("done", end)


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` returns; give it up as soon as the client is gone. Raises ClientDisconnect then."""
    working = asyncio.ensure_future(work)
    # The body has been read, so the next message can only be that the client has gone.
    leaving = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait((working, leaving))


def _logprobs(found: tuple[CharacterLogprobs, ...]) -> list[LogprobBody]:
    return [
        LogprobBody(
            character=one.character,
            logprob=one.logprob,
            top=[AlternativeBody(character=c, logprob=p) for c, p in one.top],
        )
        for one in found
    ]


def _usage(usage: Usage) -> UsageBody:
    return UsageBody(
        prompt_characters=usage.prompt_characters,
        cached_characters=usage.cached_characters,
        completion_characters=usage.completion_characters,
    )
