"""Accepting the lines that log agents send, for models that can score them."""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from redis.exceptions import RedisError

from nextchar.app.logs.ingest.lines import MAX_BODY_BYTES, ParsedLines
from nextchar.app.logs.ingest.records import Accepted, Batch, Request
from nextchar.app.logs.ingest.schemas import IngestBody, IngestProblem, IngestQuery, IngestStatusBody
from nextchar.app.logs.ingest.stream import IngestStreams
from nextchar.models.errors import InvalidInput, NotFound, TooLarge
from nextchar.store.calibrations import Calibrations
from nextchar.store.gunzip import Gunzip
from nextchar.store.models import Models


@dataclass(frozen=True)
class Sender:
    """Who sends a request: its identity, and the key that it gave the request, if it did."""

    client: str
    idempotency_key: str | None = None

    def request(self, body: bytes, model: str, query: IngestQuery) -> Request | None:
        """Return the identity of a request that counts once; None: it always counts."""
        digest = hashlib.sha256(body).hexdigest()
        if self.idempotency_key is not None:
            parts = ("key", self.client, model, self.idempotency_key)
        elif query.idempotency == "body":
            parts = ("body", self.client, model, digest)
        else:
            return None
        return Request(hashlib.sha256("\n".join(parts).encode("utf-8", "replace")).hexdigest(), digest)


@dataclass(frozen=True)
class Ingest:
    """The lines that agents send. Blocking."""

    streams: IngestStreams
    models: Models
    calibrations: Calibrations

    def check(self, model: str, query: IngestQuery) -> None:
        """Check that a model can flag lines.

        Raises:
            NotFound: there is no such model, or no such calibration.
            InvalidInput: it has no calibration, or one of too few lines for the rate.
            Unavailable: it is damaged.
        """
        calibration = self.calibrations.required(self.models.get(model), query.calibration).calibration
        calibration.thresholds(query.false_alarms or calibration.default_rate())

    def accept(self, batches: Mapping[str, ParsedLines], request: Request | None) -> Accepted:
        """Accept the lines of a request, by model, all or none. Raises as IngestStreams.accept."""
        return self.streams.accept(
            [Batch(model, parsed.lines, parsed.rejected) for model, parsed in batches.items()], request
        )

    def drop(self, model: str) -> int:
        """Delete the lines that wait. Raises NotFound: there is no such model, and none wait."""
        self.check_known(model)
        return self.streams.drop(model)

    def status(self, model: str) -> IngestStatusBody:
        """Return the state of a model's lines. Raises NotFound as `drop`."""
        is_missing = self.is_deleted(model)
        status = self.streams.status(model)
        if not is_missing:
            return status
        problem = IngestProblem(
            code="model_not_found",
            message=f"model {model!r} does not exist any more; its waiting lines are kept until it exists"
            " again, they expire, or DELETE drops them",
        )
        return status.model_copy(update={"problem": problem, "change": None})

    def recent_lines(self, model: str) -> list[bytes]:
        """Return the newest scored lines. Raises InvalidInput: there are none."""
        found = self.streams.recent.read(model)
        if not found:
            raise InvalidInput(
                f"no ingested lines of {model} are stored; send lines to POST …/ingest first, or give lines",
                code="no_ingested_lines",
                param="ingested",
            )
        return found

    def calibrated(self, model: str, *, on_recent: bool) -> None:
        """Forget what lines were like by a calibration that is replaced; without Redis that expires.

        With `on_recent` they are what the new calibration is made of.
        """
        with suppress(RedisError):
            self.streams.rules.forget(model)
            if on_recent:
                self.streams.recent.forget(model)

    def check_known(self, model: str) -> None:
        """Raise NotFound if there is no such model and no line was sent to one."""
        self.is_deleted(model)

    def is_deleted(self, model: str) -> bool:
        """Return whether the model that lines were sent to is gone. Raises as `check_known`."""
        try:
            self.models.resolve(model)
        except NotFound:
            if model not in self.streams.models():
                raise
            return True
        return False


def ingest_body(model: str, parsed: ParsedLines, accepted: Accepted) -> IngestBody:
    """Return the response to the lines of one model."""
    return IngestBody(
        model=model,
        accepted=accepted.lines,
        rejected=parsed.rejected,
        is_repeated=accepted.is_repeated,
        errors=parsed.errors,
    )


def decompressed(data: bytes, gunzip: Gunzip | None) -> bytes:
    """Return a body as it was before compression.

    Raises:
        InvalidInput: it is not valid gzip.
        TooLarge: it has more than MAX_BODY_BYTES.
    """
    if gunzip is None:
        return data
    pieces: list[bytes] = []
    size = 0
    for piece in gunzip.feed(data):
        size += len(piece)
        if size > MAX_BODY_BYTES:
            raise TooLarge(
                f"the body is larger than {MAX_BODY_BYTES:,} bytes after decompression; send smaller batches",
                code="body_too_large",
                param="body",
            )
        pieces.append(piece)
    gunzip.finish()
    return b"".join(pieces)


def check_any_line(parsed: ParsedLines) -> None:
    """Raise InvalidInput, with the first error, if a body has records and none of them is a line."""
    if parsed.errors and not parsed.lines:
        first = parsed.errors[0]
        raise InvalidInput(f"line {first.line}: {first.message}", code=first.code, param="body")


def messages_of(parsed: Sequence[ParsedLines]) -> str:
    """Return what is wrong with the first rejected lines, as one sentence."""
    errors = [error for one in parsed for error in one.errors][:3]
    return "; ".join(f"record {error.line}: {error.message}" for error in errors)
