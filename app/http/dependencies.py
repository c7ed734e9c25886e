"""Who makes a request, when it has arrived, whose turn it is, and whether its client still waits."""

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.types import Scope

from nextchar.app.http.connections import BoundedHttpProtocol
from nextchar.app.http.threads import CLIENT, current_client

T = TypeVar("T")


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


async def cancel_on_disconnect(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of `work`; cancel it and raise ClientDisconnect once the client has disconnected.

    Work that completes although it is cancelled returns its result: the audit trail needs the call's end.
    `work` runs in the calling task and has ended, with its cleanup, when this returns or raises. The
    request's body must have been read before.
    """
    task = asyncio.current_task()
    assert task is not None
    is_disconnected = False

    def cancel_work(_: asyncio.Future[Any]) -> None:
        nonlocal is_disconnected
        is_disconnected = True
        task.cancel()

    # After the body, the next message can only be http.disconnect.
    disconnect = asyncio.ensure_future(request.receive())
    disconnect.add_done_callback(cancel_work)
    try:
        result = await work
    except BaseException:
        if not is_disconnected:
            raise
        task.uncancel()
        raise ClientDisconnect from None
    finally:
        disconnect.remove_done_callback(cancel_work)
        disconnect.cancel()
    if is_disconnected:
        task.uncancel()
    return result
