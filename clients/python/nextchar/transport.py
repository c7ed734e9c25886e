"""How calls reach a server over httpx. They are coroutines over a `Transport`, written once for both clients.

Nothing suspends a coroutine over a `BlockingTransport`, so `run` and `iterate` need no event loop.
`async_client` has the transport for asyncio.
"""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Generator, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar, cast

import httpx

from nextchar.errors import NextcharError, ServerUnreachable, Timeout

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
