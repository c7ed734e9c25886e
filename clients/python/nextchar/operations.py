"""What takes more than one request, written once for both clients: retries, lists, streams, training.

Each function is a generator of effects; see `effects`.
"""

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from json import JSONDecodeError, loads
from typing import Any, Literal, TypedDict, TypeVar, Unpack, cast

from nextchar import calls
from nextchar.answers import (
    FINAL_STATUSES,
    Calibration,
    Corpus,
    DamagedModel,
    Event,
    Job,
    ModelSummary,
    ScoredLine,
    StreamEvent,
)
from nextchar.calls import CompletionOptions, Text, segment
from nextchar.effects import (
    Emit,
    Head,
    Line,
    LineSource,
    Operation,
    Request,
    Stream,
    open_,
    read,
    read_all,
    sleep,
    take,
)
from nextchar.errors import (
    NextcharError,
    ServerError,
    ServerUnreachable,
    Timeout,
    TrainingFailed,
    error_in_stream,
    error_of_response,
)
from nextchar.sse import EventDecoder

T = TypeVar("T")

FIRST_DELAY_S = 0.25
MAX_DELAY_S = 4.0
_MAX_RETRY_AFTER_S = 30.0  # a longer wait is for the caller to decide
_PAGE = 100  # items in one page of a list
_POLL_S = 0.5  # between two looks at a job
_SCORING_TIMEOUT_S = 120.0  # with `only="anomalous"` the server is silent about normal lines
_MIN_BATCH_BYTES, _MAX_BATCH_BYTES = 1 << 16, 1 << 19
_FAST_S, _SLOW_S = 1.5, 5.0  # a batch answered faster than this makes batches larger, slower: smaller
_MAX_BREAKS = 5  # of answers that began and then broke off without a line: the lines are at fault


@dataclass(frozen=True)
class Settings:
    """How persistent a client is.

    Attributes:
        server: the service's address, for messages.
        max_retries: how often a request that can be repeated is sent again.
        patience_s: for how long a stream tries to get back to a server that is away.
    """

    server: str
    max_retries: int
    patience_s: float


class TrainingOptions(TypedDict, total=False):
    """The options of `train`; what is left out is as the service has it, see its API reference."""

    preset: Literal["tiny", "small", "medium", "large"]
    architecture: str
    network: Mapping[str, Any]
    training: Mapping[str, Any]
    validation_fraction: float
    seed: int
    alphabet: Literal["characters", "bytes"] | None
    coverage: float
    start_from: str | None
    masks: Sequence[str] | None
    mix: Mapping[str, Any] | None


class LineOptions(TypedDict, total=False):
    """The options of `score_lines`."""

    false_alarms: float
    calibration: str
    only: Literal["all", "anomalous"]
    detail: Literal["none", "line", "character"]
    expected: int
    context: Literal["line", "stream"]
    stream_id: str
    adapt: bool
    explain: bool
    precision: Literal["auto", "float32"]


# One request


def fetch(settings: Settings, request: Request[T]) -> Operation[T]:
    """Return the JSON of an answer, retrying if that is safe. An empty answer is {}."""
    body = yield from fetch_bytes(settings, request)
    try:
        return cast(T, loads(body) if body else {})
    except (JSONDecodeError, UnicodeDecodeError):
        raise NextcharError(f"what answers at {settings.server} is not nextchar; give its address") from None


def fetch_bytes(settings: Settings, request: Request[Any]) -> Operation[bytes]:
    """Return the body of an answer, retrying if that is safe."""
    retries = 0
    while True:
        try:
            yield from open_ok(request)
            return (yield from read_all())
        except NextcharError as error:
            delay_s = _delay_s(error, retries)
            if not request.can_retry or retries >= settings.max_retries or delay_s is None:
                raise
        retries += 1
        yield from sleep(delay_s)


def open_ok(request: Request[Any]) -> Operation[Head]:
    """Open an answer. Raises ServerError for one whose status is an error."""
    head = yield from open_(request)
    if head.status >= 400:
        raise error_of_response(head.status, head.headers, (yield from read_all()))
    return head


def _delay_s(error: NextcharError, retries: int) -> float | None:
    """Return how long to wait before a retry; None: do not retry."""
    if not error.is_retryable or isinstance(error, Timeout):
        return None
    delay_s: float = min(FIRST_DELAY_S * 2.0**retries, MAX_DELAY_S)
    if isinstance(error, ServerError) and error.retry_after_s is not None:
        return max(delay_s, error.retry_after_s) if error.retry_after_s <= _MAX_RETRY_AFTER_S else None
    return delay_s


