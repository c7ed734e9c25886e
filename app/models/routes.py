"""/v1/models: saved models and the aliases of their versions; /v1/architectures."""

import hashlib
import logging
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response

from nextchar.app.access.audit import set_audit_details
from nextchar.app.access.permissions import AccessDep
from nextchar.app.http.bodies import DocumentRoute
from nextchar.app.http.errors import error_responses
from nextchar.app.http.rules import needs
from nextchar.app.http.schemas import DEFAULT_LIMIT, After, Deleted, Limit, Page, paginate
from nextchar.app.http.services import ServicesDep
from nextchar.app.http.threads import MAX_SMALL_BYTES, download
from nextchar.app.models.engines import Engines
from nextchar.app.models.names import AliasControl, ModelFollowers
from nextchar.app.models.schemas import (
    AliasBody,
    AliasSet,
    AliasWithHistory,
    ArchitectureBody,
    DamagedModel,
    ModelBody,
    ModelPage,
    ModelRename,
    ModelSummary,
    PresetBody,
    Recipe,
)
from nextchar.models.architectures import DEFAULT, NAMES, architecture
from nextchar.models.config import PRESETS, ArchitectureName, TrainingConfig
from nextchar.models.errors import InvalidInput, NotFound
from nextchar.models.saved_model import SavedModel
from nextchar.store.aliases import AliasMove, Share
from nextchar.store.ids import check_name

log = logging.getLogger("nextchar.api")

router = APIRouter(prefix="/v1/models", tags=["models"], route_class=DocumentRoute)

_CARD = "model.json"

Force = Annotated[
    bool,
    Query(
        description="Proceed even if an alias points to the version or an unfinished job needs it; calls of"
        " that alias, and the job, then fail."
    ),
]

_LIMIT = 1000  # OpenAI's clients read only the first page

_FILE_RESPONSE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The file; its SHA-256 is the ETag.",
        "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "application/json": {"example": {"format_version": 1, "name": "nietzsche", "version": 1}},
        },
    },
    304: {"description": "Not changed since the ETag in the request."},
}


@router.get("", responses=error_responses(422, 503))
@needs("read", "complete")
def list_models(
    services: ServicesDep, access: AccessDep, after: After = None, limit: Limit = _LIMIT
) -> ModelPage:
    """List all versions of all models, newest first."""
    cards, damaged = access.list_models()
    page, has_more = paginate(cards, lambda card: card.reference, after=after, limit=limit)
    moves = services.models.aliases.current()
    summaries = [ModelSummary.of(card, moves) for card in page]
    errors = [DamagedModel(id=d.reference, code=d.code, message=d.reason) for d in damaged]
    return ModelPage(data=summaries, has_more=has_more, damaged=errors)


@router.get("/{model}", responses=error_responses(404, 422, 503))
@needs("read", "complete")
def get_model(services: ServicesDep, model: str) -> ModelBody:
    """Get a model's card; the bare name means its newest version."""
    card = services.models.get(model).card
    return ModelBody.of(card, services.models.aliases.current(card.name))


@router.patch("/{model}", responses=error_responses(400, 404, 409, 413, 415, 422, 503, 507))
@needs("admin")
def rename_model(
    request: Request,
    services: ServicesDep,
    access: AccessDep,
    model: str,
    body: ModelRename,
    force: Force = False,
) -> ModelBody:
    """Rename one version: it becomes the next version of the new name.

    If it is the last version of its name, the decisions on its alerts move with it.
    """
    access.check_model(body.name)
    old = services.models.get(model).card
    if body.name != old.name and not force:
        access.check_model_unused(old.reference)
    card = services.models.rename(old.reference, body.name, force=force)
    set_audit_details(request, about=f"/v1/models/{old.reference}", to=f"/v1/models/{card.reference}")
    if card.reference != old.reference:
        services[Engines].drop(old.reference)
        services[ModelFollowers].follow(old.name)
    return ModelBody.of(card)


@router.delete("/{model}", responses=error_responses(404, 409, 422, 503, 507))
@needs("admin")
def delete_model(
    request: Request, services: ServicesDep, access: AccessDep, model: str, force: Force = False
) -> Deleted:
    """Delete one version. A bare name means its newest version.

    With the last version of a name its alerts are deleted, and the decisions on them.
    """
    name, version = services.models.resolve(model)
    if not force:
        access.check_model_unused(f"{name}@{version}")
    deleted = services.models.delete(f"{name}@{version}", force=force)
    set_audit_details(request, about=f"/v1/models/{deleted}")
    services[Engines].drop(deleted)
    services[ModelFollowers].follow(name)
    return Deleted(id=deleted, object="model")


