"""A text without repeated lines."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.errors import StorageFull
from store.distinct_lines import DistinctLines


def distinct(folder: Path, data: bytes, size: int = 1 << 20) -> tuple[bytes, int]:
    with DistinctLines(folder) as lines:
        for at in range(0, len(data), size):
            lines.feed(data[at : at + size])
        return b"".join(lines.finish()), lines.removed


def by_a_set(data: bytes) -> bytes:
    seen: set[bytes] = set()
    kept = b""
    for line in data.splitlines(keepends=True):
        content = line.removesuffix(b"\n")
        if not content or content not in seen:
            kept += line
        seen.add(content)
    return kept


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(st.text(st.sampled_from("ab\n"), max_size=40), st.integers(1, 9))
def test_of_equal_lines_the_first_stays(tmp_path: Path, text: str, size: int) -> None:
    data = text.encode()
    kept, removed = distinct(tmp_path, data, size)
    assert kept == by_a_set(data)
    lines = [line for line in data.split(b"\n") if line]
    assert removed == len(lines) - len(set(lines))


def test_lines_far_apart_and_longer_than_a_piece_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.distinct_lines._PIECE_BYTES", 100)
    long = b"x" * 1000 + b"\n"
    middle = b"".join(b"line %d\n" % number for number in range(5000))
    kept, removed = distinct(tmp_path, long + middle + long + middle + b"end", 777)
    assert kept == long + middle + b"end"
    assert removed == 5001


def test_empty_lines_stay_and_other_line_ends_are_part_of_the_line(tmp_path: Path) -> None:
    assert distinct(tmp_path, b"\n\na\n\na\r\na\n") == (b"\n\na\n\na\r\n", 1)
    assert distinct(tmp_path, b"") == (b"", 0)


def test_no_file_stays_behind(tmp_path: Path) -> None:
    with DistinctLines(tmp_path) as lines:
        lines.feed(b"a\na\n")
        assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_a_storage_full(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb", buffering=0) as full, DistinctLines(tmp_path) as lines:
        lines._text = full
        with pytest.raises(StorageFull):
            lines.feed(b"a\n")
