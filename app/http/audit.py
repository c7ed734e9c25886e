"""The audit trail of calls: those that change something, and downloads.

    app.add_middleware(AuditTrail)

An entry is stored before the response begins, so every call that succeeded is on record. If it
cannot be stored, a download is refused; a change is made already then, so it succeeds, and is logged here.
"""

import logging
from functools import partial

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from nextchar.app.http.errors import error_response
from nextchar.app.http.middleware import HttpMiddleware
from nextchar.app.keys import Key
from nextchar.models.errors import DomainError, Unavailable
from nextchar.store.logs import REQUEST_ID

log = logging.getLogger("nextchar.audit")

DOWNLOADS = frozenset(
    {"export_alerts", "export_model", "get_file", "get_file_content", "get_report", "get_text"}
)
"""Reading operations that are recorded."""

UNRECORDED = frozenset(
    {
        "complete",
        "create_completion",
        "create_completion_with_model",
        "detokenize",
        "detokenize_with_model",
        "evaluate_model",
        "export_logs",
        "forget_stream",
        "infill",
        "infill_with_model",
        "ingest_lines_of_agent",
        "next_character",
        "score",
        "tokenize",
        "tokenize_with_model",
    }
)
"""Operations other than GET that are not recorded: they compute, or accept lines of agents."""

_READING = ("GET", "HEAD", "OPTIONS")


class _NotRecorded(Exception):
    """A download that is not on record must not begin."""


class AuditTrail(HttpMiddleware):
    """Records successful calls; see the module."""

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_and_record(message: Message) -> None:
            if message["type"] == "http.response.start" and _is_recorded(scope, message["status"]):
                await _record(scope, message)
            await send(message)

        try:
            await self._app(scope, receive, send_and_record)
        except _NotRecorded:
            error = Unavailable(
                "this download cannot be recorded in the audit trail now; try again in a moment",
                code="storage_unavailable",
            )
            await error_response(error)(scope, receive, send)


def set_audit_details(request: Request, *, about: str, to: str | None = None) -> None:
    """Set what the entry of a call is about, if its path has a name that can mean another thing later.

    `about` and `to` are paths, as in `AuditEntry`.
    """
    request.scope["state"]["audit"] = (about, to)


def _is_recorded(scope: Scope, status: int) -> bool:
    if not 200 <= status < 300 or scope["method"] in ("HEAD", "OPTIONS"):
        return False
    name = getattr(scope.get("route"), "name", "")
    return name in DOWNLOADS if scope["method"] == "GET" else name not in UNRECORDED


async def _record(scope: Scope, message: Message) -> None:
    state = scope["state"]
    key: Key | None = state.get("key")
    about, to = state.get("audit") or (Headers(raw=message["headers"]).get("location", scope["path"]), None)
    record = partial(
        state["services"].audit.record,
        key=key.name if key else None,
        address=scope["client"][0] if scope.get("client") else "",
        action=scope["route"].name,
        about=about,
        to=to,
        status=message["status"],
        request_id=REQUEST_ID.get(),
    )
    try:
        await run_in_threadpool(record)
    except DomainError as error:
        what = f"{record.keywords['key'] or 'a caller without a key'}: {scope['route'].name} {about}"
        log.error("not in the audit trail, since %s: %s", error.message, what)  # noqa: TRY400
        if scope["method"] in _READING:
            raise _NotRecorded from None
