"""`run(batch_id)`: what the queue of batches calls, in a child process of a worker of that queue.

One process at a time runs a batch: the one that holds its lease. The file is first validated and divided into
chunks. The chunks are run in order, and the responses to each are created once. When all chunks have
responses, or the batch is cancelled or its time is over, the responses become files, which are corpora: they
depend only on the chunks that the record names, so doing it again after a kill makes the same files.
"""

import asyncio
import contextlib
import json
import logging
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter

from nextchar.app.access.keys import Key
from nextchar.app.access.permissions import Access
from nextchar.app.core_settings import ServingSettings
from nextchar.app.http.bodies import validate_body
from nextchar.app.http.errors import Forbidden, invalid_fields, status_and_body
from nextchar.app.http.threads import Pools
from nextchar.app.models.engines import Engines, load_by
from nextchar.app.openai.batches import COMPLETED, FAILED, Batch, BatchError, Batches, BatchStatus
from nextchar.app.openai.completions import complete
from nextchar.app.openai.files import BATCH_OUTPUT, write_metadata
from nextchar.app.openai.json_lines import MAX_ERRORS, BatchRequest, InvalidLine, divide, parse_request
from nextchar.app.openai.schemas import OpenAICompletionCreate
from nextchar.models.errors import Busy, Conflict, DomainError, InvalidInput, NotFound, Unavailable
from nextchar.models.runtime.requests import Caller
from nextchar.store.background import BackgroundLoop
from nextchar.store.corpora import Corpora
from nextchar.store.corpus import Upload
from nextchar.store.jobs import STORAGE_CODES, Jobs
from nextchar.store.model_file_cache import ModelFileCache
from nextchar.store.models import Models
from nextchar.store.open_blobs import open_blobs
from nextchar.store.queue import RENEW_S, STOP_SIGNAL, BatchQueue, child_process, connect, leased, try_redis

log = logging.getLogger("nextchar.worker")

_BODY = TypeAdapter[Any](OpenAICompletionCreate)

_DAMAGED = ("batch_damaged", "this request is damaged in the storage; send it again in another batch")
_LOST = (
    "worker_lost",
    "the process was killed each time it ran this request or one near it; send them again, a few per batch",
)

MAX_CONCURRENT_REQUESTS = 16
"""Number of requests of a chunk that run at the same time."""

MAX_ATTEMPTS = 5
"""Attempts at a chunk during which the process was killed, after which its requests end with errors."""

TURN_S = 30.0
"""After this long the next batch that waits has its turn."""

_STOP_POLL_S = 0.2  # between two looks whether to stop
_MOVED_POLL_S = 2.0  # between two looks whether the batch was cancelled
_MAX_BUSY_S = 5.0  # between two attempts at a request, if the model has too many
_UNLIMITED_BYTES = 1 << 60


def run(batch_id: str) -> None:
    """Run one batch until it ends, its turn is over, or the worker shuts down."""
    with child_process(batch_id):
        _run(batch_id, ServingSettings.load())


def _run(batch_id: str, settings: ServingSettings) -> None:
    redis = connect(settings.redis_url, decode_responses=True)
    queue = BatchQueue(connect(settings.redis_url))
    batches = Batches(open_blobs(settings.blobs_url), redis)
    stop = threading.Event()
    signal.signal(STOP_SIGNAL, lambda *_: stop.set())
    models = Models(batches.blobs, cache=ModelFileCache.of(settings))
    processing = BatchProcessing(
        batches,
        Engines(models, load_by(settings), limit_bytes=settings.model_cache_bytes),
        settings.spool,
        stop,
        others_wait=lambda: bool(set(try_redis(queue.waiting) or ()) - {batch_id}),
    )
    with leased(batches.live, batch_id) as token:

        def renew() -> None:
            if try_redis(lambda: batches.live.acquire_lease(batch_id, str(token))) is False:
                stop.set()

        if token is None:
            return
        with BackgroundLoop("heartbeat", renew, interval_s=RENEW_S):
            is_unfinished = processing.run(batch_id)
    if is_unfinished:
        try_redis(lambda: queue.enqueue(batch_id, at_front=stop.is_set()))  # or later by `queue_lost`


class _Interrupted(Exception):
    """The work on a batch ends here; its record, or `stop`, says why."""


@dataclass
class _Progress:
    """What Redis has of a batch while it is in progress."""

    chunks: int = 0  # that have responses
    completed: int = 0
    failed: int = 0
    attempts: int = 0  # at the next chunk, of processes that were killed or that run it

    def add(self, responses: Iterable[bytes]) -> None:
        kinds = Counter(response[:1] for response in responses)
        self.chunks += 1
        self.completed += kinds[COMPLETED]
        self.failed += kinds.total() - kinds[COMPLETED]


