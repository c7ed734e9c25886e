"""Jobs are followed, cancelled and paused; the exit status says how they ended."""

import pytest

from tests.clients.python.conftest import Run
from tests.clients.python.fake_server import FakeServer, FakeTraining


def test_cancel_keeps_the_best_model_only_when_asked(run: Run, server: FakeServer) -> None:
    run("jobs", "cancel", "job_1", "--keep-best")
    assert server.bodies("POST", "/v1/jobs/job_1/cancel") == [{"keep_best": True}]
    run("jobs", "cancel", "job_1")
    assert server.requests[-1][3] == b""


@pytest.mark.parametrize(
    ("status", "sentence"),
    [("failed", "diverged"), ("cancelled", "the job was cancelled"), ("paused", "jobs resume job_1")],
)
def test_a_job_without_a_model_ends_with_status_1(
    run: Run, server: FakeServer, status: str, sentence: str
) -> None:
    server.training = FakeTraining(
        seconds=0.1, ends_as=status, status_asked=status if status == "paused" else None
    )
    outcome = run("jobs", "follow", "job_1")
    assert outcome.status == 1
    assert sentence in outcome.err


def test_a_job_that_waits_for_storage_or_is_paused_shows_the_reason(run: Run, server: FakeServer) -> None:
    reason = {"code": "storage_full", "message": "the storage is full"}
    server.training = FakeTraining(ends_as="paused", seconds=0.001, more={"pause_reason": reason})
    assert "storage_full: the storage is full" in run("jobs", "show", "job_1").out
    progress = {"step": 9, "steps": 9, "waiting_for_storage": "the storage is full"}
    server.training = FakeTraining(status_asked="running", more={"progress": progress})
    assert "running, waiting for storage" in run("jobs").out
    assert "waiting\tthe storage is full" in run("jobs", "show", "job_1").out


def test_following_retries_while_the_service_is_busy(run: Run, server: FakeServer) -> None:
    server.training = FakeTraining(seconds=1.5)
    server.refused_jobs = [503, 429, 502]
    assert run("jobs", "follow", "job_1").status == 0
    assert not server.refused_jobs
