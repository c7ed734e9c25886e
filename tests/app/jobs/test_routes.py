import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from redis import Redis

from nextchar.app.jobs.plans import plan
from nextchar.app.jobs.schemas import JobCreate
from nextchar.app.rooms import ApiSettings
from nextchar.models.config import MINIMUM_CHARACTERS, PRESETS
from nextchar.store.jobs import JobError, JobStatus
from nextchar.store.queue import TrainingQueue
from tests.app.fakes import publish
from tests.app.service import TEXT, Service, error_of, read_stream, serving, until
from tests.logs import syslog


def queued(service: Service) -> list[str]:
    with Redis.from_url(service.settings.redis_url) as redis:
        return TrainingQueue(redis).waiting()


def event(number: int, kind: str = "metrics") -> dict[str, object]:
    return {"id": number, "at": 1.5, "type": kind, "data": {"step": number}}


def run(service: Service, job: str) -> None:
    """Do what a worker does when it takes a job."""
    service.jobs.move(service.jobs.get(job), JobStatus.RUNNING, attempt=1)


def test_job_is_queued_with_every_default_filled_in(service: Service) -> None:
    corpus = service.upload()
    body = {"corpus": corpus, "name": "fox", "preset": "medium", "network": {"units": 32}, "seed": 7}
    answer = service.http.post("/v1/jobs", json=body | {"budget": {"steps": 5}})
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert (job["object"], job["status"], job["queue_position"]) == ("job", "queued", 1)
    assert (job["corpus"], job["name"], job["model"], job["error"]) == (corpus, "fox", None, None)
    network, training = PRESETS["medium"]
    assert job["network"] == network.model_dump() | {"units": 32}
    expected = training.model_dump() | {"seed": 7}
    assert job["training"] == expected | {"budget": {"epochs": None, "steps": 5, "seconds": None}}
    assert queued(service) == [job["id"]]
    assert service.http.get(f"/v1/jobs/{job['id']}").json() == job


def test_corpus_may_be_called_by_name(service: Service) -> None:
    corpus = service.http.post("/v1/corpora?name=animals", content=TEXT.encode()).json()["id"]
    answer = service.http.post("/v1/jobs", json={"corpus": "animals", "name": "fox"})
    assert answer.json()["corpus"] == corpus


def test_a_log_is_masked_by_default_and_the_job_says_so(service: Service) -> None:
    log = "".join(line + "\n" for line in syslog(300)).encode()
    corpus = service.http.post("/v1/corpora", content=log).json()
    assert (corpus["kind"], corpus["suggested_masks"]) == ("log", ["timestamp", "ip", "long_numbers"])
    sample = corpus["log_sample"]
    assert (sample["sampled_lines"], sample["lines"]["timestamp"]) == (300, 300)
    assert sample["placeholders"]["timestamp"] == "ⓣ" and sample["matches"]["timestamp"] == [[0, 15]]
    job = service.http.post("/v1/jobs", json={"corpus": corpus["id"], "name": "sshd"}).json()
    assert job["masks"] == corpus["suggested_masks"] and '"masks": []' in job["masked_by_default"]
    body = {"corpus": corpus["id"], "name": "sshd", "masks": []}
    plain = service.http.post("/v1/jobs", json=body).json()
    assert (plain["masks"], plain["masked_by_default"]) == ([], None)


def test_default_budget_is_a_minute_with_the_preset_that_the_worker_chooses(service: Service) -> None:
    job = service.http.post("/v1/jobs", json={"corpus": service.upload(), "name": "fox"}).json()
    assert (job["preset"], job["chosen_preset"], job["candidates"]) == ("auto", None, list(PRESETS))
    assert job["training"]["budget"] == {"epochs": None, "steps": None, "seconds": 60}
    run(service, job["id"])
    record = service.jobs.get(job["id"])
    request = record.request.with_choice(record.request.candidates[3])
    service.jobs.move(record, JobStatus.RUNNING, request=request)
    job = service.http.get(f"/v1/jobs/{job['id']}").json()
    assert (job["preset"], job["chosen_preset"], job["candidates"]) == ("auto", "medium", [])
    assert job["network"] == PRESETS["medium"][0].model_dump()