def download(settings: Settings, request: Request[Any]) -> Stream[bytes]:
    """Emit the body of an answer in pieces; only opening it is retried."""
    retries = 0
    while True:
        try:
            yield from open_ok(request)
            break
        except NextcharError as error:
            delay_s = _delay_s(error, retries)
            if retries >= settings.max_retries or delay_s is None:
                raise
        retries += 1
        yield from sleep(delay_s)
    while piece := (yield from read()):
        yield Emit(piece)


# Lists


def corpora(settings: Settings) -> Stream[Corpus]:
    """Yield all corpora, newest first."""
    return _pages(settings, "/v1/corpora")


def jobs(settings: Settings) -> Stream[Job]:
    """Yield all jobs, newest first."""
    return _pages(settings, "/v1/jobs")


def models(settings: Settings) -> Stream[ModelSummary]:
    """Yield all versions of all models, newest first."""
    return _pages(settings, "/v1/models")


def damaged_models(settings: Settings) -> Operation[list[DamagedModel]]:
    """Return the versions that are missing from the list because their cards cannot be read."""
    page = yield from fetch(settings, calls.model_page(1))
    return page.get("damaged", [])


def calibrations(settings: Settings, model: str) -> Operation[list[Calibration]]:
    """Return a model's calibrations by name."""
    found = yield from fetch(settings, calls.calibration_list(model))
    return found["data"]


def _pages(settings: Settings, path: str) -> Stream[Any]:
    params: dict[str, str | int] = {"limit": _PAGE}
    while True:
        request = Request[dict[str, Any]]("GET", path, params=params, can_retry=True)
        page = yield from fetch(settings, request)
        for item in page["data"]:
            yield Emit(item)
        if not page["has_more"] or not page["data"]:
            return
        params = {"limit": _PAGE, "after": page["data"][-1]["id"]}


# Files


def corpus_text(settings: Settings, corpus: str) -> Operation[str]:
    """Return the text of a corpus; one uploaded as bytes comes with one character for each byte.

    `download_corpus` yields the bytes of a large one.
    """
    known = yield from fetch(settings, calls.corpus(corpus))
    body = yield from fetch_bytes(settings, calls.corpus_text(known["id"]))
    return body.decode("latin-1" if known.get("encoding") == "bytes" else "utf-8")


def download_corpus(settings: Settings, corpus: str) -> Stream[bytes]:
    """Yield the bytes of a corpus as they were uploaded, in pieces."""
    return download(settings, calls.corpus_text(corpus))


def download_file(settings: Settings, model: str, file: str) -> Stream[bytes]:
    """Yield the bytes of one file of a model, in pieces."""
    return download(settings, Request("GET", f"/v1/models/{segment(model)}/files/{segment(file)}"))


def export_model(settings: Settings, model: str) -> Stream[bytes]:
    """Yield a tar archive of a model, in pieces; `import_model` takes it.

    >>> with open("nietzsche.tar", "wb") as file:  # doctest: +SKIP
    ...     file.writelines(client.export_model("nietzsche"))
    """
    return download(settings, Request("GET", f"/v1/models/{segment(model)}/export"))


def report_file(settings: Settings, model: str, kind: Literal["html", "svg"]) -> Stream[bytes]:
    """Yield the report of a model as a page, or its curves as a picture, in pieces."""
    path = f"/v1/models/{segment(model)}/report"
    return download(settings, Request("GET", path, params={"format": kind}))


# Training


def train(  # noqa: D417 - a client gives its settings itself
    settings: Settings,
    corpus: str | Corpus | None = None,
    *,
    name: str,
    text: Text | None = None,
    seconds: float | None = None,
    epochs: float | None = None,
    steps: int | None = None,
    **options: Unpack[TrainingOptions],
) -> Operation[Job]:
    """Train a model on a corpus, or on a text that is uploaded first. Return the job, which is queued.

    Args:
        corpus: an id, a name or what `add_corpus` returned; or
        text: a text, as `add_corpus` takes it.
        name: what the model will be called; each finished job adds a version to it.
        seconds: how long to train; or
        epochs: passes over the text; or
        steps: optimizer steps. The default is the service's, 60 seconds.
        options: the other fields of POST /v1/jobs.

    >>> job = client.train(text=Path("notes.txt"), name="notes", seconds=60)  # doctest: +SKIP
    >>> model = job.wait(on_progress=lambda p: print(p["step"], "of", p["steps"]))  # doctest: +SKIP
    >>> client.complete(model, "In the ")["completions"][0]["text"]  # doctest: +SKIP
    """
    if (corpus is None) == (text is None):
        raise NextcharError("give exactly one of corpus and text")
    budget = {
        k: v for k, v in {"seconds": seconds, "epochs": epochs, "steps": steps}.items() if v is not None
    }
    if len(budget) > 1:
        raise NextcharError("give at most one of seconds, epochs and steps")
    if text is not None:
        encoding: Literal["bytes"] | None = "bytes" if options.get("alphabet") == "bytes" else None
        corpus = yield from fetch(settings, calls.add_corpus(text, encoding=encoding))
    assert corpus is not None, "there was a corpus or a text"
    body = {
        "corpus": corpus if isinstance(corpus, str) else corpus["id"],
        "name": name,
        **({"budget": budget} if budget else {}),
        **options,
    }
    return (yield from fetch(settings, calls.create_job(body)))


