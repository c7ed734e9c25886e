import hashlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nextchar.models.errors import Unavailable
from nextchar.models.saved_model import Card, describe_files
from nextchar.store.model_file_cache import ModelFileCache
from nextchar.store.models import Models
from nextchar.store.object_blobs import ObjectBlobs
from nextchar.store.settings import StoreSettings
from tests.s3_server import S3Server
from tests.store.fault_proxy import FaultProxy
from tests.store.test_models import _card as card

FILES = {"model.onnx": b"weights" * 1000, "report.json": b"{}"}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Downloads:
    """Counts downloads of one content."""

    def __init__(self, data: bytes) -> None:
        self.data, self.count = data, 0

    def __call__(self) -> Iterator[bytes]:
        self.count += 1
        return iter([self.data[:3], self.data[3:]])


def test_host_downloads_each_file_of_a_model_once(
    s3_server: S3Server, s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultProxy(s3_server.url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        blobs = ObjectBlobs.at(s3_url)
        published: Card = card().model_copy(update={"files": describe_files(FILES)})
        Models(blobs).publish(published, FILES)
        settings = StoreSettings(data_dir=tmp_path, store_url=s3_url)
        proxy.requests.clear()
        for _ in range(3):  # as three processes that load it one after the other
            saved = Models(blobs, cache=ModelFileCache.of(settings)).get("m")
            assert {name: saved.file(name) for name in FILES} == FILES
        downloads = [r.path for r in proxy.requests if r.method == "GET" and "/model_files/" in r.path]
        assert len(downloads) == len(set(downloads)) == 2


def test_file_with_another_hash_is_not_kept_and_damages_the_model(s3_url: str, tmp_path: Path) -> None:
    blobs = ObjectBlobs.at(s3_url)
    published = card().model_copy(update={"files": describe_files(FILES)})
    Models(blobs).publish(published, FILES)
    blobs.write(f"model_files/{published.id}/model.onnx", b"other")
    models = Models(blobs, cache=ModelFileCache(tmp_path, max_bytes=10**6))
    for _ in range(2):
        with pytest.raises(Unavailable, match="its hash differs"):
            models.get("m").file("model.onnx")
    blobs.delete(f"model_files/{published.id}/model.onnx")
    with pytest.raises(Unavailable, match="is missing"):
        models.get("m").file("model.onnx")
    assert not [path for path in tmp_path.iterdir() if path.stat().st_size]


def test_damaged_copy_is_downloaded_again(tmp_path: Path) -> None:
    cache, download = ModelFileCache(tmp_path, max_bytes=1000), Downloads(b"contents")
    assert cache.read(sha256(b"contents"), download) == b"contents"
    (tmp_path / sha256(b"contents")).write_bytes(b"contemts")
    assert cache.read(sha256(b"contents"), download) == b"contents"
    assert cache.read(sha256(b"contents"), download) == b"contents"
    assert download.count == 2


def test_of_concurrent_readers_one_downloads(tmp_path: Path) -> None:
    download, start = Downloads(os.urandom(3_000_000)), threading.Barrier(8)

    def read(_: int) -> bytes:
        start.wait()
        return ModelFileCache(tmp_path, max_bytes=10**7).read(sha256(download.data), download)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(read, range(8))) == {download.data}
    assert download.count == 1
    assert [path.name for path in tmp_path.iterdir()] == [sha256(download.data)]


def test_copies_that_were_not_read_for_the_longest_time_make_room(tmp_path: Path) -> None:
    cache = ModelFileCache(tmp_path, max_bytes=250)
    contents = [bytes([number]) * 100 for number in range(3)]
    downloads = [Downloads(data) for data in contents]

    def read(number: int) -> None:
        cache.read(sha256(contents[number]), downloads[number])
        for age, path in enumerate(sorted(tmp_path.iterdir(), key=lambda path: -path.stat().st_mtime_ns)):
            os.utime(path, (10**9 - age, 10**9 - age))  # clocks of file systems are coarse

    for number in (0, 1, 0, 2, 0, 1):
        read(number)
    assert [download.count for download in downloads] == [1, 2, 1]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("broken", ["a file instead of the folder", "a folder instead of a part"])
def test_without_a_disk_that_works_files_are_downloaded(tmp_path: Path, broken: str) -> None:
    download, folder = Downloads(b"contents"), tmp_path / "cache"
    if broken.startswith("a file"):
        folder.write_bytes(b"")
    else:
        (folder / f"{sha256(b'contents')}.part").mkdir(parents=True)
    cache = ModelFileCache(folder, max_bytes=1000)
    assert cache.read(sha256(b"contents"), download) == b"contents"


def test_a_copy_that_another_process_evicts_at_the_same_time_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, download = ModelFileCache(tmp_path, max_bytes=10), Downloads(b"x" * 10)
    cache.read(sha256(b"small"), Downloads(b"small"))
    unlink = Path.unlink

    def after_another(path: Path, *, missing_ok: bool = False) -> None:
        unlink(path, missing_ok=True)
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", after_another)
    assert cache.read(sha256(download.data), download) == download.data
    assert download.count == 1 and [path.name for path in tmp_path.iterdir()] == [sha256(download.data)]
