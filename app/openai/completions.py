"""POST /v1/completions: OpenAI's completions on the same engine; its unmodified SDKs can use it.

A request may have many prompts; each becomes one completion of the engine. A limited number of them runs at a
time.
"""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, Iterator, Sequence
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from nextchar.app.completions.completion import RunningCompletion
from nextchar.app.completions.requests import run_completion, serialize
from nextchar.app.http.errors import error_responses
from nextchar.app.http.event_streams import Events, EventStream, ServerEvent, stream_responses
from nextchar.app.http.rules import needs
from nextchar.app.http.services import ServicesDep, arrived_s_of, caller_of, cancel_on_disconnect
from nextchar.app.http.threads import Pools
from nextchar.app.models.engines import Engines, Loaded
from nextchar.app.models.names import model_or_default
from nextchar.app.openai.requests import (
    ResolvedPrompt,
    ResolvedRequest,
    concatenate,
    has_long_prompt,
    logprobs_of,
    resolve,
)
from nextchar.app.openai.schemas import (
    EXAMPLE,
    NOT_422,
    CachedTokens,
    OpenAIChoice,
    OpenAICompletion,
    OpenAICompletionCreate,
    OpenAIRoute,
    OpenAIUsage,
)
from nextchar.models.errors import NotFound
from nextchar.models.runtime.requests import Caller, Completion, Event, Finished, FinishReason, Piece, Usage

router = APIRouter(tags=["OpenAI"], route_class=OpenAIRoute)

MAX_CONCURRENT_PROMPTS = 16
"""Number of prompts of a request that run at the same time: other requests get slots of the engine, too."""

_QUEUED_EVENTS = 64  # of a stream of several prompts, between the engine and the client

_RESPONSES = (
    stream_responses(
        "With `stream` chunks of this shape, each a server-sent event; the last is `[DONE]`.",
        EXAMPLE,
        'data: {"object":"text_completion","choices":[{"index":0,"text":"t"}]}\n\n',
    )
    | NOT_422
    | error_responses(404, 413, 415, 429, 503)
)


def choice_of(
    resolved: ResolvedRequest, prompt: ResolvedPrompt, index: int, completion: Completion
) -> OpenAIChoice:
    """Return a finished completion as the choice `index`."""
    vocabulary, top = resolved.loaded.vocabulary, resolved.body.logprobs
    logprobs = None
    if top is not None:
        logprobs = logprobs_of(completion.logprobs, vocabulary, top, start=len(prompt.characters))
        logprobs = concatenate(prompt.echo_logprobs, logprobs)
    return OpenAIChoice(
        index=index,
        text=prompt.echo + vocabulary.to_text(completion.text),
        finish_reason=_finish_reason(completion.reason),
        logprobs=logprobs,
    )


class Chunks:
    """Turns a stream's events into chunks; counts the characters of each choice. It keeps no prompts."""

    def __init__(self, resolved: ResolvedRequest) -> None:
        self.resolved = resolved.without_prompts()
        self.prompt_lengths = [len(prompt.characters) for prompt in resolved.prompts]
        self._echoes = [(prompt.echo, prompt.echo_logprobs) for prompt in resolved.prompts]
        self._offsets = [length for length in self.prompt_lengths for _ in range(resolved.n)]
        self._decoders = [resolved.loaded.vocabulary.text_decoder() for _ in self._offsets]

    def first(self) -> list[OpenAIChoice]:
        """Return the chunks that need no generation: the echoed prompts; with max_tokens=0, the ends."""
        n = self.resolved.n
        reason = None if self.resolved.max_tokens else _finish_reason("length")
        return [
            OpenAIChoice(index=i * n + j, text=echo, finish_reason=reason, logprobs=logprobs)
            for i, (echo, logprobs) in enumerate(self._echoes)
            for j in range(n)
            if echo or reason
        ]

    def of(self, prompt_index: int, event: Piece | Finished) -> list[OpenAIChoice]:
        """Return the chunk of an event of a prompt; none if it has neither text nor log-probabilities."""
        index = prompt_index * self.resolved.n + event.index
        if isinstance(event, Finished):
            rest = self._decoders[index].feed("", final=True)
            return [OpenAIChoice(index=index, text=rest, finish_reason=_finish_reason(event.reason))]
        text, logprobs, top = self._decoders[index].feed(event.text), None, self.resolved.body.logprobs
        if top is not None:
            vocabulary, start = self.resolved.loaded.vocabulary, self._offsets[index]
            logprobs = logprobs_of(event.logprobs, vocabulary, top, start=start)
            self._offsets[index] += len(event.logprobs)
        return [OpenAIChoice(index=index, text=text, logprobs=logprobs)] if text or logprobs else []


