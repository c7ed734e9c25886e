"""Files that a user names: what paths and patterns find, and that a file that has changed is not read."""

import os
from pathlib import Path

import pytest

from nextchar.models.errors import InvalidInput, NotFound
from nextchar.store.input_files import InputFile, find_files, read_from
from tests.s3_server import S3Server


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


def test_patterns_find_objects_in_the_order_of_their_names(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    bucket, client = s3_server.new_bucket(), s3_server.client()
    for key in ("2026/a.log", "2026/sub/b.log", "2025/c.log"):
        client.put_object(Bucket=bucket, Key=key, Body=key.encode() * 100_000)

    def found(pattern: str) -> list[InputFile]:
        return find_files([f"s3://{bucket}/{pattern}"])

    def keys(pattern: str) -> list[str]:
        return [file.name.removeprefix(f"s3://{bucket}/") for file in found(pattern)]

    assert keys("2026/*.log") == keys("2026/a.log") == ["2026/a.log"]
    assert keys("2026/**/*.log") == ["2026/a.log", "2026/sub/b.log"]
    assert keys("20*/?.log") == ["2025/c.log", "2026/a.log"]
    with pytest.raises(NotFound, match="no file matches"):
        keys("2026/missing.log")
    with pytest.raises(InvalidInput, match=r"no-such-bucket-here/\*\.log cannot be read.*NoSuchBucket"):
        find_files(["s3://no-such-bucket-here/*.log"])
    (file,) = found("2026/a.log")
    assert b"".join(read_from(file, 7)) == (b"2026/a.log" * 100_000)[7:]
    client.put_object(Bucket=bucket, Key="2026/a.log", Body=b"other")
    with pytest.raises(InvalidInput, match="has changed"):
        next(read_from(file, 0))


def test_changed_or_deleted_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("a\n")
    (file,) = find_files([str(path)])
    assert list(read_from(file, 1)) == [b"\n"]
    path.write_text("ab\n")
    with pytest.raises(InvalidInput, match="has changed"):
        next(read_from(file, 0))
    path.unlink()
    with pytest.raises(FileNotFoundError):
        next(read_from(file, 0))
