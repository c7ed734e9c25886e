"""/v1/files: OpenAI's files are our corpora, under the same ids.

A file named *.jsonl is converted to plain text, which is what a job trains on (app/openai/json_lines.py);
/content returns that text. The requests of a batch are kept as they are. The file's name and purpose are
stored with the corpus.

A training file and a validation file as one corpus, because a job trains on one and holds out its end.

    openai_joined/<file id>/<corpus id>   this corpus was made of the file and another one

The corpus was not uploaded, so it is deleted with either of its files.
"""

import contextlib
import json
from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers

from nextchar.app.access.audit import set_audit_details
from nextchar.app.access.permissions import Access, AccessDep
from nextchar.app.corpora.transfer import MAX_FORM_OVERHEAD_BYTES, receive_corpus, text_response
from nextchar.app.http.errors import error_responses
from nextchar.app.http.incoming_body import FormText
from nextchar.app.http.rules import STREAMED, needs
from nextchar.app.http.schemas import After, Deleted, Page, paginate
from nextchar.app.http.services import Services, ServicesDep
from nextchar.app.http.threads import run_in_thread
from nextchar.app.openai.job_schemas import FileBody
from nextchar.app.openai.json_lines import JsonLines
from nextchar.app.openai.schemas import NOT_422, OpenAIRoute
from nextchar.models.errors import DomainError, InvalidInput, NotFound
from nextchar.models.validation_errors import load_record
from nextchar.store.blobs import Blobs
from nextchar.store.corpus import Corpus, Upload

router = APIRouter(prefix="/v1/files", tags=["OpenAI"], route_class=OpenAIRoute)

BATCH = "batch"
PURPOSES = ("fine-tune", "evals", "user_data", BATCH)
BATCH_OUTPUT = "batch_output"
"""The purpose of the files that batches make."""

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
                            ' {"prompt", "completion"}, or for the purpose batch lines of {"custom_id",'
                            ' "method", "url", "body"}.',
                        },
                        "purpose": {"type": "string", "enum": list(PURPOSES)},
                    },
                },
                "example": {"file": "PREFACE\n\nSUPPOSING that Truth is a woman", "purpose": "fine-tune"},
            }
        },
    }
}
_CONTENT_RESPONSE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The text that a job trains on; of a corpus with `encoding=bytes`, its bytes.",
        "content": {
            "text/plain": {"schema": {"type": "string"}, "example": "PREFACE\n"},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}

_MIN_HELD_OUT, _MAX_HELD_OUT = 0.005, 0.5


@router.post("", responses=NOT_422 | error_responses(413, 415, 503, 507), openapi_extra=_UPLOAD_BODY)
@needs("train", body=STREAMED)
async def create_file(services: ServicesDep, access: AccessDep, request: Request) -> FileBody:
    """Upload a text to train on. The same bytes are the same file, which keeps its first name and purpose."""
    form = _FileForm(request.headers)
    corpus, is_new = await receive_corpus(services, access, request, decoder=form)
    describe = partial(write_metadata, services.blobs, access, corpus.id, replace=is_new)
    await run_in_thread(describe, filename=form.filename, purpose=form.purpose)
    set_audit_details(request, about=f"/v1/files/{corpus.id}")
    return await run_in_thread(_body, services.blobs, access, corpus)


@router.get("", responses=NOT_422 | error_responses(503))
@needs("read", "train")
def list_files(
    services: ServicesDep,
    access: AccessDep,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Annotated[Literal["asc", "desc"], Query(description="By time of creation.")] = "desc",
    purpose: Annotated[str | None, Query(description="Only files with this purpose.")] = None,
) -> Page[FileBody]:
    """List files."""
    files = [_body(services.blobs, access, corpus) for corpus in access.list_corpora()]
    selected = [file for file in files if purpose in (None, file.purpose)]
    page, has_more = paginate(
        selected[::-1] if order == "asc" else selected, lambda file: file.id, after=after, limit=limit
    )
    return Page(data=page, has_more=has_more)


