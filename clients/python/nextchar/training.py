"""The calls about corpora, and those about training: queue a job, follow its events, wait for its end."""

import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any, Unpack, cast

from nextchar.connection import EVENT_STREAM, LONG_TIMEOUT_S, Connection, Outage, is_exact, omit_none, path_of
from nextchar.errors import NextcharError, ServerUnreachable, Timeout, TrainingFailed
from nextchar.options import BudgetOptions, CorpusOptions, TrainingOptions
from nextchar.types import FINAL_STATUSES, Corpus, Event, Job, Progress, TextKind
from nextchar.upload import Text, folder_archive, upload_body

_POLL_S = 0.5  # between two looks at a job


class CorpusCalls(Connection):
    """Corpora: upload, import, list, download and delete them."""

    async def add_corpus(self, text: Text, **options: Unpack[CorpusOptions]) -> Corpus:
        """Upload a text and return its corpus. The same bytes are the same corpus.

        Args:
            text: a `str` or `bytes` is the text itself; a `Path` is read; a file or an iterable of pieces is
                streamed, so that it is never in memory whole. Of a folder's `Path`, all files become one
                text, except hidden ones: in order of their paths, those named `*.gz` decompressed.
            options: the fields of `CorpusOptions`.

        >>> client.add_corpus(Path("nietzsche.txt"), name="nietzsche")["characters"]  # doctest: +SKIP
        600893
        """
        if isinstance(text, Path) and text.is_dir():
            text, options["archive"] = folder_archive(text), "tar"
        is_text = options.get("encoding") is None and options.get("archive") is None
        media_type = "text/plain; charset=utf-8" if is_text else "application/octet-stream"
        return await self._fetch(
            Corpus,
            "POST",
            "/v1/corpora",
            params=omit_none(**options),
            content=upload_body(text),
            headers={"Content-Type": media_type},
            timeout_s=LONG_TIMEOUT_S,
        )

    async def import_corpus(self, url: str, **options: Unpack[CorpusOptions]) -> Corpus:
        """Let the service read files in an object store as one corpus; return it when that is done.

        Args:
            url: a file; with a final slash a folder; or a pattern, such as s3://logs/2026-*/*.gz. The service
                reads only what its setting NEXTCHAR_CORPUS_SOURCES allows.
            options: as for `add_corpus`, without `archive`.
        """
        body = omit_none(url=url, **options)
        return await self._fetch(Corpus, "POST", "/v1/corpora/import", json=body, timeout_s=LONG_TIMEOUT_S)

    def corpora(self) -> AsyncGenerator[Corpus, None]:
        """Yield all corpora, newest first."""
        return self._pages("/v1/corpora")

    async def corpus(self, corpus: str) -> Corpus:
        """Return a corpus's statistics, by id or name."""
        return await self._get(Corpus, path_of("corpora", corpus))

    async def corpus_text(self, corpus: str) -> str:
        """Return the text of a corpus; one uploaded as bytes comes with one character for each byte.

        `download_corpus` yields the bytes of a large one.
        """
        known = await self.corpus(corpus)
        body = await self._fetch_bytes("GET", path_of("corpora", known["id"], "text"), can_retry=True)
        return body.decode("latin-1" if known.get("encoding") == "bytes" else "utf-8")

    def download_corpus(self, corpus: str) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of a corpus as they were uploaded, in pieces."""
        return self._download(path_of("corpora", corpus, "text"))

    async def set_corpus_kind(self, corpus: str, kind: TextKind) -> Corpus:
        """Set what a corpus is, the default of a job's `kind`; return the corpus."""
        body = {"kind": kind}
        return await self._fetch(Corpus, "PATCH", path_of("corpora", corpus), json=body, can_retry=True)

    async def delete_corpus(self, corpus: str) -> dict[str, Any]:
        """Delete a corpus that no unfinished job needs: the newest version for a bare name.

        Models trained on it stay.
        """
        path, can_retry = path_of("corpora", corpus), is_exact(corpus)
        return await self._fetch(dict[str, Any], "DELETE", path, can_retry=can_retry)