def follow(settings: Settings, job: str, *, after: int = 0) -> Stream[Event]:
    """Yield a job's events with ids above `after`, each once, as they come, until the job is over.

    A broken connection is opened again behind the last event. Raises ServerUnreachable, or the server's
    error, when the server stays away or busy for longer than the client's `patience_s`.
    """
    path = f"/v1/jobs/{segment(job)}/events"
    delay_s = FIRST_DELAY_S
    away_since: float | None = None
    while True:
        try:
            yield from open_ok(_event_stream("GET", path, {"Last-Event-ID": str(after)} if after else {}))
            away_since = None
            decoder = EventDecoder()
            while piece := (yield from read()):
                for event in decoder.feed(piece):
                    if event.event == "error":
                        raise error_in_stream(loads(event.data))
                    delay_s = FIRST_DELAY_S
                    if event.event == "done":  # a stream that ends without it has broken
                        return
                    data = cast(Event, loads(event.data))
                    if data["id"] > after:
                        after = data["id"]
                        yield Emit(data)
        except NextcharError as error:
            if not error.is_retryable:
                raise
            away_since = away_since or time.monotonic()
            if time.monotonic() - away_since > settings.patience_s:
                raise
        yield from sleep(delay_s)
        delay_s = min(2 * delay_s, MAX_DELAY_S)


