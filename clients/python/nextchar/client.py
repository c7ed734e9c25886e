"""The clients of nextchar's HTTP API: `AsyncClient` for asyncio, and `Client`, which blocks.

Both have the same methods; those of `Client` are those of `AsyncClient`, none of which suspends there.
"""

import functools
import inspect
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Generator, Iterable, Iterator
from itertools import count
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, Unpack

import httpx

from nextchar.calls.alerts import AlertCalls, IngestCalls
from nextchar.calls.inference import AcceptanceCalls, CompletionCalls
from nextchar.calls.models import ModelCalls
from nextchar.connection import (
    AsyncioTransport,
    BlockingTransport,
    http_options,
    iterate,
    omit_none,
    run,
    setup_errors,
)
from nextchar.lines import AsyncLines, Lines, ThreadedLines, check_lines, line_of
from nextchar.options import AuditOptions, LineOptions
from nextchar.scored_lines import LineScoring
from nextchar.training import AsyncTrainingJob, TrainingCalls
from nextchar.types import AuditEntry, Event, Job, ScoredLine

P = ParamSpec("P")
T = TypeVar("T")

DEFAULT_SERVER = "http://127.0.0.1:8000"


class ServiceCalls(
    TrainingCalls, ModelCalls, CompletionCalls, AcceptanceCalls, LineScoring, IngestCalls, AlertCalls
):
    """All calls that both clients have."""

    def audit(self, **options: Unpack[AuditOptions]) -> AsyncGenerator[AuditEntry, None]:
        """Yield the calls that changed or downloaded something, newest first. Needs a key with scope `admin`.

        >>> for entry in client.audit(about="names@2"):  # doctest: +SKIP
        ...     print(entry["key"], entry["action"], entry["about"])
        """
        return self._pages("/v1/audit", **omit_none(**options))

    async def ready(self) -> dict[str, Any]:
        """Return the service's response to whether it is ready. Raises Unavailable if it is not."""
        return await self._fetch(dict[str, Any], "GET", "/readyz")


def _documented(method: Callable[..., T], original: Callable[..., Any]) -> Callable[..., T]:
    """Give a method the name, docstring and parameters of the asynchronous one that it calls."""
    functools.update_wrapper(method, original)
    signature = inspect.signature(original).replace(return_annotation=inspect.Signature.empty)
    method.__signature__ = signature  # type: ignore[attr-defined]
    return method


def _call(
    original: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Any, P], T]:
    def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return run(original(self.awaited, *args, **kwargs))

    return _documented(method, original)


def _stream(
    original: Callable[Concatenate[Any, P], AsyncGenerator[T, None]],
) -> Callable[Concatenate[Any, P], Generator[T, None, None]]:
    def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> Generator[T, None, None]:
        return iterate(original(self.awaited, *args, **kwargs))

    return _documented(method, original)


def _training(
    original: Callable[Concatenate[Any, P], Coroutine[Any, Any, AsyncTrainingJob]],
) -> "Callable[Concatenate[Any, P], TrainingJob]":
    def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> "TrainingJob":
        return TrainingJob(run(original(self.awaited, *args, **kwargs)))

    return _documented(method, original)