class TrainingCalls(CorpusCalls):
    """The calls about jobs: queue, follow, list, cancel, pause and resume them."""

    async def train(
        self,
        corpus: str | Corpus | None = None,
        *,
        name: str,
        text: Text | None = None,
        **options: Unpack[TrainingOptions],
    ) -> "AsyncTrainingJob":
        """Train a model on a corpus, or on a text that is uploaded first. Return the job, which is queued.

        Args:
            corpus: an id, a name or what `add_corpus` returned; or
            text: a text, as `add_corpus` takes it.
            name: what the model will be called; each finished job adds a version to it.
            options: the other fields of POST /v1/jobs; of `seconds`, `epochs` and `steps` at most one.

        >>> job = client.train(text=Path("notes.txt"), name="notes", seconds=60)  # doctest: +SKIP
        >>> model = job.wait(on_progress=lambda p: print(p["step"], "of", p["steps"]))  # doctest: +SKIP
        >>> client.complete(model, "In the ")["completions"][0]["text"]  # doctest: +SKIP
        """
        if (corpus is None) == (text is None):
            raise NextcharError("give exactly one of corpus and text")
        request = job_request(options)
        if text is not None:
            is_bytes = options.get("alphabet") == "bytes"
            corpus = await self.add_corpus(text, encoding="bytes" if is_bytes else None)
        assert corpus is not None, "there was a corpus or a text"
        request |= {"corpus": corpus if isinstance(corpus, str) else corpus["id"], "name": name}
        return AsyncTrainingJob(self, await self.create_job(request))

    async def follow(self, job: str, *, after: int = 0) -> AsyncGenerator[Event, None]:
        """Yield a job's events with ids above `after`, each once, as they come, until the job is over.

        A broken connection is reopened after the last event. Raises ServerUnreachable, or the server's
        error, when the server stays away or busy for longer than the client's `patience_s`.
        """
        path = path_of("jobs", job, "events")
        outage = Outage(self.patience_s)
        while True:
            headers = EVENT_STREAM | ({"Last-Event-ID": str(after)} if after else {})
            try:
                async with aclosing(await self._open("GET", path, headers=headers)) as response:
                    outage.began_at = None
                    async for kind, data in self._events(response):
                        outage.end()
                        if kind == "done":
                            return
                        if data["id"] > after:
                            after = data["id"]
                            yield cast(Event, data)
                raise ServerUnreachable(f"{self.server} closed the connection while sending a job's events")
            except NextcharError as error:
                delay_s = outage.delay_s(error)
            await self.transport.sleep(delay_s)

    async def create_job(self, request: Mapping[str, Any], *, idempotency_key: str | None = None) -> Job:
        """Queue a training job; `request` is the body of POST /v1/jobs. `train` is more convenient.

        A request with the same `idempotency_key` makes no second job; by default each call has its own key.
        """
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        return await self._fetch(Job, "POST", "/v1/jobs", json=dict(request), headers=headers, can_retry=True)

    def jobs(self) -> AsyncGenerator[Job, None]:
        """Yield all jobs, newest first."""
        return self._pages("/v1/jobs")

    async def job(self, job: str) -> Job:
        """Return a job: its status, place in the queue and progress."""
        return await self._get(Job, path_of("jobs", job))

    async def cancel_job(self, job: str, *, keep_best: bool = False) -> Job:
        """Cancel a job. `keep_best` publishes the best model so far."""
        body = {"keep_best": True} if keep_best else None
        return await self._fetch(Job, "POST", path_of("jobs", job, "cancel"), json=body)

    async def pause_job(self, job: str) -> Job:
        """Stop a job at a checkpoint; `resume_job` continues it."""
        return await self._fetch(Job, "POST", path_of("jobs", job, "pause"))

    async def resume_job(self, job: str) -> Job:
        """Queue a paused or failed job again; it continues from its last checkpoint."""
        return await self._fetch(Job, "POST", path_of("jobs", job, "resume"))


