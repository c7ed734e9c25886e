"""What one application is made of: what it shares with the worker, what all routes share, parts of rooms.

With them is what routes ask of a request: who makes it, when it arrived, whether its client still waits.
"""

import asyncio
import inspect
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Annotated, Any, TypeVar, cast

import anyio
from fastapi import Depends, Request
from redis import Redis
from starlette.requests import ClientDisconnect
from starlette.types import Scope

from nextchar.app.core_settings import CoreSettings
from nextchar.app.http.connections import BoundedHttpProtocol, Connections
from nextchar.app.http.incoming_body import BodyMemory
from nextchar.app.http.limits import DiskWatermark
from nextchar.app.http.threads import CLIENT, Pools, current_client
from nextchar.models.runtime.requests import Caller
from nextchar.store.background import BackgroundLoop
from nextchar.store.calibrations import Calibrations
from nextchar.store.corpora import Corpora
from nextchar.store.jobs import Jobs
from nextchar.store.live import EventLog, Live
from nextchar.store.model_file_cache import ModelFileCache
from nextchar.store.models import Models
from nextchar.store.open_blobs import open_blobs
from nextchar.store.queue import TrainingQueue, connect

T = TypeVar("T")
S = TypeVar("S", bound=CoreSettings)


class Services:
    """Built once when the application starts; passed to routes as `ServicesDep`. Redis need not respond yet.

    A room adds its parts, and gets those of the rooms before it, by class:

        services.add(Engines(...))
        services[Engines].acquire(name)

    Attributes:
        stopping: set when the server shuts down; endless streams then end.
        kernels_loaded: the service is not ready before it is set; None: it does not load them.
        loops: started and stopped with the application, as are `tasks`, coroutines of the event loop.
        starting: functions that are called when the application starts.
        hints: by the code of a NotFound: returns the end of its message, for the name that was not found.

    Raises:
        OSError, DomainError: the data folder or the storage cannot be used.
    """

    def __init__(
        self,
        settings: CoreSettings,
        *,
        stopping: threading.Event,
        kernels_loaded: threading.Event | None = None,
    ) -> None:
        self.settings, self.stopping, self.kernels_loaded = settings, stopping, kernels_loaded
        self._parts: dict[type, object] = {}
        self._closing: list[Callable[[], object] | Callable[[], Awaitable[object]]] = []
        self.loops: list[BackgroundLoop] = []
        self.starting: list[Callable[[], object]] = []
        self.hints: dict[str, Callable[[Request, str], str]] = {}
        self.blobs = blobs = open_blobs(settings.blobs_url)
        self.redis = self.connect(decode_responses=True)
        self.closes(self.redis.close)
        self.corpora, self.jobs = Corpora(blobs), Jobs(blobs)
        self.models = Models(blobs, cache=ModelFileCache.of(settings))
        self.calibrations = Calibrations(blobs)
        self.live, self.event_log = Live(self.redis), EventLog(blobs)
        self.queue = TrainingQueue(self.connect())
        self.watermark = DiskWatermark(blobs, settings.data_dir, settings.min_free_bytes)
        self.connections = Connections(
            max_connections=settings.max_connections,
            header_timeout_s=settings.header_timeout_s,
            max_unread_bytes=settings.body_memory_bytes,
        )
        self.tasks: list[Callable[[], Coroutine[Any, Any, None]]] = [self.connections.watch]
        self.body_memory = BodyMemory(limit_bytes=settings.body_memory_bytes)
        self.pools = Pools()
        self.closes(self.pools.close)

    def connect(self, **options: Any) -> Redis:
        """Return a client of Redis."""
        return connect(self.settings.redis_url, **options)

    def add(self, part: T) -> T:
        """Make a part available under its class; return it."""
        self._parts[type(part)] = part
        return part

    def __getitem__(self, kind: type[T]) -> T:
        return cast(T, self._parts[kind])

    def find(self, kind: type[T]) -> T | None:
        """Return a part; None if no room has added it."""
        return cast(T | None, self._parts.get(kind))

    def parts(self) -> list[object]:
        """Return what the rooms have added."""
        return list(self._parts.values())

    def settings_of(self, kind: type[S]) -> S:
        """Return the settings as those of a room."""
        assert isinstance(self.settings, kind), f"the application has no {kind.__name__}"
        return self.settings

    def closes(self, close: Callable[[], object] | Callable[[], Awaitable[object]]) -> None:
        """Have `close` called when the application stops, in a thread unless it is asynchronous."""
        self._closing.append(close)

    async def close(self) -> None:
        """Stop the loops and close the parts, the last one first."""
        for loop in self.loops:
            loop.stop()
        for close in reversed(self._closing):
            if isinstance(closed := await anyio.to_thread.run_sync(close), Awaitable):
                await closed


# async although nothing is awaited: FastAPI runs plain functions in a worker thread.
async def get_services(request: Request) -> Services:
    """Return the services of the application that serves this request."""
    return cast(Services, request.scope["state"]["services"])


ServicesDep = Annotated[Services, Depends(get_services)]


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


def caller_of(request: Request) -> Caller:
    """Return the client with its end user: X-Document, the id of a tab or document, tells these apart."""
    return Caller(client_of(request), request.headers.get("x-document", ""))


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
