import gzip
import hashlib
import io
import os
import socket
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from nextchar.store.gunzip import Gunzip
from tests.app.service import MAX_CORPUS_BYTES, TEXT, Service, error_of, until


def test_upload_gives_statistics_and_location(service: Service) -> None:
    answer = service.http.post("/v1/corpora", params={"name": "fox"}, content=TEXT.encode())
    assert answer.status_code == 201
    corpus = answer.json()
    assert answer.headers["location"] == f"/v1/corpora/{corpus['id']}"
    assert corpus["object"] == "corpus" and corpus["name"] == "fox"
    assert corpus["sha256"] == hashlib.sha256(TEXT.encode()).hexdigest()
    assert (corpus["characters"], corpus["lines"], corpus["longest_line"]) == (len(TEXT), 10, 43)
    for reference in (corpus["id"], "fox"):
        assert service.http.get(f"/v1/corpora/{reference}").json() == corpus
    assert not service.spooled


def test_same_bytes_are_the_same_corpus(service: Service) -> None:
    first = service.http.post("/v1/corpora", content=TEXT.encode())
    again = service.http.post("/v1/corpora", content=TEXT.encode())
    zipped = service.http.post(
        "/v1/corpora", content=gzip.compress(TEXT.encode()), headers={"content-encoding": "gzip"}
    )
    form = service.http.post("/v1/corpora", files={"file": ("fox.txt", TEXT.encode())})
    assert (first.status_code, again.status_code) == (201, 200)
    assert (zipped.status_code, form.status_code) == (200, 200)
    assert first.json() == again.json() == zipped.json() == form.json()


def test_the_same_bytes_under_another_name_are_returned_with_that_name(service: Service) -> None:
    first = service.http.post("/v1/corpora?name=first", content=TEXT.encode()).json()
    second = service.http.post("/v1/corpora?name=second&kind=records", content=TEXT.encode()).json()
    assert (second["id"], second["name"], second["kind"]) == (first["id"], "second", "records")
    names = [
        service.http.get(f"/v1/corpora/{name}").json()["name"] for name in ("first", "second", first["id"])
    ]
    assert names == ["first", "second", "first"]


def test_text_comes_back_byte_for_byte(service: Service) -> None:
    text = "cafe\u0301 — naïve\r\n\U0001f98a\n" * 30
    corpus = service.upload(text)
    answer = service.http.get(f"/v1/corpora/{corpus}/text")
    assert answer.content == text.encode()
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["etag"] == f'"{hashlib.sha256(text.encode()).hexdigest()}"'


def test_a_text_that_is_damaged_in_the_storage_never_arrives_whole(service: Service) -> None:
    short, long = service.upload(TEXT), service.upload("0123456789" * 250_000)
    for corpus in (short, long):
        text = service.blobs.read(f"corpora/{corpus}/text")
        service.blobs.write(f"corpora/{corpus}/text", text[:-1] + b"?")
    refused = service.http.get(f"/v1/corpora/{short}/text")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "corpus_damaged")
    with pytest.raises(httpx.RemoteProtocolError):
        service.http.get(f"/v1/corpora/{long}/text")


def test_large_form_and_large_gzip_arrive_whole(service: Service) -> None:
    text = os.urandom(1_200_000).hex().encode()
    expected = hashlib.sha256(text).hexdigest()
    form = service.http.post("/v1/corpora", files={"file": ("x", io.BytesIO(text))})
    assert form.json()["sha256"] == expected
    two_members = gzip.compress(text[:999_999]) + gzip.compress(text[999_999:])
    zipped = service.http.post("/v1/corpora", content=two_members, headers={"content-encoding": "gzip"})
    assert zipped.status_code == 200 and zipped.json()["sha256"] == expected


def test_list_is_paged(service: Service) -> None:
    ids = {service.upload(f"text number {n}") for n in range(3)}
    first = service.http.get("/v1/corpora", params={"limit": 2}).json()
    assert first["object"] == "list" and first["has_more"] and len(first["data"]) == 2
    rest = service.http.get("/v1/corpora", params={"after": first["data"][-1]["id"]}).json()
    assert not rest["has_more"]
    assert {c["id"] for c in first["data"] + rest["data"]} == ids


def test_over_the_size_limit_nothing_of_a_body_without_a_length_is_kept(service: Service) -> None:
    answer = service.http.post("/v1/corpora", content=iter([b"a" * 1_000_000] * 4))
    assert error_of(answer, 413)["code"] == "corpus_too_large"
    assert not service.spooled and not service.blobs.paths("corpora")


