import errno
from pathlib import Path

import obstore
import pytest

from nextchar.models.errors import StorageFull, Unavailable
from nextchar.store.blobs import Blobs, as_domain_error, read_limited
from nextchar.store.open_blobs import open_blobs


@pytest.fixture
def blobs(each_storage: Blobs) -> Blobs:
    return each_storage


def test_written_objects_can_be_read_and_listed(blobs: Blobs) -> None:
    blobs.write("a/2", b"two")
    blobs.write("a/b/1", b"one")
    assert blobs.read("a/b/1") == b"one"
    assert b"".join(blobs.stream("a/2")) == b"two"
    assert blobs.paths("a") == ["a/2", "a/b/1"]
    assert blobs.folders("a") == ["b"]
    assert blobs.exists("a/2")
    assert not blobs.exists("a/3")


def test_ranges_can_be_read(blobs: Blobs) -> None:
    blobs.write("a/b", b"0123456789")
    assert blobs.read_range("a/b", 2, 5) == b"234"
    assert blobs.read_range("a/b", 8, 20) == b"89"
    assert blobs.read_range("a/b", 3, 3) == b""
    with pytest.raises(FileNotFoundError):
        blobs.read_range("a/c", 0, 1)


def test_mapped_object_stays_as_it_was(blobs: Blobs) -> None:
    blobs.write("a/b", b"first")
    blobs.write("a/empty", b"")
    mapped = blobs.map("a/b")
    blobs.write("a/b", b"second, which is longer")
    blobs.delete("a/b")
    assert (bytes(mapped), bytes(blobs.map("a/empty"))) == (b"first", b"")
    with pytest.raises(FileNotFoundError):
        blobs.map("a/b")


def test_of_an_object_that_is_larger_than_a_record_only_the_beginning_is_read(blobs: Blobs) -> None:
    blobs.write("a/b", b"0123456789" * 300_000)
    assert blobs.read_record("a/b", max_bytes=12) == b"0123456789012"
    assert blobs.read_record("a/b", max_bytes=3_000_000) == blobs.read_record("a/b") == blobs.read("a/b")
    blobs.write("a/b", b"")
    assert blobs.read_record("a/b") == b""
    with pytest.raises(FileNotFoundError):
        blobs.read_record("a/c")


def test_of_two_creators_one_wins(blobs: Blobs) -> None:
    assert blobs.create("x", b"first")
    assert not blobs.create("x", b"second")
    assert blobs.read("x") == b"first"


def test_a_copy_is_created_once_and_outlives_its_source(blobs: Blobs) -> None:
    blobs.write("a/x", b"first")
    assert blobs.copy("a/x", "b/y")
    assert not blobs.copy("a/x", "b/y")
    blobs.write("a/x", b"second")
    assert blobs.read("b/y") == b"first"
    blobs.delete("a/x")
    assert blobs.read("b/y") == b"first"
    with pytest.raises(FileNotFoundError):
        blobs.copy("a/x", "b/z")


def test_missing_objects_raise_file_not_found(blobs: Blobs) -> None:
    with pytest.raises(FileNotFoundError):
        blobs.read("nothing")
    with pytest.raises(FileNotFoundError):
        blobs.stream("nothing")
    blobs.delete("nothing")  # deleting it is no error


def test_a_local_file_can_be_put(blobs: Blobs, tmp_path: Path) -> None:
    (tmp_path / "local").write_bytes(b"x" * 3_000_000)
    blobs.write("big", tmp_path / "local")
    assert len(blobs.read("big")) == 3_000_000


def test_a_folder_tells_its_free_room(tmp_path: Path) -> None:
    assert (open_blobs(tmp_path.as_uri()).free_bytes() or 0) > 0
    assert open_blobs("memory:///").free_bytes() is None


def test_a_full_disk_is_a_storage_full() -> None:
    assert isinstance(as_domain_error(OSError(errno.ENOSPC, "no space")), StorageFull)
    generic = obstore.exceptions.GenericError("Unable to copy data: No space left on device (os error 28)")
    assert isinstance(as_domain_error(generic), StorageFull)
    assert isinstance(as_domain_error(obstore.exceptions.GenericError("timed out\nmore")), Unavailable)


@pytest.mark.parametrize(
    ("chunks", "max_bytes", "expected"),
    [
        ([b"abc", b"def"], 4, [b"abc", b"de"]),
        ([b"abc", b"def", b"g"], 5, [b"abc", b"def"]),
        ([b"abc", b"def", b"g"], 6, [b"abc", b"def", b"g"]),
        ([b"abc", b"def"], 9, [b"abc", b"def"]),
        ([b"a", b"b", b"c"], 0, [b"a"]),
    ],
)
def test_no_more_than_one_byte_beyond_the_limit_is_read(
    chunks: list[bytes], max_bytes: int, expected: list[bytes]
) -> None:
    left = iter(chunks)
    assert list(read_limited(left, max_bytes)) == expected
    assert list(left) == chunks[len(expected) :], "what follows is not read"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.EIO, "Input/output error"), "the storage does not work: [Errno 5] Input/output error"),
        (obstore.exceptions.GenericError("first\nsecond"), "the storage does not work: first"),
        (MemoryError(), "the storage does not work: MemoryError"),
    ],
)
def test_an_error_is_named_in_one_line(error: Exception, message: str) -> None:
    found = as_domain_error(error)
    assert isinstance(found, Unavailable)
    assert (found.message, found.code) == (message, "storage_unavailable")


@pytest.mark.parametrize("error", [OSError(errno.EDQUOT, "quota"), RuntimeError("x (os error 122)")])
def test_a_quota_that_is_used_up_is_a_full_storage(error: Exception) -> None:
    assert isinstance(as_domain_error(error), StorageFull)
    missing = FileNotFoundError("x")
    assert as_domain_error(missing) is missing
