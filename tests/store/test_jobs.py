import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from models.auto_preset import Candidate
from models.config import PRESETS, Mix, NetworkConfig, TrainingConfig
from models.errors import Conflict, NotFound, Unavailable
from store.blobs import Blobs
from store.jobs import TRANSITIONS, JobRequest, Jobs, JobStatus
from store.open_blobs import open_blobs

REQUEST = JobRequest(corpus="corpus_1", name="m", network=NetworkConfig(), training=TrainingConfig())


@pytest.fixture
def jobs(blobs: Blobs) -> Jobs:
    return Jobs(blobs)


def test_a_job_has_the_state_of_its_last_transition(jobs: Jobs) -> None:
    job = jobs.create(REQUEST)
    running = jobs.move(job, JobStatus.RUNNING, attempt=1)
    done = jobs.move(running, JobStatus.SUCCEEDED, model="m@1")
    assert jobs.get(job.id) == done
    assert (done.sequence, done.attempt, done.model, done.request) == (2, 1, "m@1", REQUEST)
    assert done.updated_at >= done.created_at == job.created_at


def test_a_new_job_has_been_started_by_nobody(jobs: Jobs) -> None:
    job = jobs.create(REQUEST)
    assert (job.sequence, job.attempt, job.resumed_at_step, job.status) == (0, 0, 0, JobStatus.QUEUED)
    assert (job.attempts_without_progress, job.stepless_attempts, job.storage_pauses) == (0, 0, 0)
    assert job.needed_bytes == 0 and job.created_by is None and job.progress is None
    assert job.model is None and job.error is None and job.pause_reason is None
    assert jobs.get(job.id) == job and 0 < job.created_at == job.updated_at


def test_of_many_writers_racing_for_one_job_one_wins(jobs: Jobs) -> None:
    job = jobs.create(REQUEST)

    def attempt(i: int) -> bool:
        try:
            jobs.move(job, JobStatus.RUNNING if i % 2 else JobStatus.CANCELLED, attempt=i)
        except Conflict as error:
            assert error.code == "job_moved"
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(16))) == 1
    assert jobs.get(job.id).sequence == 1


@pytest.mark.parametrize(
    ("status", "to"),
    [(a, b) for a in JobStatus for b in JobStatus if b not in TRANSITIONS[a]],
)
def test_a_forbidden_transition_is_a_conflict_named_by_the_present_state(
    jobs: Jobs, status: JobStatus, to: JobStatus
) -> None:
    job = jobs.create(REQUEST).model_copy(update={"status": status})
    with pytest.raises(Conflict, match=f"is {status} and cannot become {to}") as caught:
        jobs.move(job, to)
    assert caught.value.code == f"job_{status}"


def test_lists_are_newest_first_and_unfinished_ones_oldest_first(jobs: Jobs) -> None:
    ids = [f"job_{i:021x}" for i in range(3)]
    first, second, third = (jobs.create(REQUEST, job_id=i) for i in ids)
    jobs.move(second, JobStatus.CANCELLED)
    assert [j.id for j in jobs.all()] == [third.id, second.id, first.id]
    assert [j.id for j in jobs.unfinished()] == [first.id, third.id]


@pytest.mark.parametrize("job_id", ["job_0123456789abcdef01234", "../jobs", "", "job_"])
def test_an_unknown_job_is_not_found(jobs: Jobs, job_id: str) -> None:
    with pytest.raises(NotFound):
        jobs.get(job_id)


def test_an_id_is_used_once(jobs: Jobs) -> None:
    job = jobs.create(REQUEST)
    with pytest.raises(Conflict, match="already exists"):
        jobs.create(REQUEST, job_id=job.id)