class AsyncTrainingJob:
    """A job that was queued by `train`: as `TrainingJob`, for asyncio.

    Attributes:
        id: the job's id.
        record: the job as it was last seen.
    """

    def __init__(self, client: TrainingCalls, record: Job) -> None:
        self.client = client
        self.id = record["id"]
        self.record = record

    def __repr__(self) -> str:
        return (
            f"AsyncTrainingJob({self.id!r}, name={self.record['name']!r}, status={self.record['status']!r})"
        )

    def __aiter__(self) -> AsyncIterator[Event]:
        """Yield the job's events from its beginning, as they come, until it is over."""
        return self.client.follow(self.id)

    async def wait(
        self, on_progress: Callable[[Progress], object] | None = None, *, timeout_s: float | None = None
    ) -> str:
        """Wait for the job's end and return its model, `name@version`.

        `on_progress`, an ordinary function, is called with the job's progress whenever it has changed.

        Raises:
            TrainingFailed: the job failed, was cancelled or was paused.
            Timeout: it was not finished after `timeout_s`; the job continues.
        """
        return model_of(await self._until(lambda _: False, on_progress, timeout_s))

    async def ready(self, *, timeout_s: float | None = None) -> str:
        """Wait until something completes, and return its name: the early model, or that of the ended job.

        Raises as `wait`.
        """
        job = await self._until(lambda job: bool(job.get("early")), None, timeout_s)
        early = job.get("early")
        return early["model"] if early else model_of(job)

    async def _until(
        self,
        is_reached: Callable[[Job], bool],
        on_progress: Callable[[Progress], object] | None,
        timeout_s: float | None,
    ) -> Job:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        outage = Outage(self.client.patience_s)
        last: Job | None = None
        while True:
            try:
                await self.refresh()
            except NextcharError as error:
                outage.delay_s(error)  # raises it when it is time to give up
            else:
                outage.end()
                if self.record != last and self.record["progress"] and on_progress is not None:
                    on_progress(self.record["progress"])
                last = self.record
                if is_reached(last) or last["status"] in FINAL_STATUSES or _is_paused_for_good(last):
                    return last
            if deadline is not None and time.monotonic() >= deadline:
                raise Timeout(f"job {self.id} is not finished after {timeout_s:g} s; call again")
            await self.client.transport.sleep(_POLL_S)

    async def refresh(self) -> Job:
        """Ask for the job's record and return it."""
        self.record = await self.client.job(self.id)
        return self.record

    async def cancel(self, *, keep_best: bool = False) -> Job:
        """As `Client.cancel_job`."""
        self.record = await self.client.cancel_job(self.id, keep_best=keep_best)
        return self.record

    async def pause(self) -> Job:
        """As `Client.pause_job`."""
        self.record = await self.client.pause_job(self.id)
        return self.record

    async def resume(self) -> Job:
        """As `Client.resume_job`."""
        self.record = await self.client.resume_job(self.id)
        return self.record


def job_request(options: TrainingOptions) -> dict[str, Any]:
    """Return options as fields of a job. Raises NextcharError for two budgets."""
    request = omit_none(**options)
    budget = {unit: request.pop(unit) for unit in BudgetOptions.__annotations__ if unit in request}
    if len(budget) > 1:
        raise NextcharError("give at most one of seconds, epochs and steps")
    return request | ({"budget": budget} if budget else {})


def _is_paused_for_good(job: Job) -> bool:
    """Whether a job stays paused until someone resumes it; after a storage failure it resumes by itself."""
    reason = job.get("pause_reason")
    return job["status"] == "paused" and not (reason and reason["code"].startswith("storage_"))


def model_of(job: Job) -> str:
    """Return the `name@version` that a job made. Raises TrainingFailed if it made none."""
    if job["model"]:
        return job["model"]
    reason = job.get("pause_reason") if job["status"] == "paused" else job["error"]
    if reason:
        raise TrainingFailed(
            f"job {job['id']} {job['status']}: {reason['message']}", job=job, code=reason["code"]
        )
    raise TrainingFailed(f"job {job['id']} is {job['status']}", job=job, code=job["status"])
