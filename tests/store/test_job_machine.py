"""Random programs of requests, workers and reconcilers against a plain model of jobs."""

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule
from redis import Redis

from nextchar.app.jobs.reconcile import MAX_STEPLESS_ATTEMPTS, Reconciler
from nextchar.models.errors import Conflict, NotFound
from nextchar.store.jobs import TRANSITIONS, Job, Jobs, JobStatus
from nextchar.store.live import EventLog, Live, add_message
from nextchar.store.open_blobs import open_blobs
from nextchar.store.queue import QUEUE_NAME, TrainingQueue
from tests.state_machines import run
from tests.store.test_jobs import REQUEST

STOPS = ("cancel", "cancel_keep_best", "pause")
TOKENS = ("first worker", "second worker")


@dataclass
class Known:
    """What the model knows of one job."""

    record: Job
    lease: str | None = None
    stop: str | None = None
    losses: int = 0  # of workers, without a step
    events: int = 0


class JobMachine(RuleBasedStateMachine):
    """Two processes on one storage and Redis; a handle is what one has read of a job, perhaps long ago."""

    handles: Bundle[Job] = Bundle("handles")

    def __init__(self, redis_url: str) -> None:
        super().__init__()
        redis = Redis.from_url(redis_url, decode_responses=True)
        redis.flushall()
        self.redis, self.blobs = redis, open_blobs("memory:///")
        self.processes = [Jobs(self.blobs), Jobs(self.blobs)]
        self.live, self.event_log = Live(redis), EventLog(self.blobs)
        self.queue = TrainingQueue(Redis.from_url(redis_url))
        self.known: dict[str, Known] = {}
        self.deleted: set[str] = set()

    @rule(target=handles, process=st.integers(0, 1))
    def create(self, process: int) -> Job:
        job = self.processes[process].create(REQUEST)
        self.known[job.id] = Known(job)
        return job

    @rule(target=handles, job=handles, process=st.integers(0, 1))
    def read(self, job: Job, process: int) -> Job:
        if job.id in self.deleted:
            with pytest.raises(NotFound):
                self.processes[process].get(job.id)
            return job
        found = self.processes[process].get(job.id)
        assert found == self.known[job.id].record
        return found

    @rule(target=handles, job=handles, to=st.sampled_from(JobStatus), process=st.integers(0, 1))
    def move(self, job: Job, to: JobStatus, process: int) -> Job:
        known = self.known[job.id]
        changes: dict[str, Any] = {}
        if to is JobStatus.RUNNING and job.status is JobStatus.QUEUED:
            changes["attempt"] = job.attempt + 1
        if to not in TRANSITIONS[job.status]:
            code = f"job_{job.status}"
        elif job.sequence != known.record.sequence or job.id in self.deleted:
            code = "job_moved"
        else:
            known.record = self.processes[process].move(job, to, **changes)
            assert (known.record.status, known.record.sequence) == (to, job.sequence + 1)
            return known.record
        with pytest.raises(Conflict) as refused:
            self.processes[process].move(job, to, **changes)
        assert refused.value.code == code
        return job

    @rule(job=handles, token=st.sampled_from(TOKENS))
    def acquire_lease(self, job: Job, token: str) -> None:
        known = self.known[job.id]
        assert self.live.acquire_lease(job.id, token) is (known.lease in (None, token))
        known.lease = known.lease or token

    @rule(job=handles, token=st.sampled_from(TOKENS))
    def release_lease(self, job: Job, token: str) -> None:
        self.live.release_lease(job.id, token)
        if self.known[job.id].lease == token:
            self.known[job.id].lease = None

    @rule(job=handles)
    def lose_the_worker(self, job: Job) -> None:
        self.redis.delete(f"nextchar:job:{job.id}:lease")  # as if it had expired
        self.known[job.id].lease = None

    @rule(job=handles, request=st.sampled_from(STOPS))
    def request_stop(self, job: Job, request: Any) -> None:
        known = self.known[job.id]
        self.live.request_stop(job.id, request)
        known.stop = min(known.stop or request, request, key=STOPS.index)

    @rule(job=handles, request=st.sampled_from((None, *STOPS)))
    def acknowledge_stop(self, job: Job, request: str | None) -> None:
        self.live.acknowledge_stop(job.id, request)
        if request in (None, self.known[job.id].stop):
            self.known[job.id].stop = None

    @rule(job=handles, text=st.text(max_size=5))
    def say(self, job: Job, text: str) -> None:
        known = self.known[job.id]
        add_message(self.live, self.event_log, job.id, text)
        known.events += 1
        assert self.live.events(job.id)[-1]["data"] == {"text": text}

    @rule()
    def redis_is_emptied(self) -> None:
        self.redis.flushall()
        for known in self.known.values():
            known.lease = known.stop = None

    @rule(job=handles)
    def send(self, job: Job) -> None:
        if self.known[job.id].record == job and job.status is JobStatus.QUEUED:
            self.queue.enqueue(job)

    @rule(token=st.sampled_from(TOKENS))
    def work(self, token: str) -> None:
        """Take the next message as a worker does; it may be old, or of a job that another worker has."""
        message = self.redis.lpop("rq:queue:" + QUEUE_NAME)
        if message is None or (job_id := message.rsplit("-", 1)[0]) in self.deleted:
            return
        known = self.known[job_id]
        if not self.live.acquire_lease(job_id, token):
            assert known.lease not in (None, token)
            return
        known.lease = token
        job = self.processes[1].get(job_id)
        assert job == known.record
        if job.status is JobStatus.QUEUED:
            known.record = self.processes[1].move(job, JobStatus.RUNNING, attempt=job.attempt + 1)

    @rule()
    def reconcile(self) -> None:
        waiting = self.queue.waiting()
        for job_id, known in self.known.items():
            if job_id not in self.deleted and job_id not in waiting and not known.lease:
                self._repair(known)
        Reconciler(self.processes[0], self.live, self.queue, patience_s=0.0).run()
        for job_id, known in self.known.items():
            if job_id not in self.deleted:
                record = self.processes[1].get(job_id)
                assert (record.status, record.sequence) == (known.record.status, known.record.sequence)
                known.record = record
                if record.status is JobStatus.QUEUED:
                    assert known.lease or job_id in self.queue.waiting(), "a job that no worker would get"

    def _repair(self, known: Known) -> None:
        """Note what the reconciler makes of a job without a message and without a worker."""
        job = known.record
        if job.status not in (JobStatus.QUEUED, JobStatus.RUNNING):
            return
        to: JobStatus | None = None
        if known.stop in ("cancel", "pause"):
            to = JobStatus.CANCELLED if known.stop == "cancel" else JobStatus.PAUSED
            known.stop = None
        elif job.status is JobStatus.RUNNING:
            to = JobStatus.PAUSED if known.losses + 1 >= MAX_STEPLESS_ATTEMPTS else JobStatus.QUEUED
            if to is JobStatus.PAUSED:
                known.events += 1
            else:
                known.losses += 1
        if to:
            known.record = job.model_copy(update={"status": to, "sequence": job.sequence + 1})

    @rule(job=handles)
    def forget_old_records(self, job: Job) -> None:
        if job.id not in self.deleted:
            self.processes[0].delete_old_transitions(self.known[job.id].record)

    @rule(job=handles)
    def delete(self, job: Job) -> None:
        """Delete an ended job as the retention sweep does, by what it read of it."""
        known = self.known[job.id]
        if job.status.is_final and job.id not in self.deleted:
            self.processes[0].delete(job)
            if job.sequence == known.record.sequence:
                self.deleted.add(job.id)

    @invariant()
    def every_process_lists_the_same_jobs(self) -> None:
        expected = {i: known.record for i, known in self.known.items() if i not in self.deleted}
        for process in self.processes:
            assert {job.id: job for job in process.all()} == expected
            assert {j.id for j in process.unfinished()} == {
                i for i, job in expected.items() if not job.status.is_final
            }

    @invariant()
    def what_is_live_is_as_it_was_left(self) -> None:
        for job_id, known in self.known.items():
            assert self.live.has_lease(job_id) is (known.lease is not None)
            assert self.live.pending_stop(job_id) == known.stop
            events = [event["id"] for event in self.event_log.read(job_id)]
            assert events == list(range(1, known.events + 1))
            live = [event["id"] for event in self.live.events(job_id)]
            assert live == events[len(events) - len(live) :]


def test_jobs_are_as_a_plain_model_of_them_says(clean_redis_url: str) -> None:
    run(lambda: JobMachine(clean_redis_url))
