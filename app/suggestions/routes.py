"""/v1/models/{model}/suggest: different completions of a field; and /counts, which are added to its lines."""

import heapq
import time
from collections.abc import Sequence
from typing import Annotated, Any, cast

from fastapi import APIRouter, Query, Request, Response

from nextchar.app.access.permissions import AccessDep
from nextchar.app.completions.completion import RunningCompletion
from nextchar.app.http.bodies import DocumentRoute
from nextchar.app.http.errors import error_responses
from nextchar.app.http.limits import SUGGESTIONS as SUGGESTIONS_AT_ONCE
from nextchar.app.http.rules import JSON, SMALL_JSON, needs
from nextchar.app.http.schemas import DEFAULT_LIMIT, Limit
from nextchar.app.http.services import Services, ServicesDep, caller_of, cancel_on_disconnect
from nextchar.app.models.engines import Engines, Loaded
from nextchar.app.models.names import ModelFollowers
from nextchar.app.operations.retention import Retention
from nextchar.app.room import Folder, Room
from nextchar.app.suggestions.counts import (
    FOLDER,
    CountedSuggesters,
    LineCount,
    LineCounts,
    SourceCounts,
    summed,
)
from nextchar.app.suggestions.schemas import (
    CountedLineBody,
    CountSourceBody,
    DeletedCounts,
    LineCountsBody,
    LineCountsPut,
    SourceName,
    SuggestCreate,
    SuggestionBody,
    SuggestionsBody,
)
from nextchar.models.runtime.requests import CompletionRequest
from nextchar.models.runtime.suggestions import Steps, Suggestion, SuggestionRequest, no_lines
from nextchar.models.text.line_file import FILE
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
        suggester = await services[CountedSuggesters].get(loaded)
        asked = SuggestionRequest(**body.model_dump(exclude={"client_id"}))
        steps = suggester.suggest(asked, loaded.engine, caller_of(request))
        finding = _suggestions(services, loaded, steps)
        suggestions = await cancel_on_disconnect(request, finding)
    response = _body(loaded, body.prefix, suggestions)
    # Serialized here: FastAPI's validation and copy would take longer than everything else.
    return Response(response.model_dump_json(), media_type="application/json")


@router.put("/{model}/counts", responses=error_responses(400, 404, 413, 415, 422, 429, 503, 507))
@needs("train", body=JSON)
def put_line_counts(
    services: ServicesDep, access: AccessDep, model: str, body: LineCountsPut
) -> CountSourceBody:
    """Add counts to lines without training: how often each was chosen, bought or visited.

    They replace what the same source has added to this model's name. Suggestions of all its versions follow
    them within two seconds.
    """
    name = access.model_name(model)
    card = services.models.get(model).card
    if FILE not in card.files:
        raise no_lines(card.reference, "count lines of another model", param="model")
    now = time.time()
    counts = SourceCounts(
        model=name,
        source=body.source,
        half_life_days=body.half_life_days,
        adds_lines=body.add_lines,
        updated_at=now,
        updated_by=access.key_name,
        lines=tuple(LineCount(one.text, one.count, now if one.at is None else one.at) for one in body.lines),
    )
    services[LineCounts].put(counts)
    services[CountedSuggesters].look_again(name)
    return CountSourceBody.of(counts)


_Source = Annotated[SourceName | None, Query(description="One source only. Default: all.")]


@router.get("/{model}/counts", responses=error_responses(404, 422, 503))
@needs("read")
def get_line_counts(
    services: ServicesDep, access: AccessDep, model: str, source: _Source = None, limit: Limit = DEFAULT_LIMIT
) -> LineCountsBody:
    """Get the counts that were added to the lines of a model's name, and what is left of them."""
    name = access.model_name(model)
    sources = [one for one in services[LineCounts].read(name) if source in (None, one.source)]
    values = summed(sources, time.time())
    largest = heapq.nlargest(limit, values.items(), key=lambda item: (item[1], item[0]))
    return LineCountsBody(
        model=name,
        sources=[CountSourceBody.of(one) for one in sources],
        lines=[CountedLineBody(text=text, count=count) for text, count in largest],
        has_more=len(values) > limit,
    )


@router.delete("/{model}/counts", responses=error_responses(404, 422, 503))
@needs("train")
def delete_line_counts(
    services: ServicesDep, access: AccessDep, model: str, source: _Source = None
) -> DeletedCounts:
    """Delete the counts that one source has added, or all. Lines that the corpus lacks are gone with them."""
    name = access.model_name(model)
    deleted = services[LineCounts].delete(name, source)
    services[CountedSuggesters].look_again(name)
    return DeletedCounts(deleted=deleted)


async def _suggestions(services: Services, loaded: Loaded, steps: Steps) -> list[Suggestion]:
    """Return the suggestions; the completions that they need are awaited. Raises InvalidInput or Busy."""
    need = await services.pools.queue(SUGGESTIONS_AT_ONCE).run(lambda _: _next(steps, None))
    if not isinstance(need, list):
        with RunningCompletion(services[Engines], loaded, need, []) as running:
            completions, _ = await running.completions()
        need = _next(steps, completions)
    return cast(list[Suggestion], need)


def _next(steps: Steps, answer: Any) -> CompletionRequest | list[Suggestion]:
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
            SuggestionBody(id=f"{name}.{index}", **vars(one)) for index, one in enumerate(suggestions)
        ],
    )


def _open(services: Services) -> None:
    counts = services.add(LineCounts(services.blobs))
    suggesters = services.add(CountedSuggesters(counts))
    services.closes(suggesters.close)
    services[ModelFollowers].append(lambda name: counts.follow(services.models, name))
    services[Retention].add("counts of former models", lambda _: counts.sweep(services.models))


SUGGESTIONS = Room(
    "suggestions",
    _open,
    (router,),
    is_called_at_keystrokes=True,
    folders=(Folder(FOLDER, ["model_cards"], moves=True),),
)
