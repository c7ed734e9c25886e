"""/v1/corpora: texts are uploaded, described, downloaded and deleted."""

from collections.abc import Collection
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from nextchar.app.access.audit import set_audit_details
from nextchar.app.access.permissions import Access, AccessDep
from nextchar.app.corpora.archives import ArchiveFormat
from nextchar.app.corpora.schemas import CorpusBody, CorpusChange, CorpusSource
from nextchar.app.corpora.transfer import Deduplication, read_corpus, receive_corpus, text_response
from nextchar.app.http.bodies import DocumentRoute
from nextchar.app.http.errors import error_responses
from nextchar.app.http.rules import STREAMED, needs
from nextchar.app.http.schemas import DEFAULT_LIMIT, After, Deleted, Limit, Page, paginate
from nextchar.app.http.services import ServicesDep
from nextchar.app.http.threads import run_in_thread
from nextchar.app.room import Folder, Room
from nextchar.models.text.kind_detection import TextKind
from nextchar.store.blobs import Blobs
from nextchar.store.corpus import Corpus, Encoding
from nextchar.store.ids import check_name

router = APIRouter(prefix="/v1/corpora", tags=["corpora"], route_class=DocumentRoute)

_PATH = "/v1/corpora"

_EXAMPLE_TEXT = "PREFACE\n\nSUPPOSING that Truth is a woman--what then?\n"
_UPLOAD_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "UTF-8 text, or any bytes with `encoding=bytes`; `Content-Encoding: gzip` is decoded.",
        "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "text/plain": {"schema": {"type": "string", "minLength": 1}, "example": _EXAMPLE_TEXT},
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
            "schema": {"type": "string", "enum": ["identity", "gzip"], "default": "identity"},
        }
    ],
}
_TEXT_RESPONSE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The bytes as they were uploaded.",
        "content": {
            "text/plain": {"schema": {"type": "string"}, "example": _EXAMPLE_TEXT},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}

_EXISTING: dict[int | str, dict[str, Any]] = {
    200: {"model": CorpusBody, "description": "The corpus existed already."}
}

Name = Annotated[
    str | None,
    Query(
        description="A name for the corpus: up to 64 letters, digits, '.', '_', '-'. If another text has it,"
        " this one becomes its next version, `name@2`."
    ),
]
EncodingQuery = Annotated[
    Encoding,
    Query(
        description="`bytes` accepts any bytes: each byte is a character, and models of it have the"
        " alphabet `bytes`. Its statistics count bytes."
    ),
]

KindQuery = Annotated[
    TextKind | None,
    Query(
        description="What the text is, if it is known; by default the service detects it. See the response's"
        " `kind`."
    ),
]

ArchiveQuery = Annotated[
    ArchiveFormat | None,
    Query(
        description="The body is an archive: `tar`, also compressed with gzip, or `zip`. Its files, in its"
        " order, become one text, each ending with a newline; those named `*.gz` are decompressed, hidden"
        " files and links are left out."
    ),
]

DeduplicateQuery = Annotated[
    Deduplication | None,
    Query(
        description="`lines` removes each line that occurred before. Empty lines stay. The limit on the size"
        " of a corpus applies to the text before."
    ),
]


@router.post(
    "",
    status_code=201,
    responses=_EXISTING | error_responses(409, 413, 415, 422, 503, 507),
    openapi_extra=_UPLOAD_BODY,
)
@needs("train", body=STREAMED)
async def add_corpus(
    services: ServicesDep,
    access: AccessDep,
    request: Request,
    response: Response,
    name: Name = None,
    encoding: EncodingQuery = "utf-8",
    kind: KindQuery = None,
    archive: ArchiveQuery = None,
    deduplicate: DeduplicateQuery = None,
) -> CorpusBody:
    """Upload a text. The same bytes in the same encoding are the same corpus, which can have many names."""
    if name is not None:
        access.check_corpus_name(check_name(name))
    corpus, is_new = await receive_corpus(
        services, access, request, name=name, encoding=encoding, archive=archive, deduplicate=deduplicate
    )
    return await _added(access, response, corpus, name=name, is_new=is_new, kind=kind)


