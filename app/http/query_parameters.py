"""Unknown query parameters are errors, as unknown fields of a body are; not in calls of other protocols."""

from collections.abc import Iterator
from typing import Any

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from pydantic import BaseModel

from nextchar.models.errors import InvalidInput

OPENAI = frozenset({"list_models", "get_model", "delete_model"})
"""Operations that are OpenAI's, too: its clients may send query parameters that we do not know."""


class UnknownParameter(InvalidInput):
    """A call has no query parameter of this name."""

    code = "unknown_field"


async def check_query_parameters(request: Request) -> None:
    """Refuse query parameters that the route does not have, except of OpenAI's operations.

    Raises:
        UnknownParameter: there is one, for example because its name is misspelled.
    """
    route = request.scope["route"]
    if not request.scope["query_string"] or route.name in OPENAI:
        return
    known = _names(route)
    for name in request.query_params:
        if known is not None and name not in known:
            it_has = ", ".join(known) or "none"
            message = f"{name[:100]}: there is no such query parameter of this call, which has {it_has}"
            raise UnknownParameter(message, param=name[:100])


def _names(route: APIRoute) -> tuple[str, ...] | None:
    """Return the names of a route's query parameters; None if they are the fields of a class.

    Such a class refuses unknown fields itself.
    """
    parameters = list(_parameters(route.dependant))
    kinds = (parameter.field_info.annotation for parameter in parameters)
    if any(isinstance(kind, type) and issubclass(kind, BaseModel) for kind in kinds):
        return None
    return tuple(parameter.alias for parameter in parameters)


def _parameters(dependant: Dependant) -> Iterator[Any]:
    yield from dependant.query_params
    for dependency in dependant.dependencies:
        yield from _parameters(dependency)
