"""A text without repeated lines."""

import hashlib
import tracemalloc
from itertools import count, islice
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nextchar.app.corpora.distinct_lines import _PARTS, _PIECE_BYTES, DistinctLines
from nextchar.models.errors import StorageFull


def distinct(
    folder: Path, data: bytes, size: int = 1 << 20, *, piece_bytes: int = _PIECE_BYTES
) -> tuple[bytes, int]:
    with pytest.MonkeyPatch.context() as patch, DistinctLines(folder) as lines:
        patch.setattr("nextchar.app.corpora.distinct_lines._PIECE_BYTES", piece_bytes)
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
@given(st.text(st.sampled_from("ab\n"), max_size=40), st.integers(1, 9), st.integers(1, 9))
def test_of_equal_lines_the_first_stays(tmp_path: Path, text: str, size: int, piece_bytes: int) -> None:
    data = text.encode()
    kept, removed = distinct(tmp_path, data, size, piece_bytes=piece_bytes)
    assert kept == by_a_set(data)
    lines = [line for line in data.split(b"\n") if line]
    assert removed == len(lines) - len(set(lines))


def test_lines_far_apart_and_longer_than_a_piece_are_compared(tmp_path: Path) -> None:
    long = b"x" * 1000 + b"\n"
    middle = b"".join(b"line %d\n" % number for number in range(5000))
    kept, removed = distinct(tmp_path, long + middle + long + middle + b"end", 777, piece_bytes=100)
    assert kept == long + middle + b"end"
    assert removed == 5001


def record_counts(lines: DistinctLines) -> list[int]:
    """Return the number of records in each part."""
    return [lines._part(part).size for part in range(_PARTS)]


@pytest.mark.parametrize("size", [64, _PIECE_BYTES // 2])
def test_a_line_that_is_repeated_in_a_piece_has_one_record(tmp_path: Path, size: int) -> None:
    with DistinctLines(tmp_path) as lines:
        for _ in range(2 * _PIECE_BYTES // size):
            lines.feed(b"a\n" * (size // 2))
        assert b"".join(lines.finish()) == b"a\n"
        assert lines.removed == lines.bytes // 2 - 1
        assert max(record_counts(lines)) <= 3


def test_no_text_can_be_made_whose_lines_are_all_in_one_part(tmp_path: Path) -> None:
    def part(line: bytes) -> int:
        return int.from_bytes(hashlib.sha256(line).digest()[:8], "little") % _PARTS

    chosen = list(islice((line for line in map(b"%d".__mod__, count()) if part(line) == 0), 1000))
    with DistinctLines(tmp_path) as lines:
        lines.feed(b"\n".join(chosen))
        assert b"".join(lines.finish()) == b"\n".join(chosen)
        assert max(record_counts(lines)) < 100


def test_a_line_longer_than_a_piece_is_not_held_in_memory(tmp_path: Path) -> None:
    piece = b"x" * _PIECE_BYTES
    tracemalloc.start()
    try:
        with DistinctLines(tmp_path) as lines:
            for _ in range((64 << 20) // _PIECE_BYTES):
                lines.feed(piece)
            assert all(part == piece for part in lines.finish())
            assert (lines.bytes, lines.removed) == (64 << 20, 0)
        assert tracemalloc.get_traced_memory()[1] < 6 << 20
    finally:
        tracemalloc.stop()


def test_a_full_disk_is_a_storage_full(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb", buffering=0) as full, DistinctLines(tmp_path) as lines:
        lines._text = full
        with pytest.raises(StorageFull):
            lines.feed(b"a\n" * _PIECE_BYTES)
