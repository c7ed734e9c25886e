import json
from collections.abc import Iterator
from typing import Any

import pytest

from nextchar.app.openai.json_lines import (
    CHUNK_BYTES,
    CHUNK_REQUESTS,
    CHUNK_RESPONSE_BYTES,
    BatchRequest,
    divide,
)

ENDPOINT = "/v1/completions"


def line(number: int, **body: Any) -> bytes:
    request = {"custom_id": str(number), "method": "POST", "url": ENDPOINT, "body": {"model": "m"} | body}
    return json.dumps(request).encode()


def chunks(*lines: bytes) -> list[list[bytes]]:
    def pieces() -> Iterator[bytes]:
        for one in lines:
            yield one + b"\n"

    errors: list[Any] = []
    found = list(divide(pieces(), endpoint=ENDPOINT, errors=errors))
    assert errors == [] and [one for chunk in found for one in chunk] == [*lines]
    return found


def estimate(**body: Any) -> int:
    return BatchRequest("a", body).max_response_bytes


def test_line_with_very_many_values_is_refused() -> None:
    errors: list[Any] = []
    list(divide([line(1, prompt=[[]] * 100_000) + b"\n"], endpoint=ENDPOINT, errors=errors))
    assert [(one.code, one.line) for one in errors] == [("too_many_values", 1)]


def test_a_chunk_has_a_limited_number_of_requests() -> None:
    found = chunks(*(line(i, prompt="a") for i in range(2 * CHUNK_REQUESTS + 1)))
    assert [len(chunk) for chunk in found] == [CHUNK_REQUESTS, CHUNK_REQUESTS, 1]


def test_the_bytes_of_a_chunk_of_several_requests_are_bounded() -> None:
    third = line(0, prompt="a" * (CHUNK_BYTES // 3 - 200))
    large = line(9, prompt="a" * 3 * CHUNK_BYTES)
    sizes = [third.replace(b'"0"', b'"%d"' % i) for i in range(5)]
    found = chunks(*sizes[:4], large, sizes[4])
    assert [len(chunk) for chunk in found] == [3, 1, 1, 1]
    assert all(sum(map(len, chunk)) <= CHUNK_BYTES for chunk in found if len(chunk) > 1)


def test_the_responses_of_a_chunk_of_several_requests_are_bounded() -> None:
    body = {"prompt": "a", "max_tokens": 1_000, "n": 4, "logprobs": 5}
    each = estimate(**body)
    assert 500_000 < each < 5_000_000
    found = chunks(*(line(i, **body) for i in range(40)))
    assert {len(chunk) for chunk in found[:-1]} == {CHUNK_RESPONSE_BYTES // each}
    huge = {"prompt": "a", "max_tokens": 10_000, "n": 10, "logprobs": 20}
    assert estimate(**huge) > CHUNK_RESPONSE_BYTES
    assert [len(chunk) for chunk in chunks(line(0), line(1, **huge), line(2))] == [1, 1, 1]


@pytest.mark.parametrize(
    ("body", "characters", "bytes_per_character"),
    [
        ({}, 16, 4),
        ({"prompt": "abc", "max_tokens": 10, "n": 3}, 30, 4),
        ({"prompt": ["abc", "d"], "max_tokens": 10, "n": 3}, 60, 4),
        ({"prompt": [1, 2, 3], "max_tokens": 10}, 10, 4),
        ({"prompt": ["abc", "d"], "max_tokens": 10, "n": 3, "echo": True}, 72, 4),
        ({"prompt": [1, 2, 3], "max_tokens": 0, "echo": True, "logprobs": 0}, 3, 44),
        ({"prompt": [[1, 2], [3]], "max_tokens": 0, "echo": True, "logprobs": 2}, 3, 124),
        ({"prompt": "a", "max_tokens": 10**30, "n": 10**30}, 100_000, 4),
        # Refused when it is run, but divided before that.
        ({"prompt": {"a": 1}, "max_tokens": "many", "n": -1, "echo": 1, "logprobs": None}, 16, 4),
        ({"prompt": [], "max_tokens": True, "n": 2.5, "logprobs": []}, 16, 44),
    ],
)
def test_responses_are_estimated(body: dict[str, Any], characters: int, bytes_per_character: int) -> None:
    assert estimate(**body) == characters * bytes_per_character
