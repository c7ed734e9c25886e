import json
from collections.abc import Iterator
from typing import Any

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