async def _added(
    access: Access,
    response: Response,
    corpus: Corpus,
    *,
    name: str | None,
    is_new: bool,
    kind: TextKind | None,
) -> CorpusBody:
    """Set the kind of a corpus that was just stored, and complete the response."""
    if kind is not None and kind != corpus.kind:
        corpus = await run_in_thread(access.set_corpus_kind, name or corpus.id, kind)
    response.status_code = 201 if is_new else 200
    response.headers["Location"] = f"{_PATH}/{corpus.id}"
    return CorpusBody.model_validate(corpus)


@router.post(
    "/import", status_code=201, responses=_EXISTING | error_responses(400, 403, 404, 413, 415, 422, 503, 507)
)
@needs("train")
async def import_corpus(
    services: ServicesDep, access: AccessDep, response: Response, body: CorpusSource
) -> CorpusBody:
    """Read files in an object store as one corpus, in order of their paths.

    The response is sent when all are read.
    """
    if body.name is not None:
        access.check_corpus_name(check_name(body.name))
    access.check_is_unlimited("it may not read from the object store")
    corpus, is_new = await read_corpus(
        services, access, body.url, name=body.name, encoding=body.encoding, deduplicate=body.deduplicate
    )
    return await _added(access, response, corpus, name=body.name, is_new=is_new, kind=body.kind)


@router.get("", responses=error_responses(422, 503))
@needs("read", "train")
def list_corpora(access: AccessDep, after: After = None, limit: Limit = DEFAULT_LIMIT) -> Page[CorpusBody]:
    """List corpora, newest first."""
    page, has_more = paginate(access.list_corpora(), lambda c: c.id, after=after, limit=limit)
    return Page(data=[CorpusBody.model_validate(c) for c in page], has_more=has_more)


@router.get("/{corpus}", responses=error_responses(404, 422, 503))
@needs("read", "train")
def get_corpus(access: AccessDep, corpus: str) -> CorpusBody:
    """Get a corpus's statistics, by id or by one of its names; `name` is then that one, or the first."""
    return CorpusBody.model_validate(access.get_corpus(corpus))


@router.patch("/{corpus}", responses=error_responses(400, 404, 413, 415, 422, 503, 507))
@needs("train")
def change_corpus(request: Request, access: AccessDep, corpus: str, body: CorpusChange) -> CorpusBody:
    """Set the kind of a corpus, which decides how jobs that set no kind split it. The text is unchanged."""
    changed = access.set_corpus_kind(corpus, body.kind)
    set_audit_details(request, about=f"{_PATH}/{changed.id}")
    return CorpusBody.model_validate(changed)


@router.get(
    "/{corpus}/text",
    response_class=StreamingResponse,
    responses=_TEXT_RESPONSE | error_responses(404, 422, 503),
)
@needs("read", "train")
def get_text(request: Request, services: ServicesDep, access: AccessDep, corpus: str) -> StreamingResponse:
    """Download the text, byte for byte as it was uploaded."""
    found = access.get_corpus(corpus)
    set_audit_details(request, about=f"{_PATH}/{found.id}/text")
    return text_response(services, found)


@router.delete("/{corpus}", responses=error_responses(404, 409, 422, 503))
@needs("train")
def delete_corpus(request: Request, access: AccessDep, corpus: str) -> Deleted:
    """Delete a corpus and its names. Models trained on it stay; so does another key's upload of it."""
    deleted = access.delete_corpus(corpus)
    set_audit_details(request, about=f"{_PATH}/{deleted}")
    return Deleted(id=deleted, object="corpus")


_ABOUT_CORPORA = ("corpus_kinds", "corpus_names", "corpus_versions", "corpus_owners")


def texts_first(paths: list[str], _: Blobs, __: Collection[str]) -> list[str]:
    """Return the texts, then their records: not those whose text was uploaded while the folder was listed."""
    listed = set(paths)
    records = [path for path in paths if path.endswith("/corpus.json")]
    whole = [path for path in records if path.replace("/corpus.json", "/text") in listed]
    return [*(path for path in paths if not path.endswith("/corpus.json")), *whole]


CORPORA = Room(
    "corpora",
    routers=(router,),
    folders=(*(Folder(name, ["corpora"]) for name in _ABOUT_CORPORA), Folder("corpora", choose=texts_first)),
)