def test_jobs_have_queue_positions_and_lists_are_paged(service: Service) -> None:
    ids = [service.submit() for _ in range(3)]
    assert [service.http.get(f"/v1/jobs/{i}").json()["queue_position"] for i in ids] == [1, 2, 3]
    page = service.http.get("/v1/jobs?limit=2").json()
    assert [j["id"] for j in page["data"]] == [ids[2], ids[1]] and page["has_more"]
    rest = service.http.get(f"/v1/jobs?after={ids[1]}").json()
    assert [j["id"] for j in rest["data"]] == [ids[0]] and not rest["has_more"]


def test_progress_comes_from_redis_while_running_and_from_the_record_after(service: Service) -> None:
    job = service.submit()
    run(service, job)
    service.live.set_progress(job, {"step": 3, "steps": 9, "sample": "the fox"})
    seen = service.http.get(f"/v1/jobs/{job}").json()
    assert (seen["status"], seen["queue_position"], seen["attempt"]) == ("running", None, 1)
    assert (seen["progress"]["step"], seen["progress"]["sample"]) == (3, "the fox")
    assert seen["progress"]["seconds_left"] is None
    record = service.jobs.get(job)
    error = JobError(code="diverged", message="take a lower learning_rate")
    service.jobs.move(record, JobStatus.FAILED, progress={"step": 4}, error=error)
    seen = service.http.get(f"/v1/jobs/{job}").json()
    assert seen["status"] == "failed" and seen["progress"]["step"] == 4
    assert seen["error"] == {"code": "diverged", "message": "take a lower learning_rate"}


# Bad input


def test_corpus_too_small_to_train_on_names_the_minimum(service: Service) -> None:
    small = service.upload("a" * (MINIMUM_CHARACTERS - 1))
    error = error_of(service.http.post("/v1/jobs", json={"corpus": small, "name": "fox"}), 422)
    assert error["code"] == "corpus_too_small" and str(MINIMUM_CHARACTERS) in error["message"]
    enough = service.upload("a" * MINIMUM_CHARACTERS)
    assert service.http.post("/v1/jobs", json={"corpus": enough, "name": "fox"}).status_code == 202


# Idempotency


def test_same_idempotency_key_makes_one_job(service: Service) -> None:
    body = {"corpus": service.upload(), "name": "fox"}
    headers = {"Idempotency-Key": "k1"}

    def post(_: int) -> httpx.Response:
        return service.http.post("/v1/jobs", json=body, headers=headers)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(post, range(8)))
    assert {a.status_code for a in answers} == {202}
    assert len({a.json()["id"] for a in answers}) == len(service.jobs.all()) == len(queued(service)) == 1
    other = service.http.post("/v1/jobs", json=body, headers={"Idempotency-Key": "k2"})
    assert other.json()["id"] != answers[0].json()["id"]


def test_same_idempotency_key_with_another_body_is_a_conflict(service: Service) -> None:
    body = {"corpus": service.upload(), "name": "fox"}
    headers = {"Idempotency-Key": "k1"}
    service.http.post("/v1/jobs", json=body, headers=headers)
    answer = service.http.post("/v1/jobs", json=body | {"seed": 2}, headers=headers)
    assert error_of(answer, 409)["code"] == "idempotency_key_reused"
    assert len(service.jobs.all()) == 1


def test_repeated_request_gets_its_job_though_the_corpus_is_gone(service: Service) -> None:
    body = {"corpus": service.upload(), "name": "fox"}
    headers = {"Idempotency-Key": "k1"}
    job = service.http.post("/v1/jobs", json=body, headers=headers).json()["id"]
    service.http.post(f"/v1/jobs/{job}/cancel")
    service.http.delete(f"/v1/corpora/{body['corpus']}")
    again = service.http.post("/v1/jobs", json=body, headers=headers).json()
    assert (again["id"], again["status"]) == (job, "cancelled")


# Redis down


@pytest.fixture
def without_redis(settings: ApiSettings) -> Iterator[Service]:
    down = settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})
    with serving(down) as running:
        yield running


