"""/infill, /health and /props as llama.vim and llama.vscode call them, and conversion to ids.

A completion continues the text before the cursor up to the end of the line. The text after the cursor decides
between several candidates. What editors collect from other files is read before the text, newest last, as far
as the model's history goes.

/tokenizer_info, /tokenize and /detokenize have the shapes of vLLM and llama.cpp. lm-evaluation-harness's
`local-completions` uses them to get token ids. It cannot name a model in these calls, so each also exists
below /v1/models/{model}, and so does /v1/completions: with `base_url=…/v1/models/NAME/v1/completions` all of
the harness's requests go to one model.
"""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from zlib import crc32

from fastapi import APIRouter, Request, Response

from nextchar.app.access.permissions import ModelReference
from nextchar.app.completions.completion import RunningCompletion
from nextchar.app.completions.requests import (
    LONG_PROMPT_CHARACTERS,
    InfillingCompletion,
    prepare,
    run_completion,
    suffix_of,
)
from nextchar.app.completions.schemas import MAX_PROMPT_CHARACTERS
from nextchar.app.http.bodies import DocumentRoute
from nextchar.app.http.errors import error_responses
from nextchar.app.http.event_streams import Events, EventStream, ServerEvent, stream_responses
from nextchar.app.http.rules import needs, needs_no_key
from nextchar.app.http.services import Services, ServicesDep, caller_of, cancel_on_disconnect
from nextchar.app.http.threads import run_in_thread
from nextchar.app.models.engines import Engines, Loaded
from nextchar.app.models.names import model_or_default
from nextchar.app.openai.llama_cpp_schemas import (
    EXAMPLE,
    MAX_PREDICT,
    DetokenizeCreate,
    Detokenized,
    GenerationSettings,
    Infill,
    InfillCreate,
    InfillFields,
    InfillPiece,
    Props,
    Timings,
    TokenizeCreate,
    TokenizerInfo,
    Tokens,
)
from nextchar.app.openai.requests import characters_of, unwrap
from nextchar.app.operations.readiness import Alive
from nextchar.models.kernels.mixture_arguments import KEY_CHARACTERS
from nextchar.models.runtime.decode import MAX_BATCH
from nextchar.models.runtime.requests import Caller, CompletionRequest, Finished, Piece, Usage
from nextchar.models.text.vocabulary import Vocabulary

router = APIRouter(tags=["llama.cpp"], route_class=DocumentRoute)

MIN_CONTEXT_CHARACTERS = 1000
"""At least this many characters of a longer prefix are read, and less than twice as many.

With texts of other files it is half as many.
"""

EXTRA_CHARACTERS = KEY_CHARACTERS - MIN_CONTEXT_CHARACTERS
"""At most this many characters of other files are read: what the model then still finds by all contexts."""

_RESPONSE = stream_responses(
    "With `stream` server-sent events of pieces; the last is the whole response without its text. With"
    " `response_fields` only those fields.",
    EXAMPLE,
    'data: {"index":0,"content":"q","stop":false}\n\n',
)
_ERRORS = error_responses(400, 404, 413, 415, 422, 429, 503)
_READ_ERRORS = error_responses(404, 422, 503)

tokenizer_router = APIRouter(tags=["OpenAI"], route_class=DocumentRoute)


@router.get("/health", responses=error_responses())
@needs_no_key
async def llama_cpp_health() -> Alive:
    """Report that the process is running, at llama.cpp's path."""
    return Alive()


@router.get("/v1/models/{model}/health", responses=_READ_ERRORS)
@needs("read")
async def llama_cpp_health_of_model(services: ServicesDep, request: Request, model: ModelReference) -> Alive:
    """Report that a model can be loaded, for clients that append /health to a base URL."""
    await llama_cpp_props(services, request, model)
    return Alive()


