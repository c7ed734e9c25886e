"""Who makes a request, when it has arrived, and whose turn it is."""

import inspect
import time
from collections.abc import AsyncIterator

from fastapi import Request
from starlette.types import Scope

from nextchar.app.http.connections import BoundedHttpProtocol
from nextchar.app.http.fair_threads import CLIENT, current_client


def name_of(scope: Scope) -> str:
    """Return the client's identity, its API key or address."""
    key = scope["state"].get("key")
    if key is not None:
        return f"key {key.name}"
    client = scope.get("client")
    return str(client[0]) if client else ""


def client_of(request: Request) -> str:
    """Return the client's identity: clients share a busy model equally."""
    client = CLIENT.get(None)
    return client.name if client else name_of(request.scope)


def user_of(request: Request) -> str:
    """Return what tells the client's end users apart: X-Document, the id of a tab or document, if any."""
    return request.headers.get("x-document", "")


def arrived_s_of(request: Request) -> float:
    """Return when the last byte of a request was received (by a server that notes it), as `perf_counter`."""
    connection: BoundedHttpProtocol | None = request.scope["state"].get("connection")
    return connection.arrived_s if connection else time.perf_counter()


async def thread_turn(request: Request) -> AsyncIterator[None]:
    """Have a route's function that runs in threads wait for its client's turn."""
    if inspect.iscoroutinefunction(request.scope["endpoint"]):
        yield
    else:
        async with current_client().calls:
            yield
