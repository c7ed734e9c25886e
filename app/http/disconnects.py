"""Cancellation of work whose client has disconnected."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

T = TypeVar("T")


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
