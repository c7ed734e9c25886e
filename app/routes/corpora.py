"""/v1/corpora: texts in, their statistics and the texts out."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from app.http.access import Reach, ReachDep
from app.http.dependencies import ServicesDep
from app.http.errors import error_responses
from app.http.paging import paginate
from app.schemas.corpora import CorpusBody
from app.schemas.lists import DEFAULT_LIMIT, After, Deleted, Limit, Page
from app.services.uploads import receive
from store.corpora import Corpus, Upload
from store.corpus_statistics import Encoding
from store.ids import check_name

router = APIRouter(prefix="/v1/corpora", tags=["corpora"])

UPLOAD_PATH = "/v1/corpora"

_EXAMPLE_TEXT = "PREFACE\n\nSUPPOSING that Truth is a woman--what then?\n"
_UPLOAD_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "UTF-8 text, or any bytes with `encoding=bytes`; `Content-Encoding: gzip` is undone.",
        "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "text/plain": {
                "schema": {"type": "string", "minLength": 1},
                "example": _EXAMPLE_TEXT,
            },
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}},
                },
                "example": {"file": _EXAMPLE_TEXT},
            },
        },
    },
    "parameters": [
        {
            "name": "Content-Encoding",
            "in": "header",
            "schema": {
                "type": "string",
                "enum": ["identity", "gzip"],
                "default": "identity",
            },
        }
    ],
}
_TEXT_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The bytes as they were uploaded.",
        "content": {
            "text/plain": {"schema": {"type": "string"}, "example": _EXAMPLE_TEXT},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    },
}

_KNOWN: dict[int | str, dict[str, Any]] = {
    200: {"model": CorpusBody, "description": "This text is here already."}
}

Name = Annotated[
    str | None,
    Query(description="A name to call the corpus by: up to 64 letters, digits, '.', '_', '-'."),
]
EncodingQuery = Annotated[
    Encoding,
    Query(
        description="`bytes` takes anything: each byte is a character, and models of it have the alphabet"
        " `bytes`. Its statistics count bytes."
    ),
]


@router.post(
    "",
    status_code=201,
    responses=_KNOWN | error_responses(409, 413, 415, 422, 503, 507),
    openapi_extra=_UPLOAD_BODY,
)
async def add_corpus(
    services: ServicesDep,
    reach: ReachDep,
    request: Request,
    response: Response,
    name: Name = None,
    encoding: EncodingQuery = "utf-8",
) -> CorpusBody:
    """Upload a text. The same bytes in the same encoding are the same corpus, whatever they are called."""
    if name is not None:
        reach.check_corpus_name(check_name(name))
    corpus, is_new = await _upload(services, reach, request, name, encoding)
    response.status_code = 201 if is_new else 200
    response.headers["Location"] = f"{UPLOAD_PATH}/{corpus.id}"
    return CorpusBody.model_validate(corpus)


@router.get("", responses=error_responses(422, 503))
def list_corpora(reach: ReachDep, after: After = None, limit: Limit = DEFAULT_LIMIT) -> Page[CorpusBody]:
    """List corpora, newest first."""
    page, has_more = paginate(reach.corpora(), lambda c: c.id, after=after, limit=limit)
    return Page(data=[CorpusBody.model_validate(c) for c in page], has_more=has_more)


@router.get("/{corpus}", responses=error_responses(404, 422, 503))
def get_corpus(reach: ReachDep, corpus: str) -> CorpusBody:
    """Get a corpus's statistics, by id or name."""
    return CorpusBody.model_validate(reach.corpus(corpus))


@router.get(
    "/{corpus}/text",
    response_class=StreamingResponse,
    responses=_TEXT_ANSWER | error_responses(404, 422, 503),
)
def get_text(services: ServicesDep, reach: ReachDep, corpus: str) -> StreamingResponse:
    """Get the text back, byte for byte."""
    known = reach.corpus(corpus)
    headers = {"ETag": f'"{known.sha256}"', "Content-Length": str(known.bytes)}
    kind = "text/plain" if known.encoding == "utf-8" else "application/octet-stream"
    return StreamingResponse(services.corpora.stream(known.id), media_type=kind, headers=headers)


@router.delete("/{corpus}", responses=error_responses(404, 409, 422, 503))
def delete_corpus(reach: ReachDep, corpus: str) -> Deleted:
    """Delete a corpus and its names. Models trained on it stay, and so does what another key uploaded too."""
    return Deleted(id=reach.delete_corpus(corpus), object="corpus")


async def _upload(
    services: ServicesDep, reach: Reach, request: Request, name: str | None, encoding: Encoding
) -> tuple[Corpus, bool]:
    limit_bytes = services.settings.max_corpus_bytes
    spool = services.settings.data_dir / "spool"
    with await run_in_threadpool(Upload, spool, limit_bytes=limit_bytes, encoding=encoding) as upload:
        await receive(request, upload, limit_bytes=limit_bytes)
        corpus, is_new = await run_in_threadpool(services.corpora.add, upload, name=name)
    return await run_in_threadpool(reach.uploaded, corpus, is_new=is_new)
