import errno
import logging
import re
import runpy
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import pytest
from redis import Redis

from nextchar.launcher.valkey import EmbeddedValkey
from nextchar.store.blobs import Blobs, StorageRefused
from nextchar.store.installation import Installation, check_storage
from nextchar.store.open_blobs import open_blobs
from nextchar.store.settings import StoreSettings

WAIT_S = 0.2


def refuse_link(*_: object, **__: object) -> None:
    """Do as a file system without hard links."""
    raise OSError(errno.EPERM, "Operation not permitted")


@pytest.fixture(scope="module")
def other_redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A second Valkey."""
    with EmbeddedValkey(tmp_path_factory.mktemp("other")) as valkey:
        yield valkey.url


@pytest.fixture
def other_redis(other_redis_url: str) -> Redis:
    other = Redis.from_url(other_redis_url, decode_responses=True)
    other.flushall()
    return other


def renewing(installation: Installation) -> Callable[[], None]:
    """Renew an installation's record in a thread, until the returned function is called."""
    stopped = threading.Event()

    def renew() -> None:
        while not stopped.wait(WAIT_S / 10):
            installation.renew()

    thread = threading.Thread(target=renew)
    thread.start()

    def stop() -> None:
        stopped.set()
        thread.join()

    return stop


def test_processes_of_one_installation_share_the_storage_and_it_can_start_again(
    blobs: Blobs, redis: Redis
) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: Installation(blobs, redis).claim(wait_s=0), range(8)))
    again = Installation(blobs, redis)
    again.claim(wait_s=0)
    again.renew()
    assert len(blobs.paths("installation")) == 2


def test_second_installation_on_a_prefix_is_refused_while_the_first_runs(
    blobs: Blobs, redis: Redis, other_redis: Redis
) -> None:
    first = Installation(blobs, redis)
    first.claim()
    stop = renewing(first)
    try:
        with pytest.raises(StorageRefused, match="another installation is using this storage"):
            Installation(blobs, other_redis).claim(wait_s=30)
    finally:
        stop()
    first.renew()


def test_storage_of_an_installation_that_no_longer_runs_is_taken_over(
    blobs: Blobs, redis: Redis, other_redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = Installation(blobs, redis), Installation(blobs, other_redis)
    first.claim()
    with caplog.at_level(logging.WARNING):
        second.claim(wait_s=WAIT_S)
    assert [record.message.partition(";")[0] for record in caplog.records] == [
        "the storage was used with another Redis",
        "the storage was used with another Redis, which is gone: it is taken over",
    ], "it says once that it waits"
    second.renew()
    with pytest.raises(StorageRefused, match="has taken over"):
        first.renew()


def test_redis_that_loses_its_data_stays_that_of_the_installation(blobs: Blobs, redis: Redis) -> None:
    first, second = Installation(blobs, redis), Installation(blobs, redis)
    first.claim()
    second.claim()
    redis.flushall()
    first.renew()
    second.renew()
    redis.flushall()
    restarted = Installation(blobs, redis)  # this gives Redis another id, before a running process renews
    stop = renewing(first)
    try:
        restarted.claim(wait_s=30)
    finally:
        stop()
    second.renew()
    restarted.renew()


def test_installation_whose_redis_did_not_work_at_the_start_is_claimed_later(
    blobs: Blobs, redis: Redis, other_redis: Redis
) -> None:
    first, late = Installation(blobs, redis), Installation(blobs, other_redis)
    first.renew()
    stop = renewing(first)
    try:
        with pytest.raises(StorageRefused, match="another installation is using this storage"):
            late.renew()
    finally:
        stop()


def test_of_the_processes_of_an_installation_one_renews_and_another_goes_on_when_it_ends(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = open_blobs("memory:///")
    first, second = Installation(blobs, redis), Installation(blobs, redis)
    first.claim()
    second.claim()
    reads, writes = Mock(wraps=blobs.stream), Mock(wraps=blobs.write)
    monkeypatch.setattr(blobs, "stream", reads)
    monkeypatch.setattr(blobs, "write", writes)
    for _ in range(3):
        first.renew()
        second.renew()
    assert (reads.call_count, writes.call_count) == (6, 3)
    writes.reset_mock()
    for _ in range(2):
        first.renew()
    assert writes.called


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (b'{"format_version": 2, "id": "installation_1"}', "format version 2 and this program reads 1"),
        (b"not JSON", "damaged"),
        (b"[]", "damaged"),
    ],
)
def test_storage_of_an_unknown_or_damaged_format_is_refused(
    blobs: Blobs, redis: Redis, record: bytes, message: str
) -> None:
    blobs.write("installation/format.json", record)
    with pytest.raises(StorageRefused, match=message):
        Installation(blobs, redis).claim()


@pytest.mark.parametrize(
    ("url", "variables", "status", "message"),
    [
        ("s3://no-such-bucket/x", {}, 2, "URL='s3://no-such-bucket/x': the bucket does not exist"),
        ("az://container/x", {}, 2, "Account must be specified"),
        (None, {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, 1, "cannot be reached; check the endpoint"),
    ],
)
def test_start_with_a_store_that_cannot_be_used_ends_with_a_sentence(
    s3_url: str,
    clean_redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    url: str | None,
    variables: dict[str, str],
    status: int,
    message: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as caught:
        check_storage(StoreSettings(store_url=url or s3_url, redis_url=clean_redis_url))
    assert caught.value.code == status
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("call", "does", "message"),
    [
        (
            "nextchar.store.local_blobs.LocalBlobs.exists",
            lambda *_: True,
            "Logs and logs are one name: use names",
        ),
        ("os.link", refuse_link, "nothing can be stored: .* makes no hard links .* move the folder"),
    ],
    ids=["ignores case", "no hard links"],
)
def test_what_a_folder_cannot_do_is_logged_at_the_start(
    tmp_path: Path,
    clean_redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    call: str,
    does: Callable[..., object],
    message: str,
) -> None:
    monkeypatch.setattr(call, does)
    check_storage(StoreSettings(data_dir=tmp_path, redis_url=clean_redis_url))
    [logged] = caplog.messages
    assert re.search(message, logged)


def test_check_can_be_run_as_a_program_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NEXTCHAR_STORE_URL", "az://container/x")
    with (
        pytest.warns(RuntimeWarning, match="nextchar.store.installation"),
        pytest.raises(SystemExit) as caught,
    ):
        runpy.run_module("nextchar.store.installation", run_name="__main__")
    assert caught.value.code == 2
    assert "Account must be specified" in capsys.readouterr().err
