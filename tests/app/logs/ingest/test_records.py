import json
from typing import Any

import pytest

from nextchar.app.logs.ingest.records import Entry, IngestLimits, LineMeta


@pytest.mark.parametrize(
    ("meta", "stored"),
    [
        (LineMeta(), {}),
        (LineMeta(0.0, "", "", 0.0, "never"), {"t": 0.0, "s": "", "c": "", "f": 0.0, "r": False}),
        (LineMeta(1.5, "a", "b", 0.01, "rolling"), {"t": 1.5, "s": "a", "c": "b", "f": 0.01, "r": True}),
        (LineMeta(source="web"), {"s": "web"}),
        (LineMeta(owner="shop"), {"o": "shop"}),
    ],
)  # fmt: skip
def test_metadata_of_a_line_survive_a_round_trip(meta: LineMeta, stored: dict[str, Any]) -> None:
    assert json.loads(meta.dump()) == stored
    assert LineMeta.load(meta.dump().encode()) == meta


def test_the_id_of_an_entry_tells_when_it_came() -> None:
    assert Entry("1795563600123-4", b"", LineMeta()).received_at == 1795563600.123


def test_as_many_lines_and_bytes_wait_by_default_as_is_documented() -> None:
    assert IngestLimits() == IngestLimits(max_lines=200_000, max_bytes=64 * 1024**2)