def test_without_redis_jobs_are_refused_before_anything_is_written(without_redis: Service) -> None:
    corpus = without_redis.upload()
    answer = without_redis.http.post(
        "/v1/jobs", json={"corpus": corpus, "name": "fox"}, headers={"Idempotency-Key": "k"}
    )
    error = error_of(answer, 503)
    assert (error["code"], error["type"]) == ("queue_unavailable", "unavailable_error")
    assert not without_redis.jobs.all() and not without_redis.blobs.paths("idempotency")


def test_without_redis_records_can_be_read_and_running_jobs_not_asked(without_redis: Service) -> None:
    request = without_redis.upload()
    answer = without_redis.http.get("/v1/jobs")
    assert answer.json() == {"object": "list", "data": [], "has_more": False}
    planned = plan(
        JobCreate(corpus=request, name="fox"), without_redis.corpora.get(request), memory_limit_bytes=1 << 40
    )
    job = without_redis.jobs.create(planned)
    without_redis.event_log.write(job.id, [event(1)])
    assert without_redis.http.get(f"/v1/jobs/{job.id}").json()["queue_position"] is None
    assert len(without_redis.http.get(f"/v1/jobs/{job.id}/events").json()["data"]) == 1
    running = without_redis.jobs.move(job, JobStatus.RUNNING)
    assert error_of(without_redis.http.post(f"/v1/jobs/{job.id}/cancel"), 503)["code"] == "queue_unavailable"
    without_redis.jobs.move(running, JobStatus.PAUSED)
    assert error_of(without_redis.http.post(f"/v1/jobs/{job.id}/resume"), 503)["code"] == "queue_unavailable"
    assert without_redis.http.post(f"/v1/jobs/{job.id}/cancel").json()["status"] == "cancelled"


# Cancel, pause, resume


