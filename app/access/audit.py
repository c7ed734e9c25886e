"""The audit trail: who changed, stopped, deleted or downloaded what. Records in the blob store.

    audit/<day>/<id>.<action>.<key>.json   one entry; ids sort by time, <day> is the day in UTC, and <key> is
                                           the name of the API key, empty without keys

An entry is stored before the response begins, so every call that succeeded is on record. If it cannot be
stored, a download is refused; a change is made already then, so it succeeds, and is logged here. Entries
never change; retention deletes whole days. Filters by action and key read only the entries that match.
"""

import contextlib
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from nextchar.app.access.permissions import AccessDep
from nextchar.app.http.errors import error_response, error_responses
from nextchar.app.http.middleware import HttpMiddleware
from nextchar.app.http.rules import Rule, needs
from nextchar.app.http.schemas import After, Limit, Page, Shape, with_examples
from nextchar.app.http.services import ServicesDep
from nextchar.app.http.threads import run_in_thread
from nextchar.models.errors import DomainError, InvalidInput, Unavailable
from nextchar.store.blobs import Blobs
from nextchar.store.history import read_record
from nextchar.store.ids import is_id, new_id, time_of_id
from nextchar.store.logs import REQUEST_ID

log = logging.getLogger("nextchar.audit")

router = APIRouter(prefix="/v1/audit", tags=["service"])

MAX_READ = 5_000
"""The most entries that one call reads to find those about something."""

_MAX_TIME_S = 16**11 // 1000 - 1  # the 11 digits of an id go no further


class AuditEntryBody(BaseModel):
    """One call that changed something or downloaded something, and succeeded."""

    model_config = with_examples({
        "id": "audit_019ac5f2b303f6a1c2d4e5", "at": 1795563611.2, "key": "laptop", "address": "127.0.0.1",
        "action": "rename_model", "about": "/v1/models/nietzsche@2", "to": "/v1/models/philosopher@1",
        "status": 200, "request_id": "4f2a9c01d3e5b677",
    })  # fmt: skip

    id: str
    at: float = Field(description="Unix seconds.")
    key: str | None = Field(description="The name of the API key; null without keys.")
    address: str = Field(description="IP address of the client, or of the proxy in front of the service.")
    action: str = Field(description="The operation's name, as `operationId` in /openapi.json.")
    about: str = Field(description="What it was about, or what it made, as a path.")
    to: str | None = Field(description="What it became, such as a renamed model.")
    status: int = Field(description="The status of the response.")
    request_id: str = Field(description="`X-Request-Id` of the response, which log records have, too.")


class AuditQuery(Shape, extra="forbid"):
    """Which entries to list."""

    key: str | None = Field(None, max_length=64, description="Calls with the API key of this name.")
    action: str | None = Field(None, max_length=64, description="Calls of this operation.")
    about: str | None = Field(None, min_length=1, max_length=256)
    """Calls whose `about` or `to` contains this."""
    since: float | None = Field(None, description="At or after this time, in Unix seconds.")
    until: float | None = Field(None, description="At or before this time, in Unix seconds.")
    after: After = None
    limit: Limit = 100


class _NotRecorded(Exception):
    """A download that is not on record must not begin."""


class AuditTrail(HttpMiddleware):
    """Records successful calls; see the module."""

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_and_record(message: Message) -> None:
            state = scope["state"]
            is_success = message["type"] == "http.response.start" and 200 <= message["status"] < 300
            if is_success and ("audit" in state or is_change(scope["method"], state["rule"])):
                await _record(scope, message)
            await send(message)

        try:
            await self._app(scope, receive, send_and_record)
        except _NotRecorded:
            message = "this download cannot be recorded in the audit trail now; try again in a moment"
            await error_response(Unavailable(message, code="storage_unavailable"))(scope, receive, send)


def set_audit_details(request: Request, *, about: str, to: str | None = None) -> None:
    """Have a call recorded with the paths `about` and `to`, if it succeeds (`AuditEntryBody`).

    For downloads, and for changes whose path has a name that can mean another thing later.
    """
    request.scope["state"]["audit"] = (about, to)


