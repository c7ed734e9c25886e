import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from nextchar.app.openai.batch_processing import BatchProcessing
from nextchar.app.openai.batches import ALL, Batch, Batches, BatchStatus
from nextchar.app.settings import ApiSettings
from nextchar.models.errors import StorageFull, Unavailable
from tests.app.fakes import BROKEN, ENDLESS, publish
from tests.app.service import Service, error_of, serving, until

MODEL = "fox"


@pytest.fixture
def sdk(service: Service) -> Iterator[openai.OpenAI]:
    """OpenAI's own client for the service, which has a model."""
    publish(service.models, name=MODEL)
    with openai.OpenAI(base_url=f"{service.http.base_url}/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture
def idle(settings: ApiSettings) -> Iterator[Service]:
    """A service that answers no batches: the test moves them."""
    with serving(settings.model_copy(update={"batch_processing": False})) as running:
        publish(running.models, name=MODEL)
        yield running


def request(custom_id: object = "a", **body: object) -> dict[str, Any]:
    body = {"model": MODEL, "prompt": "the ", "max_tokens": 3} | body
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/completions", "body": body}


def lines(*requests: object) -> bytes:
    return "".join(json.dumps(one) + "\n" for one in requests).encode()


def upload(service: Service, data: bytes) -> str:
    form = {"files": {"file": ("in.jsonl", data)}, "data": {"purpose": "batch"}}
    answer = service.http.post("/v1/files", **form)  # type: ignore[arg-type]
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def create(service: Service, data: bytes, window: str = "24h") -> str:
    body = {
        "input_file_id": upload(service, data),
        "endpoint": "/v1/completions",
        "completion_window": window,
    }
    answer = service.http.post("/v1/batches", json=body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def batch_of(service: Service, batch_id: str) -> dict[str, Any]:
    body: dict[str, Any] = service.http.get(f"/v1/batches/{batch_id}").json()
    return body


def ended(service: Service, batch_id: str) -> dict[str, Any]:
    ends = ("completed", "failed", "expired", "cancelled")
    until(lambda: batch_of(service, batch_id)["status"] in ends)
    return batch_of(service, batch_id)


def content(service: Service, file_id: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in service.http.get(f"/v1/files/{file_id}/content").text.splitlines()]


def store_of(service: Service) -> Batches:
    redis = Redis.from_url(service.settings.redis_url, decode_responses=True)
    return Batches(service.blobs, redis)


def test_sdk_creates_polls_and_downloads(service: Service, sdk: openai.OpenAI) -> None:
    requests = [request(f"request {i} ü", prompt="x" * i) for i in range(150)]  # three chunks
    file = sdk.files.create(file=("in.jsonl", lines(*requests)), purpose="batch")
    assert file.purpose == "batch" and sdk.files.content(file.id).read() == lines(*requests)
    batch = sdk.batches.create(
        input_file_id=file.id,
        endpoint="/v1/completions",
        completion_window="24h",
        metadata={"what": "a test"},
    )
    assert batch.status == "validating" and batch.expires_at == batch.created_at + 86400
    until(lambda: sdk.batches.retrieve(batch.id).status == "completed")
    done = sdk.batches.retrieve(batch.id)
    assert done.metadata == {"what": "a test"} and done.error_file_id is None and done.errors is None
    assert done.request_counts and done.request_counts.to_dict() == {
        "total": 150,
        "completed": 150,
        "failed": 0,
    }
    assert done.in_progress_at and done.finalizing_at and done.completed_at and done.cancelled_at is None
    assert done.output_file_id
    output = sdk.files.retrieve(done.output_file_id)
    assert (output.purpose, output.filename) == ("batch_output", f"{batch.id}_output.jsonl")
    answers = [json.loads(line) for line in sdk.files.content(output.id).text.splitlines()]
    assert [one["custom_id"] for one in answers] == [one["custom_id"] for one in requests]
    assert len({one["id"] for one in answers}) == 150
    for length, one in enumerate(answers):
        assert one["error"] is None and one["response"]["status_code"] == 200
        body = one["response"]["body"]
        assert (body["object"], body["model"]) == ("text_completion", "fox@1")
        assert body["choices"][0]["text"] == "abc" and body["usage"]["prompt_tokens"] == length
    assert list(sdk.batches.list()) == [done]
    assert sdk.files.delete(output.id).deleted
    until(lambda: not service.blobs.paths("batch_chunks"))
    assert service.spooled == []


def test_errors_of_requests_are_in_the_error_file(service: Service, sdk: openai.OpenAI) -> None:
    wrong: dict[str, dict[str, Any]] = {
        "no model": {"model": ""},
        "other model": {"model": "missing"},
        "stream": {"stream": True},
        "suffix": {"suffix": "x"},
        "unknown": {"nonsense": 1},
        "type": {"max_tokens": "many"},
        "n": {"n": 0},
        "very many": {f"field{i}": 1 for i in range(1001)},
        "engine": {"prompt": BROKEN},
    }
    batch = ended(
        service, create(service, lines(request("good"), *(request(k, **v) for k, v in wrong.items())))
    )
    assert batch["status"] == "completed"
    assert batch["request_counts"] == {"total": 10, "completed": 1, "failed": 9}
    assert [one["custom_id"] for one in content(service, batch["output_file_id"])] == ["good"]
    errors = {one["custom_id"]: one["response"] for one in content(service, batch["error_file_id"])}
    found = {k: (v["status_code"], v["body"]["error"]["param"]) for k, v in errors.items()}
    assert found == {
        "no model": (400, "model"),
        "other model": (404, None),
        "stream": (400, "stream"),
        "suffix": (400, "suffix"),
        "unknown": (400, "nonsense"),
        "type": (400, "max_tokens"),
        "n": (400, "n"),
        "very many": (400, "body"),
        "engine": (500, None),
    } | {"other model": (404, errors["other model"]["body"]["error"]["param"])}
    assert errors["other model"]["body"]["error"]["code"] == "model_not_found"
    assert "secret" not in json.dumps(errors)
    assert "there is no such field" in errors["unknown"]["body"]["error"]["message"]
    assert "has 1,001 errors" in errors["very many"]["body"]["error"]["message"]  # they are not listed


GOOD = json.dumps(request())


@pytest.mark.parametrize(
    ("bad", "code", "param"),
    [
        ("not JSON", "invalid_json_line", None),
        ("[" * 100_000, "invalid_json_line", None),
        ("[1]", "invalid_json_line", None),
        (json.dumps({k: v for k, v in request().items() if k != "url"}), "missing_required_parameter", "url"),
        (json.dumps(request("b") | {"more": 1}), "unknown_parameter", "more"),
        (json.dumps(request("b") | {"\ud800": 1}), "unknown_parameter", "\\ud800"),
        (json.dumps(request(7)), "invalid_custom_id", "custom_id"),
        (json.dumps(request("")), "invalid_custom_id", "custom_id"),
        (json.dumps(request("b") | {"method": "GET"}), "invalid_method", "method"),
        (json.dumps(request("b") | {"url": "/v1/chat/completions"}), "invalid_url", "url"),
        (json.dumps(request("b") | {"body": []}), "invalid_body", "body"),
        (GOOD, "duplicate_custom_id", "custom_id"),
    ],
)
def test_file_with_an_invalid_line_fails_as_a_whole(
    service: Service, bad: str, code: str, param: str | None
) -> None:
    batch = ended(service, create(service, f"{GOOD}\n\n{bad}\n".encode()))
    (error,) = batch["errors"]["data"]
    assert (batch["status"], error["code"], error["param"]) == ("failed", code, param)
    assert error["line"] == 2  # blank lines are dropped when the file is uploaded
    assert batch["failed_at"] and batch["output_file_id"] is None and batch["error_file_id"] is None
    until(lambda: not service.blobs.paths("batch_chunks"))


def test_batch_has_at_most_100_errors_and_a_limited_number_of_requests(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = ended(service, create(service, lines(request(), *([1] * 200))))
    assert len(batch["errors"]["data"]) == 100
    monkeypatch.setattr("nextchar.app.openai.batch_requests.MAX_REQUESTS", 2)
    batch = ended(service, create(service, lines(*(request(str(i)) for i in range(4)))))
    (error,) = batch["errors"]["data"]
    assert (error["code"], error["line"]) == ("too_many_requests", 3) and "at most 2" in error["message"]


@pytest.mark.parametrize(
    ("name", "data", "purpose", "says"),
    [
        ("in.jsonl", lines(request()), "fine-tune", "purpose must be batch"),
        ("in.jsonl", b'{"text": "a"}\n', "batch", "custom_id"),
        ("in.txt", lines(request()), "batch", "*.jsonl"),
        ("in.jsonl", b"not JSON\n", "batch", "line 1"),
        ("in.jsonl", lines(request()), "batch_output", "must be one of"),
    ],
)
def test_file_and_its_purpose_must_agree(
    service: Service, name: str, data: bytes, purpose: str, says: str
) -> None:
    form = {"files": {"file": (name, data)}, "data": {"purpose": purpose}}
    error = error_of(service.http.post("/v1/files", **form), 400)  # type: ignore[arg-type]
    assert says in error["message"]
    assert service.http.get("/v1/files").json()["data"] == []


def test_purpose_may_follow_the_file_as_node_sends_it(service: Service) -> None:
    form = {"file": ("in.jsonl", lines(request())), "purpose": (None, "batch")}
    answer = service.http.post("/v1/files", files=form)
    assert answer.json()["purpose"] == "batch"


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"input_file_id": "corpus_000000000000"}, 404, "input_file_id"),
        ({"endpoint": "/v1/chat/completions"}, 400, "endpoint"),
        ({"completion_window": "soon"}, 400, "completion_window"),
        ({"completion_window": "0h"}, 400, "completion_window"),
        ({"metadata": {"k": "x" * 513}}, 400, "metadata.k"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 3600}}, 400, "output_expires_after"),
        ({"other": 1}, 400, "other"),
    ],
)
def test_wrong_creation_is_refused(idle: Service, change: dict[str, Any], status: int, param: str) -> None:
    body = {
        "input_file_id": upload(idle, lines(request())),
        "endpoint": "/v1/completions",
        "completion_window": "24h",
    }
    assert error_of(idle.http.post("/v1/batches", json=body | change), status)["param"] == param
    assert idle.http.get("/v1/batches").json()["data"] == []