def test_a_damaged_record_is_reported_and_hides_no_other_job(tmp_path: Path) -> None:
    blobs = open_blobs(tmp_path.as_uri())
    broken, whole = (Jobs(blobs).create(REQUEST) for _ in range(2))
    blobs.write(f"jobs/{broken.id}/000000.json", b'{"id": "job')
    jobs = Jobs(blobs)
    assert jobs.all() == jobs.unfinished() == [whole]
    with pytest.raises(Unavailable, match=f"jobs/{broken.id}/000000.json is damaged") as caught:
        jobs.get(broken.id)
    assert caught.value.code == "job_damaged"


@pytest.mark.parametrize(
    "newer",
    [
        {"status": "sleeping"},
        {"request": {"of_a_later_release": 1}},
        {"request": {"network": {"architecture": "later"}}},
        {"request": {"network": {"units": 8192}}},
    ],
)
def test_a_record_of_a_newer_version_says_so(tmp_path: Path, newer: dict[str, Any]) -> None:
    blobs = open_blobs(tmp_path.as_uri())
    job, other = (Jobs(blobs).create(REQUEST) for _ in range(2))
    path = f"jobs/{job.id}/000000.json"
    record = json.loads(blobs.read(path))
    record["request"] |= newer.pop("request", {})
    blobs.write(path, json.dumps(record | newer).encode())
    jobs = Jobs(blobs)
    assert jobs.all() == [other]
    with pytest.raises(Unavailable, match=f"{path} was written by a newer version .* upgrade this process"):
        jobs.get(job.id)


def test_an_empty_record_hides_not_the_one_before_and_keeps_its_number(tmp_path: Path) -> None:
    blobs = open_blobs(tmp_path.as_uri())
    running = Jobs(blobs).move(Jobs(blobs).create(REQUEST), JobStatus.RUNNING, attempt=1)
    for number in (2, 3):  # what a loss of power left before records were synced
        blobs.write(f"jobs/{running.id}/{number:06d}.json", b"")
    jobs = Jobs(blobs)
    found = jobs.get(running.id)
    assert found == running.model_copy(update={"sequence": 3})
    assert jobs.unfinished() == [found]
    assert jobs.move(found, JobStatus.QUEUED) == jobs.get(running.id)
    blobs.write(f"jobs/{jobs.create(REQUEST, job_id='job_' + 12 * '0').id}/000000.json", b"")
    with pytest.raises(Unavailable, match=r"000000\.json is damaged"):
        jobs.get("job_" + 12 * "0")


def test_a_record_from_before_there_was_auto_is_read(jobs: Jobs) -> None:
    job = jobs.create(REQUEST)
    path = f"jobs/{job.id}/000000.json"
    record = json.loads(jobs.blobs.read(path))
    for field in ("preset", "candidates", "chosen_preset"):
        del record["request"][field]
    jobs.blobs.write(path, json.dumps(record).encode())
    assert Jobs(jobs.blobs).get(job.id) == job


def test_a_running_job_keeps_the_choice_of_its_preset(jobs: Jobs) -> None:
    candidates = tuple(
        Candidate(preset=preset, min_steps=0, network=network, training=training)
        for preset, (network, training) in PRESETS.items()
    )
    job = jobs.create(REQUEST.model_copy(update={"preset": "auto", "candidates": candidates}))
    running = jobs.move(job, JobStatus.RUNNING, attempt=1)
    request = job.request.with_choice(candidates[2])
    chosen = jobs.move(running, JobStatus.RUNNING, request=request)
    again = Jobs(jobs.blobs).get(job.id)
    assert again == chosen and again.attempt == 1
    assert (again.request.preset, again.request.chosen_preset) == ("auto", "medium")
    assert (again.request.network, again.request.candidates) == (PRESETS["medium"][0], ())
    with pytest.raises(Conflict) as caught:
        jobs.move(running, JobStatus.RUNNING, request=job.request.with_choice(candidates[0]))
    assert caught.value.code == "job_moved"


def test_job_reads_its_corpus_and_the_one_mixed_in() -> None:
    assert REQUEST.corpora == ("corpus_1",)
    assert REQUEST.model_copy(update={"mix": Mix(corpus="corpus_2")}).corpora == ("corpus_1", "corpus_2")
