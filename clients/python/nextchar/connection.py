"""What all calls share: one request and its retries, lists, downloads and streams of events.

How calls reach a server over httpx. They are coroutines over a `Transport`, written once for both clients.

Nothing suspends a coroutine over a `BlockingTransport`, so `run` and `iterate` need no event loop.
`AsyncioTransport` is the one for asyncio.
"""

import asyncio
import functools
import math
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import aclosing, contextmanager
from json import JSONDecodeError, loads
from typing import Any, Protocol, TypeVar, cast
from urllib.parse import quote

import httpx

from nextchar.errors import (
    NextcharError,
    ServerError,
    ServerUnreachable,
    Timeout,
    error_in_stream,
    error_of_response,
)
from nextchar.lines import decode_events
from nextchar.upload import Content

T = TypeVar("T")

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Transport(Protocol):
    """Carries out what a call waits for."""

    async def send(self, message: dict[str, Any]) -> httpx.Response:
        """Send a request, given as the arguments of httpx's `build_request`; return its open response."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""


class BlockingTransport:
    """Sends requests with blocking calls."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    async def send(self, message: dict[str, Any]) -> httpx.Response:
        """As `Transport.send`."""
        response = self._http.send(self._http.build_request(**message), stream=True)
        response.stream = _AwaitableStream(cast(httpx.SyncByteStream, response.stream))
        return response

    async def sleep(self, seconds: float) -> None:
        """As `Transport.sleep`."""
        time.sleep(seconds)  # noqa: ASYNC251 - no event loop waits