def test_file_with_another_purpose_is_refused(idle: Service) -> None:
    body = {"input_file_id": idle.upload(), "endpoint": "/v1/completions", "completion_window": "24h"}
    error = error_of(idle.http.post("/v1/batches", json=body), 400)
    assert error["code"] == "wrong_purpose"


def test_audit_trail_names_the_batch(idle: Service) -> None:
    batch = create(idle, lines(request()))
    idle.http.post(f"/v1/batches/{batch}/cancel")
    entries = idle.http.get("/v1/audit").json()["data"][:2]
    assert [(entry["action"], entry["about"]) for entry in entries] == [
        ("cancel_batch", f"/v1/batches/{batch}/cancel"),
        ("create_batch", f"/v1/batches/{batch}"),
    ]


def test_repeated_request_with_an_idempotency_key_creates_one_batch(idle: Service) -> None:
    body = {
        "input_file_id": upload(idle, lines(request())),
        "endpoint": "/v1/completions",
        "completion_window": "24h",
    }
    headers = {"Idempotency-Key": "monday"}

    def post(**changes: str) -> httpx.Response:
        return idle.http.post("/v1/batches", json=body | changes, headers=headers)

    with ThreadPoolExecutor(4) as pool:
        ids = {answer.raise_for_status().json()["id"] for answer in pool.map(lambda _: post(), range(8))}
    assert len(ids) == len(idle.http.get("/v1/batches").json()["data"]) == 1
    error = error_of(post(completion_window="1h"), 409)
    assert (error["code"], error["param"]) == ("idempotency_key_reused", "Idempotency-Key")
    job = idle.http.post("/v1/jobs", json={"corpus": idle.upload(), "name": "m"}, headers=headers)
    assert job.status_code == 202, "jobs have keys of their own"


