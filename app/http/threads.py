"""Whose request is served, and its calls in threads: a flood of one client leaves threads to others.

Calls that read and write records run in the threads of anyio's default limiter. At most RECORDS_OF_CLIENT of
a client run or wait there; the others wait for these. Other kinds of work have their own threads (`Pools`),
in the numbers of `nextchar.app.http.limits`: none waits for a longer kind.

Of long work (`LimitedWork`) few run at a time. There clients take turns, and each has a queue of its own, so
none is refused or delayed by a flood of another. A request waits for its work on the event loop. If its task
is cancelled, because the client has disconnected or the server shuts down, queued work is dropped and running
work ends at its next `check`. Work that has made its last check completes: its result is returned, so that
what it has changed is not lost from sight.

Downloads of large files of models: a few at a time, and none for a client that does not read.

A file is read and checked in memory, then sent from a temporary file, so a slow client holds a place and disk
space, but no memory, and a client that takes longer than PIECE_TIMEOUT_S for a piece loses its place.
"""

import asyncio
import contextlib
import contextvars
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import IO, Any, ParamSpec, TypeVar

import anyio
from anyio import CapacityLimiter
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from nextchar.app.http.limits import DOWNLOADS, LARGE_BODIES, RECORDS_OF_CLIENT, Limit
from nextchar.store.blobs import domain_errors, temporary_file

P = ParamSpec("P")
T = TypeVar("T")

_MAX_QUEUES = 8  # of clients that may be full; above that, work of any client is refused

Check = Callable[[], None]
"""Called between steps of the work; raises Cancelled once the client no longer waits for the result."""


class Client:
    """A key ("key <name>") or an address, with its turns in the threads of one event loop."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.calls = asyncio.Semaphore(RECORDS_OF_CLIENT.running)
        self.large_bodies = asyncio.Semaphore(LARGE_BODIES.running)


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


class Cancelled(Exception):
    """The client no longer waits for this work."""


class LimitedWork:
    """Runs work of one kind: as many as its limit says at a time, with a queue for each client."""

    def __init__(self, limit: Limit) -> None:
        self._limit = limit
        self._threads = ThreadPoolExecutor(limit.running, thread_name_prefix=limit.name)
        self._lock = threading.Lock()
        self._queues: dict[str, deque[tuple[Future[Any], Callable[[], Any]]]] = {}  # the next client first
        self._pending: dict[Future[Any], str] = {}  # with the clients

    async def run(self, work: Callable[[Check], T]) -> T:
        """Return the result of `work`, which is called in a thread with its check.

        Raises:
            Busy: the client's queue is full.
        """
        client = current_client().name
        pending = list(self._pending.values())
        own, running, waiting = pending.count(client), self._limit.running, self._limit.waiting or 0
        if own >= running + waiting or len(pending) >= running + _MAX_QUEUES * waiting:
            raise self._limit.refusal(
                f"{own} {self._limit.name} of this client are running or waiting; try again later"
            )
        is_cancelled = threading.Event()

        def check() -> None:
            if is_cancelled.is_set():
                raise Cancelled

        # The queue keeps a cancelled call until its turn; it must not keep what the work holds.
        held = [work]
        context = contextvars.copy_context()
        future: Future[Any] = Future()
        self._pending[future] = client
        future.add_done_callback(self._pending.pop)
        with self._lock:
            self._queues.setdefault(client, deque()).append(
                (future, lambda: context.run(lambda: held.pop()(check)))
            )
        self._threads.submit(self._run_next)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            is_cancelled.set()
            if not future.cancel():  # it has begun
                with contextlib.suppress(Cancelled):
                    return await asyncio.wrap_future(future)
            raise
        finally:
            is_cancelled.set()
            held.clear()

    def close(self) -> None:
        """Drop queued work; running work ends at its next check."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for future in list(self._pending):
            future.cancel()

    def _run_next(self) -> None:
        """Run the next work of the client whose turn it is. Called once for each that is queued."""
        with self._lock:
            client = next(iter(self._queues))
            queue = self._queues.pop(client)
            future, work = queue.popleft()
            if queue:
                self._queues[client] = queue  # after all others
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(work())
            except BaseException as error:  # noqa: BLE001 -- raised where it is waited for
                future.set_exception(error)


class Pools:
    """The threads of one application, by kind of work. Each pool is made when it is first used."""

    def __init__(self) -> None:
        self._limiters: dict[Limit, CapacityLimiter] = {}
        self._queues: dict[Limit, LimitedWork] = {}
        self.downloads = Places(DOWNLOADS)

    def limiter(self, limit: Limit) -> CapacityLimiter:
        """Return the threads of work that waits in order of arrival, for `anyio.to_thread.run_sync`."""
        return self._limiters.get(limit) or self._limiters.setdefault(limit, CapacityLimiter(limit.running))

    def queue(self, limit: Limit) -> LimitedWork:
        """Return the threads of long work, in which clients take turns."""
        return self._queues.get(limit) or self._queues.setdefault(limit, LimitedWork(limit))

    def close(self) -> None:
        """End long work."""
        for queue in self._queues.values():
            queue.close()


MAX_SMALL_BYTES = 1 << 20
"""A smaller file is sent from memory and needs no place."""

PIECE_TIMEOUT_S = 30.0
"""Time within which a client must read each MiB."""

_PIECE_BYTES = 1 << 20


class Places:
    """The places of what is in progress, none of which waits. Safe to use from several threads."""

    def __init__(self, limit: Limit) -> None:
        self._limit = limit
        self._free = threading.BoundedSemaphore(limit.running)

    def acquire(self) -> None:
        """Take a place. Raises Busy: there is none."""
        if not self._free.acquire(blocking=False):
            raise self._limit.refusal(
                f"{self._limit.running} large {self._limit.name} are in progress; try again later"
            )

    def release(self) -> None:
        """Give a place back."""
        self._free.release()


def download(
    places: Places,
    write: Callable[[IO[bytes]], object],
    *,
    folder: Path,
    media_type: str,
    headers: Mapping[str, str],
) -> Response:
    """Return the response that sends what `write` writes to a temporary file in `folder`.

    One of the `places` is taken until the response has ended.

    Raises:
        Busy: there is no place. StorageFull, Unavailable, and what `write` raises.
    """
    places.acquire()
    with ExitStack() as stack, domain_errors():
        stack.callback(places.release)
        file = stack.enter_context(temporary_file(folder))
        write(file)
        length = file.tell()
        file.seek(0)
        return _Download(file, stack.pop_all(), dict(headers) | {"Content-Length": str(length)}, media_type)


class _Download(Response):
    def __init__(
        self, file: IO[bytes], exit_: ExitStack, headers: Mapping[str, str], media_type: str
    ) -> None:
        self._file, self._exit = file, exit_
        super().__init__(headers=headers, media_type=media_type)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send the file, then give the place back."""
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            read = partial(self._file.read, _PIECE_BYTES)
            while piece := await run_in_thread(read):
                async with asyncio.timeout(PIECE_TIMEOUT_S):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except (OSError, TimeoutError):
            pass  # the client has disconnected or does not read
        finally:
            self._exit.close()
