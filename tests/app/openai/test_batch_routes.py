import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
from redis import Redis

from nextchar.app.models.engines import Engines, Loaded
from nextchar.app.openai import batch_processing
from nextchar.app.openai.batch_control import BatchControl
from nextchar.app.openai.batch_processing import MAX_ATTEMPTS, BatchProcessing
from nextchar.app.openai.batches import Batch, Batches, BatchStatus
from nextchar.models.saved_model import SavedModel
from nextchar.store.queue import BatchQueue
from tests.app.fakes import BROKEN, ENDLESS, FakeEngine, loaded, publish
from tests.app.service import Service, error_of, until
from tests.store.refusing import Refusing, full, unavailable

MODEL = "fox"


@pytest.fixture
def service(service: Service) -> Service:
    """A service with a model."""
    publish(service.models, name=MODEL)
    return service


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


def worker_of(service: Service) -> BatchProcessing:
    """What runs batches, in this thread and with fake engines."""

    def load(saved: SavedModel) -> Loaded:
        service.engines.append(FakeEngine(saved))
        return loaded(saved, service.engines[-1])

    engines = Engines(service.models, load, limit_bytes=1 << 30)
    return BatchProcessing(store_of(service), engines, service.settings.data_dir / "spool", threading.Event())


def ended(service: Service, batch_id: str) -> dict[str, Any]:
    """Run a batch, and return how it has ended."""
    assert not worker_of(service).run(batch_id)
    batch = batch_of(service, batch_id)
    assert batch["status"] in ("completed", "failed", "expired", "cancelled")
    return batch


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
    ended(service, batch.id)
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
    assert not service.blobs.paths("batch_chunks")
    assert service.spooled == []


