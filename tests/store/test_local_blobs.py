import errno
import multiprocessing
import os
import stat
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nextchar.models.errors import DomainError, StorageFull, Unavailable
from nextchar.store.local_blobs import Disk, LocalBlobs
from tests.store.power_loss import POLICIES, RecordingDisk, left_after


@pytest.mark.parametrize("path", ["../x", "/x", "a/../x", "a//x", "a/./x", "", ".tmp/x", "a\0b", "a/.x"])
def test_a_path_that_could_leave_the_folder_is_refused(tmp_path: Path, path: str) -> None:
    blobs = LocalBlobs(tmp_path / "store")
    calls: list[Callable[[], object]] = [
        lambda: blobs.read(path),
        lambda: blobs.write(path, b""),
        lambda: blobs.create(path, b""),
        lambda: blobs.delete(path),
        lambda: blobs.paths(path),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="not a valid object path"):
            call()


@pytest.mark.parametrize("call", ["open_new", "write", "sync", "replace", "open_folder"])
@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, StorageFull),
        (errno.EDQUOT, StorageFull),
        (errno.EROFS, Unavailable),
        (errno.EMFILE, Unavailable),
        (errno.EIO, Unavailable),
    ],
)
def test_a_disk_that_refuses_is_a_domain_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, expected: type[DomainError]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    blobs = LocalBlobs(tmp_path)
    LocalBlobs(tmp_path).write("a/x", b"before")
    monkeypatch.setattr(Disk, call, refuse)
    with pytest.raises(expected):
        blobs.write("a/x", b"after")
    monkeypatch.undo()
    assert blobs.read("a/x") == b"before"
    assert list((tmp_path / ".tmp").iterdir()) == []


def test_a_file_system_that_syncs_no_folders_will_do(tmp_path: Path) -> None:
    class NoFolderSync(Disk):
        def sync(self, descriptor: int) -> None:
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "Invalid argument")

    blobs = LocalBlobs(tmp_path, disk=NoFolderSync())
    assert blobs.create("a/x", b"x")
    blobs.delete("a/x")
    assert blobs.paths("a") == []


def test_a_folder_that_is_away_is_not_an_empty_one(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path / "store")
    assert blobs.paths("a") == blobs.folders("a") == []
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    calls: list[Callable[[], object]] = [
        lambda: blobs.read("x"),
        lambda: blobs.stream("x"),
        lambda: blobs.exists("x"),
        lambda: blobs.paths("a"),
        lambda: blobs.folders("a"),
    ]
    for call in calls:
        with pytest.raises(Unavailable, match="is not a folder"):
            call()


