"""The calls of the API, each as a function that returns its request. `Client` and `AsyncClient` send them.

A method of a client has the arguments and the docstring of the function of the same name here. All raise
the exceptions of `errors`.
"""

import io
import os
import stat
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal, TypedDict, TypeVar, Unpack
from urllib.parse import quote

from nextchar.answers import (
    Calibration,
    CalibrationList,
    Completion,
    Corpus,
    Distribution,
    Evaluation,
    Job,
    Model,
    ModelPage,
    Score,
)
from nextchar.effects import Content, Request
from nextchar.errors import NextcharError

T = TypeVar("T")

Text = str | bytes | Path | IO[bytes] | IO[str] | Iterable[str | bytes]
"""A text to upload: itself, a file's path, an open file, or pieces of any size."""

_PIECE_BYTES = 1 << 16
_LONG_TIMEOUT_S = 1800.0  # minutes of work, answered at its end


class CompletionOptions(TypedDict, total=False):
    """The options of a completion; what is left out is as the service has it, see its API reference."""

    max_characters: int
    n: int
    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    seed: int | None
    stop: str | Sequence[str] | None
    until: Literal["word", "line", "confidence"] | None
    confidence_bits: float
    logprobs: int | None
    echo: bool
    best_of: int | None
    beam: int | None
    length_penalty: float
    no_repeat: int | None
    precision: Literal["auto", "float32", "int8"]
    timeout_ms: int | None


# Corpora


def add_corpus(text: Text, *, name: str | None = None, encoding: str | None = None) -> Request[Corpus]:
    """Upload a text and return its corpus. The same bytes are the same corpus.

    Args:
        text: a `str` or `bytes` is the text itself; a `Path` is read; a file or an iterable of pieces is
            streamed, so that it is never in memory whole.
        name: what to call it; usable wherever the id is.
        encoding: `bytes` takes anything, and each byte is a character.

    >>> client.add_corpus(Path("nietzsche.txt"), name="nietzsche")["characters"]  # doctest: +SKIP
    600893
    """
    kind = "application/octet-stream" if encoding else "text/plain; charset=utf-8"
    return Request(
        "POST",
        "/v1/corpora",
        params=_given(name=name, encoding=encoding),
        content=_content(text),
        headers={"Content-Type": kind},
    )


def corpus(corpus: str) -> Request[Corpus]:
    """Return a corpus's statistics, by id or name."""
    return _get(_path("corpora", corpus))


def delete_corpus(corpus: str) -> Request[dict[str, Any]]:
    """Delete a corpus that no unfinished job needs. Models trained on it stay."""
    return Request("DELETE", _path("corpora", corpus), can_retry=True)


def corpus_text(corpus: str) -> Request[bytes]:
    """Return the text of a corpus as it was uploaded; `download_corpus` gives a large one in pieces."""
    return _get(_path("corpora", corpus, "text"))


# Jobs


def create_job(request: Mapping[str, Any], *, idempotency_key: str | None = None) -> Request[Job]:
    """Queue a training job; `request` is the body of POST /v1/jobs. `train` is more convenient.

    A request with the same `idempotency_key` makes no second job; by default each call has its own key.
    """
    headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
    return Request("POST", "/v1/jobs", json=dict(request), headers=headers, can_retry=True)


def job(job: str) -> Request[Job]:
    """Return a job: its status, place in the queue and progress."""
    return _get(_path("jobs", job))


def cancel_job(job: str, *, keep_best: bool = False) -> Request[Job]:
    """Cancel a job. `keep_best` publishes the best model so far."""
    return Request("POST", _path("jobs", job, "cancel"), json={"keep_best": True} if keep_best else None)


def pause_job(job: str) -> Request[Job]:
    """Stop a job at a checkpoint; `resume_job` continues it."""
    return Request("POST", _path("jobs", job, "pause"))


def resume_job(job: str) -> Request[Job]:
    """Queue a paused or failed job again; it continues from its last checkpoint."""
    return Request("POST", _path("jobs", job, "resume"))


# Models


def model(model: str) -> Request[Model]:
    """Return the card of `name@version`, or of the newest version of `name`."""
    return _get(_path("models", model))


