import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from nextchar.models.errors import Unavailable
from nextchar.store.blobs import StorageRefused
from nextchar.store.object_blobs import PARALLEL_PARTS, PART_BYTES, ObjectBlobs
from nextchar.store.object_store import RetryLimits
from tests.s3_server import S3Server
from tests.store.fault_proxy import Fault, FaultProxy, Request

PATIENT = RetryLimits(connect_s=20, stall_s=20, request_s=60, upload_s=60, stream_s=60)
ALERT = replace(PATIENT, stall_s=2)
ONCE = replace(PATIENT, request_s=0.2)
HASTY = replace(ONCE, stall_s=0.5, upload_s=0.5, stream_s=1)
MIB = 1 << 20


@pytest.fixture
def proxy(s3_server: S3Server, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A proxy in front of the S3 server, which `store` uses."""
    with FaultProxy(s3_server.url) as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.url)
        yield running


@pytest.fixture
def store(proxy: FaultProxy, s3_url: str) -> ObjectBlobs:
    """An S3 storage behind the proxy."""
    del proxy
    return ObjectBlobs.at(s3_url, PATIENT)


def methods(proxy: FaultProxy) -> list[str]:
    return [request.method for request in proxy.requests]


def is_end_of_upload(request: Request) -> bool:
    return request.method == "POST" and "uploadId" in request.path


def test_of_many_concurrent_creators_of_one_object_one_is_told_that_it_wrote(
    s3_url: str, s3_server: S3Server
) -> None:
    del s3_server
    for at in range(5):
        start = threading.Barrier(8)

        def create(number: int, at: int = at, start: threading.Barrier = start) -> bool:
            blobs = ObjectBlobs.at(s3_url)
            start.wait()
            return blobs.create(f"records/{at}", str(number).encode())

        with ThreadPoolExecutor(8) as pool:
            wrote = list(pool.map(create, range(8)))
        assert wrote.count(True) == 1
        assert ObjectBlobs.at(s3_url).read(f"records/{at}") == str(wrote.index(True)).encode()


def test_creator_whose_answer_was_lost_knows_that_it_wrote(store: ObjectBlobs, proxy: FaultProxy) -> None:
    proxy.faults.append(Fault(lost_answer=True))
    assert store.create("x", b"ours")
    assert store.read("x") == b"ours"
    proxy.faults.append(Fault(lost_answer=True))
    assert not store.create("x", b"again")
    assert store.read("x") == b"ours"


def test_conflict_with_a_writer_whose_object_is_gone_is_tried_again(
    store: ObjectBlobs, proxy: FaultProxy
) -> None:
    proxy.faults.append(Fault(status=409))  # S3's ConditionalRequestConflict
    assert store.create("x", b"ours")
    assert methods(proxy) == ["PUT", "HEAD", "PUT"]


@pytest.mark.parametrize(
    "fault", [Fault(cut_after=3 * MIB), Fault(stall_after=3 * MIB), Fault(cut_after=0)], ids=str
)
def test_download_that_breaks_goes_on_where_it_broke(
    store: ObjectBlobs, proxy: FaultProxy, s3_url: str, fault: Fault
) -> None:
    content = os.urandom(8 * MIB)
    store.write("big", content)
    proxy.requests.clear()
    proxy.faults.extend([fault, fault])
    assert b"".join(ObjectBlobs.at(s3_url, ALERT).stream("big")) == content
    ranges = [request.headers.get("range") for request in proxy.requests]
    assert ranges[0] is None and len(ranges) == 3
    if fault.stall_after:
        assert ranges[1] == f"bytes={3 * MIB}-{8 * MIB - 1}"


def test_download_goes_on_after_the_time_in_which_one_request_is_repeated(
    store: ObjectBlobs, proxy: FaultProxy, s3_url: str
) -> None:
    content = os.urandom(8 * MIB)
    store.write("big", content)
    impatient = ObjectBlobs.at(s3_url, replace(PATIENT, request_s=0))
    proxy.requests.clear()
    proxy.faults.extend([Fault(cut_after=3 * MIB)] * 2)
    assert b"".join(impatient.stream("big")) == content
    assert len(proxy.requests) == 3
    assert all(request.headers["if-match"] for request in proxy.requests[1:])


@pytest.mark.parametrize("limits", [PATIENT, replace(PATIENT, request_s=0)], ids=["obstore", "ours"])
def test_download_of_an_object_that_is_replaced_on_the_way_never_mixes_both(
    store: ObjectBlobs, proxy: FaultProxy, s3_url: str, limits: RetryLimits
) -> None:
    store.write("big", b"a" * 8 * MIB)
    proxy.faults.append(Fault(cut_after=4 * MIB, before_cut=lambda: store.write("big", b"b" * 8 * MIB)))
    received = b""
    with pytest.raises(Unavailable, match="replaced or deleted while it was read"):
        for chunk in ObjectBlobs.at(s3_url, limits).stream("big"):
            received += chunk
    assert set(received) == {ord("a")}


@pytest.mark.parametrize(
    "always", [Fault(status=503), Fault(stall_after=0), Fault(cut_after=0), Fault(lost_answer=True)], ids=str
)
def test_store_that_stays_broken_is_unavailable_within_its_time(
    store: ObjectBlobs, proxy: FaultProxy, s3_url: str, always: Fault
) -> None:
    store.write("x", b"some bytes")
    hasty = ObjectBlobs.at(s3_url, HASTY)
    proxy.always = always
    with pytest.raises(Unavailable) as caught:
        hasty.read("x")
    assert caught.value.code == "storage_unavailable"
    assert "127.0.0.1" not in caught.value.message
    if always.status:
        assert "503 Service Unavailable SlowDown" in caught.value.message


def test_file_is_uploaded_in_parts_with_lost_answers(
    store: ObjectBlobs, proxy: FaultProxy, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(content := os.urandom(3 * PART_BYTES + 1))
    proxy.faults.extend([Fault(), Fault(lost_answer=True), Fault(status=503), Fault(status=500)])
    store.write("file", tmp_path / "file")
    assert store.read("file") == content
    assert sum("partNumber" in request.path for request in proxy.requests) == 4 + 3


def test_upload_whose_end_has_no_answer_is_complete(
    store: ObjectBlobs, proxy: FaultProxy, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(content := os.urandom(2 * PART_BYTES))
    proxy.is_affected = is_end_of_upload
    proxy.faults.append(Fault(lost_answer=True))
    store.write("file", tmp_path / "file")
    assert store.read("file") == content


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "GET"])
@pytest.mark.parametrize("faults", [[Fault(lost_answer=True)], [Fault(status=503), Fault(lost_answer=True)]])
def test_every_operation_survives_a_lost_answer(
    store: ObjectBlobs, proxy: FaultProxy, tmp_path: Path, method: str, faults: list[Fault]
) -> None:
    (tmp_path / "file").write_bytes(b"x" * 2 * PART_BYTES)
    proxy.is_affected = lambda request: request.method == method
    proxy.faults.extend(faults)

    def fail_again() -> None:
        proxy.faults.clear()
        proxy.faults.extend(faults)

    operations: list[tuple[Callable[[], object], object]] = [
        (lambda: store.write("folder/file", tmp_path / "file"), None),
        (lambda: store.write("folder/record", b"1"), None),
        (lambda: store.create("folder/new", b"2"), True),
        (lambda: store.read("folder/new"), b"2"),
        (lambda: store.exists("folder/new"), True),
        (lambda: store.paths("folder"), ["folder/file", "folder/new", "folder/record"]),
        (lambda: store.folders(""), ["folder"]),
        (lambda: store.delete("folder/new", "folder/file", "folder/none"), None),
        (lambda: store.paths("folder"), ["folder/record"]),
    ]
    for operation, expected in operations:
        fail_again()
        assert operation() == expected
    proxy.is_affected = lambda request: request.path.endswith("?uploads=")
    fail_again()
    assert store.copy("folder/record", "copy")


def test_copy_downloads_nothing(store: ObjectBlobs, proxy: FaultProxy) -> None:
    store.write("big", b"x" * 6 * MIB)
    proxy.requests.clear()
    assert store.copy("big", "copy")
    assert "GET" not in methods(proxy)
    assert store.read("copy") == b"x" * 6 * MIB


_MOVE = """
import resource, sys
from pathlib import Path
from nextchar.store.object_blobs import ObjectBlobs
import hashlib

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10

blobs = ObjectBlobs.at(sys.argv[1])
blobs.write("warm-up", b"x")
before = peak()
blobs.write("big", Path(sys.argv[2]))
digest = hashlib.sha256()
for chunk in blobs.stream("big"):
    digest.update(chunk)
assert blobs.copy("big", "copy")
print(peak() - before, digest.hexdigest())
"""


def test_large_file_is_moved_in_bounded_memory(s3_url: str, tmp_path: Path) -> None:
    digest, piece = hashlib.sha256(), os.urandom(MIB)
    with (tmp_path / "file").open("wb") as file:
        for _ in range(100):  # as a whole it is more than the bound below
            file.write(piece)
            digest.update(piece)
    command = [sys.executable, "-c", _MOVE, s3_url, str(tmp_path / "file")]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    growth, received = done.stdout.split()
    assert received == digest.hexdigest()
    assert int(growth) < 2 * PARALLEL_PARTS * PART_BYTES + 30 * MIB


def test_storage_that_can_be_used_passes_the_check_and_keeps_nothing_of_it(store: ObjectBlobs) -> None:
    store.check()
    assert store.paths("health") == []


def refused(url: str) -> str:
    with pytest.raises(StorageRefused) as caught:
        ObjectBlobs.at(url, ONCE).check()
    return str(caught.value)


def test_store_without_conditional_writes_is_refused(proxy: FaultProxy, s3_url: str) -> None:
    proxy.always = Fault(without="if-none-match")
    assert "ignores If-None-Match" in refused(s3_url)


def test_store_without_conditional_copies_is_refused(proxy: FaultProxy, s3_url: str) -> None:
    proxy.is_affected = is_end_of_upload
    proxy.faults.extend([Fault(without="if-none-match")] * 2)
    assert "AWS_COPY_IF_NOT_EXISTS" in refused(s3_url)


def test_store_that_knows_no_conditional_writes_is_refused(proxy: FaultProxy, s3_url: str) -> None:
    proxy.is_affected = lambda request: request.method == "PUT"
    proxy.faults.extend([Fault(status=501)] * 20)
    assert "conditional" in refused(s3_url)


def test_missing_bucket_is_refused_and_is_not_a_missing_object(s3_url: str) -> None:
    del s3_url
    assert "the bucket does not exist" in refused("s3://no-such-bucket/prefix")
    blobs = ObjectBlobs.at("s3://no-such-bucket/prefix")
    for call in (lambda: blobs.read("x"), lambda: blobs.write("x", b""), lambda: blobs.create("x", b"")):
        with pytest.raises(Unavailable, match="NoSuchBucket"):
            call()


def test_wrong_credentials_are_refused(
    s3_server: S3Server, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_server.checking_keys() as (key, secret):
        assert "does not accept the credentials (InvalidAccessKeyId)" in refused(s3_url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
        assert "does not accept the credentials (SignatureDoesNotMatch)" in refused(s3_url)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
        ObjectBlobs.at(s3_url, ONCE).check()


def test_missing_credentials_are_refused(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1")  # of a machine that has a role
    assert "there are no credentials" in refused(s3_url)


def test_plain_http_is_refused_unless_it_is_allowed(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    assert "AWS_ALLOW_HTTP=true" in refused(s3_url)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault(status=403, code="AccessDenied"), "do not permit a call (403); allow ListBucket"),
        (Fault(status=403, code="RequestTimeTooSkewed"), "the clock of this machine is wrong"),
        (Fault(status=400, code="AuthorizationHeaderMalformed"), "set AWS_REGION to its region"),
        (Fault(status=301, code="PermanentRedirect"), "set AWS_REGION to its region"),
        (Fault(status=400, code="ExpiredToken"), "does not accept the credentials (ExpiredToken)"),
    ],
    ids=lambda value: value.code if isinstance(value, Fault) else "",
)
def test_answers_that_only_a_change_of_the_setup_can_end_are_refusals(
    proxy: FaultProxy, s3_url: str, fault: Fault, message: str
) -> None:
    proxy.always = fault
    assert message in refused(s3_url)


def test_store_that_does_not_answer_is_not_refused_but_unavailable(
    s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(Unavailable, match="cannot be reached"):
        ObjectBlobs.at(s3_url, HASTY).check()


@pytest.fixture
def memory() -> ObjectBlobs:
    """A storage without a server."""
    return ObjectBlobs.at("memory:///")


@pytest.mark.parametrize(
    ("call", "answers", "message"),
    [
        ("create", [False, False], "If-None-Match"),
        ("create", [True, True], "If-None-Match"),
        ("read", [b"second"], "If-None-Match"),
        ("copy", [False, False], "AWS_COPY_IF_NOT_EXISTS"),
        ("copy", [True, True], "AWS_COPY_IF_NOT_EXISTS"),
        ("exists", [True], "allow DeleteObject"),
    ],
)
def test_a_store_that_does_not_do_what_it_says_is_refused(
    memory: ObjectBlobs, monkeypatch: pytest.MonkeyPatch, call: str, answers: list[object], message: str
) -> None:
    memory.check()
    assert memory.paths("health") == []
    left = iter(answers)
    monkeypatch.setattr(memory, call, lambda *_: next(left))
    with pytest.raises(StorageRefused, match=message):
        memory.check()
