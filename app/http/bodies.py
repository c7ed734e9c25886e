"""JSON bodies that may hold a whole document, read without holding up other requests.

A keystroke in a long document sends all of it again, so a body of 100 kB must cost next to nothing, and
one of some megabytes must not keep the event loop. The framework's own reading does neither. Nor should a
keystroke wait for machinery that it does not need: a right request goes straight to its function, and only
a wrong one to the framework, which knows how to say what is wrong.
"""

import inspect
import json
from collections.abc import Callable, Coroutine
from typing import Any, get_type_hints

import anyio
from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic_core import from_json
from starlette.exceptions import HTTPException

from app.http.dependencies import get_services

LARGE_BYTES = 256 << 10
"""A larger body is parsed in a worker thread."""

MAX_DOCUMENT_BYTES = 13_000_000
"""A million characters, each up to 12 bytes as JSON, and the other fields. More is refused unparsed."""


class DocumentRequest(Request):
    """A request whose JSON is parsed by the faster of two parsers."""

    async def json(self) -> Any:
        """Return the parsed body. Raises ValueError as the framework's own does."""
        body = await self.body()
        if len(body) > MAX_DOCUMENT_BYTES:
            raise HTTPException(413)
        if len(body) > LARGE_BYTES:
            return await anyio.to_thread.run_sync(json.loads, body)
        try:
            # Three times as fast as json.loads on plain text; slower on escapes, which large bodies may
            # be full of.
            return from_json(body)
        except ValueError:
            return json.loads(body)  # its errors are those of all other routes; it may also accept it


class DocumentRoute(APIRoute):
    """The route class for calls whose bodies may hold documents."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the framework's handler, given a DocumentRequest; before it, the direct way."""
        handler = super().get_route_handler()
        directly = _direct_way(self)

        async def handle(request: Request) -> Response:
            request = DocumentRequest(request.scope, request.receive)
            answer = await directly(request) if directly else None
            return answer or await handler(request)

        return handle


Direct = Callable[[Request], Coroutine[Any, Any, Response | None]]


def _direct_way(route: APIRoute) -> Direct | None:
    """Return how to answer a right request to `route` without the framework, or None.

    What is returned answers None where the body is long or anything is wrong with it, having done nothing.
    """
    if not _is_plain(route):
        return None
    needs = route.dependant
    body_class, body_name = needs.body_params[0].field_info.annotation, needs.body_params[0].name
    assert body_class is not None
    validate = body_class.model_validate_json

    async def directly(request: Request) -> Response | None:
        if request.headers.get("content-type") != "application/json":
            return None
        content = await request.body()
        if len(content) > LARGE_BYTES:
            return None
        try:
            given = {body_name: validate(content), **request.path_params}
        except ValueError:
            return None
        for need in needs.dependencies:
            given[str(need.name)] = await get_services(request)
        if needs.request_param_name:
            given[needs.request_param_name] = request
        answer = await route.endpoint(**given)
        if isinstance(answer, Response):
            return answer
        return Response(answer.model_dump_json(by_alias=True), media_type="application/json")

    return directly


def _is_plain(route: APIRoute) -> bool:
    """Whether a route's function needs the parts, the request, the path and one body, and answers 200.

    What depends on more, a check that somebody adds to a router say, is never skipped.
    """
    needs, function = route.dependant, route.endpoint
    returned = get_type_hints(function).get("return")
    return (
        all(need.call is get_services for need in needs.dependencies)
        and not (needs.query_params or needs.header_params or needs.cookie_params)
        and all(p.field_info.annotation is str and not p.field_info.metadata for p in needs.path_params)
        and len(needs.body_params) == 1
        and _is_class(needs.body_params[0].field_info.annotation, BaseModel)
        and inspect.iscoroutinefunction(function)
        and (_is_class(returned, Response) or _is_class(returned, BaseModel))
        and route.status_code in (None, 200)
    )


def _is_class(kind: object, of: type) -> bool:
    return isinstance(kind, type) and issubclass(kind, of)
