"""What takes more than a request, written once for both clients: retries, lists, downloads, completions.

Each function is a generator of effects; see `effects`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from json import JSONDecodeError, loads
from typing import Any, Literal, TypeVar, Unpack, cast

from nextchar import calls
from nextchar.answers import Calibration, Corpus, DamagedModel, Job, ModelSummary, StreamEvent
from nextchar.calls import segment
from nextchar.effects import Emit, Head, Operation, Request, Stream, open_, read, read_all, sleep
from nextchar.errors import (
    NextcharError,
    ServerError,
    ServerUnreachable,
    Timeout,
    error_in_stream,
    error_of_response,
)
from nextchar.options import CompletionOptions
from nextchar.sse import EventDecoder

T = TypeVar("T")

FIRST_DELAY_S = 0.25
MAX_DELAY_S = 4.0
MAX_RETRY_AFTER_S = 30.0  # a longer wait is for the caller to decide
_PAGE = 100  # items in one page of a list


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


# One request


def fetch(settings: Settings, request: Request[T]) -> Operation[T]:
    """Return the JSON of an answer, retrying if that is safe; None for the empty answer to a DELETE."""
    body = yield from fetch_bytes(settings, request)
    if not body and request.method == "DELETE":
        return cast(T, None)
    try:
        return cast(T, loads(body))
    except (JSONDecodeError, UnicodeDecodeError):
        raise NextcharError(f"what answers at {settings.server} is not nextchar; give its address") from None


def fetch_bytes(settings: Settings, request: Request[Any]) -> Operation[bytes]:
    """Return the body of an answer, retrying if that is safe."""

    def attempt() -> Operation[bytes]:
        yield from open_ok(request)
        return (yield from read_all())

    return (yield from _retrying(settings, request, attempt))


def download(settings: Settings, request: Request[Any]) -> Stream[bytes]:
    """Emit the body of an answer in pieces; only opening it is retried."""
    yield from _retrying(settings, request, lambda: open_ok(request))
    while piece := (yield from read()):
        yield Emit(piece)


def open_ok(request: Request[Any]) -> Operation[Head]:
    """Open an answer. Raises ServerError for one whose status is an error."""
    head = yield from open_(request)
    if head.status >= 400:
        raise error_of_response(head.status, head.headers, (yield from read_all()))
    return head


def _retrying(settings: Settings, request: Request[Any], attempt: Callable[[], Operation[T]]) -> Operation[T]:
    retries = 0
    while True:
        try:
            return (yield from attempt())
        except NextcharError as error:
            delay_s = _delay_s(error, retries)
            if not request.can_retry or retries >= settings.max_retries or delay_s is None:
                raise
        retries += 1
        yield from sleep(delay_s)


def _delay_s(error: NextcharError, retries: int) -> float | None:
    """Return how long to wait before a retry; None: do not retry."""
    if not error.is_retryable or isinstance(error, Timeout):
        return None
    delay_s: float = min(FIRST_DELAY_S * 2.0**retries, MAX_DELAY_S)
    if isinstance(error, ServerError) and error.retry_after_s is not None:
        return max(delay_s, error.retry_after_s) if error.retry_after_s <= MAX_RETRY_AFTER_S else None
    return delay_s


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
    return cast(list[DamagedModel], page.get("damaged", []))


def calibrations(settings: Settings, model: str) -> Operation[list[Calibration]]:
    """Return a model's calibrations by name."""
    found = yield from fetch(settings, calls.calibration_list(model))
    return cast(list[Calibration], found["data"])


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
    return download(settings, calls.model_file(model, file))


def export_model(settings: Settings, model: str) -> Stream[bytes]:
    """Yield a tar archive of a model, in pieces; `import_model` takes it.

    >>> with open("nietzsche.tar", "wb") as file:  # doctest: +SKIP
    ...     file.writelines(client.export_model("nietzsche"))
    """
    return download(settings, calls.model_archive(model))


def report_file(settings: Settings, model: str, kind: Literal["html", "svg"]) -> Stream[bytes]:
    """Yield the report of a model as a page, or its curves as a picture, in pieces."""
    return download(settings, calls.report_in(model, kind))


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
    yield from open_ok(event_stream("POST", f"/v1/models/{segment(model)}/complete", json=body))
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


def event_stream(
    method: str, path: str, headers: Mapping[str, str] | None = None, json: Any = None
) -> Request[Any]:
    """Return a request for server-sent events."""
    # The server sends pings, so a minute of silence is a broken connection.
    return Request(method, path, json=json, headers={"Accept": "text/event-stream", **(headers or {})})