def test_waiting_job_is_cancelled_at_once_and_leaves_the_queue(service: Service) -> None:
    job = service.submit()
    answer = service.http.post(f"/v1/jobs/{job}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    assert queued(service) == []


def test_running_job_gets_a_request(service: Service) -> None:
    job = service.submit()
    run(service, job)
    answer = service.http.post(f"/v1/jobs/{job}/pause")
    assert (answer.status_code, answer.json()["status"], answer.json()["asked"]) == (202, "running", "pause")
    answer = service.http.post(f"/v1/jobs/{job}/cancel")
    assert (answer.status_code, answer.json()["asked"]) == (202, "cancel")
    assert service.live.pending_stop(job) == "cancel"


def test_paused_job_goes_back_to_the_queue(service: Service) -> None:
    job = service.submit()
    assert service.http.post(f"/v1/jobs/{job}/pause").json()["status"] == "paused"
    assert queued(service) == []
    assert error_of(service.http.post(f"/v1/jobs/{job}/pause"), 409)["code"] == "job_paused"
    resumed = service.http.post(f"/v1/jobs/{job}/resume").json()
    assert (resumed["status"], resumed["queue_position"]) == ("queued", 1)
    assert error_of(service.http.post(f"/v1/jobs/{job}/resume"), 409)["code"] == "job_queued"


def test_running_job_can_be_asked_to_keep_its_best_model(service: Service) -> None:
    job = service.submit()
    run(service, job)
    keep = {"json": {"keep_best": True}}
    answer = service.http.post(f"/v1/jobs/{job}/cancel", **keep)
    assert (answer.status_code, answer.json()["asked"]) == (202, "cancel_keep_best")
    assert service.http.post(f"/v1/jobs/{job}/cancel").json()["asked"] == "cancel"
    assert service.http.post(f"/v1/jobs/{job}/cancel", **keep).json()["asked"] == "cancel"


def test_paused_job_is_queued_so_that_a_worker_can_keep_its_best_model(service: Service) -> None:
    job = service.submit()
    run(service, job)
    service.jobs.move(service.jobs.get(job), JobStatus.PAUSED)
    answer = service.http.post(f"/v1/jobs/{job}/cancel", json={"keep_best": True})
    assert (answer.status_code, answer.json()["status"]) == (202, "queued")
    assert answer.json()["asked"] == "cancel_keep_best"
    assert job in queued(service)


def test_job_that_was_not_begun_has_no_model_to_keep(service: Service) -> None:
    job = service.submit()
    answer = service.http.post(f"/v1/jobs/{job}/cancel", json={"keep_best": True})
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    assert error_of(service.http.post(f"/v1/jobs/{job}/cancel", json={"keep_best": 1}), 422)["param"]


def test_job_starts_from_the_version_that_a_name_means_when_it_is_queued(service: Service) -> None:
    publish(service.models)
    body = {"corpus": service.upload(), "name": "fox", "start_from": "fake", "coverage": 0.999}
    body["mixture"] = False
    job = service.http.post("/v1/jobs", json=body).json()
    assert (job["start_from"], job["coverage"], job["network"]["units"]) == ("fake@1", 0.999, 4)
    assert job["mixture"] is False
    error = error_of(service.http.post("/v1/jobs", json=body | {"start_from": "nothing"}), 404)
    assert (error["code"], error["param"]) == ("model_not_found", "start_from")
    error = error_of(service.http.post("/v1/jobs", json=body | {"network": {"units": 8}}), 422)
    assert (error["code"], error["param"]) == ("contradicts_start_from", "network.units")


def test_job_starts_from_a_base_model_that_is_named(service: Service) -> None:
    body = {"corpus": service.upload(), "name": "fox", "start_from": "base/english"}
    job = service.http.post("/v1/jobs", json=body).json()
    assert (job["start_from"], job["network"]["units"]) == ("base/english@1", 512)
    error = error_of(service.http.post("/v1/jobs", json=body | {"start_from": "base/klingon"}), 404)
    assert (error["code"], error["param"]) == ("base_not_found", "start_from")


def test_a_second_text_and_its_teacher_are_settled_when_the_job_is_queued(service: Service) -> None:
    publish(service.models)
    corpus = service.upload()
    body = {"corpus": corpus, "name": "fox", "mix": {"corpus": corpus, "teacher": "fake", "fraction": 0.5}}
    job = service.http.post("/v1/jobs", json=body).json()
    settled = {"corpus": corpus, "teacher": "fake@1", "fraction": 0.5, "targets": "distribution"}
    assert job["mix"] == settled


@pytest.mark.parametrize("end", ["succeeded", "failed", "cancelled"])
def test_finished_job_cannot_be_changed(service: Service, end: str) -> None:
    job = service.submit()
    run(service, job)
    service.jobs.move(service.jobs.get(job), JobStatus(end))
    for verb in ("cancel", "pause", "resume"):
        if (end, verb) == ("failed", "resume"):  # the one thing that can be done to a job that is over
            continue
        assert error_of(service.http.post(f"/v1/jobs/{job}/{verb}"), 409)["code"] == f"job_{end}"


def test_failed_job_is_resumed_with_its_attempts_forgotten_and_its_events_go_on(service: Service) -> None:
    job = service.submit()
    run(service, job)
    error = JobError(code="diverged", message="take a lower learning_rate")
    service.jobs.move(service.jobs.get(job), JobStatus.FAILED, error=error, attempts_without_progress=3)
    stream = {"headers": {"accept": "text/event-stream"}}
    assert "event: done" in service.http.get(f"/v1/jobs/{job}/events", **stream).text
    resumed = service.http.post(f"/v1/jobs/{job}/resume").json()
    assert (resumed["status"], resumed["error"], resumed["queue_position"]) == ("queued", None, 1)
    assert service.http.get(f"/v1/fine_tuning/jobs/{job}").json()["finished_at"] is None
    assert service.jobs.get(job).attempts_without_progress == 0
    run(service, job)
    service.jobs.move(service.jobs.get(job), JobStatus.SUCCEEDED, model="fox@1")
    assert '"status":"succeeded"' in service.http.get(f"/v1/jobs/{job}/events", **stream).text


def test_job_that_waits_for_storage_says_so_and_its_owner_decides(service: Service) -> None:
    job = service.submit()
    run(service, job)
    reason = JobError(code="storage_full", message="the storage is full")
    service.jobs.move(service.jobs.get(job), JobStatus.PAUSED, pause_reason=reason)
    seen = service.http.get(f"/v1/jobs/{job}").json()
    assert (seen["status"], seen["pause_reason"]) == ("paused", reason.model_dump())
    kept = service.http.post(f"/v1/jobs/{job}/pause")
    assert (kept.status_code, kept.json()["status"], kept.json()["pause_reason"]) == (200, "paused", None)
    resumed = service.http.post(f"/v1/jobs/{job}/resume").json()
    assert (resumed["status"], resumed["pause_reason"]) == ("queued", None)


def test_of_two_writers_racing_for_a_job_one_wins(service: Service) -> None:
    for _ in range(5):
        job = service.submit()
        start = threading.Barrier(2)

        def cancel(job: str = job, start: threading.Barrier = start) -> int:
            with httpx.Client(base_url=service.http.base_url) as http:
                start.wait()
                return http.post(f"/v1/jobs/{job}/cancel").status_code

        with ThreadPoolExecutor(2) as pool:
            statuses = sorted(future.result() for future in [pool.submit(cancel) for _ in range(2)])
        assert statuses == [200, 409]
        assert service.jobs.get(job).sequence == 1


# Events


def test_events_are_listed_from_log_and_redis_without_doubles(service: Service) -> None:
    job = service.submit()
    service.event_log.write(job, [event(1), event(2, "sample")])
    service.live.add_events(job, [event(2, "sample"), event(3)])
    page = service.http.get(f"/v1/jobs/{job}/events").json()
    assert page == {"object": "list", "data": [event(1), event(2, "sample"), event(3)], "has_more": False}
    page = service.http.get(f"/v1/jobs/{job}/events?after=1&limit=1").json()
    assert [e["id"] for e in page["data"]] == [2] and page["has_more"]
    for after in ("x", -1, 2**63, 2**64):
        answer = service.http.get(f"/v1/jobs/{job}/events", params={"after": after})
        assert error_of(answer, 422)["param"] == "after"
    last = service.http.get(f"/v1/jobs/{job}/events", params={"after": 2**63 - 1})
    assert last.json()["data"] == []


def test_stream_goes_on_as_events_come_and_ends_with_the_job(service: Service) -> None:
    job = service.submit()
    run(service, job)
    service.event_log.write(job, [event(1)])
    service.live.add_events(job, [event(2)])
    headers = {"Accept": "text/event-stream"}
    with service.http.stream("GET", f"/v1/jobs/{job}/events", headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        stream = read_stream(answer.iter_lines())
        assert next(stream) == ("1", "metrics", event(1))
        assert next(stream) == ("2", "metrics", event(2))
        service.live.add_events(job, [event(3, "sample")])
        assert next(stream) == ("3", "sample", event(3, "sample"))
        service.event_log.write(job, [event(n) for n in (1, 2, 3, 4)])  # Redis has never heard of the last
        service.jobs.move(service.jobs.get(job), JobStatus.SUCCEEDED, model="fox@1")
        assert next(stream) == ("4", "metrics", event(4))
        number, name, body = next(stream)
        assert (number, name, body["status"], body["model"]) == (None, "done", "succeeded", "fox@1")
        assert list(stream) == []


def test_stream_resumes_behind_the_last_event_id(service: Service) -> None:
    job = service.submit()
    service.event_log.write(job, [event(1), event(2), event(3)])
    service.http.post(f"/v1/jobs/{job}/cancel")
    headers = {"Accept": "text/event-stream", "Last-Event-ID": "2"}
    with service.http.stream("GET", f"/v1/jobs/{job}/events", headers=headers) as answer:
        found = [(number, name) for number, name, _ in read_stream(answer.iter_lines())]
    assert found == [("3", "metrics"), (None, "done")]


def test_disconnected_watcher_is_released(service: Service) -> None:
    job = service.submit()
    headers = {"Accept": "text/event-stream"}
    service.live.add_events(job, [event(1)])
    with service.http.stream("GET", f"/v1/jobs/{job}/events", headers=headers) as answer:
        next(read_stream(answer.iter_lines()))
    until(lambda: "nextchar_http_requests_in_flight 1.0" in service.http.get("/metrics").text)
