"""The client of nextchar's HTTP API for asyncio, with the methods of `Client`."""

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable
from contextlib import aclosing
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, Unpack

import httpx

from nextchar import calls, operations
from nextchar.answers import Event, Job, Progress, ScoredLine
from nextchar.async_lines import AsyncLines, ThreadedLines
from nextchar.async_transport import iterate_async, run_async
from nextchar.client import DEFAULT_SERVER, as_method
from nextchar.effects import Operation, Request, Stream
from nextchar.operations import LineOptions, Settings
from nextchar.transport import http_options, setup_errors

P = ParamSpec("P")
T = TypeVar("T")

Awaited = Coroutine[Any, Any, T]


def _request(build: Callable[P, Request[T]]) -> "Callable[Concatenate[AsyncClient, P], Awaited[T]]":
    async def method(self: "AsyncClient", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await run_async(self._http, operations.fetch(self._settings, build(*args, **kwargs)))

    return as_method(method, build, drop=0)


def _operation(
    begin: Callable[Concatenate[Settings, P], Operation[T]],
) -> "Callable[Concatenate[AsyncClient, P], Awaited[T]]":
    async def method(self: "AsyncClient", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await run_async(self._http, begin(self._settings, *args, **kwargs))

    return as_method(method, begin, drop=1)


def _stream(
    begin: Callable[Concatenate[Settings, P], Stream[T]],
) -> "Callable[Concatenate[AsyncClient, P], AsyncGenerator[T, None]]":
    def method(self: "AsyncClient", /, *args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[T, None]:
        return iterate_async(self._http, begin(self._settings, *args, **kwargs))

    return as_method(method, begin, drop=1)


def _training(
    begin: Callable[Concatenate[Settings, P], Operation[Job]],
) -> "Callable[Concatenate[AsyncClient, P], Awaited[AsyncTrainingJob]]":
    async def method(self: "AsyncClient", /, *args: P.args, **kwargs: P.kwargs) -> "AsyncTrainingJob":
        return AsyncTrainingJob(self, await run_async(self._http, begin(self._settings, *args, **kwargs)))

    return as_method(method, begin, drop=1)


class AsyncClient:
    """A connection to one server, for asyncio. Use it with `async with`, or `await aclose()`.

    It has the arguments and methods of `Client`: what returns a value there is awaited here, and what is
    iterated there is iterated with `async for`. To leave such a loop early, use `contextlib.aclosing`, which
    closes the connection at once.

    >>> async with AsyncClient() as client:  # doctest: +SKIP
    ...     async with aclosing(client.stream("nietzsche", "morality equals ")) as events:
    ...         async for event in events:
    ...             print(event["data"].get("text", ""), end="")
    """

    def __init__(
        self,
        server: str = DEFAULT_SERVER,
        *,
        api_key: str | None = None,
        max_retries: int = 2,
        patience_s: float = 60.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.server = server.rstrip("/")
        self._settings = Settings(self.server, max_retries, patience_s)
        with setup_errors(server):
            self._http = httpx.AsyncClient(**http_options(self.server, api_key), transport=transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    add_corpus = _request(calls.add_corpus)
    corpora = _stream(operations.corpora)
    corpus = _request(calls.corpus)
    corpus_text = _operation(operations.corpus_text)
    download_corpus = _stream(operations.download_corpus)
    delete_corpus = _request(calls.delete_corpus)

    train = _training(operations.train)
    create_job = _request(calls.create_job)
    jobs = _stream(operations.jobs)
    job = _request(calls.job)
    follow = _stream(operations.follow)
    cancel_job = _request(calls.cancel_job)
    pause_job = _request(calls.pause_job)
    resume_job = _request(calls.resume_job)

    models = _stream(operations.models)
    damaged_models = _operation(operations.damaged_models)
    model = _request(calls.model)
    rename_model = _request(calls.rename_model)
    delete_model = _request(calls.delete_model)
    download = _stream(operations.download_file)
    export_model = _stream(operations.export_model)
    import_model = _request(calls.import_model)
    report = _request(calls.report)
    report_file = _stream(operations.report_file)

    complete = _request(calls.complete)
    stream = _stream(operations.stream)
    next = _request(calls.next)
    score = _request(calls.score)
    score_stream = _stream(operations.score_stream)
    forget_stream = _request(calls.forget_stream)

    calibrate = _request(calls.calibrate)
    calibrations = _operation(operations.calibrations)
    delete_calibration = _request(calls.delete_calibration)
    evaluate = _request(calls.evaluate)

    ready = _request(calls.ready)

    def score_lines(
        self,
        model: str,
        lines: AsyncIterable[str | bytes] | Iterable[str | bytes],
        **options: Unpack[LineOptions],
    ) -> AsyncGenerator[ScoredLine, None]:
        """As `Client.score_lines`; an asynchronous iterable is read by a task, any other one by a thread."""
        source = AsyncLines(lines) if isinstance(lines, AsyncIterable) else ThreadedLines(lines)
        return iterate_async(self._http, operations.score_lines(self._settings, model, source, options))


class AsyncTrainingJob:
    """A job that was queued by `train`: as `TrainingJob`, for asyncio."""

    def __init__(self, client: AsyncClient, record: Job) -> None:
        self._client = client
        self.id = record["id"]
        self.record = record

    def __repr__(self) -> str:
        return (
            f"AsyncTrainingJob({self.id!r}, name={self.record['name']!r}, status={self.record['status']!r})"
        )

    def __aiter__(self) -> AsyncIterator[Event]:
        """Yield the job's events from its beginning, as they come, until it is over."""
        return self._client.follow(self.id)

    async def wait(
        self,
        on_progress: Callable[[Progress], object] | None = None,
        *,
        timeout_s: float | None = None,
    ) -> str:
        """As `TrainingJob.wait`; `on_progress` is an ordinary function."""
        watched = operations.watch_job(self._client._settings, self.id, timeout_s=timeout_s)
        async with aclosing(iterate_async(self._client._http, watched)) as records:
            async for record in records:
                self.record = record
                if on_progress is not None and self.record["progress"]:
                    on_progress(self.record["progress"])
        return operations.model_of(self.record)

    async def refresh(self) -> Job:
        """Ask for the job's record and return it."""
        self.record = await self._client.job(self.id)
        return self.record

    async def cancel(self, *, keep_best: bool = False) -> Job:
        """As `Client.cancel_job`."""
        self.record = await self._client.cancel_job(self.id, keep_best=keep_best)
        return self.record

    async def pause(self) -> Job:
        """As `Client.pause_job`."""
        self.record = await self._client.pause_job(self.id)
        return self.record

    async def resume(self) -> Job:
        """As `Client.resume_job`."""
        self.record = await self._client.resume_job(self.id)
        return self.record
