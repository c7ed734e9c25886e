"""OpenAI's calls answer 400 where ours answer 422; their SDKs have an exception class for each."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError

from app.http.bodies import DocumentRoute
from app.http.errors import error_answer
from app.schemas.errors import ErrorAnswer
from models.errors import InvalidInput

NOT_422: dict[int | str, dict[str, Any]] = {
    422: {"model": ErrorAnswer, "description": "Not sent: like OpenAI's, this call answers 400 instead."},
    400: {"model": ErrorAnswer, "description": "The body or a field is wrong; `param` names it."},
}


class OpenAIRoute(DocumentRoute):
    """The route class of calls in OpenAI's shapes."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler, with status 400 for what is wrong with a request."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await handler(request)
            except (InvalidInput, RequestValidationError) as error:
                response = await error_answer(request, error)
                if response.status_code == 422:
                    response.status_code = 400
                return response

        return handle
