"""The file of a batch: what each line must be, checked before any is run, and its division into chunks.

    {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"model": "m", "prompt": "x"}}

A body is checked when its request is run: an invalid one is that request's error, not the batch's.
"""

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from app.compat.json_lines import MAX_LINE_BYTES
from app.services.line_input import LineSplitter
from store.batches import BatchError

MAX_REQUESTS = 50_000
"""In one batch, as OpenAI has it."""

MAX_CUSTOM_ID_CHARACTERS = 512

MAX_ERRORS = 100
"""Errors that are reported for one file."""

_CHUNK_REQUESTS = 64
_CHUNK_BYTES = 1 << 20
_LARGE_RESPONSE = 16  # a request whose response may be large counts as this many

_FIELDS = {"custom_id", "method", "url", "body"}


@dataclass(frozen=True)
class BatchRequest:
    """One request of a batch."""

    custom_id: str
    body: dict[str, Any]

    @property
    def has_large_response(self) -> bool:
        """Whether the response may take many times the memory of its text."""
        return self.body.get("logprobs") is not None or bool(self.body.get("echo"))


class InvalidLine(Exception):
    """A line is no request; `error` says why."""

    def __init__(self, code: str, message: str, line: int | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.error = BatchError(code=code, message=message, line=line, param=param)


def parse_request(data: bytes, *, endpoint: str, line: int | None = None) -> BatchRequest:
    """Return the request in a line of a batch's file. Raises InvalidLine."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):  # not JSON, or nested too deeply
        raise InvalidLine("invalid_json_line", "the line is not JSON", line) from None
    if not isinstance(value, dict):
        raise InvalidLine("invalid_json_line", "the line is not a JSON object", line)
    for name in sorted(_FIELDS - value.keys()):
        raise InvalidLine("missing_required_parameter", f"the request has no {name}", line, name)
    for name in sorted(value.keys() - _FIELDS):
        raise InvalidLine("unknown_parameter", f"there is no field {name[:100]!r}", line, name[:100])
    custom_id, body = value["custom_id"], value["body"]
    if not isinstance(custom_id, str) or not 1 <= len(custom_id) <= MAX_CUSTOM_ID_CHARACTERS:
        message = f"custom_id is a string of 1 to {MAX_CUSTOM_ID_CHARACTERS} characters"
        raise InvalidLine("invalid_custom_id", message, line, "custom_id")
    if value["method"] != "POST":
        raise InvalidLine("invalid_method", "method must be POST", line, "method")
    if value["url"] != endpoint:
        message = f"url must be {endpoint}, the endpoint of the batch"
        raise InvalidLine("invalid_url", message, line, "url")
    if not isinstance(body, dict):
        raise InvalidLine("invalid_body", "body must be an object", line, "body")
    return BatchRequest(custom_id, body)


def divide(pieces: Iterable[bytes], *, endpoint: str, errors: list[BatchError]) -> Iterator[list[bytes]]:
    """Yield the lines of each chunk of a file. Adds to `errors`; after the first, only looks for more."""
    chunk: list[bytes] = []
    weight = size = 0
    seen: set[str] = set()
    for number, data in _lines(pieces, errors):
        try:
            request = parse_request(data, endpoint=endpoint, line=number)
            if request.custom_id in seen:
                message = f"another line has the custom_id {request.custom_id[:100]!r}, too"
                raise InvalidLine("duplicate_custom_id", message, number, "custom_id")  # noqa: TRY301
            if len(seen) == MAX_REQUESTS:
                message = f"a batch has at most {MAX_REQUESTS:,} requests; divide the file"
                raise InvalidLine("too_many_requests", message, number)  # noqa: TRY301
        except InvalidLine as invalid:
            errors.append(invalid.error)
            if len(errors) >= MAX_ERRORS or invalid.error.code == "too_many_requests":
                return
            continue
        seen.add(request.custom_id)
        if errors:
            continue
        chunk.append(data)
        weight += _LARGE_RESPONSE if request.has_large_response else 1
        size += len(data)
        if weight >= _CHUNK_REQUESTS or size >= _CHUNK_BYTES:
            yield chunk
            chunk, weight, size = [], 0, 0
    if chunk and not errors:
        yield chunk


def _lines(pieces: Iterable[bytes], errors: list[BatchError]) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file that are not blank with their numbers, from 1."""
    splitter = LineSplitter(max_bytes=MAX_LINE_BYTES)
    number = 0
    for piece in itertools.chain(pieces, (None,)):
        for line in splitter.feed(piece) if piece is not None else splitter.finish():
            number += 1
            if line.is_truncated:
                message = f"the line is longer than {MAX_LINE_BYTES:,} bytes"
                errors.append(BatchError(code="line_too_long", message=message, line=number))
            elif line.data.strip():
                yield number, line.data.rstrip(b"\r")