def test_errors_of_requests_are_in_the_error_file(service: Service, sdk: openai.OpenAI) -> None:
    wrong: dict[str, dict[str, Any]] = {
        "no model": {"model": ""},
        "other model": {"model": "missing"},
        "stream": {"stream": True},
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
    assert batch["request_counts"] == {"total": 9, "completed": 1, "failed": 8}
    assert [one["custom_id"] for one in content(service, batch["output_file_id"])] == ["good"]
    errors = {one["custom_id"]: one["response"] for one in content(service, batch["error_file_id"])}
    found = {k: (v["status_code"], v["body"]["error"]["param"]) for k, v in errors.items()}
    assert found == {
        "no model": (400, "model"),
        "other model": (404, None),
        "stream": (400, "stream"),
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
    assert not service.blobs.paths("batch_chunks")


def test_batch_has_at_most_100_errors_and_a_limited_number_of_requests(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = ended(service, create(service, lines(request(), *([1] * 200))))
    assert len(batch["errors"]["data"]) == 100
    monkeypatch.setattr("nextchar.app.openai.json_lines.MAX_REQUESTS", 2)
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
def test_wrong_creation_is_refused(service: Service, change: dict[str, Any], status: int, param: str) -> None:
    body = {
        "input_file_id": upload(service, lines(request())),
        "endpoint": "/v1/completions",
        "completion_window": "24h",
    }
    assert error_of(service.http.post("/v1/batches", json=body | change), status)["param"] == param
    assert service.http.get("/v1/batches").json()["data"] == []


def test_repeated_request_with_an_idempotency_key_creates_one_batch(service: Service) -> None:
    body = {
        "input_file_id": upload(service, lines(request())),
        "endpoint": "/v1/completions",
        "completion_window": "24h",
    }
    headers = {"Idempotency-Key": "monday"}

    def post(**changes: str) -> httpx.Response:
        return service.http.post("/v1/batches", json=body | changes, headers=headers)

    with ThreadPoolExecutor(4) as pool:
        ids = {answer.raise_for_status().json()["id"] for answer in pool.map(lambda _: post(), range(8))}
    assert len(ids) == len(service.http.get("/v1/batches").json()["data"]) == 1
    error = error_of(post(completion_window="1h"), 409)
    assert (error["code"], error["param"]) == ("idempotency_key_reused", "Idempotency-Key")
    job = service.http.post("/v1/jobs", json={"corpus": service.upload(), "name": "m"}, headers=headers)
    assert job.status_code == 202, "jobs have keys of their own"


def test_file_deleted_before_validation_fails_the_batch(service: Service) -> None:
    batch_id = create(service, lines(request()))
    assert service.http.delete(f"/v1/files/{batch_of(service, batch_id)['input_file_id']}").status_code == 200
    batch = ended(service, batch_id)
    assert [error["code"] for error in batch["errors"]["data"]] == ["file_not_found"]


def test_cancelled_batch_has_what_was_answered_and_names_the_rest(
    service: Service, sdk: openai.OpenAI
) -> None:
    first = [request(f"first {i}") for i in range(64)]
    rest = [request(f"rest {i}", prompt=ENDLESS) for i in range(3)]
    batch_id = create(service, lines(*first, *rest))
    running = threading.Thread(target=worker_of(service).run, args=(batch_id,))
    running.start()
    until(lambda: batch_of(service, batch_id)["request_counts"]["completed"] == 64)
    cancelling = service.http.post(f"/v1/batches/{batch_id}/cancel").json()
    assert cancelling["status"] == "cancelling" and cancelling["cancelling_at"]
    assert service.http.post(f"/v1/batches/{batch_id}/cancel").json()["status"] in ("cancelling", "cancelled")
    running.join()
    batch = batch_of(service, batch_id)
    assert batch["request_counts"] == {"total": 67, "completed": 64, "failed": 3}
    answers = content(service, batch["output_file_id"])
    assert [one["custom_id"] for one in answers] == [f"first {i}" for i in range(64)]
    errors = content(service, batch["error_file_id"])
    assert [one["custom_id"] for one in errors] == [f"rest {i}" for i in range(3)]
    assert all((e["response"], e["error"]["code"]) == (None, "batch_cancelled") for e in errors)
    until(lambda: all(t.cancelled.is_set() for engine in service.engines for t in engine.tickets[-3:]))
    error = error_of(service.http.post(f"/v1/batches/{batch_id}/cancel"), 409)
    assert error["code"] == "batch_cancelled"


def test_unanswered_requests_of_an_expired_batch_say_so(service: Service) -> None:
    batches, batch_id = store_of(service), create(service, lines(request()))
    batch = batches.get(batch_id)
    requests = [json.dumps(request(f"r{i}")).encode() for i in range(3)]
    batches.write_input(batch_id, 0, requests[:1])
    batches.write_input(batch_id, 1, requests[1:])
    batches.move(batch, BatchStatus.IN_PROGRESS, chunk_sizes=(1, 2), expires_at=int(time.time()) - 1)
    answer = b'+{"id":"x","custom_id":"r0","response":{},"error":null}'
    assert batches.create_answers(batch, 0, [answer])
    found = ended(service, batch_id)
    assert found["status"] == "expired" and found["expired_at"] and found["completed_at"] is None
    assert found["request_counts"] == {"total": 3, "completed": 1, "failed": 2}
    errors = content(service, found["error_file_id"])
    assert [(e["custom_id"], e["error"]["code"]) for e in errors] == [
        ("r1", "batch_expired"),
        ("r2", "batch_expired"),
    ]


def test_batch_whose_time_is_over_before_validation_expires(service: Service) -> None:
    batches = store_of(service)
    past = {"created_at": 1, "expires_at": 2, "completion_window": "1m"}
    batch = batches.create(endpoint="/v1/completions", input_file=upload(service, lines(request())), **past)
    assert ended(service, batch.id)["status"] == "expired"


def test_damaged_record_blocks_no_other_batch(service: Service, sdk: openai.OpenAI) -> None:
    service.blobs.write("batches/batch_000000000000/000000.json", b"{")
    assert error_of(service.http.get("/v1/batches/batch_000000000000"), 503)["code"] == "batch_damaged"
    assert ended(service, create(service, lines(request())))["status"] == "completed"


@pytest.mark.parametrize("damage", ["truncated", "missing"])
@pytest.mark.parametrize("is_cancelled", [False, True])
def test_requests_of_a_damaged_chunk_end_with_errors(
    service: Service, is_cancelled: bool, damage: str
) -> None:
    batches, batch_id = store_of(service), create(service, lines(request()))
    if damage == "truncated":
        batches.write_input(batch_id, 0, [])
    batches.write_input(batch_id, 1, [json.dumps(request("whole")).encode(), b"{broken"])
    batches.move(batches.get(batch_id), BatchStatus.IN_PROGRESS, chunk_sizes=(1, 2))
    if is_cancelled:
        assert service.http.post(f"/v1/batches/{batch_id}/cancel").json()["status"] == "cancelling"
    batch = ended(service, batch_id)
    errors = content(service, batch["error_file_id"])
    codes = [(error["custom_id"], error["error"]["code"]) for error in errors]
    if is_cancelled:
        assert batch["status"] == "cancelled"
        assert codes == [(name, "batch_cancelled") for name in (None, "whole", None)]
    else:
        assert batch["status"] == "completed"
        assert batch["request_counts"] == {"total": 3, "completed": 1, "failed": 2}
        assert codes == 2 * [(None, "batch_damaged")]


def test_requests_whose_responses_are_missing_end_with_errors(service: Service) -> None:
    batches, batch_id = store_of(service), create(service, lines(request()))
    batch = batches.move(batches.get(batch_id), BatchStatus.IN_PROGRESS, chunk_sizes=(1, 2, 1))
    for chunk, ids in ((0, ["a"]), (2, ["d"])):  # the second has neither requests nor responses
        batches.write_input(batch_id, chunk, [json.dumps(request(custom_id)).encode() for custom_id in ids])
    batches.create_answers(batch, 2, [b'+{"id":"x","custom_id":"d","response":{},"error":null}'])
    batches.move(batch, BatchStatus.FINALIZING, included=(0, 1, 2))
    found = ended(service, batch_id)
    assert (found["status"], found["request_counts"]) == (
        "completed",
        {"total": 4, "completed": 1, "failed": 3},
    )
    errors = content(service, found["error_file_id"])
    assert [(error["custom_id"], error["error"]["code"]) for error in errors] == [
        ("a", "batch_damaged"),
        (None, "batch_damaged"),
        (None, "batch_damaged"),
    ]


@pytest.mark.parametrize("is_deleted", [False, True])
def test_chunks_of_a_batch_that_another_process_has_ended_are_not_damaged(
    service: Service, caplog: pytest.LogCaptureFixture, is_deleted: bool
) -> None:
    batches = store_of(service)
    batch = batches.get(create(service, lines(request())))
    stale = batches.move(batch, BatchStatus.IN_PROGRESS, chunk_sizes=(1,))
    cancelling = batches.move(stale, BatchStatus.CANCELLING)
    done = batches.move(cancelling, BatchStatus.CANCELLED)
    if is_deleted:
        batches.delete(done)
    with pytest.raises(batch_processing._Interrupted):
        worker_of(service)._read_lines(stale, 0)
    assert batches.batches_with_chunks() == [] and caplog.messages == []


def test_new_and_lost_batches_are_queued(service: Service) -> None:
    redis = Redis.from_url(service.settings.redis_url)
    queue, batches = BatchQueue(redis), store_of(service)
    first, second = (create(service, lines(request())) for _ in range(2))
    assert queue.waiting() == [first, second]
    control = BatchControl(service.blobs, batches, queue)
    for _ in range(3):
        control.queue_lost()
    assert queue.waiting() == [first, second]
    redis.flushdb()
    assert batches.live.acquire_lease(first, "a worker")
    control.queue_lost()
    assert queue.waiting() == [], "the message may be on its way"
    control.queue_lost()
    assert queue.waiting() == [second]
    batches.live.release_lease(first, "a worker")
    for _ in range(2):
        control.queue_lost()
    assert queue.waiting() == [second, first]


def test_a_batch_has_its_turn_and_goes_on_later(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_processing, "TURN_S", -1.0)
    batch_id, worker = create(service, lines(request())), worker_of(service)
    worker.others_wait = lambda: True
    assert worker.run(batch_id) and batch_of(service, batch_id)["status"] == "validating"
    worker.others_wait = lambda: False
    worker.stop.set()
    assert worker.run(batch_id) and batch_of(service, batch_id)["status"] == "validating"
    assert ended(service, batch_id)["status"] == "completed"


def chunks_in_progress(service: Service, count: int) -> tuple[str, Batch]:
    """Return a batch in progress that has chunks of one request each."""
    batches, batch_id = store_of(service), create(service, lines(request()))
    for chunk in range(count):
        batches.write_input(batch_id, chunk, [json.dumps(request(f"r{chunk}")).encode()])
    sizes = (1,) * count
    return batch_id, batches.move(batches.get(batch_id), BatchStatus.IN_PROGRESS, chunk_sizes=sizes)


def test_a_chunk_that_kills_each_process_ends_with_errors_and_no_other(service: Service) -> None:
    batch_id, batch = chunks_in_progress(service, 3)
    batches = store_of(service)
    assert batches.create_answers(batch, 0, [b'+{"id":"x","custom_id":"r0","response":{},"error":null}'])
    progress = {"chunks": 1, "completed": 1, "failed": 0, "attempts": MAX_ATTEMPTS}
    batches.live.set_progress(batch_id, progress)
    found = ended(service, batch_id)
    assert found["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
    (error,) = content(service, found["error_file_id"])
    assert (error["custom_id"], error["error"]["code"]) == ("r1", "worker_lost")


def test_a_process_that_stops_in_order_counts_for_no_attempt(service: Service) -> None:
    batch_id, _ = chunks_in_progress(service, 1)
    store_of(service).write_input(batch_id, 0, [json.dumps(request(prompt=ENDLESS)).encode()])
    worker = worker_of(service)
    running = threading.Thread(target=worker.run, args=(batch_id,))
    running.start()
    progress = worker.batches.live.progress
    until(lambda: (progress(batch_id) or {}).get("attempts") == 1)
    worker.stop.set()
    running.join()
    assert progress(batch_id) == {"chunks": 0, "completed": 0, "failed": 0, "attempts": 0}


@pytest.mark.parametrize("error", [full, unavailable, lambda: ValueError("secret")])
def test_after_an_error_a_batch_is_tried_again(
    service: Service, error: Callable[[], Exception], caplog: pytest.LogCaptureFixture
) -> None:
    batch_id, _ = chunks_in_progress(service, 3)
    failing = worker_of(service)
    blobs = Refusing(service.blobs, write=[f"batch_chunks/{batch_id}/000001.answers"], error=error)
    failing.batches = Batches(blobs, Redis.from_url(service.settings.redis_url, decode_responses=True))
    assert not failing.run(batch_id), "not at once"
    assert batch_of(service, batch_id)["status"] == "in_progress"
    assert any(batch_id in record.message for record in caplog.records)
    found = ended(service, batch_id)
    assert found["request_counts"] == {"total": 3, "completed": 3, "failed": 0}
    answers = content(service, found["output_file_id"])
    assert [one["custom_id"] for one in answers] == ["r0", "r1", "r2"]
