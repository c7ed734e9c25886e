"""A typed client of nextchar's HTTP API: one method a call, answers as the service gives them.

Knows no terminal. All errors it raises are of `errors`; safe to use from several threads.
"""

import os
import stat
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from json import JSONDecodeError, loads
from typing import IO, Any, Literal, Self, cast
from urllib.parse import quote

import httpx

from nextchar.answers import (
    Completion,
    Corpus,
    DamagedModel,
    Distribution,
    Event,
    Job,
    Model,
    ModelSummary,
    Score,
    StreamEvent,
)
from nextchar.errors import ClientError, ServerError, ServerUnreachable
from nextchar.sse import ServerSentEvent, parse

DEFAULT_SERVER = "http://127.0.0.1:8000"
_THIS_MACHINE = ("127.0.0.1", "localhost", "::1")

_STATUS_OF = {"invalid_request_error": 422, "not_found_error": 404, "server_error": 500}
"""The HTTP statuses of errors in the middle of an answer that will not pass; of others it is 503."""

_PIECE_BYTES = 1 << 16
_PAGE = 100  # things asked for in one page of a list
_TIMEOUT = httpx.Timeout(60, connect=5)
_STREAM_TIMEOUT = httpx.Timeout(60, connect=5)  # the server pings silent streams every few seconds
_SCORING_TIMEOUT = httpx.Timeout(120, connect=5)  # nothing is said of lines that are as usual
_LONG_TIMEOUT = httpx.Timeout(1800, connect=5)  # minutes of work, answered at its end
_FIRST_RETRY_S = 0.25
_LONGEST_RETRY_S = 4.0