def is_change(method: str, rule: Rule) -> bool:
    """Return whether a call is always recorded: none that computes, or accepts lines or events."""
    return method not in ("GET", "HEAD") and not (rule.scopes or set()) <= {"complete", "events", "ingest"}


async def _record(scope: Scope, message: Message) -> None:
    state, entry_id = scope["state"], new_id("audit")
    about, to = state.get("audit") or (Headers(raw=message["headers"]).get("location", scope["path"]), None)
    entry = AuditEntryBody(
        id=entry_id,
        at=time_of_id("audit", entry_id),
        key=state["key"].name if "key" in state else None,
        address=scope["client"][0] if scope.get("client") else "",
        action=scope["route"].name,
        about=about.encode("utf-8", "backslashreplace").decode(),  # a path may have lone surrogates
        to=to,
        status=message["status"],
        request_id=REQUEST_ID.get(),
    )
    path = f"{_folder(entry.at)}/{entry_id}.{entry.action}.{entry.key or ''}.json"
    data = entry.model_dump_json()
    try:
        await run_in_thread(state["services"].blobs.create, path, data.encode())
    except DomainError as error:
        log.error("not in the audit trail, since %s: %s", error.message, data)  # noqa: TRY400
        if scope["method"] == "GET":
            raise _NotRecorded from None


@router.get("", responses=error_responses(422, 503))
@needs("admin")
def list_audit(
    services: ServicesDep, access: AccessDep, query: Annotated[AuditQuery, Query()]
) -> Page[AuditEntryBody]:
    """List the calls that changed or downloaded something, newest first."""
    access.check_is_unlimited("the audit trail is about all models")
    found: list[AuditEntryBody] = []
    for number, path in enumerate(_paths(services.blobs, query)):
        if number == MAX_READ:
            problem = f"more than {MAX_READ:,} entries would have to be read"
            message = f"{problem}; narrow the time with since and until, or filter by key or action"
            raise InvalidInput(message, code="audit_range_too_large", param="about")
        with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
            entry = read_record(services.blobs, path, AuditEntryBody)
            if entry and any((query.about or "") in text for text in (entry.about, entry.to or "")):
                found.append(entry)
        if len(found) > query.limit:
            break
    return Page(data=found[: query.limit], has_more=len(found) > query.limit)


def _paths(blobs: Blobs, query: AuditQuery) -> Iterator[str]:
    """Yield the paths of the entries that match in everything but `about`, newest first."""
    if query.after is not None and not is_id("audit", query.after):
        message = f"{query.after!r} is not the id of an entry"
        raise InvalidInput(message, code="unknown_cursor", param="after")
    since, until = query.since or 0.0, _MAX_TIME_S if query.until is None else query.until
    folders = [f"audit/{day}" for day in blobs.folders("audit")]
    for folder in reversed([one for one in folders if _folder(since) <= one <= _folder(until)]):
        for path in reversed(blobs.paths(folder)):
            entry_id, _, rest = path.rpartition("/")[2].removesuffix(".json").partition(".")
            action, _, key = rest.partition(".")
            at = time_of_id("audit", entry_id)
            is_within = at is not None and since <= at <= until and entry_id < (query.after or "b")
            if is_within and query.action in (None, action) and query.key in (None, key):
                yield path


def _folder(at: float) -> str:
    return f"audit/{datetime.fromtimestamp(min(_MAX_TIME_S, max(0.0, at)), UTC):%Y-%m-%d}"


def delete_before(blobs: Blobs, days: float, now: float) -> int:
    """Delete the entries of days (in UTC) that are more than `days` ago, 0: of none; return their number."""
    first = _folder(now - days * 86_400.0) if days else ""
    folders = (f"audit/{day}" for day in blobs.folders("audit"))
    paths = [path for folder in folders if folder < first for path in blobs.paths(folder)]
    blobs.delete(*paths)
    return len(paths)
