"""/v1/models/{model}/complete and /next: completions of a prompt and the next character's distribution."""

from collections import defaultdict
from collections.abc import Sequence
from functools import partial

from fastapi import APIRouter, Request, Response

from nextchar.app.completions.completion import RunningCompletion, result_of
from nextchar.app.completions.requests import LONG_PROMPT_CHARACTERS, prepare, serialize, start_completion
from nextchar.app.completions.schemas import (
    EXAMPLE,
    AlternativeBody,
    CompletionBody,
    CompletionChoice,
    CompletionCreate,
    CompletionEnd,
    DistributionBody,
    FinishedBody,
    LogprobBody,
    NextCreate,
    PieceBody,
)
from nextchar.app.http.bodies import DocumentRoute
from nextchar.app.http.errors import error_responses
from nextchar.app.http.event_streams import Events, EventStream, ServerEvent, stream_responses
from nextchar.app.http.rules import needs
from nextchar.app.http.services import ServicesDep, arrived_s_of, caller_of, cancel_on_disconnect
from nextchar.app.models.engines import Engines
from nextchar.app.room import Room
from nextchar.models.runtime.requests import (
    CandidateBody,
    CharacterLogprobs,
    Completion,
    Finished,
    Piece,
    Usage,
)
from nextchar.models.text.vocabulary import TextDecoder, Vocabulary

router = APIRouter(prefix="/v1/models", tags=["inference"], route_class=DocumentRoute)

_ERRORS = error_responses(400, 404, 413, 415, 422, 429, 503)
_COMPLETION_RESPONSE = stream_responses(
    "With `stream` the events `piece`, `finished` (one per completion) and `done`.",
    EXAMPLE,
    'event: piece\ndata: {"index": 0, "text": "t", "logprobs": null}\n\n',
)


@router.post("/{model}/complete", response_model=CompletionBody, responses=_COMPLETION_RESPONSE | _ERRORS)
@needs("complete")
async def complete(services: ServicesDep, request: Request, model: str, body: CompletionCreate) -> Response:
    """Complete a prompt `n` times. Characters outside the vocabulary are read as unknown and listed."""
    starting = start_completion(
        services[Engines],
        services.pools,
        model,
        body,
        caller=caller_of(request),
        arrived_s=arrived_s_of(request),
    )
    is_slow = len(body.prompt) > LONG_PROMPT_CHARACTERS or (body.echo and body.logprobs is not None)
    running = await (cancel_on_disconnect(request, starting) if is_slow else starting)
    if body.stream:
        return EventStream(_stream(running), on_close=running.close)
    with running:
        completions, usage = await cancel_on_disconnect(request, running.completions())
    # Serialized here: FastAPI's validation and copy of the response would take longer than everything else.
    to_json = partial(_to_json, running, completions, usage, body)
    content = await serialize(to_json, completions, logprobs=body.logprobs)
    return Response(content, media_type="application/json")


@router.post("/{model}/next", responses=_ERRORS)
@needs("complete")
async def next_character(
    services: ServicesDep, request: Request, model: str, body: NextCreate
) -> DistributionBody:
    """Get the distribution of the character after a prompt."""
    async with services[Engines].use_async(model) as loaded:
        is_long = len(body.prompt) > LONG_PROMPT_CHARACTERS  # is cancelled when its client disconnects
        preparing = prepare(body.prompt, loaded, services.pools)
        prompt, unknown = await (cancel_on_disconnect(request, preparing) if is_long else preparing)
        predict = partial(loaded.engine.predict, prompt, top=body.top, temperature=body.temperature)
        predicting = result_of(partial(predict, caller=caller_of(request), expert=body.expert))
        distribution = await (cancel_on_disconnect(request, predicting) if is_long else predicting)
    label = loaded.vocabulary.label
    return DistributionBody(
        model=loaded.reference,
        early=loaded.is_early,
        entropy_bits=distribution.entropy_bits,
        candidates=[CandidateBody(character=label(c), probability=p) for c, p in distribution.candidates],
        unknown_characters=unknown,
    )


def _to_json(
    running: RunningCompletion, completions: Sequence[Completion], usage: Usage, body: CompletionCreate
) -> str:
    response = CompletionBody(
        model=running.model,
        early=running.is_early,
        completions=[
            CompletionChoice(
                index=index,
                text=running.vocabulary.to_text(completion.text),
                finish_reason=completion.reason,
                bits=completion.bits,
                logprobs=_logprobs(completion.logprobs, running.vocabulary)
                if body.logprobs is not None
                else None,
            )
            for index, completion in enumerate(completions)
        ],
        usage=usage,
        unknown_characters=running.unknown,
    )
    return response.model_dump_json()


async def _stream(running: RunningCompletion) -> Events:
    vocabulary = running.vocabulary
    decoders: defaultdict[int, TextDecoder] = defaultdict(vocabulary.text_decoder)  # one per completion
    async for event in running.events():
        match event:
            case Piece():
                text = decoders[event.index].feed(event.text)
                logprobs = _logprobs(event.logprobs, vocabulary) or None
                if text or logprobs:  # a byte may be the beginning of a character
                    yield ServerEvent("piece", PieceBody(index=event.index, text=text, logprobs=logprobs))
            case Finished():
                if rest := decoders[event.index].feed("", final=True):
                    yield ServerEvent("piece", PieceBody(index=event.index, text=rest, logprobs=None))
                finished = FinishedBody(
                    index=event.index,
                    finish_reason=event.reason,
                    bits=event.bits,
                    characters=event.characters,
                )
                yield ServerEvent("finished", finished)
            case Usage():
                end = CompletionEnd(
                    model=running.model,
                    early=running.is_early,
                    usage=event,
                    unknown_characters=running.unknown,
                )
                yield ServerEvent("done", end)


def _logprobs(logprobs: tuple[CharacterLogprobs, ...], vocabulary: Vocabulary) -> list[LogprobBody]:
    label = vocabulary.label
    return [
        LogprobBody(
            character=label(entry.character),
            logprob=entry.logprob,
            top=[AlternativeBody(character=label(c), logprob=p) for c, p in entry.top],
        )
        for entry in logprobs
    ]


COMPLETIONS = Room("completions", routers=(router,), is_called_at_keystrokes=True)
