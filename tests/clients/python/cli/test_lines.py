"""Bytes become the same lines in chunks of any size, in constant memory, and no line waits for the next."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextchar.cli.lines import Batches, Line, LineSplitter

_DATA = st.lists(st.sampled_from([b"a", b"b", b"\n", b"\r", b"\xff"]), max_size=30).map(b"".join)


@given(_DATA, st.integers(1, 7))
def test_chunks_of_any_size_give_the_same_lines(data: bytes, size: int) -> None:
    splitter = LineSplitter("f")
    chunks = [data[i : i + size] for i in range(0, len(data), size)]
    lines = [line for chunk in chunks for line in splitter.feed(chunk)] + list(splitter.finish())
    whole = data.split(b"\n")
    assert [line.data for line in lines] == (whole if whole[-1] else whole[:-1])
    assert [line.number for line in lines] == list(range(1, len(lines) + 1))
    assert all(data[line.offset :].startswith(line.data) for line in lines)


def test_of_an_endless_line_only_the_beginning_is_kept() -> None:
    splitter = LineSplitter("f", max_bytes=5)
    for _ in range(1000):
        assert not list(splitter.feed(b"xyz"))
    assert list(splitter.feed(b"\nab\n")) == [Line("f", 1, 0, b"xyzxy"), Line("f", 2, 3001, b"ab")]


def test_batches_are_bounded_and_go_from_file_to_file(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b"".join(b"%d\n" % i for i in range(50_000)) + b"last")
    second.write_bytes(b"one\n")
    batches = Batches([str(first), str(second)])
    lines, largest = [], 0
    while batch := batches.take(1000):
        largest = max(largest, sum(len(line.data) for line in batch))
        lines += batch
    assert [line.data for line in lines[:-2]] == [b"%d" % i for i in range(50_000)]
    assert [(line.file, line.number, line.data) for line in lines[-2:]] == [
        (str(first), 50_001, b"last"),
        (str(second), 1, b"one"),
    ]
    assert largest < 70_000


def test_a_line_does_not_wait_for_the_next_one(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    batches = Batches([str(pipe)])
    with pipe.open("wb", buffering=0) as log:
        for word in (b"one", b"two"):
            log.write(word + b"\nhal")
            assert batches.take(1 << 20)[0].data.endswith(word)
            log.write(b"f ")
    assert [line.data for line in batches.take(1 << 20)] == [b"half "]


def test_lines_before_a_file_that_cannot_be_read_are_not_lost(tmp_path: Path) -> None:
    (tmp_path / "good").write_bytes(b"one\n")
    batches = Batches([str(tmp_path / "good"), str(tmp_path / "missing")])
    found: list[bytes] = []
    with pytest.raises(FileNotFoundError, match="missing"):
        while True:
            found += [line.data for line in batches.take(1 << 20)]
    assert found == [b"one"]
