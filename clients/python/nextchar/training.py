"""Training a model: what it takes to queue a job, to follow its events and to wait for its end."""

import time
from json import loads
from typing import Literal, Unpack, cast

from nextchar import calls
from nextchar.answers import FINAL_STATUSES, Corpus, Event, Job
from nextchar.calls import segment
from nextchar.effects import Emit, Operation, Stream, read, sleep
from nextchar.errors import NextcharError, Timeout, TrainingFailed, error_in_stream
from nextchar.operations import FIRST_DELAY_S, MAX_DELAY_S, Settings, event_stream, fetch, open_ok
from nextchar.options import TrainingOptions
from nextchar.sse import EventDecoder
from nextchar.upload import Text

_POLL_S = 0.5  # between two looks at a job


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
            yield from open_ok(event_stream("GET", path, {"Last-Event-ID": str(after)} if after else {}))
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
