"""JSON bodies, which may contain a whole document: none blocks the event loop for long, small ones are fast.

A client that completes at every keystroke sends its whole document each time. Bodies over LARGE_BYTES are
parsed in a worker thread, one at a time: parsing holds the GIL. Before that they are refused if they have
more values than any call takes, and the memory for these, up to 27 times their bytes, is counted as that of
bodies (`parsed_bytes`). They are parsed by `json`: for a list of empty lists, pydantic's own parser
and its errors take nine times as much time and four times as much memory.

For smaller ones, routes whose function needs only the body, the path and the services skip FastAPI's search
for the route, its dependency resolution and serialization, which take most of the time of such a call:
without FastAPI's dependencies a call of /next on an engine that responds at once takes 0.31 ms of processor
time instead of 0.55 ms, and without its search a request of 50 events 1.5 ms instead of 2.1 ms. FastAPI
handles all other requests, including every invalid one.

A body of more than MAX_ERRORS bytes that does not take the fast path is validated once, in a worker thread,
and FastAPI gets the result. Its errors are listed only if they are few: FastAPI would make an object of each,
in seconds for those that fit into a megabyte.
"""

import inspect
import json
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any, TypeVar, get_type_hints

import anyio
import numpy as np
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute, iter_route_contexts
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.datastructures import Headers
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nextchar.app.http.errors import UnsupportedMedia, declares_json
from nextchar.app.http.incoming_body import body_too_large
from nextchar.app.http.limits import LARGE_BODIES
from nextchar.app.http.rules import content_type
from nextchar.app.http.services import get_services
from nextchar.app.http.threads import current_client, run_in_thread
from nextchar.models.errors import InvalidInput, TooLarge
from nextchar.store.gunzip import Gunzip

MAX_CONTAINERS = 100_000
"""Lists, objects and fields in a body. No call has a use for more than some thousands."""

MAX_VALUES = 1_100_000
"""Values in the lists and objects of a body: the longest list of a call has a million."""

_CONTAINER_BYTES = 256
_VALUE_BYTES = 64

T = TypeVar("T")

LARGE_BYTES = 256 << 10
"""A larger body is parsed in a worker thread."""

MAX_DOCUMENT_BYTES = 13_000_000
"""A million characters, each up to 12 bytes as JSON, and the other fields. A larger body is not parsed."""

MAX_ERRORS = 1000
"""A body with more errors is answered without details."""


def parsed_bytes(data: bytes) -> int:
    """Return how many bytes the values of JSON take at most when parsed, in addition to their text.

    Raises:
        TooLarge: there are more than MAX_CONTAINERS or MAX_VALUES.
    """
    plain = data.replace(rb"\\", b"__").replace(rb"\"", b"__")  # a quote now begins or ends a string
    characters = np.frombuffer(plain, np.uint8)
    quotes = np.cumsum(characters == ord('"'), dtype=np.uint8)  # modulo 256
    syntax = characters[quotes & 1 == 0]
    containers = sum(int(np.count_nonzero(syntax == one)) for one in b"[{:")
    values = int(np.count_nonzero(syntax == ord(",")))
    if containers > MAX_CONTAINERS or values > MAX_VALUES:
        raise TooLarge(
            f"the body has {containers:,} lists, objects and fields and {values:,} values, more than"
            f" {MAX_CONTAINERS:,} or {MAX_VALUES:,}; no call takes so many",
            code="too_many_values",
            param="body",
        )
    return containers * _CONTAINER_BYTES + values * _VALUE_BYTES


class DocumentRequest(Request):
    """A request whose JSON, if it is large, is parsed in a worker thread."""

    async def json(self) -> Any:
        """Return the parsed body. Raises ValueError as the superclass does.

        Raises:
            HTTPException: 413 if it is too long, 503 if all bodies together take too much memory.
            TooLarge: it has too many values.
        """
        if hasattr(self, "_parsed"):
            return self._parsed
        body = await self.body()
        if len(body) > MAX_DOCUMENT_BYTES:
            raise body_too_large(MAX_DOCUMENT_BYTES)
        if len(body) <= LARGE_BYTES:
            return await super().json()
        self.state.incoming_body.expand(await self.run(parsed_bytes, body))
        self.set_json(await self.run(json.loads, body))
        return self._parsed

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Return a function's result, from the thread for large bodies if this is one."""
        if len(await self.body()) <= LARGE_BYTES:
            return await run_in_thread(function, *arguments)
        async with current_client().large_bodies:
            threads = self.state.services.pools.limiter(LARGE_BODIES)
            return await anyio.to_thread.run_sync(function, *arguments, limiter=threads)

    def set_json(self, value: Any) -> None:
        """Make `json` return this."""
        self._parsed = value


class DocumentRoute(APIRoute):
    """The route class of all calls with JSON bodies.

    Attributes:
        invalid_status: of the response to a body with wrong fields or values.
    """

    invalid_status = 422

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return FastAPI's handler, after the validation of a large body."""
        handler = super().get_route_handler()
        classes = [param.field_info.annotation for param in self.dependant.body_params]
        body_class = classes[0] if len(classes) == 1 else None
        adapter = TypeAdapter[Any](body_class) if body_class is not None else None

        async def handle(request: Request) -> Response:
            request = DocumentRequest(request.scope, request.receive)
            if adapter is not None:
                await _validate(request, adapter)
            return await handler(request)

        return handle


