"""From JSON Lines, the format of OpenAI's fine-tuning and batches, to what is stored.

Examples become the plain text that a job trains on:

    {"text": T}                        T, and a newline if it ends without one
    {"prompt": P, "completion": C}     P and C without a separator, and a newline if C ends without one

So a model completes a prompt with the completion and ends it with the line. The requests of a batch, lines
with a `custom_id`, are kept as they are; the first line decides which of the two a file has.

    {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"model": "m", "prompt": "x"}}

They are checked before any is run, and divided into chunks. A body is checked when its request is run: an
invalid one is that request's error, not the batch's.
"""

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from nextchar.app.http.bodies import LARGE_BYTES, MAX_CONTAINERS, parsed_bytes
from nextchar.app.openai.batches import BatchError
from nextchar.models.errors import InvalidInput, TooLarge
from nextchar.models.text.lines import LineSplitter, RawLine

MAX_LINE_BYTES = 16 << 20
"""A longer line is refused, because a line is parsed in memory."""

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


class JsonLines:
    r"""Converts JSON Lines that arrive in pieces to text.

    >>> lines = JsonLines()
    >>> lines.feed(b'{"text": "ab"}\n{"prompt": "Q:", '), lines.feed(b'"completion": " A"}'), lines.finish()
    (b'ab\n', b'', b'Q: A\n')
    """

    def __init__(self) -> None:
        self._lines = LineSplitter(max_bytes=MAX_LINE_BYTES)
        self._line_number = 0
        self.are_requests: bool | None = None
        """Whether the lines are requests of a batch; None before the first line."""

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes; return the text of complete lines. Raises InvalidInput for an invalid line."""
        text = b"".join(map(self._text, self._lines.feed(data)))
        if self._lines.is_too_long:  # refused before it ends
            return text + b"".join(map(self._text, self._lines.finish()))
        return text

    def finish(self) -> bytes:
        """Return the text of a last line without a newline."""
        return b"".join(map(self._text, self._lines.finish()))

    def _text(self, line: RawLine) -> bytes:
        self._line_number += 1
        if line.is_truncated:
            raise self._invalid(f"is longer than {MAX_LINE_BYTES:,} bytes")
        if not line.data.strip():
            return b""
        if self.are_requests:  # `divide` checks them
            return line.data + b"\n"
        example = self._parsed(line.data)
        if self.are_requests is None:
            self.are_requests = isinstance(example, dict) and "custom_id" in example
            if self.are_requests:
                return line.data + b"\n"
        match example:
            case {"text": str(text)}:
                pass
            case {"prompt": str(prompt), "completion": str(completion)}:
                text = prompt + completion
            case {"messages": _}:
                raise self._invalid("is a chat, and these models complete texts")
            case _:
                raise self._invalid("is not an example")
        text += "" if text.endswith("\n") else "\n"
        return str(text).encode("utf-8", "surrogatepass")  # uploads refuse a lone surrogate

    def _parsed(self, line: bytes) -> Any:
        try:
            return _load(line)
        except TooLarge:
            raise self._invalid(
                f"has more than {MAX_CONTAINERS:,} lists, objects and fields, or too many values"
            ) from None
        except ValueError:
            raise self._invalid("is not JSON") from None

    def _invalid(self, what: str) -> InvalidInput:
        return InvalidInput(
            f'line {self._line_number} of the file {what}; each line is {{"text": "…"}} or'
            ' {"prompt": "…", "completion": "…"}, or in the file of a batch'
            ' {"custom_id": "…", "method": "POST", "url": "/v1/completions", "body": {…}}',
            code="invalid_file_format",
            param="file",
        )


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
    try:
        value = _load(data)
    except TooLarge as error:
        raise InvalidLine(error.code, error.message, line) from None
    except ValueError:
        raise InvalidLine("invalid_json_line", "the line is not JSON", line) from None
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


def _load(line: bytes) -> Any:
    """Return the value of a line. Raises TooLarge: it has too many; ValueError: it is not JSON."""
    if len(line) > LARGE_BYTES:
        parsed_bytes(line)
    try:
        return json.loads(line)
    except RecursionError:  # nested too deeply
        raise ValueError from None


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