def usage_of(usages: Sequence[Usage]) -> OpenAIUsage:
    """Return the sum of what each prompt used."""
    prompt_tokens = sum(usage.prompt_characters for usage in usages)
    completion_tokens = sum(usage.completion_characters for usage in usages)
    cached_tokens = sum(usage.cached_characters for usage in usages)
    return OpenAIUsage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
        prompt_tokens_details=CachedTokens(cached_tokens=cached_tokens),
    )


def _finish_reason(reason: FinishReason) -> Any:
    """Return `length` for a completion that was cut off by a limit, `stop` for one that ended by itself."""
    return "length" if reason in ("length", "timeout", "cancelled") else "stop"


@router.post("/v1/completions", response_model=OpenAICompletion, responses=_RESPONSES)
@needs("complete")
async def create_completion(
    services: ServicesDep, request: Request, body: OpenAICompletionCreate
) -> Response:
    """Complete one prompt or several, in OpenAI's shape. A token is a character."""
    model = await model_or_default(services, request, body.model)
    caller, arrived_s = caller_of(request), arrived_s_of(request)
    async with services[Engines].use_async(model) as loaded:
        if body.stream:
            resolving = resolve(body, loaded, services.pools, caller=caller, arrived_s=arrived_s)
            is_slow = has_long_prompt(body) or (body.echo and body.logprobs is not None)
            resolved = await (cancel_on_disconnect(request, resolving) if is_slow else resolving)
            chunks = Chunks(resolved)
            running, others = _start_first(services[Engines], resolved)
            events = _stream(chunks, running, others)
            return EventStream(events, on_close=lambda: _close(running), named=False)
        completing = complete(
            services[Engines], services.pools, loaded, body, caller=caller, arrived_s=arrived_s
        )
        content = await cancel_on_disconnect(request, completing)
    return Response(content, media_type="application/json")


async def complete(
    engines: Engines,
    pools: Pools,
    loaded: Loaded,
    body: OpenAICompletionCreate,
    *,
    caller: Caller,
    arrived_s: float,
) -> str:
    """Return the whole response to a request without `stream`, as JSON.

    The request arrived at `arrived_s` on `time.perf_counter`.

    Raises:
        InvalidInput, Busy, Unavailable: as `resolve` and `Engine.complete`.
    """
    resolved = await resolve(body, loaded, pools, caller=caller, arrived_s=arrived_s)
    results = await _run_all(engines, resolved)
    completions = [completion for finished, _ in results for completion in finished]
    echoed = sum(len(prompt.characters) for prompt in resolved.prompts) * resolved.n if body.echo else 0
    to_json = partial(_to_json, resolved, results)
    return await serialize(to_json, completions, logprobs=body.logprobs, echoed_characters=echoed)


@router.post("/v1/models/{model}/v1/completions", response_model=OpenAICompletion, responses=_RESPONSES)
@needs("complete")
async def create_completion_with_model(
    services: ServicesDep,
    request: Request,
    body: OpenAICompletionCreate,
    model: Annotated[str, Path(max_length=128, description="Overrides the body's.")],
) -> Response:
    """Do the same with the model in the path, for clients in which only a base URL can be configured."""
    return await create_completion(services, request, body.model_copy(update={"model": model}))


_Result = tuple[list[Completion], Usage]
"""The completions of one prompt, and what they used."""


def _start(engines: Engines, resolved: ResolvedRequest, prompt: ResolvedPrompt) -> RunningCompletion:
    keep = resolved.n if resolved.body.best_of is not None else None
    request = resolved.engine_request(prompt)
    return run_completion(engines, resolved.loaded, request, prompt.unknown, keep=keep)


def _start_first(
    engines: Engines, resolved: ResolvedRequest
) -> tuple[list[RunningCompletion], Iterator[RunningCompletion]]:
    """Start the first prompts of a stream; return them, and an iterator that starts one of the others each.

    So errors in the options, which all prompts share, are raised before the response's header is sent.
    """
    starts = (_start(engines, resolved, prompt) for prompt in resolved.prompts if resolved.max_tokens)
    running: list[RunningCompletion] = []
    try:
        running.extend(itertools.islice(starts, MAX_CONCURRENT_PROMPTS))
    except BaseException:
        _close(running)
        raise
    return running, starts