def model_page(limit: int) -> Request[ModelPage]:
    """Return the first page of the models."""
    return _get("/v1/models", limit=limit)


def rename_model(model: str, name: str) -> Request[Model]:
    """Rename one version: it becomes the next version of `name`. Return its card."""
    return Request("PATCH", _path("models", model), json={"name": name})


def delete_model(model: str) -> Request[dict[str, Any]]:
    """Delete one version of a model: the newest for a bare name."""
    # For a bare name a second copy of the request would delete the version before.
    return Request("DELETE", _path("models", model), can_retry="@" in model)


def import_model(archive: bytes | Path | IO[bytes], *, name: str | None = None) -> Request[Model]:
    """Import a model from the tar archive that `export_model` yields, as the next version of its name.

    `name` replaces the name in the archive. Importing twice makes two versions.

    >>> client.import_model(Path("nietzsche@3.tar"), name="philosopher")["id"]  # doctest: +SKIP
    'philosopher@1'
    """
    return Request(
        "POST",
        "/v1/models/import",
        params=_given(name=name),
        content=_content(archive),
        headers={"Content-Type": "application/x-tar"},
        timeout_s=_LONG_TIMEOUT_S,
    )


def report(model: str) -> Request[dict[str, Any]]:
    """Return the report of a model's training run."""
    return _get(_path("models", model, "report"), format="json")


# Completions and scores


def complete(model: str, prompt: str, **options: Unpack[CompletionOptions]) -> Request[Completion]:
    """Complete a prompt.

    >>> answer = client.complete("nietzsche", "morality equals ", until="line", seed=1)  # doctest: +SKIP
    >>> answer["completions"][0]["text"]  # doctest: +SKIP
    'the same thing as the spirit,'
    """
    return Request("POST", _path("models", model, "complete"), json={"prompt": prompt, **options})


def next(model: str, prompt: str, *, top: int = 10, temperature: float = 1.0) -> Request[Distribution]:  # noqa: A001
    """Return the distribution of the character that follows a prompt: the `top` most likely ones.

    >>> client.next("nietzsche", "phil", top=1)["candidates"]  # doctest: +SKIP
    [{'character': 'o', 'probability': 0.93}]
    """
    body = {"prompt": prompt, "top": top, "temperature": temperature}
    return Request("POST", _path("models", model, "next"), json=body)


def score(
    model: str,
    text: str | Sequence[str],
    *,
    detail: Literal["none", "line", "character"] = "character",
    expected: int = 0,
    false_alarms: float | None = None,
    calibration: str | None = None,
    context: Literal["line", "stream"] | None = None,
    stream_id: str | None = None,
    adapt: bool | None = None,
    explain: bool | None = None,
) -> Request[Score]:
    """Return the surprisal, in bits, of a text or of up to 10,000 lines, and which lines are anomalous.

    `score_lines` takes lines without end. Positions and bits are those of the characters after Unicode NFC.

    Args:
        model: `name` or `name@version`.
        text: a `str`, scored as a whole, or a list of lines, each scored by itself.
        detail: `line` leaves out the bits of each character, `none` the spans, too.
        expected: how many of the most likely characters to return for each position.
        false_alarms: the share of normal lines that may be flagged.
        calibration: which normal lines to compare with.
        context: `stream` scores each line after those before it.
        stream_id: continues a stream of earlier calls.
        adapt: learn from the stream.
        explain: whether spans say what was expected.

    >>> scores = client.score("web", ["GET /", "GET /'--"], false_alarms=0.01)  # doctest: +SKIP
    >>> [line["anomalous"] for line in scores["lines"]]  # doctest: +SKIP
    [False, True]
    """
    if hasattr(text, "__next__"):  # an iterator may have no end
        raise NextcharError("score takes a str or a list of lines; use score_lines for any other iterable")
    body = _given(
        detail=detail,
        expected=expected or None,
        false_alarms=false_alarms,
        calibration=calibration,
        context=context,
        stream_id=stream_id,
        adapt=adapt,
        explain=explain,
    )
    body |= {"text": text} if isinstance(text, str) else {"lines": list(text)}
    return Request("POST", _path("models", model, "score"), json=body)