class Client:
    """A connection to one server. Use it as a context manager, or `close` it; threads may share it.

    A request is sent again, up to `max_retries` times, when the server is away or busy (429, 502, 503, 504;
    `Retry-After` is honored), if that is safe: a GET, a DELETE of one thing, a call that sets a value, or new
    jobs, events and ingested lines, which have ids or an idempotency key. No other POST is.

    Methods that return a generator are streams: leaving a loop early and closing the generator closes the
    connection, and the server stops its work.

    Args:
        server: the service's address.
        api_key: sent as a bearer token, where the service requires one.
        max_retries: how often a request is sent again.
        patience_s: for how long `follow`, `score_lines` and a job's `wait` try to get back to a server that
            is away.
        transport: replaces httpx's, for tests.

    >>> with Client() as client:  # doctest: +SKIP
    ...     client.complete("nietzsche", "morality equals ", max_characters=40)["completions"][0]["text"]
    'the same thing as the spirit, and the same'
    """

    def __init__(
        self,
        server: str = DEFAULT_SERVER,
        *,
        api_key: str | None = None,
        max_retries: int = 2,
        patience_s: float = 60.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.server = server.rstrip("/")
        with setup_errors(server):
            self._http = httpx.Client(**http_options(self.server, api_key), transport=transport)
        self.awaited = ServiceCalls(BlockingTransport(self._http), self.server, max_retries, patience_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections; streams that still run end."""
        self._http.close()

    add_corpus = _call(ServiceCalls.add_corpus)
    import_corpus = _call(ServiceCalls.import_corpus)
    corpora = _stream(ServiceCalls.corpora)
    corpus = _call(ServiceCalls.corpus)
    corpus_text = _call(ServiceCalls.corpus_text)
    download_corpus = _stream(ServiceCalls.download_corpus)
    set_corpus_kind = _call(ServiceCalls.set_corpus_kind)
    delete_corpus = _call(ServiceCalls.delete_corpus)

    train = _training(ServiceCalls.train)
    create_job = _call(ServiceCalls.create_job)
    jobs = _stream(ServiceCalls.jobs)
    job = _call(ServiceCalls.job)
    follow = _stream(ServiceCalls.follow)
    cancel_job = _call(ServiceCalls.cancel_job)
    pause_job = _call(ServiceCalls.pause_job)
    resume_job = _call(ServiceCalls.resume_job)

    models = _stream(ServiceCalls.models)
    damaged_models = _call(ServiceCalls.damaged_models)
    model = _call(ServiceCalls.model)
    rename_model = _call(ServiceCalls.rename_model)
    delete_model = _call(ServiceCalls.delete_model)
    aliases = _stream(ServiceCalls.aliases)
    alias = _call(ServiceCalls.alias)
    set_alias = _call(ServiceCalls.set_alias)
    roll_back_alias = _call(ServiceCalls.roll_back_alias)
    delete_alias = _call(ServiceCalls.delete_alias)
    download = _stream(ServiceCalls.download)
    export_model = _stream(ServiceCalls.export_model)
    pack_model = _stream(ServiceCalls.pack_model)
    import_model = _call(ServiceCalls.import_model)
    report = _call(ServiceCalls.report)
    report_file = _stream(ServiceCalls.report_file)

    complete = _call(ServiceCalls.complete)
    stream = _stream(ServiceCalls.stream)
    next = _call(ServiceCalls.next)
    suggest = _call(ServiceCalls.suggest)
    put_line_counts = _call(ServiceCalls.put_line_counts)
    line_counts = _call(ServiceCalls.line_counts)
    delete_line_counts = _call(ServiceCalls.delete_line_counts)
    score = _call(ServiceCalls.score)
    score_stream = _stream(ServiceCalls.score_stream)
    score_source = _stream(ServiceCalls.score_source)
    forget_stream = _call(ServiceCalls.forget_stream)

    add_events = _call(ServiceCalls.add_events)
    acceptance = _call(ServiceCalls.acceptance)
    kept_texts = _stream(ServiceCalls.kept_texts)
    delete_kept_texts = _call(ServiceCalls.delete_kept_texts)

    ingest = _call(ServiceCalls.ingest)
    ingest_status = _call(ServiceCalls.ingest_status)
    drop_ingested = _call(ServiceCalls.drop_ingested)
    flagged_lines = _stream(ServiceCalls.flagged_lines)

    alerts = _stream(ServiceCalls.alerts)
    alert = _call(ServiceCalls.alert)
    acknowledge_alert = _call(ServiceCalls.acknowledge_alert)
    label_alert = _call(ServiceCalls.label_alert)
    preview_alert = _call(ServiceCalls.preview_alert)
    suppress_alert = _call(ServiceCalls.suppress_alert)
    suppressions = _stream(ServiceCalls.suppressions)
    suppress = _call(ServiceCalls.suppress)
    delete_suppression = _call(ServiceCalls.delete_suppression)
    export_alerts = _call(ServiceCalls.export_alerts)

    notification_targets = _stream(ServiceCalls.notification_targets)
    audit = _stream(ServiceCalls.audit)
    add_notification_target = _call(ServiceCalls.add_notification_target)
    delete_notification_target = _call(ServiceCalls.delete_notification_target)
    test_notification_target = _call(ServiceCalls.test_notification_target)
    deliveries = _stream(ServiceCalls.deliveries)

    calibrate = _call(ServiceCalls.calibrate)
    calibrations = _call(ServiceCalls.calibrations)
    delete_calibration = _call(ServiceCalls.delete_calibration)
    evaluate = _call(ServiceCalls.evaluate)

    ready = _call(ServiceCalls.ready)

    def score_lines(
        self, model: str, lines: Iterable[str | bytes], **options: Unpack[LineOptions]
    ) -> Generator[ScoredLine, None, None]:
        r"""Score lines, of which there may be any number and which may come slowly; yield each one's score.

        Lines are read ahead in a thread, into about a mebibyte; a line that comes alone is scored at once.
        Each score has the line's number from 1 (`line`) and its text. Lines whose response broke off are sent
        again. With `context="stream"` each line is scored after those before it.

        Args:
            model: `name` or `name@version`.
            lines: `str` or `bytes`, with or without a newline at the end of each.
            options: as for `score`; and `only="anomalous"` leaves out normal lines.

        Raises:
            NextcharError: the model or server does not respond, `lines` is one text, or a line contains a
                newline.

        >>> tail = subprocess.Popen(["tail", "-F", "auth.log"], stdout=subprocess.PIPE)  # doctest: +SKIP
        >>> for found in client.score_lines("sshd", tail.stdout, only="anomalous", false_alarms=0.001):
        ...     print(found["line"], found["text"])  # doctest: +SKIP
        """
        check_lines(lines)
        source = Lines(map(line_of, count(1), lines))
        return iterate(self.awaited._score_numbered(model, source, options))


class TrainingJob:
    """A job that was queued by `train`. Iterate over it for its events; `wait` for its model.

    Its `id` is the job's, and `record` the job as it was last seen.
    """

    def __init__(self, awaited: AsyncTrainingJob) -> None:
        self.awaited = awaited
        self.id = awaited.id

    def __repr__(self) -> str:
        return repr(self.awaited).removeprefix("Async")

    def __iter__(self) -> Iterator[Event]:
        """Yield the job's events from its beginning, as they come, until it is over."""
        return iterate(self.awaited.client.follow(self.id))

    @property
    def record(self) -> Job:
        """The job's newest record."""
        return self.awaited.record

    wait = _call(AsyncTrainingJob.wait)
    ready = _call(AsyncTrainingJob.ready)
    refresh = _call(AsyncTrainingJob.refresh)
    cancel = _call(AsyncTrainingJob.cancel)
    pause = _call(AsyncTrainingJob.pause)
    resume = _call(AsyncTrainingJob.resume)


_PIECE_BYTES = 1 << 16


class AsyncClient(ServiceCalls):
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
        server = server.rstrip("/")
        with setup_errors(server):
            self._http = httpx.AsyncClient(**http_options(server, api_key), transport=transport)
        super().__init__(AsyncioTransport(self._http), server, max_retries, patience_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    def score_lines(
        self,
        model: str,
        lines: AsyncIterable[str | bytes] | Iterable[str | bytes],
        **options: Unpack[LineOptions],
    ) -> AsyncGenerator[ScoredLine, None]:
        """As `Client.score_lines`; an asynchronous iterable is read by a task, any other one by a thread."""
        check_lines(lines)
        if isinstance(lines, AsyncIterable):
            return self._score_numbered(model, AsyncLines(lines), options)
        return self._score_numbered(model, ThreadedLines(map(line_of, count(1), lines)), options)
