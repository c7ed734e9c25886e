"""Running the requests of batches: a loop in every API process; leases in Redis divide the chunks.

A batch's file is first validated and divided into chunks. Each chunk is run by the process that holds
its lease, and its responses are created once. When all chunks have responses, or the batch is cancelled or
its time is over, the responses become files, which are corpora: they depend only on the chunks that the
record names, so doing it again after a kill makes the same files.
"""

import asyncio
import contextlib
import json
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter
from redis.exceptions import RedisError

from nextchar.app.access.keys import Key
from nextchar.app.access.permissions import Access
from nextchar.app.errors import Forbidden
from nextchar.app.http.bodies import validate_body
from nextchar.app.http.errors import invalid_fields, status_and_body
from nextchar.app.http.limited_work import LimitedWork
from nextchar.app.models.engines import Engines
from nextchar.app.openai.batch_requests import MAX_ERRORS, BatchRequest, InvalidLine, divide, parse_request
from nextchar.app.openai.batches import (
    ALL,
    COMPLETED,
    FAILED,
    LEASE_S,
    Batch,
    BatchError,
    Batches,
    BatchStatus,
)
from nextchar.app.openai.completions import check_is_supported, complete
from nextchar.app.openai.files import BATCH_OUTPUT, write_metadata
from nextchar.app.openai.schemas import OpenAICompletionCreate
from nextchar.models.errors import Busy, Conflict, DomainError, InvalidInput, NotFound, Unavailable
from nextchar.store.background import ErrorLog
from nextchar.store.blobs import Blobs
from nextchar.store.corpora import Corpora
from nextchar.store.corpus_upload import Upload
from nextchar.store.jobs import STORAGE_CODES, Jobs
from nextchar.store.models import Models

log = logging.getLogger("nextchar.api")

_BODY = TypeAdapter[Any](OpenAICompletionCreate)

_DAMAGED = ("batch_damaged", "this request is damaged in the storage; send it again in another batch")

INTERVAL_S = 1.0
"""Interval between two rounds, for which a new batch waits."""

MAX_CONCURRENT_REQUESTS = 16
"""Number of requests of a chunk that run at the same time, so that other clients get slots of the engine."""

_ROUND_S = 5.0  # no chunk is begun after this long, so that new batches are seen
_IDLE_S = 30.0  # between two lists of the batches while none is created, since a list costs a request
_STOP_POLL_S = 0.2  # between two looks whether to stop
_RENEW_S = LEASE_S / 5
_MAX_BUSY_S = 5.0  # between two attempts at a request, if the model has too many
_UNLIMITED_BYTES = 1 << 60


class _Abandoned(Exception):
    """This chunk or batch is left: the process stops, or the batch has been taken or moved by others."""


