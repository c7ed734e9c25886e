import json
from pathlib import Path
from typing import Any

import pytest

from nextchar.models.auto_preset import Candidate
from nextchar.models.config import PRESETS, NetworkConfig, TrainingConfig
from nextchar.models.errors import Conflict, NotFound, Unavailable
from nextchar.store.blobs import Blobs
from nextchar.store.jobs import TRANSITIONS, Job, JobRequest, Jobs, JobStatus
from nextchar.store.open_blobs import open_blobs

REQUEST = JobRequest(corpus="corpus_1", name="m", network=NetworkConfig(), training=TrainingConfig())


@pytest.fixture
def jobs(blobs: Blobs) -> Jobs:
    return Jobs(blobs)


@pytest.mark.parametrize(
    ("status", "to"), [(a, b) for a in JobStatus for b in JobStatus if b not in TRANSITIONS[a]]
)
def test_a_forbidden_transition_is_a_conflict_named_by_the_present_state(
    jobs: Jobs, status: JobStatus, to: JobStatus
) -> None:
    job = jobs.create(REQUEST).model_copy(update={"status": status})
    with pytest.raises(Conflict, match=f"is {status} and cannot become {to}") as caught:
        jobs.move(job, to)
    assert caught.value.code == f"job_{status}"


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


def test_earlier_releases_know_attempts_without_progress_by_another_name(jobs: Jobs) -> None:
    job = jobs.move(jobs.create(REQUEST), JobStatus.RUNNING, attempts_without_progress=3)
    [*_, path] = jobs.blobs.paths(f"jobs/{job.id}")
    record = json.loads(jobs.blobs.read(path))
    assert record["fruitless_attempts"] == 3 and "attempts_without_progress" not in record
    assert Jobs(jobs.blobs).get(job.id).attempts_without_progress == 3
    assert Job(**record | {"attempts_without_progress": 4}).attempts_without_progress == 3
    del record["fruitless_attempts"]
    assert Job(**record | {"attempts_without_progress": 4}).attempts_without_progress == 4


def test_records_that_do_not_change_are_read_once(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = Jobs(jobs.blobs), Jobs(jobs.blobs)
    job = theirs.create(REQUEST)
    assert ours.get(job.id) is ours.get(job.id) is ours.all()[0]
    ended = theirs.move(job, JobStatus.CANCELLED)
    assert ours.get(job.id) == ended
    monkeypatch.setattr(ours, "_paths", lambda _: pytest.fail("an ended job is looked up"))
    assert ours.get(job.id) == ended
    monkeypatch.undo()
    theirs.delete(ended)
    assert ours.all() == []
    with pytest.raises(NotFound):
        ours.get(job.id)


def test_of_an_ended_job_the_newest_record_stays(jobs: Jobs) -> None:
    done = jobs.move(jobs.move(jobs.create(REQUEST), JobStatus.RUNNING), JobStatus.SUCCEEDED)
    for _ in range(2):
        jobs.delete_old_transitions(done)
        assert jobs.blobs.paths(f"jobs/{done.id}") == [f"jobs/{done.id}/000002.json"]
    cancelled = jobs.move(jobs.create(REQUEST), JobStatus.CANCELLED)
    jobs.delete_old_transitions(cancelled)
    assert jobs.blobs.paths(f"jobs/{cancelled.id}") == [f"jobs/{cancelled.id}/000001.json"]
    other = jobs.move(jobs.create(REQUEST), JobStatus.CANCELLED)
    jobs.blobs.write(f"jobs/{other.id}/000001.json", b"")
    jobs.delete_old_transitions(other)
    assert len(jobs.blobs.paths(f"jobs/{other.id}")) == 2, "an empty record needs the one before"