class Client:
    """A connection to one server. Use as a context manager, or `close` it.

    Args:
        server: the service's address, such as http://127.0.0.1:8000.
        api_key: sent as a bearer token, where the service wants one.
        patience_s: for how long `follow` tries to get back to a server that has gone.
    """

    def __init__(
        self, server: str = DEFAULT_SERVER, *, api_key: str | None = None, patience_s: float = 60.0
    ) -> None:
        self.server = server.rstrip("/")
        self._patience_s = patience_s
        headers = {"Authorization": f"Bearer {api_key.strip()}"} if api_key and api_key.strip() else {}
        try:
            # No proxy stands between a machine and itself, whatever the environment says.
            trust_env = httpx.URL(self.server).host not in _THIS_MACHINE
            self._http = httpx.Client(
                base_url=self.server, headers=headers, timeout=_TIMEOUT, trust_env=trust_env
            )
        except (httpx.InvalidURL, UnicodeEncodeError, TypeError):
            raise ClientError(f"{server!r} is not a server's address or the key is not plain ASCII") from None
        except (ImportError, ValueError) as error:
            raise ClientError(f"the proxy that the environment names cannot be used: {error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections; streams that still run end."""
        self._http.close()

    # Corpora

    def add_corpus(
        self, text: str | bytes | IO[bytes], *, name: str | None = None, encoding: str | None = None
    ) -> Corpus:
        """Upload a text. A file is streamed; a `str` is sent as UTF-8. The same bytes are the same corpus.

        With the encoding `bytes` it may be anything, and each byte is a character.
        """
        given = {"name": name, "encoding": encoding}
        return cast(
            Corpus,
            self._call(
                "POST",
                "/v1/corpora",
                params={key: value for key, value in given.items() if value is not None},
                content=_content(text),
                headers={
                    "Content-Type": "application/octet-stream" if encoding else "text/plain; charset=utf-8"
                },
            ),
        )

    def corpora(self) -> Iterator[Corpus]:
        """Yield all corpora, newest first."""
        yield from cast(Iterator[Corpus], self._list("/v1/corpora"))

    def corpus(self, corpus: str) -> Corpus:
        """Return a corpus by id or name."""
        return cast(Corpus, self._call("GET", f"/v1/corpora/{_segment(corpus)}"))

    def delete_corpus(self, corpus: str) -> dict[str, Any]:
        """Delete a corpus that no unfinished job needs."""
        return self._call("DELETE", f"/v1/corpora/{_segment(corpus)}")

    # Jobs

    def create_job(self, request: Mapping[str, Any], *, idempotency_key: str | None = None) -> Job:
        """Ask for training; `request` is the body of POST /v1/jobs."""
        key = idempotency_key or str(uuid.uuid4())
        return cast(Job, self._call("POST", "/v1/jobs", json=request, headers={"Idempotency-Key": key}))

    def jobs(self) -> Iterator[Job]:
        """Yield all jobs, newest first."""
        yield from cast(Iterator[Job], self._list("/v1/jobs"))

    def job(self, job: str) -> Job:
        """Return a job as it stands."""
        return cast(Job, self._call("GET", f"/v1/jobs/{_segment(job)}"))

    def cancel_job(self, job: str, *, keep_best: bool = False) -> Job:
        """Ask for a job to end without a model, or with the best so far."""
        body = {"json": {"keep_best": True}} if keep_best else {}
        return cast(Job, self._call("POST", f"/v1/jobs/{_segment(job)}/cancel", **body))

    def pause_job(self, job: str) -> Job:
        """Ask for a job to stop at a checkpoint."""
        return cast(Job, self._call("POST", f"/v1/jobs/{_segment(job)}/pause"))

    def resume_job(self, job: str) -> Job:
        """Queue a paused job again; it goes on from its checkpoint."""
        return cast(Job, self._call("POST", f"/v1/jobs/{_segment(job)}/resume"))

    def follow(self, job: str, *, after: int = 0) -> Iterator[Event]:
        """Yield a job's events with ids above `after`, each once, as they come, until the job is over.

        A broken connection is taken up again behind the last event that came. Raises ServerUnreachable, or
        what the server says, when it stays away or busy for longer than the client's patience.
        """
        delay_s = _FIRST_RETRY_S
        gone_since: float | None = None

        def opened() -> None:
            nonlocal gone_since
            gone_since = None

        while True:
            try:
                for event in self._job_stream(job, after, opened):
                    delay_s = _FIRST_RETRY_S
                    if event.event == "done":  # only this says so: a stream that merely ends was cut
                        return
                    data = cast(Event, loads(event.data))
                    if data["id"] > after:
                        after = data["id"]
                        yield data
            except ClientError as error:
                if not error.is_retryable:
                    raise
                gone_since = gone_since or time.monotonic()
                if time.monotonic() - gone_since > self._patience_s:
                    raise
            time.sleep(delay_s)
            delay_s = min(2 * delay_s, _LONGEST_RETRY_S)

    def _job_stream(self, job: str, after: int, opened: Callable[[], None]) -> Iterator[ServerSentEvent]:
        headers = {"Last-Event-ID": str(after)} if after else {}
        path = f"/v1/jobs/{_segment(job)}/events"
        for event in self._stream("GET", path, headers=headers, opened=opened):
            if event.event == "error":
                raise _refusal(loads(event.data), status=503)
            yield event

    # Models

    def models(self) -> Iterator[ModelSummary]:
        """Yield all versions of all models, newest first."""
        yield from cast(Iterator[ModelSummary], self._list("/v1/models"))

    def damaged_models(self) -> list[DamagedModel]:
        """Return the versions that are not in the list, for their cards cannot be read."""
        page = self._call("GET", "/v1/models", params={"limit": 1})
        return cast(list[DamagedModel], page.get("damaged", []))

    def model(self, model: str) -> Model:
        """Return what is known of `name@version`, or of the newest version of `name`."""
        return cast(Model, self._call("GET", f"/v1/models/{_segment(model)}"))

    def rename_model(self, model: str, name: str) -> Model:
        """Rename one version of a model: it becomes the next version of the new name."""
        return cast(Model, self._call("PATCH", f"/v1/models/{_segment(model)}", json={"name": name}))

    def export_model(self, model: str) -> Iterator[bytes]:
        """Yield the bytes of a model's tar archive: its card and every file that the card names."""
        with self._open("GET", f"/v1/models/{_segment(model)}/export") as response:
            yield from _pieces(response, self.server)

    def import_model(self, archive: bytes | IO[bytes], *, name: str | None = None) -> Model:
        """Import an archive of `export_model`: it becomes the next version of its name, or of `name`."""
        return cast(
            Model,
            self._call(
                "POST",
                "/v1/models/import",
                params={"name": name} if name else {},
                content=_content(archive),
                headers={"Content-Type": "application/x-tar"},
                timeout=_LONG_TIMEOUT,
            ),
        )

    def delete_model(self, model: str) -> dict[str, Any]:
        """Delete one version of a model."""
        return self._call("DELETE", f"/v1/models/{_segment(model)}")

    def download(self, model: str, file: str) -> Iterator[bytes]:
        """Yield the bytes of one file of a model."""
        path = f"/v1/models/{_segment(model)}/files/{_segment(file)}"
        with self._open("GET", path) as response:
            yield from _pieces(response, self.server)

    def report(self, model: str) -> dict[str, Any]:
        """Return what a model's training run told of itself."""
        return self._call("GET", f"/v1/models/{_segment(model)}/report", params={"format": "json"})

    def report_file(self, model: str, kind: Literal["html", "svg"]) -> Iterator[bytes]:
        """Yield the report as a page, or the picture of its curves."""
        path = f"/v1/models/{_segment(model)}/report"
        with self._open("GET", path, params={"format": kind}) as response:
            yield from _pieces(response, self.server)

    # Completions and scores

    def complete(self, model: str, prompt: str, **options: Any) -> Completion:
        """Complete a prompt; `options` are the other fields of the request, such as `temperature`."""
        body = {"prompt": prompt, **options}
        return cast(Completion, self._call("POST", f"/v1/models/{_segment(model)}/complete", json=body))

    def stream(self, model: str, prompt: str, **options: Any) -> Iterator[StreamEvent]:
        """Complete a prompt and yield the text as it comes: `piece` events, `finished`, then `done`."""
        body = {"prompt": prompt, **options, "stream": True}
        for event in self._stream("POST", f"/v1/models/{_segment(model)}/complete", json=body):
            data = loads(event.data)
            if event.event == "error":
                raise _refusal(data, status=503)
            yield {"event": cast(Literal["piece", "finished", "done"], event.event), "data": data}
            if event.event == "done":
                return
        raise ServerUnreachable(f"{self.server} broke off in the middle of a completion; ask again")

    def next(self, model: str, prompt: str, *, top: int = 10, temperature: float = 1.0) -> Distribution:
        """Return the distribution of the character that follows a prompt."""
        body = {"prompt": prompt, "top": top, "temperature": temperature}
        return cast(Distribution, self._call("POST", f"/v1/models/{_segment(model)}/next", json=body))

    def score(
        self,
        model: str,
        text: str | Sequence[str],
        *,
        detail: Literal["character", "line"] = "character",
        expected: int = 0,
    ) -> Score:
        """Return the surprisal of a text, or of lines each by itself, in bits.

        The bits are those of the characters after Unicode NFC. `expected` characters are told at each place.
        """
        what: dict[str, Any] = {"text": text} if isinstance(text, str) else {"lines": list(text)}
        body = {**what, "detail": detail, **({"expected": expected} if expected else {})}
        return cast(Score, self._call("POST", f"/v1/models/{_segment(model)}/score", json=body))

    def score_stream(
        self, model: str, lines: Sequence[bytes], **options: str | float | bool
    ) -> Iterator[dict[str, Any]]:
        """Score lines given as bytes, a mebibyte together at most; yield the service's records as they come.

        They are a `score.start`, a `score.line` for each line that is told of, and a `score.end`; `options`
        are the request's query parameters. Raises ServerUnreachable when the answer breaks off.
        """
        with self._open(
            "POST",
            f"/v1/models/{_segment(model)}/score",
            params=options,
            content=b"".join(line + b"\n" for line in lines),
            headers={"Content-Type": "text/plain; charset=utf-8"},
            timeout=_SCORING_TIMEOUT,
        ) as response:
            held = b""
            for piece in _pieces(response, self.server):
                *whole, held = (held + piece).split(b"\n")
                for line in whole:
                    record = loads(line)
                    if record["object"] == "error":
                        raise _refusal(record, status=_STATUS_OF.get(record["error"]["type"], 503))
                    yield record
                    if record["object"] == "score.end":
                        return
        raise ServerUnreachable(f"{self.server} broke off in the middle of its answer; ask again")

    def forget_stream(self, model: str, stream_id: str) -> None:
        """Let a model forget what it remembers of a stream of lines."""
        self._call("DELETE", f"/v1/models/{_segment(model)}/streams/{_segment(stream_id)}")

    # What is normal

    def calibrate(self, model: str, **body: Any) -> dict[str, Any]:
        """Compare a model's scores with those of normal lines: `lines` or `corpus`, and a `name` for them."""
        path = f"/v1/models/{_segment(model)}/calibrate"
        return self._call("POST", path, json=body, timeout=_LONG_TIMEOUT)

    def calibrations(self, model: str) -> list[dict[str, Any]]:
        """Return a model's calibrations by name."""
        return cast(
            list[dict[str, Any]], self._call("GET", f"/v1/models/{_segment(model)}/calibrations")["data"]
        )

    def delete_calibration(self, model: str, name: str) -> None:
        """Delete a calibration that was not made with the model."""
        self._call("DELETE", f"/v1/models/{_segment(model)}/calibrations/{_segment(name)}")

    def evaluate(
        self, model: str, lines: Sequence[str], anomalous: Sequence[bool], **options: Any
    ) -> dict[str, Any]:
        """Return how well a model tells anomalous lines from normal ones, beside simple scores."""
        body = {"lines": list(lines), "anomalous": list(anomalous), **options}
        path = f"/v1/models/{_segment(model)}/evaluate"
        return self._call("POST", path, json=body, timeout=_LONG_TIMEOUT)

    # Health

    def ready(self) -> dict[str, Any]:
        """Return the service's answer to whether it is ready. Raises ServerError when it is not."""
        return self._call("GET", "/readyz")

    # Requests

    def _call(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        with self._open(method, path, **request) as response:
            body = b"".join(_pieces(response, self.server))
            try:
                return cast(dict[str, Any], loads(body)) if body else {}
            except (JSONDecodeError, UnicodeDecodeError):
                raise _not_ours(self.server) from None

    def _list(self, path: str) -> Iterator[dict[str, Any]]:
        after: dict[str, str] = {}
        while True:
            page = self._call("GET", path, params={"limit": _PAGE, **after})
            yield from page["data"]
            if not page["has_more"] or not page["data"]:
                return
            after = {"after": page["data"][-1]["id"]}

    def _stream(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        opened: Callable[[], None] = lambda: None,
        **request: Any,
    ) -> Iterator[ServerSentEvent]:
        wanted = {"Accept": "text/event-stream", **(headers or {})}
        with self._open(method, path, headers=wanted, timeout=_STREAM_TIMEOUT, **request) as response:
            opened()
            yield from parse(_pieces(response, self.server))

    @contextmanager
    def _open(self, method: str, path: str, **request: Any) -> Iterator[httpx.Response]:
        """Send a request and give its answer, still unread; an error's answer is raised."""
        try:
            response = self._http.send(self._http.build_request(method, path, **request), stream=True)
        except httpx.UnsupportedProtocol:
            raise ClientError(
                f"{self.server!r} is not an address; it begins with http:// or https://"
            ) from None
        except httpx.LocalProtocolError as error:
            raise ClientError(f"the request cannot be sent as it is: {error}") from error
        except httpx.TransportError as error:
            raise _unreachable(self.server, error) from error
        except UnicodeEncodeError:
            raise ClientError("the request holds bytes that are not UTF-8") from None
        except (
            RuntimeError,
            httpx.InvalidURL,
        ) as error:  # closed by another thread, or a path beyond all bounds
            raise ClientError(f"the request could not be sent: {error}") from error
        try:
            if response.is_error:
                body = b"".join(_pieces(response, self.server))
                try:
                    answer = loads(body)
                except (JSONDecodeError, UnicodeDecodeError):
                    answer = None
                raise _refusal(answer, status=response.status_code)
            yield response
        finally:
            response.close()


def _content(text: str | bytes | IO[bytes]) -> bytes | IO[bytes] | Iterator[bytes]:
    """Return what httpx sends rightly: it takes the length of a pipe for 0."""
    if isinstance(text, str | bytes):
        return text.encode() if isinstance(text, str) else text
    try:
        is_file = stat.S_ISREG(os.fstat(text.fileno()).st_mode)
    except OSError:  # an object in memory
        is_file = False
    return text if is_file else iter(lambda: text.read(_PIECE_BYTES), b"")


def _segment(name: str) -> str:
    """Return a name as one segment of a path, whatever people typed."""
    if not name.strip("."):  # an empty one names another route, a dot or two would be resolved away
        raise ClientError(f"{name!r} is not a name or an id")
    return quote(name, safe="@", errors="surrogateescape")


def _pieces(response: httpx.Response, server: str) -> Iterator[bytes]:
    try:
        yield from response.iter_bytes()
    except (httpx.TransportError, httpx.StreamError, httpx.DecodingError) as error:
        raise _unreachable(server, error) from error


def _unreachable(server: str, error: Exception) -> ServerUnreachable:
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return ServerUnreachable(
            f"no answer at {server}; start the service with `make serve`, or name another with --server"
        )
    if isinstance(error, httpx.TimeoutException):
        return ServerUnreachable(f"{server} took too long to answer; ask again, or ask for less")
    return ServerUnreachable(f"the connection to {server} broke; ask again")


def _refusal(answer: Any, *, status: int) -> ServerError:
    match answer:
        case {"error": {"message": str(message), "code": str(code)}}:
            return ServerError(message, status=status, code=code, param=answer["error"].get("param"))
        case {"status": "not_ready", "down": [*down]}:
            return ServerError(
                f"the service runs but is not ready: no answer from its {' and '.join(map(str, down))}",
                status=status,
                code="not_ready",
            )
    return ServerError(
        f"the server answered with HTTP status {status} and said no more", status=status, code="unknown"
    )


def _not_ours(server: str) -> ClientError:
    return ClientError(f"what answers at {server} is not nextchar; name its address with --server")