@dataclass
class BatchProcessing:
    """Runs batches, one after another.

    Args:
        spool: folder of the files under way.
        stop: set when the process shuts down, or another process has the lease.
        others_wait: whether another batch waits for its turn.
    """

    batches: Batches
    engines: Engines
    spool: Path
    stop: threading.Event
    others_wait: Callable[[], bool] = lambda: False

    def __post_init__(self) -> None:
        self.blobs = self.batches.blobs
        self.corpora, self.models, self.jobs = Corpora(self.blobs), Models(self.blobs), Jobs(self.blobs)
        self.pools = Pools()
        self._progress: _Progress | None = None  # of the batch that is run

    def run(self, batch_id: str) -> bool:
        """Run a batch until it has ended, or another's turn comes; return whether to queue it again now.

        After an error that is not one of a request, `BatchControl.queue_lost` queues it again.
        """
        try:
            return self._run(batch_id)
        except Exception as error:
            is_expected = isinstance(error, DomainError)
            log.warning("%s will be tried again: %s", batch_id, error, exc_info=not is_expected)
            return False

    def _run(self, batch_id: str) -> bool:
        turn_ends_at, self._progress = time.monotonic() + TURN_S, None
        steps = {BatchStatus.VALIDATING: self._validate, BatchStatus.IN_PROGRESS: self._run_next_chunk}
        while True:
            try:
                batch = self.batches.get(batch_id)
            except NotFound:  # it was deleted
                return False
            if batch.has_ended:
                return False
            is_turn_over = time.monotonic() >= turn_ends_at and self.others_wait()
            if is_turn_over or self.stop.is_set():
                return True
            # A Conflict: a request to cancel has moved the batch.
            with contextlib.suppress(_Interrupted, Conflict):
                steps.get(batch.status, self._finalize)(batch)

    def _check_stop(self) -> None:
        if self.stop.is_set():
            raise _Interrupted

    def _check_is_current(self, batch: Batch) -> None:
        """Leave a batch that has been moved or deleted: its chunks are deleted after its last move."""
        try:
            is_current = self.batches.get(batch.id).sequence == batch.sequence
        except NotFound:
            is_current = False
        if not is_current:
            raise _Interrupted

    # From the file to chunks

    def _validate(self, batch: Batch) -> None:
        if time.time() >= batch.expires_at:
            self.batches.move(batch, BatchStatus.EXPIRED)
            return
        errors: list[BatchError] = []
        sizes = []
        try:
            pieces = self.corpora.stream(batch.input_file)
            for chunk, lines in enumerate(divide(pieces, endpoint=batch.endpoint, errors=errors)):
                self._check_stop()
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

    # From chunks to responses

    def _run_next_chunk(self, batch: Batch) -> None:
        answered = self.batches.answered_chunks(batch.id)
        left = set(range(len(batch.chunk_sizes))) - set(answered)
        if not left or time.time() >= batch.expires_at:
            self.batches.move(batch, BatchStatus.FINALIZING, included=tuple(answered), is_expired=bool(left))
            return
        chunk, progress = min(left), self._progress_of(batch, answered)
        progress.attempts += 1
        self._publish(batch, progress)
        try:
            if progress.attempts > MAX_ATTEMPTS:
                responses = list(self._errors(batch, chunk, *_LOST))
            else:
                responses = asyncio.run(self._run_chunk(batch, chunk))
            if self.batches.create_answers(batch, chunk, responses):
                progress.add(responses)
        finally:  # which a killed process does not reach
            progress.attempts = 0
            self._publish(batch, progress)

    def _progress_of(self, batch: Batch, answered: Sequence[int]) -> _Progress:
        """Return the progress of a batch, counted again if Redis has lost it."""
        if self._progress is None and (known := try_redis(lambda: self.batches.live.progress(batch.id))):
            self._progress = _Progress(**known)
        if self._progress is None or self._progress.chunks != len(answered):
            self._progress = _Progress()
            for chunk in answered:
                self._progress.add(self.batches.read_answers(batch.id, chunk))
        return self._progress

    def _publish(self, batch: Batch, progress: _Progress) -> None:
        try_redis(lambda: self.batches.live.set_progress(batch.id, asdict(progress)))

    async def _run_chunk(self, batch: Batch, chunk: int) -> list[bytes]:
        lines = self._read_lines(batch, chunk)
        working = asyncio.create_task(self._responses(batch, sum(batch.chunk_sizes[:chunk]), lines))
        look_at = time.monotonic() + _MOVED_POLL_S
        try:
            while not (await asyncio.wait([working], timeout=_STOP_POLL_S))[0]:
                self._check_stop()
                if time.monotonic() >= look_at:
                    self._check_is_current(batch)
                    if time.time() >= batch.expires_at:
                        raise _Interrupted  # noqa: TRY301
                    look_at = time.monotonic() + _MOVED_POLL_S
        except BaseException:
            working.cancel()
            await asyncio.wait([working])
            raise
        return working.result()

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
                        self.pools,
                        loaded,
                        body,
                        caller=Caller(f"batch {batch.id}"),
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

    def _finalize(self, batch: Batch) -> None:
        if batch.included is None:
            finished = tuple(self.batches.answered_chunks(batch.id))
            batch = self.batches.move(batch, BatchStatus.CANCELLING, included=finished)
        is_cancelled = batch.status is BatchStatus.CANCELLING
        counts = {COMPLETED: 0, FAILED: 0}
        with (
            Upload(self.spool, limit_bytes=_UNLIMITED_BYTES) as output,
            Upload(self.spool, limit_bytes=_UNLIMITED_BYTES) as errors,
        ):
            for chunk in range(len(batch.chunk_sizes)):
                self._check_stop()
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
        self._check_stop()
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
        yield from self._errors(batch, chunk, code, message)

    def _errors(self, batch: Batch, chunk: int, code: str, message: str) -> Iterator[bytes]:
        """Yield errors for the requests of a chunk that were not run."""
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
    error = json.dumps({"code": code, "message": message})
    return FAILED + f'{_head(batch, number, custom_id)},"response":null,"error":{error}}}'.encode()


def _head(batch: Batch, number: int, custom_id: str | None) -> str:
    return f'{{"id":"{_request_id(batch, number)}","custom_id":{json.dumps(custom_id)}'
