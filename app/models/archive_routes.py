"""/v1/models/{model}/export and /v1/models/import: a saved model as one file."""

from functools import partial
from pathlib import Path
from typing import IO, Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from nextchar.app.access.audit import set_audit_details
from nextchar.app.access.permissions import AccessDep
from nextchar.app.http.downloads import download
from nextchar.app.http.errors import UnsupportedMedia, error_responses
from nextchar.app.http.rules import STREAMED, needs
from nextchar.app.http.services import Services, ServicesDep
from nextchar.app.http.streamed_body import StreamedBody, content_type
from nextchar.app.http.threads import run_in_thread
from nextchar.app.models import archives as model_archives
from nextchar.app.models.archives import MEDIA_TYPE, Imports
from nextchar.app.models.engines import Engines
from nextchar.app.models.schemas import ModelBody
from nextchar.models.errors import DomainError, TooLarge
from nextchar.store.blobs import as_domain_error
from nextchar.store.ids import NAME_PATTERN
from nextchar.store.temporary import temporary_file

router = APIRouter(prefix="/v1/models", tags=["models"])

_MEDIA_TYPES = (MEDIA_TYPE, "application/octet-stream", "")

_ARCHIVE: dict[str, Any] = {
    MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}, "example": "model.json, model.onnx, …"}
}
_ARCHIVE_RESPONSE: dict[int | str, dict[str, Any]] = {
    200: {"description": "A tar file of `model.json` and the files that it names.", "content": _ARCHIVE}
}
_IMPORT_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "An uncompressed tar file as `/v1/models/{model}/export` returns it.",
        "content": _ARCHIVE,
    }
}

Name = Annotated[
    str | None, Query(pattern=f"^{NAME_PATTERN}$", description="The model's name; default: the archive's.")
]


@router.get(
    "/{model}/export",
    response_class=Response,
    responses=_ARCHIVE_RESPONSE | error_responses(404, 422, 503, 507),
)
@needs("read")
def export_model(request: Request, services: ServicesDep, model: str) -> Response:
    """Download a model as one file, which `/v1/models/import` of another service accepts."""
    saved = services.models.get(model)
    set_audit_details(request, about=f"/v1/models/{saved.card.reference}/export")
    return download(
        services.downloads,
        partial(model_archives.write_archive, saved),
        folder=spool_folder(services),
        media_type=MEDIA_TYPE,
        headers={"Content-Disposition": f'attachment; filename="{saved.card.reference}.tar"'},
    )


@router.post(
    "/import",
    status_code=201,
    responses=error_responses(413, 415, 422, 429, 503, 507),
    openapi_extra=_IMPORT_BODY,
)
@needs("admin", body=STREAMED)
async def import_model(
    services: ServicesDep, access: AccessDep, request: Request, response: Response, name: Name = None
) -> ModelBody:
    """Import a model as the next version of its name. Only weights and JSON files are imported."""
    if name is not None:
        access.check_model(name)
    body, max_bytes = StreamedBody(request), services.settings.max_model_bytes
    with await run_in_thread(temporary_file, spool_folder(services)) as file:
        try:
            await run_in_thread(_check_room, services, body.declared_bytes)
            _check_headers(request)
            await _receive(body, file, max_bytes=max_bytes)
        except DomainError:
            await body.drain()
            raise
        importing = partial(
            model_archives.import_model,
            services.models,
            file,
            max_bytes=max_bytes,
            check_loadable=services[Engines].check_loadable,
            check_permitted=access.check_model,
            name=name,
        )
        card = await services[Imports].run(lambda _: importing())
    response.headers["Location"] = f"/v1/models/{card.reference}"
    return ModelBody.of(card)


def spool_folder(services: Services) -> Path:
    """Return the folder of temporary files."""
    return services.settings.data_dir / "spool"


def _check_room(services: Services, archive_bytes: int) -> None:
    """Check that an archive fits in the spool and, if that is a folder, the storage. Raises StorageFull."""
    copies = 1 if services.blobs.free_bytes() is None else 2
    services.watermark.check(needed_bytes=copies * archive_bytes)


def _check_headers(request: Request) -> None:
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if content_type(request.headers) not in _MEDIA_TYPES or encoding != "identity":
        raise UnsupportedMedia(
            f"send the model as an uncompressed tar file, with the header Content-Type: {MEDIA_TYPE}",
            param="body",
        )


async def _receive(body: StreamedBody, file: IO[bytes], *, max_bytes: int) -> None:
    too_large = TooLarge(
        f"the archive is larger than {max_bytes:,} bytes (NEXTCHAR_MAX_MODEL_BYTES)", code="model_too_large"
    )
    async for piece in body.pieces(max_bytes, too_large):
        try:
            await run_in_thread(file.write, piece)
        except OSError as error:
            raise as_domain_error(error) from error
