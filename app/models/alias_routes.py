"""/v1/models/{model}/aliases: names of versions, such as `names@champion`, that can be moved."""

from fastapi import APIRouter, Request

from nextchar.app.access.audit import set_audit_details
from nextchar.app.access.permissions import AccessDep
from nextchar.app.http.bodies import DocumentRoute
from nextchar.app.http.errors import error_responses
from nextchar.app.http.rules import needs
from nextchar.app.http.schemas import DEFAULT_LIMIT, After, Limit, Page, paginate
from nextchar.app.http.services import ServicesDep
from nextchar.app.models.alias_schemas import AliasBody, AliasSet, AliasWithHistory
from nextchar.app.models.aliases import AliasControl
from nextchar.models.errors import InvalidInput, NotFound
from nextchar.store.aliases import AliasMove
from nextchar.store.ids import check_name

router = APIRouter(prefix="/v1/models/{model}/aliases", tags=["models"], route_class=DocumentRoute)

_ERRORS = error_responses(404, 422, 503)
_WRITING_ERRORS = error_responses(404, 409, 422, 503, 507)


@router.get("", responses=_ERRORS)
@needs("read")
def list_aliases(
    services: ServicesDep, model: str, after: After = None, limit: Limit = DEFAULT_LIMIT
) -> Page[AliasBody]:
    """List the aliases of a model's name, by their names."""
    name = _name(model)
    aliases = services.models.aliases.current(name)
    if not aliases and not services.models.is_listed(name):
        raise NotFound(f"there is no model {name!r}", code="model_not_found", param="model")
    page, has_more = paginate(aliases, lambda move: move.alias, after=after, limit=limit)
    return Page(data=list(map(AliasBody.of, page)), has_more=has_more)


@router.get("/{alias}", responses=_ERRORS)
@needs("read")
def get_alias(services: ServicesDep, model: str, alias: str) -> AliasWithHistory:
    """Get an alias with its history, even if it is deleted."""
    return _with_history(services.models.aliases.history(_name(model), alias))


@router.put("/{alias}", responses=error_responses(400, 404, 409, 413, 415, 422, 429, 503, 507))
@needs("admin")
def set_alias(
    request: Request, services: ServicesDep, access: AccessDep, model: str, alias: str, body: AliasSet
) -> AliasBody:
    """Move an alias to a version, or create it, if the version meets the requirements."""
    name = _name(model)
    moved = services[AliasControl].set(name, alias, body.version, body.require, by=access.key_name)
    set_audit_details(
        request, about=f"/v1/models/{name}/aliases/{alias}", to=f"/v1/models/{name}@{body.version}"
    )
    return AliasBody.of(moved)


@router.post("/{alias}/rollback", responses=_WRITING_ERRORS)
@needs("admin")
def roll_back_alias(services: ServicesDep, access: AccessDep, model: str, alias: str) -> AliasBody:
    """Move an alias back to its previous version; repeat to go further back."""
    return AliasBody.of(services[AliasControl].roll_back(_name(model), alias, by=access.key_name))


@router.delete("/{alias}", responses=_WRITING_ERRORS)
@needs("admin")
def delete_alias(services: ServicesDep, access: AccessDep, model: str, alias: str) -> AliasBody:
    """Delete an alias. Its history stays, and a rollback restores it."""
    return AliasBody.of(services[AliasControl].delete(_name(model), alias, by=access.key_name))


def _name(model: str) -> str:
    """Return a model's name. Raises InvalidInput: it is a reference to one version."""
    if "@" in model:
        raise InvalidInput(
            f"aliases belong to the name of a model: write {model.partition('@')[0]!r}",
            code="invalid_name",
            param="model",
        )
    return check_name(model, param="model")


def _with_history(history: list[AliasMove]) -> AliasWithHistory:
    bodies = list(map(AliasBody.of, history))
    return AliasWithHistory(**dict(bodies[0]), history=bodies)
