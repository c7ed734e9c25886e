"""How much a parsed body takes, from its bytes."""

import json
import tracemalloc
from typing import Any

import pytest

from nextchar.app.http import bodies
from nextchar.app.http.bodies import MAX_CONTAINERS, MAX_VALUES, parsed_bytes
from nextchar.models.errors import TooLarge


@pytest.mark.parametrize(
    ("body", "containers", "values"),
    [
        (b'"[{:,"', 0, 0),
        (b'{"a": [1, 2], "b": {}}', 5, 2),
        (rb'["\"[", "\\", [":"]]', 2, 2),
        (rb'["\\\"[", [], "\\\\", {}]', 3, 3),
        (b"", 0, 0),
        (b'["[[[', 1, 0),
    ],
)
def test_only_what_is_outside_of_strings_counts(body: bytes, containers: int, values: int) -> None:
    assert parsed_bytes(body) == containers * 256 + values * 64


@pytest.mark.parametrize(
    "body",
    [
        {"lines": [""] * 1_000_000},
        {"tokens": [65_536] * 1_000_000},
        {"prompt": [[1] * 900] * 1024},
        {"text": '[{":,' * 200_000},
        {"logit_bias": dict.fromkeys(map(str, range(65_536)), 1.5)},
    ],
    ids=lambda body: next(iter(body)),
)
def test_the_longest_bodies_of_any_call_are_accepted(body: Any) -> None:
    parsed_bytes(json.dumps(body).encode())


@pytest.mark.parametrize(
    ("body", "most"), [(b"[%b1]", MAX_CONTAINERS - 1), (b"[%b1]", MAX_CONTAINERS)], ids=["just", "more"]
)
def test_more_lists_than_any_call_takes_are_refused(body: bytes, most: int) -> None:
    content = body % (b"[]," * most)
    if most < MAX_CONTAINERS:
        assert parsed_bytes(content)
        return
    with pytest.raises(TooLarge) as error:
        parsed_bytes(content)
    assert error.value.code == "too_many_values" and f"{MAX_CONTAINERS + 1:,}" in error.value.message


def test_more_values_than_any_call_takes_are_refused() -> None:
    assert parsed_bytes(b"1," * MAX_VALUES) == MAX_VALUES * 64
    with pytest.raises(TooLarge):
        parsed_bytes(b"1," * (MAX_VALUES + 1))


@pytest.mark.parametrize("value", [b"[]", b"[1]", b'{"abc":1}', b"1234.5", b'"abcd"', b'{"a":{"b":[]}}'])
def test_what_is_parsed_takes_no_more_than_that(value: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "MAX_CONTAINERS", 10**9)
    content = b"[" + b",".join([value] * 20_000) + b"]"
    limit = parsed_bytes(content) + len(content)
    tracemalloc.start()
    try:
        parsed = json.loads(content)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(parsed) == 20_000 and taken <= limit
