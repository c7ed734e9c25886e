import asyncio
from collections.abc import Awaitable, Callable

import pytest
from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.types import Message

from nextchar.app.http.services import cancel_on_disconnect


def request_of(receive: Callable[[], Awaitable[Message]]) -> Request:
    return Request({"type": "http"}, receive)


async def stays() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


async def is_gone() -> Message:
    return {"type": "http.disconnect"}


def test_work_of_a_connected_client_returns_or_raises() -> None:
    async def divide(by: int) -> float:
        await asyncio.sleep(0)
        return 1 / by

    assert asyncio.run(cancel_on_disconnect(request_of(stays), divide(2))) == 0.5
    with pytest.raises(ZeroDivisionError):
        asyncio.run(cancel_on_disconnect(request_of(stays), divide(0)))


def test_work_is_cancelled_with_its_cleanup_on_disconnect_and_its_error_is_dropped() -> None:
    cleaned_up: list[bool] = []
    unretrieved: list[object] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned_up.append(True)
            raise ZeroDivisionError

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unretrieved.append(context))
        with pytest.raises(ClientDisconnect):
            await cancel_on_disconnect(request_of(is_gone), work())
        assert cleaned_up == [True]

    asyncio.run(run())
    assert not unretrieved
