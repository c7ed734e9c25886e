"""Who makes a request, when it has arrived, and whose turn it is."""

import inspect
import time
from collections.abc import AsyncIterator

from fastapi import Request

from nextchar.app.http.connections import BoundedHttpProtocol
from nextchar.app.http.fair_threads import current_client


def client_of(request: Request) -> str:
    """Return the client's identity, its API key or address: clients share a busy model equally."""
    key = getattr(request.state, "key", None)
    if key is not None:
        return f"key {key.name}"
    return request.client.host if request.client else ""


def user_of(request: Request) -> str:
    """Return what tells the client's end users apart: X-Document, the id of a tab or document, if any."""
    return request.headers.get("x-document", "")


def arrived_s_of(request: Request) -> float:
    """Return when the last byte of a request was received (by a server that notes it), as `perf_counter`."""
    connection: BoundedHttpProtocol | None = getattr(request.state, "connection", None)
    return connection.arrived_s if connection else time.perf_counter()


async def thread_turn(request: Request) -> AsyncIterator[None]:
    """Have a route's function that runs in threads wait for its client's turn."""
    if inspect.iscoroutinefunction(request.scope["endpoint"]):
        yield
    else:
        async with current_client().calls:
            yield