@router.get("/{file}", responses=NOT_422 | error_responses(404, 503))
@needs("read", "train")
def get_file_object(services: ServicesDep, access: AccessDep, file: str) -> FileBody:
    """Get a file's metadata."""
    return _body(services.blobs, access, access.get_corpus(file))


@router.get(
    "/{file}/content",
    response_class=StreamingResponse,
    responses=_CONTENT_RESPONSE | NOT_422 | error_responses(404, 503),
)
@needs("read", "train")
def get_file_content(
    request: Request, services: ServicesDep, access: AccessDep, file: str
) -> StreamingResponse:
    """Download a file's text: for JSON Lines, the text that they were converted to."""
    corpus = access.get_corpus(file)
    set_audit_details(request, about=f"/v1/files/{corpus.id}/content")
    return text_response(services, corpus)


@router.delete("/{file}", responses=NOT_422 | error_responses(404, 409, 503))
@needs("train")
def delete_file(request: Request, services: ServicesDep, access: AccessDep, file: str) -> Deleted:
    """Delete a file and its corpus, and the corpora made of it and a validation file. Models stay."""
    blobs, file_id = services.blobs, access.corpus_id(file)
    for corpus_id in (file_id, *joined_corpora(blobs, file_id)):
        access.check_corpus_unused(corpus_id)
    delete_joined(blobs, access, file_id)
    access.delete_corpus(file_id)
    of_limited_keys = [] if access.limited_key else blobs.paths(f"openai_files/{file_id}")
    blobs.delete(_metadata_path(file_id, access), *of_limited_keys)
    set_audit_details(request, about=f"/v1/files/{file_id}")
    return Deleted(id=file_id, object="file")


def get_file(access: Access, reference: str, *, param: str) -> Corpus:
    """Return the file that a field names. Raises NotFound (code `file_not_found`)."""
    try:
        return access.get_corpus(reference)
    except NotFound:
        raise NotFound(f"there is no file {reference!r}", code="file_not_found", param=param) from None


def purpose_of(blobs: Blobs, access: Access, corpus: Corpus) -> str:
    """Return the purpose of a file."""
    return _body(blobs, access, corpus).purpose


def write_metadata(
    blobs: Blobs, access: Access, corpus_id: str, *, filename: str, purpose: str, replace: bool
) -> None:
    """Store a file's name and purpose, unless it has them and `replace` is false.

    Those of a new corpus replace what a file that was deleted as a corpus has left behind.
    """
    metadata = json.dumps({"filename": filename, "purpose": purpose}).encode()
    store = blobs.write if replace else blobs.create
    store(_metadata_path(corpus_id, access), metadata)


def _metadata_path(corpus_id: str, access: Access) -> str:
    """Return where the name and purpose of a file are stored; limited keys have their own."""
    key = access.limited_key
    return f"openai_files/{corpus_id}/key-{key.name}.json" if key else f"openai_files/{corpus_id}.json"


def _body(blobs: Blobs, access: Access, corpus: Corpus) -> FileBody:
    """Describe a corpus as a file; one that was not uploaded as a file gets a name and a purpose."""
    file = partial(FileBody, id=corpus.id, bytes=corpus.bytes, created_at=corpus.created_at)
    try:
        return file(**load_record(blobs.read_record(_metadata_path(corpus.id, access))))
    except (FileNotFoundError, ValueError, TypeError):  # but for the first: damaged in storage
        return file(filename=f"{corpus.name or corpus.id}.txt", purpose=PURPOSES[0])


