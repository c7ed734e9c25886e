"""/v1/models/{model}/complete and /next: going on from a prompt."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.requests import ClientDisconnect

from app.http.bodies import DocumentRoute
from app.http.dependencies import ServicesDep, client_of
from app.http.disconnects import cancel_on_disconnect
from app.http.errors import error_responses
from app.http.event_streams import Events, EventStream, ServerEvent
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
from app.services.completion import Cancelled, Completing, Completion, predict, prepare, start, write
from models.runtime.requests import CharacterLogprobs, Finished, Piece, Usage
from models.text.vocabulary import TextDecoder, Vocabulary

router = APIRouter(prefix="/v1/models", tags=["inference"], route_class=DocumentRoute)

_SHORT_PROMPT = 10_000  # characters, which are read whether their client has gone or not

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
    responses=_COMPLETION_ANSWER | error_responses(400, 404, 413, 415, 422, 429, 503),
)
async def complete(services: ServicesDep, request: Request, model: str, body: CompletionCreate) -> Response:
    """Go on from a prompt, `n` times. Characters the model has never seen are read as unknown and named."""
    starting = start(services.engines, services.describing, model, body, client=client_of(request))
    is_described = body.echo and body.logprobs is not None
    completing = await (cancel_on_disconnect(request, starting) if is_described else starting)
    if body.stream:
        return EventStream(_stream(completing), on_close=completing.close)
    with completing:
        completions, usage = await _unless_gone(request, completing)
    # Written here, not checked and copied by the framework first: that takes longer than the rest.
    answer = partial(_answer, completing, completions, usage, body)
    return Response(await write(answer, completions, logprobs=body.logprobs), media_type="application/json")


@router.post("/{model}/next", responses=error_responses(400, 404, 413, 415, 422, 429, 503))
async def next_character(
    services: ServicesDep, request: Request, model: str, body: NextCreate
) -> DistributionBody:
    """Get the distribution of the character after a prompt."""
    loaded = await services.engines.take_async(model)
    try:
        prompt, unknown = await prepare(body.prompt, loaded.vocabulary)
        predicting = predict(
            loaded, prompt, top=body.top, temperature=body.temperature, client=client_of(request)
        )
        is_long = len(prompt) > _SHORT_PROMPT
        found = await (cancel_on_disconnect(request, predicting) if is_long else predicting)
    finally:
        services.engines.give_back(loaded)
    label = loaded.vocabulary.label
    return DistributionBody(
        model=loaded.reference,
        entropy_bits=found.entropy_bits,
        candidates=[CandidateBody(character=label(c), probability=p) for c, p in found.candidates],
        unknown_characters=unknown,
    )


async def _unless_gone(request: Request, completing: Completing) -> tuple[list[Completion], Usage]:
    """Give it up as soon as the client is gone. Raises ClientDisconnect then."""
    # The body has been read, so the next message can only be that the client has gone.
    leaving = asyncio.ensure_future(request.receive())
    leaving.add_done_callback(lambda _: completing.give_up())
    try:
        return await completing.completions()
    except Cancelled:
        raise ClientDisconnect from None
    finally:
        leaving.cancel()


def _answer(
    completing: Completing, completions: Sequence[Completion], usage: Usage, body: CompletionCreate
) -> str:
    answer = CompletionBody(
        model=completing.model,
        completions=[
            CompletionChoice(
                index=index,
                text=completing.vocabulary.to_text(one.text),
                finish_reason=one.reason,
                bits=one.bits,
                logprobs=_logprobs(one.logprobs, completing.vocabulary)
                if body.logprobs is not None
                else None,
            )
            for index, one in enumerate(completions)
        ],
        usage=_usage(usage),
        unknown_characters=completing.unknown,
    )
    return answer.model_dump_json()


async def _stream(completing: Completing) -> Events:
    vocabulary = completing.vocabulary
    decoders: defaultdict[int, TextDecoder] = defaultdict(vocabulary.text_decoder)  # one a completion
    async for event in completing.events():
        match event:
            case Piece():
                text = decoders[event.index].feed(event.text)
                logprobs = _logprobs(event.logprobs, vocabulary) or None
                if text or logprobs:  # a byte alone may be no text yet
                    yield ServerEvent("piece", PieceBody(index=event.index, text=text, logprobs=logprobs))
            case Finished():
                if rest := decoders[event.index].feed("", final=True):
                    yield ServerEvent("piece", PieceBody(index=event.index, text=rest, logprobs=None))
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


def _logprobs(found: tuple[CharacterLogprobs, ...], vocabulary: Vocabulary) -> list[LogprobBody]:
    label = vocabulary.label
    return [
        LogprobBody(
            character=label(one.character),
            logprob=one.logprob,
            top=[AlternativeBody(character=label(c), logprob=p) for c, p in one.top],
        )
        for one in found
    ]


def _usage(usage: Usage) -> UsageBody:
    return UsageBody(
        prompt_characters=usage.prompt_characters,
        cached_characters=usage.cached_characters,
        completion_characters=usage.completion_characters,
    )
