"""/infill, /health and /props as llama.vim and llama.vscode ask for them.

The models read forwards, so a completion goes on from the lines before the cursor and the cursor's own, up
to its end: ghost text for one line. What follows the cursor, and what editors gather from other files, is not
read.
"""

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from zlib import crc32

from fastapi import APIRouter, Path, Query, Request, Response

from app.compat.fim import unwrap
from app.compat.openai_completions import holding
from app.http.access import model_or_default
from app.http.bodies import DocumentRoute
from app.http.dependencies import Services, ServicesDep, client_of
from app.http.disconnects import cancel_on_disconnect
from app.http.errors import error_responses
from app.http.event_streams import Events, EventStream, ServerEvent
from app.schemas.completions import MAX_PROMPT_CHARACTERS
from app.schemas.llama_cpp import (
    EXAMPLE,
    MAX_PREDICT,
    GenerationSettings,
    Health,
    Infill,
    InfillCreate,
    InfillPiece,
    Props,
    Timings,
)
from app.services.completion import Completing, prepare
from app.services.engines import Loaded
from models.runtime.batcher import ROWS
from models.runtime.requests import CompletionRequest, Finished, Piece, Usage
from models.text.vocabulary import TextDecoder, Vocabulary

router = APIRouter(tags=["llama.cpp"], route_class=DocumentRoute)

ENOUGH_CHARACTERS = 1000
"""At least so much of a long prefix is read, and less than twice as much."""

_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "With `stream` server-sent events of pieces; the last is the whole answer, less its"
        " text. With `response_fields` those alone.",
        "content": {
            "application/json": {"example": EXAMPLE},
            "text/event-stream": {
                "schema": {"type": "string"},
                "example": 'data: {"index":0,"content":"q","stop":false}\n\n',
            },
        },
    },
}

ModelInQuery = Annotated[
    str, Query(max_length=128, description="`name` or `name@version`; left out, the default model.")
]
ModelInPath = Annotated[str, Path(max_length=128, description="`name` or `name@version`.")]


@router.get("/health", responses=error_responses())
async def llama_cpp_health() -> Health:
    """Say that the process lives, where llama.cpp's clients look."""
    return Health()


@router.get("/props", responses=error_responses(404, 422, 503))
async def llama_cpp_props(services: ServicesDep, request: Request, model: ModelInQuery = "") -> Props:
    """Get what llama.cpp's clients want to know of a server and its model."""
    return await _props(services, request, model)


@router.get("/v1/models/{model}/props", responses=error_responses(404, 422, 503))
async def llama_cpp_props_of_model(services: ServicesDep, request: Request, model: ModelInPath) -> Props:
    """Get the same of one model, for clients that put /props behind a base address."""
    return await _props(services, request, model)


@router.get("/v1/models/{model}/health", responses=error_responses(404, 422, 503))
async def llama_cpp_health_of_model(services: ServicesDep, request: Request, model: ModelInPath) -> Health:
    """Say that a model is there and loads, for clients that put /health behind a base address."""
    await _props(services, request, model)
    return Health()


@router.post(
    "/infill", response_model=Infill, responses=_ANSWER | error_responses(400, 404, 413, 415, 422, 429, 503)
)
async def infill(
    services: ServicesDep, request: Request, body: InfillCreate, model: ModelInQuery = ""
) -> Response:
    """Complete the line at the cursor, as llama.cpp's editor plug-ins ask for it."""
    return await _infill(services, request, body, model)


@router.post(
    "/v1/models/{model}/infill",
    response_model=Infill,
    responses=_ANSWER | error_responses(400, 404, 413, 415, 422, 429, 503),
)
async def infill_with_model(
    services: ServicesDep, request: Request, body: InfillCreate, model: ModelInPath
) -> Response:
    """Do the same with one model, for editors that put /infill behind a base address."""
    return await _infill(services, request, body, model)


@dataclass
class _Written:
    """What has come of a completion so far. Times are those of `time.perf_counter`."""

    began_s: float
    first_s: float | None = None
    text: str = ""
    reason: str = "timeout"
    usage: Usage | None = None


async def _props(services: Services, request: Request, model: str) -> Props:
    name = await model_or_default(services, request, model)
    async with holding(services, name) as loaded:
        return Props(
            default_generation_settings=GenerationSettings(
                n_ctx=MAX_PROMPT_CHARACTERS, n_predict=MAX_PREDICT
            ),
            total_slots=ROWS,
            model_alias=loaded.reference,
            model_path=loaded.reference,
            build_info="nextchar",
        )


async def _infill(services: Services, request: Request, body: InfillCreate, model: str) -> Response:
    name = await model_or_default(services, request, model or body.model)
    before = unwrap(body.prompt) if body.prompt and not body.input_prefix else body.input_prefix + body.prompt
    prefix = recent(before)
    truncated = len(prefix) < len(before)
    async with holding(services, name) as loaded:
        written = _Written(time.perf_counter())
        characters, unknown = await prepare(prefix, loaded.vocabulary)
        wanted = _request(body, characters, loaded, client_of(request))
        held = services.engines.hold_again(loaded)
        try:
            completing = Completing(services.engines, held, wanted, unknown)
        except BaseException:
            services.engines.give_back(held)
            raise
        if body.stream:
            stream = _stream(completing, loaded.vocabulary, body, written, truncated=truncated)
            return EventStream(stream, on_close=completing.close, named=False)
        with completing:
            await cancel_on_disconnect(request, _write(completing, loaded.vocabulary, body, written))
    return _answer(body, _infilled(written, loaded.reference, body, truncated=truncated))


