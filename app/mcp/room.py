"""Tools for AI agents at `/mcp`, by MCP's streamable HTTP, if the package `mcp` is installed.

There are no sessions. Each call of a tool is a call of this API with the caller's key, so its scopes, limits
and audit entries are those of that call; without a key the endpoint itself only describes the tools.
"""

from contextvars import ContextVar
from functools import cache
from importlib.util import find_spec
from typing import Any

import httpx
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from nextchar.app.core_settings import CoreSettings
from nextchar.app.http.rules import SMALL_JSON, Rule
from nextchar.app.room import Room
from nextchar.client import AsyncClient

PATH = "/mcp"

_FORWARDED = (b"authorization", b"host", b"x-api-key", b"x-request-id")
"""The headers of a request that its calls of the API have, too."""


_SCOPE: ContextVar[Scope] = ContextVar("request of a tool")


class AgentEndpoint:
    """An ASGI application that serves the tools."""

    rule = Rule(None, SMALL_JSON)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        from mcp.server.transport_security import TransportSecuritySettings

        security = TransportSecuritySettings(enable_dns_rebinding_protection=False)  # HostCheck's task
        server = _server()
        server.streamable_http_app(json_response=True, stateless_http=True, transport_security=security)
        _SCOPE.set(scope)  # tools run in copies of this context
        async with (sessions := server.session_manager).run():  # of this request alone
            await sessions.handle_request(scope, receive, send)


@cache
def _server() -> Any:  # made at the first request: the package takes half a second to import
    from nextchar.mcp import agent_server

    return agent_server(_client)


def _client() -> AsyncClient:
    """Return a client of the application that serves the request of a tool, with the key of the request."""
    outer = _SCOPE.get()
    state = {name: outer["state"][name] for name in ("services", "rules")}
    forwarded = [header for header in outer["headers"] if header[0] in _FORWARDED]

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        own = [header for header in scope["headers"] if header[0] != b"host"]
        inner = {**scope, "state": {**state}, "headers": [*own, *forwarded]}
        await outer["app"](inner, receive, send)

    transport = httpx.ASGITransport(call, raise_app_exceptions=False, client=outer.get("client") or ("", 0))
    return AsyncClient("http://localhost", transport=transport)


def _mount(app: FastAPI, _: CoreSettings) -> None:
    if find_spec("mcp"):
        app.add_route(PATH, AgentEndpoint(), methods=["POST"], include_in_schema=False)  # type: ignore[arg-type]


ROOM = Room("mcp", mount=_mount)