@pytest.mark.parametrize("path", ["batch_000000000000", "nonsense", "batch_000000000000/cancel"])
def test_unknown_batch_is_404(idle: Service, path: str) -> None:
    call = idle.http.post if path.endswith("cancel") else idle.http.get
    assert error_of(call(f"/v1/batches/{path}"), 404)["code"] == "batch_not_found"


def test_file_deleted_before_validation_fails_the_batch(idle: Service) -> None:
    batch_id = create(idle, lines(request()))
    assert idle.http.delete(f"/v1/files/{batch_of(idle, batch_id)['input_file_id']}").status_code == 200
    with serving(idle.settings.model_copy(update={"batch_processing": True})) as working:
        batch = ended(working, batch_id)
    assert [error["code"] for error in batch["errors"]["data"]] == ["file_not_found"]


def test_cancelled_batch_has_what_was_answered_and_names_the_rest(
    service: Service, sdk: openai.OpenAI
) -> None:
    first = [request(f"first {i}") for i in range(64)]
    rest = [request(f"rest {i}", prompt=ENDLESS) for i in range(3)]
    batch_id = create(service, lines(*first, *rest))
    until(lambda: batch_of(service, batch_id)["request_counts"]["completed"] == 64)
    cancelling = service.http.post(f"/v1/batches/{batch_id}/cancel").json()
    assert cancelling["status"] == "cancelling" and cancelling["cancelling_at"]
    assert service.http.post(f"/v1/batches/{batch_id}/cancel").json()["status"] in ("cancelling", "cancelled")
    batch = ended(service, batch_id)
    assert batch["request_counts"] == {"total": 67, "completed": 64, "failed": 3}
    answers = content(service, batch["output_file_id"])
    assert [one["custom_id"] for one in answers] == [f"first {i}" for i in range(64)]
    errors = content(service, batch["error_file_id"])
    assert [one["custom_id"] for one in errors] == [f"rest {i}" for i in range(3)]
    assert all((e["response"], e["error"]["code"]) == (None, "batch_cancelled") for e in errors)
    until(lambda: all(t.cancelled.is_set() for engine in service.engines for t in engine.tickets[-3:]))
    error = error_of(service.http.post(f"/v1/batches/{batch_id}/cancel"), 409)
    assert error["code"] == "batch_cancelled"