def test_time_for_gzip_grows_with_its_length_alone() -> None:
    empty = gzip.compress(b"")
    began = time.thread_time()
    assert list(Gunzip().feed(empty * 300_000 + gzip.compress(b"a"))) == [b"a"]
    assert time.thread_time() - began < 15  # copied at each member's end, these 6 MB take a minute


def test_another_text_under_a_name_is_its_next_version(service: Service) -> None:
    texts = (b"one text", b"another text")
    first, second = (service.http.post("/v1/corpora?name=fox", content=text).json() for text in texts)
    assert [(c["name"], c["version"]) for c in (first, second)] == [("fox", 1), ("fox", 2)]
    for reference, expected in (("fox", second), ("fox@1", first), ("fox@2", second)):
        assert service.http.get(f"/v1/corpora/{reference}").json() == expected
    for reference in ("fox@3", "fox@", "fox@01", "fox@x"):
        assert error_of(service.http.get(f"/v1/corpora/{reference}"), 404)["code"] == "corpus_not_found"
    job = service.http.post("/v1/jobs", json={"corpus": "fox@1", "name": "m"})
    assert error_of(job, 422)["code"] == "corpus_too_small", "it is found"
    assert service.http.delete("/v1/corpora/fox").json()["id"] == second["id"]
    assert service.http.get("/v1/corpora/fox").json() == first


NAMES = "".join(f"{a}{b}{c}\n" for a in "abdefg" for b in "aeiou" for c in "klmnrst")


def test_kind_is_detected_with_its_reason_and_can_be_changed(service: Service) -> None:
    corpus = service.http.get(f"/v1/corpora/{service.upload(NAMES)}").json()
    assert (corpus["kind"], corpus["kind_reason"]) == ("records", "its lines are sorted")
    path = f"/v1/corpora/{corpus['id']}"
    changed = service.http.patch(path, json={"kind": "text"})
    assert changed.status_code == 200
    assert (changed.json()["kind"], changed.json()["kind_reason"]) == ("text", "it was chosen, not detected")
    assert service.http.get(path).json() == changed.json()
    assert service.http.get("/v1/corpora").json()["data"] == [changed.json()]
    assert service.http.post("/v1/corpora", content=NAMES.encode()).json()["kind"] == "text"  # as it was set
    assert error_of(service.http.patch(path, json={"kind": "poem"}), 422)["param"] == "kind"
    assert error_of(service.http.patch(path, json={}), 422)["param"] == "kind"


@pytest.mark.parametrize("encoding", ["utf-8", "bytes"])
def test_kind_can_be_given_with_the_upload(service: Service, encoding: str) -> None:
    params = {"kind": "records", "encoding": encoding}
    for status in (201, 200):
        answer = service.http.post("/v1/corpora", params=params, content=TEXT.encode())
        assert (answer.status_code, answer.json()["kind"]) == (status, "records")
    answer = service.http.post("/v1/corpora", params={"kind": "poem"}, content=TEXT.encode())
    assert error_of(answer, 422)["param"] == "kind"


def test_job_has_the_kind_of_the_corpus_or_its_own(service: Service) -> None:
    corpus = service.upload(NAMES)
    for given, kind in ({}, "records"), ({"kind": "text"}, "text"), ({"kind": None}, "records"):
        job = service.submit(corpus=corpus, **given)
        assert service.http.get(f"/v1/jobs/{job}").json()["kind"] == kind


def test_corpus_that_a_job_needs_cannot_be_deleted(service: Service) -> None:
    job = service.submit()
    corpus = service.jobs.get(job).request.corpus
    error = error_of(service.http.delete(f"/v1/corpora/{corpus}"), 409)
    assert error["code"] == "corpus_in_use" and job in error["message"]
    service.http.post(f"/v1/jobs/{job}/cancel")
    deleted = service.http.delete(f"/v1/corpora/{corpus}").json()
    assert deleted == {"id": corpus, "object": "corpus", "deleted": True}
    assert error_of(service.http.get(f"/v1/corpora/{corpus}"), 404)["code"] == "corpus_not_found"


def test_corpus_that_a_job_mixes_in_cannot_be_deleted(service: Service) -> None:
    second = service.upload("a second text for it, to be mixed in. " * 30)
    job = service.submit(mix={"corpus": second})
    error = error_of(service.http.delete(f"/v1/corpora/{second}"), 409)
    assert error["code"] == "corpus_in_use" and job in error["message"]


