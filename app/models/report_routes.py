"""/v1/models/{model}/report: a training run's report, as JSON, HTML or SVG."""

import hashlib
import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request, Response

from nextchar.app.access.audit import set_audit_details
from nextchar.app.http.errors import error_responses
from nextchar.app.http.rules import needs
from nextchar.app.http.services import ServicesDep
from nextchar.models.errors import NotFound
from nextchar.models.report import Report
from nextchar.models.saved_model import SavedModel

router = APIRouter(prefix="/v1/models", tags=["models"])

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
                "example": {
                    "object": "report",
                    "model": "nietzsche@1",
                    "validation_bits_per_character": 1.96,
                },
            },
            "text/html": {"schema": {"type": "string"}},
            "image/svg+xml": {"schema": {"type": "string"}},
        },
    },
    304: {"description": "Not changed since the ETag in the request."},
}


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