def watch_job(settings: Settings, job: str, *, timeout_s: float | None = None) -> Stream[Job]:
    """Emit a job's record whenever it has changed; the last one is final, or paused by someone.

    Raises Timeout after `timeout_s`; the job goes on.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    seen_at = time.monotonic()
    last: Job | None = None
    while True:
        try:
            record = yield from fetch(settings, calls.job(job))
            seen_at = time.monotonic()
        except NextcharError as error:
            if not error.is_retryable or time.monotonic() - seen_at > settings.patience_s:
                raise
        else:
            if record != last:
                yield Emit(record)
            last = record
            if record["status"] in FINAL_STATUSES or _is_paused_for_good(record):
                return
        if deadline is not None and time.monotonic() >= deadline:
            raise Timeout(f"job {job} is not finished after {timeout_s:g} s; it goes on, so wait again")
        yield from sleep(_POLL_S)


def _is_paused_for_good(job: Job) -> bool:
    """Whether a job stays paused until someone resumes it; after a storage failure it goes on by itself."""
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


# Completions


def stream(
    settings: Settings, model: str, prompt: str, **options: Unpack[CompletionOptions]
) -> Stream[StreamEvent]:
    """Complete a prompt and yield the text as it comes: `piece` events, `finished`, then `done`.

    >>> for event in client.stream("nietzsche", "morality equals "):  # doctest: +SKIP
    ...     if event["event"] == "piece":
    ...         print(event["data"]["text"], end="", flush=True)
    """
    body = {"prompt": prompt, **options, "stream": True}
    yield from open_ok(_event_stream("POST", f"/v1/models/{segment(model)}/complete", json=body))
    decoder = EventDecoder()
    while piece := (yield from read()):
        for event in decoder.feed(piece):
            data = loads(event.data)
            if event.event == "error":
                raise error_in_stream(data)
            yield Emit({"event": cast(Literal["piece", "finished", "done"], event.event), "data": data})
            if event.event == "done":
                return
    raise ServerUnreachable(f"{settings.server} broke off in the middle of a completion; ask again")


def _event_stream(
    method: str, path: str, headers: Mapping[str, str] | None = None, json: Any = None
) -> Request[Any]:
    # The server sends pings, so a minute of silence is a broken connection.
    return Request(method, path, json=json, headers={"Accept": "text/event-stream", **(headers or {})})


# Scores of lines


def score_stream(
    settings: Settings, /, model: str, lines: Sequence[bytes], **options: str | float | bool
) -> Stream[dict[str, Any]]:
    """Score lines in one request, a mebibyte together at most; yield the service's records as they come.

    They are a `score.start`, a `score.line` for each line that is returned, and a `score.end`; `options`
    are the request's query parameters. Raises ServerUnreachable when the answer breaks off. `score_lines`
    is more convenient.
    """
    yield from open_ok(_line_request(model, lines, options))
    decoder = _RecordDecoder()
    while piece := (yield from read()):
        for record in decoder.feed(piece):
            yield Emit(record)
            if record["object"] == "score.end":
                return
    raise ServerUnreachable(f"{settings.server} broke off in the middle of its answer; ask again")


def score_lines(
    settings: Settings, model: str, source: LineSource, options: LineOptions
) -> Stream[ScoredLine]:
    """Emit the score of each line of a source, in order; lines whose answer broke off are sent again."""
    query: dict[str, Any] = {"explain": True, **options}
    own_stream = query.get("context") == "stream" and "stream_id" not in query
    if own_stream:
        query["stream_id"] = f"nextchar-{uuid.uuid4().hex}"
    retry = _Retry(settings)
    max_bytes = _MIN_BATCH_BYTES
    try:
        while batch := (yield from take(source, max_bytes)):
            began = time.monotonic()
            yield from _score_batch(settings, model, batch, query, retry)
            took_s = time.monotonic() - began
            if took_s > _SLOW_S:
                max_bytes = max(_MIN_BATCH_BYTES, max_bytes // 2)
            elif took_s < _FAST_S:
                max_bytes = min(_MAX_BATCH_BYTES, max_bytes * 2)
    finally:
        source.close()
    if own_stream and retry.has_answered:
        yield from fetch(settings, calls.forget_stream(model, query["stream_id"]))


def _score_batch(
    settings: Settings, model: str, pending: list[Line], query: Mapping[str, Any], retry: "_Retry"
) -> Stream[ScoredLine]:
    while pending:
        done = 0
        error: NextcharError = ServerUnreachable(f"{settings.server} broke off in the middle of its answer")
        try:
            yield from open_ok(_line_request(model, [line.data for line in pending], query))
            decoder = _RecordDecoder()
            while piece := (yield from read()):  # to its end, so that the connection can be used again
                for record in decoder.feed(piece):
                    if record["object"] == "score.start":
                        retry.begin()
                    elif record["object"] == "score.end":
                        done = record["lines"]
                        retry.progress()
                    else:
                        done = record["line"]
                        retry.progress()
                        yield Emit(_placed(record, pending[done - 1]))
        except NextcharError as caught:
            error = caught
        pending = pending[done:]
        if pending:
            yield from sleep(retry.delay_s(error))


class _Retry:
    """How long to wait before lines without an answer are sent again, and when to give up."""

    def __init__(self, settings: Settings) -> None:
        self._patience_s = settings.patience_s
        self.has_answered = False
        self._has_begun = False
        self._away_since: float | None = None
        self._delay_s = FIRST_DELAY_S
        self._breaks = 0

    def begin(self) -> None:
        """Note that an answer begins."""
        self.has_answered = self._has_begun = True

    def progress(self) -> None:
        """Note that lines were scored."""
        self._has_begun, self._breaks = False, 0
        self._away_since, self._delay_s = None, FIRST_DELAY_S

    def delay_s(self, error: NextcharError) -> float:
        """Return how long to wait; raise the error if it will not pass or has lasted too long."""
        is_passing = error.is_retryable and (self.has_answered or isinstance(error, ServerError))
        if self._has_begun and isinstance(error, ServerUnreachable):
            self._breaks += 1
            is_passing = is_passing and self._breaks < _MAX_BREAKS
        self._has_begun = False
        now = time.monotonic()
        self._away_since = self._away_since or now
        if not is_passing or now - self._away_since > self._patience_s:
            raise error
        delay_s, self._delay_s = self._delay_s, min(2 * self._delay_s, MAX_DELAY_S)
        if isinstance(error, ServerError) and error.retry_after_s is not None:
            delay_s = max(delay_s, min(error.retry_after_s, _MAX_RETRY_AFTER_S))
        return delay_s


class _RecordDecoder:
    """Decodes newline-delimited JSON records. Raises ServerError for a record that is an error."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> Iterator[dict[str, Any]]:
        """Take the next bytes; yield the records that end in them."""
        *whole, self._rest = (self._rest + piece).split(b"\n")
        for line in whole:
            record = loads(line)
            if record["object"] == "error":
                raise error_in_stream(record)
            yield record


def _line_request(model: str, lines: Sequence[bytes], query: Mapping[str, Any]) -> Request[Any]:
    return Request(
        "POST",
        f"/v1/models/{segment(model)}/score",
        params=query,
        content=b"".join(line + b"\n" for line in lines),
        headers={"Content-Type": "text/plain; charset=utf-8"},
        timeout_s=_SCORING_TIMEOUT_S,
    )


def _placed(record: dict[str, Any], line: Line) -> ScoredLine:
    """Return a record with the line's number among all lines, its text, and offsets within the line."""
    offset = record.pop("offset", 0)
    del record["object"]
    if "not_utf8" in record:
        record["not_utf8"] = {**record["not_utf8"], "offset": record["not_utf8"]["offset"] - offset}
    text = line.text if isinstance(line.text, str) else line.text.decode(errors="replace")
    return cast(ScoredLine, {**record, "line": line.number, "text": text})
