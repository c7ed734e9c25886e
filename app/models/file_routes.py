"""A model as one file, /v1/models/{model}/export, …/pack and /v1/models/import; and …/report."""

import hashlib
import json
from functools import partial
from typing import IO, Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request, Response

from nextchar.app.access.audit import set_audit_details
from nextchar.app.access.permissions import AccessDep
from nextchar.app.http.errors import UnsupportedMedia, error_responses
from nextchar.app.http.incoming_body import StreamedBody
from nextchar.app.http.limits import IMPORTS
from nextchar.app.http.rules import STREAMED, content_type, needs
from nextchar.app.http.services import Services, ServicesDep
from nextchar.app.http.threads import download, run_in_thread
from nextchar.app.models import archives as model_archives
from nextchar.app.models.archives import MEDIA_TYPE
from nextchar.app.models.engines import Engines
from nextchar.app.models.schemas import ModelBody
from nextchar.models.errors import DomainError, NotFound, TooLarge
from nextchar.models.pack import pack
from nextchar.models.report import Report
from nextchar.models.saved_model import SavedModel
from nextchar.models.validation_errors import NAME_PATTERN
from nextchar.store.blobs import as_domain_error, temporary_file

router = APIRouter(prefix="/v1/models", tags=["models"])

_MEDIA_TYPES = (MEDIA_TYPE, "application/octet-stream", "")

_ARCHIVE: dict[str, Any] = {
    MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}, "example": "model.json, model.onnx, …"}
}
_ARCHIVE_RESPONSE: dict[int | str, dict[str, Any]] = {
    200: {"description": "A tar file of `model.json` and the files that it names.", "content": _ARCHIVE}
}
_PACK_RESPONSE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A packed model.",
        "content": {
            "application/octet-stream": {
                "schema": {"type": "string", "format": "binary"},
                "example": "nxch, sections, …",
            }
        },
    }
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

Format = Literal["json", "html", "svg"]

_TYPES: dict[Format, str] = {
    "json": "application/json",
    "html": "text/html; charset=utf-8",
    "svg": "image/svg+xml",
}

# The page shows text of the corpus. Even if it were not escaped, the sandbox would keep it from running.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'self'; sandbox"
    ),
    "Vary": "Accept",
}

_RESPONSE: dict[int | str, dict[str, Any]] = {
    200: {
        "model": Report,
        "description": "The report, in the requested format.",
        "content": {
            "application/json": {
                "example": {"object": "report", "model": "nietzsche@1", "validation_bits_per_character": 1.96}
            },
            "text/html": {"schema": {"type": "string"}},
            "image/svg+xml": {"schema": {"type": "string"}},
        },
    },
    304: {"description": "Not changed since the ETag in the request."},
}


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
        services.pools.downloads,
        partial(model_archives.write_archive, saved),
        folder=services.settings.spool,
        media_type=MEDIA_TYPE,
        headers={"Content-Disposition": f'attachment; filename="{saved.card.reference}.tar"'},
    )


@router.get(
    "/{model}/pack", response_class=Response, responses=_PACK_RESPONSE | error_responses(404, 422, 503, 507)
)
@needs("read")
def pack_model(
    request: Request,
    services: ServicesDep,
    model: str,
    limit_bytes: Annotated[
        int | None,
        Query(ge=1, description="The largest file; the beginning of the known text is left out to fit."),
    ] = None,
    tables: Annotated[
        bool, Query(description="Whether the file has the tables of the known text, too: it opens at once.")
    ] = False,
    calibration: Annotated[
        str | None,
        Query(
            description="The calibration by which the file scores lines. Default: of a model of a log"
            " `default`, or else `validation`; other models measure surprisal alone."
        ),
    ] = None,
) -> Response:
    """Download a model as one file that completes and scores without a server, in a page or a shell."""
    saved = services.models.get(model)
    set_audit_details(request, about=f"/v1/models/{saved.card.reference}/pack")
    used = services.calibrations.of_pack(saved, calibration)
    return download(
        services.pools.downloads,
        lambda file: file.write(pack(saved, limit_bytes=limit_bytes, with_tables=tables, calibration=used)),
        folder=services.settings.spool,
        media_type="application/octet-stream",
        headers={"Content-Disposition": f'attachment; filename="{saved.card.reference}.nextchar"'},
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
    with await run_in_thread(temporary_file, services.settings.spool) as file:
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
        card = await services.pools.queue(IMPORTS).run(lambda _: importing())
    response.headers["Location"] = f"/v1/models/{card.reference}"
    return ModelBody.of(card)


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


@router.get("/{model}/report", response_class=Response, responses=_RESPONSE | error_responses(404, 422, 503))
@needs("read")
def get_report(
    request: Request,
    services: ServicesDep,
    model: str,
    format_: Annotated[
        Format | None, Query(alias="format", description="Default: what the Accept header prefers, or JSON.")
    ] = None,
    accept: Annotated[str, Header()] = "",
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Get a training run's report: its results as JSON, a page, or a picture of the training curves."""
    saved = services.models.get(model)
    set_audit_details(request, about=f"/v1/models/{saved.card.reference}/report")
    format_ = format_ or preferred(accept)
    data = _json(saved) if format_ == "json" else _file(saved, f"report.{format_}")
    headers = _HEADERS | {"ETag": f'"{hashlib.sha256(data).hexdigest()}"'}
    if if_none_match == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(data, media_type=_TYPES[format_], headers=headers)


def preferred(accept: str) -> Format:
    """Return the format that an Accept header prefers; JSON if it prefers none.

    >>> preferred("text/html,application/xml;q=0.9,*/*;q=0.8"), preferred("*/*"), preferred("image/svg+xml")
    ('html', 'json', 'svg')
    """
    ranges = [_media_range(part) for part in accept.split(",")]
    best: Format = "json"
    best_quality = 0.0
    for candidate, media_type in _TYPES.items():
        name = media_type.partition(";")[0]
        names = (name, name.partition("/")[0] + "/*", "*/*")
        matching = [(names.index(accepted), quality) for accepted, quality in ranges if accepted in names]
        quality = min(matching, default=(0, 0.0))[1]  # the most specific range decides
        if quality > best_quality:
            best, best_quality = candidate, quality
    return best


def _media_range(part: str) -> tuple[str, float]:
    name, *parameters = (piece.strip().lower() for piece in part.split(";"))
    quality = next((p[2:] for p in parameters if p.startswith("q=")), "1")
    try:
        return name, float(quality)
    except ValueError:
        return name, 0.0


def _json(saved: SavedModel) -> bytes:
    """Return report.json with the model's reference; for a model without one, the card's report."""
    card = saved.card
    if "report.json" in card.files:
        content = json.loads(saved.file("report.json"))
    else:
        # In a report `characters` counts those of the text; in a card it is the alphabet.
        excluded = {"format_version", "id", "version", "files", "files_folder", "report", "characters"}
        content = card.model_dump(mode="json", exclude=excluded) | card.report
    report = {"object": "report", "model": card.reference} | content
    return json.dumps(report, ensure_ascii=False).encode("utf-8", "replace")


def _file(saved: SavedModel, name: str) -> bytes:
    if name not in saved.card.files:
        raise NotFound(
            f"model {saved.card.reference} has no {name}; use format=json, which every model has",
            code="report_not_found",
            param="format",
        )
    return saved.file(name)