def test_batch_cancelled_before_validation_has_no_files(idle: Service) -> None:
    batch_id = create(idle, lines(request()))
    batch = idle.http.post(f"/v1/batches/{batch_id}/cancel").json()
    assert batch["status"] == "cancelled" and batch["output_file_id"] is None


def test_unanswered_requests_of_an_expired_batch_say_so(idle: Service) -> None:
    batches, batch_id = store_of(idle), create(idle, lines(request()))
    batch = batches.get(batch_id)
    requests = [json.dumps(request(f"r{i}")).encode() for i in range(3)]
    batches.write_input(batch_id, 0, requests[:1])
    batches.write_input(batch_id, 1, requests[1:])
    batches.move(batch, BatchStatus.IN_PROGRESS, chunk_sizes=(1, 2), expires_at=int(time.time()) - 1)
    answer = b'+{"id":"x","custom_id":"r0","response":{},"error":null}'
    assert batches.create_answers(batch, 0, [answer])
    with serving(idle.settings.model_copy(update={"batch_processing": True})) as working:
        found = ended(working, batch_id)
        assert found["status"] == "expired" and found["expired_at"] and found["completed_at"] is None
        assert found["request_counts"] == {"total": 3, "completed": 1, "failed": 2}
        errors = content(working, found["error_file_id"])
    assert [(e["custom_id"], e["error"]["code"]) for e in errors] == [
        ("r1", "batch_expired"),
        ("r2", "batch_expired"),
    ]


def test_batch_whose_time_is_over_before_validation_expires(idle: Service) -> None:
    batches = store_of(idle)
    past = {"created_at": 1, "expires_at": 2, "completion_window": "1m"}
    batch = batches.create(endpoint="/v1/completions", input_file=upload(idle, lines(request())), **past)
    with serving(idle.settings.model_copy(update={"batch_processing": True})) as working:
        assert ended(working, batch.id)["status"] == "expired"


