"""The blocking client of nextchar's HTTP API.

Its methods are made from the functions of `calls` and `operations`, which `AsyncClient` shares.
"""

import inspect
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, Unpack

import httpx

from nextchar import calls, operations
from nextchar.answers import Event, Job, Progress, ScoredLine
from nextchar.effects import Operation, Request, Stream
from nextchar.lines import Lines
from nextchar.operations import LineOptions, Settings
from nextchar.transport import http_options, iterate, run, setup_errors

P = ParamSpec("P")
T = TypeVar("T")

DEFAULT_SERVER = "http://127.0.0.1:8000"


def as_method(method: Callable[..., T], function: Callable[..., Any], *, drop: int) -> Callable[..., T]:
    """Give a method the name, docstring and parameters of a function, less its first `drop` ones."""
    method.__name__ = method.__qualname__ = function.__name__
    method.__doc__ = function.__doc__
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    parameters = [own, *list(inspect.signature(function).parameters.values())[drop:]]
    method.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return method


def _request(build: Callable[P, Request[T]]) -> "Callable[Concatenate[Client, P], T]":
    def method(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return run(self._http, operations.fetch(self._settings, build(*args, **kwargs)))

    return as_method(method, build, drop=0)


def _operation(
    begin: Callable[Concatenate[Settings, P], Operation[T]],
) -> "Callable[Concatenate[Client, P], T]":
    def method(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return run(self._http, begin(self._settings, *args, **kwargs))

    return as_method(method, begin, drop=1)


def _stream(
    begin: Callable[Concatenate[Settings, P], Stream[T]],
) -> "Callable[Concatenate[Client, P], Generator[T, None, None]]":
    def method(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> Generator[T, None, None]:
        return iterate(self._http, begin(self._settings, *args, **kwargs))

    return as_method(method, begin, drop=1)


def _training(
    begin: Callable[Concatenate[Settings, P], Operation[Job]],
) -> "Callable[Concatenate[Client, P], TrainingJob]":
    def method(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> "TrainingJob":
        return TrainingJob(self, run(self._http, begin(self._settings, *args, **kwargs)))

    return as_method(method, begin, drop=1)


class Client:
    """A connection to one server. Use it as a context manager, or `close` it; threads may share it.

    A request is sent again, up to `max_retries` times, when the server is away or busy (429, 502, 503, 504;
    `Retry-After` is honored), if that is safe: a GET, a DELETE of one thing, or a new job, which carries an
    idempotency key. No other POST is.

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
        self._settings = Settings(self.server, max_retries, patience_s)
        with setup_errors(server):
            self._http = httpx.Client(**http_options(self.server, api_key), transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections; streams that still run end."""
        self._http.close()

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
        self, model: str, lines: Iterable[str | bytes], **options: Unpack[LineOptions]
    ) -> Generator[ScoredLine, None, None]:
        r"""Score lines, of which there may be any number and which may come slowly; yield each one's score.

        Lines are read ahead in a thread, into about a mebibyte; a line that comes alone is scored at once.
        Each score has the line's number from 1 (`line`) and its text. Lines whose answer broke off are sent
        again. With `context="stream"` each line is scored after those before it.

        Args:
            model: `name` or `name@version`.
            lines: `str` or `bytes`, with or without a newline at the end of each.
            options: as for `score`; and `only="anomalous"` leaves out normal lines.

        Raises:
            NextcharError: the model or server does not answer, or a line contains a newline.

        >>> tail = subprocess.Popen(["tail", "-F", "auth.log"], stdout=subprocess.PIPE)  # doctest: +SKIP
        >>> for found in client.score_lines("sshd", tail.stdout, only="anomalous", false_alarms=0.001):
        ...     print(found["line"], found["text"])  # doctest: +SKIP
        """
        return iterate(self._http, operations.score_lines(self._settings, model, Lines(lines), options))


class TrainingJob:
    """A job that was queued by `train`. Iterate over it for its events; `wait` for its model.

    Attributes:
        id: the job's id.
        record: the job as it was last seen.
    """

    def __init__(self, client: Client, record: Job) -> None:
        self._client = client
        self.id = record["id"]
        self.record = record

    def __repr__(self) -> str:
        return f"TrainingJob({self.id!r}, name={self.record['name']!r}, status={self.record['status']!r})"

    def __iter__(self) -> Iterator[Event]:
        """Yield the job's events from its beginning, as they come, until it is over."""
        return self._client.follow(self.id)

    def wait(
        self,
        on_progress: Callable[[Progress], object] | None = None,
        *,
        timeout_s: float | None = None,
    ) -> str:
        """Wait for the job's end and return its model, `name@version`.

        `on_progress` is called with the job's progress whenever it has changed.

        Raises:
            TrainingFailed: the job failed, was cancelled or was paused.
            Timeout: it was not finished after `timeout_s`; it goes on.
        """
        watched = operations.watch_job(self._client._settings, self.id, timeout_s=timeout_s)
        for record in iterate(self._client._http, watched):
            self.record = record
            if on_progress is not None and self.record["progress"]:
                on_progress(self.record["progress"])
        return operations.model_of(self.record)

    def refresh(self) -> Job:
        """Ask for the job's record and return it."""
        self.record = self._client.job(self.id)
        return self.record

    def cancel(self, *, keep_best: bool = False) -> Job:
        """As `Client.cancel_job`."""
        self.record = self._client.cancel_job(self.id, keep_best=keep_best)
        return self.record

    def pause(self) -> Job:
        """As `Client.pause_job`."""
        self.record = self._client.pause_job(self.id)
        return self.record

    def resume(self) -> Job:
        """As `Client.resume_job`."""
        self.record = self._client.resume_job(self.id)
        return self.record