class _AwaitableStream(httpx.AsyncByteStream):
    """The body of a response to httpx.Client with the methods of one to httpx.AsyncClient."""

    def __init__(self, stream: httpx.SyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._stream:
            yield piece

    async def aclose(self) -> None:
        self._stream.close()


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return the result of a coroutine that is never suspended."""
    try:
        coroutine.send(None)
    except StopIteration as finished:
        return cast(T, finished.value)
    raise AssertionError("a call over a blocking transport is not suspended")


def iterate(values: AsyncGenerator[T, None]) -> Generator[T, None, None]:
    """Yield the values of a generator that is never suspended. Closing this one closes it."""
    try:
        while True:
            try:
                value = run(values.__anext__())
            except StopAsyncIteration:
                return
            yield value
    finally:
        run(values.aclose())


def http_options(server: str, api_key: str | None) -> dict[str, Any]:
    """Return the arguments of httpx's clients for a server. A proxy is not used for this machine itself."""
    headers = {"Authorization": f"Bearer {api_key.strip()}"} if api_key and api_key.strip() else {}
    is_local = httpx.URL(server).host in _LOOPBACK
    return {"base_url": server, "headers": headers, "trust_env": not is_local}


@contextmanager
def setup_errors(server: str) -> Iterator[None]:
    """Raise NextcharError for an address, key or proxy that httpx does not accept."""
    try:
        yield
    except (httpx.InvalidURL, UnicodeEncodeError, TypeError):
        raise NextcharError(f"{server!r} is not a server's address or the key is not plain ASCII") from None
    except (ImportError, ValueError) as error:
        raise NextcharError(f"the proxy that the environment names cannot be used: {error}") from None


@contextmanager
def http_errors(server: str) -> Iterator[None]:
    """Raise what httpx raises as NextcharError."""
    try:
        yield
    except httpx.UnsupportedProtocol:
        raise NextcharError(f"{server!r} is not an address; it begins with http:// or https://") from None
    except httpx.LocalProtocolError as error:
        raise NextcharError(f"the request cannot be sent as it is: {error}") from error
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise ServerUnreachable(
            f"no response at {server}; start the service with `nextchar serve`, or give another address"
        ) from error
    except httpx.TimeoutException as error:
        raise Timeout(f"{server} did not respond in time; retry, or request less") from error
    except (httpx.TransportError, httpx.StreamError, httpx.DecodingError) as error:
        raise ServerUnreachable(f"the connection to {server} was lost; retry") from error
    except UnicodeEncodeError:
        raise NextcharError("the request holds bytes that are not UTF-8") from None
    except (RuntimeError, ValueError, TypeError, httpx.InvalidURL) as error:
        # Closed by another thread, a path beyond all bounds, or what JSON cannot say.
        raise NextcharError(f"the request could not be sent: {error}") from error


_PIECE_BYTES = 1 << 16


class AsyncioTransport:
    """Sends requests on the running event loop."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def send(self, message: dict[str, Any]) -> httpx.Response:
        """As `Transport.send`."""
        content = message.get("content")
        if content is not None and not isinstance(content, bytes):
            message = {**message, "content": _in_threads(content)}
        return await self._http.send(self._http.build_request(**message), stream=True)

    async def sleep(self, seconds: float) -> None:
        """As `Transport.sleep`."""
        await asyncio.sleep(seconds)


async def _in_threads(content: Content) -> AsyncIterator[bytes]:
    """Yield a body that is read by blocking calls, each made in a thread."""
    assert not isinstance(content, bytes)
    pieces = iter(lambda: content.read(_PIECE_BYTES), b"") if hasattr(content, "read") else iter(content)
    while piece := await asyncio.to_thread(next, pieces, b""):
        yield piece


EVENT_STREAM = {"Accept": "text/event-stream"}
LONG_TIMEOUT_S = 1800.0  # of calls that work for minutes before they respond
FIRST_DELAY_S = 0.25
MAX_DELAY_S = 4.0
MAX_RETRY_AFTER_S = 30.0  # a longer wait is for the caller to decide
_CONNECT_TIMEOUT_S = 5.0
_TIMEOUT_S = 60.0  # for the next bytes of a response; streams of events have pings in between
_PAGE = 100  # items in one page of a list


class Connection:
    """Requests to one server.

    Attributes:
        server: the service's address.
        patience_s: for how long a stream tries to get back to a server that is away.
        default_document: the id of what is completed, in calls that name none.
    """

    def __init__(self, transport: Transport, server: str, max_retries: int, patience_s: float) -> None:
        self.server = server
        self.patience_s = patience_s
        self.transport = transport
        self._max_retries = max_retries
        self.default_document = secrets.token_urlsafe(16)

    async def _fetch(
        self, _kind: type[T], method: str, path: str, *, can_retry: bool = False, **message: Any
    ) -> T:
        """Return the JSON of a response, of type `_kind`; None for the empty response to a DELETE.

        `can_retry` says whether a second copy of the request does no harm; `message` is as for `_open`.
        """
        body = await self._fetch_bytes(method, path, can_retry=can_retry, **message)
        if not body and method == "DELETE":
            return cast(T, None)
        try:
            return cast(T, loads(body))
        except (JSONDecodeError, UnicodeDecodeError):
            raise NextcharError(
                f"the server at {self.server} is not nextchar; give the address of nextchar"
            ) from None

    async def _get(self, kind: type[T], path: str, **params: str | float) -> T:
        return await self._fetch(kind, "GET", path, params=params, can_retry=True)

    async def _fetch_bytes(self, method: str, path: str, *, can_retry: bool, **message: Any) -> bytes:
        async def attempt() -> bytes:
            async with aclosing(await self._open(method, path, **message)) as response:
                with http_errors(self.server):
                    return await response.aread()

        return await self._retry(attempt, max_retries=self._max_retries if can_retry else 0)

    async def _download(self, path: str, **params: str) -> AsyncGenerator[bytes, None]:
        """Yield the body of a response in pieces; only opening it is retried."""
        attempt = functools.partial(self._open, "GET", path, params=params)
        async with aclosing(await self._retry(attempt, max_retries=self._max_retries)) as response:
            async for piece in self._pieces(response):
                yield piece

    async def _open(
        self, method: str, path: str, *, timeout_s: float = _TIMEOUT_S, **message: Any
    ) -> httpx.Response:
        """Send a request; `message` are arguments of httpx's `build_request`. Return the open response.

        Raises ServerError for a response whose status is an error.
        """
        timeout = httpx.Timeout(timeout_s, connect=_CONNECT_TIMEOUT_S)
        with http_errors(self.server):
            message |= {"method": method, "url": path, "timeout": timeout}
            response = await self.transport.send(message)
            if response.status_code < 400:
                return response
            async with aclosing(response):
                body = await response.aread()
        raise error_of_response(response.status_code, response.headers, body)

    async def _pieces(self, response: httpx.Response) -> AsyncGenerator[bytes, None]:
        pieces = response.aiter_bytes()
        while True:
            with http_errors(self.server):
                piece = await anext(pieces, None)
            if piece is None:
                return
            yield piece

    async def _events(self, response: httpx.Response) -> AsyncGenerator[tuple[str, Any], None]:
        """Yield the kind and the JSON of server-sent events. Raises ServerError for one that is an error."""
        async for kind, data in decode_events(self._pieces(response)):
            if kind == "error":
                raise error_in_stream(loads(data))
            yield kind, loads(data)

    async def _pages(self, path: str, **filters: str | float) -> AsyncGenerator[Any, None]:
        params: dict[str, str | float] = {"limit": _PAGE, **filters}
        while True:
            page = await self._get(dict[str, Any], path, **params)
            for item in page["data"]:
                yield item
            if not page["has_more"] or not page["data"]:
                return
            params["after"] = page["data"][-1]["id"]

    async def _retry(self, attempt: Callable[[], Awaitable[T]], *, max_retries: int) -> T:
        outage = Outage(math.inf)
        for _ in range(max_retries):
            try:
                return await attempt()
            except NextcharError as error:
                retry_after_s = getattr(error, "retry_after_s", None) or 0.0
                if isinstance(error, Timeout) or retry_after_s > MAX_RETRY_AFTER_S:
                    raise
                delay_s = outage.delay_s(error)
            await self.transport.sleep(delay_s)
        return await attempt()


class Outage:
    """How long to wait before the next attempt while a server is away, and when to give up."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._delay_s = FIRST_DELAY_S
        self.began_at: float | None = None  # by time.monotonic; None: the server is not away

    def end(self) -> float | None:
        """Note that the server works; return for how many seconds it was away, if it was."""
        away_s = None if self.began_at is None else time.monotonic() - self.began_at
        self.began_at, self._delay_s = None, FIRST_DELAY_S
        return away_s

    def delay_s(self, error: NextcharError) -> float:
        """Return how long to wait; raise the error if it will not pass or the server is away for too long."""
        now = time.monotonic()
        self.began_at = self.began_at or now
        if not error.is_retryable or now - self.began_at > self._patience_s:
            raise error
        delay_s, self._delay_s = self._delay_s, min(2 * self._delay_s, MAX_DELAY_S)
        if isinstance(error, ServerError) and error.retry_after_s is not None:
            delay_s = max(delay_s, min(error.retry_after_s, MAX_RETRY_AFTER_S))
        return delay_s


def path_of(collection: str, name: str, *more: str) -> str:
    """Return the path of a resource. Raises NextcharError for a name that cannot be a segment of one."""
    for part in (name, *more):
        if not part.strip("."):  # an empty one names another route, a dot or two would be resolved away
            raise NextcharError(f"{part!r} is not a name or an id")
    quoted = (quote(part, safe="@", errors="surrogateescape") for part in (name, *more))
    return "/".join(["/v1", collection, *quoted])


def is_exact(reference: str) -> bool:
    """Return whether a reference is the id of a corpus or `name@version`.

    A bare name means its newest version, so a second DELETE would delete the version before.
    """
    return reference.startswith("corpus_") or reference.partition("@")[2].isdecimal()


def omit_none(**fields: Any) -> dict[str, Any]:
    """Return the fields that are not None; the service has the defaults of the others."""
    return {name: value for name, value in fields.items() if value is not None}