def test_chunk_that_another_process_holds_is_left_to_it(idle: Service) -> None:
    batches, batch_id = store_of(idle), create(idle, lines(request()))
    assert batches.acquire_lease(batch_id, ALL, "another")
    with serving(idle.settings.model_copy(update={"batch_processing": True})) as working:
        other = create(working, lines(request("of the other batch")))
        assert ended(working, other)["status"] == "completed"  # so there were rounds
        assert batch_of(working, batch_id)["status"] == "validating"
        batches.release_lease(batch_id, ALL, "another")
        assert ended(working, batch_id)["status"] == "completed"


def test_answers_are_created_once_and_their_counts_are_restored(idle: Service) -> None:
    batches, batch_id = store_of(idle), create(idle, lines(request()))
    batch = batches.get(batch_id)
    assert batches.create_answers(batch, 0, [b"+first", b"-second"])
    assert not batches.create_answers(batch, 0, [b"+other"])
    assert list(batches.read_answers(batch_id, 0)) == [b"+first", b"-second"]
    assert batches.counts(batch) == (1, 1)
    Redis.from_url(idle.settings.redis_url).flushdb()
    assert batches.counts(batch) == (0, 0)
    batches.count_answered(batch_id, [0])
    assert batches.counts(batch) == (1, 1)