@router.get(
    "/{model}/files/{name}",
    response_class=Response,
    responses=_FILE_RESPONSE | error_responses(404, 422, 503),
)
@needs("read")
def get_file(
    request: Request,
    services: ServicesDep,
    model: str,
    name: str,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Download `model.json` or a file that it names; together they are the complete model."""
    saved = services.models.get(model)
    entry = saved.card.files.get(name)
    set_audit_details(request, about=f"/v1/models/{saved.card.reference}/files/{name}")
    data = None if entry and entry.bytes > MAX_SMALL_BYTES else _file(saved, name)
    digest = hashlib.sha256(data).hexdigest() if data is not None else saved.card.files[name].sha256
    headers = {"ETag": f'"{digest}"', "Content-Disposition": f'attachment; filename="{name}"'}
    if if_none_match == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    kind = "application/json" if name == _CARD else "application/octet-stream"
    if data is not None:
        return Response(data, media_type=kind, headers=headers)
    return download(
        services.pools.downloads,
        lambda file: file.write(_file(saved, name)),
        folder=services.settings.spool,
        media_type=kind,
        headers=headers,
    )


def _file(saved: SavedModel, name: str) -> bytes:
    if name == _CARD:
        return saved.card.portable()
    if name not in saved.card.files:
        raise NotFound(
            f"model {saved.card.reference} has no file {name!r}; it has"
            f" {', '.join([_CARD, *saved.card.files])}",
            code="file_not_found",
            param="name",
        )
    return saved.file(name)


alias_router = APIRouter(prefix="/v1/models/{model}/aliases", tags=["models"], route_class=DocumentRoute)

_ALIAS_ERRORS = error_responses(404, 422, 503)
_ALIAS_WRITING_ERRORS = error_responses(404, 409, 422, 503, 507)


@alias_router.get("", responses=_ALIAS_ERRORS)
@needs("read")
def list_aliases(
    services: ServicesDep, model: str, after: After = None, limit: Limit = DEFAULT_LIMIT
) -> Page[AliasBody]:
    """List the aliases of a model's name, by their names."""
    name = _model_name(model)
    aliases = services.models.aliases.current(name)
    if not aliases and not services.models.is_listed(name):
        raise NotFound(f"there is no model {name!r}", code="model_not_found", param="model")
    page, has_more = paginate(aliases, lambda move: move.alias, after=after, limit=limit)
    return Page(data=list(map(AliasBody.of, page)), has_more=has_more)


@alias_router.get("/{alias}", responses=_ALIAS_ERRORS)
@needs("read")
def get_alias(services: ServicesDep, model: str, alias: str) -> AliasWithHistory:
    """Get an alias with its history, even if it is deleted."""
    return _with_history(services.models.aliases.history(_model_name(model), alias))


@alias_router.put("/{alias}", responses=error_responses(400, 404, 409, 413, 415, 422, 429, 503, 507))
@needs("admin")
def set_alias(
    request: Request, services: ServicesDep, access: AccessDep, model: str, alias: str, body: AliasSet
) -> AliasBody:
    """Move an alias to a version, or create it, if the version meets the requirements."""
    name = _model_name(model)
    share = Share.model_validate(body.share.model_dump()) if body.share else None
    control = services[AliasControl]
    moved = control.set(name, alias, body.version, body.require, by=access.key_name, share=share)
    set_audit_details(
        request, about=f"/v1/models/{name}/aliases/{alias}", to=f"/v1/models/{name}@{body.version}"
    )
    return AliasBody.of(moved)


@alias_router.post("/{alias}/rollback", responses=_ALIAS_WRITING_ERRORS)
@needs("admin")
def roll_back_alias(services: ServicesDep, access: AccessDep, model: str, alias: str) -> AliasBody:
    """Move an alias back to its previous version; repeat to go further back."""
    return AliasBody.of(services[AliasControl].roll_back(_model_name(model), alias, by=access.key_name))


@alias_router.delete("/{alias}", responses=_ALIAS_WRITING_ERRORS)
@needs("admin")
def delete_alias(services: ServicesDep, access: AccessDep, model: str, alias: str) -> AliasBody:
    """Delete an alias. Its history stays, and a rollback restores it."""
    return AliasBody.of(services[AliasControl].delete(_model_name(model), alias, by=access.key_name))


def _model_name(model: str) -> str:
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


architecture_router = APIRouter(prefix="/v1/architectures", tags=["jobs"])


# async although nothing is awaited: FastAPI runs plain functions in a worker thread.
@architecture_router.get("", responses=error_responses())
@needs("read")
async def list_architectures() -> Page[ArchitectureBody]:
    """List all architectures: the default, then the others in the order of the lecture notes."""
    return Page(data=[_architecture(name) for name in NAMES], has_more=False)


def _architecture(name: ArchitectureName) -> ArchitectureBody:
    defaults = architecture(name)
    presets = PRESETS.items() if name == DEFAULT else ()
    return ArchitectureBody(
        id=name,
        description=defaults.description,
        network=defaults.network,
        training=_recipe(defaults.training),
        network_options=list(defaults.network_options),
        training_options=list(defaults.training_options),
        presets=[
            PresetBody(name=preset, network=network, training=_recipe(training))
            for preset, (network, training) in presets
        ],
        notes_train_nats=defaults.notes_nats,
        notes_measure=defaults.notes_measure,
    )


def _recipe(training: TrainingConfig) -> Recipe:
    return Recipe(**training.model_dump(include=set(Recipe.model_fields)))
