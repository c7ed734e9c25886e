"""/v1/files: OpenAI's files are our corpora, under the same ids.

A file named *.jsonl is turned into plain text on the way in (app/compat/json_lines.py), for that is what is
trained on; /content gives that text. The name and purpose a file came with are kept beside the corpus.
"""

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers

from app.compat.bad_request import NOT_422, OpenAIRoute
from app.compat.joined_files import delete_joined, joined_with
from app.compat.json_lines import JsonLines
from app.http.access import Reach, ReachDep
from app.http.dependencies import ServicesDep
from app.http.errors import error_responses
from app.http.paging import paginate
from app.routes.corpora import delete_corpus, get_text
from app.schemas.lists import After, Page
from app.schemas.openai_jobs import FileBody, FileDeleted
from app.services.uploads import FormText, receive
from models.errors import InvalidInput
from store.corpora import Corpus, Upload

router = APIRouter(prefix="/v1/files", tags=["openai"], route_class=OpenAIRoute)

UPLOAD_PATH = "/v1/files"
PURPOSES = ("fine-tune", "evals", "user_data")

_UPLOAD_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {
                            "type": "string",
                            "format": "binary",
                            "description": 'UTF-8 text; or, if its name ends in .jsonl, lines of {"text"} or'
                            ' {"prompt", "completion"}.',
                        },
                        "purpose": {"type": "string", "enum": list(PURPOSES)},
                    },
                },
                "example": {"file": "PREFACE\n\nSUPPOSING that Truth is a woman", "purpose": "fine-tune"},
            },
        },
    },
}
_CONTENT_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The text that is trained on.",
        "content": {"text/plain": {"schema": {"type": "string"}, "example": "PREFACE\n"}},
    },
}


@router.post("", responses=NOT_422 | error_responses(413, 415, 503, 507), openapi_extra=_UPLOAD_BODY)
async def create_file(services: ServicesDep, reach: ReachDep, request: Request) -> FileBody:
    """Upload a text to train on. The same bytes are the same file, which keeps its first name and purpose."""
    limit_bytes = services.settings.max_corpus_bytes
    spool = services.settings.data_dir / "spool"
    form = _FileForm(request.headers)
    with await run_in_threadpool(Upload, spool, limit_bytes=limit_bytes) as upload:
        await receive(request, upload, limit_bytes=limit_bytes, decode=form)
        added, is_new = await run_in_threadpool(services.corpora.add, upload)
    corpus, is_new = await run_in_threadpool(reach.uploaded, added, is_new=is_new)
    about = json.dumps({"filename": form.filename, "purpose": form.purpose}).encode()
    # What a file that was deleted as a corpus has left is replaced.
    keep = services.blobs.write if is_new else services.blobs.create
    await run_in_threadpool(keep, _about_path(corpus.id, reach), about)
    return _body(corpus, await run_in_threadpool(_about, reach, corpus))


@router.get("", responses=NOT_422 | error_responses(503))
def list_files(
    reach: ReachDep,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Annotated[Literal["asc", "desc"], Query(description="By time of creation.")] = "desc",
    purpose: Annotated[str | None, Query(description="Those with this purpose only.")] = None,
) -> Page[FileBody]:
    """List files."""
    files = [_body(corpus, _about(reach, corpus)) for corpus in reach.corpora()]
    wanted = [file for file in files if purpose in (None, file.purpose)]
    page, has_more = paginate(
        wanted[::-1] if order == "asc" else wanted, lambda file: file.id, after=after, limit=limit
    )
    return Page(data=page, has_more=has_more)


@router.get("/{file}", responses=NOT_422 | error_responses(404, 503))
def get_file_object(reach: ReachDep, file: str) -> FileBody:
    """Get what is known of a file."""
    corpus = reach.corpus(file)
    return _body(corpus, _about(reach, corpus))


@router.get(
    "/{file}/content",
    response_class=StreamingResponse,
    responses=_CONTENT_ANSWER | NOT_422 | error_responses(404, 503),
)
def get_file_content(services: ServicesDep, reach: ReachDep, file: str) -> StreamingResponse:
    """Get a file's text back: of JSON Lines the text that was made of them."""
    return get_text(services, reach, file)


@router.delete("/{file}", responses=NOT_422 | error_responses(404, 409, 503))
def delete_file(services: ServicesDep, reach: ReachDep, file: str) -> FileDeleted:
    """Delete a file, and so the corpus, and what was made of it and a validation file. Models stay."""
    file_id = reach.corpus_id(file)
    for corpus_id in (file_id, *joined_with(reach, file_id)):
        reach.check_not_needed(corpus_id)
    delete_joined(reach, file_id)
    deleted = delete_corpus(reach, file_id).id
    of_limited_keys = [] if reach.limited_to else services.blobs.paths(f"openai_files/{deleted}")
    services.blobs.delete(_about_path(deleted, reach), *of_limited_keys)
    return FileDeleted(id=deleted)


def _about_path(corpus_id: str, reach: Reach) -> str:
    """Return where the name and purpose of a file are; a key that is limited does not see those of others."""
    key = reach.limited_to
    return f"openai_files/{corpus_id}/key-{key.name}.json" if key else f"openai_files/{corpus_id}.json"


def _about(reach: Reach, corpus: Corpus) -> dict[str, str]:
    """Return name and purpose; a corpus that came by another way has its own name."""
    try:
        about: dict[str, str] = json.loads(reach.services.blobs.read(_about_path(corpus.id, reach)))
    except (FileNotFoundError, ValueError):  # ValueError: damaged in storage
        return {"filename": f"{corpus.name or corpus.id}.txt", "purpose": PURPOSES[0]}
    return about


def _body(corpus: Corpus, about: dict[str, str]) -> FileBody:
    return FileBody(id=corpus.id, bytes=corpus.bytes, created_at=corpus.created_at, **about)


class _FileForm:
    """Makes the text of a form with `file` and `purpose`."""

    overhead_bytes = 65536

    def __init__(self, headers: Headers) -> None:
        kind, options = parse_options_header(headers.get("content-type", ""))
        if kind != b"multipart/form-data":
            raise InvalidInput(
                "send the file as multipart/form-data, with the fields file and purpose", param="file"
            )
        self._form = FormText(options.get(b"boundary", b""), others=("purpose",))
        self._lines: JsonLines | None = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the text in the next bytes of the form."""
        for piece in self._form.feed(data):
            if self._lines is None and self._form.filename.lower().endswith(".jsonl"):
                self._lines = JsonLines()
            yield self._lines.feed(piece) if self._lines else piece
        if self._form.has_ended and self._lines:
            yield self._lines.finish()

    def finish(self) -> None:
        """Check that the form was whole. Raises InvalidInput."""
        self._form.finish()
        if self.purpose not in PURPOSES:
            raise InvalidInput(
                f"purpose is {self.purpose!r}; files are texts here, so it is one of {', '.join(PURPOSES)}",
                param="purpose",
            )

    @property
    def purpose(self) -> str:
        return self._form.values.get("purpose", b"").decode("utf-8", "replace")

    @property
    def filename(self) -> str:
        return self._form.filename or "file.txt"
