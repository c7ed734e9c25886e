"""Entries of the audit trail, made by its own middleware."""

import asyncio
from types import SimpleNamespace

from starlette.types import Message, Receive, Scope, Send

from nextchar.app.access.audit import AuditEntryBody, AuditTrail
from nextchar.store.blobs import Blobs


def record_call(
    blobs: Blobs, about: str, *, action: str = "delete_model", key: str | None = None, to: str | None = None
) -> AuditEntryBody:
    """Have a call recorded that has just succeeded; return its entry."""
    before = set(blobs.paths("audit"))

    async def succeed(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> Message:
        raise AssertionError("nothing reads the body")

    async def send(_: Message) -> None:
        assert len(blobs.paths("audit")) == len(before) + 1, "it is recorded before the response begins"

    scope: Scope = {"type": "http", "method": "DELETE", "path": about, "route": SimpleNamespace(name=action)}
    scope["state"] = {"services": SimpleNamespace(blobs=blobs), "audit": (about, to)}
    scope["state"] |= {"key": SimpleNamespace(name=key)} if key else {}
    asyncio.run(AuditTrail(succeed)(scope, receive, send))
    (path,) = set(blobs.paths("audit")) - before
    return AuditEntryBody.model_validate_json(blobs.read_record(path))