class RouteOfTypes(DocumentRoute):
    """A route that matches only requests whose bodies have certain content types."""

    content_types: Collection[str] = ()

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match a request by its path and method, then by its content type."""
        match, child = super().matches(scope)
        if match is Match.NONE or content_type(Headers(scope=scope)) in self.content_types:
            return match, child
        return Match.NONE, {}


async def _validate(request: DocumentRequest, adapter: TypeAdapter[Any]) -> None:
    """Replace the JSON of a body that is not short by its model, which FastAPI takes as it is.

    Raises:
        RequestValidationError: as FastAPI does.
        InvalidInput: it has more than MAX_ERRORS errors.
    """
    if len(await request.body()) <= MAX_ERRORS or not declares_json(request):
        return  # each error takes a byte or more; and what is not declared as JSON is not validated
    try:
        value = await request.json()
    except (ValueError, RecursionError):
        return  # not JSON, as FastAPI will answer
    request.set_json(await request.run(validate_body, adapter, value))


def validate_body(adapter: TypeAdapter[Any], value: Any) -> Any:
    """Return the model of a parsed body.

    Raises:
        RequestValidationError: it has errors, which are listed.
        InvalidInput: it has more than MAX_ERRORS.
    """
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        if (count := error.error_count()) > MAX_ERRORS:
            raise InvalidInput(
                f"the body has {count:,} errors, such as unknown fields or values of a wrong type; send what"
                " /openapi.json describes",
                param="body",
            ) from None
        errors = [one | {"loc": ("body", *one["loc"])} for one in error.errors(include_url=False)]
        raise RequestValidationError(errors, body=value) from None


class FastPaths:
    """Serves valid small requests of routes with a fast path at once, and passes the others on to `app`.

    An invalid request is passed on with the body that was read, and FastAPI answers it.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute]) -> None:
        self._app = app
        found = [one.original_route for one in iter_route_contexts(routes)]
        fast = [one for one in found if isinstance(one, DocumentRoute) and has_fast_path(one)]
        self._fast = [(route.path_regex, route, _fast_path(route)) for route in fast]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and scope["method"] == "POST" and not scope["query_string"]:
            for path, route, handle in self._fast:
                if match := path.match(scope["path"]):
                    scope.update(route=route, endpoint=route.endpoint, path_params=match.groupdict())
                    request = Request(scope, receive)
                    if response := await handle(request):
                        del request  # a stream can go on for as long as it likes, without its prompt
                        await response(scope, receive, send)
                        return
                    receive = _again(request, receive)
                    break
        await self._app(scope, receive, send)


def _again(request: Request, receive: Receive) -> Receive:
    """Return a function that receives the body that the request has read, then what follows it."""

    async def body_then_rest() -> Message:
        if hasattr(request, "_body"):
            body = await request.body()
            del request._body
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return body_then_rest


def _fast_path(route: APIRoute) -> Callable[[Request], Coroutine[Any, Any, Response | None]]:
    """Return a handler for valid small requests; it returns None, without side effects, for all others."""
    dependant = route.dependant
    body_class, body_name = dependant.body_params[0].field_info.annotation, dependant.body_params[0].name
    assert body_class is not None
    validate = body_class.model_validate_json

    async def handle(request: Request) -> Response | None:
        if request.headers.get("content-type") != "application/json":
            return None
        content = await request.body()
        if len(content) > LARGE_BYTES:
            return None
        try:
            arguments = {body_name: validate(content), **request.path_params}
        except ValueError:
            return None
        for dependency in dependant.dependencies:
            arguments[str(dependency.name)] = await get_services(request)
        if dependant.request_param_name:
            arguments[dependant.request_param_name] = request
        response = await route.endpoint(**arguments)
        if isinstance(response, Response):
            return response
        return Response(response.model_dump_json(by_alias=True), media_type="application/json")

    return handle


def has_fast_path(route: APIRoute) -> bool:
    """Return whether a route's function needs only services, request, path and one body.

    And it returns a response, or a model with status 200. A route that depends on anything more, such as a
    check added to its router, never skips FastAPI.
    """
    dependant, function = route.dependant, route.endpoint
    returned = get_type_hints(function).get("return")
    return (
        all(dependency.call is get_services for dependency in dependant.dependencies)
        and not (dependant.query_params or dependant.header_params or dependant.cookie_params)
        and all(p.field_info.annotation is str and not p.field_info.metadata for p in dependant.path_params)
        and len(dependant.body_params) == 1
        and _is_subclass(dependant.body_params[0].field_info.annotation, BaseModel)
        and inspect.iscoroutinefunction(function)
        and (
            _is_subclass(returned, Response)
            or (_is_subclass(returned, BaseModel) and route.status_code in (None, 200))
        )
    )


def _is_subclass(kind: object, of: type) -> bool:
    return isinstance(kind, type) and issubclass(kind, of)


def gunzip_of(content_encoding: str) -> Gunzip | None:
    """Return the decoder of a body with this Content-Encoding, None if it is not encoded.

    Raises:
        UnsupportedMedia: it is neither `identity` nor gzip.
    """
    encoding = content_encoding.strip().lower()
    if encoding not in ("identity", "gzip", "x-gzip"):
        raise UnsupportedMedia(
            f"Content-Encoding {encoding!r} is not supported; send the text unencoded or with gzip",
            code="unsupported_encoding",
            param="body",
        )
    return Gunzip() if encoding != "identity" else None