def test_chunks_are_read_as_they_were_written_and_no_more_than_one_may_have(
    idle: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches, batch_id = store_of(idle), create(idle, lines(request()))
    written = [b"", b"+" + b"a" * (3 << 20), b"-b"]
    assert batches.create_answers(batches.get(batch_id), 0, written)
    assert list(batches.read_answers(batch_id, 0)) == written
    batches.write_input(batch_id, 0, written)
    assert batches.read_input(batch_id, 0, count=3) == written
    with pytest.raises(Unavailable, match="is damaged"):
        batches.read_input(batch_id, 0, count=4)
    monkeypatch.setattr("nextchar.app.openai.batches.MAX_INPUT_BYTES", 3 << 20)
    with pytest.raises(Unavailable, match="is damaged"):
        batches.read_input(batch_id, 0, count=3)


def test_damaged_record_blocks_no_other_batch(service: Service, sdk: openai.OpenAI) -> None:
    service.blobs.write("batches/batch_000000000000/000000.json", b"{")
    assert error_of(service.http.get("/v1/batches/batch_000000000000"), 503)["code"] == "batch_damaged"
    assert ended(service, create(service, lines(request())))["status"] == "completed"


def processing_of(idle: Service, batches: Batches) -> BatchProcessing:
    """Process batches in this thread, with what validation needs."""
    return BatchProcessing(
        batches,
        idle.blobs,
        idle.corpora,
        idle.models,
        idle.jobs,
        engines=None,  # type: ignore[arg-type]
        long_prompts=None,  # type: ignore[arg-type]
        spool=idle.settings.data_dir,
        stopping=threading.Event(),
    )


def test_failing_batch_blocks_no_other(idle: Service, caplog: pytest.LogCaptureFixture) -> None:
    batches = store_of(idle)
    failing = create(idle, lines(request()))
    idle.blobs.write(f"batch_chunks/{failing}/nonsense.answers", b"")
    batches.move(batches.get(failing), BatchStatus.IN_PROGRESS, chunk_sizes=(1,))
    damaged = create(idle, lines(request("b")))
    idle.blobs.write(f"corpora/{batches.get(damaged).input_file}/text", b"")
    other = create(idle, lines(request(), [1]))
    processing_of(idle, batches).run()
    assert batches.get(other).status == "failed"
    assert batches.get(failing).status == "in_progress" and batches.get(damaged).status == "validating"
    logged = [record.message for record in caplog.records if record.name == "nextchar.api"]
    assert any(failing in message for message in logged) and any(damaged in message for message in logged)


@pytest.mark.parametrize(
    "error",
    [
        Unavailable("the storage does not work", code="storage_unavailable"),
        StorageFull("the disk is full"),
        RedisConnectionError("no Redis"),
    ],
)
def test_round_ends_when_the_storage_does_not_work(
    idle: Service, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    batches = store_of(idle)
    create(idle, lines(request()))

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(batches, "acquire_lease", fail)
    with pytest.raises(type(error)):
        processing_of(idle, batches).run()


@pytest.mark.parametrize("damage", ["truncated", "missing"])
@pytest.mark.parametrize("is_cancelled", [False, True])
def test_requests_of_a_damaged_chunk_end_with_errors(idle: Service, is_cancelled: bool, damage: str) -> None:
    batches, batch_id = store_of(idle), create(idle, lines(request()))
    if damage == "truncated":
        batches.write_input(batch_id, 0, [])
    batches.write_input(batch_id, 1, [json.dumps(request("whole")).encode(), b"{broken"])
    batches.move(batches.get(batch_id), BatchStatus.IN_PROGRESS, chunk_sizes=(1, 2))
    if is_cancelled:
        assert idle.http.post(f"/v1/batches/{batch_id}/cancel").json()["status"] == "cancelling"
    with serving(idle.settings.model_copy(update={"batch_processing": True})) as working:
        batch = ended(working, batch_id)
        errors = content(working, batch["error_file_id"])
    codes = [(error["custom_id"], error["error"]["code"]) for error in errors]
    if is_cancelled:
        assert batch["status"] == "cancelled"
        assert codes == [(name, "batch_cancelled") for name in (None, "whole", None)]
    else:
        assert batch["status"] == "completed"
        assert batch["request_counts"] == {"total": 3, "completed": 1, "failed": 2}
        assert codes == 2 * [(None, "batch_damaged")]


def test_requests_whose_responses_are_missing_end_with_errors(idle: Service) -> None:
    batches, batch_id = store_of(idle), create(idle, lines(request()))
    batch = batches.move(batches.get(batch_id), BatchStatus.IN_PROGRESS, chunk_sizes=(1, 2, 1))
    for chunk, ids in ((0, ["a"]), (2, ["d"])):  # the second has neither requests nor responses
        batches.write_input(batch_id, chunk, [json.dumps(request(custom_id)).encode() for custom_id in ids])
    batches.create_answers(batch, 2, [b'+{"id":"x","custom_id":"d","response":{},"error":null}'])
    batches.move(batch, BatchStatus.FINALIZING, included=(0, 1, 2))
    processing_of(idle, batches).run()
    found = batch_of(idle, batch_id)
    assert (found["status"], found["request_counts"]) == (
        "completed",
        {"total": 4, "completed": 1, "failed": 3},
    )
    errors = content(idle, found["error_file_id"])
    assert [(error["custom_id"], error["error"]["code"]) for error in errors] == [
        ("a", "batch_damaged"),
        (None, "batch_damaged"),
        (None, "batch_damaged"),
    ]


@pytest.mark.parametrize("is_deleted", [False, True])
def test_chunks_of_a_batch_that_another_process_has_ended_are_not_damaged(
    idle: Service, caplog: pytest.LogCaptureFixture, is_deleted: bool
) -> None:
    batches = store_of(idle)
    batch = batches.get(create(idle, lines(request())))
    stale = batches.move(batch, BatchStatus.IN_PROGRESS, chunk_sizes=(1,))
    cancelling = batches.move(stale, BatchStatus.CANCELLING)
    done = batches.move(cancelling, BatchStatus.CANCELLED)
    if is_deleted:
        batches.delete(done)
    assert not processing_of(idle, batches)._advance(stale)
    assert batches.batches_with_chunks() == [] and caplog.messages == []


def test_final_record_is_moved_no_more(idle: Service) -> None:
    batches = store_of(idle)
    batch = batches.get(create(idle, lines(request())))
    done: Batch = batches.move(batch, BatchStatus.CANCELLED)
    with pytest.raises(Exception, match="cannot become"):
        batches.move(done, BatchStatus.IN_PROGRESS)
    with pytest.raises(Exception, match="changed meanwhile"):
        batches.move(batch, BatchStatus.EXPIRED)
    batches.delete(done)
    assert idle.blobs.paths("batches") == [] and idle.http.get("/v1/batches").json()["data"] == []
