"""The lines of a batch's file: what each must be, checked before any is run.

    {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"model": "m", "prompt": "x"}}

A body is checked when its request is run: an invalid one is that request's error, not the batch's.
"""

import json
from dataclasses import dataclass
from typing import Any

from store.batches import BatchError

MAX_REQUESTS = 50_000
"""In one batch, as OpenAI has it."""

MAX_CUSTOM_ID_CHARACTERS = 512

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