def forget_stream(model: str, stream_id: str) -> Request[None]:
    """Delete what a model remembers of a stream of lines."""
    return Request("DELETE", _path("models", model, "streams", stream_id), can_retry=True)


# Calibrations


def calibrate(
    model: str,
    lines: Iterable[str] | None = None,
    *,
    corpus: str | None = None,
    name: str | None = None,
    buckets: int | None = None,
    false_alarms: float | None = None,
) -> Request[Calibration]:
    """Compare a model's scores with those of normal lines from now on.

    Args:
        model: `name` or `name@version`.
        lines: normal lines; or
        corpus: a corpus, all of whose lines are normal.
        name: what to call the calibration; without one it is the model's default.
        buckets: compare lines with those of like length only, in so many buckets.
        false_alarms: raise InvalidRequest unless there are enough lines for this rate.

    >>> client.calibrate("web", normal_lines, false_alarms=0.001)["lines"]  # doctest: +SKIP
    5000
    """
    body = _given(
        lines=None if lines is None else list(lines),
        corpus=corpus,
        name=name,
        buckets=buckets,
        false_alarms=false_alarms,
    )
    return Request("POST", _path("models", model, "calibrate"), json=body, timeout_s=_LONG_TIMEOUT_S)


def calibration_list(model: str) -> Request[CalibrationList]:
    """Return a model's calibrations as the service lists them."""
    return _get(_path("models", model, "calibrations"))


def delete_calibration(model: str, name: str) -> Request[None]:
    """Delete a calibration; the one made with the model cannot be deleted."""
    return Request("DELETE", _path("models", model, "calibrations", name), can_retry=True)


def evaluate(
    model: str, lines: Sequence[str], anomalous: Sequence[bool], **options: Any
) -> Request[Evaluation]:
    """Return how well a model tells anomalous lines from normal ones, beside simple baselines.

    `anomalous` is the truth about each line; `options` are the other fields of the request, such as
    `split="chronological"`.

    >>> client.evaluate("web", lines, labels, worst=5)["model_score"]["auroc"]  # doctest: +SKIP
    0.987
    """
    body = {"lines": list(lines), "anomalous": list(map(bool, anomalous)), **options}
    return Request("POST", _path("models", model, "evaluate"), json=body, timeout_s=_LONG_TIMEOUT_S)


# Health


def ready() -> Request[dict[str, Any]]:
    """Return the service's answer to whether it is ready. Raises Unavailable if it is not."""
    return Request("GET", "/readyz")


# Requests


def segment(name: str) -> str:
    """Return a name quoted as one segment of a path. Raises NextcharError if it cannot be one."""
    if not name.strip("."):  # an empty one names another route, a dot or two would be resolved away
        raise NextcharError(f"{name!r} is not a name or an id")
    return quote(name, safe="@", errors="surrogateescape")


def _path(collection: str, name: str, *more: str) -> str:
    return "/".join(["/v1", collection, *map(segment, (name, *more))])


def _get(path: str, **params: str | int) -> Request[Any]:
    return Request("GET", path, params=params, can_retry=True)


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _content(text: Text) -> Content:
    """Return a body that httpx sends with the right length or in chunks."""
    if isinstance(text, str):
        return text.encode()
    if isinstance(text, bytes):
        return text
    if isinstance(text, Path):
        return _file_pieces(text)
    read: Callable[[int], str | bytes] | None = getattr(text, "read", None)
    if read is None:
        return (_encoded(piece) for piece in text if piece)
    if not isinstance(text, io.TextIOBase) and _is_regular_file(text):
        return text  # type: ignore[return-value] # opened as binary
    return iter(lambda: _encoded(read(_PIECE_BYTES)), b"")


def _encoded(piece: str | bytes) -> bytes:
    return piece.encode() if isinstance(piece, str) else piece


def _file_pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            yield piece


def _is_regular_file(file: Any) -> bool:
    try:
        return stat.S_ISREG(os.fstat(file.fileno()).st_mode)
    except (OSError, AttributeError):  # an object in memory
        return False
