"""The route class of OpenAI's calls: status 400 where other routes respond with 422, as its SDKs expect."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError

from nextchar.app.http.bodies import DocumentRoute
from nextchar.app.http.errors import handle_error
from nextchar.app.http.schemas import ErrorBody
from nextchar.models.errors import InvalidInput

NOT_422: dict[int | str, dict[str, Any]] = {
    422: {
        "model": ErrorBody,
        "description": "Never sent: like OpenAI's, this call responds with 400 instead.",
    },
    400: {"model": ErrorBody, "description": "The body or a field is invalid; `param` names it."},
}


class OpenAIRoute(DocumentRoute):
    """Responds with 400."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await handler(request)
            except (InvalidInput, RequestValidationError) as error:
                response = await handle_error(request, error)
                if response.status_code == 422:
                    response.status_code = 400
                return response

        return handle
