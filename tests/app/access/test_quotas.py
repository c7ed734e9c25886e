"""Quotas of API keys and the disk watermark, over HTTP."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from nextchar.app.access.keys import new_key
from nextchar.app.rooms import ApiSettings
from nextchar.store.jobs import JobStatus
from tests.app.fakes import publish
from tests.app.openai.test_batch_routes import worker_of
from tests.app.service import Service, bearer_of, error_of, serving, serving_with_keys

KEYS = {
    "team": new_key("team", scopes="train", max_jobs=2, max_corpus_bytes="1.5kB"),
    "limited": new_key("limited", scopes="train", models="web-*", max_corpus_bytes=1000),
    "other": new_key("other", scopes="train"),
    "batches": new_key("batches", scopes="train,complete", max_batches=2),
    "small": new_key("small", scopes="train,complete", max_corpus_bytes="2kB"),
}


@pytest.fixture
def guarded(settings: ApiSettings) -> Iterator[Service]:
    with serving_with_keys(settings, KEYS) as running:
        yield running


as_ = bearer_of(KEYS)


def text(letter: str, length: int = 500) -> bytes:
    return (f"{letter}bcdefgh\n" * length)[:length].encode()


def upload(service: Service, content: bytes, name: str = "team", **query: Any) -> httpx.Response:
    return service.http.post("/v1/corpora", content=content, headers=as_(name), params=query)


def submit(service: Service, corpus: str, name: str = "team", **headers: str) -> httpx.Response:
    body = {"corpus": corpus, "name": "m", "preset": "tiny"}
    return service.http.post("/v1/jobs", json=body, headers=as_(name) | headers)


def test_a_key_uploads_no_more_bytes_than_its_quota(guarded: Service) -> None:
    first = upload(guarded, text("a"))
    assert first.status_code == 201
    assert upload(guarded, text("b")).status_code == 201
    error = error_of(upload(guarded, text("c", 501)), 403)
    assert error["code"] == "corpus_quota_reached"
    assert "1,500 bytes" in error["message"] and "this one has 501" in error["message"]
    assert len(guarded.corpora.all()) == 2 and guarded.spooled == []
    assert upload(guarded, text("a")).status_code == 200, "the same text again takes nothing"
    assert upload(guarded, text("c")).status_code == 201
    assert error_of(upload(guarded, text("d", 1)), 403)["code"] == "corpus_quota_reached"
    assert upload(guarded, text("d"), "other").status_code == 201, "another key has its own"
    files = {"file": ("a.txt", text("e")), "purpose": (None, "fine-tune")}
    answer = guarded.http.post("/v1/files", files=files, headers=as_("team"))
    assert error_of(answer, 403)["code"] == "corpus_quota_reached"
    guarded.http.delete(f"/v1/corpora/{first.json()['id']}", headers=as_("team"))
    assert upload(guarded, text("e")).status_code == 201


def test_a_key_can_use_its_quota_to_the_last_byte(guarded: Service) -> None:
    assert upload(guarded, text("a", 999), "limited").status_code == 201
    assert upload(guarded, text("a", 999), "limited").status_code == 200, "the same text again takes nothing"
    assert error_of(upload(guarded, text("b", 2), "limited"), 403)["code"] == "corpus_quota_reached"
    assert upload(guarded, text("b", 1), "limited").status_code == 201
    assert error_of(upload(guarded, text("c", 1), "limited"), 403)["code"] == "corpus_quota_reached"


def test_a_text_that_others_have_counts_for_each_of_its_owners(guarded: Service) -> None:
    assert upload(guarded, text("a", 900), "other").status_code == 201
    assert upload(guarded, text("a", 900), "limited").status_code == 201
    assert error_of(upload(guarded, text("b", 101), "limited"), 403)["code"] == "corpus_quota_reached"
    assert upload(guarded, text("b", 100), "limited").status_code == 201


def test_concurrent_uploads_never_exceed_the_quota(guarded: Service) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda letter: upload(guarded, text(letter)), "abcdefgh"))
    assert {answer.status_code for answer in answers} <= {201, 403}
    kept = guarded.corpora.owners.corpora_of("team")
    assert sum(guarded.corpora.get(corpus).bytes for corpus in kept) <= 1500
    accepted = {answer.json()["id"] for answer in answers if answer.status_code == 201}
    assert accepted == kept == {corpus.id for corpus in guarded.corpora.all()}


def test_a_key_has_no_more_jobs_than_its_quota(guarded: Service) -> None:
    corpus = upload(guarded, text("a")).json()["id"]
    first, second = (submit(guarded, corpus).json()["id"] for _ in range(2))
    assert guarded.jobs.get(first).created_by == "team"
    refused = submit(guarded, corpus, **{"Idempotency-Key": "x"})
    error = error_of(refused, 429)
    assert error["code"] == "job_quota_reached" and "may have 2" in error["message"]
    assert int(refused.headers["retry-after"]) >= 1
    assert len(guarded.jobs.all()) == 2
    assert submit(guarded, upload(guarded, text("a"), "other").json()["id"], "other").status_code == 202
    guarded.http.post(f"/v1/jobs/{first}/pause", headers=as_("team"))
    third = submit(guarded, corpus, **{"Idempotency-Key": "x"})
    assert third.status_code == 202, "a paused job is not counted"
    error = error_of(guarded.http.post(f"/v1/jobs/{first}/resume", headers=as_("team")), 429)
    assert error["code"] == "job_quota_reached"
    guarded.jobs.move(guarded.jobs.get(second), JobStatus.RUNNING)
    assert submit(guarded, corpus).status_code == 429, "a running job is counted"
    guarded.http.post(f"/v1/jobs/{third.json()['id']}/cancel", headers=as_("team"))
    assert guarded.http.post(f"/v1/jobs/{first}/resume", headers=as_("team")).status_code == 200


def test_concurrent_submissions_never_exceed_the_quota(guarded: Service) -> None:
    corpus = upload(guarded, text("a")).json()["id"]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: submit(guarded, corpus), range(8)))
    assert {answer.status_code for answer in answers} <= {202, 429}
    accepted = {answer.json()["id"] for answer in answers if answer.status_code == 202}
    assert {job.id for job in guarded.jobs.all()} == accepted and len(accepted) <= 2
    while len(accepted) < 2:  # those that refused each other can try again
        answer = submit(guarded, corpus)
        assert answer.status_code == 202
        accepted.add(answer.json()["id"])
    assert submit(guarded, corpus).status_code == 429


def create_batch(service: Service, file: str, name: str = "batches", **headers: str) -> httpx.Response:
    body = {"input_file_id": file, "endpoint": "/v1/completions", "completion_window": "24h"}
    return service.http.post("/v1/batches", json=body, headers=as_(name) | headers)


@pytest.fixture
def requests_file(settings: ApiSettings) -> Iterator[tuple[Service, str]]:
    """A service with keys, and a file of requests there."""
    with serving_with_keys(settings, KEYS) as running:
        line = b'{"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"model": "m"}}\n'
        files = {"file": ("in.jsonl", line), "purpose": (None, "batch")}
        answer = running.http.post("/v1/files", files=files, headers=as_("batches"))
        yield running, answer.json()["id"]


def test_a_key_has_no_more_batches_than_its_quota(requests_file: tuple[Service, str]) -> None:
    service, file = requests_file
    first = create_batch(service, file).raise_for_status().json()
    create_batch(service, file).raise_for_status()
    refused = create_batch(service, file, **{"Idempotency-Key": "third"})
    assert error_of(refused, 429)["code"] == "batch_quota_reached"
    assert refused.headers["Retry-After"]
    service.http.post(f"/v1/batches/{first['id']}/cancel", headers=as_("batches")).raise_for_status()
    again = create_batch(service, file, **{"Idempotency-Key": "third"})
    assert again.status_code == 200, "a refused request can be repeated"


def test_concurrent_batches_never_exceed_the_quota(requests_file: tuple[Service, str]) -> None:
    service, file = requests_file
    with ThreadPoolExecutor(8) as pool:
        statuses = [one.status_code for one in pool.map(lambda _: create_batch(service, file), range(8))]
    assert statuses.count(200) <= 2 and set(statuses) <= {200, 429}
    listed = service.http.get("/v1/batches", headers=as_("batches")).json()["data"]
    assert len(listed) == statuses.count(200), "refused ones are not listed"


def test_files_of_a_batch_count_for_the_quota_of_its_key(guarded: Service) -> None:
    publish(guarded.models)

    def file_of_requests(length: int) -> str:
        body = {"model": "fake", "prompt": "a", "max_tokens": length}
        line = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": body}
        files = {"file": ("in.jsonl", json.dumps(line).encode() + b"\n"), "purpose": (None, "batch")}
        answer = guarded.http.post("/v1/files", files=files, headers=as_("small"))
        return str(answer.raise_for_status().json()["id"])

    def ended(file: str) -> dict[str, Any]:
        batch = create_batch(guarded, file, "small").raise_for_status().json()["id"]
        worker_of(guarded).run(batch)
        found: dict[str, Any] = guarded.http.get(f"/v1/batches/{batch}", headers=as_("small")).json()
        assert found["completed_at"]
        return found

    fits = ended(file_of_requests(10))
    assert fits["output_file_id"] and fits["errors"] is None
    large = file_of_requests(2000)
    exceeds = ended(large)
    assert exceeds["output_file_id"] is None and exceeds["request_counts"]["completed"] == 1
    [error] = exceeds["errors"]["data"]
    assert error["code"] == "corpus_quota_reached" and "output file was not saved" in error["message"]
    assert sum(corpus.bytes for corpus in guarded.corpora.all()) <= 2000
    upload(guarded, text("f", 2000 - sum(corpus.bytes for corpus in guarded.corpora.all())), "small")
    assert error_of(create_batch(guarded, large, "small"), 403)["code"] == "corpus_quota_reached"


def test_below_the_watermark_uploads_and_jobs_are_refused_and_nothing_else(settings: ApiSettings) -> None:
    with serving(settings) as running:
        corpus = running.upload()
        waiting = running.submit()
    with serving(settings.model_copy(update={"min_free_bytes": 1 << 60})) as running:
        http = running.http
        files = {"file": ("a.txt", b"abc"), "purpose": (None, "fine-tune")}
        tar = {"Content-Type": "application/x-tar"}
        for answer in (
            http.post("/v1/corpora", content=text("a")),
            http.post("/v1/files", files=files),
            http.post("/v1/jobs", json={"corpus": corpus, "name": "m"}),
            http.post("/v1/fine_tuning/jobs", json={"training_file": corpus, "model": "tiny"}),
            http.post("/v1/models/import", content=b"x" * 1000, headers=tar),
        ):
            error = error_of(answer, 507)
            assert error["code"] == "storage_low" and "NEXTCHAR_MIN_FREE_BYTES" in error["message"]
        assert len(running.jobs.all()) == 1 and len(running.corpora.all()) == 1 and not running.spooled
        assert http.post(f"/v1/jobs/{waiting}/cancel").status_code == 200
        assert http.delete(f"/v1/corpora/{corpus}").status_code == 200
        ready = http.get("/readyz")
        assert ready.status_code == 200 and ready.json()["status"] == "degraded"
        problems = [one["problem"] for one in ready.json()["degraded"]]
        assert "has less space free than the disk watermark" in problems
