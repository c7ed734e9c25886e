"""What each call needs, declared at its route: scopes of an API key, and how its body is received.

    @router.post("/v1/jobs")
    @needs("train", body=SMALL_JSON)
    def create_job(...)

`Rules` finds the rule of a request by its method and path, before anything of its body is read. It finds the
route that will serve it: the first that matches, as the application does.

Unknown query parameters are errors, as unknown fields of a body are; not in calls of other protocols.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeVar, cast

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, RouteContext, iter_route_contexts
from pydantic import BaseModel
from starlette.datastructures import Headers
from starlette.routing import BaseRoute, compile_path
from starlette.types import Scope

from nextchar.models.errors import InvalidInput
from nextchar.models.validation_errors import did_you_mean

F = TypeVar("F", bound=Callable[..., Any])

MAX_JSON_BYTES = 32 << 20
"""The limit of bodies with documents: a million characters, up to 12 bytes each, and room to spare."""

MAX_SMALL_JSON_BYTES = 1 << 20
"""The limit for calls without documents: validation errors take memory in proportion to a body's fields."""

_MAX_REMEMBERED = 256  # calls, whose paths may be as long as a header
_RULE = "nextchar_rule"  # the attribute of a route's function

OPENAI = frozenset({"list_models", "get_model", "delete_model"})
"""Operations that are OpenAI's, too: its clients may send query parameters that we do not know."""


@dataclass(frozen=True)
class Body:
    """How a body is received.

    Args:
        max_bytes: the limit of one that is held in memory; None: it is streamed.
        is_endless: whether the bytes of a request's body may be hours apart, so that it has no deadline.
    """

    max_bytes: int | None
    is_endless: Callable[[Scope], bool] = lambda _: False


def content_type(headers: Headers) -> str:
    """Return the media type of a body, in lower case and without parameters; empty if it is unknown."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


JSON = Body(MAX_JSON_BYTES)
SMALL_JSON = Body(MAX_SMALL_JSON_BYTES)
STREAMED = Body(None)


@dataclass(frozen=True)
class Rule:
    """What a call needs.

    Attributes:
        scopes: the scopes of which an API key needs one (`admin` always suffices); None: no key is needed.
        body: how its body is received; None: as JSON, of a size that depends on the method.
        is_about_all: it reports on all models, so a key that is limited to some may not make it.
        model_at: where in the path a model is named, if anywhere.
    """

    scopes: frozenset[str] | None
    body: Body | None = None
    is_about_all: bool = False
    model_at: int | None = None


UNKNOWN = Rule(frozenset({"admin"}))
"""The rule of a path that no route has, and of a route that declares none."""

OPEN = Rule(None)
"""The rule of what needs no key. A mounted application that needs none has it as its attribute `rule`."""


def needs(*scopes: str, body: Body | None = None, is_about_all: bool = False) -> Callable[[F], F]:
    """Declare what the calls of a route's function need; see `Rule`. Write it below the route."""
    rule = Rule(frozenset(scopes), body, is_about_all)
    return lambda function: _declare(function, rule)


def needs_no_key(function: F) -> F:
    """Declare that the calls of a route's function need no API key."""
    return _declare(function, OPEN)


def _declare(function: F, rule: Rule) -> F:
    setattr(function, _RULE, rule)
    return function


class Rules:
    """The rules of an application's routes."""

    def __init__(self, routes: Iterable[BaseRoute]) -> None:
        self._routes = list(map(_matcher, iter_route_contexts(list(routes))))
        self._remembered = lru_cache(_MAX_REMEMBERED)(self._find)

    def find(self, method: str, path: str) -> Rule:
        """Return the rule of a call; where a path has no such method, any scope of its others will do."""
        return self._remembered(method, path)

    def _find(self, method: str, path: str) -> Rule:
        path = f"/{path.strip('/')}"
        found = [(methods, rule) for pattern, methods, rule in self._routes if pattern.fullmatch(path)]
        if not found:
            return UNKNOWN
        own = next((rule for methods, rule in found if methods is None or method in methods), None)
        rule = own or found[0][1]
        if not own:
            scopes = [other.scopes for _, other in found]
            rule = replace(rule, scopes=None if None in scopes else frozenset().union(*filter(None, scopes)))
        return rule if rule.body else replace(rule, body=JSON if method == "POST" else SMALL_JSON)


def _matcher(route: RouteContext) -> tuple[re.Pattern[str], Collection[str] | None, Rule]:
    """Return the pattern of a route's paths, its methods (None: all) and its rule."""
    path, mounted = route.path or "", getattr(route, "app", None)
    rule = cast(Rule, getattr(route.endpoint, _RULE, None) or getattr(mounted, "rule", UNKNOWN))
    parts = path.strip("/").split("/")
    if "{model}" in parts:
        rule = replace(rule, model_at=parts.index("{model}"))
    return compile_path(path if route.methods else f"{path}/{{path:path}}")[0], route.methods, rule


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
            meant = did_you_mean(name[:100], known)
            message = (
                f"{name[:100]}: there is no such query parameter of this call, which has {it_has}{meant}"
            )
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
