"""Whose request is served, and its calls in threads: a flood of one client leaves threads to others.

Calls that read and write records run in the threads of anyio's default limiter. At most CALLS_PER_CLIENT of a
client run or wait there; the others wait for these.
"""

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import ParamSpec, TypeVar

import anyio

P = ParamSpec("P")
T = TypeVar("T")

CALLS_PER_CLIENT = 30


class Client:
    """A key ("key <name>") or an address, with its turns in the threads of one event loop."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.calls = asyncio.Semaphore(CALLS_PER_CLIENT)
        self.large_bodies = asyncio.Semaphore(1)


CLIENT: ContextVar[Client] = ContextVar("client")
"""The client of the request that is served in this context."""


def current_client() -> Client:
    """Return the client of the request that is served in this context; outside of requests, a new one."""
    return CLIENT.get(None) or Client()


def current_key() -> str:
    """Return the name of the API key of the request that is served in this context, "" without one."""
    kind, _, name = current_client().name.partition(" ")
    return name if kind == "key" else ""


async def run_in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return a function's result, from a thread when it is the client's turn.

    Functions of routes that are not async run in threads with their turn taken (`thread_turn`).
    """
    async with current_client().calls:
        return await anyio.to_thread.run_sync(partial(function, *args, **kwargs))