def test_objects_being_written_are_not_listed(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    blobs.write("a/b/x", b"x")
    (tmp_path / "a" / "b" / "y#1").write_bytes(b"")  # what obstore leaves when it is killed
    (tmp_path / "a" / "c").mkdir()
    assert blobs.paths("a") == ["a/b/x"]
    assert blobs.folders("a") == ["b"]


def test_a_folder_is_deleted_with_its_last_object(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    blobs.write("a/b/x", b"x")
    blobs.write("a/b/y", b"y")
    blobs.delete("a/b/x", "a/b/none", "none/x")
    assert blobs.paths("a") == ["a/b/y"]
    blobs.delete("a/b/y")
    assert not (tmp_path / "a").exists()
    assert tmp_path.exists()
    blobs.write("a/b/z", b"z")
    assert blobs.paths("a") == ["a/b/z"]


def test_files_of_killed_processes_go_and_those_of_others_stay(tmp_path: Path) -> None:
    LocalBlobs(tmp_path).write("x", b"x")
    for name, age_s in (("old", 7200), ("new", 0)):
        path = tmp_path / ".tmp" / name
        path.write_bytes(b"half")
        os.utime(path, (time.time() - age_s,) * 2)
    LocalBlobs(tmp_path)
    assert [path.name for path in (tmp_path / ".tmp").iterdir()] == ["new"]


def test_a_stream_reads_the_object_as_of_its_start(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    blobs.write("x", b"ab" * 3)
    chunks = blobs.stream("x", 2)
    blobs.write("x", b"other")
    assert list(chunks) == [b"ab"] * 3
    blobs.write("empty", b"")
    assert b"".join(blobs.stream("empty")) == b""


def test_writes_survive_that_their_folder_is_deleted_for_being_empty(tmp_path: Path) -> None:
    """A write finds its folder, another thread deletes the folder's last object, and so the folder."""
    blobs, others = LocalBlobs(tmp_path), LocalBlobs(tmp_path)

    def write_and_delete(number: int) -> None:
        store = (blobs, others)[number % 2]
        for n in range(25):
            store.write(f"a/b/{number}-{n}", b"x")
            assert store.read(f"a/b/{number}-{n}") == b"x"
            store.delete(f"a/b/{number}-{n}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write_and_delete, range(4)))
    assert blobs.paths("a") == []
    assert not (tmp_path / "a").exists()


def test_a_folder_deleted_during_a_write_is_created_again(tmp_path: Path) -> None:
    class Interrupted(Disk):
        times = 3

        def link(self, source: Path, folder: int, name: str) -> None:
            if self.times:
                self.times -= 1
                (tmp_path / "a").rmdir()
            super().link(source, folder, name)

    assert LocalBlobs(tmp_path, disk=Interrupted()).create("a/x", b"x")
    assert LocalBlobs(tmp_path).read("a/x") == b"x"


def test_an_acknowledged_write_survives_though_another_process_makes_its_folder_again(tmp_path: Path) -> None:
    """The other process deletes the folder, and has made but not synced it again when this one writes."""

    class TwoProcesses(RecordingDisk):
        remade = ""

        def make_folder(self, path: Path, parent: int | None = None) -> None:
            super().make_folder(path, parent)
            if path.name == self.remade:
                self.remade = ""
                assert first.create("jobs/x/1.json", b"one")
                at.append(len(self.operations))

    for remade in ("jobs", "x"):
        disk, folder, at = TwoProcesses(), tmp_path / remade, list[int]()
        first, other = LocalBlobs(folder, disk=disk), LocalBlobs(folder, disk=disk)
        assert first.create("jobs/x/0.json", b"zero")
        other.delete("jobs/x/0.json")
        disk.remade = remade
        other.write("jobs/x/2.json", b"two")
        for survives in POLICIES.values():
            left = left_after(disk.operations, at[0], survives, folder)
            assert left.get("jobs/x/1.json") == b"one"


def test_a_folder_deleted_by_another_host_is_created_again(tmp_path: Path) -> None:
    class StaleHandle(Disk):
        is_stale = False

        def replace(self, source: Path, folder: int, name: str) -> None:
            if self.is_stale:
                self.is_stale = False
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            super().replace(source, folder, name)

    disk = StaleHandle()
    blobs = LocalBlobs(tmp_path, disk=disk)
    blobs.write("a/x", b"before")
    disk.is_stale = True
    blobs.write("a/x", b"after")
    assert blobs.read("a/x") == b"after"


def test_an_object_is_created_though_the_reply_of_the_file_server_was_lost(tmp_path: Path) -> None:
    """Over NFS the call is repeated, and finds the name that it made itself."""

    class LostReply(Disk):
        def link(self, source: Path, folder: int, name: str) -> None:
            super().link(source, folder, name)
            super().link(source, folder, name)

    blobs = LocalBlobs(tmp_path, disk=LostReply())
    assert blobs.create("a/x", b"one")
    assert not blobs.create("a/x", b"one"), "of another call, though with the same contents"
    assert blobs.read("a/x") == b"one"


def _create(folder: Path, number: int) -> list[int]:
    blobs = LocalBlobs(folder)
    return [n for n in range(20) if blobs.create(f"jobs/{n}/000001.json", b"%d" % number)]


def test_of_processes_that_create_the_same_objects_each_is_won_by_one(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        won = pool.starmap(_create, [(tmp_path, number) for number in range(3)])
    assert sorted(n for one in won for n in one) == list(range(20))
    blobs = LocalBlobs(tmp_path)
    for number, objects in enumerate(won):
        assert all(blobs.read(f"jobs/{n}/000001.json") == b"%d" % number for n in objects)


def test_who_may_read_an_object_is_what_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        LocalBlobs(tmp_path).write("a/x", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a" / "x").stat().st_mode) == 0o640


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_file_system_without_hard_links_is_named(tmp_path: Path, number: int) -> None:
    class NoLinks(Disk):
        def link(self, *_: object) -> None:
            raise OSError(number, os.strerror(number))

    blobs = LocalBlobs(tmp_path, disk=NoLinks())
    blobs.write("a/x", b"x")
    for create in (lambda: blobs.create("a/y", b"y"), lambda: blobs.copy("a/x", "a/y")):
        with pytest.raises(Unavailable, match=r"makes no hard links.*; move the folder") as caught:
            create()
        assert caught.value.code == "storage_unavailable"
    assert blobs.paths("a") == ["a/x"]
