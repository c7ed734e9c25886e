"""Carries out operations over httpx with blocking calls. `async_transport` does so for asyncio."""

import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx

from nextchar.effects import Effect, Emit, Head, Open, Operation, Read, Request, Sleep, Stream, Take
from nextchar.errors import NextcharError, ServerUnreachable, Timeout

T = TypeVar("T")

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_CONNECT_TIMEOUT_S = 5.0


def http_options(server: str, api_key: str | None) -> dict[str, Any]:
    """Return the arguments of httpx's clients for a server. A proxy is not used for this machine itself."""
    headers = {"Authorization": f"Bearer {api_key.strip()}"} if api_key and api_key.strip() else {}
    return {
        "base_url": server,
        "headers": headers,
        "trust_env": httpx.URL(server).host not in _LOOPBACK,
    }


@contextmanager
def setup_errors(server: str) -> Iterator[None]:
    """Raise NextcharError for an address, key or proxy that httpx does not accept."""
    try:
        yield
    except (httpx.InvalidURL, UnicodeEncodeError, TypeError):
        raise NextcharError(f"{server!r} is not a server's address or the key is not plain ASCII") from None
    except (ImportError, ValueError) as error:
        raise NextcharError(f"the proxy that the environment names cannot be used: {error}") from None


def run(http: httpx.Client, operation: Operation[T]) -> T:
    """Carry out an operation; return its result."""
    connection = _Connection(http)
    answer: Any = None
    error: NextcharError | None = None
    try:
        while True:
            effect = next_effect(operation, answer, error)
            answer, error = None, None
            try:
                answer = connection.perform(effect)
            except NextcharError as caught:
                error = caught
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    finally:
        operation.close()
        connection.close()


def iterate(http: httpx.Client, stream: Stream[T]) -> Generator[T, None, None]:
    """Carry out a stream and yield what it emits. Closing the generator closes the connection."""
    connection = _Connection(http)
    answer: Any = None
    error: NextcharError | None = None
    try:
        while True:
            try:
                effect = next_effect(stream, answer, error)
            except StopIteration:
                return
            answer, error = None, None
            if isinstance(effect, Emit):
                yield effect.value
                continue
            try:
                answer = connection.perform(effect)
            except NextcharError as caught:
                error = caught
    finally:
        stream.close()
        connection.close()


def next_effect(
    operation: Generator[Effect | Emit[T], Any, Any], answer: Any, error: NextcharError | None
) -> Any:
    """Give an operation the answer to its last effect, or what it failed with; return its next effect."""
    return operation.throw(error) if error is not None else operation.send(answer)


class _Connection:
    """Performs the effects of one operation."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http
        self._response: httpx.Response | None = None
        self._pieces: Iterator[bytes] = iter(())

    def perform(self, effect: Effect) -> Any:
        match effect:
            case Open(request):
                self.close()
                with http_errors(self._http):
                    message = self._http.build_request(**message_of(request))
                    self._response = self._http.send(message, stream=True)
                self._pieces = self._response.iter_bytes()
                return Head(self._response.status_code, self._response.headers)
            case Read():
                with http_errors(self._http):
                    return next(self._pieces, b"")
            case Take(source, max_bytes):
                return source.take(max_bytes)
            case Sleep(seconds):
                time.sleep(seconds)
        return None

    def close(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None


def message_of(request: Request[Any]) -> dict[str, Any]:
    """Return the arguments of httpx's `build_request`."""
    message: dict[str, Any] = {
        "method": request.method,
        "url": request.path,
        "headers": dict(request.headers),
        "timeout": httpx.Timeout(request.timeout_s, connect=_CONNECT_TIMEOUT_S),
    }
    if request.params:
        message["params"] = dict(request.params)
    if request.json is not None:
        message["json"] = request.json
    if request.content is not None:
        message["content"] = request.content
    return message


@contextmanager
def http_errors(http: httpx.Client | httpx.AsyncClient) -> Iterator[None]:
    """Raise what httpx raises as NextcharError."""
    server = str(http.base_url).rstrip("/")
    try:
        yield
    except httpx.UnsupportedProtocol:
        raise NextcharError(f"{server!r} is not an address; it begins with http:// or https://") from None
    except httpx.LocalProtocolError as error:
        raise NextcharError(f"the request cannot be sent as it is: {error}") from error
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise ServerUnreachable(
            f"no answer at {server}; start the service with `nextchar serve`, or give another address"
        ) from error
    except httpx.TimeoutException as error:
        raise Timeout(f"{server} took too long to answer; ask again, or ask for less") from error
    except (httpx.TransportError, httpx.StreamError, httpx.DecodingError) as error:
        raise ServerUnreachable(f"the connection to {server} broke; ask again") from error
    except UnicodeEncodeError:
        raise NextcharError("the request holds bytes that are not UTF-8") from None
    except (RuntimeError, ValueError, TypeError, httpx.InvalidURL) as error:
        # Closed by another thread, a path beyond all bounds, or what JSON cannot say.
        raise NextcharError(f"the request could not be sent: {error}") from error
