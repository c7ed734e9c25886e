"""Bytes become the same lines in chunks of any size, in constant memory, and no line waits for the next."""

import io
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextchar.cli import line_scoring
from nextchar.cli.line_scoring import lines_of_stream, read_lines
from nextchar.lines import Line, Lines
from nextchar.transport import run

_DATA = st.lists(st.sampled_from([b"a", b"b", b"\n", b"\r", b"\xff"]), max_size=30).map(b"".join)


class _Chunks(io.RawIOBase):
    """A file whose reads return so many bytes."""

    def __init__(self, data: bytes, size: int) -> None:
        self._data, self._size = io.BytesIO(data), size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]
        chunk = self._data.read(min(self._size, len(view)))
        view[: len(chunk)] = chunk
        return len(chunk)


@given(_DATA, st.integers(1, 7))
def test_chunks_of_any_size_give_the_same_lines(data: bytes, size: int) -> None:
    found = list(lines_of_stream("f", io.BufferedReader(_Chunks(data, size))))
    whole = data.split(b"\n")
    assert [line.data for line in found] == (whole if whole[-1] else whole[:-1])
    assert [line.number for line in found] == list(range(1, len(found) + 1))
    assert all(data[line.offset :].startswith(line.data) for line in found)


def test_of_an_endless_line_only_the_beginning_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_scoring, "MAX_LINE_BYTES", 5)
    monkeypatch.setattr(line_scoring, "_CHUNK_BYTES", 7)
    found = list(lines_of_stream("f", io.BytesIO(b"xyz" * 1000 + b"\nab\n")))
    assert found == [Line(1, b"xyzxy", file="f"), Line(2, b"ab", file="f", offset=3001)]
    assert [line.data for line in lines_of_stream("f", io.BytesIO(b"12345\n67890"))] == [b"12345", b"67890"]


def test_batches_are_bounded_and_go_from_file_to_file(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b"".join(b"%d\n" % i for i in range(50_000)) + b"last")
    second.write_bytes(b"one\n")
    source = Lines(read_lines([str(first), str(second)]))
    found, largest = [], 0
    while batch := run(source.take(1000)):
        largest = max(largest, sum(len(line.data) for line in batch))
        found += batch
    assert [line.data for line in found[:-2]] == [b"%d" % i for i in range(50_000)]
    assert [(line.file, line.number, line.data) for line in found[-2:]] == [
        (str(first), 50_001, b"last"),
        (str(second), 1, b"one"),
    ]
    assert largest <= 1000


def test_a_line_does_not_wait_for_the_next_one(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    source = Lines(read_lines([str(pipe)]))
    with open(os.open(pipe, os.O_RDWR), "wb", buffering=0) as log:  # noqa: PTH123 - does not wait for a reader
        for word in (b"one", b"two"):
            log.write(word + b"\nhal")
            assert run(source.take(1 << 20))[0].data.endswith(word)
            log.write(b"f ")
    assert [line.data for line in run(source.take(1 << 20))] == [b"half "]


def test_lines_before_a_file_that_cannot_be_read_are_not_lost(tmp_path: Path) -> None:
    (tmp_path / "good").write_bytes(b"one\n")
    source = Lines(read_lines([str(tmp_path / "good"), str(tmp_path / "missing")]))
    found: list[bytes] = []
    with pytest.raises(FileNotFoundError, match="missing"):
        while True:
            found += [line.data for line in run(source.take(1 << 20))]
    assert found == [b"one"]
