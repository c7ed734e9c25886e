"""POST /v1/completions: OpenAI's completions on the same engine; its unmodified SDKs can use it.

A request may have many prompts; each becomes one completion of the engine. A limited number of them runs at a
time.
"""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, Iterator, Sequence
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from nextchar.app.completions.completion import RunningCompletion
from nextchar.app.completions.requests import LongPrompts, serialize
from nextchar.app.http.dependencies import arrived_s_of, cancel_on_disconnect, client_of, user_of
from nextchar.app.http.errors import error_responses
from nextchar.app.http.event_streams import Events, EventStream, ServerEvent, stream_responses
from nextchar.app.http.rules import needs
from nextchar.app.http.services import ServicesDep
from nextchar.app.http.threads import LimitedWork
from nextchar.app.models.engines import Engines, Loaded
from nextchar.app.models.names import model_or_default
from nextchar.app.openai.choices import Chunks, choice_of, usage_of
from nextchar.app.openai.requests import ResolvedPrompt, ResolvedRequest, has_long_prompt, resolve
from nextchar.app.openai.route import NOT_422, OpenAIRoute
from nextchar.app.openai.schemas import EXAMPLE, OpenAICompletion, OpenAICompletionCreate
from nextchar.models.errors import InvalidInput
from nextchar.models.runtime.requests import Completion, Event, Finished, Piece, Usage

router = APIRouter(tags=["openai"], route_class=OpenAIRoute)

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


@router.post("/v1/completions", response_model=OpenAICompletion, responses=_RESPONSES)
@needs("complete")
async def create_completion(
    services: ServicesDep, request: Request, body: OpenAICompletionCreate
) -> Response:
    """Complete one prompt or several, in OpenAI's shape. A token is a character."""
    model = await model_or_default(services, request, body.model)
    client, user, arrived_s = client_of(request), user_of(request), arrived_s_of(request)
    check_is_supported(body)
    async with services[Engines].use_async(model) as loaded:
        if body.stream:
            resolving = resolve(
                body, loaded, services[LongPrompts], client=client, user=user, arrived_s=arrived_s
            )
            is_slow = has_long_prompt(body) or (body.echo and body.logprobs is not None)
            resolved = await (cancel_on_disconnect(request, resolving) if is_slow else resolving)
            chunks = Chunks(resolved)
            running, others = _start_first(services[Engines], resolved)
            events = _stream(chunks, running, others)
            return EventStream(events, on_close=lambda: _close(running), named=False)
        completing = complete(
            services[Engines],
            services[LongPrompts],
            loaded,
            body,
            client=client,
            user=user,
            arrived_s=arrived_s,
        )
        content = await cancel_on_disconnect(request, completing)
    return Response(content, media_type="application/json")


def check_is_supported(body: OpenAICompletionCreate) -> None:
    """Raise InvalidInput if the request needs what these models cannot do."""
    if body.suffix:
        raise InvalidInput(
            "suffix is not supported, because the models read left to right; leave it out",
            code="suffix_not_supported",
            param="suffix",
        )


async def complete(
    engines: Engines,
    long_prompts: LimitedWork,
    loaded: Loaded,
    body: OpenAICompletionCreate,
    *,
    client: str,
    user: str = "",
    arrived_s: float,
) -> str:
    """Return the whole response to a request without `stream`, as JSON.

    `client` and `user` are those of `resolve`; the request arrived at `arrived_s` on `time.perf_counter`.

    Raises:
        InvalidInput, Busy, Unavailable: as `resolve` and `Engine.complete`.
    """
    resolved = await resolve(body, loaded, long_prompts, client=client, user=user, arrived_s=arrived_s)
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
    return RunningCompletion(engines, resolved.loaded, request, prompt.unknown, keep=keep)


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