def recent(text: str) -> str:
    r"""Return the end of a long text from a line's start on: the same start while one types on.

    States are remembered by what has been read from a text's start. Editors send a window of lines that moves
    with the cursor, so its start is no good: of the lines at the right distance, the one with the smallest
    hash stays the smallest for many lines to come (winnowing; Schleimer, Wilkerson and Aiken 2003).
    """
    if len(text) <= 2 * ENOUGH_CHARACTERS:
        return text
    window = text[-2 * ENOUGH_CHARACTERS : -ENOUGH_CHARACTERS]
    lines = window.split("\n")[1:]  # the first may have lost its beginning
    if not lines:
        return text
    hashes = [crc32(line.encode("utf-8", "surrogatepass")) for line in lines[:-1]] or [0]
    place = hashes.index(min(hashes))
    return text[len(text) - ENOUGH_CHARACTERS - len("\n".join(lines[place:])) :]


def _request(body: InfillCreate, characters: str, loaded: Loaded, client: str) -> CompletionRequest:
    wanted = MAX_PREDICT if body.n_predict < 0 else min(body.n_predict, MAX_PREDICT)
    return CompletionRequest(
        prompt=characters,
        max_characters=max(1, wanted),  # reading needs something to be read for
        temperature=body.temperature or 0.0,
        top_k=body.top_k if body.top_k and body.top_k > 0 else None,
        top_p=body.top_p or None,
        min_p=body.min_p,
        seed=body.seed if body.seed is not None and body.seed >= 0 else None,
        stop=tuple(map(loaded.vocabulary.to_characters, body.stop)),
        until="line",
        stream=True,
        client=client,
    )


async def _write(
    completing: Completing, vocabulary: Vocabulary, body: InfillCreate, written: _Written
) -> None:
    """Gather what is written until it ends or its time is over."""
    async for _ in _pieces(completing, vocabulary.text_decoder(), body, written):
        pass


async def _pieces(
    completing: Completing, decoder: TextDecoder, body: InfillCreate, written: _Written
) -> Events:
    """Yield what is written, as it comes, and note it; end when its time is over."""
    events = completing.events()
    limit_ms = body.t_max_prompt_ms
    deadline_s = written.began_s + limit_ms / 1000 if limit_ms else None
    while True:
        left_s = None if deadline_s is None else deadline_s - time.perf_counter()
        try:
            event = await asyncio.wait_for(anext(events), left_s)
        except (TimeoutError, StopAsyncIteration):
            break
        if isinstance(event, Finished):
            written.reason = event.reason
        elif isinstance(event, Usage):
            written.usage = event
            break
        elif isinstance(event, Piece):
            if written.first_s is None:
                written.first_s = time.perf_counter()
                limit_ms = body.t_max_predict_ms
                deadline_s = written.first_s + limit_ms / 1000 if limit_ms else None
            text = decoder.feed(event.text) if body.n_predict else ""
            written.text += text
            if text:
                yield ServerEvent("", InfillPiece(content=text))


async def _stream(
    completing: Completing, vocabulary: Vocabulary, body: InfillCreate, written: _Written, *, truncated: bool
) -> Events:
    async for event in _pieces(completing, vocabulary.text_decoder(), body, written):
        yield event
    ended = _infilled(written, completing.model, body, truncated=truncated)
    yield ServerEvent("", ended.model_copy(update={"content": ""}))


def _infilled(written: _Written, model: str, body: InfillCreate, *, truncated: bool) -> Infill:
    now_s = time.perf_counter()
    first_s = now_s if written.first_s is None else written.first_s
    count = written.usage.completion_characters if written.usage and body.n_predict else len(written.text)
    read = written.usage.prompt_characters if written.usage else 0
    cached = written.usage.cached_characters if written.usage else 0
    stop_type: Literal["limit", "word"] = "word" if written.reason in ("line", "stop") else "limit"
    return Infill(
        content=written.text,
        stop_type=stop_type,
        model=model,
        tokens_predicted=count,
        tokens_evaluated=read,
        tokens_cached=cached,
        truncated=truncated,
        timings=Timings(
            cache_n=cached,
            prompt_n=read - cached,
            **_times("prompt", first_s - written.began_s, read - cached),
            predicted_n=count,
            **_times("predicted", now_s - first_s, count),
        ),
    )


def _times(what: str, seconds: float, count: int) -> dict[str, Any]:
    return {
        f"{what}_ms": round(seconds * 1000, 3),
        f"{what}_per_token_ms": round(seconds * 1000 / max(1, count), 4),
        f"{what}_per_second": round(count / max(seconds, 1e-6), 1),
    }


def _answer(body: InfillCreate, infilled: Infill) -> Response:
    if body.response_fields is None:
        return Response(infilled.model_dump_json(), media_type="application/json")
    # llama.cpp answers timings/prompt_n under that very name.
    whole: dict[str, Any] = infilled.model_dump(exclude={"timings"})
    whole |= {f"timings/{name}": value for name, value in infilled.timings.model_dump().items()}
    whole["timings"] = infilled.timings.model_dump()
    chosen = {name: whole[name] for name in body.response_fields if name in whole}
    # llama.vim looks for `"content":"`, with no space.
    return Response(json.dumps(chosen, separators=(",", ":")), media_type="application/json")