def _close(running: Sequence[RunningCompletion]) -> None:
    for completion in running:
        completion.close()


async def _run_all(engines: Engines, resolved: ResolvedRequest) -> list[_Result]:
    """Complete every prompt; return the results in their order."""
    slots = asyncio.Semaphore(MAX_CONCURRENT_PROMPTS)

    async def run(prompt: ResolvedPrompt) -> _Result:
        if not resolved.max_tokens:
            empty = Completion("", "length", 0.0, 0, ())
            return [empty] * resolved.n, Usage(len(prompt.characters), 0, 0)
        async with slots:
            with _start(engines, resolved, prompt) as running:
                return await running.completions()

    if len(resolved.prompts) == 1:
        return [await run(resolved.prompts[0])]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(run(prompt)) for prompt in resolved.prompts]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


def _to_json(resolved: ResolvedRequest, results: Sequence[_Result]) -> str:
    choices = [
        choice_of(resolved, prompt, i * resolved.n + j, completion)
        for i, (prompt, (completions, _)) in enumerate(zip(resolved.prompts, results, strict=True))
        for j, completion in enumerate(completions)
    ]
    return resolved.response(choices, usage_of([usage for _, usage in results])).model_dump_json()


async def _stream(
    chunks: Chunks, running: list[RunningCompletion], others: Iterator[RunningCompletion]
) -> Events:
    resolved = chunks.resolved
    usages: list[Usage] = []
    for choice in chunks.first():
        yield ServerEvent("", resolved.response([choice], None))
    if not running:
        usages = [Usage(length, 0, 0) for length in chunks.prompt_lengths]
    async for prompt_index, event in _merge(running, others):
        if isinstance(event, Usage):
            usages.append(event)
        elif isinstance(event, Piece | Finished):
            for choice in chunks.of(prompt_index, event):
                yield ServerEvent("", resolved.response([choice], None))
    if resolved.body.stream_options and resolved.body.stream_options.include_usage:
        yield ServerEvent("", resolved.response([], usage_of(usages)))
    yield ServerEvent("", "[DONE]")


async def _merge(
    running: list[RunningCompletion], others: Iterator[RunningCompletion]
) -> AsyncGenerator[tuple[int, Event], None]:
    """Yield (index, event) of all completions as they arrive. Raises the error that stopped the engine.

    When one ends, the next of the others is started and added to `running`, which the caller closes.
    """
    if len(running) == 1:
        async for event in running[0].events():
            yield 0, event
        return
    # Bounded, so that a completion whose events are not read is paused.
    queue: asyncio.Queue[tuple[int, Event | Exception]] = asyncio.Queue(_QUEUED_EVENTS)

    async def forward(index: int, completion: RunningCompletion) -> None:
        try:
            async for event in completion.events():
                await queue.put((index, event))
        except Exception as error:  # noqa: BLE001  raised by the reader of the queue
            await queue.put((index, error))

    tasks: list[asyncio.Task[None]] = []
    ended = 0
    try:
        while ended < len(running):
            new = range(len(tasks), len(running))
            tasks.extend(asyncio.create_task(forward(index, running[index])) for index in new)
            index, item = await queue.get()
            if isinstance(item, Exception):
                raise item
            yield index, item
            if isinstance(item, Usage):
                ended += 1
                running.extend(itertools.islice(others, 1))
    finally:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)


_NO_CHAT = "models continue text and follow no instructions; send the text to continue as `prompt`"
_INSTEAD = {
    "completions": f"there is no chat: {_NO_CHAT} to POST /v1/completions",
    "responses": f"there are no responses: {_NO_CHAT} to POST /v1/completions",
    "embeddings": "there are no embeddings; POST /v1/models/{model}/score has the bits of each character",
}
"""What to use instead of calls that clients of OpenAI make, by the end of their path."""


@needs("complete", "read", "train")
async def name_alternative(request: Request) -> None:
    """Say what to use instead of a call that there is not."""
    raise NotFound(_INSTEAD[request.url.path.rpartition("/")[2]], code="no_such_route")


for _base in ("/v1", "/v1/models/{model}/v1"):
    for _call in ("chat/completions", "responses", "embeddings"):
        router.add_api_route(f"{_base}/{_call}", name_alternative, methods=["POST"], include_in_schema=False)
