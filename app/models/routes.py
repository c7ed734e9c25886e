"""/v1/models: saved models are listed, described, renamed and deleted; their files are downloaded."""

import hashlib
import logging
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response

from nextchar.app.access.audit import set_audit_details
from nextchar.app.access.permissions import AccessDep
from nextchar.app.http.bodies import DocumentRoute
from nextchar.app.http.downloads import MAX_SMALL_BYTES, download
from nextchar.app.http.errors import error_responses
from nextchar.app.http.rules import needs
from nextchar.app.http.schemas import After, Deleted, Limit, paginate
from nextchar.app.http.services import ServicesDep
from nextchar.app.models.engines import Engines
from nextchar.app.models.followers import ModelFollowers
from nextchar.app.models.schemas import DamagedModel, ModelBody, ModelPage, ModelRename, ModelSummary
from nextchar.models.errors import NotFound
from nextchar.models.saved_model import SavedModel

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
    headers = {
        "ETag": f'"{digest}"',
        "Content-Disposition": f'attachment; filename="{name}"',
    }
    if if_none_match == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    kind = "application/json" if name == _CARD else "application/octet-stream"
    if data is not None:
        return Response(data, media_type=kind, headers=headers)
    return download(
        services.downloads,
        lambda file: file.write(_file(saved, name)),
        folder=services.settings.data_dir / "spool",
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