@router.get("/props", responses=_READ_ERRORS)
@router.get("/v1/models/{model}/props", responses=_READ_ERRORS, name="llama_cpp_props_of_model")
@needs("read", "complete")
async def llama_cpp_props(services: ServicesDep, request: Request, model: ModelReference = "") -> Props:
    """Get the properties of the server and its model that llama.cpp's clients read."""
    name = await model_or_default(services, request, model)
    async with services[Engines].use_async(name) as loaded:
        return Props(
            default_generation_settings=GenerationSettings(
                n_ctx=MAX_PROMPT_CHARACTERS, n_predict=MAX_PREDICT
            ),
            total_slots=MAX_BATCH,
            model_alias=loaded.reference,
            model_path=loaded.reference,
            build_info="nextchar",
        )


@router.post("/infill", response_model=Infill | InfillFields, responses=_RESPONSE | _ERRORS)
@router.post(
    "/v1/models/{model}/infill",
    response_model=Infill | InfillFields,
    responses=_RESPONSE | _ERRORS,
    name="infill_with_model",
)
@needs("complete")
async def infill(
    services: ServicesDep, request: Request, body: InfillCreate, model: ModelReference = ""
) -> Response:
    """Complete the line at the cursor, for llama.cpp's editor plug-ins."""
    name = await model_or_default(services, request, model or body.model)
    before = unwrap(body.prompt) if body.prompt and not body.input_prefix else body.input_prefix + body.prompt
    extra = end_of([one.text for one in body.input_extra])
    prefix = recent_context(before, at_least=MIN_CONTEXT_CHARACTERS // 2 if extra else MIN_CONTEXT_CHARACTERS)
    truncated = len(prefix) < len(before)
    prefix = extra + prefix
    async with services[Engines].use_async(name) as loaded:
        progress = _Progress(time.perf_counter())
        preparing = prepare(prefix, loaded, services.pools)
        is_long = len(prefix) > LONG_PROMPT_CHARACTERS
        characters, unknown = await (cancel_on_disconnect(request, preparing) if is_long else preparing)
        engine_request = _request(body, characters, loaded, caller_of(request))
        running = run_completion(services[Engines], loaded, engine_request, unknown)
        if body.stream:
            stream = _stream(running, body, progress, truncated=truncated)
            return EventStream(stream, on_close=running.close, named=False)
        with running:
            await cancel_on_disconnect(request, _run(running, body, progress))
    return _selected(body, _infill_response(progress, loaded.reference, body, truncated=truncated))


@dataclass
class _Progress:
    """What has been generated so far. Times are those of `time.perf_counter`."""

    started_s: float
    first_character_s: float | None = None
    text: str = ""
    reason: str = "timeout"
    usage: Usage | None = None


def end_of(texts: Sequence[str]) -> str:
    """Return the last whole lines of some texts together, which is the same while one types."""
    joined = "".join(f"{text.rstrip()}\n" for text in texts if text.strip())
    if len(joined) <= EXTRA_CHARACTERS:
        return joined
    return joined[-EXTRA_CHARACTERS:].partition("\n")[2]


def recent_context(text: str, *, at_least: int = MIN_CONTEXT_CHARACTERS) -> str:
    r"""Return the end of a long text, from the beginning of a line that stays the same while one types.

    The state cache matches texts by their beginning, but editors send a window of lines that moves with the
    cursor. So the text begins with the line of the smallest hash at a suitable distance, which remains the
    smallest over many moves (winnowing; Schleimer, Wilkerson and Aiken 2003).
    """
    if len(text) <= 2 * at_least:
        return text
    window = text[-2 * at_least : -at_least]
    lines = window.split("\n")[1:]  # the first may be incomplete
    if not lines:
        return text
    hashes = [crc32(line.encode("utf-8", "surrogatepass")) for line in lines[:-1]] or [0]
    first = hashes.index(min(hashes))
    return text[len(text) - at_least - len("\n".join(lines[first:])) :]


def _request(body: InfillCreate, characters: str, loaded: Loaded, caller: Caller) -> CompletionRequest:
    suffix = suffix_of(body.input_suffix, loaded.vocabulary) if body.n_predict else ""
    # The text of candidates comes at once, so the engine ends them in time.
    limit_ms = body.t_max_predict_ms and body.t_max_prompt_ms + body.t_max_predict_ms
    max_characters = MAX_PREDICT if body.n_predict < 0 else min(body.n_predict, MAX_PREDICT)
    return CompletionRequest(
        prompt=characters,
        max_characters=max(1, max_characters),  # a completion of none would not read the prompt
        temperature=body.temperature or 0.0,
        top_k=body.top_k if body.top_k and body.top_k > 0 else None,
        top_p=body.top_p or None,
        min_p=body.min_p,
        seed=body.seed if body.seed is not None and body.seed >= 0 else None,
        stop=tuple(map(loaded.vocabulary.to_characters, body.stop)),
        until="line",
        stream=True,
        suffix=suffix,
        timeout_s=limit_ms / 1000 if limit_ms and suffix.strip() else None,
        caller=caller,
    )


async def _run(running: RunningCompletion, body: InfillCreate, progress: _Progress) -> None:
    """Generate until the completion ends or times out."""
    async for _ in _pieces(running, body, progress):
        pass


async def _pieces(running: RunningCompletion, body: InfillCreate, progress: _Progress) -> Events:
    """Yield the text as it is generated and record it in `progress`; end at the time limit."""
    events, decoder = running.events(), running.vocabulary.text_decoder()
    limit_ms = 0 if isinstance(running, InfillingCompletion) else body.t_max_prompt_ms
    deadline_s = progress.started_s + limit_ms / 1000 if limit_ms else None
    while True:
        left_s = None if deadline_s is None else deadline_s - time.perf_counter()
        try:
            event = await asyncio.wait_for(anext(events), left_s)
        except (TimeoutError, StopAsyncIteration):
            break
        if isinstance(event, Finished):
            progress.reason = event.reason
        elif isinstance(event, Usage):
            progress.usage = event
            break
        elif isinstance(event, Piece):
            if progress.first_character_s is None:
                progress.first_character_s = time.perf_counter()
                limit_ms = body.t_max_predict_ms
                deadline_s = progress.first_character_s + limit_ms / 1000 if limit_ms else None
            text = decoder.feed(event.text) if body.n_predict else ""
            progress.text += text
            if text:
                yield ServerEvent("", InfillPiece(content=text))


async def _stream(
    running: RunningCompletion, body: InfillCreate, progress: _Progress, *, truncated: bool
) -> Events:
    async for event in _pieces(running, body, progress):
        yield event
    response = _infill_response(progress, running.model, body, truncated=truncated)
    yield ServerEvent("", response.model_copy(update={"content": ""}))


def _infill_response(progress: _Progress, model: str, body: InfillCreate, *, truncated: bool) -> Infill:
    now_s = time.perf_counter()
    first_s = now_s if progress.first_character_s is None else progress.first_character_s
    count = progress.usage.completion_characters if progress.usage and body.n_predict else len(progress.text)
    read = progress.usage.prompt_characters if progress.usage else 0
    cached = progress.usage.cached_characters if progress.usage else 0
    stop_type: Literal["limit", "word"] = "word" if progress.reason in ("line", "stop") else "limit"
    return Infill(
        content=progress.text,
        stop_type=stop_type,
        model=model,
        tokens_predicted=count,
        tokens_evaluated=read,
        tokens_cached=cached,
        truncated=truncated,
        timings=Timings(
            cache_n=cached,
            prompt_n=read - cached,
            **_timings("prompt", first_s - progress.started_s, read - cached),
            predicted_n=count,
            **_timings("predicted", now_s - first_s, count),
        ),
    )


def _timings(what: str, seconds: float, count: int) -> dict[str, Any]:
    return {
        f"{what}_ms": round(seconds * 1000, 3),
        f"{what}_per_token_ms": round(seconds * 1000 / max(1, count), 4),
        f"{what}_per_second": round(count / max(seconds, 1e-6), 1),
    }


def _selected(body: InfillCreate, infilled: Infill) -> Response:
    if body.response_fields is None:
        return Response(infilled.model_dump_json(), media_type="application/json")
    # Like llama.cpp, which keeps the slash in a name such as timings/prompt_n.
    fields: dict[str, Any] = infilled.model_dump()
    fields |= {f"timings/{name}": value for name, value in fields["timings"].items()}
    selected: InfillFields = {name: fields[name] for name in body.response_fields if name in fields}
    # llama.vim searches for `"content":"`, without a space.
    return Response(json.dumps(selected, separators=(",", ":")), media_type="application/json")


@tokenizer_router.get("/tokenizer_info", responses=_READ_ERRORS)
@tokenizer_router.get(
    "/v1/models/{model}/tokenizer_info", responses=_READ_ERRORS, name="tokenizer_info_of_model"
)
@needs("read", "complete")
async def tokenizer_info(
    services: ServicesDep, request: Request, model: ModelReference = ""
) -> TokenizerInfo:
    """Get a description of a model's vocabulary."""
    reference, vocabulary = await _vocabulary(services, request, model)
    return TokenizerInfo(
        tokenizer_class=vocabulary.alphabet,
        model=reference,
        vocab_size=len(vocabulary),
        model_max_length=MAX_PROMPT_CHARACTERS,
    )


@tokenizer_router.post("/tokenize", response_model=Tokens, responses=_ERRORS)
@tokenizer_router.post(
    "/v1/models/{model}/tokenize", response_model=Tokens, responses=_ERRORS, name="tokenize_with_model"
)
@needs("complete")
async def tokenize(
    services: ServicesDep, request: Request, body: TokenizeCreate, model: ModelReference = ""
) -> Response:
    """Get the id of each character of a text, as the model reads it in a prompt."""
    name = await model_or_default(services, request, model or body.model)
    text = body.prompt if body.prompt is not None else body.content or ""
    async with services[Engines].use_async(name) as loaded:
        preparing = prepare(text, loaded, services.pools)
        is_long = len(text) > LONG_PROMPT_CHARACTERS
        characters, _ = await (cancel_on_disconnect(request, preparing) if is_long else preparing)
        return await run_in_thread(_tokens, loaded.vocabulary, characters)


@tokenizer_router.post("/detokenize", response_model=Detokenized, responses=_ERRORS)
@tokenizer_router.post(
    "/v1/models/{model}/detokenize",
    response_model=Detokenized,
    responses=_ERRORS,
    name="detokenize_with_model",
)
@needs("complete")
async def detokenize(
    services: ServicesDep, request: Request, body: DetokenizeCreate, model: ModelReference = ""
) -> Response:
    """Get the text of ids; 0 becomes U+FFFD."""
    _, vocabulary = await _vocabulary(services, request, model or body.model)
    return await run_in_thread(_text, vocabulary, body.tokens)


async def _vocabulary(services: Services, request: Request, model: str) -> tuple[str, Vocabulary]:
    name = await model_or_default(services, request, model)
    async with services[Engines].use_async(name) as loaded:
        return loaded.reference, loaded.vocabulary


def _tokens(vocabulary: Vocabulary, characters: str) -> Response:
    tokens = vocabulary.encode(characters).tolist()
    response = Tokens(count=len(tokens), max_model_len=MAX_PROMPT_CHARACTERS, tokens=tokens)
    return Response(response.model_dump_json(), media_type="application/json")


def _text(vocabulary: Vocabulary, tokens: Sequence[int]) -> Response:
    characters_of(tokens, vocabulary, param="tokens")  # raises InvalidInput for unknown ids
    text = vocabulary.to_text(vocabulary.decode(tokens))
    return Response(Detokenized(prompt=text, content=text).model_dump_json(), media_type="application/json")
