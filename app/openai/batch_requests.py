"""The file of a batch: what each line must be, checked before any is run, and its division into chunks.

    {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"model": "m", "prompt": "x"}}

A body is checked when its request is run: an invalid one is that request's error, not the batch's.
"""

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from nextchar.app.http.bodies import LARGE_BYTES, parsed_bytes
from nextchar.app.openai.batches import BatchError
from nextchar.app.openai.json_lines import MAX_LINE_BYTES
from nextchar.models.errors import TooLarge
from nextchar.models.text.lines import LineSplitter

MAX_REQUESTS = 50_000
"""Maximum number of requests in one batch, as in OpenAI's API."""

MAX_CUSTOM_ID_CHARACTERS = 512

MAX_ERRORS = 100
"""Errors that are reported for one file."""

CHUNK_REQUESTS = 64
"""The most requests of a chunk."""

CHUNK_BYTES = 1 << 20
"""The most bytes of a chunk of several requests."""

CHUNK_RESPONSE_BYTES = 16 << 20
"""The most bytes of the responses to a chunk of several requests, estimated: all are in memory until the last
has ended."""

_MAX_GENERATED = 100_000  # characters of one request; a request for more is refused
_CHARACTER_BYTES = 4
_LOGPROB_BYTES = 40  # of a character's log-probability, and of each alternative

_FIELDS = {"custom_id", "method", "url", "body"}


@dataclass(frozen=True)
class BatchRequest:
    """One request of a batch."""

    custom_id: str
    body: dict[str, Any]

    @property
    def max_response_bytes(self) -> int:
        """About the most bytes that its response may have. The body has not been checked yet."""
        prompt = self.body.get("prompt")
        prompts = prompt if isinstance(prompt, list) and not all(map(_is_count, prompt)) else [prompt]
        made = _count(self.body.get("n"), 1)
        characters = min(_MAX_GENERATED, made * len(prompts) * _count(self.body.get("max_tokens"), 16))
        if self.body.get("echo"):
            characters += made * sum(len(one) for one in prompts if isinstance(one, str | list))
        alternatives = self.body.get("logprobs")
        logprobs = 0 if alternatives is None else 1 + _count(alternatives, 0)
        return characters * (_CHARACTER_BYTES + logprobs * _LOGPROB_BYTES)


class InvalidLine(Exception):
    """A line is not a valid request; `error` says why."""

    def __init__(self, code: str, message: str, line: int | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.error = BatchError(code=code, message=message, line=line, param=param)


def parse_request(data: bytes, *, endpoint: str, line: int | None = None) -> BatchRequest:
    """Return the request in a line of a batch's file. Raises InvalidLine."""
    value = _load(data, line)
    if not isinstance(value, dict):
        raise InvalidLine("invalid_json_line", "the line is not a JSON object", line)
    for name in sorted(_FIELDS - value.keys()):
        raise InvalidLine("missing_required_parameter", f"the request has no {name}", line, name)
    for name in sorted(value.keys() - _FIELDS):
        param = name[:100].encode("utf-8", "backslashreplace").decode()  # JSON may have lone surrogates
        raise InvalidLine("unknown_parameter", f"there is no field {name[:100]!r}", line, param)
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


def _load(data: bytes, line: int | None) -> Any:
    try:
        if len(data) > LARGE_BYTES:
            parsed_bytes(data)
        return json.loads(data)
    except TooLarge as error:
        raise InvalidLine(error.code, error.message, line) from None
    except (ValueError, RecursionError):  # not JSON, or nested too deeply
        raise InvalidLine("invalid_json_line", "the line is not JSON", line) from None


def divide(pieces: Iterable[bytes], *, endpoint: str, errors: list[BatchError]) -> Iterator[list[bytes]]:
    """Yield the lines of each chunk of a file. Adds to `errors`; after the first, only looks for more."""
    chunk: list[bytes] = []
    size = response_size = 0
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
        size += len(data)
        response_size += request.max_response_bytes
        is_full = len(chunk) == CHUNK_REQUESTS or size > CHUNK_BYTES or response_size > CHUNK_RESPONSE_BYTES
        if chunk and is_full:
            yield chunk
            chunk, size, response_size = [], len(data), request.max_response_bytes
        chunk.append(data)
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


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _count(value: object, default: int) -> int:
    """Return a number that a body gives, or the default for one that will be refused."""
    return min(value, _MAX_GENERATED) if isinstance(value, int) and _is_count(value) else default