@dataclass
class BatchProcessing:
    """Processes batches. `run` is a round of a background loop; it runs in one thread.

    Args:
        batches: the records and chunks.
        blobs, corpora, models, jobs: the storage.
        engines: the loaded models.
        long_prompts: masking long prompts, and log-probabilities of echoed ones.
        spool: folder of the files under way.
        stopping: set when the process stops.
        on_progress: called while a long round makes progress.
    """

    batches: Batches
    blobs: Blobs
    corpora: Corpora
    models: Models
    jobs: Jobs
    engines: Engines
    long_prompts: LimitedWork
    spool: Path
    stopping: threading.Event
    on_progress: Callable[[], None] = lambda: None
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    _idle_since: int | None = None  # how many batches had been created when there was nothing to do
    _look_at_s: float = 0.0  # by time.monotonic: when to list the batches even so
    _errors: ErrorLog = field(default_factory=lambda: ErrorLog(log))

    def run(self) -> None:
        """Advance all batches until there is nothing to do, or for some seconds.

        Another error of one batch is logged, and the others go on.

        Raises redis.exceptions.RedisError, and Unavailable or StorageFull if the storage does not work.
        """
        created = self.batches.created()
        if created == self._idle_since and time.monotonic() < self._look_at_s:
            return
        deadline = time.monotonic() + _ROUND_S
        has_work = True
        while has_work and time.monotonic() < deadline and not self.stopping.is_set():
            # One piece of each, so that a large batch does not delay a small one.
            unfinished = self.batches.unfinished()
            has_work = max(map(self._advance, unfinished), default=False)
            self._idle_since = None if unfinished else created
            self._look_at_s = time.monotonic() + _IDLE_S

    def _advance(self, batch: Batch) -> bool:
        """Do one piece of work for a batch; return whether there was any."""
        if self.stopping.is_set():
            return False
        steps = {BatchStatus.VALIDATING: self._validate, BatchStatus.IN_PROGRESS: self._run_next_chunk}
        try:
            return steps.get(batch.status, self._finalize)(batch)
        except (_Abandoned, FileNotFoundError):  # no file: deleted by another process since it was listed
            return False
        except Conflict:  # another process, or a request to cancel, has moved the batch: look again
            return True
        except Exception as error:
            is_storage = isinstance(error, DomainError) and error.code in STORAGE_CODES
            if is_storage or isinstance(error, RedisError):
                raise
            self._errors.add(f"processing batch {batch.id}", error)
            return False

    @contextlib.contextmanager
    def _lease(self, batch: Batch, what: int | str) -> Iterator[bool]:
        """Hold a lease for a block, if it is free; give whether it is held."""
        if not self.batches.acquire_lease(batch.id, what, self.token):
            yield False
            return
        try:
            yield True
        finally:
            self.batches.release_lease(batch.id, what, self.token)

    def _renew(self, batch: Batch, what: int | str) -> None:
        if self.stopping.is_set() or not self.batches.acquire_lease(batch.id, what, self.token):
            raise _Abandoned
        self.on_progress()

    def _check_is_current(self, batch: Batch) -> None:
        """Leave a batch that has been moved or deleted: its chunks are deleted after its last move."""
        try:
            is_current = self.batches.get(batch.id).sequence == batch.sequence
        except NotFound:
            is_current = False
        if not is_current:
            raise _Abandoned

    # From the file to chunks

    def _validate(self, batch: Batch) -> bool:
        if time.time() >= batch.expires_at:
            self.batches.move(batch, BatchStatus.EXPIRED)
            return True
        with self._lease(batch, ALL) as is_held:
            if not is_held:
                return False
            errors: list[BatchError] = []
            sizes = []
            try:
                pieces = self.corpora.stream(batch.input_file)
                for chunk, lines in enumerate(divide(pieces, endpoint=batch.endpoint, errors=errors)):
                    self._renew(batch, ALL)
                    self.batches.write_input(batch.id, chunk, lines)
                    sizes.append(len(lines))
            except NotFound:
                message = f"the file {batch.input_file} has been deleted; upload it again"
                errors.append(BatchError(code="file_not_found", message=message, param="input_file_id"))
            if not errors and not sizes:
                message = "the file has no requests"
                errors.append(BatchError(code="empty_file", message=message, param="input_file_id"))
            if errors:
                self.batches.move(batch, BatchStatus.FAILED, errors=tuple(errors[:MAX_ERRORS]))
                self.batches.delete_chunks(batch.id)
            else:
                self.batches.move(batch, BatchStatus.IN_PROGRESS, chunk_sizes=tuple(sizes))
            return True

    # From chunks to responses

    def _run_next_chunk(self, batch: Batch) -> bool:
        finished = self.batches.answered_chunks(batch.id)
        self.batches.count_answered(batch.id, finished)
        is_expired = time.time() >= batch.expires_at
        if is_expired or len(finished) == len(batch.chunk_sizes):
            is_complete = len(finished) == len(batch.chunk_sizes)
            self.batches.move(
                batch, BatchStatus.FINALIZING, included=tuple(finished), is_expired=not is_complete
            )
            return True
        done = set(finished)
        for chunk in range(len(batch.chunk_sizes)):
            if chunk in done:
                continue
            with self._lease(batch, chunk) as is_held:
                if is_held and chunk not in self.batches.answered_chunks(batch.id):
                    asyncio.run(self._run_chunk(batch, chunk))
                    return True
        return False

    async def _run_chunk(self, batch: Batch, chunk: int) -> None:
        lines = self._read_lines(batch, chunk)
        working = asyncio.create_task(self._responses(batch, sum(batch.chunk_sizes[:chunk]), lines))
        renew_at = time.monotonic() + _RENEW_S
        try:
            while not (await asyncio.wait([working], timeout=_STOP_POLL_S))[0]:
                if self.stopping.is_set():
                    raise _Abandoned  # noqa: TRY301
                if time.monotonic() >= renew_at:
                    self._renew(batch, chunk)
                    self._check_is_current(batch)
                    if time.time() >= batch.expires_at:
                        raise _Abandoned  # noqa: TRY301
                    renew_at = time.monotonic() + _RENEW_S
        except BaseException:
            working.cancel()
            await asyncio.wait([working])
            raise
        responses = working.result()
        if self.stopping.is_set():  # the engines may have been closed
            raise _Abandoned
        self.batches.create_answers(batch, chunk, responses)

    async def _responses(self, batch: Batch, first: int, lines: Sequence[bytes]) -> list[bytes]:
        """Return the responses to requests, which are numbered from `first` in their batch."""
        slots = asyncio.Semaphore(MAX_CONCURRENT_REQUESTS)

        async def respond(number: int, line: bytes) -> bytes:
            async with slots:
                return await self._respond(batch, number, line)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(respond(first + i, line)) for i, line in enumerate(lines)]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _respond(self, batch: Batch, number: int, line: bytes) -> bytes:
        """Return the response to one request; an error of the request is its response."""
        try:
            request = parse_request(line, endpoint=batch.endpoint)
        except InvalidLine:  # it was valid when the chunk was written
            return _error(batch, number, None, *_DAMAGED)
        status, content = 200, ""
        try:
            content = await self._complete(batch, request)
        except RequestValidationError as error:
            status, content = 400, invalid_fields(error.errors()).model_dump_json()
        except Exception as error:
            if isinstance(error, DomainError) and error.code in STORAGE_CODES:
                raise  # the whole chunk is run again later
            if not isinstance(error, DomainError):
                log.exception("request %d of batch %s", number, batch.id)
            status, body = status_and_body(error)
            status = 400 if status == 422 else status
            content = body.model_dump_json()
        head = _head(batch, number, request.custom_id)
        response = f'{{"status_code":{status},"request_id":"{_request_id(batch, number)}","body":{content}}}'
        kind = COMPLETED if status == 200 else FAILED
        return kind + f'{head},"response":{response},"error":null}}'.encode("utf-8", "backslashreplace")

    async def _complete(self, batch: Batch, request: BatchRequest) -> str:
        body: OpenAICompletionCreate = validate_body(_BODY, request.body)
        check_is_supported(body)
        if body.stream:
            raise InvalidInput("a request in a batch cannot be a stream; leave out stream", param="stream")
        if not body.model:
            raise InvalidInput(
                "a request in a batch must name its model; set model in its body", param="model"
            )
        self._access(batch).check_model(body.model)
        while True:
            try:
                async with self.engines.use_async(body.model) as loaded:
                    return await complete(
                        self.engines,
                        self.long_prompts,
                        loaded,
                        body,
                        client=f"batch {batch.id}",
                        arrived_s=time.perf_counter(),
                    )
            except Busy as error:
                await asyncio.sleep(min(error.retry_after_s, _MAX_BUSY_S))

    def _access(self, batch: Batch) -> Access:
        key = None
        if batch.key_name is not None:
            key = Key(
                batch.key_name,
                b"",
                frozenset({"complete"}),
                models=batch.key_models,
                max_corpus_bytes=batch.key_max_corpus_bytes,
            )
        return Access(key, self.models, self.jobs, self.corpora)

    # From responses to files

    def _finalize(self, batch: Batch) -> bool:
        if batch.included is None:
            finished = tuple(self.batches.answered_chunks(batch.id))
            batch = self.batches.move(batch, BatchStatus.CANCELLING, included=finished)
        with self._lease(batch, ALL) as is_held:
            if not is_held:
                return False
            is_cancelled = batch.status is BatchStatus.CANCELLING
            counts = {COMPLETED: 0, FAILED: 0}
            with (
                Upload(self.spool, limit_bytes=_UNLIMITED_BYTES) as output,
                Upload(self.spool, limit_bytes=_UNLIMITED_BYTES) as errors,
            ):
                for chunk in range(len(batch.chunk_sizes)):
                    self._renew(batch, ALL)
                    for response in self._final_responses(batch, chunk):
                        kind = COMPLETED if response.startswith(COMPLETED) else FAILED
                        (output if kind == COMPLETED else errors).feed(response[1:] + b"\n")
                        counts[kind] += 1
                refused: list[BatchError] = []
                files = {
                    f"{kind}_file": self._add_file(batch, upload, kind, refused) if count else None
                    for kind, upload, count in (
                        ("output", output, counts[COMPLETED]),
                        ("error", errors, counts[FAILED]),
                    )
                }
            self._renew(batch, ALL)
            to = BatchStatus.EXPIRED if batch.is_expired else BatchStatus.COMPLETED
            self.batches.move(
                batch,
                BatchStatus.CANCELLED if is_cancelled else to,
                completed=counts[COMPLETED],
                failed=counts[FAILED],
                errors=tuple(refused),
                **files,
            )
            self.batches.delete_chunks(batch.id)
            return True

    def _final_responses(self, batch: Batch, chunk: int) -> Iterator[bytes]:
        """Yield the responses of a chunk, or errors that say that its requests were not run."""
        assert batch.included is not None
        code, message = (
            ("batch_expired", "the completion window ended before this request was run")
            if batch.is_expired
            else ("batch_cancelled", "the batch was cancelled before this request was run")
        )
        if chunk in batch.included:
            try:
                yield from self.batches.read_answers(batch.id, chunk)
                return
            except FileNotFoundError:
                self._check_is_current(batch)
                code, message = _DAMAGED
        for number, line in enumerate(self._read_lines(batch, chunk), sum(batch.chunk_sizes[:chunk])):
            custom_id = None
            with contextlib.suppress(InvalidLine):
                custom_id = parse_request(line, endpoint=batch.endpoint).custom_id
            yield _error(batch, number, custom_id, code, message)

    def _read_lines(self, batch: Batch, chunk: int) -> list[bytes]:
        """Return the requests of a chunk; if it is damaged or missing, as many empty lines."""
        count = batch.chunk_sizes[chunk]
        try:
            return self.batches.read_input(batch.id, chunk, count=count)
        except FileNotFoundError:
            self._check_is_current(batch)
            log.warning("chunk %d of batch %s is missing; its requests end with errors", chunk, batch.id)
        except Unavailable as error:
            if error.code != "batch_damaged":
                raise
            log.warning("%s; its requests end with errors", error)
        return [b""] * count  # which are no requests

    def _add_file(self, batch: Batch, upload: Upload, kind: str, refused: list[BatchError]) -> str | None:
        """Save a file of a batch as a corpus of the key that created the batch; return its id.

        If the key's quota of corpora has no room for it, add that to `refused` and return None.
        """
        access = self._access(batch)
        try:
            corpus, is_new = self.corpora.add(upload, check=access.check_corpus_quota)
            access.record_upload(corpus, is_new=is_new)
        except Forbidden as error:
            message = f"the {kind} file was not saved: {error.message}"
            refused.append(BatchError(code=error.code, message=message))
            return None
        filename = f"{batch.id}_{kind}.jsonl"
        write_metadata(self.blobs, access, corpus.id, filename=filename, purpose=BATCH_OUTPUT, replace=True)
        return corpus.id


def _request_id(batch: Batch, number: int) -> str:
    return f"batch_req_{batch.id.removeprefix('batch_')}_{number}"


def _error(batch: Batch, number: int, custom_id: str | None, code: str, message: str) -> bytes:
    """Return the response to a request that was not run."""
    error = json.dumps({"code": code, "message": message})
    return FAILED + f'{_head(batch, number, custom_id)},"response":null,"error":{error}}}'.encode()


def _head(batch: Batch, number: int, custom_id: str | None) -> str:
    return f'{{"id":"{_request_id(batch, number)}","custom_id":{json.dumps(custom_id)}'