def test_full_disk_while_uploading_keeps_nothing_and_the_service_goes_on(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on_a_full_disk(prefix: str, **where: Path) -> tuple[int, str]:
        path = where["dir"] / (prefix + "full")
        path.symlink_to("/dev/full")
        return os.open(path, os.O_WRONLY), str(path)

    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "mkstemp", on_a_full_disk)
        for size in (10, 2_000_000):
            answer = service.http.post("/v1/corpora", content=b"a" * size)
            assert error_of(answer, 507)["code"] == "storage_full"
    assert not service.spooled and not service.blobs.paths("corpora")
    assert service.http.post("/v1/corpora", content=b"a" * 10).status_code == 201


def test_client_that_vanishes_in_mid_upload_leaves_nothing(service: Service) -> None:
    address = urlsplit(str(service.http.base_url))
    with socket.create_connection((address.hostname, address.port)) as client:
        head = b"POST /v1/corpora HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000000\r\n\r\n"
        client.sendall(head + b"a" * 1_500_000)
        until(lambda: service.spooled)
    until(lambda: not service.spooled)
    assert not service.corpora.all()
    assert service.http.get("/healthz").status_code == 200


def test_name_with_an_empty_record_is_not_found_and_can_be_given_again(service: Service) -> None:
    service.blobs.write("corpus_names/fox", b"")
    for method, path in (("GET", "fox"), ("GET", "fox/text"), ("DELETE", "fox")):
        error_of(service.http.request(method, f"/v1/corpora/{path}"), 404)
    assert service.http.get("/v1/corpora").json()["data"] == []
    job = service.http.post("/v1/jobs", json={"corpus": "fox", "name": "fox"})
    assert error_of(job, 404)["code"] == "corpus_not_found"
    answer = service.http.post("/v1/corpora", params={"name": "fox"}, content=TEXT.encode())
    assert answer.status_code == 201
    assert service.http.get("/v1/corpora/fox").json() == answer.json()


def test_files_of_an_archive_become_one_corpus(service: Service) -> None:
    text = b"one\ntwo\n"
    made, zipped = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar, zipfile.ZipFile(zipped, "w") as archive:
        for name, data in (("1.log", b"one"), ("2.log", b"two\n")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
            archive.writestr(name, data)
    answers = [
        service.http.post("/v1/corpora?archive=tar", content=made.getvalue()),
        service.http.post("/v1/corpora?archive=zip", content=zipped.getvalue()),
        service.http.post("/v1/corpora?archive=zip", files={"file": ("x.zip", zipped.getvalue())}),
    ]
    assert [answer.status_code for answer in answers] == [201, 200, 200]
    for answer in answers:
        assert answer.json()["sha256"] == hashlib.sha256(text).hexdigest()
        assert answer.json()["files"] == 2
    assert not service.spooled


def test_errors_name_the_file_of_an_archive_and_bombs_are_stopped(service: Service) -> None:
    zipped, bomb = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("good.txt", "good")
        archive.writestr("bad.txt", b"caf\xe9\n")
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", b"0" * (2 * MAX_CORPUS_BYTES))
    answer = service.http.post("/v1/corpora?archive=zip", content=zipped.getvalue())
    error = error_of(answer, 422)
    assert error["code"] == "corpus_not_utf8" and "'bad.txt'" in error["message"]
    answer = service.http.post("/v1/corpora?archive=zip", content=bomb.getvalue())
    assert error_of(answer, 413)["code"] == "corpus_too_large"
    answer = service.http.post("/v1/corpora?archive=tar", content=TEXT.encode() * 3)
    assert error_of(answer, 422)["code"] == "archive_broken"
    assert service.http.get("/v1/corpora").json()["data"] == []
    assert not service.spooled


def test_repeated_lines_are_removed_on_request(service: Service) -> None:
    text = b"b\n\na\n\nb\na"
    answer = service.http.post("/v1/corpora?deduplicate=lines", content=text)
    assert answer.status_code == 201
    assert service.http.get(f"/v1/corpora/{answer.json()['id']}/text").content == b"b\n\na\n\n"
    assert answer.json()["repeated_lines"] == 2
    assert service.http.post("/v1/corpora", content=text).json()["repeated_lines"] is None
    bomb = gzip.compress(b"0\n" * MAX_CORPUS_BYTES)
    answer = service.http.post(
        "/v1/corpora?deduplicate=lines", content=bomb, headers={"content-encoding": "gzip"}
    )
    assert error_of(answer, 413)["code"] == "corpus_too_large"
    assert not service.spooled
