"""/v1/models/{model}/report: what a training run told of itself, as JSON, a page or a picture."""

import hashlib
import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Response

from app.http.dependencies import ServicesDep
from app.http.errors import error_responses
from models.errors import NotFound
from models.report import Report
from models.saved_model import SavedModel

router = APIRouter(prefix="/v1/models", tags=["models"])

Format = Literal["json", "html", "svg"]

_TYPES: dict[Format, str] = {
    "json": "application/json",
    "html": "text/html; charset=utf-8",
    "svg": "image/svg+xml",
}

# The page shows what a corpus says. Should a text ever get out of its escaping, it still can do nothing.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'self'; sandbox"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept",
}

_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "model": Report,
        "description": "The report, in the form that was asked for.",
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
    304: {"description": "Not changed since the ETag sent along."},
}


@router.get("/{model}/report", response_class=Response, responses=_ANSWER | error_responses(404, 422, 503))
def get_report(
    services: ServicesDep,
    model: str,
    format_: Annotated[
        Format | None,
        Query(alias="format", description="By default what the Accept header prefers, or JSON."),
    ] = None,
    accept: Annotated[str, Header()] = "",
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Get what a training run told of itself: figures as JSON, a page to read, or a picture of the curves."""
    saved = services.models.get(model)
    wanted = format_ or preferred(accept)
    data = _json(saved) if wanted == "json" else _file(saved, f"report.{wanted}")
    headers = _HEADERS | {"ETag": f'"{hashlib.sha256(data).hexdigest()}"'}
    if if_none_match == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(data, media_type=_TYPES[wanted], headers=headers)


def preferred(accept: str) -> Format:
    """Return the form that an Accept header likes best; JSON where it likes several alike, or none.

    >>> preferred("text/html,application/xml;q=0.9,*/*;q=0.8"), preferred("*/*"), preferred("image/svg+xml")
    ('html', 'json', 'svg')
    """
    ranges = [_media_range(part) for part in accept.split(",")]
    best: Format = "json"
    best_quality = 0.0
    for form, kind in _TYPES.items():
        name = kind.partition(";")[0]
        names = (name, name.partition("/")[0] + "/*", "*/*")
        matching = [(names.index(wanted), quality) for wanted, quality in ranges if wanted in names]
        quality = min(matching, default=(0, 0.0))[1]  # the most exact range decides
        if quality > best_quality:
            best, best_quality = form, quality
    return best


def _media_range(part: str) -> tuple[str, float]:
    name, *parameters = (piece.strip().lower() for piece in part.split(";"))
    quality = next((p[2:] for p in parameters if p.startswith("q=")), "1")
    try:
        return name, float(quality)
    except ValueError:
        return name, 0.0


def _json(saved: SavedModel) -> bytes:
    """Return report.json, with the model's reference; of a model that has none, what its card tells."""
    card = saved.card
    if "report.json" in card.files:
        told = json.loads(saved.file("report.json"))
    else:
        left_out = {"format_version", "id", "version", "files", "files_folder", "report"}
        told = card.model_dump(mode="json", exclude=left_out)
        told |= card.report
    report = {"object": "report", "model": card.reference} | told
    return json.dumps(report, ensure_ascii=False).encode("utf-8", "replace")


def _file(saved: SavedModel, name: str) -> bytes:
    if name not in saved.card.files:
        raise NotFound(
            f"model {saved.card.reference} has no {name}; ask for format=json, which has what is known of it",
            code="report_not_found",
            param="format",
        )
    return saved.file(name)
