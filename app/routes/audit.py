"""/v1/audit: who changed, stopped, deleted or downloaded what."""

from typing import Annotated

from fastapi import APIRouter, Query

from nextchar.app.http.access import AccessDep
from nextchar.app.http.dependencies import ServicesDep
from nextchar.app.http.errors import error_responses
from nextchar.app.schemas.audit import AuditEntryBody
from nextchar.app.schemas.lists import After, Limit, Page

router = APIRouter(prefix="/v1/audit", tags=["service"])

_LIMIT = 100

Key = Annotated[str | None, Query(max_length=64, description="Calls with the API key of this name.")]
Action = Annotated[str | None, Query(max_length=64, description="Calls of this operation.")]
About = Annotated[
    str | None,
    Query(min_length=1, max_length=256, description="Calls whose `about` or `to` contains this."),
]
Since = Annotated[float | None, Query(description="At or after this time, in Unix seconds.")]
Until = Annotated[float | None, Query(description="At or before this time, in Unix seconds.")]


@router.get("", responses=error_responses(422, 503))
def list_audit(
    services: ServicesDep,
    access: AccessDep,
    key: Key = None,
    action: Action = None,
    about: About = None,
    since: Since = None,
    until: Until = None,
    after: After = None,
    limit: Limit = _LIMIT,
) -> Page[AuditEntryBody]:
    """List the calls that changed or downloaded something, newest first."""
    access.check_is_unlimited("the audit trail is about all models")
    found, has_more = services.audit.entries(
        after=after, limit=limit, key=key, action=action, about=about, since=since, until=until
    )
    return Page(data=[AuditEntryBody.model_validate(entry) for entry in found], has_more=has_more)
