"""The files of a run: what patterns find, and that each line is in exactly one part."""

import gzip
import os
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextchar.launcher.batch import inputs
from nextchar.launcher.batch.inputs import DamagedInput, InputFile, Part, find_files, parts_of, read_part
from nextchar.models.errors import InvalidInput, NotFound, Unavailable
from tests.s3_server import S3Server


def whole(part: Part) -> tuple[int | None, bytes]:
    """The offset and the bytes of a part; its pieces must be adjacent."""
    pieces = list(read_part(part))
    for (at, data), (following, _) in pairwise(pieces):
        assert following == at + len(data)
    return (pieces[0][0] if pieces else None), b"".join(data for _, data in pieces)


@given(
    lines=st.lists(st.binary(max_size=9).map(lambda b: b.replace(b"\n", b"")), max_size=30),
    size=st.integers(1, 40),
)
def test_each_line_is_in_the_part_in_which_it_begins(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], size: int
) -> None:
    path = tmp_path_factory.mktemp("lines") / "log"
    text = b"\n".join(lines)
    path.write_bytes(text)
    (file,) = find_files([str(path)])
    joined = b""
    for part in parts_of([file], size):
        at, data = whole(part)
        if data:
            assert at == len(joined) and part.start <= at < part.end
            assert at == 0 or text[at - 1 : at] == b"\n"
        joined += data
    assert joined == text


def test_line_longer_than_what_is_read_at_a_time_is_in_one_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "PIECE_BYTES", 7)
    path = tmp_path / "log"
    path.write_bytes(b"short\n" + b"x" * 100 + b"\nlast\n")
    (file,) = find_files([str(path)])
    found = [whole(part) for part in parts_of([file], 30)]
    assert [data for _, data in found] == [b"short\n" + b"x" * 100 + b"\n", b"", b"", b"last\n"]


def test_compressed_file_is_one_part_even_of_several_members(tmp_path: Path) -> None:
    path = tmp_path / "log.gz"
    path.write_bytes(gzip.compress(b"one\n") + gzip.compress(b"two\n" * 200_000))
    (file,) = find_files([str(path)])
    (part,) = parts_of([file], 10)
    assert whole(part) == (0, b"one\n" + b"two\n" * 200_000)


@pytest.mark.parametrize(
    "data", [b"no gzip\n", gzip.compress(b"line\n" * 1000, mtime=0)[:-20]], ids=["no gzip", "cut"]
)
def test_damaged_gzip_file_is_named(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "log.gz"
    path.write_bytes(data)
    (part,) = parts_of(find_files([str(path)]), 10)
    with pytest.raises(DamagedInput, match=f"{path} is not a complete gzip file"):
        whole(part)


def test_patterns_find_each_file_once_in_order(tmp_path: Path) -> None:
    for name in ("b.log", "a.log", "sub/c.log", "d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)

    def names(*patterns: str) -> list[str]:
        found = find_files([str(tmp_path / pattern) for pattern in patterns])
        return [os.path.relpath(file.name, tmp_path) for file in found]

    assert names("*.log") == ["a.log", "b.log"]
    assert names("b.log", "*.log") == ["b.log", "a.log"]
    assert names("**/*.log") == ["a.log", "b.log", "sub/c.log"]
    assert find_files([(tmp_path / "a.log").as_uri()]) == find_files([str(tmp_path / "a.log")])


def test_what_names_no_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"no file matches .*\*\.gz"):
        find_files([str(tmp_path / "*.gz")])
    with pytest.raises(InvalidInput, match=r"is a folder; name its files"):
        find_files([str(tmp_path)])
    with pytest.raises(InvalidInput, match="names no object"):
        find_files(["s3://bucket"])
    with pytest.raises(InvalidInput, match="http://host"):
        find_files(["http://host/file"])


def test_changed_or_deleted_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("a\n")
    (part,) = parts_of(find_files([str(path)]), 10)
    path.write_text("ab\n")
    with pytest.raises(InvalidInput, match="has changed since the run began"):
        whole(part)
    path.unlink()
    with pytest.raises(NotFound, match="does not exist; on a cluster"):
        whole(part)


def test_empty_file_has_no_part() -> None:
    assert parts_of([InputFile("a", 0, ""), InputFile("b.gz", 0, "")], 10) == []


def test_objects_of_a_store_are_found_and_read_by_range(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    inputs._store.cache_clear()
    bucket, text = s3_server.new_bucket(), b"".join(b"line %d\n" % i for i in range(500))
    client = s3_server.client()
    for key in ("2026/a.log", "2026/sub/b.log", "2025/c.log"):
        client.put_object(Bucket=bucket, Key=key, Body=text)
    client.put_object(Bucket=bucket, Key="2026/z.log.gz", Body=gzip.compress(text))

    def keys(pattern: str) -> list[str]:
        return [
            file.name.removeprefix(f"s3://{bucket}/") for file in find_files([f"s3://{bucket}/{pattern}"])
        ]

    assert keys("2026/*.log") == ["2026/a.log"]
    assert keys("2026/**/*.log") == ["2026/a.log", "2026/sub/b.log"]
    assert keys("20*/?.log") == ["2025/c.log", "2026/a.log"]
    assert keys("2025/c.log") == ["2025/c.log"]
    (file,) = find_files([f"s3://{bucket}/2026/a.log"])
    assert b"".join(whole(part)[1] for part in parts_of([file], 997)) == text
    (packed,) = parts_of(find_files([f"s3://{bucket}/2026/*.gz"]), 10)
    assert whole(packed) == (0, text)
    with pytest.raises(NotFound, match="no file matches"):
        keys("2026/missing.log")
    client.put_object(Bucket=bucket, Key="2026/a.log", Body=text + b"more\n")
    with pytest.raises(InvalidInput, match="has changed"):
        whole(parts_of([file], 1 << 20)[0])
    with pytest.raises(Unavailable, match=r"s3://no-such-bucket-here/a\.log cannot be read.*NoSuchBucket"):
        find_files(["s3://no-such-bucket-here/a.log"])
