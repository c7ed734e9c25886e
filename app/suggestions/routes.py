"""/v1/models/{model}/suggest: different completions of a field."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

from fastapi import APIRouter, Request, Response

from nextchar.app.completions.completion import RunningCompletion, result_of
from nextchar.app.http.bodies import DocumentRoute
from nextchar.app.http.errors import error_responses
from nextchar.app.http.rules import SMALL_JSON, needs
from nextchar.app.http.services import ServicesDep, cancel_on_disconnect, client_of, user_of
from nextchar.app.http.threads import run_in_thread
from nextchar.app.models.engines import Engines, Loaded
from nextchar.app.suggestions.schemas import (
    ReplacedBody,
    SuggestCreate,
    SuggestionBody,
    SuggestionsBody,
)
from nextchar.models.runtime.engine import Ticket
from nextchar.models.runtime.line_walk import OnLines
from nextchar.models.runtime.suggestions import (
    Need,
    Steps,
    Suggestion,
    SuggestionRequest,
    Walk,
    Weigh,
)
from nextchar.store.ids import new_id

router = APIRouter(prefix="/v1/models", tags=["inference"], route_class=DocumentRoute)


@router.post(
    "/{model}/suggest",
    response_model=SuggestionsBody,
    responses=error_responses(400, 404, 413, 415, 422, 429, 503),
)
@needs("complete", body=SMALL_JSON)
async def suggest_completions(
    services: ServicesDep, request: Request, model: str, body: SuggestCreate
) -> Response:
    """Suggest different completions of a field, best first; none if nothing fits.

    Models of records suggest lines of their corpus, also where the prefix has typing errors.
    """
    async with services[Engines].use_async(model, client_id=body.client_id) as loaded:
        asked = SuggestionRequest(**body.model_dump(exclude={"client_id"}))
        finding = _suggestions(
            services[Engines], loaded, asked, client=client_of(request), user=user_of(request)
        )
        suggestions = await cancel_on_disconnect(request, finding)
    response = _body(loaded, body.prefix, suggestions)
    # Serialized here: FastAPI's validation and copy would take longer than everything else.
    return Response(response.model_dump_json(), media_type="application/json")


async def _suggestions(
    engines: Engines, loaded: Loaded, asked: SuggestionRequest, *, client: str, user: str
) -> list[Suggestion]:
    """Return the suggestions; what the engine is asked for is awaited. Raises InvalidInput or Busy."""
    steps = loaded.suggester.suggest(asked)
    # A search in many lines takes milliseconds; what follows the network's answer does not.
    need = await run_in_thread(_next, steps, None)
    while not isinstance(need, list):
        if isinstance(need, Weigh):
            weigh = partial(loaded.engine.weigh, need.prompt, need.continuations, client=client, user=user)
            need = _next(steps, await result_of(weigh))
        elif isinstance(need, Walk):
            need = _next(steps, await _likely_lines(loaded, need, client=client, user=user))
        else:
            completing = replace(need.request, client=client, user=user)
            with RunningCompletion(engines, loaded, completing, []) as running:
                completions, _ = await running.completions()
            need = _next(steps, completions)
    return need


async def _likely_lines(loaded: Loaded, need: Walk, *, client: str, user: str) -> list[int]:
    def start(on_lines: OnLines) -> Ticket:
        return loaded.engine.likely_lines(
            need.index,
            need.prefix,
            on_lines,
            context=need.context,
            wanted=need.wanted,
            client=client,
            user=user,
        )

    return await result_of(start)


def _next(steps: Steps, answer: Any) -> Need | list[Suggestion]:
    """Return what is needed next, or the suggestions. A thread cannot pass on StopIteration."""
    try:
        return steps.send(answer)
    except StopIteration as end:
        return cast(list[Suggestion], end.value)


def _body(loaded: Loaded, prefix: str, suggestions: Sequence[Suggestion]) -> SuggestionsBody:
    name = new_id("sug")
    return SuggestionsBody(
        id=name,
        model=loaded.reference,
        early=loaded.is_early,
        prefix=prefix,
        suggestions=[
            SuggestionBody(
                id=f"{name}.{index}",
                text=one.text,
                probability=one.probability,
                count=one.count,
                exists=one.exists,
                replaced=ReplacedBody(**vars(one.replaced)) if one.replaced else None,
            )
            for index, one in enumerate(suggestions)
        ],
    )
