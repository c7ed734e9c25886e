"""/v1/events, by which clients tell what became of suggestions, and /v1/models/{model}/acceptance."""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from nextchar.app.acceptance.counting import EventCounts, ResolvedEvent
from nextchar.app.acceptance.figure_schemas import AcceptanceBody
from nextchar.app.acceptance.figures import Acceptance
from nextchar.app.acceptance.schemas import EventCreate, EventsBody, EventsCreate
from nextchar.app.access.permissions import AccessDep
from nextchar.app.http.bodies import DocumentRoute
from nextchar.app.http.errors import error_responses
from nextchar.app.http.rules import SMALL_JSON, needs
from nextchar.app.http.services import Services, ServicesDep
from nextchar.app.http.streamed_body import content_type
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
        "content": {"text/plain": {"schema": {"type": "string", "description": "The same as JSON."}}},
    }
}


class KnownModels(ExpiringCache[tuple[str, int] | None]):
    """The versions that references resolve to, for a few seconds; None: there is no such model."""


@router.post(
    "/v1/events",
    status_code=202,
    responses=error_responses(400, 404, 413, 415, 422, 429, 503),
    openapi_extra=_TEXT_BODY,
)
@needs("events", body=SMALL_JSON)
async def add_events(
    services: ServicesDep, access: AccessDep, request: Request, body: EventsCreate
) -> EventsBody:
    """Count what became of suggestions. They are stored when the call returns; each event counts once."""
    default = ""
    if any(event.model is None for event in body.events):
        default = await model_or_default(services, request, "")
    references = {event.model or default for event in body.events}
    for reference in references:
        access.check_model(reference)
    found = await run_in_thread(_resolve, services, references)
    events = [_resolved(event, found[event.model or default]) for event in body.events]
    counted = [event for event in events if event]
    if not counted:
        raise NotFound(
            f"there is no model {min(references)!r}; send the model of the response that had the suggestion",
            code="model_not_found",
            param="events.0.model",
        )
    duplicates = await services[EventCounts].add(counted, owner=current_key())
    return EventsBody(
        accepted=len(counted) - duplicates, duplicates=duplicates, rejected=len(events) - len(counted)
    )


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


def _resolve(services: Services, references: set[str]) -> dict[str, tuple[str, int] | None]:
    def resolve(reference: str) -> tuple[str, int] | None:
        try:
            return services.models.resolve(reference)
        except NotFound:
            return None

    known = services[KnownModels]
    return {one: known.get(one, lambda _, one=one: resolve(one)) for one in references}  # type: ignore[misc]


def _resolved(event: EventCreate, model: tuple[str, int] | None) -> ResolvedEvent | None:
    return ResolvedEvent(event, *model) if model else None
