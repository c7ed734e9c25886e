"""/v1/events, by which clients tell what became of suggestions, and /v1/models/{model}/acceptance."""

from collections.abc import Callable, Coroutine
from itertools import islice
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from nextchar.app.acceptance.counting import EventCounts, ResolvedEvent
from nextchar.app.acceptance.figures import (
    Acceptance,
    AcceptanceBody,
    DeletedTexts,
    KeptTextBody,
    KeptTextPage,
    LearningBody,
)
from nextchar.app.acceptance.kept_texts import KeptTexts
from nextchar.app.acceptance.learning import Learning, forget_corpora
from nextchar.app.acceptance.schemas import EventsBody, EventsCreate
from nextchar.app.access.permissions import AccessDep, access_of
from nextchar.app.http.bodies import DocumentRoute
from nextchar.app.http.errors import error_responses
from nextchar.app.http.rules import SMALL_JSON, content_type, needs
from nextchar.app.http.schemas import DEFAULT_LIMIT, Limit
from nextchar.app.http.services import Services, ServicesDep
from nextchar.app.http.threads import current_key, run_in_thread
from nextchar.app.models.names import model_or_default
from nextchar.models.errors import NotFound
from nextchar.store.expiring_cache import ExpiringCache


class BeaconRoute(DocumentRoute):
    """A route whose JSON may also come as text, as from `navigator.sendBeacon` in a page."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler, which gets text as JSON."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            if content_type(request.headers) == "text/plain":
                others = [header for header in request.scope["headers"] if header[0] != b"content-type"]
                headers = [*others, (b"content-type", b"application/json")]
                request = Request({**request.scope, "headers": headers}, request.receive)
            return await handler(request)

        return handle


router = APIRouter(tags=["suggestions"], route_class=BeaconRoute)

_TEXT_BODY: dict[str, Any] = {
    "requestBody": {
        "content": {"text/plain": {"schema": {"type": "string", "description": "The same as JSON."}}}
    }
}


Source = Annotated[
    str | None,
    Query(
        pattern="^([0-9a-f]{16})?$",
        description="The first 16 hexadecimal digits of the SHA-256 of a `client_id`; empty: without one.",
    ),
]
EntryId = Annotated[str, Field(pattern=r"^[0-9]{1,15}-[0-9]{1,9}$")]


class KnownModels(ExpiringCache[tuple[str, int] | None]):
    """The versions that references resolve to, for a few seconds; None: there is no such model."""


@router.post(
    "/v1/events",
    status_code=202,
    response_model=EventsBody,
    responses=error_responses(400, 404, 413, 415, 422, 429, 503),
    openapi_extra=_TEXT_BODY,
)
@needs("events", body=SMALL_JSON)
async def add_events(services: ServicesDep, request: Request, body: EventsCreate) -> Response:
    """Count what became of suggestions. They are stored when the call returns; each event counts once."""
    default = ""
    if any(event.model is None for event in body.events):
        default = await model_or_default(services, request, "")
    references = {event.model or default for event in body.events}
    access = access_of(services, request)
    for reference in references:
        access.check_model(reference)
    try:
        found = {one: services[KnownModels].get(one, _not_now) for one in references}
    except LookupError:  # not known, or no more
        found = await run_in_thread(_resolve, services, references)
    models = [(event, found[event.model or default]) for event in body.events]
    counted = [ResolvedEvent(event, *model) for event, model in models if model]
    if not counted:
        raise NotFound(
            f"there is no model {min(references)!r}; send the model of the response that had the suggestion",
            code="model_not_found",
            param="events.0.model",
        )
    duplicates = await services[EventCounts].add(counted, owner=current_key())
    response = EventsBody(
        accepted=len(counted) - duplicates, duplicates=duplicates, rejected=len(models) - len(counted)
    )
    return Response(response.model_dump_json(), status_code=202, media_type="application/json")


@router.get("/v1/models/{model}/acceptance", responses=error_responses(404, 422, 503))
@needs("read")
def get_acceptance(
    services: ServicesDep,
    model: str,
    days: Annotated[
        int, Query(ge=1, le=3660, description="How many days to add up, with today, in UTC.")
    ] = 30,
) -> AcceptanceBody:
    """Get how many suggestions were shown, accepted and kept, of a model's name or of one version."""
    name, version = services.models.resolve(model)
    groups = services[Acceptance].read(name, days=days)
    return AcceptanceBody.of(name, groups, version=version if "@" in model else None, days=days)


@router.get("/v1/models/{model}/kept_texts", responses=error_responses(404, 422, 503))
@needs("train")
def list_kept_texts(
    services: ServicesDep,
    access: AccessDep,
    model: str,
    source: Source = None,
    after: Annotated[EntryId | None, Query(description="Only texts after the one with this id.")] = None,
    limit: Limit = DEFAULT_LIMIT,
) -> KeptTextPage:
    """List the texts that are kept of a model's name to learn from, the oldest first; or of one source."""
    name = access.model_name(model)
    found = list(islice(services[KeptTexts].read(name, after=after, source=source), limit + 1))
    texts = [
        KeptTextBody(
            id=kept.id,
            text=kept.text,
            type=kept.type,
            source=kept.source,
            model=f"{name}@{kept.version}",
            kept_at=kept.kept_at,
        )
        for kept in found[:limit]
    ]
    return KeptTextPage(data=texts, has_more=len(found) > limit, learning=_learning(services, name))


@router.delete("/v1/models/{model}/kept_texts", responses=error_responses(404, 422, 503))
@needs("train")
def delete_kept_texts(
    services: ServicesDep, access: AccessDep, model: str, source: Source = None
) -> DeletedTexts:
    """Delete the kept texts of one source, or all, and the corpora that were made of any.

    Versions that were trained on them stay.
    """
    name = access.model_name(model)
    deleted = services[KeptTexts].delete(name, source=source)
    forget_corpora(services.corpora, services.jobs, name)
    return DeletedTexts(deleted=deleted)


def _learning(services: Services, name: str) -> LearningBody | None:
    learning = services[Learning]
    alias = dict(learning.aliases).get(name)
    if alias is None:
        return None
    fields = learning.state(name).model_dump(include={"job", "shared_at", "outcome"})
    return LearningBody(alias=f"{name}@{alias}", **fields)


def _not_now(_: tuple[str, int] | None) -> tuple[str, int] | None:
    """Read nothing, on the event loop."""
    raise LookupError


def _resolve(services: Services, references: set[str]) -> dict[str, tuple[str, int] | None]:
    def resolve(reference: str) -> tuple[str, int] | None:
        try:
            return services.models.resolve(reference)
        except NotFound:
            return None

    known = services[KnownModels]
    return {one: known.get(one, lambda _, one=one: resolve(one)) for one in references}  # type: ignore[misc]