class _FileForm:
    """Extracts the text from a form with the fields `file` and `purpose`."""

    overhead_bytes = MAX_FORM_OVERHEAD_BYTES

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
        """Check that the form is complete and its purpose valid. Raises InvalidInput."""
        self._form.finish()
        if self.purpose not in PURPOSES:
            raise InvalidInput(
                f"purpose is {self.purpose!r}; it must be one of {', '.join(PURPOSES)}", param="purpose"
            )
        are_requests = self._lines is not None and self._lines.are_requests is True
        if are_requests != (self.purpose == BATCH):
            raise InvalidInput(
                "the lines are requests of a batch, so purpose must be batch"
                if are_requests
                else 'a file with the purpose batch is named *.jsonl, and its lines are {"custom_id": "…",'
                ' "method": "POST", "url": "/v1/completions", "body": {…}}',
                param="purpose" if are_requests else "file",
            )

    @property
    def purpose(self) -> str:
        return self._form.values.get("purpose", b"").decode("utf-8", "replace")

    @property
    def filename(self) -> str:
        return self._form.filename or "file.txt"


@contextlib.contextmanager
def joined_corpus(
    services: Services, access: Access, training: Corpus, validation: Corpus
) -> Iterator[tuple[Corpus, float]]:
    """Make a corpus of two texts; yield it and the fraction, at its end, that is the second.

    The second text begins on its own line. If the block raises a DomainError, the corpus is deleted.

    Raises:
        InvalidInput: a text was uploaded as bytes, or the second is too small or too large.
        TooLarge: both together exceed the limit for a corpus.
    """
    if "bytes" in (training.encoding, validation.encoding):
        raise InvalidInput(
            "validation_file needs files uploaded as text, not as bytes", param="validation_file"
        )
    fraction = validation.characters / (training.characters + validation.characters)
    if not _MIN_HELD_OUT <= fraction <= _MAX_HELD_OUT:
        raise InvalidInput(
            f"validation_file would be {fraction:.1%} of both files; it may be from 0.5 % to 50 %",
            param="validation_file",
        )
    corpus, is_new = _join(services, access, training, validation)
    if is_new:  # otherwise a client has uploaded the same text, and only it may delete that
        for source in (training, validation):
            services.blobs.write(_marker_path(source.id, corpus.id), b"")
    try:
        yield corpus, validation.characters / corpus.characters
    except DomainError:
        if is_new:
            with contextlib.suppress(DomainError):  # another job may use it already
                access.delete_corpus(corpus.id)
        raise


def joined_corpora(blobs: Blobs, file_id: str) -> list[str]:
    """Return the ids of the corpora that were made of a file and another."""
    return [path.rpartition("/")[2] for path in blobs.paths(f"openai_joined/{file_id}")]


def delete_joined(blobs: Blobs, access: Access, file_id: str) -> None:
    """Delete the corpora that were made of a file and another. The caller checks that no job uses them."""
    for corpus_id in joined_corpora(blobs, file_id):
        with contextlib.suppress(NotFound):  # deleted already, or not accessible
            access.delete_corpus(corpus_id)
        with contextlib.suppress(NotFound):
            access.corpora.id_of(corpus_id)
            continue  # another key has it
        blobs.delete(_marker_path(file_id, corpus_id))


def _join(services: Services, access: Access, training: Corpus, validation: Corpus) -> tuple[Corpus, bool]:
    services.watermark.check(needed_bytes=training.bytes + validation.bytes)
    spool, limit_bytes = services.settings.spool, services.settings.max_corpus_bytes
    with Upload(spool, limit_bytes=limit_bytes) as upload:
        last = b""
        for piece in services.corpora.stream(training.id):
            upload.feed(piece)
            last = piece[-1:] or last
        if last != b"\n":
            upload.feed(b"\n")
        for piece in services.corpora.stream(validation.id):
            upload.feed(piece)
        corpus, is_new = services.corpora.add(upload, check=access.check_corpus_quota)
    return access.record_upload(corpus, is_new=is_new)


def _marker_path(file_id: str, corpus_id: str) -> str:
    return f"openai_joined/{file_id}/{corpus_id}"
